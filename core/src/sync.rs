//! The one place that names std or loom, so that loom runs the very code that ships.

#[cfg(not(loom))]
mod native {
    pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    /// Orders a SeqCst commit before the SeqCst load that follows it. Both being SeqCst, the language
    /// orders them already: nothing to do.
    #[inline(always)]
    pub(crate) fn order_commit_before_load() {}
}

#[cfg(loom)]
mod model {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    pub(crate) use loom::sync::{Mutex, MutexGuard};

    /// loom treats SeqCst accesses as AcqRel; the fence gives back what the language promises.
    pub(crate) fn order_commit_before_load() {
        fence(Ordering::SeqCst);
    }
}

#[cfg(loom)]
pub(crate) use model::*;
#[cfg(not(loom))]
pub(crate) use native::*;

//! The one place that names std or loom, so that loom runs the very code that ships.

#[cfg(not(loom))]
mod native {
    #[cfg(kill_points)]
    pub use crate::kill_points::kill_point;
    #[cfg(kill_points)]
    pub(crate) use crate::kill_points::{AtomicU32, AtomicU64};
    use core::sync::atomic::compiler_fence;
    #[cfg(not(kill_points))]
    pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};
    pub(crate) use core::sync::atomic::{Ordering, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    /// Where the kill tests kill, in a build for them: see `kill_points.rs`.
    #[cfg(not(kill_points))]
    #[inline(always)]
    pub fn kill_point(_: &'static str) {}

    /// Orders a SeqCst commit before the SeqCst load that follows it. Both being SeqCst, the
    /// language orders them already: nothing to do.
    #[inline(always)]
    pub(crate) fn order_commit_before_load() {}

    /// Keeps a store before the load that follows it, for the compiler; for the processor the
    /// waiter's `membarrier` does, which is a full barrier in every running thread.
    #[inline(always)]
    pub(crate) fn order_store_before_load() {
        compiler_fence(Ordering::SeqCst);
    }
}

#[cfg(loom)]
#[allow(unreachable_pub, reason = "of two atomics made alike, models name one")]
mod model {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    pub(crate) use loom::sync::atomic::{Ordering, fence};
    pub(crate) use loom::sync::{Mutex, MutexGuard};

    /// loom treats SeqCst accesses as AcqRel; the fence gives back what the language promises.
    pub(crate) fn order_commit_before_load() {
        fence(Ordering::SeqCst);
    }

    /// loom has no `membarrier`: the fence that it stands for.
    pub(crate) fn order_store_before_load() {
        fence(Ordering::SeqCst);
    }

    loom::thread_local! {
        /// How many more accesses this thread lives to do; without end if `None`.
        static LEFT: std::cell::Cell<Option<usize>> = std::cell::Cell::new(None);
    }

    /// A thread that stopped for ever, as by SIGKILL or SIGSTOP.
    #[derive(Debug, PartialEq, Eq)]
    pub struct Stopped;

    /// Runs `operation` for `accesses` accesses to shared words, and stops the thread for ever at
    /// the next. Nothing it would have done after is done.
    ///
    /// # Errors
    /// [`Stopped`] if it did not come to its end.
    pub fn stop_after<R>(accesses: usize, operation: impl FnOnce() -> R) -> Result<R, Stopped> {
        LEFT.with(|left| left.set(Some(accesses)));
        let end = catch_unwind(AssertUnwindSafe(operation));
        LEFT.with(|left| left.set(None));
        end.map_err(|payload| *payload.downcast::<Stopped>().unwrap_or_else(|it| resume_unwind(it)))
    }

    fn access() {
        LEFT.with(|left| match left.get() {
            Some(0) => resume_unwind(Box::new(Stopped)),
            Some(more) => left.set(Some(more - 1)),
            None => {}
        });
    }

    macro_rules! counted {
        ($name:ident, $word:ty) => {
            /// loom's atomic, each access of which may be a thread's last.
            #[derive(Debug)]
            pub struct $name(loom::sync::atomic::$name);

            impl $name {
                #[track_caller]
                pub(crate) fn new(word: $word) -> Self {
                    Self(loom::sync::atomic::$name::new(word))
                }

                /// As the standard library's.
                #[track_caller]
                pub fn load(&self, order: Ordering) -> $word {
                    access();
                    self.0.load(order)
                }

                #[track_caller]
                pub(crate) fn store(&self, word: $word, order: Ordering) {
                    access();
                    self.0.store(word, order);
                }

                #[track_caller]
                pub(crate) fn compare_exchange(
                    &self,
                    current: $word,
                    new: $word,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$word, $word> {
                    access();
                    self.0.compare_exchange(current, new, success, failure)
                }

                #[track_caller]
                pub(crate) fn fetch_add(&self, more: $word, order: Ordering) -> $word {
                    access();
                    self.0.fetch_add(more, order)
                }

                #[track_caller]
                pub(crate) fn fetch_or(&self, bits: $word, order: Ordering) -> $word {
                    access();
                    self.0.fetch_or(bits, order)
                }
            }
        };
    }

    counted!(AtomicU32, u32);
    counted!(AtomicU64, u64);
}

#[cfg(loom)]
pub use model::{AtomicU32, Stopped, stop_after};
#[cfg(loom)]
pub(crate) use model::{
    AtomicU64, Mutex, MutexGuard, Ordering, fence, order_commit_before_load,
    order_store_before_load,
};
#[cfg(not(loom))]
pub use native::kill_point;
#[cfg(not(loom))]
pub(crate) use native::*;

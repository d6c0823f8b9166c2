//! One handle for many tasks.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::reactor::lock;

/// A sender or receiver that any number of tasks and threads of this process use together: one
/// record of the queue, one kernel wait, however many wait.
///
/// Clones are the same handle. Each operation takes a short lock, which is never held while
/// waiting.
///
/// A forked child must leave it alone: as every inherited handle it is of no use there, and if another
/// thread of the parent was in an operation at the fork, the lock stays taken for ever.
#[derive(Debug)]
pub struct Shared<H>(Arc<Mutex<H>>);

impl<H> Shared<H> {
    /// Shares a handle; the same as `handle.share()`.
    pub fn new(handle: H) -> Self {
        Self(Arc::new(Mutex::new(handle)))
    }

    /// The handle itself, for calls that do not wait. Others wait for the lock meanwhile: do not
    /// keep it over an await.
    pub fn lock(&self) -> MutexGuard<'_, H> {
        lock(&self.0)
    }
}

impl<H> Clone for Shared<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

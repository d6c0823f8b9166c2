//! The list of the handles of a process that may owe messages. `owed_wait.rs` says what is owed.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// A handle, as other threads of its process use it to return the messages that it owes.
pub(crate) trait Holder: Send + Sync {
    /// Returns the messages that the handle owes, as far as there is room.
    fn return_owed(&self);

    /// Whether the handle owes a message.
    fn owes(&self) -> bool;

    /// The earliest time before which a held-back message does not return.
    fn next_due(&self) -> Option<Instant>;

    /// Whether the handle has a free cell, or an owed message that it can receive again.
    fn has_free_lease(&self) -> bool;

    /// Starts a driver's wait for room on behalf of the handle, if the process has a driver and none
    /// waits for this handle.
    fn drive_owed(self: Arc<Self>);

    /// Whether the driver can stop. It must go on if the handle owes a message that is not held
    /// back.
    fn stop_driving_owed(&self) -> bool;
}

/// The handles of this process that may owe messages of one opened queue.
#[derive(Debug, Default)]
pub(crate) struct OwingHandles {
    /// Whether the list may have a handle. Each wait loads this without the lock.
    any: AtomicBool,
    handles: Mutex<Vec<Weak<dyn Holder>>>,
}

impl OwingHandles {
    /// Adds `handle`, which has begun to owe.
    pub(crate) fn add(&self, handle: &Arc<dyn Holder>) {
        let mut handles = self.lock();
        handles.retain(|it| it.strong_count() > 0);
        if !handles.iter().any(|it| is_of(it, handle)) {
            handles.push(Arc::downgrade(handle));
        }
        self.any.store(true, Relaxed);
    }

    /// Returns the messages that this process owes, as far as there is room. Each wait calls this
    /// before each attempt.
    #[inline]
    pub(crate) fn return_any(&self) {
        if self.is_any() {
            self.return_all();
        }
    }

    /// Whether a handle may owe.
    #[inline]
    fn is_any(&self) -> bool {
        // Relaxed: a hint. The lock orders all that follows from it.
        self.any.load(Relaxed)
    }

    #[cold]
    fn return_all(&self) {
        let handles: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        for handle in &handles {
            handle.return_owed();
        }
        let mut left = self.lock();
        left.retain(|it| {
            match handles.iter().find(|handle| is_of(it, handle)) {
                Some(handle) => handle.owes(),
                // This handle began to owe meanwhile.
                None => it.strong_count() > 0,
            }
        });
        self.any.store(!left.is_empty(), Relaxed);
    }

    /// The earliest time before which a held-back message of this process does not return.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        if !self.is_any() {
            return None;
        }
        let handles: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        handles.iter().filter_map(|handle| handle.next_due()).min()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn Holder>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of(it: &Weak<dyn Holder>, handle: &Arc<dyn Holder>) -> bool {
    core::ptr::addr_eq(it.as_ptr(), Arc::as_ptr(handle))
}

//! The handles of a process that may owe messages: see `owed.rs`.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// A handle, as the rest of its process knows it.
pub(crate) trait Holder: Send + Sync {
    /// Returns what the handle owes, as far as there is room.
    fn return_owed(&self);

    fn owes(&self) -> bool;

    /// When the next message may go that is held back.
    fn next_due(&self) -> Option<Instant>;

    /// Whether a lease could be had, as far as it depends on this handle.
    fn has_free_lease(&self) -> bool;

    /// Has a driver wait for room on behalf of the handle, if there is a driver and none does.
    fn drive_owed(self: Arc<Self>);

    /// Whether the driver is not needed any more.
    fn stop_driving_owed(&self) -> bool;
}

/// The handles of this process that owe, of one opened queue.
#[derive(Debug, Default)]
pub(crate) struct Owing {
    /// Asked without the lock, by each wait.
    any: AtomicBool,
    handles: Mutex<Vec<Weak<dyn Holder>>>,
}

impl Owing {
    /// `handle` has begun to owe.
    pub(crate) fn add(&self, handle: &Arc<dyn Holder>) {
        let mut handles = self.lock();
        handles.retain(|it| it.strong_count() > 0);
        if !handles.iter().any(|it| is_of(it, handle)) {
            handles.push(Arc::downgrade(handle));
        }
        self.any.store(true, Relaxed);
    }

    /// Returns what this process owes, if anything: before each attempt of a wait.
    #[inline]
    pub(crate) fn return_any(&self) {
        if self.is_any() {
            self.return_all();
        }
    }

    /// Whether some handle may owe.
    #[inline]
    fn is_any(&self) -> bool {
        // Relaxed: a hint. The lock orders what is done because of it.
        self.any.load(Relaxed)
    }

    /// Returns what this process owes to the queue, as far as there is room.
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
                // It began to owe meanwhile.
                None => it.strong_count() > 0,
            }
        });
        self.any.store(!left.is_empty(), Relaxed);
    }

    /// When the next message may go back that is held back for a time.
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

//! How another thread unparks one that sleeps in its ring: a futex of this process's own, on which
//! the ring waits beside the gates.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire};
use std::task::Wake;

use rustix::thread::futex::{self, Flags};

use crate::ring::FutexWait;

const AWAKE: u32 = 0;
const NOTIFIED: u32 = 1;
const PARKED: u32 = 2;

/// The notice that the thread should poll again.
#[derive(Debug, Default)]
pub(crate) struct Unpark {
    state: AtomicU32,
}

impl Unpark {
    /// Announces that the thread is about to sleep; `false` when it was notified meanwhile.
    pub(crate) fn park(&self) -> bool {
        self.state.compare_exchange(AWAKE, PARKED, AcqRel, Acquire).is_ok()
    }

    /// The thread is awake: whether it was notified since the last call.
    pub(crate) fn take_notice(&self) -> bool {
        self.state.swap(AWAKE, AcqRel) == NOTIFIED
    }

    /// Whether the thread was notified since it last took notice.
    pub(crate) fn is_notified(&self) -> bool {
        self.state.load(Acquire) == NOTIFIED
    }

    /// Returns when notified while parked.
    pub(crate) fn wait(&self) -> FutexWait<'_> {
        FutexWait { word: &self.state, expected: PARKED }
    }

    /// Sleeps on the plain futex unless notified. May return early.
    pub(crate) fn sleep(&self) {
        if self.park() {
            let _ = futex::wait(&self.state, Flags::empty(), PARKED, None);
        }
        self.take_notice();
    }

    /// Makes the thread poll again, now or when it is about to sleep.
    pub(crate) fn notify(&self) {
        if self.state.swap(NOTIFIED, AcqRel) == PARKED {
            // All: the wait of a ring that is being closed may still be queued at this address.
            let _ = futex::wake(&self.state, Flags::empty(), i32::MAX.cast_unsigned());
        }
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

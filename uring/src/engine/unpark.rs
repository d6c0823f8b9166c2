//! How another thread unparks a thread that sleeps in its ring: a futex word of this process, for which
//! the ring waits beside the gates.
//!
//! | state | meaning | `park`, by the thread | `take_notice`, by the thread | `notify`, by any thread |
//! |---|---|---|---|---|
//! | `AWAKE` | runs | `PARKED`, true: may sleep | `AWAKE`, false | `NOTIFIED` |
//! | `PARKED` | sleeps, or is about to | - | `AWAKE`, false | `NOTIFIED`, and wakes it |
//! | `NOTIFIED` | has to poll again | `NOTIFIED`, false: must not sleep | `AWAKE`, true | `NOTIFIED` |

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire};
use std::task::Wake;

use rustix::thread::futex::{self, Flags};

const AWAKE: u32 = 0;
const NOTIFIED: u32 = 1;
pub(crate) const PARKED: u32 = 2;

/// The notice that the thread has to poll again.
#[derive(Debug, Default)]
pub(crate) struct Unpark {
    state: AtomicU32,
}

impl Unpark {
    /// Announces that the thread is about to sleep; `false` if it was notified meanwhile.
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

    /// The futex word: a wait that expects [`PARKED`] returns when the thread is notified.
    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.state
    }

    /// Sleeps on the plain futex unless notified. May return early.
    pub(crate) fn sleep(&self) {
        if self.park() {
            let _ = futex::wait(&self.state, Flags::empty(), PARKED, None);
        }
        self.take_notice();
    }

    /// Has the thread poll again, now or when it is about to sleep.
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

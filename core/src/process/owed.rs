//! What is owed: messages that came back while the ring was full.
//!
//! Such a message stays in the cell of the handle that received it. It goes back when a thread of
//! this process makes or finds room:
//!
//! * the handle's next receive, which makes room by what it takes; if all cells owe, it receives one
//!   of those messages again;
//! * any wait of this process on the queue, before each of its attempts;
//! * a driver (`parkline-uring`), which waits for room on the handle's behalf;
//! * the end of the handle. What finds no room then is recovered as if the process had died.
//!
//! `nack_after` is the same with a time before which the message does not go.

use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;
use std::time::Instant;

use crate::process::owing::Holder;
use crate::process::side::Side;

/// What a driver does for one handle that owes: see [`on_owed`].
#[derive(Debug)]
pub struct Owed {
    handle: Weak<dyn Holder>,
    until: Until,
}

/// What a driver waits for.
#[derive(Debug)]
pub enum Until {
    /// Room in the ring: at this side.
    Room(Side),
    /// The time at which a message may go that is held back.
    Time(Instant),
}

static DRIVER: OnceLock<fn(Owed) -> Waker> = OnceLock::new();

/// Has `driver` called when a handle begins to owe, on the thread that dropped the lease and with no
/// lock held. The driver calls [`Owed::attempt`] until that answers: at the time that
/// [`Owed::until`] names, or now and after each wake at the side that it names; and when the waker
/// is called that it returned. The first driver of a process stays.
pub fn on_owed(driver: fn(Owed) -> Waker) {
    // A second driver finds the first at work.
    let _ = DRIVER.set(driver);
}

/// Has the driver wait on behalf of `handle`, if there is one: what ends that wait.
pub(super) fn drive(handle: &Arc<dyn Holder>, until: Until) -> Option<Waker> {
    let driver = DRIVER.get()?;
    Some(driver(Owed { handle: Arc::downgrade(handle), until }))
}

pub(super) fn has_driver() -> bool {
    DRIVER.get().is_some()
}

impl Owed {
    /// Returns what has room; an answer when there is nothing left for this driver to do.
    pub fn attempt(&self) -> Option<()> {
        let Some(handle) = self.handle.upgrade() else { return Some(()) };
        handle.return_owed();
        match self.until {
            Until::Room(_) => handle.stop_driving_owed().then_some(()),
            Until::Time(_) => {
                // What had no room waits for it like the rest.
                handle.drive_owed();
                Some(())
            }
        }
    }

    /// What to wait for.
    pub fn until(&self) -> &Until {
        &self.until
    }
}

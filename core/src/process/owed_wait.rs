//! The wait for room on behalf of a handle that owes messages.
//!
//! A message is owed if it came back while the ring was full. It stays in the cell of the handle
//! that received it, and returns to the ring when a thread of this process makes or finds room:
//!
//! * The handle's next receive makes room and returns it. If all cells owe, the receive takes one of
//!   the owed messages again.
//! * Each waiting call of this process on the queue returns it before each attempt
//!   (`owing_handles.rs`).
//! * A driver (`parkline-uring`) waits for room and returns it: the wait of this file.
//! * The end of the handle returns it. If the ring has no room even then, the message is recovered
//!   as if the process had died.
//!
//! A message that `nack_after` holds back is owed too, and does not return before its time.

use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;
use std::time::Instant;

use crate::process::owing_handles::Holder;
use crate::process::side::Side;

/// A driver's wait on behalf of one handle that owes: see [`on_owed`].
#[derive(Debug)]
pub struct OwedWait {
    handle: Weak<dyn Holder>,
    until: Until,
}

/// What a driver waits for.
#[derive(Debug)]
pub enum Until {
    /// Room in the ring, at this side.
    Room(Side),
    /// The time before which a held-back message does not return.
    Time(Instant),
}

static DRIVER: OnceLock<fn(OwedWait) -> Waker> = OnceLock::new();

/// Registers the driver of owed messages. A process keeps the first one.
///
/// Core calls `driver` when a handle begins to owe, on the thread that dropped the lease and with
/// no lock held. The driver then calls [`OwedWait::attempt`] until that answers. If
/// [`OwedWait::until`] names a time, it calls at that time. If `until` names a side, it calls at
/// once and after each wake at that side. It also calls when its returned waker is woken.
pub fn on_owed(driver: fn(OwedWait) -> Waker) {
    // An error says that the process has a driver.
    let _ = DRIVER.set(driver);
}

/// Starts the driver's wait on behalf of `handle`. Returns the waker that ends the wait; `None` if
/// the process has no driver.
pub(super) fn drive(handle: &Arc<dyn Holder>, until: Until) -> Option<Waker> {
    let driver = DRIVER.get()?;
    Some(driver(OwedWait { handle: Arc::downgrade(handle), until }))
}

pub(super) fn has_driver() -> bool {
    DRIVER.get().is_some()
}

impl OwedWait {
    /// Returns owed messages as far as there is room. Answers when this wait is over.
    pub fn attempt(&self) -> Option<()> {
        let Some(handle) = self.handle.upgrade() else { return Some(()) };
        handle.return_owed();
        match self.until {
            Until::Room(_) => handle.stop_driving_owed().then_some(()),
            Until::Time(_) => {
                // If the message found no room, the driver waits for room now.
                handle.drive_owed();
                Some(())
            }
        }
    }

    /// What the driver waits for.
    pub fn until(&self) -> &Until {
        &self.until
    }
}

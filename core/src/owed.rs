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

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::Instant;

use crate::attachment::Attachment;
use crate::segment::Segment;
use crate::side::{Side, WaitsFor};

/// The handles of this process that owe, of one opened queue.
#[derive(Debug, Default)]
pub(crate) struct Owing {
    /// Asked without the lock, by each wait.
    any: AtomicBool,
    handles: Mutex<Vec<Weak<Attachment>>>,
}

/// What a driver does for one handle that owes: see [`on_owed`].
#[derive(Debug)]
pub struct Owed {
    handle: Weak<Attachment>,
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

impl Owed {
    /// Returns what has room; an answer when there is nothing left for this driver to do.
    pub fn attempt(&self) -> Option<()> {
        let Some(handle) = self.handle.upgrade() else { return Some(()) };
        handle.return_owed();
        match self.until {
            Until::Room(_) => handle.stop_driving_owed().then_some(()),
            Until::Time(_) => {
                // What had no room waits for it like the rest.
                handle.segment.owing.drive(&handle);
                Some(())
            }
        }
    }

    /// What to wait for.
    pub fn until(&self) -> &Until {
        &self.until
    }
}

impl Owing {
    /// `handle` owes from now on. A message that is held back goes at `due` at the earliest.
    pub(crate) fn add(&self, handle: &Arc<Attachment>, due: Option<Instant>) {
        {
            let mut handles = self.lock();
            handles.retain(|it| it.strong_count() > 0);
            if !handles.iter().any(|it| core::ptr::eq(it.as_ptr(), Arc::as_ptr(handle))) {
                handles.push(Arc::downgrade(handle));
            }
            self.any.store(true, Relaxed);
        }
        match (due, DRIVER.get()) {
            (None, None) => {}
            (Some(_), None) => handle.shorten_sleeps(),
            (None, Some(_)) => self.drive(handle),
            (Some(due), Some(driver)) => {
                // It ends by itself when the time comes.
                let _ = driver(Owed { handle: Arc::downgrade(handle), until: Until::Time(due) });
            }
        }
    }

    /// Has the driver wait for room for what `handle` owes now, unless it does already.
    fn drive(&self, handle: &Arc<Attachment>) {
        let Some(driver) = DRIVER.get() else { return };
        if handle.owes_now() && handle.begin_driving_owed() {
            let side = Side::new(&handle.segment, WaitsFor::Room).of_record(handle.record());
            let until = Until::Room(side);
            handle.keep_driver(driver(Owed { handle: Arc::downgrade(handle), until }));
        }
    }

    /// Whether some handle may owe.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        // Relaxed: a hint. The lock orders what is done because of it.
        self.any.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Attachment>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Segment {
    /// Returns what this process owes to the queue, as far as there is room.
    #[cold]
    pub(crate) fn return_owed(&self) {
        let handles: Vec<_> = self.owing.lock().iter().filter_map(Weak::upgrade).collect();
        for handle in &handles {
            handle.return_owed();
        }
        let mut left = self.owing.lock();
        left.retain(|it| {
            match handles.iter().find(|handle| core::ptr::eq(it.as_ptr(), Arc::as_ptr(handle))) {
                Some(handle) => handle.owes(),
                // It began to owe meanwhile.
                None => it.strong_count() > 0,
            }
        });
        self.owing.any.store(!left.is_empty(), Relaxed);
    }

    /// When the next message may go back that is held back for a time.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        if !self.owing.is_any() {
            return None;
        }
        let handles: Vec<_> = self.owing.lock().iter().filter_map(Weak::upgrade).collect();
        handles.iter().filter_map(|handle| handle.next_due()).min()
    }
}

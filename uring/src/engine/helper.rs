//! What the fallback waits for: one thread of the process sleeps for all tasks, in `futex_waitv` on their
//! gates.
//!
//! `futex_waitv` can be counted as woken on several words and reports one of them. This thread compares
//! the words, which every wake changes. A wake that it misses comes from the task that was woken, which
//! passes it on if it finds more. Where `futex_waitv` is refused too, the thread compares the words every
//! millisecond.

use std::sync::atomic::{
    AtomicBool, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::ClockId;
use rustix::thread::futex::{self, Flags, Timespec, WaitvFlags};
use rustix::time::clock_gettime;

use crate::engine::futex::{FutexWait, waitv_entry};
use crate::lock::lock;
use crate::waiters::Waiters;

/// What the kernel takes at once (`FUTEX_WAITV_MAX`), less the control word.
const MOST_GATES: usize = 127;
/// How long to sleep where not all words can be waited for.
const COMPARE_EVERY: Duration = Duration::from_millis(1);

/// What the helper thread waits for.
#[derive(Debug, Default)]
pub(crate) struct Helper {
    /// Changes when the thread has to read `armed`, or its timers, again.
    control: AtomicU32,
    armed: Mutex<Vec<FutexWait>>,
    without_waitv: AtomicBool,
}

impl Helper {
    pub(crate) fn arm(&self, wait: FutexWait) {
        lock(&self.armed).push(wait);
        self.interrupt();
    }

    /// Has the thread read what is armed, and the timers, before it sleeps again.
    pub(crate) fn interrupt(&self) {
        self.control.fetch_add(1, Release);
        // Not counted: it wakes no peer.
        let _ = futex::wake(&self.control, Flags::empty(), 1);
    }

    /// To be loaded before the thread reads what it sleeps for: [`sleep`](Self::sleep) returns at once if
    /// it has changed since.
    pub(crate) fn control(&self) -> u32 {
        self.control.load(Acquire)
    }

    /// Takes out the waits that are over, and those of waiters without a task.
    pub(crate) fn take_ended(&self) -> Vec<FutexWait> {
        let is_ended = |it: &mut FutexWait| it.is_over() || it.waiters.queue.is_empty();
        lock(&self.armed).extract_if(.., is_ended).collect()
    }

    /// Sleeps until a gate is woken, and takes out its wait; may return for any other reason.
    pub(crate) fn sleep(&self, control: u32, until: Option<Instant>) -> Option<Arc<Waiters>> {
        let armed = lock(&self.armed).clone();
        let timeout = until.map(|it| it.saturating_duration_since(Instant::now()));
        let soon = || Some(timeout.map_or(COMPARE_EVERY, |it| it.min(COMPARE_EVERY)));
        if self.without_waitv.load(Relaxed) {
            let timeout = if armed.is_empty() { timeout } else { soon() };
            let timeout = timeout.and_then(|it| Timespec::try_from(it).ok());
            let _ = futex::wait(&self.control, Flags::empty(), control, timeout.as_ref());
            return None;
        }
        let timeout = if armed.len() > MOST_GATES { soon() } else { timeout };
        let mut waits = vec![waitv_entry(&self.control, control)];
        for wait in armed.iter().take(MOST_GATES) {
            waits.push(wait.waitv_entry()?);
        }
        let until = timeout.and_then(|it| {
            let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).ok()?;
            Timespec::try_from(now.checked_add(it)?).ok()
        });
        let no_flags = WaitvFlags::empty();
        match futex::waitv(&waits, no_flags, until.as_ref(), ClockId::Monotonic) {
            Ok(index) => {
                let woken = &armed.get(index.checked_sub(1)?)?.waiters;
                lock(&self.armed).retain(|it| !Arc::ptr_eq(&it.waiters, woken));
                Some(Arc::clone(woken))
            }
            Err(Errno::NOSYS | Errno::PERM) => {
                tracing::warn!(
                    "futex_waitv is refused: parkline's helper compares every millisecond"
                );
                self.without_waitv.store(true, Relaxed);
                None
            }
            // A word has changed, a signal came, or the time is over.
            Err(_) => None,
        }
    }
}

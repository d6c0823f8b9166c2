//! The timer of an event loop that has neither io_uring nor a helper thread for its tasks. A timerfd
//! that the loop polls wakes the tasks, and they attempt again.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use parkline_uring::driver::LoopTimer;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::bell::Bell;

#[derive(Debug)]
pub(crate) struct Pauses {
    pub(crate) bell: Bell,
    paused: Mutex<Vec<(Instant, Waker)>>,
}

impl Pauses {
    pub(crate) fn new() -> io::Result<Self> {
        let create = || -> io::Result<OwnedFd> {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            Ok(timerfd_create(TimerfdClockId::Monotonic, flags)?)
        };
        Ok(Self { bell: Bell::of(create)?, paused: Mutex::default() })
    }

    fn paused(&self) -> MutexGuard<'_, Vec<(Instant, Waker)>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the tasks with a pause that is over.
    pub(crate) fn pass(&self) {
        self.bell.answer();
        let now = Instant::now();
        let due: Vec<_> = self.paused().extract_if(.., |(at, _)| *at <= now).collect();
        self.start();
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Has the descriptor become readable when the first pause is over; `false` if the timer cannot be set.
    fn start(&self) -> bool {
        let Some(first) = self.paused().iter().map(|(at, _)| *at).min() else { return true };
        // A time of 0 would stop it.
        let left = first.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let Ok(it_value) = Timespec::try_from(left) else { return false };
        let once = Itimerspec { it_value, it_interval: Timespec { tv_sec: 0, tv_nsec: 0 } };
        self.bell
            .fd()
            .is_some_and(|fd| timerfd_settime(fd, TimerfdTimerFlags::empty(), &once).is_ok())
    }
}

impl LoopTimer for Pauses {
    fn wake_at(&self, at: Instant, waker: &Waker) -> bool {
        self.paused().push((at, waker.clone()));
        self.start()
    }
}

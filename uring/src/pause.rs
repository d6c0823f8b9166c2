//! Where neither a ring nor the helper thread is to be had, a task attempts again after a pause.
//!
//! A timer of the tokio runtime or the event loop around the task wakes it. Elsewhere, and in a runtime
//! without timers, the thread that polls the task sleeps for what is left of the pause, counted from the
//! task's last poll: the pauses of many tasks of a thread pass at the same time.

use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(feature = "tokio")]
use crate::current::is_served_by_its_thread;
use crate::current::{LONGEST_PAUSE, loop_timer};

/// The first pause; each is twice as long as the one before.
const FIRST: Duration = Duration::from_millis(1);

/// The pauses of one task.
#[derive(Debug)]
pub(crate) struct Pause {
    len: Duration,
    until: Instant,
    /// The waker that a timer calls at the end of this one. `None` if the thread sleeps.
    timer: Option<Waker>,
}

impl Pause {
    /// None has begun yet.
    pub(crate) fn new() -> Self {
        Self { len: FIRST / 2, until: Instant::now(), timer: None }
    }

    /// To be called after each attempt without an answer. `Ready` if a pause is over and another attempt
    /// is due; otherwise the task is polled again, when the pause is over or earlier.
    pub(crate) fn poll(&mut self, cx: &Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        match &self.timer {
            _ if left.is_zero() => {
                self.len = LONGEST_PAUSE.min(self.len.saturating_mul(2));
                self.until = Instant::now() + self.len;
                self.until = deadline.map_or(self.until, |deadline| deadline.min(self.until));
                self.begin(cx);
            }
            Some(waker) if waker.will_wake(cx.waker()) => {}
            Some(_) => self.begin(cx),
            None => {
                thread::sleep(left);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    fn begin(&mut self, cx: &Context<'_>) {
        self.timer = has_timer(cx.waker(), self.until).then(|| cx.waker().clone());
        if self.timer.is_none() {
            // The other tasks of the thread are polled first.
            cx.waker().wake_by_ref();
        }
    }
}

fn has_timer(waker: &Waker, until: Instant) -> bool {
    if let Some(timer) = loop_timer() {
        return timer.wake_at(until, waker);
    }
    #[cfg(feature = "tokio")]
    // That runtime has the thread again when the call that it is in returns.
    if !is_served_by_its_thread() && crate::tokio::wake_at(waker, until) {
        return true;
    }
    false
}

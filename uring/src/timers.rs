//! The deadlines of waiting tasks, and the next round of the watchdog.

use std::collections::BTreeMap;
use std::fmt;
use std::task::Waker;
use std::time::Instant;

/// The timer of an event loop without a ring, for bindings: of use where the helper thread is not to be
/// had either.
pub trait LoopTimer: fmt::Debug + Send + Sync {
    /// Has `waker` called at `at`; `false` if there is no timer, and the thread must sleep.
    fn wake_at(&self, at: Instant, waker: &Waker) -> bool;
}

/// When to wake which task.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    tasks: BTreeMap<(Instant, Timer), Waker>,
    last: Timer,
    /// When the watchdog's next round is due. `None` while no task waits.
    pub(crate) watchdog: Option<Instant>,
}

/// One of the deadlines at one instant: to be removed when it is not needed any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timer(u64);

impl Timers {
    pub(crate) fn add(&mut self, at: Instant, waker: Waker) -> Timer {
        self.last.0 += 1;
        self.tasks.insert((at, self.last), waker);
        self.last
    }

    /// The waker that was to be called; to be dropped where no lock is held.
    pub(crate) fn remove(&mut self, at: Instant, timer: Timer) -> Option<Waker> {
        self.tasks.remove(&(at, timer))
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Option<Instant> {
        let task = self.tasks.first_key_value().map(|((at, _), _)| *at);
        [task, self.watchdog].into_iter().flatten().min()
    }

    /// The tasks to wake now.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(first) = self.tasks.first_entry().filter(|first| first.key().0 <= now) {
            due.push(first.remove());
        }
        due
    }

    /// Whether any task has a deadline here.
    pub(crate) fn has_tasks(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// All tasks that a deadline would have woken.
    pub(crate) fn take_all(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.tasks).into_values().collect()
    }
}

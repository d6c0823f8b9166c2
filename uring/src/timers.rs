//! The deadlines of waiting tasks, and the next look of the watchdog.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Instant;

/// When to wake whom.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    tasks: BTreeMap<(Instant, Timer), Waker>,
    last: Timer,
    /// When the watchdog looks next; it does not while nobody waits.
    pub(crate) watchdog: Option<Instant>,
}

/// Which of the deadlines at one instant, to be removed when it is not needed any more.
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

    /// Whom to wake now.
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

    /// Everybody whom a deadline would have woken.
    pub(crate) fn take_all(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.tasks).into_values().collect()
    }
}

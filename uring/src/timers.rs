//! The deadlines of waiting tasks, and the next look of the watchdog.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Instant;

/// When to wake whom.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    tasks: BTreeMap<(Instant, u64), Waker>,
    last: u64,
    /// When the watchdog looks next; it does not while nobody waits.
    pub(crate) watchdog: Option<Instant>,
}

/// A deadline in [`Timers`], to be removed when it is not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timer(Instant, u64);

impl Timers {
    pub(crate) fn add(&mut self, at: Instant, waker: Waker) -> Timer {
        self.last += 1;
        self.tasks.insert((at, self.last), waker);
        Timer(at, self.last)
    }

    /// The waker that was to be called; to be dropped where no lock is held.
    pub(crate) fn remove(&mut self, Timer(at, n): Timer) -> Option<Waker> {
        self.tasks.remove(&(at, n))
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

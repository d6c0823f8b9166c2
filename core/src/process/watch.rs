//! When a process searches for the dead next.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crate::sync::Ordering::Relaxed;
use crate::wait::news::News;

/// After news of a death: when to look once more, should the kernel not be done with the dead.
pub(super) const SECOND_LOOK: Duration = Duration::from_millis(1);
/// How many times its own length a process rests after a look that came to no end.
const REST: u32 = 19;

/// When this process looks for the dead next.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(super) begun: Instant,
    /// Nanoseconds from `begun` to the next look; written under the lock.
    pub(super) next: AtomicU64,
    /// Some peer has died: look now. And who looks.
    pub(super) news: News,
    /// Messages wait for room to go back: look whenever there may be some.
    pub(super) is_owed: AtomicBool,
    /// How many records no look has reached since the last news. Written under the lock.
    pub(super) unseen: AtomicU32,
    /// Nanoseconds from `begun` until which no look is due, after a long one.
    pub(super) rest: AtomicU64,
    /// The record with which the next look begins.
    pub(super) cursor: AtomicU32,
}

impl Watch {
    pub(super) fn begin(period: Duration) -> Self {
        let (news, is_owed) = (News::new(), AtomicBool::new(false));
        let next = AtomicU64::new(nanos(period));
        let (rest, cursor) = (AtomicU64::new(0), AtomicU32::new(0));
        let (unseen, begun) = (AtomicU32::new(0), Instant::now());
        Self { begun, next, news, is_owed, unseen, rest, cursor }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_asked = self.is_urgent() || self.is_owed.load(Relaxed);
        (is_asked || self.since_begun(now) >= self.next.load(Relaxed)) && !self.is_resting(now)
    }

    /// Whether the next look is not to wait for the watchdog's period.
    pub(super) fn is_urgent(&self) -> bool {
        self.news.is_any() || self.unseen.load(Relaxed) > 0
    }

    /// In what time to look next, if that is not to wait for the watchdog's period.
    pub(super) fn urgent_in(&self) -> Option<Duration> {
        let rest = self.rest.load(Relaxed).saturating_sub(nanos(self.begun.elapsed()));
        self.is_urgent().then(|| SECOND_LOOK.max(Duration::from_nanos(rest)))
    }

    pub(super) fn is_resting(&self, now: Instant) -> bool {
        self.since_begun(now) < self.rest.load(Relaxed)
    }

    /// After a look from `begin` to now that came to no end.
    pub(super) fn rest(&self, begin: Instant) {
        let until = begin.elapsed().saturating_mul(REST);
        self.rest.store(nanos(self.begun.elapsed().saturating_add(until)), Relaxed);
    }

    pub(super) fn since_begun(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.begun))
    }
}

/// Five centuries are enough.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

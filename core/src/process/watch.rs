//! When a process searches for the dead next.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crate::sync::Ordering::Relaxed;
use crate::wait::news::News;

/// After news of a death: when to look once more, should the kernel not be done with the dead.
pub(super) const SECOND_LOOK: Duration = Duration::from_millis(1);
/// How often a process searches because there is room for what the last search left.
const ROUNDS: u32 = 4;
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

    /// Calls `look`, unless another thread does so now; and again while there is room for what it left.
    pub(super) fn search(&self, now: Instant, mut look: impl FnMut(), has_room: impl Fn() -> bool) {
        for _ in 0..ROUNDS {
            // After a rest, news is still news.
            self.news.look(&mut look, || self.is_resting(now));
            // A wait that made room meanwhile found this search under way, and sleeps: [owed], with the
            // fence of [news].
            if !self.is_owed.load(Relaxed) || !has_room() {
                break;
            }
        }
    }

    /// Has the waits of this process return `waiting` messages, for which there is no room now, when
    /// there may be some. No other process can: the records of these messages have no owner.
    pub(super) fn owe(&self, waiting: usize) {
        if waiting > 0 {
            self.is_owed.store(true, Relaxed);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Fails if one of the reasons is overlooked, if a watch without a reason is due, or if what is owed
    /// alone is urgent (each seen failing).
    #[test]
    fn a_search_is_due_for_news_for_what_is_unseen_and_for_what_is_owed() {
        let is_due = |watch: &Watch| watch.is_due(Instant::now());
        let watch = Watch::begin(HOUR);
        assert!(!is_due(&watch) && !watch.is_urgent() && watch.urgent_in().is_none());
        watch.news.bring();
        assert!(is_due(&watch) && watch.urgent_in().is_some());
        assert!(watch.news.take() && !is_due(&watch) && !watch.is_urgent());
        watch.unseen.store(1, Relaxed);
        assert!(is_due(&watch) && watch.urgent_in().is_some());
        watch.unseen.store(0, Relaxed);
        watch.is_owed.store(true, Relaxed);
        assert!(is_due(&watch) && !watch.is_urgent());
        let watch = Watch::begin(Duration::ZERO);
        assert!(is_due(&watch) && !watch.is_urgent());
    }

    /// Fails if a process that rests is asked to search (seen failing), or told to do so before the rest
    /// is over (seen failing).
    #[test]
    fn no_search_is_due_while_the_process_rests() {
        let watch = Watch::begin(Duration::ZERO);
        watch.news.bring();
        watch.rest(Instant::now().checked_sub(HOUR).unwrap());
        let now = Instant::now();
        assert!(watch.is_resting(now) && !watch.is_due(now) && watch.is_urgent());
        assert!(watch.urgent_in().unwrap() > HOUR);
        assert!(watch.is_due(now + HOUR * 20));
    }
}

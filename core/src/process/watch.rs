//! When a process searches for dead handles next.
//!
//! A search is due if one of these asks for it, and the process does not rest:
//!
//! | field | set | cleared | the search |
//! |---|---|---|---|
//! | `next` | by each search: to a watchdog's period after its begin, or [`SECOND_SEARCH`] after news | never: the time comes | due |
//! | `news` | when a peer has died | by the search that begins | due and urgent: no waiting call sleeps until the watchdog's period is over |
//! | `unseen` | by a search for news that did not reach all records | by the searches that reach the rest | due and urgent |
//! | `has_leftovers` | when messages without an owner find no room | by the search that begins; set again if some are left | due, but not urgent: no sleep is shortened, because a wake for room ends it |
//! | `rest` | after a long search, or one that did not reach all records | never: the time comes | not due until then, for none of the reasons above |

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crate::sync::Ordering::Relaxed;
use crate::wait::news::News;

/// After news of a death, the time until the second search. The kernel may not have released all
/// locks of the dead process by the first.
pub(super) const SECOND_SEARCH: Duration = Duration::from_millis(1);
/// How many searches in a row one call makes because the ring has room for leftovers.
const ROUNDS: u32 = 4;
/// How many times as long as a long search the process rests after it.
const REST: u32 = 19;

/// When this process searches for dead handles next: see the table above.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(super) begun: Instant,
    /// Nanoseconds from `begun` to the next search. Written by the thread that searches.
    pub(super) next: AtomicU64,
    /// Whether a peer has died, and the lock of the thread that searches.
    pub(super) news: News,
    /// Whether messages without an owner wait for room in the ring.
    pub(super) has_leftovers: AtomicBool,
    /// How many records no search has reached since the last news. Written by the thread that
    /// searches.
    pub(super) unseen: AtomicU32,
    /// Nanoseconds from `begun` to the end of the rest.
    pub(super) rest: AtomicU64,
    /// The record with which the next search begins.
    pub(super) cursor: AtomicU32,
}

impl Watch {
    pub(super) fn begin(period: Duration) -> Self {
        let (news, has_leftovers) = (News::new(), AtomicBool::new(false));
        let next = AtomicU64::new(nanos(period));
        let (rest, cursor) = (AtomicU64::new(0), AtomicU32::new(0));
        let (unseen, begun) = (AtomicU32::new(0), Instant::now());
        Self { begun, next, news, has_leftovers, unseen, rest, cursor }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_asked = self.is_urgent() || self.has_leftovers.load(Relaxed);
        (is_asked || self.since_begun(now) >= self.next.load(Relaxed)) && !self.is_resting(now)
    }

    /// Calls `search`, unless another thread does so now; and again while the ring has room for
    /// leftovers.
    pub(super) fn search(
        &self,
        now: Instant,
        mut search: impl FnMut(),
        has_room: impl Fn() -> bool,
    ) {
        for _ in 0..ROUNDS {
            // News that comes in a rest stays until the rest is over.
            self.news.search(&mut search, || self.is_resting(now));
            // A waiting call that made room meanwhile found this search under way, and sleeps:
            // [owed], with the fence of [news].
            if !self.has_leftovers.load(Relaxed) || !has_room() {
                break;
            }
        }
    }

    /// Notes `count` messages that have no owner and find no room in the ring now. The waiting
    /// calls of this process return them when there is room. No handle does, because the records of
    /// these messages have no owner.
    pub(super) fn add_leftovers(&self, count: usize) {
        if count > 0 {
            self.has_leftovers.store(true, Relaxed);
        }
    }

    /// Whether a search has to be made before the watchdog's period is over.
    pub(super) fn is_urgent(&self) -> bool {
        self.news.is_any() || self.unseen.load(Relaxed) > 0
    }

    /// After what time to search, if a search is urgent.
    pub(super) fn urgent_in(&self) -> Option<Duration> {
        let rest = self.rest.load(Relaxed).saturating_sub(nanos(self.begun.elapsed()));
        self.is_urgent().then(|| SECOND_SEARCH.max(Duration::from_nanos(rest)))
    }

    pub(super) fn is_resting(&self, now: Instant) -> bool {
        self.since_begun(now) < self.rest.load(Relaxed)
    }

    /// Begins a rest after a search that ran from `begin` to now.
    pub(super) fn rest(&self, begin: Instant) {
        let until = begin.elapsed().saturating_mul(REST);
        self.rest.store(nanos(self.begun.elapsed().saturating_add(until)), Relaxed);
    }

    pub(super) fn since_begun(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.begun))
    }
}

/// The nanoseconds of `time`, at most 584 years.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Fails if one of the reasons is ignored, if a watch without a reason is due, or if leftovers
    /// alone are urgent (each seen failing).
    #[test]
    fn a_search_is_due_for_news_for_unseen_records_and_for_leftovers() {
        let is_due = |watch: &Watch| watch.is_due(Instant::now());
        let watch = Watch::begin(HOUR);
        assert!(!is_due(&watch) && !watch.is_urgent() && watch.urgent_in().is_none());
        watch.news.bring();
        assert!(is_due(&watch) && watch.urgent_in().is_some());
        assert!(watch.news.take() && !is_due(&watch) && !watch.is_urgent());
        watch.unseen.store(1, Relaxed);
        assert!(is_due(&watch) && watch.urgent_in().is_some());
        watch.unseen.store(0, Relaxed);
        watch.has_leftovers.store(true, Relaxed);
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

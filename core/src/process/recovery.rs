//! Recovery: the records of dead handles are audited, and the messages that they held go back into
//! the ring.
//!
//! Only the kernel says whether a handle is dead: then the lock of its record is free. An auditor
//! takes that lock and acts as the dead handle. If the auditor dies midway, the same record has one
//! more dead owner. Time decides nothing: a stopped process keeps its locks and its blocks.
//!
//! Three callers search. A new handle recovers the record that it claims. A thread or task that
//! waits searches once a watchdog's period, and when it learns that a peer has died. A program
//! calls [`Queue::recover`](crate::Queue::recover). A search needs an open file description of its
//! own. `locks.rs` has one for processes that can open none.
//!
//! **What a search costs.** It reads all records and their cells. It asks the kernel about the
//! owner of each dirty record, also of those with a living owner. The creator chooses the number of
//! records, and any peer can prolong the kernel's answers (`locks.rs`). So a search has a
//! [`Budget`]. It ends when the budget is used up, and the next search begins where it ended. After
//! a search that did not reach all records, the process rests for many times the search's length,
//! so that a waiting process spends at most 5 % of its time on searches. If there are too many records
//! for one search, records that name a process which does not exist come first.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [arrival] | a new handle's pid, then arrivals | `Side::arrivals`, then `Side::peers` | a thread that sees the new number of arrivals sees the pids of those handles |

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::error::{AttachError, Corrupt};
use crate::process::gone::Gone;
use crate::process::locks::Owner;
use crate::process::segment::{AuditLocks, Segment};
use crate::process::side::wake_all_waiters;
use crate::process::watch::{SECOND_SEARCH, nanos};
use crate::ring::control::Record;
use crate::ring::port::Port;
use crate::ring::slots::Ring;
use crate::sync::Ordering::Relaxed;

/// The limits of one search. It ends after the record at which a limit is reached: the excess is at
/// most one system call and 1024 returns.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// Lock calls.
    calls: u32,
    /// Words of records and cells to read.
    words: usize,
    time: Duration,
}

/// The budget of a search by a thread or task that waits, or that meets the end of a closed queue.
const BRIEF: Budget = Budget { calls: 256, words: 1 << 18, time: Duration::from_millis(1) };
/// The budget of [`Queue::recover`](crate::Queue::recover).
const ASKED: Budget =
    Budget { calls: u32::MAX, words: usize::MAX, time: Duration::from_millis(20) };

/// A search goes by hints if it finds more dirty records than this.
const MANY: usize = 32;
/// Messages that an auditor returns before it goes on to the next record. About 300 us.
const RETURNS: usize = 1024;
/// How many pids one search checks for existence. About 50 us.
const HINTS: usize = 256;
/// A search that took longer is followed by a rest, even if it reached all records.
const LONG: Duration = Duration::from_millis(10);

/// What a search for dead handles found and did.
///
/// ```
/// use parkline_core::{Queue, Recovered};
///
/// let queue = Queue::builder().create()?;
/// queue.sender()?.try_send(b"job")?;
/// let mut receiver = queue.receiver()?;
/// let job = receiver.try_lease()?;
/// assert_eq!(queue.recover()?, Recovered::default(), "no process died");
/// assert_eq!(job.read()?, b"job", "a living receiver keeps its message");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Handles of dead processes that had left a message or an unfinished operation, and can be
    /// taken again now. A handle that left neither was free as soon as its process ended.
    pub handles: usize,
    /// Messages that dead handles held and that went back into the queue.
    pub messages: usize,
    /// Messages that dead handles held and for which there is no room now. Each waiting call
    /// returns them before its own attempt, as far as there is room.
    pub waiting: usize,
    /// Handles that this call left for later. Either an auditor, or a handle that comes or
    /// goes, holds the record at the moment. Or the audit must wait for a peer that is in the
    /// middle of the same exchange, or is stopped there.
    pub postponed: usize,
    /// Handles that this call had no time to check. The next call begins with them.
    pub unseen: usize,
}

impl Segment {
    /// Returns owed messages as far as there is room, and searches for dead handles if that is due.
    /// Waiting calls do this before each attempt. However many of them wait, a process searches
    /// once a period.
    pub(crate) fn maintain(&self) {
        self.maintain_at(Instant::now());
    }

    /// As [`maintain`](Self::maintain), for a caller that has read the clock: a few loads if no
    /// search is due.
    #[inline]
    pub(crate) fn maintain_at(&self, now: Instant) {
        self.owing_handles.return_any();
        if self.watch.is_due(now) {
            self.search(now);
        }
    }

    #[cold]
    fn search(&self, now: Instant) {
        let has_room = || self.ring().is_some_and(|ring| ring.has_room());
        self.watch.search(now, || self.search_if_due(now), has_room);
    }

    fn search_if_due(&self, now: Instant) {
        // Another thread may have searched since.
        if !self.watch.is_due(now) {
            return;
        }
        let has_news = self.watch.news.take();
        let period = self.geometry().watchdog();
        let period = if has_news { period.min(SECOND_SEARCH) } else { period };
        let next = now.saturating_duration_since(self.watch.begun).saturating_add(period);
        self.watch.next.store(nanos(next), Relaxed);
        let handles = self.geometry().handles();
        let unseen = if has_news { handles } else { self.watch.unseen.load(Relaxed) };
        // The error is dropped: a later call that returns errors meets the same one.
        let found = self.search_briefly();
        let seen = found.map_or(handles, |it| handles.saturating_sub(it.unseen as u32));
        self.watch.unseen.store(unseen.saturating_sub(seen), Relaxed);
    }

    /// Searches now, because a peer has died. Returns the time after which each waiting call
    /// searches once more.
    pub(crate) fn report_death(&self) -> Duration {
        self.watch.news.bring();
        self.maintain();
        SECOND_SEARCH
    }

    /// After what time a waiting thread or task has to search, if that is sooner than the
    /// watchdog's period: news came while this process rested, or the search that the news asked
    /// for did not reach all records.
    pub(crate) fn urgent_search_in(&self) -> Option<Duration> {
        self.watch.urgent_in()
    }

    /// Recovers all dead handles that left a message or an unfinished operation.
    pub(crate) fn recover(&self) -> Result<Recovered, AttachError> {
        self.recover_within(ASKED)
    }

    /// As [`recover`](Self::recover), for as many handles as a small budget allows.
    pub(crate) fn search_briefly(&self) -> Result<Recovered, AttachError> {
        let begin = Instant::now();
        let found = self.recover_within(BRIEF);
        let reached_all = found.as_ref().is_ok_and(|found| found.unseen == 0);
        // Not the budget's time: now and then the scheduler suspends the thread for a moment.
        if !reached_all || begin.elapsed() > LONG {
            self.watch.rest(begin);
        }
        found
    }

    fn recover_within(&self, budget: Budget) -> Result<Recovered, AttachError> {
        let ring = self.ring().ok_or(AttachError::Forked)?;
        ring.condition.check()?;
        let fd = self.descriptor()?;
        // Before the search, which may leave messages itself.
        let had_leftovers = self.watch.has_leftovers.swap(false, Relaxed);
        let mut search = Search {
            segment: self,
            ring,
            fd,
            locks: None,
            calls: budget.calls,
            begin: Instant::now(),
            time: budget.time,
            found: Recovered::default(),
            corrupt: None,
        };
        let searched = search.run(budget);
        let Search { found, corrupt, .. } = search;
        if searched.is_err() || found.waiting > 0 || had_leftovers && found.unseen > 0 {
            self.watch.has_leftovers.store(true, Relaxed);
        }
        if found.handles > 0 || found.messages > 0 {
            wake_all_waiters(&ring);
        }
        searched?;
        corrupt.map_or(Ok(found), |corrupt| Err(corrupt.into()))
    }
}

/// A search for dead handles that is under way.
struct Search<'a> {
    segment: &'a Segment,
    ring: Ring<'a>,
    fd: BorrowedFd<'a>,
    /// Opened for the first dead handle.
    locks: Option<AuditLocks<'a>>,
    /// How many lock calls are left.
    calls: u32,
    begin: Instant,
    time: Duration,
    found: Recovered,
    corrupt: Option<Corrupt>,
}

#[expect(clippy::arithmetic_side_effects, reason = "numbers of records and of their cells")]
impl Search<'_> {
    /// Examines all records, or as many from the cursor on as the budget allows, but at least one.
    fn run(&mut self, budget: Budget) -> Result<(), AttachError> {
        let (ring, cursor) = (self.ring, &self.segment.watch.cursor);
        let handles = ring.geometry.handles();
        let first = cursor.load(Relaxed) % handles;
        let words_each = size_of::<Record>() / 8 + ring.geometry.cells();
        let most = (budget.words / words_each).clamp(1, handles as usize);
        let ids = (first..handles).chain(0..first).take(most);
        let dirty: Vec<u32> = ids.filter(|id| ring.is_dirty(*id)).collect();
        if dirty.len() > MANY {
            self.examine_by_hints(&dirty)?;
        }
        // At most `handles`.
        let mut seen = most as u32;
        for (n, &id) in dirty.iter().enumerate() {
            self.examine(id)?;
            if self.is_over() && n + 1 < dirty.len() {
                seen = (id + handles - first) % handles + 1;
                break;
            }
        }
        cursor.store((first + seen) % handles, Relaxed);
        self.found.unseen = (handles - seen) as usize;
        Ok(())
    }

    /// Examines the records that name a process which seems to be gone. Uses at most half of the
    /// budget.
    fn examine_by_hints(&mut self, dirty: &[u32]) -> Result<(), AttachError> {
        let mut gone = Gone::of(HINTS);
        let (calls, time) = (self.calls / 2, self.time / 2);
        for &id in dirty {
            let pid = self.ring.records.get(id as usize).and_then(Record::process);
            let Some(pid) = pid.filter(|pid| gone.has(*pid)) else { continue };
            if self.examine(id)? == Some(Owner::Handle) {
                gone.refute(pid);
            }
            if self.calls <= calls || self.begin.elapsed() >= time {
                break;
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.calls == 0 || self.begin.elapsed() >= self.time
    }

    /// Recovers record `id` if it is dirty and its owner is dead; returns the owner.
    fn examine(&mut self, id: u32) -> Result<Option<Owner>, AttachError> {
        // Another auditor may have been quicker.
        if !self.ring.is_dirty(id) {
            return Ok(None);
        }
        self.calls = self.calls.saturating_sub(1);
        match self.segment.owner(self.fd, id) {
            Ok(None) => {}
            // The kernel gave no answer, so the owner counts as alive.
            Err(_) => return Ok(Some(Owner::Handle)),
            Ok(owner) => {
                self.found.postponed += usize::from(owner == Some(Owner::Passing));
                return Ok(owner);
            }
        }
        let audit = match self.locks.take() {
            Some(locks) => locks,
            None => self.segment.audit_locks()?,
        };
        self.calls = self.calls.saturating_sub(2);
        if let Some(locks) = audit.get()
            && locks.take(id).unwrap_or(false)
        {
            // A record that a peer overwrote does not block the others.
            self.corrupt = self.found.add_record(self.ring, id).err().or(self.corrupt);
            // If the release fails, the kernel releases the lock with the description.
            if locks.release(id).is_err() {
                audit.close();
                return Ok(None);
            }
        }
        self.locks = Some(audit);
        Ok(None)
    }
}

impl Recovered {
    /// Recovers record `id`. The caller holds the record's lock.
    #[expect(clippy::arithmetic_side_effects, reason = "counts of records and of their cells")]
    fn add_record(&mut self, ring: Ring<'_>, id: u32) -> Result<(), Corrupt> {
        // Another auditor may have been quicker.
        if !ring.is_dirty(id) {
            return Ok(());
        }
        let Some(port) = Port::take_over(ring, id)? else {
            self.postponed += 1;
            return Ok(());
        };
        let (gone, left) = port.give_back_most(RETURNS);
        self.messages += gone;
        self.waiting += left;
        if left == 0 {
            self.handles += 1;
            port.record().tally.recovered.increment();
            port.record().unname(0);
        }
        Ok(())
    }
}

#[cfg(all(test, not(kill_points)))]
pub(crate) mod tests {
    use crate::Queue;
    use crate::process::locks::calls;
    use crate::ring::frame::Frame;
    use crate::ring::slot::{CellWord, OpWord};

    use super::*;

    /// An operation that no handle begins: an audit settles it at once.
    const OPEN: u64 = 1;
    /// No process has this number.
    const NOBODY: u32 = i32::MAX.cast_unsigned();

    fn queue(handles: usize, leases: usize) -> Queue {
        let queue = Queue::builder().capacity(1).max_message(8).handles(handles).leases(leases);
        queue.watchdog(Duration::from_secs(3600)).lazy_memory().create().unwrap()
    }

    /// Makes record `id` look as if its owner, process `pid`, had died in the midst of an operation.
    fn leave_open(queue: &Queue, id: u32, pid: u32) {
        let record = &queue.segment().ring().unwrap().records[id as usize];
        record.op.store(OPEN, Relaxed);
        record.name(pid);
    }

    /// Makes record `id` look as if its owner had let go of it with a message in each cell of a lease.
    pub(crate) fn leave_messages(queue: &Queue, id: u32) {
        let ring = queue.segment().ring().unwrap();
        for cell in ring.cells_of(id).unwrap().iter().skip(1) {
            let block = CellWord::from_bits(cell.load(Relaxed)).block();
            ring.block(block).unwrap().set_frame(Frame::first(0));
            cell.store(CellWord::held_undated(block).bits(), Relaxed);
        }
    }

    fn is_open(queue: &Queue, id: u32) -> bool {
        let record = &queue.segment().ring().unwrap().records[id as usize];
        record.op.load(Relaxed) != OpWord::IDLE.bits()
    }

    /// How many lock calls a search made, and what it found.
    fn search_briefly(queue: &Queue) -> (u32, Recovered) {
        let (found, made) = calls::of(|| queue.segment().search_briefly().unwrap());
        (made, found)
    }

    /// Each record takes three calls.
    ///
    /// Fails if a search goes on when its calls are used up (seen failing: 3,000 calls), or if it does
    /// not say how many records it left (seen failing).
    #[test]
    fn a_search_makes_as_many_lock_calls_as_it_may_and_the_next_goes_on_there() {
        let queue = queue(1000, 0);
        (0..1000).for_each(|id| leave_open(&queue, id, 0));
        let mut recovered = 0;
        for search in 1.. {
            let (made, found) = search_briefly(&queue);
            assert!((1..=BRIEF.calls + 2).contains(&made), "{made} calls in search {search}");
            recovered += found.handles;
            assert_eq!(found.unseen == 0, recovered == 1000, "{found:?}");
            if recovered == 1000 {
                break;
            }
            assert!(search < 1000);
        }
        assert!((0..1000).all(|id| !is_open(&queue, id)));
    }

    /// Fails if a search goes by the order of the records alone, or if each search begins with the same
    /// record: then none reaches the last one (each seen failing).
    #[test]
    fn the_dead_are_first_if_there_are_too_many_records_for_one_search() {
        let queue = queue(1000, 0);
        let mut living: Vec<_> = (0..1000).map(|_| queue.sender().unwrap()).collect();
        drop(living.pop());
        (0..999).for_each(|id| leave_open(&queue, id, std::process::id()));
        leave_open(&queue, 999, NOBODY);
        let (made, found) = search_briefly(&queue);
        assert_eq!((found.handles, is_open(&queue, 999)), (1, false), "{made} calls, {found:?}");
        // All are of processes in another pid namespace.
        (0..1000).for_each(|id| leave_open(&queue, id, NOBODY - id));
        let searches = (1..1000).find(|_| search_briefly(&queue).1.handles > 0);
        assert!(searches.is_some(), "no search reaches it");
    }

    /// Fails if leftovers are forgotten with the records that a search has no calls for (seen
    /// failing).
    #[test]
    fn leftovers_are_remembered_until_all_records_were_searched() {
        let queue = queue(1000, 0);
        (0..1000).for_each(|id| leave_open(&queue, id, 0));
        queue.segment().watch.add_leftovers(1);
        assert!(search_briefly(&queue).1.unseen > 0);
        assert!(queue.segment().watch.has_leftovers.load(Relaxed));
        while search_briefly(&queue).1.unseen > 0 {}
        search_briefly(&queue);
        assert!(!queue.segment().watch.has_leftovers.load(Relaxed));
    }

    /// The search waits for the lock that keeps this process from forking, to open a description.
    ///
    /// Fails if a search clears the mark of leftovers at its end (seen failing): it would forget those
    /// that came meanwhile.
    #[test]
    fn leftovers_since_a_search_began_are_remembered() {
        let queue = queue(1, 0);
        leave_open(&queue, 0, 0);
        let has_leftovers = &queue.segment().watch.has_leftovers;
        queue.segment().watch.add_leftovers(1);
        std::thread::scope(|scope| {
            let forks = crate::process::fork::hold_forks();
            scope.spawn(|| search_briefly(&queue));
            let begun = Instant::now();
            while has_leftovers.load(Relaxed) && begun.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
            let has_begun = !has_leftovers.load(Relaxed);
            queue.segment().watch.add_leftovers(1);
            drop(forks);
            assert!(has_begun);
        });
        assert!(!is_open(&queue, 0) && has_leftovers.load(Relaxed));
    }

    /// A creator's shape: 16,384 records without an owner, each with 58 messages, and a full ring.
    ///
    /// Fails if a search goes on when its time is over (seen failing: 0.3 s a search).
    #[test]
    fn a_search_takes_little_time_whatever_the_creator_wrote() {
        let queue = queue(1 << 14, 58);
        queue.sender().unwrap().try_send(b"full").unwrap();
        (0..1 << 14).for_each(|id| leave_messages(&queue, id));
        let mut times: Vec<_> = (0..20)
            .map(|_| {
                let begin = Instant::now();
                let (_, found) = search_briefly(&queue);
                assert!(found.unseen > 0 && found.waiting > 0, "{found:?}");
                begin.elapsed()
            })
            .collect();
        // One of them may have waited for the processor.
        times.sort();
        let median = times[10];
        assert!(median < Duration::from_millis(100), "{median:?}");
        let begin = Instant::now();
        queue.recover().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }

    /// A million words, none of which says that there is something to do.
    ///
    /// Fails if a search reads on when its words are used up (seen failing).
    #[test]
    fn a_search_reads_as_many_words_as_it_may() {
        let queue = queue(1 << 14, 58);
        for _ in 0..2 {
            let unseen = search_briefly(&queue).1.unseen;
            assert!((12_000..14_000).contains(&unseen), "a fifth of them: {unseen}");
        }
        assert_eq!(queue.recover().unwrap().unseen, 0);
    }

    /// Fails if a search tries to return each message although the first finds no room (seen failing: it
    /// finds that the second is no message).
    #[test]
    fn messages_without_room_are_not_tried_one_by_one() {
        let queue = queue(1, 2);
        queue.sender().unwrap().try_send(b"full").unwrap();
        leave_messages(&queue, 0);
        let ring = queue.segment().ring().unwrap();
        let second = CellWord::from_bits(ring.cells_of(0).unwrap()[2].load(Relaxed)).block();
        ring.block(second).unwrap().set_frame(Frame::first(9));
        assert_eq!(search_briefly(&queue).1.waiting, 2);
    }

    /// Fails if a search returns all messages of a record, however many they are (seen failing).
    #[test]
    fn a_search_returns_as_many_messages_of_a_record_as_it_may() {
        let queue = Queue::builder().capacity(1 << 14).max_message(8).handles(1).leases(3000);
        let queue = queue.create().unwrap();
        leave_messages(&queue, 0);
        let found = search_briefly(&queue).1;
        assert_eq!((found.messages, found.waiting), (RETURNS, 3000 - RETURNS));
        while search_briefly(&queue).1.waiting > 0 {}
        assert_eq!(queue.len(), 3000);
    }

    /// Fails if a waiting process searches again and again although no search reaches all records (seen
    /// failing), or if the search itself waits for the end of the rest (seen failing: for ever).
    #[test]
    fn a_process_rests_after_a_search_that_did_not_reach_all_records() {
        let queue = queue(1000, 0);
        (0..1000).for_each(|id| leave_open(&queue, id, 0));
        let segment = queue.segment();
        segment.report_death();
        assert!(is_open(&queue, 999) && !is_open(&queue, 0));
        assert!(segment.watch.rest.load(Relaxed) > 0);
        let cursor = segment.watch.cursor.load(Relaxed);
        segment.watch.rest.store(u64::MAX, Relaxed);
        segment.report_death();
        segment.search(Instant::now());
        assert_eq!(segment.watch.cursor.load(Relaxed), cursor, "it rests");
        segment.watch.rest.store(0, Relaxed);
        segment.maintain();
        assert_ne!(segment.watch.cursor.load(Relaxed), cursor, "the news was kept");
    }

    /// The search waits for the lock that keeps this process from forking, to open a description.
    ///
    /// Fails if no rest follows a long search that reached all records (seen failing).
    #[test]
    fn a_process_rests_after_a_search_that_took_long() {
        let queue = queue(1, 0);
        let (segment, watch) = (queue.segment(), &queue.segment().watch);
        // A thread may be stopped before its search begins, so that the search is short.
        let rests = (0..100).any(|_| {
            leave_open(&queue, 0, 0);
            let next = watch.next.load(Relaxed);
            std::thread::scope(|scope| {
                let forks = crate::process::fork::hold_forks();
                scope.spawn(|| segment.report_death());
                while watch.next.load(Relaxed) == next {
                    std::thread::yield_now();
                }
                let begun = Instant::now();
                while begun.elapsed() < 2 * LONG {
                    std::thread::yield_now();
                }
                drop(forks);
            });
            assert!(!is_open(&queue, 0), "it reached all records");
            watch.rest.load(Relaxed) > 0
        });
        assert!(rests);
    }

    /// Fails if news is forgotten while another thread has the lock (seen failing). The model in
    /// `loom-tests/tests/news.rs` holds that the thread which has the lock searches again.
    #[test]
    fn news_of_a_death_waits_for_a_search_under_way() {
        let queue = Queue::builder().create().unwrap();
        let segment = queue.segment();
        let begun = segment.watch.next.load(Relaxed);
        {
            let _searching = segment.watch.news.keep_searching();
            segment.report_death();
        }
        segment.maintain();
        assert!(!segment.watch.news.is_any(), "searched");
        assert!(segment.watch.next.load(Relaxed) < begun, "and searches once more, soon");
    }

    /// Fails if a waiter rests for the watchdog's period while news waits for the end of a rest (seen
    /// failing).
    #[test]
    fn news_that_comes_in_a_rest_is_searched_for_when_the_rest_is_over() {
        let queue = Queue::builder().watchdog(Duration::from_secs(3600)).create().unwrap();
        let (segment, side) = (queue.segment(), queue.receiver().unwrap().side());
        segment.watch.rest(Instant::now().checked_sub(Duration::from_millis(1)).unwrap());
        segment.report_death();
        assert!(segment.watch.news.is_any(), "it rests");
        assert!(side.watchdog() < Duration::from_secs(1), "{:?}", side.watchdog());
        while segment.watch.news.is_any() {
            segment.maintain();
        }
        assert_eq!(side.watchdog(), Duration::from_secs(3600), "seen");
    }
}

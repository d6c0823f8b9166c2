//! Recovery: the records of the dead are audited, and what they held goes back into the ring.
//!
//! Whether a handle is dead is the kernel's word alone: its lock is free. Who recovers takes that
//! lock, and so does it as the dead handle; its own death midway is one more death of the same
//! record. Nothing is ever decided by time: a stopped process keeps its locks and all that is its.
//!
//! Who looks: a handle that attaches and takes the record; a thread or task that waits, once a
//! watchdog's period or when a peer's death is news; and [`Queue::recover`](crate::Queue::recover). Who
//! looks needs an open file description of its own, and has it also where it can open none: `locks.rs`.
//!
//! **What a look costs.** It reads all records and their cells, and asks the kernel about the owner of
//! each that has something open, living owners included. The creator chooses how many there are, and
//! any peer how long the kernel takes for an answer (`locks.rs`). So a look has a [`Budget`], ends when
//! it is used up, and the next goes on where it ended. A look for which the budget was too small is
//! followed by a rest of many times its length: a waiting process spends 5 % of its time on looks, at
//! most. Where records are too many for one look, those that name a process that does not exist are
//! first.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [arrival] | a new handle's pid, then arrivals | `Side::arrivals`, then `Side::peers` | who sees that somebody came sees who |

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::error::{AttachError, Corrupt};
use crate::process::gone::Gone;
use crate::process::locks::Owner;
use crate::process::segment::{AuditLocks, Segment};
use crate::process::side::wake_everybody;
use crate::process::watch::{SECOND_LOOK, nanos};
use crate::ring::control::Record;
use crate::ring::port::Port;
use crate::ring::slots::Ring;
use crate::sync::Ordering::Relaxed;

/// What one look may take. It ends after the record at which a number is reached, which can be a
/// system call and 1024 returns later.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// Lock calls.
    calls: u32,
    /// Words of records and cells to read.
    words: usize,
    time: Duration,
}

/// Of a look in passing: by a thread or task that waits, or is told the end of a closed queue.
const LOOK: Budget = Budget { calls: 256, words: 1 << 18, time: Duration::from_millis(1) };
/// Of [`Queue::recover`](crate::Queue::recover).
const ASKED: Budget =
    Budget { calls: u32::MAX, words: usize::MAX, time: Duration::from_millis(20) };

/// Records that need a look at their owners before hints are of use.
const MANY: usize = 32;
/// Messages that an auditor returns before it goes on to the next record. About 300 us.
const RETURNS: usize = 1024;
/// Processes to ask about in one look whether they exist. About 50 us.
const HINTS: usize = 256;
/// A look that took longer was long, even if it came to an end.
const LONG: Duration = Duration::from_millis(10);

/// What was found of dead handles.
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
    /// Handles of the dead that had left something open, and are free for others now. One that had
    /// not was free as soon as its process ended.
    pub handles: usize,
    /// Messages they held that went back into the queue.
    pub messages: usize,
    /// Messages they held for which there is no room now. Whoever waits for room sees to them
    /// first.
    pub waiting: usize,
    /// Handles that somebody else is recovering or letting go right now, or whose audit must wait
    /// until a peer that is in the midst of the same exchange, or stopped there, moves on.
    pub postponed: usize,
    /// Handles that this call had no time to look at. The next call begins with them.
    pub unseen: usize,
}

impl Segment {
    /// Looks for the dead if that is due. For those who wait: a process does it once a period,
    /// however many do.
    pub(crate) fn keep_watch(&self) {
        self.keep_watch_at(Instant::now());
    }

    /// The same for who knows what time it is: a few loads if it is not due.
    #[inline]
    pub(crate) fn keep_watch_at(&self, now: Instant) {
        self.owing.return_any();
        if self.watch.is_due(now) {
            self.look(now);
        }
    }

    #[cold]
    fn look(&self, now: Instant) {
        let has_room = || self.ring().is_some_and(|ring| ring.has_room());
        self.watch.search(now, || self.look_if_due(now), has_room);
    }

    fn look_if_due(&self, now: Instant) {
        // Somebody may have looked since.
        if !self.watch.is_due(now) {
            return;
        }
        let has_news = self.watch.news.take();
        let period = self.geometry().watchdog();
        let period = if has_news { period.min(SECOND_LOOK) } else { period };
        let next = now.saturating_duration_since(self.watch.begun).saturating_add(period);
        self.watch.next.store(nanos(next), Relaxed);
        let handles = self.geometry().handles();
        let unseen = if has_news { handles } else { self.watch.unseen.load(Relaxed) };
        // What fails here fails again for a caller who is told.
        let seen = self.glance().map_or(handles, |it| handles.saturating_sub(it.unseen as u32));
        self.watch.unseen.store(unseen.saturating_sub(seen), Relaxed);
    }

    /// Looks for the dead now, since some peer has died. Whoever waits looks once more after the
    /// time that is returned.
    pub(crate) fn watch_now(&self) -> Duration {
        self.watch.news.bring();
        self.keep_watch();
        SECOND_LOOK
    }

    /// In what time a thread or task that waits has to look for the dead, if that is not to wait for
    /// the watchdog's period: news came while this process rested, or the look that it asked for did
    /// not come to its end.
    pub(crate) fn urgent_look(&self) -> Option<Duration> {
        self.watch.urgent_in()
    }

    /// Audits all dead handles that left something open.
    pub(crate) fn recover(&self) -> Result<Recovered, AttachError> {
        self.recover_within(ASKED)
    }

    /// The same in passing: of so many handles as a small budget allows.
    pub(crate) fn glance(&self) -> Result<Recovered, AttachError> {
        let begin = Instant::now();
        let found = self.recover_within(LOOK);
        let came_to_an_end = found.as_ref().is_ok_and(|found| found.unseen == 0);
        // Not the budget's time: a thread is not run for a moment, now and then.
        if !came_to_an_end || begin.elapsed() > LONG {
            self.watch.rest(begin);
        }
        found
    }

    fn recover_within(&self, budget: Budget) -> Result<Recovered, AttachError> {
        let ring = self.ring().ok_or(AttachError::Forked)?;
        ring.finding.check()?;
        let fd = self.descriptor()?;
        // Before the look: what it leaves is owed by then.
        let was_owed = self.watch.is_owed.swap(false, Relaxed);
        let mut look = Look {
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
        let looked = look.all(budget);
        let Look { found, corrupt, .. } = look;
        if looked.is_err() || found.waiting > 0 || was_owed && found.unseen > 0 {
            self.watch.is_owed.store(true, Relaxed);
        }
        if found.handles > 0 || found.messages > 0 {
            wake_everybody(&ring);
        }
        looked?;
        corrupt.map_or(Ok(found), |corrupt| Err(corrupt.into()))
    }
}

/// A look for the dead under way.
struct Look<'a> {
    segment: &'a Segment,
    ring: Ring<'a>,
    fd: BorrowedFd<'a>,
    /// Made for the first of the dead.
    locks: Option<AuditLocks<'a>>,
    /// How many lock calls it has left.
    calls: u32,
    begin: Instant,
    time: Duration,
    found: Recovered,
    corrupt: Option<Corrupt>,
}

#[expect(clippy::arithmetic_side_effects, reason = "numbers of records and of their cells")]
impl Look<'_> {
    /// Looks at all records, or at as many as the budget allows from the cursor on: at one at least.
    fn all(&mut self, budget: Budget) -> Result<(), AttachError> {
        let (ring, cursor) = (self.ring, &self.segment.watch.cursor);
        let handles = ring.geometry.handles();
        let first = cursor.load(Relaxed) % handles;
        let words_each = size_of::<Record>() / 8 + ring.geometry.cells();
        let most = (budget.words / words_each).clamp(1, handles as usize);
        let ids = (first..handles).chain(0..first).take(most);
        let dirty: Vec<u32> = ids.filter(|id| ring.is_dirty(*id)).collect();
        if dirty.len() > MANY {
            self.those_that_seem_gone(&dirty)?;
        }
        // At most `handles`.
        let mut looked = most as u32;
        for (n, &id) in dirty.iter().enumerate() {
            self.examine(id)?;
            if self.is_over() && n + 1 < dirty.len() {
                looked = (id + handles - first) % handles + 1;
                break;
            }
        }
        cursor.store((first + looked) % handles, Relaxed);
        self.found.unseen = (handles - looked) as usize;
        Ok(())
    }

    /// Uses half of the budget at most.
    fn those_that_seem_gone(&mut self, dirty: &[u32]) -> Result<(), AttachError> {
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

    /// Recovers record `id` if it needs that and its owner is dead; returns the owner.
    fn examine(&mut self, id: u32) -> Result<Option<Owner>, AttachError> {
        // Another may have been quicker.
        if !self.ring.is_dirty(id) {
            return Ok(None);
        }
        self.calls = self.calls.saturating_sub(1);
        match self.segment.owner(self.fd, id) {
            Ok(None) => {}
            // Where the kernel does not tell, the owner is taken for alive.
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
            // One record that a peer scribbled on does not keep the others.
            self.corrupt = self.found.add_record(self.ring, id).err().or(self.corrupt);
            // Should this fail, it goes with the description.
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
    /// Recovers record `id`, whose lock the caller has.
    #[expect(clippy::arithmetic_side_effects, reason = "counts of records and of their cells")]
    fn add_record(&mut self, ring: Ring<'_>, id: u32) -> Result<(), Corrupt> {
        // Another may have been quicker.
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

    /// Has record `id` look as if its owner, process `pid`, had died in the midst of an operation.
    fn leave_open(queue: &Queue, id: u32, pid: u32) {
        let record = &queue.segment().ring().unwrap().records[id as usize];
        record.op.store(OPEN, Relaxed);
        record.name(pid);
    }

    /// Has record `id` look as if its owner had let go of it with a message in each cell of a lease.
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

    /// How many lock calls a look made, and what it found.
    fn glance(queue: &Queue) -> (u32, Recovered) {
        let (found, made) = calls::of(|| queue.segment().glance().unwrap());
        (made, found)
    }

    /// Each record takes three calls.
    ///
    /// Fails if a look goes on when its calls are used up (seen failing: 3,000 calls), or if it does not
    /// say how many records it left (seen failing).
    #[test]
    fn a_look_makes_as_many_lock_calls_as_it_may_and_the_next_goes_on_there() {
        let queue = queue(1000, 0);
        (0..1000).for_each(|id| leave_open(&queue, id, 0));
        let mut recovered = 0;
        for look in 1.. {
            let (made, found) = glance(&queue);
            assert!((1..=LOOK.calls + 2).contains(&made), "{made} calls in look {look}");
            recovered += found.handles;
            assert_eq!(found.unseen == 0, recovered == 1000, "{found:?}");
            if recovered == 1000 {
                break;
            }
            assert!(look < 1000);
        }
        assert!((0..1000).all(|id| !is_open(&queue, id)));
    }

    /// Fails if a look goes by the order of the records alone, or if each look begins with the same
    /// record: the last one is never looked at then (each seen failing).
    #[test]
    fn the_dead_are_first_where_there_are_too_many_for_one_look() {
        let queue = queue(1000, 0);
        let mut living: Vec<_> = (0..1000).map(|_| queue.sender().unwrap()).collect();
        drop(living.pop());
        (0..999).for_each(|id| leave_open(&queue, id, std::process::id()));
        leave_open(&queue, 999, NOBODY);
        let (made, found) = glance(&queue);
        assert_eq!((found.handles, is_open(&queue, 999)), (1, false), "{made} calls, {found:?}");
        // All are of processes in another pid namespace.
        (0..1000).for_each(|id| leave_open(&queue, id, NOBODY - id));
        let looks = (1..1000).find(|_| glance(&queue).1.handles > 0);
        assert!(looks.is_some(), "it is never its turn");
    }

    /// Fails if what was owed is forgotten with the records that a look has no calls for (seen
    /// failing).
    #[test]
    fn what_is_owed_is_so_until_all_was_looked_at() {
        let queue = queue(1000, 0);
        (0..1000).for_each(|id| leave_open(&queue, id, 0));
        queue.segment().watch.owe(1);
        assert!(glance(&queue).1.unseen > 0);
        assert!(queue.segment().watch.is_owed.load(Relaxed));
        while glance(&queue).1.unseen > 0 {}
        glance(&queue);
        assert!(!queue.segment().watch.is_owed.load(Relaxed));
    }

    /// The look waits for the lock that keeps this process from forking, to open a description.
    ///
    /// Fails if a look begins with what is owed when it ends (seen failing): it would forget what came
    /// meanwhile.
    #[test]
    fn what_is_owed_since_a_look_began_stays_so() {
        let queue = queue(1, 0);
        leave_open(&queue, 0, 0);
        let is_owed = &queue.segment().watch.is_owed;
        queue.segment().watch.owe(1);
        std::thread::scope(|scope| {
            let forks = crate::process::fork::hold_forks();
            scope.spawn(|| glance(&queue));
            let begun = Instant::now();
            while is_owed.load(Relaxed) && begun.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
            let has_begun = !is_owed.load(Relaxed);
            queue.segment().watch.owe(1);
            drop(forks);
            assert!(has_begun);
        });
        assert!(!is_open(&queue, 0) && is_owed.load(Relaxed));
    }

    /// A creator's shape: 16,384 records without an owner, each with 58 messages, and a full ring.
    ///
    /// Fails if a look goes on when its time is over (seen failing: 0.3 s a look).
    #[test]
    fn a_look_takes_little_time_whatever_the_creator_wrote() {
        let queue = queue(1 << 14, 58);
        queue.sender().unwrap().try_send(b"full").unwrap();
        (0..1 << 14).for_each(|id| leave_messages(&queue, id));
        let mut looks: Vec<_> = (0..20)
            .map(|_| {
                let begin = Instant::now();
                let (_, found) = glance(&queue);
                assert!(found.unseen > 0 && found.waiting > 0, "{found:?}");
                begin.elapsed()
            })
            .collect();
        // One of them may have waited for the processor.
        looks.sort();
        let median = looks[10];
        assert!(median < Duration::from_millis(100), "{median:?}");
        let begin = Instant::now();
        queue.recover().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }

    /// A million words, none of which says that there is something to do.
    ///
    /// Fails if a look reads on when its words are used up (seen failing).
    #[test]
    fn a_look_reads_as_many_words_as_it_may() {
        let queue = queue(1 << 14, 58);
        for _ in 0..2 {
            let unseen = glance(&queue).1.unseen;
            assert!((12_000..14_000).contains(&unseen), "a fifth of them: {unseen}");
        }
        assert_eq!(queue.recover().unwrap().unseen, 0);
    }

    /// Fails if a look tries to return each message although the first finds no room (seen failing: it
    /// finds that the second is no message).
    #[test]
    fn messages_without_room_are_not_tried_one_by_one() {
        let queue = queue(1, 2);
        queue.sender().unwrap().try_send(b"full").unwrap();
        leave_messages(&queue, 0);
        let ring = queue.segment().ring().unwrap();
        let second = CellWord::from_bits(ring.cells_of(0).unwrap()[2].load(Relaxed)).block();
        ring.block(second).unwrap().set_frame(Frame::first(9));
        assert_eq!(glance(&queue).1.waiting, 2);
    }

    /// Fails if a look returns all that a record has, however much that is (seen failing).
    #[test]
    fn a_look_returns_as_many_messages_of_a_record_as_it_may() {
        let queue = Queue::builder().capacity(1 << 14).max_message(8).handles(1).leases(3000);
        let queue = queue.create().unwrap();
        leave_messages(&queue, 0);
        let found = glance(&queue).1;
        assert_eq!((found.messages, found.waiting), (RETURNS, 3000 - RETURNS));
        while glance(&queue).1.waiting > 0 {}
        assert_eq!(queue.len(), 3000);
    }

    /// Fails if a waiting process looks again and again although each look comes to no end (seen
    /// failing), or waits for the end of the rest where it stands (seen failing: for ever).
    #[test]
    fn a_process_rests_after_a_look_that_came_to_no_end() {
        let queue = queue(1000, 0);
        (0..1000).for_each(|id| leave_open(&queue, id, 0));
        let segment = queue.segment();
        segment.watch_now();
        assert!(is_open(&queue, 999) && !is_open(&queue, 0));
        assert!(segment.watch.rest.load(Relaxed) > 0);
        let cursor = segment.watch.cursor.load(Relaxed);
        segment.watch.rest.store(u64::MAX, Relaxed);
        segment.watch_now();
        segment.look(Instant::now());
        assert_eq!(segment.watch.cursor.load(Relaxed), cursor, "it rests");
        segment.watch.rest.store(0, Relaxed);
        segment.keep_watch();
        assert_ne!(segment.watch.cursor.load(Relaxed), cursor, "the news was kept");
    }

    /// The look waits for the lock that keeps this process from forking, to open a description.
    ///
    /// Fails if a look that came to its end is never a long one (seen failing).
    #[test]
    fn a_process_rests_after_a_look_that_took_long() {
        let queue = queue(1, 0);
        let (segment, watch) = (queue.segment(), &queue.segment().watch);
        // A thread may be stopped before its look begins, so that the look is short.
        let rests = (0..100).any(|_| {
            leave_open(&queue, 0, 0);
            let next = watch.next.load(Relaxed);
            std::thread::scope(|scope| {
                let forks = crate::process::fork::hold_forks();
                scope.spawn(|| segment.watch_now());
                while watch.next.load(Relaxed) == next {
                    std::thread::yield_now();
                }
                let begun = Instant::now();
                while begun.elapsed() < 2 * LONG {
                    std::thread::yield_now();
                }
                drop(forks);
            });
            assert!(!is_open(&queue, 0), "it came to its end");
            watch.rest.load(Relaxed) > 0
        });
        assert!(rests);
    }

    /// Fails if news is forgotten while somebody else has the lock (seen failing). That who has it
    /// looks again, too, is for `loom-tests/tests/news.rs`.
    #[test]
    fn news_of_a_death_waits_for_who_looks_already() {
        let queue = Queue::builder().create().unwrap();
        let segment = queue.segment();
        let begun = segment.watch.next.load(Relaxed);
        {
            let _looking = segment.watch.news.keep_looking();
            segment.watch_now();
        }
        segment.keep_watch();
        assert!(!segment.watch.news.is_any(), "looked");
        assert!(segment.watch.next.load(Relaxed) < begun, "and looks once more, soon");
    }

    /// Fails if a waiter rests for the watchdog's period while news waits for the end of a rest (seen
    /// failing).
    #[test]
    fn news_that_comes_in_a_rest_is_looked_at_when_the_rest_is_over() {
        let queue = Queue::builder().watchdog(Duration::from_secs(3600)).create().unwrap();
        let (segment, side) = (queue.segment(), queue.receiver().unwrap().side());
        segment.watch.rest(Instant::now().checked_sub(Duration::from_millis(1)).unwrap());
        segment.watch_now();
        assert!(segment.watch.news.is_any(), "it rests");
        assert!(side.watchdog() < Duration::from_secs(1), "{:?}", side.watchdog());
        while segment.watch.news.is_any() {
            segment.keep_watch();
        }
        assert_eq!(side.watchdog(), Duration::from_secs(3600), "seen");
    }
}

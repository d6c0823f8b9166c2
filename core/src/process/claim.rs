//! Claiming a record for a new handle.
//!
//! Only the kernel decides that a record is free: it grants the lock. But each lock call walks all
//! locks of the memfd (`locks.rs`), so a handle does not ask about each record in turn. It claims
//! in this order. If a record is free, the first call mostly gets it:
//!
//! 1. **By hints.** A record is probably free if it names no process, or a process that does not
//!    exist. The handle tries these in order. Each time another handle was quicker, it picks at
//!    random among twice as many: the first two, the first four, and so on. So handles that start
//!    at once spread.
//! 2. **One by one.** A hint may be wrong: a peer can write any pid, a pid may come from another
//!    pid namespace, and the process may be a zombie. So the handle asks the kernel about all
//!    records until its time is over. It begins where the last such search of this process stopped.
//! 3. **Records that may become free shortly.** Auditors, and handles that attach or end, hold a
//!    record for a moment. The handle retries these for a while.
//!
//! The hints decide nothing: they only order the calls.
#![expect(unsafe_code, reason = "ties a port to the mapping that it borrows from")]
#![expect(clippy::arithmetic_side_effects, reason = "numbers of records, and times of a moment")]

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{AttachError, Corrupt};
use crate::process::fork::random;
use crate::process::gone::Gone;
use crate::process::locks::{Locks, Owner};
use crate::process::segment::{Mapping, Segment};
use crate::process::side::wake_all_waiters;
use crate::ring::port::Port;
use crate::ring::slots::Ring;
use crate::sync::Ordering::Relaxed;

/// How long a handle waits for the end of a lease on the memfd.
const LEASE_PATIENCE: Duration = Duration::from_millis(10);
/// How long a handle searches, and waits for records that are held for a moment, mostly by
/// auditors. It decides nothing about liveness: an auditor that is stopped keeps the record.
const AUDIT_PATIENCE: Duration = Duration::from_millis(100);
/// How long a handle follows hints before it asks about all records.
const HINTS_PATIENCE: Duration = Duration::from_millis(50);
/// The pause between two attempts on the records that may become free shortly.
const AUDIT_PAUSE: Duration = Duration::from_micros(100);
/// How many records a search asks about at least, however long that takes: the scheduler may
/// suspend the thread for longer than its time.
const SURE: u32 = 64;
/// How many pids the first pass over the hints checks for existence. About 50 us.
const FEW: usize = 256;
/// How many messages of the dead owner of its record a new handle returns at most. About 20 ms.
const RETURNS: usize = 1 << 16;
/// Among how many records one is picked at random, at most.
const CROWD: usize = 1024;

/// Whether a new handle takes a record with leftovers: messages that its last owner left and for
/// which the ring has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TakesLeftovers {
    /// A receiver: it returns them as it makes room, or receives them again.
    Yes,
    /// A sender.
    No,
}

/// Takes a free record; if its last owner is dead, recovers it first. A handle that
/// `takes_leftovers` takes a record with leftovers only if it gets no other record.
pub(crate) fn claim(
    segment: &Segment,
    takes_leftovers: TakesLeftovers,
) -> Result<(Port<'static>, Mapping), AttachError> {
    segment.condition().check()?;
    let view = segment.ring().ok_or(AttachError::Forked)?;
    segment.keep_spare(LEASE_PATIENCE)?;
    let locks = segment.locks(LEASE_PATIENCE)?;
    let mapping = segment.map(&locks)?;
    // SAFETY: the port goes into one struct with the mapping and is reached through that struct
    // alone. Moving the `Mapping` on does not move the memory that it maps.
    let ring = unsafe { mapping.ring_unbound() };
    let claim = Claim {
        segment,
        view,
        ring,
        locks,
        until: Instant::now() + AUDIT_PATIENCE,
        settled: vec![false; ring.records.len()],
        refused: Vec::new(),
        corrupt: None,
    };
    // `Claim` closes its description here; the mapping keeps it open, and so keeps the lock.
    Ok((claim.port(takes_leftovers)?, mapping))
}

fn os(call: &'static str) -> impl Fn(io::Error) -> AttachError {
    move |cause| AttachError::Os { call, cause }
}

struct Claim<'a> {
    segment: &'a Segment,
    /// The shared words in the segment's own mapping, for reading many of them: in a new mapping
    /// the first access to each page is a fault.
    view: Ring<'a>,
    /// The shared words in the mapping of the new handle.
    ring: Ring<'static>,
    locks: Locks,
    until: Instant,
    /// By record: whether another attempt at it is useless.
    settled: Vec<bool>,
    /// Records with leftovers.
    refused: Vec<u32>,
    corrupt: Option<Corrupt>,
}

/// Why an attempt at a record failed.
enum Refusal {
    /// Another description has the lock.
    Locked,
    /// It was free, but is not for this handle, or must wait for another audit.
    NotOurs,
}

type Attempt = Result<Port<'static>, Refusal>;

impl Claim<'_> {
    fn port(mut self, takes_leftovers: TakesLeftovers) -> Result<Port<'static>, AttachError> {
        use AttachError::{NoFreeHandle, SearchTooLong};
        let mut passing = Vec::new();
        match self.search(&mut passing) {
            Err(none @ (NoFreeHandle { .. } | SearchTooLong { .. }))
                if takes_leftovers == TakesLeftovers::Yes =>
            {
                passing.append(&mut self.refused);
                self.settled.fill(false);
                self.until = Instant::now() + AUDIT_PATIENCE;
                self.in_a_moment(&mut passing, TakesLeftovers::Yes)?.ok_or(none)
            }
            found => found,
        }
    }

    /// Searches all records; leaves those that may become free shortly in `passing`.
    fn search(&mut self, passing: &mut Vec<u32>) -> Result<Port<'static>, AttachError> {
        // Most searches end here.
        if let Some(port) = self.by_hints(Hints::first(self.view))? {
            return Ok(port);
        }
        if let Some(port) = self.by_hints(Hints::all(self.view))? {
            return Ok(port);
        }
        if let Some(port) = self.one_by_one(passing)? {
            return Ok(port);
        }
        let handles = self.ring.records.len();
        self.in_a_moment(passing, TakesLeftovers::No)?.ok_or(AttachError::NoFreeHandle { handles })
    }

    fn attempt(
        &mut self,
        id: u32,
        takes_leftovers: TakesLeftovers,
    ) -> Result<Attempt, AttachError> {
        if !self.locks.take(id).map_err(os("F_OFD_SETLK"))? {
            return Ok(Err(Refusal::Locked));
        }
        match Port::take_over(self.ring, id) {
            Ok(Some(port)) => match recover(&port, takes_leftovers) {
                Ok(()) => {
                    self.locks.keep(id).map_err(os("F_OFD_SETLK"))?;
                    return Ok(Ok(port));
                }
                Err(left) => {
                    self.segment.watch.add_leftovers(left);
                    self.refused.push(id);
                    self.settle(id);
                }
            },
            // Its audit must wait for another handle.
            Ok(None) => {}
            // A record that a peer overwrote does not block the others.
            Err(corrupt) => {
                self.corrupt = Some(corrupt);
                self.settle(id);
            }
        }
        self.locks.release(id).map_err(os("F_OFD_SETLK"))?;
        Ok(Err(Refusal::NotOurs))
    }

    fn settle(&mut self, id: u32) {
        if let Some(settled) = self.settled.get_mut(id as usize) {
            *settled = true;
        }
    }

    fn is_settled(&self, id: u32) -> bool {
        self.settled.get(id as usize).is_some_and(|settled| *settled)
    }

    /// Tries the records that seem to be free.
    fn by_hints(&mut self, mut hints: Hints<'_>) -> Result<Option<Port<'static>>, AttachError> {
        let until = self.until - (AUDIT_PATIENCE - HINTS_PATIENCE);
        let (mut near, mut width) = (Vec::new(), 1);
        loop {
            near.extend(hints.by_ref().take(width - near.len()));
            if near.is_empty() {
                return Ok(None);
            }
            let id = near.swap_remove(random_below(near.len()));
            if self.is_settled(id) {
                continue;
            }
            match self.attempt(id, TakesLeftovers::No)? {
                Ok(port) => return Ok(Some(port)),
                Err(Refusal::Locked) => {
                    self.process(id).into_iter().for_each(|pid| hints.gone.refute(pid));
                    width = CROWD.min(width * 2);
                }
                Err(Refusal::NotOurs) => {}
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    /// Asks the kernel about all records; adds those that may become free shortly to `passing`.
    fn one_by_one(&mut self, passing: &mut Vec<u32>) -> Result<Option<Port<'static>>, AttachError> {
        let handles = self.ring.geometry.handles();
        let begin = self.segment.searched.load(Relaxed) % handles;
        for (id, asked) in (begin..handles).chain(0..begin).zip(1..) {
            if !self.is_settled(id) {
                let owner = self.owner(id)?;
                if owner.is_none()
                    && let Ok(port) = self.attempt(id, TakesLeftovers::No)?
                {
                    return Ok(Some(port));
                }
                if owner != Some(Owner::Handle) && !self.is_settled(id) {
                    passing.push(id);
                }
            }
            if asked >= SURE && asked < handles && Instant::now() >= self.until {
                self.segment.searched.store(id + 1, Relaxed);
                let (looked, handles) = (asked as usize, handles as usize);
                return Err(AttachError::SearchTooLong { looked, handles });
            }
        }
        Ok(None)
    }

    /// Tries `ids` until one is free, all have living owners, or the time is over. The ids that
    /// remain may still become free shortly.
    fn in_a_moment(
        &mut self,
        ids: &mut Vec<u32>,
        takes_leftovers: TakesLeftovers,
    ) -> Result<Option<Port<'static>>, AttachError> {
        loop {
            let mut is_over = false;
            for id in std::mem::take(ids) {
                if is_over {
                    ids.push(id);
                    continue;
                }
                match self.attempt(id, takes_leftovers)? {
                    Ok(port) => return Ok(Some(port)),
                    Err(Refusal::Locked) if self.owner(id)? == Some(Owner::Handle) => {}
                    Err(Refusal::NotOurs) if self.is_settled(id) => {}
                    Err(_) => ids.push(id),
                }
                is_over = Instant::now() >= self.until;
            }
            if let Some(corrupt) = self.corrupt {
                return Err(corrupt.into());
            }
            if ids.is_empty() || is_over {
                return Ok(None);
            }
            thread::sleep(AUDIT_PAUSE);
        }
    }

    fn process(&self, id: u32) -> Option<u32> {
        self.view.records.get(id as usize)?.process()
    }

    fn owner(&self, id: u32) -> Result<Option<Owner>, AttachError> {
        self.segment.owner(self.locks.as_fd(), id).map_err(os("F_OFD_GETLK"))
    }
}

/// Recovers the record of `port` if its last owner is dead. The caller has the record's lock. If
/// the record is not for this handle, the error is the number of its messages that find no room.
fn recover(port: &Port<'_>, takes_leftovers: TakesLeftovers) -> Result<(), usize> {
    let (gone, left) = port.give_back_most(RETURNS);
    // A handle that ended in order has un-named its record.
    let is_dead = port.record().is_named();
    let is_taken = left == 0 || takes_leftovers == TakesLeftovers::Yes;
    if is_taken && left > 0 {
        port.owe_all();
    }
    if is_dead && is_taken {
        port.record().tally.recovered.increment();
    }
    if is_dead && is_taken || gone > 0 {
        wake_all_waiters(port.ring());
    }
    if is_taken { Ok(()) } else { Err(left) }
}

/// The records that are probably free, in ascending order.
struct Hints<'a> {
    ring: Ring<'a>,
    next: u32,
    gone: Gone,
    /// Also records of handles that ended in order and left messages, because the ring had no room.
    with_messages: bool,
}

impl<'a> Hints<'a> {
    /// The records that are most probably free.
    fn first(ring: Ring<'a>) -> Self {
        Self { ring, next: 0, gone: Gone::of(FEW), with_messages: false }
    }

    fn all(ring: Ring<'a>) -> Self {
        Self { ring, next: 0, gone: Gone::of(usize::MAX), with_messages: true }
    }
}

impl Iterator for Hints<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        loop {
            let id = self.next;
            let record = self.ring.records.get(id as usize)?;
            self.next += 1;
            let seems_free = match record.process().filter(|_| record.is_named()) {
                Some(pid) => self.gone.has(pid),
                None => self.with_messages || !self.ring.is_dirty(id),
            };
            if seems_free {
                return Some(id);
            }
        }
    }
}

fn random_below(len: usize) -> usize {
    if len < 2 {
        return 0;
    }
    (random() % len as u64) as usize
}

#[cfg(all(test, not(kill_points)))]
mod tests {
    use crate::process::locks::calls;
    use crate::process::recovery::tests::leave_messages;
    use crate::{Queue, Sender};

    use super::*;

    /// No process has this number.
    const NOBODY: u32 = i32::MAX.cast_unsigned();

    fn crowd(handles: usize) -> (Queue, Vec<Sender>) {
        let queue = Queue::builder().capacity(1).max_message(8).handles(handles).leases(0);
        let queue = queue.create().unwrap();
        let senders = (0..handles).map(|_| queue.sender().unwrap()).collect();
        (queue, senders)
    }

    fn name(queue: &Queue, id: usize, pid: u32) {
        queue.segment().ring().unwrap().records[id].name(pid);
    }

    /// Makes a handle that takes the free record; returns how many lock calls it made.
    fn attach(queue: &Queue) -> u32 {
        let (attached, made) = calls::of(|| queue.sender());
        attached.unwrap();
        made
    }

    /// Fails if a handle asks about each record in turn (seen failing: 1,501 calls).
    #[test]
    fn a_handle_finds_its_record_by_few_calls_among_many_handles() {
        let (queue, mut senders) = crowd(2000);
        drop(senders.remove(1500));
        assert!(attach(&queue) <= 2);
        drop(senders.remove(300));
        assert!(attach(&queue) <= 2);
    }

    /// Fails if a handle first tries records whose owners left messages in them (seen failing).
    #[test]
    fn a_handle_takes_a_record_without_messages_if_there_is_one() {
        let queue = Queue::builder().capacity(1).max_message(8).handles(64).leases(1);
        let queue = queue.create().unwrap();
        queue.sender().unwrap().try_send(b"full").unwrap();
        (0..9).for_each(|id| leave_messages(&queue, id));
        assert!(attach(&queue) <= 2);
    }

    /// Fails if a handle asks about each record that names a process (seen failing).
    #[test]
    fn a_handle_finds_the_record_of_the_dead_by_few_calls() {
        let (queue, mut senders) = crowd(2000);
        drop(senders.remove(1500));
        name(&queue, 1500, NOBODY);
        assert!(attach(&queue) <= 2);
    }

    /// The pid of a dead owner may belong to another process by now, or come from another pid
    /// namespace: then the hints are wrong.
    ///
    /// Fails if the hints decide (seen failing), or if wrong hints are followed for ever (seen
    /// failing).
    #[test]
    fn a_handle_finds_the_only_free_record_although_all_hints_are_wrong() {
        let (queue, mut senders) = crowd(200);
        drop(senders.remove(150));
        name(&queue, 150, std::process::id());
        attach(&queue);
        (0..200).filter(|id| *id != 150).for_each(|id| name(&queue, id, NOBODY));
        name(&queue, 150, std::process::id());
        let made = attach(&queue);
        assert!(made <= 200, "{made}");
        // As many different pids.
        (0..200).filter(|id| *id != 150).for_each(|id| name(&queue, id, NOBODY - id as u32));
        name(&queue, 150, std::process::id());
        let made = attach(&queue);
        assert!(made <= 200, "{made}");
    }

    /// Fails if a handle says that no record is free before it has asked about each (seen failing).
    #[test]
    fn all_are_taken_only_if_each_was_asked_about() {
        let (queue, _senders) = crowd(200);
        (0..200).for_each(|id| name(&queue, id, std::process::id()));
        let (refused, made) = calls::of(|| queue.sender().err().unwrap());
        assert!(matches!(refused, AttachError::NoFreeHandle { handles: 200 }), "{refused:?}");
        assert!(made >= 200);
    }

    /// Fails if a search that ran out of time says that all records are taken (seen failing), or if
    /// the next one begins at the first record (seen failing: it never comes to the free record).
    #[test]
    fn a_search_that_takes_too_long_goes_on_where_it_stopped() {
        let (queue, mut senders) = crowd(200);
        drop(senders.remove(150));
        name(&queue, 150, std::process::id());
        let segment = queue.segment();
        let search = || {
            let locks = segment.locks(LEASE_PATIENCE).unwrap();
            let mapping = segment.map(&locks).unwrap();
            // SAFETY: the mapping outlives the claim.
            let ring = unsafe { mapping.ring_unbound() };
            let (until, settled) = (Instant::now(), vec![false; 200]);
            let (refused, corrupt) = (Vec::new(), None);
            let view = segment.ring().unwrap();
            let mut claim = Claim { segment, view, ring, locks, until, settled, refused, corrupt };
            claim.search(&mut Vec::new()).map(drop)
        };
        for so_far in ["up to record 63", "up to record 127"] {
            let refused = search().unwrap_err();
            let too_long =
                matches!(refused, AttachError::SearchTooLong { looked: 64, handles: 200 });
            assert!(too_long, "{so_far}: {refused:?}");
        }
        search().unwrap();
    }

    /// Fails if all handles try the same records (seen failing: 34 calls each).
    #[test]
    fn handles_that_arrive_at_once_spread() {
        let queue = Queue::builder().capacity(1).max_message(8).handles(64).leases(0);
        let queue = queue.create().unwrap();
        // None names its process: as if each handle were just attaching.
        let segment = queue.segment();
        let held = segment.locks(LEASE_PATIENCE).unwrap();
        (0..32).for_each(|id| assert!(held.take(id).unwrap()));
        let made: Vec<u32> = (0..64).map(|_| attach(&queue)).collect();
        let sum: u32 = made.iter().sum();
        assert!(sum <= 64 * 12, "{made:?}");
    }
}

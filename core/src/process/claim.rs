//! Claiming a record for a new handle.
//!
//! Only the kernel says that a record is free: it grants the lock on it. But each of its calls walks
//! all locks of the memfd (`locks.rs`), so a handle does not ask about each record in turn. It claims
//! in this order, and where there is a free record the first call mostly gets it:
//!
//! 1. **By hints.** A record that names no process, or one that does not exist, is probably free. The
//!    handle tries those, the first of them first. If another handle was quicker, it takes one of the
//!    first two at random, then of the first four, so that a crowd that starts at once spreads.
//! 2. **One by one.** What a peer wrote may be a lie, a process may be seen from another pid namespace,
//!    or be a zombie. So the handle asks the kernel about all records, beginning where the last such
//!    search of this process stopped, until its time is over.
//! 3. **Those that may be free in a moment.** Auditors and handles that come or go have a record for a
//!    moment. The handle tries them again and again for a while.
//!
//! Nothing is decided by the hints: they only order the calls.
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
use crate::process::recovery::wake_everybody;
use crate::process::segment::{Mapping, Segment};
use crate::ring::port::Port;
use crate::ring::slots::Ring;
use crate::sync::Ordering::Relaxed;

/// How long a handle waits for the end of a lease on the memfd.
const LEASE_PATIENCE: Duration = Duration::from_millis(10);
/// How long a handle searches, and waits for those that have a record for a moment, auditors mostly.
/// Nobody's life is decided by it: an auditor that is stopped keeps what it has.
const AUDIT_PATIENCE: Duration = Duration::from_millis(100);
/// How long a handle goes by hints before it asks about all records.
const HINTS_PATIENCE: Duration = Duration::from_millis(50);
/// How often a handle tries the records that may be free in a moment.
const AUDIT_PAUSE: Duration = Duration::from_micros(100);
/// Records that a search asks about however long it takes: a thread is not run for a moment, now and
/// then.
const SURE: u32 = 64;
/// Processes to ask about before the records that name none have been tried. About 50 us.
const FEW: usize = 256;
/// Messages that a new handle returns for the dead owner of its record. About 20 ms.
const RETURNS: usize = 1 << 16;
/// Records among which one is picked at random.
const CROWD: usize = 1024;

/// Whether a handle can begin with messages that the record's last owner left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heir {
    /// It receives: what finds no room in the ring is received by it first.
    Yes,
    No,
}

/// Takes a free record; if its last owner is dead, recovers it first. A record with messages of the
/// dead that find no room is the last choice, and for an heir only.
pub(crate) fn claim(
    segment: &Segment,
    heir: Heir,
) -> Result<(Port<'static>, Mapping), AttachError> {
    segment.finding().check()?;
    let view = segment.ring().ok_or(AttachError::Forked)?;
    segment.keep_spare(LEASE_PATIENCE)?;
    let locks = segment.locks(LEASE_PATIENCE)?;
    let mapping = segment.map(&locks)?;
    // SAFETY: the port goes into one struct with the mapping, which is handed on unmoved in memory (its
    // base is where it was), and is reached through that struct alone.
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
    // The claim's description is closed here; the mapping keeps it, and so the lock.
    Ok((claim.port(heir)?, mapping))
}

fn os(call: &'static str) -> impl Fn(io::Error) -> AttachError {
    move |cause| AttachError::Os { call, cause }
}

struct Claim<'a> {
    segment: &'a Segment,
    /// The shared words as the segment has them mapped already, for reading many: each first access
    /// to a page of a new mapping is a fault.
    view: Ring<'a>,
    /// The same as the new handle has them.
    ring: Ring<'static>,
    locks: Locks,
    until: Instant,
    /// Whether there is nothing more to be had of a record.
    settled: Vec<bool>,
    /// Records whose last owner left messages for which there is no room.
    refused: Vec<u32>,
    corrupt: Option<Corrupt>,
}

/// Why a record was not to be had.
enum Refusal {
    /// Another description has the lock.
    Locked,
    /// It was free, and is not for this handle, or not yet.
    NotOurs,
}

type Attempt = Result<Port<'static>, Refusal>;

impl Claim<'_> {
    fn port(mut self, heir: Heir) -> Result<Port<'static>, AttachError> {
        use AttachError::{NoFreeHandle, SearchTooLong};
        let mut passing = Vec::new();
        match self.search(&mut passing) {
            Err(none @ (NoFreeHandle { .. } | SearchTooLong { .. })) if heir == Heir::Yes => {
                passing.append(&mut self.refused);
                self.settled.fill(false);
                self.until = Instant::now() + AUDIT_PATIENCE;
                self.in_a_moment(&mut passing, Heir::Yes)?.ok_or(none)
            }
            found => found,
        }
    }

    /// Searches all records, and tells which may be free in a moment, still.
    fn search(&mut self, passing: &mut Vec<u32>) -> Result<Port<'static>, AttachError> {
        // Most of the time this is all.
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
        self.in_a_moment(passing, Heir::No)?.ok_or(AttachError::NoFreeHandle { handles })
    }

    fn attempt(&mut self, id: u32, heir: Heir) -> Result<Attempt, AttachError> {
        if !self.locks.take(id).map_err(os("F_OFD_SETLK"))? {
            return Ok(Err(Refusal::Locked));
        }
        match Port::take_over(self.ring, id) {
            Ok(Some(port)) => match recover(&port, heir) {
                Ok(()) => {
                    self.locks.keep(id).map_err(os("F_OFD_SETLK"))?;
                    return Ok(Ok(port));
                }
                Err(left) => {
                    self.segment.owe(left);
                    self.refused.push(id);
                    self.settle(id);
                }
            },
            // Its audit must wait for another handle.
            Ok(None) => {}
            // One record that a peer scribbled on does not keep the others.
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
            match self.attempt(id, Heir::No)? {
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

    /// Asks the kernel about all records, and tells which may be free in a moment.
    fn one_by_one(&mut self, passing: &mut Vec<u32>) -> Result<Option<Port<'static>>, AttachError> {
        let handles = self.ring.geometry.handles();
        let begin = self.segment.searched.load(Relaxed) % handles;
        for (id, looked) in (begin..handles).chain(0..begin).zip(1..) {
            if !self.is_settled(id) {
                let owner = self.owner(id)?;
                if owner.is_none()
                    && let Ok(port) = self.attempt(id, Heir::No)?
                {
                    return Ok(Some(port));
                }
                if owner != Some(Owner::Handle) && !self.is_settled(id) {
                    passing.push(id);
                }
            }
            if looked >= SURE && looked < handles && Instant::now() >= self.until {
                self.segment.searched.store(id + 1, Relaxed);
                let (looked, handles) = (looked as usize, handles as usize);
                return Err(AttachError::SearchTooLong { looked, handles });
            }
        }
        Ok(None)
    }

    /// Tries `ids` until one is free, all have living owners, or the time is over. Those that are left
    /// may be free in a moment, still.
    fn in_a_moment(
        &mut self,
        ids: &mut Vec<u32>,
        heir: Heir,
    ) -> Result<Option<Port<'static>>, AttachError> {
        loop {
            let mut is_over = false;
            for id in std::mem::take(ids) {
                if is_over {
                    ids.push(id);
                    continue;
                }
                match self.attempt(id, heir)? {
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

    /// The process that record `id` names.
    fn process(&self, id: u32) -> Option<u32> {
        self.view.records.get(id as usize)?.process()
    }

    fn owner(&self, id: u32) -> Result<Option<Owner>, AttachError> {
        self.segment.owner(self.locks.as_fd(), id).map_err(os("F_OFD_GETLK"))
    }
}

/// Recovers the record of `port`, whose lock the caller has, if its last owner is dead. An error if the
/// record is not for this handle: it holds so many messages for which there is no room.
fn recover(port: &Port<'_>, heir: Heir) -> Result<(), usize> {
    let (gone, left) = port.give_back_most(RETURNS);
    // A handle that went by itself says so by its pid.
    let is_dead = port.record().is_named();
    let is_taken = left == 0 || heir == Heir::Yes;
    if is_taken && left > 0 {
        port.owe_all();
    }
    if is_dead && is_taken {
        port.record().tally.recovered.increment();
    }
    if is_dead && is_taken || gone > 0 {
        wake_everybody(port.ring());
    }
    if is_taken { Ok(()) } else { Err(left) }
}

/// The records that seem to be free, in their order.
struct Hints<'a> {
    ring: Ring<'a>,
    next: u32,
    gone: Gone,
    /// Also those that their owner left with messages, though it was not killed: the ring had no room
    /// for them.
    with_messages: bool,
}

impl<'a> Hints<'a> {
    /// The best of them.
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

    /// Has record `id` say that it is of process `pid`.
    fn name(queue: &Queue, id: usize, pid: u32) {
        queue.segment().ring().unwrap().records[id].name(pid);
    }

    /// The handle that takes the free record, and how many lock calls it made.
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

    /// Fails if a handle tries records first that their owners left with messages (seen failing).
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

    /// Of a dead owner whose number another process has by now, or who is seen from another pid
    /// namespace: the hints do not tell.
    ///
    /// Fails if the hints decide (seen failing), or if wrong ones are followed for ever (seen failing).
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
        // As many processes.
        (0..200).filter(|id| *id != 150).for_each(|id| name(&queue, id, NOBODY - id as u32));
        name(&queue, 150, std::process::id());
        let made = attach(&queue);
        assert!(made <= 200, "{made}");
    }

    /// Fails if a handle that finds none says so before it has asked about each record (seen failing).
    #[test]
    fn all_are_taken_only_if_each_was_asked_about() {
        let (queue, _senders) = crowd(200);
        (0..200).for_each(|id| name(&queue, id, std::process::id()));
        let (refused, made) = calls::of(|| queue.sender().err().unwrap());
        assert!(matches!(refused, AttachError::NoFreeHandle { handles: 200 }), "{refused:?}");
        assert!(made >= 200);
    }

    /// Fails if a search whose time is over says that all records are taken (seen failing), or if the
    /// next one begins anew (seen failing: it never comes to the free record).
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

    /// Fails if all of a crowd try the same records (seen failing: 34 calls each).
    #[test]
    fn handles_that_arrive_at_once_spread() {
        let queue = Queue::builder().capacity(1).max_message(8).handles(64).leases(0);
        let queue = queue.create().unwrap();
        // None of them names its process: as if each were just arriving.
        let segment = queue.segment();
        let held = segment.locks(LEASE_PATIENCE).unwrap();
        (0..32).for_each(|id| assert!(held.take(id).unwrap()));
        let made: Vec<u32> = (0..64).map(|_| attach(&queue)).collect();
        let sum: u32 = made.iter().sum();
        assert!(sum <= 64 * 12, "{made:?}");
    }
}

//! An attachment: a handle's record, its mapping, and the lock that the mapping is.
//!
//! | edge | first | then | carries |
//! |---|---|---|---|
//! | [owed] | a message begins to be owed, fence | the slots, for room | one of the two sees the other: |
//! | [owed] | a receive makes room, then the wait of [announce] | what this process owes | the wait returns the message, or the handle that owes it finds the room |

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use crate::error::{AttachError, Corrupt, Fault};
use crate::process::barriers::let_joiners_order_us;
use crate::process::claim::{Heir, claim};
use crate::process::futex::Futex;
use crate::process::owed::{self, Until};
use crate::process::owing::Holder;
use crate::process::segment::{Mapping, Segment};
use crate::process::side::{Side, WaitsFor};
use crate::ring::frame::Frame;
use crate::ring::port::Port;
use crate::ring::position::Position;
use crate::sync::{Ordering::SeqCst, fence};
use crate::wait::driven::Driven;
use crate::wait::gate::{Gate, Wake};

/// What a handle and its leases share.
pub(crate) struct Attachment {
    /// Borrows from `mapping`, whatever its lifetime says: handed out with the lifetime of `&self`
    /// only.
    port: Port<'static>,
    mapping: Mapping,
    pub(crate) segment: Arc<Segment>,
    /// Whether the opener vouched for all peers, see
    /// [`Queue::trust_peers`](crate::Queue::trust_peers).
    pub(crate) trusted: bool,
    returns: Returns,
    /// Dropped after `mapping`, and so when nobody has the record any more.
    left: Left,
}

/// Messages that found no room when their handle went.
struct Left {
    segment: Arc<Segment>,
    count: usize,
}

impl Drop for Left {
    fn drop(&mut self) {
        if self.count > 0 {
            self.segment.watch.owe(self.count);
            // There may have been room since.
            self.segment.keep_watch();
        }
    }
}

/// What this process alone knows of the messages that come back through a handle.
#[derive(Debug)]
struct Returns {
    /// Where the tasks and threads wait that want a lease while all are out.
    leases: Arc<Gate>,
    /// The cells that owe a message before whose time it does not go.
    held_back: Mutex<Vec<(usize, Instant)>>,
    /// A driver waits for room on our behalf.
    driven: Driven,
    /// Ends the driver's wait when we go.
    driver: Mutex<Option<Waker>>,
}

impl Attachment {
    pub(crate) fn new(
        segment: &Arc<Segment>,
        trusted: bool,
        heir: Heir,
    ) -> Result<Arc<Self>, AttachError> {
        let_joiners_order_us();
        let (port, mapping) = claim(segment, heir)?;
        port.record().name(std::process::id());
        let returns = Returns {
            leases: Arc::new(Gate::new()),
            held_back: Mutex::default(),
            driven: Driven::new(),
            driver: Mutex::default(),
        };
        let left = Left { segment: Arc::clone(segment), count: 0 };
        let segment = Arc::clone(segment);
        let new = Arc::new(Self { port, mapping, segment, trusted, returns, left });
        new.announce_arrival();
        if new.owes() {
            // What the record's last owner left.
            new.owe(None);
        }
        Ok(new)
    }

    /// Has those who wait look whom they wait with: see [`Side::peers`](crate::driver::Side::peers).
    fn announce_arrival(&self) {
        for wake in self.port.ring().control.announce_arrival() {
            self.wake(wake);
        }
    }

    /// The port, unless this is a forked child, or this process has found the queue corrupt.
    #[inline]
    pub(crate) fn port(&self) -> Result<&Port<'_>, Fault> {
        let port = self.mapped_port()?;
        port.ring().finding.check()?;
        Ok(port)
    }

    /// The port, unless this is a forked child, where its memory does not exist. Also of a corrupt
    /// queue: what others may wait for is let go.
    #[inline]
    pub(crate) fn mapped_port(&self) -> Result<&Port<'_>, Fault> {
        if self.mapping.is_forked() { Err(Fault::Forked) } else { Ok(&self.port) }
    }

    /// The port, where this very call has asked for it before: no process forks within it.
    #[inline]
    pub(crate) fn same_port(&self) -> &Port<'_> {
        &self.port
    }

    /// Has all calls of this process on this queue say what was found.
    #[cold]
    pub(crate) fn keep(&self, corrupt: Corrupt) -> Fault {
        self.port.ring().finding.keep(corrupt).into()
    }

    pub(crate) fn record(&self) -> u32 {
        self.port.id()
    }

    pub(crate) fn futex(&self) -> Futex<'_> {
        Futex::counted(&self.port.record().tally)
    }

    /// After an acknowledgement: wakes those that join, those at the end of a closed queue, and one
    /// that waits for a lease.
    #[inline]
    pub(crate) fn acknowledged(&self) {
        self.notify_of_hands();
        self.carry_out(self.returns.leases.notify_of_store(1));
    }

    /// After a message was held back: has those who wait sleep until its time at most.
    #[cold]
    pub(crate) fn shorten_sleeps(&self) {
        // Who announces after this finds the message.
        for gate in self.port.ring().control.gates() {
            self.carry_out(gate.notify_of_stores(u32::MAX));
        }
    }

    /// After a cell became free or an announced receive was lost: wakes those that wait until no
    /// message is in any hands.
    #[inline]
    pub(crate) fn notify_of_hands(&self) {
        let ring = self.port.ring();
        self.carry_out(ring.control.after_recv.acknowledged.notify_of_store(u32::MAX));
        if ring.is_closing() {
            self.carry_out(ring.control.after_send.readable.notify_of_store(u32::MAX));
        }
    }

    /// Gives back the message in `cell`, whose only lease is gone: at once, or owes it. Not before
    /// `due`, if there is such a time.
    pub(crate) fn give_back(self: &Arc<Self>, cell: usize, frame: Frame, due: Option<Instant>) {
        // In a forked child, and on a corrupt segment, nothing is touched.
        let Ok(port) = self.port() else { return };
        let Ok(cell) = port.cell(cell) else { return };
        let is_gone = match due {
            Some(due) => {
                self.held_back().push((cell.number(), due));
                port.give_back_later(cell, frame).map(|()| false).map_err(Fault::from)
            }
            None => port.give_back(cell, frame),
        };
        match is_gone {
            Ok(true) => self.returned(1),
            Ok(false) => {
                self.owe(due);
                fence(SeqCst); // [owed]
                // There may have been room since.
                self.return_owed();
                // If all leases are out, this message can be received again.
                self.carry_out(self.returns.leases.notify_of_store(1));
            }
            // The next call on this queue says so.
            Err(_) => {}
        }
    }

    /// Has the rest of the process, and its driver, see to what this handle owes; not before `due`, if
    /// there is such a time.
    fn owe(self: &Arc<Self>, due: Option<Instant>) {
        let holder = self.as_holder();
        self.segment.owing.add(&holder);
        match due {
            None => holder.drive_owed(),
            // A driver's wait ends by itself when the time comes.
            Some(due) if owed::drive(&holder, Until::Time(due)).is_some() => {}
            Some(_) => self.shorten_sleeps(),
        }
    }

    fn as_holder(self: &Arc<Self>) -> Arc<dyn Holder> {
        Arc::<Self>::clone(self)
    }

    /// Takes one message that this handle owes, to receive it again: its cell.
    pub(crate) fn take_owed(&self) -> Option<usize> {
        let held_back = self.held_back_now();
        Some(self.port().ok()?.take_owed(|cell| held_back.contains(&cell))?.number())
    }

    /// Whether a message is owed that is not held back.
    pub(crate) fn owes_now(&self) -> bool {
        self.port().is_ok_and(|port| {
            let held_back = self.held_back_now();
            port.can_take_owed(|cell| held_back.contains(&cell))
        })
    }

    fn driver(&self) -> MutexGuard<'_, Option<Waker>> {
        self.returns.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes after `count` messages went back.
    fn returned(&self, count: u32) {
        self.carry_out(self.port.ring().control.after_send.readable.notify(count));
        // A joiner or a waiter at the end could not be woken by the receiver that acknowledged the
        // message meanwhile: then our cell was not free yet.
        self.notify_of_hands();
        self.carry_out(self.returns.leases.notify_of_store(count));
    }

    /// The cells whose messages must not go yet.
    fn held_back_now(&self) -> Vec<usize> {
        let now = Instant::now();
        let mut held_back = self.held_back();
        held_back.retain(|(_, due)| *due > now);
        held_back.iter().map(|(cell, _)| *cell).collect()
    }

    fn held_back(&self) -> MutexGuard<'_, Vec<(usize, Instant)>> {
        self.returns.held_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a handle waits that stands `at`.
    pub(crate) fn side(self: &Arc<Self>, waits_for: WaitsFor, at: Position) -> Side {
        let side = Side::new(&self.segment, waits_for).of_record(self.port.id()).at(at);
        if waits_for == WaitsFor::Lease {
            side.of_leases(&self.as_holder(), &self.returns.leases)
        } else {
            side
        }
    }

    #[inline]
    pub(crate) fn carry_out(&self, wake: Option<Wake<'_>>) {
        if let Some(wake) = wake {
            self.wake(wake);
        }
    }

    #[cold]
    fn wake(&self, wake: Wake<'_>) {
        wake.carry_out(&self.futex());
    }
}

impl Holder for Attachment {
    fn return_owed(&self) {
        let Ok(port) = self.port() else { return };
        if port.owes() {
            let held_back = self.held_back_now();
            let gone = port.return_owed(|cell| held_back.contains(&cell));
            if gone > 0 {
                self.returned(u32::try_from(gone).unwrap_or(u32::MAX));
            }
        }
    }

    fn owes(&self) -> bool {
        self.port().is_ok_and(Port::owes)
    }

    fn next_due(&self) -> Option<Instant> {
        self.held_back().iter().map(|(_, due)| *due).min()
    }

    fn has_free_lease(&self) -> bool {
        // A fault is news for the waiter, too.
        let Ok(port) = self.port() else { return true };
        port.free_cell(0, 1).is_ok() || self.owes_now()
    }

    fn drive_owed(self: Arc<Self>) {
        if owed::has_driver() && self.owes_now() && self.returns.driven.begin() {
            let side = Side::new(&self.segment, WaitsFor::Room).of_record(self.record());
            let driver = owed::drive(&self.as_holder(), Until::Room(side));
            // Ends the wait when this handle goes.
            let before = core::mem::replace(&mut *self.driver(), driver);
            drop(before);
        }
    }

    fn stop_driving_owed(&self) -> bool {
        self.returns.driven.end(|| self.owes_now())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.mapping.is_forked() {
            return;
        }
        // What is owed, and leases that were leaked. What finds no room has no owner from here on, and
        // is recovered as if we had died; so is all that a corrupt segment holds.
        if self.port.ring().finding.check().is_ok() {
            let (gone, left) = self.port.give_all_back();
            if gone > 0 {
                self.returned(u32::MAX);
            }
            self.left.count = left;
        }
        self.port.record().unname(self.left.count);
        let driver = self.driver().take();
        driver.into_iter().for_each(Waker::wake);
    }
}

impl core::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Attachment").field("record", &self.port.id()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(kill_points)))]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    use crate::driver::WaitsFor;
    use crate::{AttachError, Queue, Receiver, RecvError, Sender};

    /// A queue whose record 1 was left with a message for which there is no room.
    fn with_an_inheritance(handles: usize) -> (Queue, Sender) {
        let queue = Queue::builder().capacity(1).handles(handles).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.try_send(b"first").unwrap();
        let lease = receiver.try_lease().unwrap();
        sender.try_send(b"second").unwrap();
        // Owed, and left by the handle as if its process had died.
        drop(lease);
        (queue, sender)
    }

    /// Why `attach` was refused, before the time was over for which a new handle waits for auditors. On
    /// a loaded machine it may be.
    fn refused_too_early(attach: impl FnOnce() -> Option<AttachError>) -> Option<AttachError> {
        let begin = Instant::now();
        attach().filter(|_| begin.elapsed() < Duration::from_millis(100))
    }

    /// Fails if a refusal wakes everybody (seen failing), once or each time that it looks.
    #[test]
    fn who_is_refused_what_others_left_wakes_nobody() {
        let (queue, sender) = with_an_inheritance(2);
        let side = sender.side();
        let word = || side.gate().unwrap().word().load(Relaxed);
        let before = word();
        assert!(queue.sender().is_err());
        assert_eq!(word(), before);
    }

    /// Fails if who claims a record holds it as a handle before it knows that it wants it (seen
    /// failing).
    #[test]
    fn an_heir_is_not_refused_for_somebody_who_is() {
        let (queue, _sender) = with_an_inheritance(2);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !is_over.load(Relaxed) {
                        assert!(queue.sender().is_err());
                    }
                });
            }
            let refused = (0..3000).find_map(|_| refused_too_early(|| queue.receiver().err()));
            is_over.store(true, Relaxed);
            assert!(refused.is_none(), "{refused:?}");
        });
    }

    /// Fails if the end is told while somebody recovers (seen failing).
    #[test]
    fn a_queue_has_not_ended_while_somebody_puts_back_what_the_dead_had() {
        let (queue, _sender) = with_an_inheritance(3);
        let mut receiver = queue.receiver().unwrap();
        assert_eq!(receiver.try_recv().unwrap(), b"second");
        queue.close().unwrap();
        let locks = queue.segment().locks(Duration::ZERO).unwrap();
        assert!(locks.take(1).unwrap());
        let waits = ControlFlow::Continue(WaitsFor::Message);
        assert_eq!(receiver.answer(Receiver::try_recv), waits);
        locks.release(1).unwrap();
        let first = ControlFlow::Break(Ok(b"first".to_vec()));
        assert_eq!(receiver.answer(Receiver::try_recv), first);
        let ended = ControlFlow::Break(Err(RecvError::Closed));
        assert_eq!(receiver.answer(Receiver::try_recv), ended);
    }

    /// Fails if a new handle does not wait for auditors (seen failing), or if their locks are taken for
    /// handles' (seen failing).
    #[test]
    fn a_record_that_is_audited_is_free_in_a_moment() {
        let queue = Queue::builder().handles(1).create().unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let locks = queue.segment().locks(Duration::ZERO).unwrap();
                    if locks.take(0).unwrap() {
                        locks.release(0).unwrap();
                    }
                }
            });
            let refused = (0..1000).find_map(|_| refused_too_early(|| queue.sender().err()));
            is_over.store(true, Relaxed);
            assert!(refused.is_none(), "{refused:?}");
        });
        let _taken = queue.sender().unwrap();
        assert!(queue.sender().is_err(), "nobody audits, and nothing is free");
    }
}

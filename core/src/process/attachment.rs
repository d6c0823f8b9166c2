//! An attachment: a handle's record and its mapping. The mapping keeps the record's lock.
//!
//! | edge | first | then | carries |
//! |---|---|---|---|
//! | [owed] | the dropped lease: the message becomes owed, fence | loads the slots, for room | one of the two threads sees what the other stored: |
//! | [owed] | a receive: makes room, then waits with the fence of [announce] | loads what this process owes | the wait returns the message, or the thread that dropped the lease finds the room |

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use crate::error::{AttachError, Corrupt, Fault};
use crate::process::barriers::let_joiners_order_us;
use crate::process::claim::{TakesLeftovers, claim};
use crate::process::futex::Futex;
use crate::process::owed_wait::{self, Until};
use crate::process::owing_handles::Holder;
use crate::process::segment::{Mapping, Segment};
use crate::process::side::{Side, WaitsFor};
use crate::ring::condition::is_usual;
use crate::ring::frame::Frame;
use crate::ring::port::Port;
use crate::ring::position::Position;
use crate::sync::{Ordering::SeqCst, fence};
use crate::wait::driven::Driven;
use crate::wait::gate::{Gate, Wake};

/// What a handle and its leases share.
pub(crate) struct Attachment {
    /// Borrows from `mapping`, although its lifetime says otherwise. So methods return it only with
    /// the lifetime of `&self`.
    port: Port<'static>,
    mapping: Mapping,
    pub(crate) segment: Arc<Segment>,
    /// Whether the opener vouched for all peers, see
    /// [`Queue::trust_peers`](crate::Queue::trust_peers).
    pub(crate) trusted: bool,
    returns: Returns,
    /// Dropped after `mapping`, and so when the record has no owner any more.
    leftovers: Leftovers,
}

/// The messages of the handle for which the ring had no room when the handle was dropped.
struct Leftovers {
    segment: Arc<Segment>,
    count: usize,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        if self.count > 0 {
            self.segment.watch.add_leftovers(self.count);
            // Another handle may have made room since.
            self.segment.maintain();
        }
    }
}

/// The private memory of a handle for the messages that it returns.
#[derive(Debug)]
struct Returns {
    /// The gate of the tasks and threads that wait for a lease of this handle.
    leases: Arc<Gate>,
    /// The cells of held-back messages, each with the time before which its message does not return.
    held_back: Mutex<Vec<(usize, Instant)>>,
    /// Whether a driver waits for room on behalf of this handle.
    driven: Driven,
    /// Ends the driver's wait when the handle is dropped.
    driver: Mutex<Option<Waker>>,
}

impl Attachment {
    pub(crate) fn new(
        segment: &Arc<Segment>,
        trusted: bool,
        takes_leftovers: TakesLeftovers,
    ) -> Result<Arc<Self>, AttachError> {
        let_joiners_order_us();
        let (port, mapping) = claim(segment, takes_leftovers)?;
        port.record().name(std::process::id());
        let returns = Returns {
            leases: Arc::new(Gate::new()),
            held_back: Mutex::default(),
            driven: Driven::new(),
            driver: Mutex::default(),
        };
        let leftovers = Leftovers { segment: Arc::clone(segment), count: 0 };
        let segment = Arc::clone(segment);
        let new = Arc::new(Self { port, mapping, segment, trusted, returns, leftovers });
        new.announce_arrival();
        if new.owes() {
            // The messages that the record's last owner left.
            new.owe(None);
        }
        Ok(new)
    }

    /// Makes waiters read the pids of their peers again: see
    /// [`Side::peers`](crate::driver::Side::peers).
    fn announce_arrival(&self) {
        for wake in self.port.ring().control.announce_arrival() {
            self.wake(wake);
        }
    }

    /// The port, unless this is a forked child, or this process has found the queue corrupt.
    #[inline]
    pub(crate) fn port(&self) -> Result<&Port<'_>, Fault> {
        self.usual_port().map_or_else(|| self.unusual_port(), Ok)
    }

    /// The port, or the reason why there is none: messages that are owed are no such reason.
    #[cold]
    fn unusual_port(&self) -> Result<&Port<'_>, Fault> {
        let port = self.mapped_port()?;
        port.ring().condition.check()?;
        Ok(port)
    }

    /// The port, if nothing stands against the short path of a call.
    #[inline(always)]
    pub(crate) fn usual_port(&self) -> Option<&Port<'_>> {
        is_usual(self.port.ring().usual).then_some(&self.port)
    }

    /// The port, unless this is a forked child, where its memory does not exist. Also of a corrupt
    /// queue, because an acknowledgement there must still end the waits of others.
    #[inline]
    pub(crate) fn mapped_port(&self) -> Result<&Port<'_>, Fault> {
        if self.mapping.is_forked() { Err(Fault::Forked) } else { Ok(&self.port) }
    }

    /// The port, for a call that has already checked it, because the process does not fork within a
    /// call.
    #[inline]
    pub(crate) fn same_port(&self) -> &Port<'_> {
        &self.port
    }

    /// Makes all later calls of this process on this queue return the fault.
    #[cold]
    pub(crate) fn keep(&self, corrupt: Corrupt) -> Fault {
        self.port.ring().condition.keep(corrupt).into()
    }

    pub(crate) fn record(&self) -> u32 {
        self.port.id()
    }

    pub(crate) fn futex(&self) -> Futex<'_> {
        Futex::counted(&self.port.record().tally)
    }

    /// Wakes after an acknowledgement: all joins, all receivers at the end of a closed queue, and one
    /// waiter for a lease.
    #[inline]
    pub(crate) fn acknowledged(&self) {
        self.notify_of_hands();
        self.carry_out(self.returns.leases.notify_of_store(1));
    }

    /// Wakes all waiters after a message was held back, so that they sleep no longer than until its
    /// time.
    #[cold]
    pub(crate) fn shorten_sleeps(&self) {
        // A waiter that announces itself after this finds the message.
        for gate in self.port.ring().control.gates() {
            self.carry_out(gate.notify_of_stores(u32::MAX));
        }
    }

    /// Wakes after a cell became free or an announced receive failed: all joins, and all receivers at
    /// the end of a closed queue, because they wait until no message is in hands.
    #[inline]
    pub(crate) fn notify_of_hands(&self) {
        let control = self.port.ring().control;
        self.carry_out(control.after_recv.acknowledged.notify_of_store(u32::MAX));
        if control.is_closing() {
            self.carry_out(control.after_send.readable.notify_of_store(u32::MAX));
        }
    }

    /// Returns the message in `cell`, whose only lease is gone. If the ring is full, or `due` is a
    /// time before which the message does not return, the handle owes it.
    pub(crate) fn give_back(self: &Arc<Self>, cell: usize, frame: Frame, due: Option<Instant>) {
        // In a forked child, and on a corrupt queue, the message stays in its cell.
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
                // A receive may have made room since.
                self.return_owed();
                // If all leases are in use, a waiter can receive this message again.
                self.carry_out(self.returns.leases.notify_of_store(1));
            }
            // The next call on this queue returns the fault.
            Err(_) => {}
        }
    }

    /// Makes the waiting calls of this process, and its driver, return what this handle owes; not
    /// before `due`, if that is a time.
    fn owe(self: &Arc<Self>, due: Option<Instant>) {
        let holder = self.as_holder();
        self.segment.owing_handles.add(&holder);
        match due {
            None => holder.drive_owed(),
            // The driver waits for the time.
            Some(due) if owed_wait::drive(&holder, Until::Time(due)).is_some() => {}
            Some(_) => self.shorten_sleeps(),
        }
    }

    fn as_holder(self: &Arc<Self>) -> Arc<dyn Holder> {
        Arc::<Self>::clone(self)
    }

    /// Takes one message that this handle owes, to receive it again. Returns its cell.
    pub(crate) fn take_owed(&self) -> Option<usize> {
        let held_back = self.held_back_now();
        Some(self.port().ok()?.take_owed(|cell| held_back.contains(&cell))?.number())
    }

    /// Whether the handle owes a message that is not held back.
    pub(crate) fn owes_now(&self) -> bool {
        self.port().is_ok_and(|port| {
            let held_back = self.held_back_now();
            port.can_take_owed(|cell| held_back.contains(&cell))
        })
    }

    fn driver(&self) -> MutexGuard<'_, Option<Waker>> {
        self.returns.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes after `count` messages returned to the ring.
    fn returned(&self, count: u32) {
        self.carry_out(self.port.ring().control.after_send.readable.notify(count));
        // Another receiver may have acknowledged the message already. Joins that it woke found our
        // cell not free yet, and sleep again.
        self.notify_of_hands();
        self.carry_out(self.returns.leases.notify_of_store(count));
    }

    /// The cells of messages that must not return yet.
    fn held_back_now(&self) -> Vec<usize> {
        let now = Instant::now();
        let mut held_back = self.held_back();
        held_back.retain(|(_, due)| *due > now);
        held_back.iter().map(|(cell, _)| *cell).collect()
    }

    fn held_back(&self) -> MutexGuard<'_, Vec<(usize, Instant)>> {
        self.returns.held_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The side at which a handle with its cursor `at` waits.
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
        // A fault ends the wait.
        let Ok(port) = self.port() else { return true };
        port.free_cell(1).is_ok() || self.owes_now()
    }

    fn drive_owed(self: Arc<Self>) {
        if owed_wait::has_driver() && self.owes_now() && self.returns.driven.begin() {
            let side = Side::new(&self.segment, WaitsFor::Room).of_record(self.record());
            let driver = owed_wait::drive(&self.as_holder(), Until::Room(side));
            let before = core::mem::replace(&mut *self.driver(), driver);
            // After the lock is released, because dropping a waker runs code of the driver.
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
        // Owed messages, and those of leaked leases. Messages that find no room have no owner from
        // here on, and are recovered as if this process had died. So are all messages of a handle
        // of a corrupt queue.
        if self.port.ring().condition.check().is_ok() {
            let (gone, left) = self.port.give_all_back();
            if gone > 0 {
                self.returned(u32::MAX);
            }
            self.leftovers.count = left;
        }
        self.port.record().unname(self.leftovers.count);
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

    /// A queue whose record 1 has a leftover: a message without an owner that finds no room.
    fn with_a_leftover(handles: usize) -> (Queue, Sender) {
        let queue = Queue::builder().capacity(1).handles(handles).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.try_send(b"first").unwrap();
        let lease = receiver.try_lease().unwrap();
        sender.try_send(b"second").unwrap();
        // Owed, and left by the handle as if its process had died.
        drop(lease);
        (queue, sender)
    }

    /// Why `attach` was refused before the time was over for which a new handle waits for auditors.
    /// `None` also if it was over, as it may be on a loaded machine.
    fn refused_too_early(attach: impl FnOnce() -> Option<AttachError>) -> Option<AttachError> {
        let begin = Instant::now();
        attach().filter(|_| begin.elapsed() < Duration::from_millis(100))
    }

    /// Fails if a refusal wakes all waiters (seen failing).
    #[test]
    fn a_handle_that_is_refused_leftovers_wakes_no_waiter() {
        let (queue, sender) = with_a_leftover(2);
        let side = sender.side();
        let word = || side.gate().unwrap().word().load(Relaxed);
        let before = word();
        assert!(queue.sender().is_err());
        assert_eq!(word(), before);
    }

    /// Fails if a new handle holds a record as its own before it has decided to take it (seen failing).
    #[test]
    fn a_receiver_gets_a_record_with_leftovers_while_senders_are_refused_it() {
        let (queue, _sender) = with_a_leftover(2);
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

    /// Fails if a receiver reports the end while an auditor recovers a record (seen failing).
    #[test]
    fn a_queue_has_not_ended_while_an_auditor_returns_messages() {
        let (queue, _sender) = with_a_leftover(3);
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
        assert!(queue.sender().is_err(), "no auditor holds the record, and it is not free");
    }
}

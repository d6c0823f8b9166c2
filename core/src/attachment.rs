//! An attachment: a handle's record, its mapping, and the lock that the mapping is.
#![expect(unsafe_code, reason = "ties a port to the mapping that it borrows from")]

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{AttachError, Corrupt, Fault};
use crate::futex::Futex;
use crate::gate::Wake;
use crate::join::let_joiners_order_us;
use crate::locks::Owner;
use crate::port::Port;
use crate::position::Position;
use crate::recovery::wake_everybody;
use crate::segment::{Mapping, Segment};
use crate::side::{Side, WaitsFor};
use crate::sync::Ordering::{Relaxed, Release};
use crate::sync::kill_point;

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
}

/// How long somebody waits for those who have a record for a moment, auditors mostly, when no record
/// is free or a queue seems to have ended, and how often a new handle looks. Nobody's life is decided
/// by it: an auditor that is stopped keeps what it has.
pub(crate) const AUDIT_PATIENCE: Duration = Duration::from_millis(100);
const AUDIT_PAUSE: Duration = Duration::from_micros(100);

/// Whether a handle can begin with messages that the record's last owner left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heir {
    /// It receives: what finds no room in the ring is received by it first.
    Yes,
    No,
}

/// Recovers the record of `port`, whose lock the caller has, if its last owner is dead. An error if the
/// record is not for this handle: it holds so many messages for which there is no room.
fn recover(port: &Port<'_>, heir: Heir) -> Result<(), usize> {
    let (gone, left) = port.give_all_back();
    // A handle that went by itself says so by its pid.
    let is_dead = port.record().pid.load(Relaxed) != 0;
    let is_taken = left == 0 || heir == Heir::Yes;
    if is_dead && is_taken {
        port.record().tally.recovered.increment();
    }
    if is_dead && is_taken || gone > 0 {
        wake_everybody(port.ring());
    }
    if is_taken { Ok(()) } else { Err(left) }
}

impl Attachment {
    pub(crate) fn new(
        segment: &Arc<Segment>,
        trusted: bool,
        heir: Heir,
    ) -> Result<Arc<Self>, AttachError> {
        let_joiners_order_us();
        // A record with an inheritance is the last choice.
        let attached = match Self::claim(segment, Heir::No) {
            Err(AttachError::NoFreeHandle { .. }) if heir == Heir::Yes => {
                Self::claim(segment, Heir::Yes)
            }
            attached => attached,
        };
        let (port, mapping) = attached?;
        port.record().pid.store(std::process::id(), Release); // [arrival]
        let new = Arc::new(Self { port, mapping, segment: Arc::clone(segment), trusted });
        new.announce_arrival();
        Ok(new)
    }

    /// Takes the first free record; if its last owner is dead, recovers it first.
    fn claim(segment: &Segment, heir: Heir) -> Result<(Port<'static>, Mapping), AttachError> {
        let os = |call| move |cause: io::Error| AttachError::Os { call, cause };
        segment.finding().check()?;
        let locks = segment.locks().map_err(|cause| AttachError::Proc { cause })?;
        let mapping = segment.map(&locks).map_err(os("mmap"))?;
        let begin = Instant::now();
        // Records that may be free now or in a moment.
        let mut ids: Vec<u32> = (0..segment.geometry().handles()).collect();
        loop {
            let (mut corrupt, mut refused) = (None, Vec::new());
            for &id in &ids {
                if !locks.take(id).map_err(os("F_OFD_SETLK"))? {
                    continue;
                }
                // SAFETY: the port goes into one struct with the mapping, which is handed on
                // unmoved in memory (its base is where it was), and is reached through that struct
                // alone.
                let ring = unsafe { mapping.ring_unbound() };
                match Port::take_over(ring, id) {
                    Ok(Some(port)) => match recover(&port, heir) {
                        Ok(()) => {
                            locks.keep(id).map_err(os("F_OFD_SETLK"))?;
                            // The description is closed here; the mapping keeps it, and so the lock.
                            kill_point("close");
                            return Ok((port, mapping));
                        }
                        Err(left) => {
                            segment.owe(left);
                            refused.push(id);
                        }
                    },
                    // Its audit must wait for another handle.
                    Ok(None) => {}
                    // One record that somebody scribbled on does not keep the others.
                    Err(error) => corrupt = Some(error),
                }
                locks.release(id).map_err(os("F_OFD_SETLK"))?;
            }
            if let Some(corrupt) = corrupt {
                return Err(corrupt.into());
            }
            let lives = |id: &u32| matches!(segment.owner(*id), Ok(Some(Owner::Handle)));
            ids.retain(|id| !refused.contains(id) && !lives(id));
            if ids.is_empty() || begin.elapsed() >= AUDIT_PATIENCE {
                let handles = segment.geometry().handles() as usize;
                return Err(AttachError::NoFreeHandle { handles });
            }
            thread::sleep(AUDIT_PAUSE);
        }
    }

    /// Has those who wait look whom they wait with: see [`Side::peers`](crate::driver::Side::peers).
    fn announce_arrival(&self) {
        let control = self.port.ring().control;
        control.rare.arrivals.fetch_add(1, Release); // [arrival]
        for gate in control.gates() {
            self.carry_out(gate.notify(u32::MAX));
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

    /// Where a handle waits that stands `at`.
    pub(crate) fn side(&self, waits_for: WaitsFor, at: Position) -> Side {
        Side::new(&self.segment, waits_for).of_handle(self.port.id(), at)
    }

    pub(crate) fn futex(&self) -> Futex<'_> {
        Futex::counted(&self.port.record().tally)
    }

    /// Tells those who join, after an acknowledgement.
    #[inline]
    pub(crate) fn notify_joiners(&self) {
        let control = self.port.ring().control;
        self.carry_out(control.after_recv.acknowledged.notify_of_store(u32::MAX));
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

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.mapping.is_forked() {
            return;
        }
        // Leases that were lost in a panic, and an inheritance that was not received. What finds no
        // room has no owner from here on, and is recovered as if we had died.
        let (gone, _) = self.port.give_all_back();
        if gone > 0 {
            self.carry_out(self.port.ring().control.after_send.readable.notify(u32::MAX));
        }
        // Who acknowledged it meanwhile could not tell a joiner, for our cell held it.
        self.notify_joiners();
        self.port.record().pid.store(0, Relaxed);
    }
}

impl core::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Attachment").field("record", &self.port.id()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(kill_points)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use crate::{Queue, Receiver, RecvError, Sender};

    /// A queue whose record 1 was left with a message for which there is no room.
    fn with_an_inheritance(handles: usize) -> (Queue, Sender) {
        let queue = Queue::builder().capacity(1).handles(handles).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.try_send(b"first").unwrap();
        let lease = receiver.try_lease().unwrap();
        sender.try_send(b"second").unwrap();
        lease.abandon();
        (queue, sender)
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
            let refused = (0..3000).filter_map(|_| queue.receiver().err()).next();
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
        let locks = queue.segment().locks().unwrap();
        assert!(locks.take(1).unwrap());
        assert_eq!(receiver.answer(Receiver::try_recv), None);
        locks.release(1).unwrap();
        assert_eq!(receiver.answer(Receiver::try_recv), Some(Ok(b"first".to_vec())));
        assert_eq!(receiver.answer(Receiver::try_recv), Some(Err(RecvError::Closed)));
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
                    let locks = queue.segment().locks().unwrap();
                    if locks.take(0).unwrap() {
                        locks.release(0).unwrap();
                    }
                }
            });
            let refused = (0..1000).filter_map(|_| queue.sender().err()).next();
            is_over.store(true, Relaxed);
            assert!(refused.is_none(), "{refused:?}");
        });
        let _taken = queue.sender().unwrap();
        assert!(queue.sender().is_err(), "nobody audits, and nothing is free");
    }
}

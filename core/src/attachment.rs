//! An attachment: a handle's record, its mapping, and the lock that the mapping is.
#![expect(unsafe_code, reason = "ties a port to the mapping that it borrows from")]

use std::sync::Arc;

use crate::error::{AttachError, Corrupt, Fault};
use crate::futex::Futex;
use crate::gate::Wake;
use crate::join::let_joiners_order_us;
use crate::port::Port;
use crate::recovery::wake_everybody;
use crate::segment::{Claim, Mapping, Segment};
use crate::side::{Side, WaitsFor};
use crate::sync::Ordering::{Relaxed, Release};

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

/// Whether a handle can begin with messages that the record's last owner left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heir {
    /// It receives: what finds no room in the ring is received by it first.
    Yes,
    No,
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
        port.record().pid.store(std::process::id(), Release);
        let new = Arc::new(Self { port, mapping, segment: Arc::clone(segment), trusted });
        new.announce_arrival();
        Ok(new)
    }

    /// Takes the first free record; if its last owner is dead, recovers it first.
    fn claim(segment: &Segment, heir: Heir) -> Result<(Port<'static>, Mapping), AttachError> {
        let mut waiting = 0;
        let claimed = segment.claim(|mapping, id| {
            // SAFETY: the port goes into one struct with the mapping, which `claim` hands back
            // unmoved in memory (its base is where it was), and is reached through that struct
            // alone.
            let ring = unsafe { mapping.ring_unbound() };
            let Some(port) = Port::take_over(ring, id)? else { return Ok(Claim::Postponed) };
            let (gone, left) = port.give_all_back();
            // A handle that was given back says so by its pid.
            let is_dead = port.record().pid.load(Relaxed) != 0;
            let is_taken = left == 0 || heir == Heir::Yes;
            if is_dead && is_taken {
                port.record().tally.recovered.increment();
            }
            if is_dead && is_taken || gone > 0 {
                wake_everybody(&ring);
            }
            waiting = if is_taken { waiting } else { left.saturating_add(waiting) };
            Ok(if is_taken { Claim::Taken(port) } else { Claim::Refused })
        });
        segment.owe(waiting);
        claimed
    }

    /// Has those who wait look whom they wait with: see [`Side::peers`](crate::driver::Side::peers).
    fn announce_arrival(&self) {
        let control = self.port.ring().control;
        // Release, as the pid before it: who sees that we came sees who we are.
        control.rare.arrivals.fetch_add(1, Release);
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

    pub(crate) fn side(&self, waits_for: WaitsFor) -> Side {
        Side::new(&self.segment, waits_for, Some(self.port.id()))
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
        // Leases that were lost in a panic, and an inheritance that was not received.
        let (gone, left) = self.port.give_all_back();
        if gone > 0 {
            self.carry_out(self.port.ring().control.after_send.readable.notify(u32::MAX));
        }
        // Who acknowledged it meanwhile could not tell a joiner, for our cell held it.
        self.notify_joiners();
        // What is left has no owner from here on, and is recovered as if we had died.
        if left == 0 {
            self.port.record().pid.store(0, Relaxed);
        }
    }
}

impl core::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Attachment").field("record", &self.port.id()).finish_non_exhaustive()
    }
}

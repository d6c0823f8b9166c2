//! An attachment: a handle's record, its mapping, and the lock that the mapping is.
#![expect(unsafe_code, reason = "ties a port to the mapping that it borrows from")]

use std::sync::Arc;

use crate::error::{AttachError, Fault};
use crate::futex::Futex;
use crate::gate::Gate;
use crate::port::Port;
use crate::segment::{Mapping, Segment};
use crate::slot::Verb;
use crate::sync::Ordering::Relaxed;

/// What a handle and its leases share.
pub(crate) struct Attachment {
    /// Borrows from `mapping`, whatever its lifetime says: handed out with the lifetime of `&self`
    /// only.
    port: Port<'static>,
    mapping: Mapping,
    /// Whether the opener vouched for all peers, see
    /// [`Queue::trust_peers`](crate::Queue::trust_peers).
    pub(crate) trusted: bool,
}

impl Attachment {
    pub(crate) fn new(segment: &Segment, trusted: bool) -> Result<Arc<Self>, AttachError> {
        let (port, mapping) = segment.claim(|mapping, id| {
            // SAFETY: the port goes into one struct with the mapping, which `claim` hands back
            // unmoved in memory (its base is where it was), and is reached through that struct
            // alone.
            let ring = unsafe { mapping.ring_unbound() };
            Ok(Port::take_over(ring, id)?)
        })?;
        port.record().pid.store(std::process::id(), Relaxed);
        Ok(Arc::new(Self { port, mapping, trusted }))
    }

    /// The port, unless this is a forked child, where its memory does not exist.
    #[inline]
    pub(crate) fn port(&self) -> Result<&Port<'_>, Fault> {
        if self.mapping.is_forked() { Err(Fault::Forked) } else { Ok(&self.port) }
    }
}

impl core::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Attachment").field("record", &self.port.id()).finish_non_exhaustive()
    }
}

/// The side of a queue that a handle waits at: for drivers that park tasks.
///
/// Keeps the handle's record and mapping alive.
#[derive(Clone, Debug)]
pub struct Side {
    attachment: Arc<Attachment>,
    verb: Verb,
}

impl Side {
    pub(crate) fn new(attachment: Arc<Attachment>, verb: Verb) -> Self {
        Self { attachment, verb }
    }

    /// Where this side waits; `None` in a forked child.
    pub fn gate(&self) -> Option<&Gate> {
        let control = self.attachment.port().ok()?.ring().control;
        Some(match self.verb {
            Verb::Send => &control.writable,
            Verb::Recv => &control.readable,
        })
    }

    /// Whether a waiter would find something to do. Others may be quicker.
    pub fn is_ready(&self) -> bool {
        self.attachment.port().map_or(true, |port| port.ring().is_ready(self.verb))
    }

    /// The same for all clones of one handle's side, and for no other that lives.
    pub fn key(&self) -> (usize, bool) {
        (Arc::as_ptr(&self.attachment).addr(), self.verb == Verb::Send)
    }

    /// How often a waiter looks without having been woken.
    pub fn watchdog(&self) -> std::time::Duration {
        self.attachment.port.ring().geometry.watchdog()
    }

    /// Passes a wake on to another waiter of this side, in whatever process, if there is something
    /// to do.
    pub fn pass_on(&self) {
        if let Some(gate) = self.gate()
            && self.is_ready()
            && let Some(wake) = gate.notify(1)
        {
            wake.carry_out(&Futex);
        }
    }
}

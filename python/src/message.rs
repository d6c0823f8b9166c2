//! A message that a get took and has not decoded yet.

use parkline_uring::{Fault, Lease};

pub(crate) enum Message {
    /// If it is dropped, the message goes back into the queue.
    Leased(Lease),
    /// From a queue without leases: this process has the only copy.
    Copied(Vec<u8>),
}

impl Message {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Leased(lease) => lease.len(),
            Self::Copied(bytes) => bytes.len(),
        }
    }

    /// How often it was delivered, this time included, as far as that is known.
    pub(crate) fn attempts(&self) -> u32 {
        match self {
            Self::Leased(lease) => lease.attempts().into(),
            Self::Copied(_) => 1,
        }
    }

    /// Copies its bytes from `offset` on into `to`, until either ends.
    ///
    /// # Errors
    /// [`Fault::Forked`].
    pub(crate) fn copy_from(&self, offset: usize, to: &mut [u8]) -> Result<(), Fault> {
        match self {
            Self::Leased(lease) => lease.copy_from(offset, to).map(drop),
            Self::Copied(bytes) => {
                let from = bytes.get(offset..).unwrap_or_default();
                let len = from.len().min(to.len());
                to[..len].copy_from_slice(&from[..len]);
                Ok(())
            }
        }
    }

    /// Acknowledges it: it is not delivered again.
    pub(crate) fn ack(self) {
        if let Self::Leased(lease) = self {
            lease.ack();
        }
    }
}

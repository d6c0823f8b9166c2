//! A lease: a message that a receiver holds, and has not acknowledged.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::attachment::Attachment;
use crate::error::{Fault, TrySendError};
use crate::frame::{Block, Frame};
use crate::message::{InBlock, Message};
use crate::ring::Stop;

/// A received message that is not yet acknowledged. Dropping it acknowledges, unless the thread is
/// panicking: then the message is delivered again once its receiver is gone.
///
/// Keeps its receiver's record and mapping alive.
#[must_use = "dropping a lease acknowledges the message"]
pub struct Lease<M: Message + ?Sized = [u8]> {
    attachment: Arc<Attachment>,
    cell: usize,
    frame: Frame,
    /// The cell is not to be acknowledged any more.
    returned: bool,
    carries: PhantomData<fn() -> Box<M>>,
}

impl<M: Message + ?Sized> Lease<M> {
    /// Of the message that `attachment` holds in `cell`.
    pub(crate) fn new(attachment: Arc<Attachment>, cell: usize, frame: Frame) -> Self {
        Self { attachment, cell, frame, returned: false, carries: PhantomData }
    }

    pub(crate) fn is_of(&self, attachment: &Arc<Attachment>) -> bool {
        Arc::ptr_eq(&self.attachment, attachment)
    }

    /// Puts the message back into the ring.
    pub(crate) fn give_back(mut self) -> Result<(), TrySendError<Self>> {
        let port = self.attachment.port().map_err(Stop::from);
        let given = port.and_then(|port| {
            port.give_back(port.cell(self.cell)?, self.frame)?;
            Ok(port.ring().control)
        });
        match given {
            Ok(control) => {
                self.attachment.carry_out(control.after_send.readable.notify(1));
                // Whoever acknowledged it meanwhile could not tell a joiner, for our cell held it.
                self.attachment.notify_joiners();
                self.returned = true;
                Ok(())
            }
            Err(stop) => Err(TrySendError::from(stop).map(|()| self)),
        }
    }

    /// The message's length in bytes.
    pub fn len(&self) -> usize {
        self.frame.len()
    }

    /// Whether the message has no bytes.
    pub fn is_empty(&self) -> bool {
        self.frame.is_empty()
    }

    /// Whether an earlier receiver got this message and did not acknowledge it.
    pub fn redelivered(&self) -> bool {
        self.frame.redelivered()
    }

    /// How often this message was handed to a receiver, this time included.
    pub fn attempts(&self) -> u16 {
        self.frame.attempts()
    }

    /// Copies the message out.
    ///
    /// # Errors
    /// [`Fault::Forked`]; [`Fault::Corrupt`] if a peer scribbled on the segment.
    pub fn read(&self) -> Result<M::Owned, Fault> {
        let message = InBlock::of(self.attachment.port()?, self.cell, self.frame);
        message.and_then(M::read).map_err(|corrupt| self.attachment.keep(corrupt))
    }

    /// Copies the start of the message into `buffer`; returns how many bytes that is.
    ///
    /// # Errors
    /// [`Fault::Forked`].
    pub fn copy_to(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let len = buffer.len().min(self.len());
        let block = self.block()?;
        block.read(buffer.get_mut(..len).unwrap_or_default());
        Ok(len)
    }

    /// Copies the message from `offset` on into `buffer`; returns how many bytes that is.
    ///
    /// # Errors
    /// [`Fault::Forked`].
    pub fn copy_from(&self, offset: usize, buffer: &mut [u8]) -> Result<usize, Fault> {
        let len = buffer.len().min(self.len().saturating_sub(offset));
        let block = self.block()?;
        block.read_at(offset, buffer.get_mut(..len).unwrap_or_default());
        Ok(len)
    }

    /// The message's bytes in place, if the queue's opener vouched for all its peers by
    /// [`Queue::trust_peers`](crate::Queue::trust_peers).
    #[expect(unsafe_code, reason = "in-place views, for those who vouched for their peers")]
    pub fn as_slice(&self) -> Option<&[u8]> {
        if !self.attachment.trusted {
            return None;
        }
        let block = self.block().ok()?;
        // SAFETY: the frame was checked to fit the block. The block is in a cell of ours that stays
        // held as long as the lease lives, and the opener vouched that no other process writes what
        // it does not own.
        Some(unsafe { core::slice::from_raw_parts(block.payload_ptr(), self.len()) })
    }

    fn block(&self) -> Result<Block<'_>, Fault> {
        let port = self.attachment.port()?;
        Ok(port.block_of(port.cell(self.cell)?)?)
    }

    /// Whether this is a forked child of the process that received it.
    pub(crate) fn is_forked(&self) -> bool {
        self.attachment.mapped_port().is_err()
    }

    /// Acknowledges: the message will not be delivered again.
    pub fn ack(self) {}

    /// Lets the message go without an acknowledgement: it is delivered again once its receiver, and
    /// all leases of it, are gone.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// queue.sender()?.try_send(b"job")?;
    /// let mut receiver = queue.receiver()?;
    /// receiver.try_lease()?.abandon();
    /// assert!(receiver.try_lease().is_err(), "not while the receiver lives");
    /// drop(receiver);
    /// assert!(queue.receiver()?.try_lease()?.redelivered());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abandon(mut self) {
        self.returned = true;
    }
}

impl<M: Message + ?Sized> Drop for Lease<M> {
    fn drop(&mut self) {
        if !self.returned
            && !std::thread::panicking()
            && let Ok(port) = self.attachment.mapped_port()
        {
            port.acknowledge(self.cell);
            self.attachment.notify_joiners();
        }
    }
}

impl<M: Message + ?Sized> core::fmt::Debug for Lease<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Lease").field("frame", &self.frame).finish_non_exhaustive()
    }
}

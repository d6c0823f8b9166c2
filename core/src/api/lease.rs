//! A lease: a message that a receiver holds and has not acknowledged.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::message::{InBlock, Message};
use crate::error::Fault;
use crate::process::attachment::Attachment;
use crate::ring::frame::{Block, Frame};

/// A received message that is not yet acknowledged.
///
/// Only [`ack`](Self::ack) ends it as done. In every other case its message goes back to the end of
/// the queue and is delivered again, flagged [`redelivered`](Self::redelivered), with one attempt
/// more: when the lease is dropped, also by a panic, by `?`, or because its task was cancelled;
/// when its process ends; and by [`nack`](Self::nack), which only drops it.
///
/// If the queue is full at that moment, the message is *owed*: the handle keeps it, and returns it
/// as soon as this process makes or finds room ([`Stats::owed`](crate::Stats::owed)). Until then
/// the message occupies one of the handle's leases.
///
/// A lease can end on any thread and in any task, without its receiver. It keeps the receiver's
/// record and mapping alive.
///
/// No lease ends because of time: a holder that hangs keeps its message. Use a timeout of your own
/// that drops the lease or ends the process.
///
/// ```
/// let queue = parkline_core::Queue::builder().create()?;
/// queue.sender()?.try_send(b"job")?;
/// let mut receiver = queue.receiver()?;
/// drop(receiver.try_lease()?);
/// let again = receiver.try_lease()?;
/// assert!(again.redelivered() && again.attempts() == 2);
/// assert_eq!((again.len(), again.is_empty()), (3, false));
/// again.ack();
/// assert!(receiver.try_lease().is_err(), "it is done");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a lease returns the message to the queue; `ack` says that it is done"]
pub struct Lease<M: Message + ?Sized = [u8]> {
    attachment: Arc<Attachment>,
    cell: usize,
    frame: Frame,
    id: u64,
    /// The message is acknowledged, or on its way back.
    is_over: bool,
    carries: PhantomData<fn() -> Box<M>>,
}

impl<M: Message + ?Sized> Lease<M> {
    /// The lease of `message`, which `attachment` holds in `cell`.
    pub(crate) fn new(attachment: Arc<Attachment>, cell: usize, message: InBlock<'_>) -> Self {
        let (frame, id) = (message.frame(), message.id());
        Self { attachment, cell, frame, id, is_over: false, carries: PhantomData }
    }

    /// The message's id. No other message of the queue has it, and it stays the same at every
    /// delivery, also after the receiver or the sender has died. So a consumer that keeps the ids
    /// of what it has done can tell a message that comes again.
    ///
    /// Ids are unique within one queue. A queue that is created anew repeats them: where ids leave
    /// the queue, as in a database, keep [`Queue::id`](crate::Queue::id) beside them. A message that
    /// is sent to another queue, also [as a dead
    /// letter](crate::Receiver::forward_dead_letters), is a new one there, with another id.
    ///
    /// Ids say nothing else: they are not in the order of the messages, and some are never used. A
    /// hostile peer can store any number.
    ///
    /// ```
    /// use std::collections::HashSet;
    ///
    /// let queue = parkline_core::Queue::builder().create()?;
    /// queue.sender()?.try_send_many([&b"a"[..], b"b"])?;
    /// let mut receiver = queue.receiver()?;
    /// receiver.try_lease()?.nack(); // it comes again, after the other
    /// let mut done = HashSet::new();
    /// while let Ok(lease) = receiver.try_lease() {
    ///     assert!(done.insert(lease.id()), "done before");
    ///     lease.ack();
    /// }
    /// assert_eq!(done.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(&self) -> u64 {
        self.id
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

    /// How many times this message was delivered to a receiver, this time included.
    pub fn attempts(&self) -> u16 {
        self.frame.attempts()
    }

    /// Copies the message out. It stays leased.
    ///
    /// # Errors
    /// [`Fault::Forked`]; [`Fault::Corrupt`] if a peer overwrote the segment.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create_typed::<u64>()?;
    /// queue.sender()?.try_send(&42)?;
    /// let mut receiver = queue.receiver()?;
    /// let lease = receiver.try_lease()?;
    /// assert_eq!((lease.read()?, lease.read()?), (42, 42));
    /// drop(lease);
    /// assert_eq!(receiver.try_recv()?, 42, "to read is not to acknowledge");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(&self) -> Result<M::Owned, Fault> {
        let port = self.attachment.port()?;
        let message = port.cell(self.cell).and_then(|cell| InBlock::of(port, cell, self.frame));
        message.and_then(M::read).map_err(|corrupt| self.attachment.keep(corrupt))
    }

    /// Copies the start of the message into `buffer`; returns how many bytes: the
    /// length of the message or of `buffer`, whichever is less.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// queue.sender()?.try_send(b"hello")?;
    /// let mut receiver = queue.receiver()?;
    /// let lease = receiver.try_lease()?;
    /// let (mut short, mut long) = ([0; 2], [0; 8]);
    /// assert_eq!((lease.copy_to(&mut short)?, lease.copy_to(&mut long)?), (2, 5));
    /// assert_eq!((&short, &long), (b"he", b"hello\0\0\0"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn copy_to(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let len = buffer.len().min(self.len());
        let block = self.block()?;
        block.read(buffer.get_mut(..len).unwrap_or_default());
        Ok(len)
    }

    /// Copies the message from `offset` on into `buffer`; returns how many bytes: 0 if `offset` is
    /// at or beyond the end.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// queue.sender()?.try_send(b"hello")?;
    /// let mut receiver = queue.receiver()?;
    /// let lease = receiver.try_lease()?;
    /// let mut buffer = [0; 8];
    /// assert_eq!(lease.copy_from(3, &mut buffer)?, 2);
    /// assert_eq!(&buffer[..2], b"lo");
    /// assert_eq!(lease.copy_from(9, &mut buffer)?, 0, "beyond the end");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn copy_from(&self, offset: usize, buffer: &mut [u8]) -> Result<usize, Fault> {
        let len = buffer.len().min(self.len().saturating_sub(offset));
        let block = self.block()?;
        block.read_at(offset, buffer.get_mut(..len).unwrap_or_default());
        Ok(len)
    }

    /// The message's bytes in place, if the opener declared all peers trusted by
    /// [`Queue::trust_peers`](crate::Queue::trust_peers). `None` without that trust, in a forked
    /// child, and of a corrupt queue.
    ///
    /// ```
    /// use parkline_core::Queue;
    ///
    /// let queue = Queue::builder().create()?;
    /// queue.sender()?.try_send(b"hello")?;
    /// assert_eq!(queue.receiver()?.try_lease()?.as_slice(), None, "peers are not trusted");
    /// // SAFETY: no other process has this queue, and none gets it.
    /// let queue = unsafe { queue.trust_peers() };
    /// assert_eq!(queue.receiver()?.try_lease()?.as_slice(), Some(&b"hello"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[expect(unsafe_code, reason = "in-place views, for those who vouched for their peers")]
    pub fn as_slice(&self) -> Option<&[u8]> {
        if !self.attachment.trusted {
            return None;
        }
        let block = self.block().ok()?;
        // SAFETY: the frame was checked to fit the block. The block is in a cell of this handle
        // that stays held as long as the lease lives, and the opener declared that no other process
        // writes to a block that it does not own.
        Some(unsafe { core::slice::from_raw_parts(block.payload_ptr(), self.len()) })
    }

    fn block(&self) -> Result<Block<'_>, Fault> {
        let port = self.attachment.port()?;
        Ok(port.block_of(port.cell(self.cell)?)?)
    }

    /// Acknowledges: the message is done, and is not delivered again.
    ///
    /// In a forked child of the receiving process, and once the queue was found corrupt, this does
    /// nothing.
    ///
    /// # Ordering
    /// What happened before this happens before a [join](crate::Queue::join_blocking) that waits for
    /// the message returns.
    ///
    /// # If a peer dies
    /// If this process dies in the call, the message is done or is delivered again.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// queue.sender()?.try_send(b"job")?;
    /// let mut receiver = queue.receiver()?;
    /// receiver.try_lease()?.ack();
    /// assert!(receiver.try_lease().is_err(), "it is done");
    /// assert_eq!(queue.join_blocking(), Ok(()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn ack(mut self) {
        self.is_over = true;
        // In a forked child, and on a corrupt segment, nothing is touched.
        if let Ok(Ok(cell)) = self.attachment.port().map(|port| port.cell(self.cell)) {
            cell.acknowledge();
            self.attachment.acknowledged();
        }
    }

    /// Acknowledges a dead letter after its handler took it.
    #[doc(hidden)]
    pub fn ack_dead(self) {
        if let Ok(port) = self.attachment.port() {
            port.record().tally.dead_lettered.add_one();
        }
        self.ack();
    }

    /// Returns the message to the end of the queue, flagged as redelivered: the same as dropping
    /// the lease. It goes back after a close too, because messages sent before the close can still
    /// be received.
    ///
    /// # Ordering
    /// What happened before this happens before the next receive of the message returns.
    ///
    /// # If a peer dies
    /// If this process dies in the call, the message is delivered again.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().capacity(1).create()?;
    /// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    /// sender.try_send(b"first")?;
    /// let first = receiver.try_lease()?;
    /// sender.try_send(b"second")?;
    /// first.nack(); // the queue is full: it is owed
    /// assert_eq!(queue.stats().owed, 1);
    /// assert_eq!(receiver.try_recv()?, b"second"); // that makes room
    /// assert_eq!(receiver.try_recv()?, b"first");
    /// assert_eq!(queue.stats().owed, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn nack(self) {}

    /// As [`nack`](Self::nack), but not before `delay` is over: for a job that failed for a cause
    /// that takes time to mend, so that it does not use up its attempts in a loop.
    ///
    /// Until then the handle keeps the message, which occupies one of its leases. If the handle or
    /// its process ends first, the message goes back at once. After the delay it goes back at the
    /// first of these: a receive of this handle; a wait of this process on this queue (a sleeping
    /// thread wakes for it); or, with `parkline-uring`, when the delay is over. A delay of more than
    /// 100 years is one of 100 years.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let queue = parkline_core::Queue::builder().create()?;
    /// queue.sender()?.try_send(b"job")?;
    /// let mut receiver = queue.receiver()?;
    /// receiver.try_lease()?.nack_after(Duration::from_millis(10));
    /// assert!(receiver.try_lease().is_err(), "not yet");
    /// assert_eq!(receiver.lease_blocking()?.attempts(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn nack_after(mut self, delay: Duration) {
        // A delay beyond the range of the clock is cut to a hundred years.
        let ages = Duration::from_secs(100 * 365 * 24 * 3600);
        let due = Instant::now().checked_add(delay.min(ages));
        self.is_over = true;
        self.attachment.give_back(self.cell, self.frame, due);
    }
}

impl<M: Message + ?Sized> Drop for Lease<M> {
    fn drop(&mut self) {
        if !self.is_over {
            self.attachment.give_back(self.cell, self.frame, None);
        }
    }
}

impl<M: Message + ?Sized> core::fmt::Debug for Lease<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Lease")
            .field("id", &self.id)
            .field("frame", &self.frame)
            .finish_non_exhaustive()
    }
}

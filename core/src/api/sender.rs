//! The sending handle.

use std::io;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::message::{InBlock, Message};
use crate::api::pack::{Pack, Packing};
use crate::error::{Fault, SendError, SendTimeoutError, TrySendError};
use crate::process::attachment::Attachment;
use crate::process::segment::Segment;
use crate::process::side::{Side, Waits, WaitsFor, wait_blocking};
use crate::ring::frame::{Block, Frame};
use crate::ring::port::Port;
use crate::ring::position::Position;
use crate::ring::prefetch;
use crate::ring::slot::Verb;
use crate::ring::swap::Swapped;
use crate::wait::spin::Spin;

/// A message up to this size is written before the slot is first checked: then the load and the
/// exchange are close together, and fewer exchanges fail. A larger message is written after the
/// check, so that it is not copied for nothing when the queue is full.
const WRITE_FIRST: usize = 256;

/// Sends to a queue. Exclusive: no lock, no shared counter, nothing shared with another handle but
/// the ring.
///
/// Dropping it frees its record. That does not close the queue, because processes come and go: call
/// [`Queue::close`](crate::Queue::close).
///
/// ```
/// use parkline_core::{Queue, TrySendError};
///
/// let queue = Queue::builder().capacity(1).create()?;
/// let mut sender = queue.sender()?;
/// sender.try_send(b"first")?;
/// assert_eq!(sender.try_send(b"second"), Err(TrySendError::Full(())));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sender<M: Message + ?Sized = [u8]> {
    attachment: Arc<Attachment>,
    at: Position,
    spin: Spin,
    carries: PhantomData<fn(&M)>,
}

impl<M: Message + ?Sized> Sender<M> {
    pub(crate) fn new(attachment: Arc<Attachment>) -> Result<Self, Fault> {
        let at = attachment.port()?.start(Verb::Send)?;
        Ok(Self { attachment, at, spin: Spin::default(), carries: PhantomData })
    }

    /// Sets how long at most a blocking call or [`block_on`] spins for room before the thread
    /// sleeps: 50 us by default. With zero the thread sleeps at once.
    ///
    /// The thread spins only while that pays off. If the peer needs this core, or receives are
    /// rare, it soon sleeps at once, and spins only now and then to try. A thread in [`block_on`]
    /// spins for all its tasks when none of them can run, for the shortest limit among them. Other
    /// runtimes do not spin.
    ///
    /// [`block_on`]: https://docs.rs/parkline-uring/latest/parkline_uring/fn.block_on.html
    ///
    /// ```
    /// use parkline_core::Queue;
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut sender = queue.sender()?;
    /// sender.set_spin(Duration::from_micros(10));
    /// sender.send_blocking(b"hello")?;
    /// queue.close()?;
    /// assert!(sender.send_blocking(b"too late").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_spin(&mut self, limit: Duration) {
        self.spin.limit = limit;
    }

    /// The limit that [`set_spin`](Self::set_spin) set. For drivers.
    #[doc(hidden)]
    pub fn spin_limit(&self) -> Duration {
        self.spin.limit
    }

    /// Sends a message if there is room. Lock-free: it never waits for a peer, whether that is
    /// dead, stopped or slow.
    ///
    /// `Ok` means committed: the message survives the death of this process.
    ///
    /// # Errors
    /// [`Full`](TrySendError::Full) and [`Closed`](TrySendError::Closed), exact at the instant of
    /// the check;
    /// [`Fault::MessageTooLarge`], [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # Ordering
    /// What happened before the send happens before the receive of this message. Messages of one
    /// sender are received in the order of their sends.
    ///
    /// # If a peer dies
    /// Nothing changes. If this process dies in the call, the message is sent or it is not.
    ///
    /// ```
    /// use parkline_core::{Fault, Queue, TrySendError};
    ///
    /// let queue = Queue::builder().capacity(1).max_message(5).create()?;
    /// let mut sender = queue.sender()?;
    /// assert_eq!(sender.try_send(b"hello"), Ok(()));
    /// assert_eq!(sender.try_send(b"again"), Err(TrySendError::Full(())));
    /// let too_large = Fault::MessageTooLarge { len: 8, max: 5 };
    /// assert_eq!(sender.try_send(b"too long"), Err(TrySendError::Fault((), too_large)));
    /// queue.receiver()?.try_recv()?;
    /// queue.close()?;
    /// assert_eq!(sender.try_send(b"late"), Err(TrySendError::Closed(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn try_send(&mut self, message: &M) -> Result<(), TrySendError> {
        self.commit_one(message)?;
        self.notify(self.attachment.same_port(), 1);
        Ok(())
    }

    /// Sends a message; the calling thread waits while the queue is full.
    ///
    /// # Errors
    /// [`Closed`](SendError::Closed), also while it waits; faults as [`try_send`](Self::try_send).
    ///
    /// # Ordering
    /// As [`try_send`](Self::try_send).
    ///
    /// # If a peer dies
    /// As [`try_send`](Self::try_send). If the wake of this thread is lost with a killed process,
    /// the thread attempts again within the watchdog's period.
    ///
    /// ```
    /// use parkline_core::{Queue, SendError};
    /// use std::thread;
    ///
    /// let queue = Queue::builder().capacity(1).create()?;
    /// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    /// let worker = thread::spawn(move || [receiver.recv_blocking(), receiver.recv_blocking()]);
    /// sender.send_blocking(b"a")?;
    /// sender.send_blocking(b"b")?; // waits while the first is in the queue
    /// assert_eq!(worker.join().unwrap(), [Ok(b"a".to_vec()), Ok(b"b".to_vec())]);
    /// queue.close()?;
    /// assert_eq!(sender.send_blocking(b"too late"), Err(SendError::Closed(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_blocking(&mut self, message: &M) -> Result<(), SendError> {
        let sent = self.wait_until(None, |sender| sender.try_send(message));
        sent.unwrap_or(Err(SendError::Closed(())))
    }

    /// As [`send_blocking`](Self::send_blocking), for at most `timeout`, which bounds the whole
    /// call. With zero it does not wait; a `timeout` beyond the clock's range, as `Duration::MAX`,
    /// never passes.
    ///
    /// # Errors
    /// [`Timeout`](SendTimeoutError::Timeout) when the queue stayed full: nothing was sent.
    /// Otherwise as [`send_blocking`](Self::send_blocking).
    ///
    /// ```
    /// use parkline_core::{Queue, SendTimeoutError};
    /// use std::time::Duration;
    ///
    /// let mut sender = Queue::builder().capacity(1).create()?.sender()?;
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(sender.send_blocking_timeout(b"first", soon), Ok(()));
    /// let refused = sender.send_blocking_timeout(b"second", soon);
    /// assert_eq!(refused, Err(SendTimeoutError::Timeout(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_blocking_timeout(
        &mut self,
        message: &M,
        timeout: Duration,
    ) -> Result<(), SendTimeoutError> {
        self.send_until(message, Instant::now().checked_add(timeout))
    }

    /// As [`send_blocking`](Self::send_blocking), until `deadline` at most.
    ///
    /// # Errors
    /// As [`send_blocking_timeout`](Self::send_blocking_timeout).
    ///
    /// ```
    /// use parkline_core::{Queue, SendTimeoutError};
    /// use std::time::Instant;
    ///
    /// let queue = Queue::builder().capacity(1).create()?;
    /// let mut sender = queue.sender()?;
    /// assert_eq!(sender.send_blocking_deadline(b"there is room", Instant::now()), Ok(()));
    /// let refused = sender.send_blocking_deadline(b"full", Instant::now());
    /// assert_eq!(refused, Err(SendTimeoutError::Timeout(())));
    /// queue.close()?;
    /// let refused = sender.send_blocking_deadline(b"too late", Instant::now());
    /// assert_eq!(refused, Err(SendTimeoutError::Closed(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_blocking_deadline(
        &mut self,
        message: &M,
        deadline: Instant,
    ) -> Result<(), SendTimeoutError> {
        self.send_until(message, Some(deadline))
    }

    fn send_until(&mut self, message: &M, until: Option<Instant>) -> Result<(), SendTimeoutError> {
        let sent = self.wait_until(until, |sender| sender.try_send(message));
        Ok(sent.ok_or(SendTimeoutError::Timeout(()))??)
    }

    /// Sends as many of `messages` as there is room for, in order, and wakes receivers once, at the
    /// end: receivers wait while the iterator blocks. Returns how many. Without messages it returns
    /// 0 at once, even if the queue is full or closed.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send), if the first message is refused. If a later one is, the
    /// count tells which; the next call tells why.
    ///
    /// # If a peer dies
    /// If this process dies in the call, the first messages are sent and the others are not. Then
    /// no receiver is woken for them, and those that wait find them within the watchdog's period.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().capacity(2).create()?;
    /// let mut sender = queue.sender()?;
    /// let messages: [&[u8]; 3] = [b"a", b"b", b"c"];
    /// assert_eq!(sender.try_send_many(messages)?, 2);
    /// assert!(sender.try_send_many(messages).is_err(), "full");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_send_many<'m>(
        &mut self,
        messages: impl IntoIterator<Item = &'m M>,
    ) -> Result<usize, TrySendError>
    where
        M: 'm,
    {
        let mut batch = Batch { sender: self, sent: 0 };
        for message in messages {
            match batch.sender.commit_one(message) {
                Ok(()) => batch.sent = batch.sent.saturating_add(1),
                Err(error) if batch.sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(batch.sent)
    }

    /// As [`try_send_many`](Self::try_send_many), but the calling thread waits until at least one
    /// message is sent. Without messages it does not wait and returns 0 at once.
    ///
    /// # Errors
    /// As [`send_blocking`](Self::send_blocking), if the first message is refused.
    ///
    /// # If a peer dies
    /// As [`try_send_many`](Self::try_send_many) and [`send_blocking`](Self::send_blocking).
    ///
    /// ```
    /// use parkline_core::{Queue, SendError};
    ///
    /// let queue = Queue::builder().capacity(2).create_typed::<u32>()?;
    /// let mut sender = queue.sender()?;
    /// assert_eq!(sender.send_many_blocking(&[1, 2, 3]), Ok(2), "the queue is full");
    /// queue.close()?;
    /// assert_eq!(sender.send_many_blocking(&[3]), Err(SendError::Closed(())));
    /// assert_eq!(sender.send_many_blocking(&[]), Ok(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_many_blocking<'m, I>(&mut self, messages: I) -> Result<usize, SendError>
    where
        M: 'm,
        I: IntoIterator<Item = &'m M>,
        I::IntoIter: Clone,
    {
        let messages = messages.into_iter();
        let sent = self.wait_until(None, |sender| sender.try_send_many(messages.clone()));
        sent.unwrap_or(Err(SendError::Closed(())))
    }

    /// The side at which this handle waits, for drivers that park tasks.
    pub fn side(&self) -> Side {
        self.attachment.side(WaitsFor::Room, self.at)
    }

    /// Commits a message, and wakes nothing.
    #[inline(always)]
    fn commit_one(&mut self, message: &M) -> Result<(), TrySendError> {
        let bytes = message.bytes();
        let attachment = &*self.attachment;
        if let Some(port) = attachment.usual_port()
            && bytes.len() <= WRITE_FIRST.min(port.ring().geometry.max_message())
            && let Some((cell, offer)) = port.first_if_free()
            && let Ok(block) = port.ring().block(offer)
        {
            // The slot's cache line arrives while the message is written.
            let slot = port.ring().slots.at(self.at);
            prefetch::to_write(slot.0);
            block.set_id(port.next_id());
            block.set_frame(Frame::first(bytes.len() as u32));
            block.write(bytes);
            match port.swap_once(Verb::Send, cell, offer, &mut self.at, slot) {
                Swapped::Done(..) => return Ok(()),
                Swapped::NotNow => return Err(TrySendError::Full(())),
                Swapped::Unready(_) | Swapped::Lost => {}
            }
        }
        // Whatever the short path does not do: it may have to wait, or to say why it cannot.
        self.commit_bytes(bytes)
    }

    /// The long path of [`commit_one`](Self::commit_one), also of a long message.
    #[cold]
    fn commit_bytes(&mut self, bytes: &[u8]) -> Result<(), TrySendError> {
        let port = self.attachment.port().map_err(fault)?;
        if bytes.len() > WRITE_FIRST {
            // A message that can never be sent is refused as too large, even while the queue is
            // full.
            port.frame_of(bytes.len()).map_err(fault)?;
            port.ring().advance(Verb::Send, &mut self.at)?;
        }
        // The slot's cache line arrives while the message is written.
        prefetch::to_write(port.ring().slots.at(self.at).0);
        let cell = port.send_cell();
        port.write(cell, bytes).map_err(fault)?;
        Ok(port.send(cell, &mut self.at)?)
    }

    /// Sends a dead letter of another queue.
    pub(crate) fn forward(&mut self, message: InBlock<'_>) -> Result<(), TrySendError> {
        let port = self.attachment.port().map_err(fault)?;
        let len = message.frame().len();
        let frame = port.frame_of(len).map_err(fault)?;
        let block = port.unsent().map_err(|corrupt| fault(corrupt.into()))?;
        block.copy_payload(message.block(), len);
        block.set_frame(frame.of_dead_letter());
        port.send(port.send_cell(), &mut self.at)?;
        self.notify(port, 1);
        Ok(())
    }

    /// Commits a message that was written in place.
    fn commit_frame(&mut self, frame: Frame) -> Result<(), TrySendError> {
        let port = self.attachment.port().map_err(fault)?;
        port.unsent().map_err(|corrupt| fault(corrupt.into()))?.set_frame(frame);
        port.send(port.send_cell(), &mut self.at)?;
        self.notify(port, 1);
        Ok(())
    }

    /// Wakes receivers for `count` messages that were sent at `port`, this handle's own.
    #[inline]
    fn notify(&self, port: &Port<'_>, count: u32) {
        self.attachment.carry_out(port.ring().control.after_send.readable.notify(count));
    }

    /// The answer of a waiting call after one `attempt`; none if the call must wait for room. For
    /// drivers that park tasks.
    #[doc(hidden)]
    #[inline]
    pub fn answer<R>(
        &mut self,
        attempt: impl FnOnce(&mut Self) -> Result<R, TrySendError>,
    ) -> ControlFlow<Result<R, SendError>> {
        match attempt(self) {
            Ok(sent) => ControlFlow::Break(Ok(sent)),
            Err(refused) => match refused.settled() {
                Ok(refused) => ControlFlow::Break(Err(refused)),
                Err(()) => ControlFlow::Continue(()),
            },
        }
    }

    /// Attempts until there is an answer; `None` when the time is over.
    fn wait_until<R>(
        &mut self,
        until: Option<Instant>,
        mut attempt: impl FnMut(&mut Self) -> Result<R, TrySendError>,
    ) -> Option<Result<R, SendError>> {
        wait_blocking(self, until, |it| it.answer(&mut attempt))
    }
}

impl<M: Message + ?Sized> Waits for Sender<M> {
    fn side(&self, (): ()) -> Side {
        self.side()
    }

    fn segment(&self) -> &Segment {
        &self.attachment.segment
    }

    fn spin(&mut self) -> &mut Spin {
        &mut self.spin
    }
}

/// Messages that were sent before any receiver was woken for them. The drop wakes, also when the
/// caller's iterator panics.
struct Batch<'a, M: Message + ?Sized> {
    sender: &'a mut Sender<M>,
    sent: usize,
}

impl<M: Message + ?Sized> Drop for Batch<'_, M> {
    fn drop(&mut self) {
        // The caller's iterator may do anything, even fork.
        if self.sent > 0
            && let Ok(port) = self.sender.attachment.mapped_port()
        {
            self.sender.notify(port, u32::try_from(self.sent).unwrap_or(u32::MAX));
        }
    }
}

fn fault(fault: Fault) -> TrySendError {
    TrySendError::Fault((), fault)
}

impl Sender<[u8]> {
    /// Reserves a message of `len` bytes to be written in place, if there is room now.
    ///
    /// The block is private until the commit: no other handle waits for a reservation, however long
    /// it is held, and also if it is dropped or forgotten. Other senders may fill the queue in the
    /// meantime, so the commit can still be refused as full.
    ///
    /// The message has `len` bytes, however many are written; the others are zeros. To send fewer,
    /// [`truncate`](Reservation::truncate).
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    ///
    /// # If a peer dies
    /// Nothing changes. If this process dies before the commit, nothing is sent.
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// let queue = parkline_core::Queue::builder().capacity(2).max_message(16).create()?;
    /// let mut sender = queue.sender()?;
    /// let mut message = sender.try_reserve(5)?;
    /// message.write_all(b"hello")?;
    /// assert!(message.write_all(b"!").is_err(), "5 bytes were reserved");
    /// message.try_commit().expect("there is room");
    /// assert_eq!(queue.receiver()?.try_recv()?, b"hello");
    /// assert!(sender.try_reserve(17).is_err(), "max_message is 16");
    ///
    /// // A writer that does not know its length reserves the most.
    /// let mut message = sender.try_reserve(16)?;
    /// write!(message, "{} of {}", 1, 2)?;
    /// message.truncate(message.written());
    /// message.try_commit().expect("there is room");
    /// assert_eq!(queue.receiver()?.try_recv()?, b"1 of 2");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_reserve(&mut self, len: usize) -> Result<Reservation<'_>, TrySendError> {
        self.check_room(len)?;
        self.reserve_now(len).map_err(fault)
    }

    /// As [`try_reserve`](Self::try_reserve), whether or not there is room now. The commit checks
    /// for room.
    ///
    /// # Errors
    /// [`Fault::MessageTooLarge`], [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// ```
    /// use parkline_core::{Fault, Queue, TrySendError};
    ///
    /// let queue = Queue::builder().capacity(1).max_message(5).create()?;
    /// let mut sender = queue.sender()?;
    /// sender.try_send(b"first")?;
    /// let mut message = sender.reserve_now(5)?;
    /// message.write_at(0, b"later");
    /// assert!(matches!(message.try_commit(), Err(TrySendError::Full(_))));
    /// let refused = sender.reserve_now(6).unwrap_err();
    /// assert_eq!(refused, Fault::MessageTooLarge { len: 6, max: 5 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve_now(&mut self, len: usize) -> Result<Reservation<'_>, Fault> {
        let frame = self.attachment.port()?.frame_of(len)?;
        Ok(Reservation { sender: self, frame, written: 0, settled: 0 })
    }

    /// As [`try_reserve`](Self::try_reserve), but the calling thread waits while the queue is
    /// full.
    ///
    /// # Errors
    /// As [`send_blocking`](Self::send_blocking).
    ///
    /// ```
    /// use parkline_core::{Queue, SendError};
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut sender = queue.sender()?;
    /// let mut message = sender.reserve_blocking(5)?;
    /// message.write_at(0, b"hello");
    /// message.try_commit().expect("there is room");
    /// assert_eq!(queue.receiver()?.try_recv()?, b"hello");
    /// queue.close()?;
    /// assert_eq!(sender.reserve_blocking(5).unwrap_err(), SendError::Closed(()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve_blocking(&mut self, len: usize) -> Result<Reservation<'_>, SendError> {
        let room = self.wait_until(None, |sender| sender.check_room(len));
        room.unwrap_or(Err(SendError::Closed(())))?;
        self.reserve_now(len).map_err(|fault| SendError::Fault((), fault))
    }

    /// Whether a message of `len` bytes could be sent now. Another sender may be quicker.
    ///
    /// # Errors
    /// Those that [`try_send`](Self::try_send) would return.
    ///
    /// ```
    /// use parkline_core::{Fault, Queue, TrySendError};
    ///
    /// let mut sender = Queue::builder().capacity(1).max_message(8).create()?.sender()?;
    /// assert_eq!(sender.check_room(8), Ok(()));
    /// let too_large = Fault::MessageTooLarge { len: 9, max: 8 };
    /// assert_eq!(sender.check_room(9), Err(TrySendError::Fault((), too_large)));
    /// sender.try_send(b"message")?;
    /// assert_eq!(sender.check_room(8), Err(TrySendError::Full(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_room(&mut self, len: usize) -> Result<(), TrySendError> {
        let port = self.attachment.port().map_err(fault)?;
        port.frame_of(len).map_err(fault)?;
        port.ring().advance(Verb::Send, &mut self.at)?;
        Ok(())
    }
}

impl Sender<Pack> {
    /// Sends as many of `messages` as fit into one pack, in order, if there is room for the pack:
    /// one message to the queue, for one receiver. Returns how many.
    ///
    /// They are written straight into the queue's memory. An iterator without messages sends
    /// nothing and returns 0, even if the queue is full or closed; one that panics sends nothing.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send): nothing was sent. [`Fault::MessageTooLarge`] if the first
    /// message does not fit into a pack alone. A later one that does not fit is left for the next
    /// call.
    ///
    /// # If a peer dies
    /// As [`try_send`](Self::try_send): the pack is sent as a whole or not at all.
    ///
    /// ```
    /// use parkline_core::{Pack, Queue, TrySendError};
    ///
    /// // Two messages of 8 bytes, two lengths of 4, and 8.
    /// let queue = Queue::builder().capacity(1).max_message(32).create_typed::<Pack>()?;
    /// let mut sender = queue.sender()?;
    /// assert_eq!(sender.try_send_packed([[1; 8], [2; 8], [3; 8]])?, 2);
    /// assert_eq!(sender.try_send_packed([[3; 8]]), Err(TrySendError::Full(())));
    /// assert!(queue.receiver()?.try_recv()?.iter().eq([[1; 8], [2; 8]]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_send_packed<T: AsRef<[u8]>>(
        &mut self,
        messages: impl IntoIterator<Item = T>,
    ) -> Result<usize, TrySendError> {
        let messages = messages.into_iter();
        let max = self.attachment.segment.geometry().max_message();
        let mut packing = Packing::new(max, messages.size_hint().0);
        for message in messages {
            let message = message.as_ref();
            // The caller's iterator may do anything, even fork.
            let port = self.attachment.port().map_err(fault)?;
            if !packing.has_room(message.len()) {
                if packing.len() == 0 {
                    return Err(fault(packing.too_large(message.len())));
                }
                break;
            }
            if packing.len() == 0 {
                // Nothing is copied while the queue is full.
                port.ring().advance(Verb::Send, &mut self.at)?;
            }
            let block = port.unsent().map_err(|corrupt| fault(corrupt.into()))?;
            packing.push(block, message);
        }
        if packing.len() > 0 {
            let port = self.attachment.port().map_err(fault)?;
            let block = port.unsent().map_err(|corrupt| fault(corrupt.into()))?;
            let frame = port.frame_of(packing.finish(block)).map_err(fault)?;
            self.commit_frame(frame)?;
        }
        Ok(packing.len())
    }

    /// As [`try_send_packed`](Self::try_send_packed), but the calling thread waits while the queue
    /// is full. Without messages it does not wait and returns 0 at once.
    ///
    /// # Errors
    /// As [`send_blocking`](Self::send_blocking): nothing was sent.
    pub fn send_packed_blocking<T, I>(&mut self, messages: I) -> Result<usize, SendError>
    where
        T: AsRef<[u8]>,
        I: IntoIterator<Item = T>,
        I::IntoIter: Clone,
    {
        let messages = messages.into_iter();
        let sent = self.wait_until(None, |sender| sender.try_send_packed(messages.clone()));
        sent.unwrap_or(Err(SendError::Closed(())))
    }
}

impl<M: Message + ?Sized> core::fmt::Debug for Sender<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sender").field("attachment", &self.attachment).finish_non_exhaustive()
    }
}

/// A message being written in place. Dropping it sends nothing.
///
/// The message has the reserved length, unless it is [truncated](Self::truncate). Bytes that are
/// not written are zeros: a receiver never sees what an earlier message left in the block.
///
/// ```
/// use std::io::Write;
///
/// let queue = parkline_core::Queue::builder().create()?;
/// let mut sender = queue.sender()?;
/// let mut message = sender.try_reserve(4)?;
/// message.write_all(b"abc")?;
/// assert_eq!((message.len(), message.is_empty(), message.written()), (4, false, 3));
/// message.try_commit().expect("there is room");
/// assert_eq!(queue.receiver()?.try_recv()?, b"abc\0");
/// drop(sender.try_reserve(4)?);
/// assert!(queue.is_empty(), "dropping sends nothing");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is sent until it is committed"]
pub struct Reservation<'a> {
    sender: &'a mut Sender<[u8]>,
    frame: Frame,
    /// How many bytes the calls of `io::Write` have written.
    written: usize,
    /// Invariant: every byte of the payload before this offset was written or zeroed. Bytes from it
    /// on may still be an earlier message's.
    settled: usize,
}

impl Reservation<'_> {
    /// The sender's spin limit. For drivers.
    #[doc(hidden)]
    pub fn spin_limit(&self) -> Duration {
        self.sender.spin.limit
    }

    /// The reserved length in bytes.
    pub fn len(&self) -> usize {
        self.frame.len()
    }

    /// Whether no bytes were reserved.
    pub fn is_empty(&self) -> bool {
        self.frame.is_empty()
    }

    /// How many bytes the calls of [`io::Write`] have written in total.
    /// [`write_at`](Self::write_at) and [`as_mut_slice`](Self::as_mut_slice) do not count.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Makes the message shorter; with a larger `len` it does nothing.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// let mut sender = queue.sender()?;
    /// let mut message = sender.try_reserve(16)?;
    /// message.write_at(0, b"short");
    /// message.truncate(5);
    /// message.truncate(9);
    /// assert_eq!(message.len(), 5, "it does not grow");
    /// message.try_commit().expect("there is room");
    /// assert_eq!(queue.receiver()?.try_recv()?, b"short");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn truncate(&mut self, len: usize) {
        if let Ok(shorter) = u32::try_from(len)
            && len < self.frame.len()
        {
            self.frame = Frame::first(shorter);
            self.written = self.written.min(len);
        }
    }

    /// Copies `bytes` to `offset`, and zeroes the bytes before them that are not written yet. A
    /// message that is written from front to back is written once. In a forked child nothing is
    /// written, and the commit returns [`Fault::Forked`].
    ///
    /// # Panics
    /// If `bytes` do not fit into the reserved length at `offset`.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// let mut sender = queue.sender()?;
    /// let mut message = sender.try_reserve(5)?;
    /// message.write_at(3, b"lo");
    /// message.write_at(0, b"he");
    /// message.try_commit().expect("there is room");
    /// assert_eq!(queue.receiver()?.try_recv()?, b"he\0lo");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// ```should_panic
    /// # let mut sender = parkline_core::Queue::builder().create().unwrap().sender().unwrap();
    /// let mut message = sender.try_reserve(5).unwrap();
    /// message.write_at(3, b"far"); // 3 bytes at 3 in a message of 5
    /// ```
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        let fits = offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len());
        assert!(fits, "{} bytes at {offset} in a message of {}", bytes.len(), self.len());
        self.zero_up_to(offset);
        // In a forked child nothing is written, and the commit reports that.
        if let Ok(block) = self.block() {
            block.write_at(offset, bytes);
        }
        self.settled = self.settled.max(offset.saturating_add(bytes.len()));
    }

    /// The message's bytes in place, if the opener declared all peers trusted by
    /// [`Queue::trust_peers`](crate::Queue::trust_peers). Bytes that are not written yet are
    /// zeroed, which costs one pass over them; [`assume_written`](Self::assume_written) avoids it.
    /// `None` without that trust, in a forked child, and of a corrupt queue.
    ///
    /// ```
    /// use parkline_core::Queue;
    ///
    /// let queue = Queue::builder().create()?;
    /// assert!(queue.sender()?.try_reserve(5)?.as_mut_slice().is_none(), "peers are not trusted");
    /// // SAFETY: no other process has this queue, and none gets it.
    /// let queue = unsafe { queue.trust_peers() };
    /// let mut sender = queue.sender()?;
    /// let mut message = sender.try_reserve(5)?;
    /// message.as_mut_slice().unwrap().copy_from_slice(b"hello");
    /// message.try_commit().expect("there is room");
    /// assert_eq!(queue.receiver()?.try_recv()?, b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[expect(unsafe_code, reason = "in-place views, for those who vouched for their peers")]
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        if !self.sender.attachment.trusted {
            return None;
        }
        let len = self.len();
        self.zero_up_to(len);
        let block = self.block().ok()?;
        // SAFETY: the block has room for `max_message` bytes and `len` is no more. It is in a cell
        // of this handle, borrowed exclusively through the sender, and the opener declared that no
        // other process writes to a block that it does not own.
        Some(unsafe { core::slice::from_raw_parts_mut(block.payload_ptr(), len) })
    }

    /// Promises that every byte of the message is written before the commit, so that none is zeroed.
    ///
    /// # Safety
    /// The caller writes every byte. In a byte that was not written, a receiver reads what an
    /// earlier message, of any sender, left there.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// let mut sender = queue.sender()?;
    /// let mut message = sender.try_reserve(5)?;
    /// // SAFETY: the next two calls write all 5 bytes.
    /// unsafe { message.assume_written() };
    /// message.write_at(3, b"lo");
    /// message.write_at(0, b"hel");
    /// message.try_commit().expect("there is room");
    /// assert_eq!(queue.receiver()?.try_recv()?, b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[expect(unsafe_code, reason = "other messages can leak if the promise is broken")]
    pub unsafe fn assume_written(&mut self) {
        self.settled = self.len();
    }

    /// Commits the message if there is room.
    ///
    /// # Errors
    /// As [`Sender::try_send`]; the reservation comes back with its bytes.
    ///
    /// # Ordering
    /// As [`Sender::try_send`].
    ///
    /// # If a peer dies
    /// As [`Sender::try_send`].
    ///
    /// ```
    /// use parkline_core::{Queue, TrySendError};
    ///
    /// let queue = Queue::builder().capacity(1).create()?;
    /// let mut sender = queue.sender()?;
    /// sender.try_send(b"first")?;
    /// let mut message = sender.reserve_now(6)?;
    /// message.write_at(0, b"second");
    /// let Err(TrySendError::Full(message)) = message.try_commit() else { panic!("it is full") };
    /// assert_eq!(queue.receiver()?.try_recv()?, b"first");
    /// assert!(message.try_commit().is_ok());
    /// assert_eq!(queue.receiver()?.try_recv()?, b"second");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_commit(mut self) -> Result<(), TrySendError<Self>> {
        self.commit_in_place().map_err(|refused| refused.map(|()| self))
    }

    /// Commits the message; the calling thread waits while the queue is full.
    ///
    /// # Errors
    /// As [`Sender::send_blocking`]; the reservation comes back with its bytes.
    ///
    /// # If a peer dies
    /// As [`Sender::send_blocking`].
    ///
    /// ```
    /// use parkline_core::{Queue, SendError};
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut sender = queue.sender()?;
    /// assert!(sender.try_reserve(5)?.commit_blocking().is_ok());
    /// let message = sender.try_reserve(5)?;
    /// queue.close()?;
    /// let Err(SendError::Closed(message)) = message.commit_blocking() else { panic!("closed") };
    /// assert_eq!(message.len(), 5, "it comes back");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_blocking(mut self) -> Result<(), SendError<Self>> {
        self.zero_up_to(self.len());
        let frame = self.frame;
        let sent = self.sender.wait_until(None, |sender| sender.commit_frame(frame));
        match sent.unwrap_or(Err(SendError::Closed(()))) {
            Ok(()) => Ok(()),
            Err(SendError::Closed(())) => Err(SendError::Closed(self)),
            Err(SendError::Fault((), fault)) => Err(SendError::Fault(self, fault)),
        }
    }

    /// As [`try_commit`](Self::try_commit), for callers that keep the reservation in place. After a
    /// commit the reservation must not be used again.
    #[doc(hidden)]
    pub fn commit_in_place(&mut self) -> Result<(), TrySendError> {
        self.zero_up_to(self.len());
        self.sender.commit_frame(self.frame)
    }

    /// As [`Sender::answer`], after one attempt to commit. For drivers that park tasks.
    #[doc(hidden)]
    pub fn answer(&mut self) -> ControlFlow<Result<(), SendError>> {
        self.zero_up_to(self.len());
        let frame = self.frame;
        self.sender.answer(|sender| sender.commit_frame(frame))
    }

    /// The side at which this waits, for drivers that park tasks.
    pub fn side(&self) -> Side {
        self.sender.side()
    }

    /// Zeroes those of the first `len` bytes that are neither written nor zeroed yet.
    #[inline]
    fn zero_up_to(&mut self, len: usize) {
        if self.settled < len {
            self.zero_rest(len);
        }
    }

    #[cold]
    fn zero_rest(&mut self, len: usize) {
        // In a forked child nothing is zeroed, and the commit reports that.
        if let Ok(block) = self.block() {
            block.zero(self.settled, len);
        }
        self.settled = len;
    }

    fn block(&self) -> Result<Block<'_>, Fault> {
        Ok(self.sender.attachment.port()?.unsent()?)
    }
}

impl io::Write for Reservation<'_> {
    /// Appends `bytes`; returns 0 when the reserved length is used up.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.len().saturating_sub(self.written);
        let part = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        self.write_at(self.written, part);
        self.written = self.written.saturating_add(part.len());
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl core::fmt::Debug for Reservation<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Reservation").field("len", &self.len()).finish_non_exhaustive()
    }
}

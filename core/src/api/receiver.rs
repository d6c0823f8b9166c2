//! The receiving handle.
//!
//! | a receive finds | the queue is | a call that does not wait | a call that waits |
//! |---|---|---|---|
//! | a message | open or closed | returns it | returns it |
//! | no message | open | `Empty` | waits for a message |
//! | no message | closed, and a receiver holds a message | `Empty` | recovers dead handles and tries again; then waits for a message |
//! | no message | closed, and no receiver holds a message | `Closed` | `Closed` |
//! | no free cell, and no owed message to take | open or closed | `LeasesOut` | waits for a lease; `LeasesOut` if the queue has none |

use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::dead_letters::{DeadLetter, DeadLetters, DeferredLetters, Handler};
use crate::api::lease::Lease;
use crate::api::message::{InBlock, Message};
use crate::api::received::Received;
use crate::api::sender::Sender;
use crate::error::{Corrupt, Fault, RecvError, RecvTimeoutError, TryRecvError};
use crate::process::attachment::Attachment;
use crate::process::barriers::order_acknowledgements;
use crate::process::owing_handles::Holder;
use crate::process::segment::Segment;
use crate::process::side::{Side, Waits, WaitsFor, wait_blocking};
use crate::ring::port::Cell;
use crate::ring::position::Position;
use crate::ring::slot::Verb;
use crate::ring::slots::Stop;
use crate::ring::swap::Swapped;
use crate::wait::spin::Spin;

/// How many messages one receive may give up beyond the number that the queue can hold. Each
/// further one must be a message that another receiver took and returned while this call ran. If
/// one call finds more, the queue is corrupt, and the call reports that.
const COME_BACK: usize = 1024;

/// Receives from a queue. Exclusive: no lock, no shared counter, nothing shared with another handle
/// but the ring.
///
/// Each message goes to one receiver. Dropping the handle frees its record once all its leases have
/// ended.
///
/// ```
/// use parkline_core::{Queue, TryRecvError};
///
/// let queue = Queue::builder().capacity(4).create()?;
/// let mut receiver = queue.receiver()?;
/// queue.sender()?.try_send(b"hello")?;
/// assert_eq!(receiver.try_recv()?, b"hello");
/// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Receiver<M: Message + ?Sized = [u8]> {
    attachment: Arc<Attachment>,
    intake: Intake<M>,
    spin: Spin,
    carries: PhantomData<fn() -> Box<M>>,
}

/// What a receive changes of its handle.
struct Intake<M: Message + ?Sized> {
    at: Position,
    /// The cell that the next lease tries first.
    next_lease: usize,
    dead_letters: DeadLetters<M>,
    /// The receive that finds a dead letter does not call the handler.
    defers: bool,
}

impl<M: Message + ?Sized> Receiver<M> {
    pub(crate) fn new(attachment: Arc<Attachment>) -> Result<Self, Fault> {
        let at = attachment.port()?.start(Verb::Recv)?;
        let intake = Intake { at, next_lease: 1, dead_letters: DeadLetters::Kept, defers: false };
        Ok(Self { attachment, intake, spin: Spin::default(), carries: PhantomData })
    }

    /// Sets how long at most a blocking call or [`block_on`] spins for a message before the thread
    /// sleeps: 50 us by default. With zero the thread sleeps at once.
    ///
    /// The thread spins only while that pays off. If the peer needs this core, or messages are
    /// rare, it soon sleeps at once, and spins only now and then to try. A thread in [`block_on`]
    /// spins for all its tasks when none of them can run, for the shortest limit among them. Other
    /// runtimes do not spin.
    ///
    /// [`block_on`]: https://docs.rs/parkline-uring/latest/parkline_uring/fn.block_on.html
    ///
    /// ```
    /// use parkline_core::{Queue, RecvTimeoutError};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut receiver = queue.receiver()?;
    /// receiver.set_spin(Duration::ZERO); // the core is wanted by others
    /// let nothing = receiver.recv_blocking_timeout(Duration::from_millis(1));
    /// assert_eq!(nothing, Err(RecvTimeoutError::Timeout));
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

    /// Calls `handler` with each dead letter that this handle receives: a message that was
    /// delivered [`max_attempts`](crate::Builder::max_attempts) times and never acknowledged. So a
    /// message that kills its receivers is not given to one more. Without a handler, [a second
    /// queue](Self::forward_dead_letters) or a [discard](Self::discard_dead_letters), this handle
    /// receives such a message like any other, and its attempts go on counting.
    ///
    /// The receive that finds the message calls the handler, and then continues with the next
    /// message. It holds no lock of this crate during the call, so the handler may use this handle
    /// too, where tasks share it. The message is acknowledged when the handler returns. If the
    /// handler panics, or the process dies in it, the message is delivered again, to the handler of
    /// the receiver that gets it.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().max_attempts(1).create()?;
    /// queue.sender()?.try_send(b"poison")?;
    /// let mut receiver = queue.receiver()?;
    /// let (letters, dead) = std::sync::mpsc::channel();
    /// receiver.on_dead_letter(move |letter| letters.send(letter.message).unwrap());
    /// receiver.try_lease()?.nack();
    /// assert!(receiver.try_recv().is_err(), "no second time");
    /// assert_eq!(dead.recv()?, b"poison");
    /// assert_eq!(queue.stats().dead_lettered, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_dead_letter(&mut self, handler: impl FnMut(DeadLetter<M::Owned>) + Send + 'static) {
        self.intake.dead_letters = DeadLetters::Handled(Arc::new(Handler::new(Box::new(handler))));
    }

    /// As [`on_dead_letter`](Self::on_dead_letter), but sends dead letters to a second queue. They
    /// arrive there flagged as redelivered, with a new id, and their attempts start again. If that queue is full,
    /// closed or has a smaller `max_message`, this handle receives the message after all; nothing
    /// is lost. If this process dies between the send and the acknowledgement, the message is in
    /// both queues.
    ///
    /// ```
    /// use parkline_core::Queue;
    ///
    /// let (queue, dead) = (Queue::builder().max_attempts(1).create()?, Queue::builder().create()?);
    /// queue.sender()?.try_send(b"poison")?;
    /// let mut receiver = queue.receiver()?;
    /// receiver.forward_dead_letters(dead.sender()?);
    /// receiver.try_lease()?.nack();
    /// assert!(receiver.try_recv().is_err(), "no second time");
    /// assert_eq!(dead.receiver()?.try_recv()?, b"poison");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forward_dead_letters(&mut self, to: Sender<M>) {
        self.intake.dead_letters = DeadLetters::Forwarded(Box::new(to));
    }

    /// Drops each message that was delivered [`max_attempts`](crate::Builder::max_attempts) times,
    /// and [counts](crate::Stats::dead_lettered) it: for queues where a message that failed so
    /// often is worth nothing.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().max_attempts(1).create()?;
    /// queue.sender()?.try_send(b"poison")?;
    /// let mut receiver = queue.receiver()?;
    /// receiver.try_lease()?.nack();
    /// assert_eq!(receiver.try_lease()?.attempts(), 2, "it is kept, unless it is said otherwise");
    /// receiver.discard_dead_letters();
    /// assert!(receiver.try_lease().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard_dead_letters(&mut self) {
        self.intake.dead_letters = DeadLetters::Discarded;
    }

    /// Receives dead letters like other messages, as a new handle does. For drivers, which count each one
    /// by [`Lease::ack_dead`].
    #[doc(hidden)]
    pub fn keep_dead_letters(&mut self) {
        self.intake.dead_letters = DeadLetters::Kept;
    }

    /// Leaves dead letters to [`DeferredLetters::handle`]: the receive that finds one does not call
    /// the handler. For a handle behind a lock that the handler may take.
    #[doc(hidden)]
    pub fn defer_dead_letters(&mut self) {
        self.intake.defers = true;
    }

    /// The dead letters that the calls so far have left for the handler.
    #[doc(hidden)]
    pub fn deferred_letters(&self) -> Option<DeferredLetters<M>> {
        self.intake.dead_letters.deferred()
    }

    /// Takes the oldest message, copied out and acknowledged. Lock-free: it never waits for a peer,
    /// whether that is dead, stopped or slow.
    ///
    /// # Errors
    /// [`Empty`](TryRecvError::Empty), exact at the instant of the check;
    /// [`Closed`](TryRecvError::Closed) once all that was sent before the close is received;
    /// [`Fault::Forked`], [`Fault::LeasesOut`]; [`Fault::Corrupt`], which drops the message if one
    /// was taken.
    ///
    /// # Ordering
    /// What happened before the send of the message happens before this returns.
    ///
    /// # If a peer dies
    /// Nothing changes. The acknowledgement is the last step. If this process dies in the call
    /// before that, the message stays in the queue or is delivered again. If it dies after that,
    /// the message is lost. A [lease](Self::try_lease) is delivered again until it is acknowledged.
    ///
    /// ```
    /// use parkline_core::{Queue, TryRecvError};
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut receiver = queue.receiver()?;
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// queue.sender()?.try_send(b"last")?;
    /// queue.close()?;
    /// assert_eq!(receiver.try_recv()?, b"last");
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn try_recv(&mut self) -> Result<M::Owned, TryRecvError> {
        let attachment = &self.attachment;
        let (cell, message) = self.intake.take(attachment, 0)?;
        match M::read(message) {
            Ok(received) => {
                acknowledge(attachment, cell, message);
                Ok(received)
            }
            Err(corrupt) => Err(drop_corrupt(attachment, cell, corrupt)),
        }
    }

    /// As [`try_recv`](Self::try_recv), with the message's [id](Lease::id), for a receiver that
    /// records what it received. A receiver that must not lose a message when it dies takes a
    /// [lease](Self::try_lease), which tells the id as well.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    ///
    /// # Ordering
    /// As [`try_recv`](Self::try_recv).
    ///
    /// # If a peer dies
    /// As [`try_recv`](Self::try_recv).
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create_typed::<u64>()?;
    /// queue.sender()?.try_send(&250)?;
    /// let mut receiver = queue.receiver()?;
    /// let lease = receiver.try_lease()?;
    /// let id = lease.id();
    /// lease.nack();
    /// let received = receiver.try_recv_with_id()?;
    /// assert_eq!((received.id, received.message), (id, 250), "the same message again");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn try_recv_with_id(&mut self) -> Result<Received<M::Owned>, TryRecvError> {
        // Not one function with `try_recv`: bytes would take more instructions there.
        let attachment = &self.attachment;
        let (cell, message) = self.intake.take(attachment, 0)?;
        let id = message.id();
        match M::read(message) {
            Ok(received) => {
                acknowledge(attachment, cell, message);
                Ok(Received { id, message: received })
            }
            Err(corrupt) => Err(drop_corrupt(attachment, cell, corrupt)),
        }
    }

    /// Takes the oldest message; the calling thread waits while there is none.
    ///
    /// # Errors
    /// [`Closed`](RecvError::Closed), and faults as [`try_recv`](Self::try_recv). Messages that
    /// dead receivers had not acknowledged come before the end. `Closed` is returned only when no
    /// receiver holds a message either: see [`Queue::close`](crate::Queue::close).
    ///
    /// # Ordering
    /// As [`try_recv`](Self::try_recv).
    ///
    /// # If a peer dies
    /// As [`try_recv`](Self::try_recv). If the wake of this thread is lost with a killed process,
    /// the thread attempts again within the watchdog's period.
    ///
    /// ```
    /// use parkline_core::{Queue, RecvError};
    /// use std::thread;
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut receiver = queue.receiver()?;
    /// let worker = thread::spawn(move || [receiver.recv_blocking(), receiver.recv_blocking()]);
    /// queue.sender()?.try_send(b"hello")?;
    /// queue.close()?; // wakes the worker, too
    /// assert_eq!(worker.join().unwrap(), [Ok(b"hello".to_vec()), Err(RecvError::Closed)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_blocking(&mut self) -> Result<M::Owned, RecvError> {
        self.wait_until(None, Self::try_recv).unwrap_or(Err(RecvError::Closed))
    }

    /// As [`recv_blocking`](Self::recv_blocking), with the message's [id](Lease::id). With a
    /// timeout, take a [lease](Self::lease_blocking_timeout): it tells the id, too.
    ///
    /// # Errors
    /// As [`recv_blocking`](Self::recv_blocking).
    ///
    /// # Ordering
    /// As [`try_recv`](Self::try_recv).
    ///
    /// # If a peer dies
    /// As [`recv_blocking`](Self::recv_blocking).
    ///
    /// ```
    /// use parkline_core::{Queue, RecvError};
    ///
    /// let queue = Queue::builder().create_typed::<u64>()?;
    /// queue.sender()?.try_send_many(&[250, 250])?;
    /// queue.close()?;
    /// let mut receiver = queue.receiver()?;
    /// let [first, second] = [receiver.recv_with_id_blocking()?, receiver.recv_with_id_blocking()?];
    /// assert_eq!((first.message, second.message), (250, 250));
    /// assert_ne!(first.id, second.id, "two messages");
    /// assert_eq!(receiver.recv_with_id_blocking(), Err(RecvError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_with_id_blocking(&mut self) -> Result<Received<M::Owned>, RecvError> {
        self.wait_until(None, Self::try_recv_with_id).unwrap_or(Err(RecvError::Closed))
    }

    /// As [`recv_blocking`](Self::recv_blocking), for at most `timeout`, which bounds the whole
    /// call. With zero it does not wait; a `timeout` beyond the clock's range, as `Duration::MAX`,
    /// never passes.
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty: nothing was taken.
    /// Otherwise as [`recv_blocking`](Self::recv_blocking).
    ///
    /// ```
    /// use parkline_core::{Queue, RecvTimeoutError};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut receiver = queue.receiver()?;
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(receiver.recv_blocking_timeout(soon), Err(RecvTimeoutError::Timeout));
    /// queue.sender()?.try_send(b"hello")?;
    /// assert_eq!(receiver.recv_blocking_timeout(soon)?, b"hello");
    /// queue.close()?;
    /// assert_eq!(receiver.recv_blocking_timeout(soon), Err(RecvTimeoutError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_blocking_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<M::Owned, RecvTimeoutError> {
        self.recv_until(Instant::now().checked_add(timeout))
    }

    /// As [`recv_blocking`](Self::recv_blocking), until `deadline` at most.
    ///
    /// # Errors
    /// As [`recv_blocking_timeout`](Self::recv_blocking_timeout).
    ///
    /// ```
    /// use parkline_core::{Queue, RecvTimeoutError};
    /// use std::time::{Duration, Instant};
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut receiver = queue.receiver()?;
    /// queue.sender()?.try_send(b"hello")?;
    /// let deadline = Instant::now() + Duration::from_millis(5); // for both messages together
    /// assert_eq!(receiver.recv_blocking_deadline(deadline)?, b"hello");
    /// assert_eq!(receiver.recv_blocking_deadline(deadline), Err(RecvTimeoutError::Timeout));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_blocking_deadline(
        &mut self,
        deadline: Instant,
    ) -> Result<M::Owned, RecvTimeoutError> {
        self.recv_until(Some(deadline))
    }

    fn recv_until(&mut self, until: Option<Instant>) -> Result<M::Owned, RecvTimeoutError> {
        Ok(self.wait_until(until, Self::try_recv).ok_or(RecvTimeoutError::Timeout)??)
    }

    /// Takes up to `limit` messages in order, at most the queue's capacity, appends them to
    /// `messages`, and wakes senders once. Returns how many. With a `limit` of 0 it returns 0, even
    /// if the queue is closed.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv), if the first message is refused. A fault after the first
    /// message is reported by the next call.
    ///
    /// # If a peer dies
    /// Each message is acknowledged as soon as it is copied out: if this process dies in the call,
    /// up to `limit` messages are lost. Leased messages are delivered again.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().capacity(4).create_typed::<u32>()?;
    /// queue.sender()?.try_send_many(&[1, 2, 3])?;
    /// let (mut receiver, mut messages) = (queue.receiver()?, Vec::new());
    /// assert_eq!(receiver.try_recv_many(&mut messages, 2)?, 2);
    /// assert_eq!(receiver.try_recv_many(&mut messages, 2)?, 1);
    /// assert_eq!(messages, [1, 2, 3]);
    /// assert!(receiver.try_recv_many(&mut messages, 2).is_err(), "empty");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_recv_many(
        &mut self,
        messages: &mut Vec<M::Owned>,
        limit: usize,
    ) -> Result<usize, TryRecvError> {
        // Senders may add messages all the time; the capacity bounds this call.
        let most = limit.min(self.attachment.segment.geometry().capacity());
        let mut taken = 0u32;
        for _ in 0..most {
            let (cell, message) = match self.intake.take(&self.attachment, 0) {
                Ok(message) => message,
                Err(error) if taken == 0 => return Err(error),
                // The next call reports a fault, too.
                Err(_) => break,
            };
            match M::read(message) {
                Ok(received) => messages.push(received),
                Err(corrupt) => {
                    let error = drop_corrupt(&self.attachment, cell, corrupt);
                    if taken == 0 {
                        return Err(error);
                    }
                    break;
                }
            }
            cell.acknowledge();
            taken = taken.saturating_add(1);
        }
        if taken > 0 {
            notify(&self.attachment, taken);
        }
        Ok(taken as usize)
    }

    /// As [`try_recv_many`](Self::try_recv_many), but the calling thread waits until there is at
    /// least one message. With a `limit` of 0 it does not wait and returns 0 at once.
    ///
    /// # Errors
    /// As [`recv_blocking`](Self::recv_blocking).
    ///
    /// # If a peer dies
    /// As [`try_recv_many`](Self::try_recv_many) and [`recv_blocking`](Self::recv_blocking).
    ///
    /// ```
    /// use parkline_core::{Queue, RecvError};
    ///
    /// let queue = Queue::builder().create_typed::<u32>()?;
    /// queue.sender()?.try_send_many(&[1, 2, 3])?;
    /// queue.close()?;
    /// let (mut receiver, mut messages) = (queue.receiver()?, Vec::new());
    /// assert_eq!(receiver.recv_many_blocking(&mut messages, 10), Ok(3));
    /// assert_eq!(messages, [1, 2, 3]);
    /// assert_eq!(receiver.recv_many_blocking(&mut messages, 10), Err(RecvError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_many_blocking(
        &mut self,
        messages: &mut Vec<M::Owned>,
        limit: usize,
    ) -> Result<usize, RecvError> {
        let taken = self.wait_until(None, |it| it.try_recv_many(messages, limit));
        taken.unwrap_or(Err(RecvError::Closed))
    }

    /// Takes the oldest message without copying it out, as a lease to be
    /// [acknowledged](Lease::ack). A lease that is dropped returns its message.
    ///
    /// A lease may be held for any time: no other handle waits for it. Each handle has as many
    /// leases as [`Builder::leases`](crate::Builder::leases) says; each message that the handle
    /// owes occupies one.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv), and [`Fault::LeasesOut`] while all leases of this handle
    /// are in use.
    ///
    /// # Ordering
    /// As [`try_recv`](Self::try_recv).
    ///
    /// # If a peer dies
    /// If this process dies before the acknowledgement, the message is delivered again, flagged
    /// [`redelivered`](Lease::redelivered).
    ///
    /// ```
    /// use parkline_core::{Fault, Queue, TryRecvError};
    ///
    /// let queue = Queue::builder().capacity(4).leases(1).create()?;
    /// queue.sender()?.try_send(b"job")?;
    /// let mut receiver = queue.receiver()?;
    /// let job = receiver.try_lease()?;
    /// assert_eq!((job.read()?.as_slice(), job.attempts()), (&b"job"[..], 1));
    /// assert!(matches!(
    ///     receiver.try_lease().unwrap_err(),
    ///     TryRecvError::Fault(Fault::LeasesOut { max: 1 })
    /// ));
    /// job.nack();
    /// let again = receiver.try_lease()?;
    /// assert!(again.redelivered() && again.attempts() == 2);
    /// again.ack();
    /// assert!(receiver.try_lease().is_err(), "empty");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_lease(&mut self) -> Result<Lease<M>, TryRecvError> {
        // One cell stays free for `try_recv`.
        let (cell, message) = self.intake.take(&self.attachment, 1)?;
        self.intake.next_lease = self.attachment.same_port().lease_cell_after(cell.number());
        // Wakes joiners too: a joiner that saw this receive under way sleeps, even if it waits for
        // others.
        notify(&self.attachment, 1);
        Ok(Lease::new(Arc::clone(&self.attachment), cell.number(), message))
    }

    /// As [`try_lease`](Self::try_lease), but the calling thread waits while there is no message,
    /// and while all leases of this handle are in use, until another thread ends one.
    ///
    /// # Errors
    /// As [`recv_blocking`](Self::recv_blocking); [`Fault::LeasesOut`] if the queue has no
    /// [`leases`](crate::Builder::leases) at all.
    ///
    /// # If a peer dies
    /// As [`try_lease`](Self::try_lease) and [`recv_blocking`](Self::recv_blocking).
    ///
    /// ```
    /// use parkline_core::{Fault, Queue, RecvError};
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut receiver = queue.receiver()?;
    /// queue.sender()?.try_send(b"job")?;
    /// queue.close()?;
    /// receiver.lease_blocking()?.ack();
    /// assert_eq!(receiver.lease_blocking().unwrap_err(), RecvError::Closed);
    /// let mut receiver = Queue::builder().leases(0).create()?.receiver()?;
    /// let no_leases = RecvError::Fault(Fault::LeasesOut { max: 0 });
    /// assert_eq!(receiver.lease_blocking().unwrap_err(), no_leases);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lease_blocking(&mut self) -> Result<Lease<M>, RecvError> {
        self.wait_until(None, Self::try_lease).unwrap_or(Err(RecvError::Closed))
    }

    /// As [`lease_blocking`](Self::lease_blocking), for at most `timeout`, which bounds the whole
    /// call. Zero and `Duration::MAX` are as for
    /// [`recv_blocking_timeout`](Self::recv_blocking_timeout).
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty, or all leases of this
    /// handle stayed in use: nothing was taken. Otherwise as
    /// [`lease_blocking`](Self::lease_blocking).
    ///
    /// ```
    /// use parkline_core::{Queue, RecvTimeoutError};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().leases(1).create()?;
    /// queue.sender()?.try_send_many([&b"first"[..], b"second"])?;
    /// let mut receiver = queue.receiver()?;
    /// let soon = Duration::from_millis(1);
    /// let first = receiver.lease_blocking_timeout(soon)?;
    /// let refused = receiver.lease_blocking_timeout(soon).unwrap_err();
    /// assert_eq!(refused, RecvTimeoutError::Timeout, "the only lease is in use");
    /// first.ack();
    /// assert_eq!(receiver.lease_blocking_timeout(soon)?.read()?, b"second");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lease_blocking_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Lease<M>, RecvTimeoutError> {
        let until = Instant::now().checked_add(timeout);
        Ok(self.wait_until(until, Self::try_lease).ok_or(RecvTimeoutError::Timeout)??)
    }

    /// As [`lease_blocking`](Self::lease_blocking), until `deadline` at most.
    ///
    /// # Errors
    /// As [`lease_blocking_timeout`](Self::lease_blocking_timeout).
    ///
    /// ```
    /// use parkline_core::{Queue, RecvTimeoutError};
    /// use std::time::{Duration, Instant};
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut receiver = queue.receiver()?;
    /// queue.sender()?.try_send(b"job")?;
    /// let deadline = Instant::now() + Duration::from_millis(5);
    /// receiver.lease_blocking_deadline(deadline)?.ack();
    /// let refused = receiver.lease_blocking_deadline(deadline).unwrap_err();
    /// assert_eq!(refused, RecvTimeoutError::Timeout);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lease_blocking_deadline(
        &mut self,
        deadline: Instant,
    ) -> Result<Lease<M>, RecvTimeoutError> {
        Ok(self.wait_until(Some(deadline), Self::try_lease).ok_or(RecvTimeoutError::Timeout)??)
    }

    /// The side at which this handle waits for messages, for drivers that park tasks.
    pub fn side(&self) -> Side {
        self.side_for(WaitsFor::Message)
    }

    /// The side at which this handle waits for what an [`answer`](Self::answer) named.
    #[doc(hidden)]
    pub fn side_for(&self, waits_for: WaitsFor) -> Side {
        self.attachment.side(waits_for, self.intake.at)
    }

    /// The answer of a waiting call after one `attempt`, or what the call must wait for. For
    /// drivers that park tasks.
    ///
    /// Before a wait at the end of a closed queue it recovers dead handles, because the messages
    /// that they held come back.
    #[doc(hidden)]
    #[inline]
    pub fn answer<R>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<R, TryRecvError>,
    ) -> ControlFlow<Result<R, RecvError>, WaitsFor> {
        let mut answer = attempt(self);
        if matches!(answer, Err(TryRecvError::Empty)) && self.is_closing() {
            // A failure is not lost: a later attempt recovers, or reports the fault.
            let _ = self.attachment.segment.search_briefly();
            order_acknowledgements();
            answer = attempt(self);
        }
        match answer {
            Ok(received) => ControlFlow::Break(Ok(received)),
            Err(TryRecvError::Empty) => ControlFlow::Continue(WaitsFor::Message),
            Err(TryRecvError::Fault(Fault::LeasesOut { max })) if max > 0 => {
                ControlFlow::Continue(WaitsFor::Lease)
            }
            Err(TryRecvError::Closed) => ControlFlow::Break(Err(RecvError::Closed)),
            Err(TryRecvError::Fault(fault)) => ControlFlow::Break(Err(fault.into())),
        }
    }

    fn is_closing(&self) -> bool {
        self.attachment.port().is_ok_and(|port| port.ring().is_closing())
    }

    /// Attempts until there is an answer; `None` when the time is over.
    fn wait_until<R>(
        &mut self,
        until: Option<Instant>,
        mut attempt: impl FnMut(&mut Self) -> Result<R, TryRecvError>,
    ) -> Option<Result<R, RecvError>> {
        wait_blocking(self, until, |it| it.answer(&mut attempt))
    }
}

impl<M: Message + ?Sized> Waits<WaitsFor> for Receiver<M> {
    fn side(&self, waits_for: WaitsFor) -> Side {
        self.side_for(waits_for)
    }

    fn segment(&self) -> &Segment {
        &self.attachment.segment
    }

    fn spin(&mut self) -> &mut Spin {
        &mut self.spin
    }
}

impl<M: Message + ?Sized> Intake<M> {
    /// Takes one message into a free cell, if `spare` other cells stay free.
    #[inline(always)] // so that a message is copied straight from its block to its destination
    fn take<'a>(
        &mut self,
        attachment: &'a Arc<Attachment>,
        spare: usize,
    ) -> Result<(&'a Cell<'a>, InBlock<'a>), TryRecvError> {
        let mut first = None;
        if let Some(port) = attachment.usual_port()
            && let Some((cell, offer)) = match spare {
                0 => port.first_if_free(),
                _ => port.lease_cell_if_free(self.next_lease),
            }
        {
            let slot = port.ring().slots.at(self.at);
            match port.swap_once(Verb::Recv, cell, offer, &mut self.at, slot) {
                Swapped::Done(block, gain) => {
                    let max = port.ring().geometry.max_message();
                    if let Some(frame) = block.first_frame(M::LEN.map_or(0..=max, |len| len..=len))
                    {
                        return Ok((cell, InBlock::new(block, gain, frame)));
                    }
                    first = Some(cell.number());
                }
                Swapped::NotNow => return Err(TryRecvError::Empty),
                Swapped::Unready(_) | Swapped::Lost => {}
            }
        }
        self.take_again(attachment, spare, first)
    }

    /// The slow path of [`take`](Self::take): takes the next message to deliver, returned ones
    /// included. A dead letter goes to its place, if this handle has one, and the search continues
    /// with the next message. `first` is the cell of a message that was taken already.
    #[cold]
    fn take_again<'a>(
        &mut self,
        attachment: &'a Arc<Attachment>,
        spare: usize,
        first: Option<usize>,
    ) -> Result<(&'a Cell<'a>, InBlock<'a>), TryRecvError> {
        let mut first = first;
        // As many messages as there can be, and those that come back during this call.
        let blocks = attachment.segment.geometry().blocks();
        for _ in 0..blocks.saturating_add(COME_BACK) {
            let number = match first.take() {
                Some(taken) => taken,
                None => self.take_or_owed(attachment, spare)?,
            };
            let port = attachment.port()?;
            let cell = port.cell(number).map_err(Stop::from)?;
            let frame = match port.frame(cell) {
                Ok(frame) if frame.is_returned() => port.hand_out_again(cell, frame),
                taken => taken,
            };
            let message = frame.and_then(|frame| InBlock::of(port, cell, frame));
            let message = message.map_err(|corrupt| drop_corrupt(attachment, cell, corrupt))?;
            let is_dead = message.frame().attempts() > port.ring().geometry.max_attempts();
            let is_given_up = match &mut self.dead_letters {
                DeadLetters::Kept => false,
                _ if !is_dead => false,
                DeadLetters::Discarded => true,
                DeadLetters::Forwarded(sender) => sender.forward(message).is_ok(),
                DeadLetters::Handled(handler) => {
                    // From here on the lease owns the message.
                    handler.push(Lease::new(Arc::clone(attachment), number, message));
                    let handler = (!self.defers).then(|| Arc::clone(handler));
                    notify(attachment, 1);
                    // A handler may do anything, even fork.
                    if let Some(handler) = handler {
                        handler.run();
                    }
                    continue;
                }
            };
            if !is_given_up {
                return Ok((cell, message));
            }
            port.record().tally.dead_lettered.add_one();
            cell.acknowledge();
            notify(attachment, 1);
        }
        let endless = Corrupt { what: "more messages come back than there can be" };
        Err(attachment.keep(endless).into())
    }

    /// Takes the oldest message of the ring. Returns owed messages to the ring before that, and
    /// again after it, because it makes room. If no cell is free, takes an owed message instead. Returns the cell.
    fn take_or_owed(
        &mut self,
        attachment: &Attachment,
        spare: usize,
    ) -> Result<usize, TryRecvError> {
        attachment.return_owed();
        let port = attachment.port()?;
        let cell = match port.free_cell(spare) {
            Ok(cell) => cell,
            Err(out) => return attachment.take_owed().ok_or(out.into()),
        };
        match port.recv(cell, &mut self.at, || attachment.notify_of_hands()) {
            Ok(_) => {
                attachment.return_owed();
                Ok(cell.number())
            }
            Err(Stop::Closed) => Err(self.drained(attachment)),
            Err(stop) => Err(stop.into()),
        }
    }

    /// The answer for a closed and drained queue: `Closed`, or `Empty` while some receiver holds a
    /// message that may come back.
    #[cold]
    fn drained(&mut self, attachment: &Attachment) -> TryRecvError {
        let port = match attachment.port() {
            Ok(port) => port,
            Err(fault) => return fault.into(),
        };
        let ring = port.ring();
        let is_drained = || matches!(ring.advance(Verb::Recv, &mut self.at), Err(Stop::Closed));
        if ring.has_ended(is_drained) { TryRecvError::Closed } else { TryRecvError::Empty }
    }
}

/// Acknowledges a message that was copied out.
#[inline(always)]
fn acknowledge(attachment: &Attachment, cell: &Cell<'_>, message: InBlock<'_>) {
    notify_of_room(attachment, 1);
    // The acknowledgement comes last: if the process is killed before, the message is redelivered.
    cell.acknowledge_block(message.number());
    attachment.notify_of_hands();
}

/// Frees the cell of a corrupt message.
#[cold]
fn drop_corrupt(attachment: &Attachment, cell: &Cell<'_>, corrupt: Corrupt) -> TryRecvError {
    cell.acknowledge();
    notify(attachment, 1);
    attachment.keep(corrupt).into()
}

/// Wakes senders that wait for room, and waiters that wait until no receiver holds a message.
#[inline(always)]
fn notify(attachment: &Attachment, count: u32) {
    notify_of_room(attachment, count);
    attachment.notify_of_hands();
}

#[inline]
fn notify_of_room(attachment: &Attachment, count: u32) {
    let control = attachment.same_port().ring().control;
    attachment.carry_out(control.after_recv.writable.notify(count));
}

impl<M: Message + ?Sized> core::fmt::Debug for Receiver<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Receiver").field("attachment", &self.attachment).finish_non_exhaustive()
    }
}

//! The receiving handle.

use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::dead_letters::{DeadLetter, DeadLetters, DeferredLetters, Handler};
use crate::api::lease::Lease;
use crate::api::message::{InBlock, Message};
use crate::api::sender::Sender;
use crate::error::{Corrupt, Fault, RecvError, RecvTimeoutError, TryRecvError};
use crate::process::attachment::Attachment;
use crate::process::barriers::order_acknowledgements;
use crate::process::owing::Holder;
use crate::process::side::{Side, WaitsFor, wait_blocking};
use crate::ring::frame::{Block, Frame};
use crate::ring::port::Cell;
use crate::ring::position::Position;
use crate::ring::slot::Verb;
use crate::ring::slots::Stop;
use crate::wait::spin::Spin;

/// How many messages can come back while one receive gives up others, beyond all that there can be
/// at a time. Each is one that another receiver was quicker to take and to return: as good as never
/// so many in a row.
const COME_BACK: usize = 1024;

/// Receives from a queue. Exclusive: no lock, no counter, nothing shared with another handle but
/// the ring itself.
///
/// Each message goes to one receiver. Dropping the handle gives its record back once its leases are
/// gone.
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
    at: Position,
    /// Where to begin the search for a free cell.
    hint: usize,
    dead_letters: DeadLetters<M>,
    /// A handler of dead letters is not called by the receive that finds one.
    defers: bool,
    spin: Spin,
    carries: PhantomData<fn() -> Box<M>>,
}

impl<M: Message + ?Sized> Receiver<M> {
    pub(crate) fn new(attachment: Arc<Attachment>) -> Result<Self, Fault> {
        let at = attachment.port()?.start(Verb::Recv)?;
        Ok(Self {
            attachment,
            at,
            hint: 0,
            dead_letters: DeadLetters::Kept,
            defers: false,
            spin: Spin::default(),
            carries: PhantomData,
        })
    }

    /// For how long at most a blocking call or [`block_on`] looks for a message before the thread
    /// sleeps: by default 50 us. Zero: it sleeps at once.
    ///
    /// It does so only while that pays off: on a core that the peer needs, or where messages come seldom,
    /// a thread soon sleeps at once by itself, and tries now and then. A thread in [`block_on`] looks
    /// for all its tasks when none of them can go on, for as long as the most modest of them says.
    /// Nobody spins in other runtimes.
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

    /// For drivers.
    #[doc(hidden)]
    pub fn spin_limit(&self) -> Duration {
        self.spin.limit
    }

    /// Has `handler` called with each message that this handle receives after it was handed out
    /// [`max_attempts`](crate::Builder::max_attempts) times and never acknowledged: what every
    /// receiver dies of is not given to one more. Without a handler,
    /// [a second queue](Self::forward_dead_letters) or a [discard](Self::discard_dead_letters), this
    /// handle receives such a message like any other, and its attempts go on counting.
    ///
    /// The receive that finds the message calls the handler, and then goes on to the next message. No
    /// lock of this crate is held meanwhile, so the handler may use this handle too, where tasks
    /// share it. The message is acknowledged when the handler returns. If the handler panics, or the
    /// process dies in it, the message comes again, to the handler of the receiver that gets it.
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
        self.dead_letters = DeadLetters::Handled(Arc::new(Handler::new(Box::new(handler))));
    }

    /// As [`on_dead_letter`](Self::on_dead_letter), with a second queue for them: they arrive there
    /// flagged as redelivered, with their attempts counted anew. Should that queue be full, closed or
    /// too small for a message, the message is received here all the same; nothing is lost.
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
        self.dead_letters = DeadLetters::Forwarded(Box::new(to));
    }

    /// Drops each message that had its [`max_attempts`](crate::Builder::max_attempts), and
    /// [counts](crate::Stats::dead_lettered) it: for queues where a message that failed so often is
    /// worth nothing.
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
        self.dead_letters = DeadLetters::Discarded;
    }

    /// Has a handler of dead letters called not by the receive that finds one, but by
    /// [`DeferredLetters::handle`]. For a handle behind a lock, which the handler may want.
    #[doc(hidden)]
    pub fn defer_dead_letters(&mut self) {
        self.defers = true;
    }

    /// The dead letters that the calls so far have left for the handler.
    #[doc(hidden)]
    pub fn deferred_letters(&self) -> Option<DeferredLetters<M>> {
        self.dead_letters.deferred()
    }

    /// Takes the oldest message, copied out and acknowledged. Lock-free: no peer, dead, stopped or
    /// slow, can make it wait.
    ///
    /// # Errors
    /// [`Empty`](TryRecvError::Empty), exact at the instant of the look;
    /// [`Closed`](TryRecvError::Closed) once all that was sent before the close is received;
    /// [`Fault::Forked`], [`Fault::LeasesOut`]; [`Fault::Corrupt`], which drops the message if it
    /// was one.
    ///
    /// # Ordering
    /// What happened before the send of the message happens before this returns.
    ///
    /// # If a peer dies
    /// Nothing changes. If this process dies in the call, the message stays in the queue or is
    /// delivered again, until the acknowledgement, the last thing that the call does to it: from
    /// then on, what becomes of the message is this process's concern. With a
    /// [lease](Self::try_lease) it is delivered again as long as it was not acknowledged.
    #[inline]
    pub fn try_recv(&mut self) -> Result<M::Owned, TryRecvError> {
        let mut received = None;
        let taken = self.take(0, |attachment, cell, message| {
            let read = M::read_to(message, |message| Some(received.insert(message)));
            // The acknowledgement comes last: who is killed before has the message delivered again.
            notify_of_room(attachment, 1);
            cell.acknowledge();
            attachment.notify_of_hands();
            read
        });
        taken?.map_err(|corrupt| self.attachment.keep(corrupt))?;
        received.ok_or(TryRecvError::Empty)
    }

    /// Takes the oldest message, waiting on the calling thread while there is none.
    ///
    /// # Errors
    /// [`Closed`](RecvError::Closed), and faults as [`try_recv`](Self::try_recv). What the dead had
    /// received and not acknowledged comes before the end; what others still have at the end and
    /// give back later does not: see [`Queue::close`](crate::Queue::close).
    pub fn recv_blocking(&mut self) -> Result<M::Owned, RecvError> {
        self.wait_until(None, Self::try_recv).unwrap_or(Err(RecvError::Closed))
    }

    /// As [`recv_blocking`](Self::recv_blocking), for at most `timeout`, which bounds the whole
    /// call.
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty: nothing was taken.
    pub fn recv_blocking_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<M::Owned, RecvTimeoutError> {
        self.recv_until(Instant::now().checked_add(timeout))
    }

    /// As [`recv_blocking`](Self::recv_blocking), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty: nothing was taken.
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
    /// `messages`, and wakes senders once. Returns how many. With a `limit` of 0 it returns 0, whatever
    /// the queue holds, closed or not.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv), when there is not even one. A fault that comes after some
    /// is told by the next call.
    ///
    /// # If a peer dies
    /// Each message is acknowledged as soon as it is copied out: if this process dies in the call,
    /// up to `limit` messages go with it. Lease them to have them delivered again.
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
        // More than what was there may come meanwhile, for ever.
        let most = limit.min(self.attachment.segment.geometry().capacity());
        let mut taken = 0u32;
        for _ in 0..most {
            // Copied out and acknowledged.
            let taken_one = self.take(0, |_, cell, message| {
                let read = M::read_to(message, |message| {
                    messages.push(message);
                    messages.last_mut()
                });
                read.map_err(|corrupt| (cell.number(), corrupt))?;
                cell.acknowledge();
                Ok(())
            });
            let read = |read: Result<(), (usize, Corrupt)>| {
                read.map_err(|(cell, corrupt)| self.drop_corrupt(cell, corrupt))
            };
            match taken_one.and_then(read) {
                Ok(()) => {}
                Err(error) if taken == 0 => return Err(error),
                // A fault is told by the next call, too.
                Err(_) => break,
            }
            taken = taken.saturating_add(1);
        }
        if taken > 0 {
            self.notify(taken);
        }
        Ok(taken as usize)
    }

    /// As [`try_recv_many`](Self::try_recv_many), waiting on the calling thread until there is at
    /// least one. With a `limit` of 0 it does not wait and returns 0 at once.
    ///
    /// # Errors
    /// As [`recv_blocking`](Self::recv_blocking).
    pub fn recv_many_blocking(
        &mut self,
        messages: &mut Vec<M::Owned>,
        limit: usize,
    ) -> Result<usize, RecvError> {
        let taken = self.wait_until(None, |it| it.try_recv_many(messages, limit));
        taken.unwrap_or(Err(RecvError::Closed))
    }

    /// Takes the oldest message without copying it out: a lease on it, to be
    /// [acknowledged](Lease::ack). A lease that is dropped returns its message.
    ///
    /// Hold it as long as you like: no other handle waits for it. Each handle has as many as
    /// [`Builder::leases`](crate::Builder::leases) says, and a message that it owes occupies one.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv), and [`Fault::LeasesOut`] while all leases of this handle are
    /// out.
    ///
    /// # If a peer dies
    /// If this process dies before it acknowledged, the message is delivered again, flagged
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
    pub fn try_lease(&mut self) -> Result<Lease<M>, TryRecvError> {
        // One cell stays free for `try_recv`.
        let (cell, frame) = self.take(1, |_, cell, message| (cell.number(), message.frame()))?;
        self.hint = cell.wrapping_add(1);
        let attachment = Arc::clone(&self.attachment);
        // Also joiners: one that saw us in the midst of it sleeps, though it waits for another.
        self.notify(1);
        Ok(Lease::new(attachment, cell, frame))
    }

    /// As [`try_lease`](Self::try_lease), waiting on the calling thread while there is no message, and
    /// while all leases of this handle are out: until another thread ends one.
    ///
    /// # Errors
    /// As [`recv_blocking`](Self::recv_blocking); [`Fault::LeasesOut`] where the queue has no
    /// [`leases`](crate::Builder::leases) at all.
    pub fn lease_blocking(&mut self) -> Result<Lease<M>, RecvError> {
        self.wait_until(None, Self::try_lease).unwrap_or(Err(RecvError::Closed))
    }

    /// As [`lease_blocking`](Self::lease_blocking), for at most `timeout`, which bounds the whole
    /// call.
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty: nothing was taken.
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
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty: nothing was taken.
    pub fn lease_blocking_deadline(
        &mut self,
        deadline: Instant,
    ) -> Result<Lease<M>, RecvTimeoutError> {
        Ok(self.wait_until(Some(deadline), Self::try_lease).ok_or(RecvTimeoutError::Timeout)??)
    }

    /// Where this handle waits for messages, for drivers that park tasks.
    pub fn side(&self) -> Side {
        self.side_for(WaitsFor::Message)
    }

    /// Where this handle waits for what an [`answer`](Self::answer) named.
    #[doc(hidden)]
    pub fn side_for(&self, waits_for: WaitsFor) -> Side {
        self.attachment.side(waits_for, self.at)
    }

    /// Takes one message into a free cell that leaves `spare` others free, and has `then` see to it.
    #[inline(always)] // so that a message is copied from its block to where it is wanted
    fn take<R>(
        &mut self,
        spare: usize,
        then: impl FnOnce(&Attachment, &Cell<'_>, InBlock<'_>) -> R,
    ) -> Result<R, TryRecvError> {
        let first = if self.attachment.same_port().owes() {
            None
        } else {
            match take_next(&self.attachment, &mut self.at, self.hint, spare) {
                Ok((cell, block)) => {
                    let geometry = &self.attachment.same_port().ring().geometry;
                    match block.frame(geometry.max_message()) {
                        Ok(frame) if !frame.is_returned() => {
                            return Ok(then(&self.attachment, cell, InBlock::new(block, frame)));
                        }
                        frame => Some((cell.number(), frame)),
                    }
                }
                Err(TryRecvError::Closed) => return Err(self.drained()),
                Err(error) => return Err(error),
            }
        };
        let (cell, frame) = self.take_again(spare, first)?;
        let port = self.attachment.same_port();
        let cell = port.cell(cell).map_err(Stop::from)?;
        let block = port.block_of(cell).map_err(Stop::from)?;
        Ok(then(&self.attachment, cell, InBlock::new(block, frame)))
    }

    /// Takes a message that some receiver had before, unless it had enough attempts and there is a
    /// place for those, and then the next. `first` was taken already.
    #[cold]
    fn take_again(
        &mut self,
        spare: usize,
        first: Option<(usize, Result<Frame, Corrupt>)>,
    ) -> Result<(usize, Frame), TryRecvError> {
        let mut first = first;
        // All messages that there can be, and then those that came back meanwhile.
        let blocks = self.attachment.segment.geometry().blocks();
        for _ in 0..blocks.saturating_add(COME_BACK) {
            let (number, frame) = match first.take() {
                Some(taken) => taken,
                None => self.take_or_owed(spare)?,
            };
            let port = self.attachment.port()?;
            let cell = port.cell(number).map_err(Stop::from)?;
            let message = match frame {
                Ok(frame) if !frame.is_returned() => return Ok((number, frame)),
                Ok(frame) => port
                    .hand_out_again(cell, frame)
                    .and_then(|frame| Ok(InBlock::new(port.block_of(cell)?, frame))),
                Err(corrupt) => Err(corrupt),
            };
            let message = message.map_err(|corrupt| self.drop_corrupt(number, corrupt))?;
            let is_dead = message.frame().attempts() > port.ring().geometry.max_attempts();
            let is_given_up = match &mut self.dead_letters {
                DeadLetters::Kept => false,
                _ if !is_dead => false,
                DeadLetters::Discarded => true,
                DeadLetters::Forwarded(sender) => sender.forward(message).is_ok(),
                DeadLetters::Handled(handler) => {
                    // From here on the message is the lease's.
                    let attachment = Arc::clone(&self.attachment);
                    handler.push(Lease::new(attachment, number, message.frame()));
                    let handler = (!self.defers).then(|| Arc::clone(handler));
                    self.notify(1);
                    // A handler may do anything, fork included.
                    if let Some(handler) = handler {
                        handler.run();
                    }
                    continue;
                }
            };
            if !is_given_up {
                return Ok((number, message.frame()));
            }
            port.record().tally.dead_lettered.add_one();
            port.acknowledge(number);
            self.notify(1);
        }
        let endless = Corrupt { what: "more messages come back than there can be" };
        Err(self.attachment.keep(endless).into())
    }

    /// Takes the oldest message of the ring. Before that, and with the room that this makes, returns
    /// what this handle owes; if no cell is free, takes an owed message again.
    fn take_or_owed(
        &mut self,
        spare: usize,
    ) -> Result<(usize, Result<Frame, Corrupt>), TryRecvError> {
        self.attachment.return_owed();
        match take_next(&self.attachment, &mut self.at, self.hint, spare) {
            Ok((cell, block)) => {
                self.attachment.return_owed();
                let geometry = &self.attachment.same_port().ring().geometry;
                Ok((cell.number(), block.frame(geometry.max_message())))
            }
            Err(TryRecvError::Closed) => Err(self.drained()),
            Err(error @ TryRecvError::Fault(Fault::LeasesOut { .. })) => {
                let cell = self.attachment.take_owed().ok_or(error)?;
                let port = self.attachment.port()?;
                Ok((cell, port.cell(cell).and_then(|cell| port.frame(cell))))
            }
            Err(error) => Err(error),
        }
    }

    /// What to say of a queue that is closed and drained: it has ended, unless some handle has a
    /// message that may come back.
    #[cold]
    fn drained(&mut self) -> TryRecvError {
        let port = match self.attachment.port() {
            Ok(port) => port,
            Err(fault) => return fault.into(),
        };
        let ring = port.ring();
        let is_drained = || matches!(ring.turn(Verb::Recv, &mut self.at), Err(Stop::Closed));
        if ring.has_ended(is_drained) { TryRecvError::Closed } else { TryRecvError::Empty }
    }

    /// Lets go of a message that is none.
    #[cold]
    fn drop_corrupt(&self, cell: usize, corrupt: Corrupt) -> TryRecvError {
        self.attachment.same_port().acknowledge(cell);
        self.notify(1);
        self.attachment.keep(corrupt).into()
    }

    /// Wakes those that wait for room, and those that wait until no message is in any hands.
    #[inline]
    fn notify(&self, count: u32) {
        notify_of_room(&self.attachment, count);
        self.attachment.notify_of_hands();
    }

    /// What a waiting call answers to `attempt`, or what it waits for. For drivers that park tasks.
    ///
    /// Before a wait at the end of a closed queue it recovers the dead: what they held comes back.
    #[doc(hidden)]
    #[inline]
    pub fn answer<R>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<R, TryRecvError>,
    ) -> ControlFlow<Result<R, RecvError>, WaitsFor> {
        let mut answer = attempt(self);
        if matches!(answer, Err(TryRecvError::Empty)) && self.is_closing() {
            // What cannot be recovered now is recovered by a later attempt, or tells of a fault.
            let _ = self.attachment.segment.glance();
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

    /// Tries until there is an answer; `None` when the time is over.
    fn wait_until<R>(
        &mut self,
        until: Option<Instant>,
        mut attempt: impl FnMut(&mut Self) -> Result<R, TryRecvError>,
    ) -> Option<Result<R, RecvError>> {
        let attempt = |it: &mut Self| it.answer(&mut attempt);
        wait_blocking(
            self,
            until,
            |it| &it.attachment.segment,
            Self::side_for,
            |it| &mut it.spin,
            attempt,
        )
    }
}

/// Takes the oldest message of the ring into a free cell that leaves `spare` others free, and tells
/// which, with its block.
#[inline(always)]
fn take_next<'a>(
    attachment: &'a Attachment,
    at: &mut Position,
    hint: usize,
    spare: usize,
) -> Result<(&'a Cell<'a>, Block<'a>), TryRecvError> {
    let port = attachment.port()?;
    let cell = port.free_cell(hint, spare)?;
    Ok((cell, port.recv(cell, at, || attachment.notify_of_hands())?))
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

//! Sending from a task.

use std::borrow::BorrowMut;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use parkline_core::driver::Side;
use parkline_core::{
    Message, Pack, Reservation, SendError, SendTimeoutError, Sender, TrySendError,
};

use crate::shared::{Handle, Shared};
use crate::wait::wait_where;
use crate::waiting::Waits;

mod sealed {
    use super::{
        ControlFlow, Message, Reservation, SendError, Sender, Shared, TrySendError, Waits,
    };

    /// What the async calls need of a handle.
    pub trait TrySend<M: Message + ?Sized>: Waits + Send + Sized {
        fn answer<R>(
            &mut self,
            attempt: impl FnOnce(&mut Sender<M>) -> Result<R, TrySendError>,
        ) -> ControlFlow<Result<R, SendError>>;
    }

    impl<M: Message + ?Sized> TrySend<M> for Sender<M> {
        fn answer<R>(
            &mut self,
            attempt: impl FnOnce(&mut Sender<M>) -> Result<R, TrySendError>,
        ) -> ControlFlow<Result<R, SendError>> {
            Sender::answer(self, attempt)
        }
    }

    impl<M: Message + ?Sized> TrySend<M> for Shared<Sender<M>> {
        fn answer<R>(
            &mut self,
            attempt: impl FnOnce(&mut Sender<M>) -> Result<R, TrySendError>,
        ) -> ControlFlow<Result<R, SendError>> {
            self.lock().answer(attempt)
        }
    }

    pub trait Commit: Waits + Send + Sized {
        fn answer(&mut self) -> ControlFlow<Result<(), SendError>>;
    }

    impl Commit for Reservation<'_> {
        fn answer(&mut self) -> ControlFlow<Result<(), SendError>> {
            Reservation::answer(self)
        }
    }
}

impl<M: Message + ?Sized> Waits for Sender<M> {
    fn side(&self, (): ()) -> Side {
        Self::side(self)
    }

    fn spin_limit(&self) -> Duration {
        Self::spin_limit(self)
    }
}

impl Waits for Reservation<'_> {
    fn side(&self, (): ()) -> Side {
        Self::side(self)
    }

    fn spin_limit(&self) -> Duration {
        Self::spin_limit(self)
    }
}

/// The async calls of a [`Sender`], and of one that is [`Shared`] between tasks.
///
/// A timeout counts from the call, not from the first poll. A future that is first polled after its
/// deadline attempts once. A timeout beyond the clock's range, as `Duration::MAX`, never passes.
///
/// ```
/// use parkline_uring::{AsyncSender, Queue, SendTimeoutError, block_on};
/// use std::time::Duration;
///
/// let queue = Queue::builder().capacity(1).create()?;
/// let mut sender = queue.sender()?.share();
/// block_on(async {
///     sender.send(b"first").await?;
///     let full = sender.clone().send_timeout(b"second", Duration::from_millis(1)).await;
///     assert_eq!(full, Err(SendTimeoutError::Timeout(())));
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AsyncSender<M: Message + ?Sized + Sync>: sealed::TrySend<M> {
    /// Sends a message, waiting while the queue is full.
    ///
    /// # Errors
    /// [`Closed`](SendError::Closed) once the queue is closed, also while waiting; faults as
    /// [`Sender::try_send`].
    ///
    /// # Cancel safety
    /// If it is dropped before it is ready, nothing was sent; a wake that was meant for it goes to another
    /// waiter.
    ///
    /// # Ordering
    /// As [`Sender::try_send`].
    ///
    /// # If a peer dies
    /// As [`Sender::try_send`]. A wake that was lost with a killed process is made up for within the
    /// watchdog's period.
    ///
    /// ```
    /// use parkline_uring::{AsyncSender, Queue, SendError, block_on};
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut sender = queue.sender()?;
    /// block_on(async {
    ///     sender.send(b"hello").await?;
    ///     queue.close()?;
    ///     assert_eq!(sender.send(b"too late").await, Err(SendError::Closed(())));
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// assert_eq!(queue.receiver()?.try_recv()?, b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn send(&mut self, message: &M) -> impl Future<Output = Result<(), SendError>> + Send {
        async move {
            // The future keeps the message already: the attempt keeps where it is.
            let message = &message;
            let attempt = move |it: &mut Self| it.answer(|it| it.try_send(message));
            wait_where(self, None, attempt).await.unwrap_or(Err(SendError::Closed(())))
        }
    }

    /// As [`send`](Self::send), for at most `timeout`, which bounds the whole call.
    ///
    /// # Errors
    /// [`Timeout`](SendTimeoutError::Timeout) when the queue stayed full: nothing was sent. Otherwise as
    /// [`send`](Self::send).
    ///
    /// ```
    /// use parkline_uring::{AsyncSender, Queue, SendTimeoutError, block_on};
    /// use std::time::Duration;
    ///
    /// let mut sender = Queue::builder().capacity(1).create()?.sender()?;
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(block_on(sender.send_timeout(b"first", soon)), Ok(()));
    /// let refused = block_on(sender.send_timeout(b"second", soon));
    /// assert_eq!(refused, Err(SendTimeoutError::Timeout(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn send_timeout(
        &mut self,
        message: &M,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), SendTimeoutError>> + Send {
        send_until(self, message, Instant::now().checked_add(timeout))
    }

    /// As [`send`](Self::send), until `deadline` at most.
    ///
    /// # Errors
    /// As [`send_timeout`](Self::send_timeout).
    ///
    /// ```
    /// use parkline_uring::{AsyncSender, Queue, SendTimeoutError, block_on};
    /// use std::time::{Duration, Instant};
    ///
    /// let mut sender = Queue::builder().capacity(1).create()?.sender()?;
    /// let deadline = Instant::now() + Duration::from_millis(5); // for both messages together
    /// block_on(async {
    ///     assert_eq!(sender.send_deadline(b"first", deadline).await, Ok(()));
    ///     let refused = sender.send_deadline(b"second", deadline).await;
    ///     assert_eq!(refused, Err(SendTimeoutError::Timeout(())));
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn send_deadline(
        &mut self,
        message: &M,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), SendTimeoutError>> + Send {
        send_until(self, message, Some(deadline))
    }

    /// Waits until there is room for one message, then sends as many of `messages` as there is room
    /// for, in order. Returns how many. Without messages it does not wait and returns 0 at once, also
    /// when the queue is closed.
    ///
    /// # Errors
    /// As [`send`](Self::send), when the first message is refused.
    ///
    /// # Cancel safety
    /// If it is dropped before it is ready, nothing was sent.
    ///
    /// # If a peer dies
    /// As [`Sender::try_send_many`] and [`send`](Self::send).
    ///
    /// ```
    /// use parkline_uring::{AsyncSender, Queue, SendError, block_on};
    ///
    /// let queue = Queue::builder().capacity(2).create_typed::<u32>()?;
    /// let mut sender = queue.sender()?;
    /// assert_eq!(block_on(sender.send_many(&[1, 2, 3])), Ok(2), "there is room for 2");
    /// queue.close()?;
    /// assert_eq!(block_on(sender.send_many(&[3])), Err(SendError::Closed(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn send_many<'m, I>(
        &mut self,
        messages: I,
    ) -> impl Future<Output = Result<usize, SendError>> + Send
    where
        M: 'm,
        I: IntoIterator<Item = &'m M>,
        I::IntoIter: Clone + Send,
    {
        let messages = messages.into_iter();
        send_by(self, move |it| it.try_send_many(messages.clone()))
    }

    /// Makes this one handle of many tasks: each has a clone.
    ///
    /// ```
    /// use parkline_uring::{AsyncSender, Queue, TrySendError, block_on};
    ///
    /// let queue = Queue::builder().capacity(2).handles(1).create()?;
    /// let mut sender = queue.sender()?.share();
    /// assert!(queue.sender().is_err(), "the queue has one handle");
    /// block_on(sender.clone().send(b"by one task"))?;
    /// block_on(sender.send(b"by another"))?;
    /// assert_eq!(sender.lock().try_send(b"one more"), Err(TrySendError::Full(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn share(self) -> Shared<Self>
    where
        Self: Handle,
    {
        Shared::new(self)
    }
}

impl<M: Message + ?Sized + Sync, H: sealed::TrySend<M>> AsyncSender<M> for H {}

/// Sending many short messages as one from a task.
pub trait AsyncPackSender: sealed::TrySend<Pack> {
    /// Waits until there is room, then sends as many of `messages` as fit into one pack, in order.
    /// Returns how many. Without messages it does not wait and returns 0 at once, also when the queue is
    /// closed.
    ///
    /// # Errors
    /// As [`Sender::try_send_packed`] but for a full queue: nothing was sent.
    ///
    /// # Cancel safety
    /// If it is dropped before it is ready, nothing was sent.
    ///
    /// # If a peer dies
    /// As [`AsyncSender::send`].
    ///
    /// ```
    /// use parkline_uring::{AsyncPackSender, AsyncReceiver, Pack, Queue, block_on};
    ///
    /// let queue = Queue::builder().max_message(4096).create_typed::<Pack>()?;
    /// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    /// block_on(async {
    ///     assert_eq!(sender.send_packed(["one", "two"]).await?, 2);
    ///     assert!(receiver.recv().await?.iter().eq([b"one", b"two"]));
    ///     queue.close()?;
    ///     assert!(sender.send_packed(["too late"]).await.is_err());
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn send_packed<T, I>(
        &mut self,
        messages: I,
    ) -> impl Future<Output = Result<usize, SendError>> + Send
    where
        T: AsRef<[u8]>,
        I: IntoIterator<Item = T>,
        I::IntoIter: Clone + Send,
    {
        let messages = messages.into_iter();
        send_by(self, move |it| it.try_send_packed(messages.clone()))
    }
}

impl<H: sealed::TrySend<Pack>> AsyncPackSender for H {}

async fn send_by<M: Message + ?Sized, H: sealed::TrySend<M>, R>(
    handle: &mut H,
    mut call: impl FnMut(&mut Sender<M>) -> Result<R, TrySendError>,
) -> Result<R, SendError> {
    let sent = wait_where(handle, None, |it| it.answer(&mut call));
    sent.await.unwrap_or(Err(SendError::Closed(())))
}

async fn send_until<M: Message + ?Sized + Sync, H: sealed::TrySend<M>>(
    handle: &mut H,
    message: &M,
    until: Option<Instant>,
) -> Result<(), SendTimeoutError> {
    let sent = wait_where(handle, until, |it| it.answer(|it| it.try_send(message))).await;
    Ok(sent.ok_or(SendTimeoutError::Timeout(()))??)
}

/// Reserving a message from a task.
pub trait AsyncReserve: BorrowMut<Sender> + Send {
    /// Waits until there is room, then reserves a message of `len` bytes to be written in place.
    ///
    /// Other senders may fill the queue before it is committed; the commit waits then. The message has `len`
    /// bytes, however many are written; the others are zeros.
    ///
    /// # Errors
    /// As [`AsyncSender::send`].
    ///
    /// # Cancel safety
    /// If it is dropped before it is ready, nothing was reserved.
    ///
    /// # If a peer dies
    /// As [`AsyncSender::send`]; if this process dies before the commit, nothing is sent.
    ///
    /// ```
    /// use parkline_uring::{AsyncCommit, AsyncReserve, Queue, block_on};
    ///
    /// let queue = Queue::builder().capacity(1).max_message(8).create()?;
    /// let mut sender = queue.sender()?;
    /// block_on(async {
    ///     let mut message = sender.reserve(2).await?;
    ///     message.write_at(0, b"hi");
    ///     assert!(message.commit().await.is_ok());
    ///     assert!(sender.reserve(9).await.is_err(), "max_message is 8");
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// assert_eq!(queue.receiver()?.try_recv()?, b"hi");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn reserve(
        &mut self,
        len: usize,
    ) -> impl Future<Output = Result<Reservation<'_>, SendError>> + Send {
        async move { reserve_until(self.borrow_mut(), len, None).await.map_err(without_deadline) }
    }

    /// As [`reserve`](Self::reserve), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](SendTimeoutError::Timeout) when the queue stayed full. Otherwise as
    /// [`reserve`](Self::reserve).
    ///
    /// ```
    /// use parkline_uring::{AsyncReserve, Queue, SendTimeoutError, block_on};
    /// use std::time::Instant;
    ///
    /// let mut sender = Queue::builder().capacity(1).create()?.sender()?;
    /// let now = Instant::now();
    /// assert_eq!(block_on(sender.reserve_deadline(5, now))?.len(), 5);
    /// sender.try_send(b"first")?;
    /// let refused = block_on(sender.reserve_deadline(5, now));
    /// assert_eq!(refused.unwrap_err(), SendTimeoutError::Timeout(()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn reserve_deadline(
        &mut self,
        len: usize,
        deadline: Instant,
    ) -> impl Future<Output = Result<Reservation<'_>, SendTimeoutError>> + Send {
        reserve_until(self.borrow_mut(), len, Some(deadline))
    }

    /// As [`reserve`](Self::reserve), for at most `timeout`.
    ///
    /// # Errors
    /// As [`reserve_deadline`](Self::reserve_deadline).
    ///
    /// ```
    /// use parkline_uring::{AsyncReserve, Queue, SendTimeoutError, block_on};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().capacity(1).create()?;
    /// let mut sender = queue.sender()?;
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(block_on(sender.reserve_timeout(5, soon))?.len(), 5);
    /// queue.close()?;
    /// let refused = block_on(sender.reserve_timeout(5, soon));
    /// assert_eq!(refused.unwrap_err(), SendTimeoutError::Closed(()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn reserve_timeout(
        &mut self,
        len: usize,
        timeout: Duration,
    ) -> impl Future<Output = Result<Reservation<'_>, SendTimeoutError>> + Send {
        reserve_until(self.borrow_mut(), len, Instant::now().checked_add(timeout))
    }
}

impl AsyncReserve for Sender {}

async fn reserve_until(
    sender: &mut Sender,
    len: usize,
    until: Option<Instant>,
) -> Result<Reservation<'_>, SendTimeoutError> {
    let room = wait_where(sender, until, |it| it.answer(|it| it.check_room(len))).await;
    room.ok_or(SendTimeoutError::Timeout(()))??;
    sender.reserve_now(len).map_err(|fault| SendTimeoutError::Fault((), fault))
}

/// Committing a reserved message from a task.
pub trait AsyncCommit: sealed::Commit {
    /// Commits the message, waiting while the queue is full.
    ///
    /// # Errors
    /// As [`AsyncSender::send`]; the reservation comes back with what was written.
    ///
    /// # Cancel safety
    /// If it is dropped before it is ready, nothing was sent, and what was written is gone.
    ///
    /// # If a peer dies
    /// As [`AsyncSender::send`].
    ///
    /// ```
    /// use parkline_uring::{AsyncCommit, Queue, SendError, block_on};
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut sender = queue.sender()?;
    /// assert!(block_on(sender.try_reserve(5)?.commit()).is_ok());
    /// let message = sender.try_reserve(5)?;
    /// queue.close()?;
    /// let Err(SendError::Closed(message)) = block_on(message.commit()) else { panic!("closed") };
    /// assert_eq!(message.len(), 5, "it comes back");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn commit(self) -> impl Future<Output = Result<(), SendError<Self>>> + Send {
        async { commit_until(self, None).await.map_err(without_deadline) }
    }

    /// As [`commit`](Self::commit), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](SendTimeoutError::Timeout) when the queue stayed full; the reservation comes back
    /// with what was written. Otherwise as [`commit`](Self::commit).
    ///
    /// ```
    /// use parkline_uring::{AsyncCommit, Queue, SendTimeoutError, block_on};
    /// use std::time::Instant;
    ///
    /// let queue = Queue::builder().capacity(1).create()?;
    /// let mut sender = queue.sender()?;
    /// sender.try_send(b"first")?;
    /// let refused = block_on(sender.reserve_now(6)?.commit_deadline(Instant::now()));
    /// let Err(SendTimeoutError::Timeout(message)) = refused else { panic!("it is full") };
    /// queue.receiver()?.try_recv()?;
    /// assert!(block_on(message.commit_deadline(Instant::now())).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn commit_deadline(
        self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), SendTimeoutError<Self>>> + Send {
        commit_until(self, Some(deadline))
    }

    /// As [`commit`](Self::commit), for at most `timeout`.
    ///
    /// # Errors
    /// As [`commit_deadline`](Self::commit_deadline).
    ///
    /// ```
    /// use parkline_uring::{AsyncCommit, Queue, SendTimeoutError, block_on};
    /// use std::time::Duration;
    ///
    /// let mut sender = Queue::builder().capacity(1).create()?.sender()?;
    /// let soon = Duration::from_millis(1);
    /// assert!(block_on(sender.reserve_now(5)?.commit_timeout(soon)).is_ok());
    /// let refused = block_on(sender.reserve_now(5)?.commit_timeout(soon));
    /// assert!(matches!(refused, Err(SendTimeoutError::Timeout(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn commit_timeout(
        self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), SendTimeoutError<Self>>> + Send {
        commit_until(self, Instant::now().checked_add(timeout))
    }
}

impl AsyncCommit for Reservation<'_> {}

async fn commit_until<R: sealed::Commit>(
    mut reservation: R,
    until: Option<Instant>,
) -> Result<(), SendTimeoutError<R>> {
    match wait_where(&mut reservation, until, R::answer).await {
        Some(Ok(())) => Ok(()),
        Some(Err(SendError::Closed(()))) => Err(SendTimeoutError::Closed(reservation)),
        Some(Err(SendError::Fault((), fault))) => Err(SendTimeoutError::Fault(reservation, fault)),
        None => Err(SendTimeoutError::Timeout(reservation)),
    }
}

/// The error of a call that has no deadline.
fn without_deadline<R>(error: SendTimeoutError<R>) -> SendError<R> {
    match error {
        SendTimeoutError::Fault(it, fault) => SendError::Fault(it, fault),
        SendTimeoutError::Closed(it) | SendTimeoutError::Timeout(it) => SendError::Closed(it),
    }
}

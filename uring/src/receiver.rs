//! Receiving in a task.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use parkline_core::driver::{DeferredLetters, Side, WaitsFor};
use parkline_core::{
    Lease, Message, Received, Receiver, RecvError, RecvTimeoutError, TryRecvError,
};

use crate::shared::{Handle, Shared};
use crate::wait::wait_where;
use crate::waiting::Waits;

mod sealed {
    use super::{
        ControlFlow, DeferredLetters, Message, Receiver, RecvError, Shared, TryRecvError, Waits,
        WaitsFor,
    };

    /// What the async calls need of a handle.
    pub trait TryRecv<M: Message + ?Sized>: Waits<WaitsFor> + Send + Sized {
        fn answer<R>(
            &mut self,
            attempt: impl FnMut(&mut Receiver<M>) -> Result<R, TryRecvError>,
        ) -> ControlFlow<Result<R, RecvError>, WaitsFor>;
    }

    impl<M: Message + ?Sized> TryRecv<M> for Receiver<M> {
        fn answer<R>(
            &mut self,
            attempt: impl FnMut(&mut Receiver<M>) -> Result<R, TryRecvError>,
        ) -> ControlFlow<Result<R, RecvError>, WaitsFor> {
            Receiver::answer(self, attempt)
        }
    }

    impl<M: Message + ?Sized> TryRecv<M> for Shared<Receiver<M>> {
        fn answer<R>(
            &mut self,
            mut attempt: impl FnMut(&mut Receiver<M>) -> Result<R, TryRecvError>,
        ) -> ControlFlow<Result<R, RecvError>, WaitsFor> {
            loop {
                let mut receiver = self.lock_alone();
                let answer = receiver.answer(&mut attempt);
                let letters = receiver.deferred_letters();
                drop(receiver);
                let is_handled = letters.is_some_and(DeferredLetters::handle);
                // There may be more messages behind them.
                if answer.is_break() || !is_handled {
                    return answer;
                }
            }
        }
    }
}

impl<M: Message + ?Sized> Waits<WaitsFor> for Receiver<M> {
    fn side(&self, waits_for: WaitsFor) -> Side {
        self.side_for(waits_for)
    }

    fn spin_limit(&self) -> Duration {
        Self::spin_limit(self)
    }
}

/// The async calls of a [`Receiver`], and of one that is [`Shared`] between tasks.
///
/// A timeout counts from the call, not from the first poll. A future that is first polled after its
/// deadline attempts once. A timeout beyond the clock's range, as `Duration::MAX`, never passes.
///
/// ```
/// use parkline_uring::{AsyncReceiver, Queue, RecvTimeoutError, block_on};
/// use std::time::Duration;
///
/// let queue = Queue::builder().capacity(4).create()?;
/// let mut receiver = queue.receiver()?.share();
/// queue.sender()?.try_send(b"hello")?;
/// block_on(async {
///     assert_eq!(receiver.recv().await?, b"hello");
///     let empty = receiver.recv_timeout(Duration::from_millis(1)).await;
///     assert_eq!(empty, Err(RecvTimeoutError::Timeout));
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AsyncReceiver<M: Message + ?Sized>: sealed::TryRecv<M>
where
    M::Owned: Send,
{
    /// Takes the oldest message, copied out and acknowledged, waiting while there is none.
    ///
    /// # Errors
    /// [`Closed`](RecvError::Closed) once the queue is closed and drained, also while waiting, as
    /// [`Receiver::recv_blocking`] says; faults as [`Receiver::try_recv`].
    ///
    /// # Cancel safety
    /// If it is dropped before it is ready, nothing was taken; a wake that was meant for it goes to another
    /// waiter.
    ///
    /// # Ordering
    /// As [`Receiver::try_recv`].
    ///
    /// # If a peer dies
    /// As [`Receiver::try_recv`]. A wake that was lost with a killed process is made up for within the
    /// watchdog's period.
    ///
    /// ```
    /// use parkline_uring::{AsyncReceiver, Queue, RecvError, block_on};
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut receiver = queue.receiver()?;
    /// queue.sender()?.try_send(b"last")?;
    /// queue.close()?;
    /// block_on(async {
    ///     assert_eq!(receiver.recv().await?, b"last");
    ///     assert_eq!(receiver.recv().await, Err(RecvError::Closed));
    ///     Ok::<(), RecvError>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn recv(&mut self) -> impl Future<Output = Result<M::Owned, RecvError>> + Send {
        async {
            let received = recv_until(self, None, Receiver::try_recv).await;
            received.unwrap_or(Err(RecvError::Closed))
        }
    }

    /// As [`recv`](Self::recv), with the message's [id](Lease::id). With a timeout, take a
    /// [lease](Self::lease_timeout): it tells the id, too.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    /// As [`recv`](Self::recv).
    ///
    /// # Ordering
    /// As [`Receiver::try_recv`].
    ///
    /// # If a peer dies
    /// As [`recv`](Self::recv).
    ///
    /// ```
    /// use parkline_uring::{AsyncReceiver, Queue, block_on};
    ///
    /// let queue = Queue::builder().create_typed::<u64>()?;
    /// queue.sender()?.try_send(&250)?;
    /// let mut receiver = queue.receiver()?;
    /// block_on(async {
    ///     let lease = receiver.lease().await?;
    ///     let id = lease.id();
    ///     lease.nack();
    ///     let received = receiver.recv_with_id().await?;
    ///     assert_eq!((received.id, received.message), (id, 250), "the same message again");
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn recv_with_id(
        &mut self,
    ) -> impl Future<Output = Result<Received<M::Owned>, RecvError>> + Send {
        async {
            let received = recv_until(self, None, Receiver::try_recv_with_id).await;
            received.unwrap_or(Err(RecvError::Closed))
        }
    }

    /// As [`recv`](Self::recv), for at most `timeout`, which bounds the whole call.
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty: nothing was taken. Otherwise
    /// as [`recv`](Self::recv).
    ///
    /// ```
    /// use parkline_uring::{AsyncReceiver, Queue, RecvTimeoutError, block_on};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut receiver = queue.receiver()?;
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(block_on(receiver.recv_timeout(soon)), Err(RecvTimeoutError::Timeout));
    /// queue.sender()?.try_send(b"hello")?;
    /// assert_eq!(block_on(receiver.recv_timeout(soon))?, b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn recv_timeout(
        &mut self,
        timeout: Duration,
    ) -> impl Future<Output = Result<M::Owned, RecvTimeoutError>> + Send {
        recv_in_time(self, Instant::now().checked_add(timeout), Receiver::try_recv)
    }

    /// As [`recv`](Self::recv), until `deadline` at most.
    ///
    /// # Errors
    /// As [`recv_timeout`](Self::recv_timeout).
    ///
    /// ```
    /// use parkline_uring::{AsyncReceiver, Queue, RecvTimeoutError, block_on};
    /// use std::time::{Duration, Instant};
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut receiver = queue.receiver()?;
    /// queue.sender()?.try_send(b"hello")?;
    /// let deadline = Instant::now() + Duration::from_millis(5); // for both messages together
    /// block_on(async {
    ///     assert_eq!(receiver.recv_deadline(deadline).await?, b"hello");
    ///     assert_eq!(receiver.recv_deadline(deadline).await, Err(RecvTimeoutError::Timeout));
    ///     Ok::<(), RecvTimeoutError>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn recv_deadline(
        &mut self,
        deadline: Instant,
    ) -> impl Future<Output = Result<M::Owned, RecvTimeoutError>> + Send {
        recv_in_time(self, Some(deadline), Receiver::try_recv)
    }

    /// Waits until there is a message, then takes up to `limit` in order, at most the queue's
    /// capacity, and appends them to `messages`. Returns how many. With a `limit` of 0 it does not wait
    /// and returns 0 at once, also when the queue is closed.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    /// If it is dropped before it is ready, nothing was taken.
    ///
    /// # If a peer dies
    /// As [`Receiver::try_recv_many`].
    ///
    /// ```
    /// use parkline_uring::{AsyncReceiver, Queue, RecvError, block_on};
    ///
    /// let queue = Queue::builder().create_typed::<u32>()?;
    /// queue.sender()?.try_send_many(&[1, 2, 3])?;
    /// queue.close()?;
    /// let (mut receiver, mut messages) = (queue.receiver()?, Vec::new());
    /// block_on(async {
    ///     assert_eq!(receiver.recv_many(&mut messages, 2).await, Ok(2));
    ///     assert_eq!(receiver.recv_many(&mut messages, 2).await, Ok(1));
    ///     assert_eq!(receiver.recv_many(&mut messages, 2).await, Err(RecvError::Closed));
    /// });
    /// assert_eq!(messages, [1, 2, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn recv_many(
        &mut self,
        messages: &mut Vec<M::Owned>,
        limit: usize,
    ) -> impl Future<Output = Result<usize, RecvError>> + Send {
        async move {
            let taken = recv_until(self, None, |it| it.try_recv_many(messages, limit)).await;
            taken.unwrap_or(Err(RecvError::Closed))
        }
    }

    /// Takes the oldest message without copying it out, waiting while there is none, and while all
    /// leases of the handle are out: see [`Receiver::try_lease`]. Only [`Lease::ack`] says that the
    /// message is done: a lease that is dropped, as by a task that is cancelled, returns it.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); [`LeasesOut`](parkline_core::Fault::LeasesOut) where the queue has no
    /// leases at all.
    ///
    /// # Cancel safety
    /// If it is dropped before it is ready, nothing was taken; a wake that was meant for it goes to another
    /// waiter.
    ///
    /// # If a peer dies
    /// As [`Receiver::try_lease`] and [`recv`](Self::recv).
    ///
    /// ```
    /// use parkline_uring::{AsyncReceiver, Queue, RecvTimeoutError, block_on};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().leases(1).create()?;
    /// queue.sender()?.try_send_many([&b"first"[..], b"second"])?;
    /// let mut receiver = queue.receiver()?;
    /// block_on(async {
    ///     let first = receiver.lease().await?;
    ///     let soon = Duration::from_millis(1);
    ///     let all_are_out = receiver.lease_timeout(soon).await;
    ///     assert_eq!(all_are_out.unwrap_err(), RecvTimeoutError::Timeout);
    ///     first.ack();
    ///     receiver.lease().await?.ack();
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn lease(&mut self) -> impl Future<Output = Result<Lease<M>, RecvError>> + Send {
        async {
            let leased = recv_until(self, None, Receiver::try_lease).await;
            leased.unwrap_or(Err(RecvError::Closed))
        }
    }

    /// As [`lease`](Self::lease), for at most `timeout`, which bounds the whole call.
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty, or all leases of the handle
    /// stayed out: nothing was taken. Otherwise as [`lease`](Self::lease).
    ///
    /// ```
    /// use parkline_uring::{AsyncReceiver, Queue, RecvTimeoutError, block_on};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().create()?;
    /// queue.sender()?.try_send(b"job")?;
    /// let mut receiver = queue.receiver()?;
    /// let soon = Duration::from_millis(1);
    /// block_on(receiver.lease_timeout(soon))?.ack();
    /// let refused = block_on(receiver.lease_timeout(soon));
    /// assert_eq!(refused.unwrap_err(), RecvTimeoutError::Timeout);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn lease_timeout(
        &mut self,
        timeout: Duration,
    ) -> impl Future<Output = Result<Lease<M>, RecvTimeoutError>> + Send {
        recv_in_time(self, Instant::now().checked_add(timeout), Receiver::try_lease)
    }

    /// As [`lease`](Self::lease), until `deadline` at most.
    ///
    /// # Errors
    /// As [`lease_timeout`](Self::lease_timeout).
    ///
    /// ```
    /// use parkline_uring::{AsyncReceiver, Queue, RecvTimeoutError, block_on};
    /// use std::time::{Duration, Instant};
    ///
    /// let queue = Queue::builder().create()?;
    /// queue.sender()?.try_send(b"job")?;
    /// let mut receiver = queue.receiver()?;
    /// let deadline = Instant::now() + Duration::from_millis(5);
    /// let job = block_on(receiver.lease_deadline(deadline))?;
    /// assert_eq!(job.read()?, b"job");
    /// let refused = block_on(receiver.lease_deadline(deadline));
    /// assert_eq!(refused.unwrap_err(), RecvTimeoutError::Timeout);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn lease_deadline(
        &mut self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Lease<M>, RecvTimeoutError>> + Send {
        recv_in_time(self, Some(deadline), Receiver::try_lease)
    }

    /// Makes this one handle of many tasks: each has a clone, and each message goes to one of them.
    ///
    /// ```
    /// use parkline_uring::{AsyncReceiver, Queue, RecvError, block_on};
    ///
    /// let queue = Queue::builder().create()?;
    /// queue.sender()?.try_send(b"hello")?;
    /// queue.close()?;
    /// let mut receiver = queue.receiver()?.share();
    /// let mut same = receiver.clone();
    /// assert_eq!(block_on(same.recv())?, b"hello");
    /// assert_eq!(block_on(receiver.recv()), Err(RecvError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn share(self) -> Shared<Self>
    where
        Self: Handle,
    {
        Shared::new(self)
    }
}

impl<M: Message + ?Sized, H: sealed::TryRecv<M>> AsyncReceiver<M> for H where M::Owned: Send {}

fn recv_until<M: Message + ?Sized, H: sealed::TryRecv<M>, R>(
    handle: &mut H,
    until: Option<Instant>,
    mut call: impl FnMut(&mut Receiver<M>) -> Result<R, TryRecvError>,
) -> impl Future<Output = Option<Result<R, RecvError>>> {
    wait_where(handle, until, move |it| it.answer(&mut call))
}

async fn recv_in_time<M: Message + ?Sized, H: sealed::TryRecv<M>, R>(
    handle: &mut H,
    until: Option<Instant>,
    call: impl FnMut(&mut Receiver<M>) -> Result<R, TryRecvError>,
) -> Result<R, RecvTimeoutError> {
    Ok(recv_until(handle, until, call).await.ok_or(RecvTimeoutError::Timeout)??)
}

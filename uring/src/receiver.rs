//! Receiving in a task.

use std::time::{Duration, Instant};

use parkline_core::driver::Side;
use parkline_core::{Lease, Message, Receiver, RecvError, RecvTimeoutError, TryRecvError};

use crate::shared_handle::Shared;
use crate::waiting::wait;

mod sealed {
    use super::{Duration, Message, Receiver, RecvError, Shared, Side, TryRecvError};

    /// What the async calls need of a handle.
    pub trait TryRecv<M: Message + ?Sized>: Send + Sized {
        fn answer<R>(
            &mut self,
            attempt: impl FnMut(&mut Receiver<M>) -> Result<R, TryRecvError>,
        ) -> Option<Result<R, RecvError>>;

        fn side(&self) -> Side;

        fn spin_limit(&self) -> Duration;
    }

    impl<M: Message + ?Sized> TryRecv<M> for Receiver<M> {
        fn answer<R>(
            &mut self,
            attempt: impl FnMut(&mut Receiver<M>) -> Result<R, TryRecvError>,
        ) -> Option<Result<R, RecvError>> {
            Receiver::answer(self, attempt)
        }

        fn side(&self) -> Side {
            Receiver::side(self)
        }

        fn spin_limit(&self) -> Duration {
            Receiver::spin_limit(self)
        }
    }

    impl<M: Message + ?Sized> TryRecv<M> for Shared<Receiver<M>> {
        fn answer<R>(
            &mut self,
            attempt: impl FnMut(&mut Receiver<M>) -> Result<R, TryRecvError>,
        ) -> Option<Result<R, RecvError>> {
            self.lock().answer(attempt)
        }

        fn side(&self) -> Side {
            self.lock().side()
        }

        fn spin_limit(&self) -> Duration {
            self.lock().spin_limit()
        }
    }
}

/// The async calls of a [`Receiver`], and of one that is [`Shared`] between tasks.
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
    /// Dropped before it is ready, nothing was taken; a wake that was meant for it goes to another.
    ///
    /// # If a peer dies
    /// A wake that a killed process took with it comes within the watchdog's period.
    fn recv(&mut self) -> impl Future<Output = Result<M::Owned, RecvError>> + Send {
        async {
            let received = recv_until(self, None, Receiver::try_recv).await;
            received.unwrap_or(Err(RecvError::Closed))
        }
    }

    /// As [`recv`](Self::recv), for at most `timeout`, which bounds the whole call.
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty: nothing was taken.
    fn recv_timeout(
        &mut self,
        timeout: Duration,
    ) -> impl Future<Output = Result<M::Owned, RecvTimeoutError>> + Send {
        let until = Instant::now().checked_add(timeout);
        async move {
            let received = recv_until(self, until, Receiver::try_recv).await;
            Ok(received.ok_or(RecvTimeoutError::Timeout)??)
        }
    }

    /// As [`recv`](Self::recv), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty: nothing was taken.
    fn recv_deadline(
        &mut self,
        deadline: Instant,
    ) -> impl Future<Output = Result<M::Owned, RecvTimeoutError>> + Send {
        async move {
            let received = recv_until(self, Some(deadline), Receiver::try_recv).await;
            Ok(received.ok_or(RecvTimeoutError::Timeout)??)
        }
    }

    /// Waits until there is a message, then takes up to `limit` in order, at most the queue's
    /// capacity, and appends them to `messages`. Returns how many.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing was taken.
    ///
    /// # If a peer dies
    /// As [`Receiver::try_recv_many`].
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

    /// Takes the oldest message without copying it out, waiting while there is none: see
    /// [`Receiver::try_lease`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`LeasesOut`](parkline_core::Fault::LeasesOut).
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing was taken.
    fn lease(&mut self) -> impl Future<Output = Result<Lease<M>, RecvError>> + Send {
        async {
            let leased = recv_until(self, None, Receiver::try_lease).await;
            leased.unwrap_or(Err(RecvError::Closed))
        }
    }

    /// As [`lease`](Self::lease), for at most `timeout`, which bounds the whole call.
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty: nothing was taken.
    fn lease_timeout(
        &mut self,
        timeout: Duration,
    ) -> impl Future<Output = Result<Lease<M>, RecvTimeoutError>> + Send {
        let until = Instant::now().checked_add(timeout);
        async move {
            let leased = recv_until(self, until, Receiver::try_lease).await;
            Ok(leased.ok_or(RecvTimeoutError::Timeout)??)
        }
    }

    /// As [`lease`](Self::lease), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](RecvTimeoutError::Timeout) when the queue stayed empty: nothing was taken.
    fn lease_deadline(
        &mut self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Lease<M>, RecvTimeoutError>> + Send {
        async move {
            let leased = recv_until(self, Some(deadline), Receiver::try_lease).await;
            Ok(leased.ok_or(RecvTimeoutError::Timeout)??)
        }
    }

    /// Makes this one handle of many tasks.
    fn share(self) -> Shared<Self> {
        Shared::new(self)
    }
}

impl<M: Message + ?Sized, H: sealed::TryRecv<M>> AsyncReceiver<M> for H where M::Owned: Send {}

fn recv_until<M: Message + ?Sized, H: sealed::TryRecv<M>, R>(
    handle: &mut H,
    until: Option<Instant>,
    mut call: impl FnMut(&mut Receiver<M>) -> Result<R, TryRecvError>,
) -> impl Future<Output = Option<Result<R, RecvError>>> {
    wait(handle, until, H::side, H::spin_limit, move |it| it.answer(&mut call))
}

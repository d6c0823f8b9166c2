//! Joining from a task.

use std::time::{Duration, Instant};

use parkline_core::driver::{Joining, Side};
use parkline_core::{Fault, JoinTimeoutError, Message, Queue};

use crate::wait::wait;
use crate::waiting::Waits;

mod sealed {
    use super::{Joining, Message, Queue};

    pub trait Begin {
        fn begin(&self) -> Joining;
    }

    impl<M: Message + ?Sized> Begin for Queue<M> {
        fn begin(&self) -> Joining {
            self.joining()
        }
    }
}

/// Waiting in a task until all messages are acknowledged.
///
/// A timeout counts from the call, not from the first poll; one beyond the clock's range, as
/// `Duration::MAX`, never passes.
///
/// ```
/// use parkline_uring::{AsyncJoin, JoinTimeoutError, Queue, block_on};
/// use std::time::Duration;
///
/// let queue = Queue::builder().create()?;
/// queue.sender()?.try_send(b"job")?;
/// let mut receiver = queue.receiver()?;
/// let job = receiver.try_lease()?;
/// block_on(async {
///     let soon = queue.join_timeout(Duration::from_millis(5)).await;
///     assert_eq!(soon, Err(JoinTimeoutError::Timeout));
///     job.ack();
///     queue.join().await
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AsyncJoin: sealed::Begin {
    /// Waits until every message that was sent before the first poll is acknowledged: see
    /// [`Queue::join_blocking`].
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # Cancel safety
    /// If it is dropped, nothing changes.
    ///
    /// # Ordering
    /// What happened before an acknowledgement that it waits for happens before this is ready.
    ///
    /// # If a peer dies
    /// The messages that it held are delivered again, and waited for.
    ///
    /// ```
    /// use parkline_uring::{AsyncJoin, AsyncReceiver, Queue, block_on};
    ///
    /// let queue = Queue::builder().create()?;
    /// queue.sender()?.try_send(b"job")?;
    /// let mut receiver = queue.receiver()?;
    /// let worker = std::thread::spawn(move || block_on(receiver.recv()));
    /// assert_eq!(block_on(queue.join()), Ok(()));
    /// assert!(queue.is_empty(), "the join has waited for the worker");
    /// assert_eq!(worker.join().unwrap()?, b"job");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn join(&self) -> impl Future<Output = Result<(), Fault>> + Send {
        let joining = self.begin();
        async { join_until(joining, None).await.unwrap_or(Ok(())) }
    }

    /// As [`join`](Self::join), for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](JoinTimeoutError::Timeout) when a message is not acknowledged by then.
    ///
    /// ```
    /// use parkline_uring::{AsyncJoin, JoinTimeoutError, Queue, block_on};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().create()?;
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(block_on(queue.join_timeout(soon)), Ok(()));
    /// queue.sender()?.try_send(b"not received")?;
    /// assert_eq!(block_on(queue.join_timeout(soon)), Err(JoinTimeoutError::Timeout));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn join_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), JoinTimeoutError>> + Send {
        join_in_time(self.begin(), Instant::now().checked_add(timeout))
    }

    /// As [`join`](Self::join), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](JoinTimeoutError::Timeout) when a message is not acknowledged by then.
    ///
    /// ```
    /// use parkline_uring::{AsyncJoin, JoinTimeoutError, Queue, block_on};
    /// use std::time::Instant;
    ///
    /// let queue = Queue::builder().create()?;
    /// let now = Instant::now();
    /// assert_eq!(block_on(queue.join_deadline(now)), Ok(()), "there is no message");
    /// queue.sender()?.try_send(b"not received")?;
    /// assert_eq!(block_on(queue.join_deadline(now)), Err(JoinTimeoutError::Timeout));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn join_deadline(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), JoinTimeoutError>> + Send {
        join_in_time(self.begin(), Some(deadline))
    }
}

impl<M: Message + ?Sized> AsyncJoin for Queue<M> {}

impl Waits for Joining {
    fn side(&self, (): ()) -> Side {
        Self::side(self)
    }
}

async fn join_until(mut joining: Joining, until: Option<Instant>) -> Option<Result<(), Fault>> {
    wait(&mut joining, until, Joining::attempt).await
}

async fn join_in_time(joining: Joining, until: Option<Instant>) -> Result<(), JoinTimeoutError> {
    Ok(join_until(joining, until).await.ok_or(JoinTimeoutError::Timeout)??)
}

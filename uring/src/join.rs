//! Joining from a task.

use std::time::{Duration, Instant};

use parkline_core::driver::Joining;
use parkline_core::{Fault, JoinTimeoutError, Message, Queue};

use crate::waiting::wait;

/// Waiting in a task until all messages are acknowledged.
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
pub trait AsyncJoin {
    /// Waits until every message that was sent before the first poll is acknowledged: see
    /// [`Queue::join_blocking`].
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    ///
    /// # If a peer dies
    /// The messages it had are delivered again, and waited for.
    fn join(&self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// As [`join`](Self::join), for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](JoinTimeoutError::Timeout) when a message is not acknowledged by then.
    fn join_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), JoinTimeoutError>> + Send;

    /// As [`join`](Self::join), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](JoinTimeoutError::Timeout) when a message is not acknowledged by then.
    fn join_deadline(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), JoinTimeoutError>> + Send;
}

impl<M: Message + ?Sized> AsyncJoin for Queue<M> {
    fn join(&self) -> impl Future<Output = Result<(), Fault>> + Send {
        let joining = self.joining();
        async { join_until(joining, None).await.unwrap_or(Ok(())) }
    }

    fn join_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), JoinTimeoutError>> + Send {
        let (joining, until) = (self.joining(), Instant::now().checked_add(timeout));
        async move { Ok(join_until(joining, until).await.ok_or(JoinTimeoutError::Timeout)??) }
    }

    fn join_deadline(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), JoinTimeoutError>> + Send {
        let (joining, until) = (self.joining(), Some(deadline));
        async move { Ok(join_until(joining, until).await.ok_or(JoinTimeoutError::Timeout)??) }
    }
}

async fn join_until(mut joining: Joining, until: Option<Instant>) -> Option<Result<(), Fault>> {
    wait(&mut joining, until, Joining::side, |_| Duration::ZERO, Joining::attempt).await
}

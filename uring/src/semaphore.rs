//! Acquiring a permit in a task.

use std::time::{Duration, Instant};

use parkline_core::{Fault, Permit, Semaphore, WaitTimeoutError};

use crate::waiting::wait;

mod sealed {
    pub trait Sealed {}
    impl Sealed for parkline_core::Semaphore {}
}

/// Acquiring in a task a permit of a [`Semaphore`].
///
/// ```
/// use parkline_uring::{AsyncSemaphore, Queue, WaitTimeoutError, block_on};
/// use std::time::Duration;
///
/// let semaphore = Queue::builder().create_semaphore(1)?;
/// block_on(async {
///     let only = semaphore.acquire().await?;
///     let refused = semaphore.acquire_timeout(Duration::from_millis(5)).await;
///     assert_eq!(refused.unwrap_err(), WaitTimeoutError::Timeout);
///     only.release();
///     semaphore.acquire().await
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AsyncSemaphore: sealed::Sealed {
    /// Acquires a permit, waiting while none is free.
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing was acquired; a wake that was meant for it goes to another.
    ///
    /// # If a peer dies
    /// The permits that it had come back, and are acquired by those who wait.
    fn acquire(&self) -> impl Future<Output = Result<Permit, Fault>> + Send;

    /// As [`acquire`](Self::acquire), for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when none became free.
    fn acquire_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<Permit, WaitTimeoutError>> + Send;

    /// As [`acquire`](Self::acquire), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when none became free.
    fn acquire_deadline(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Permit, WaitTimeoutError>> + Send;
}

impl AsyncSemaphore for Semaphore {
    async fn acquire(&self) -> Result<Permit, Fault> {
        // Without a deadline there is an answer.
        acquire_until(self, None).await.unwrap_or(Err(Fault::Forked))
    }

    fn acquire_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<Permit, WaitTimeoutError>> + Send {
        let until = Instant::now().checked_add(timeout);
        async move { Ok(acquire_until(self, until).await.ok_or(WaitTimeoutError::Timeout)??) }
    }

    async fn acquire_deadline(&self, deadline: Instant) -> Result<Permit, WaitTimeoutError> {
        Ok(acquire_until(self, Some(deadline)).await.ok_or(WaitTimeoutError::Timeout)??)
    }
}

async fn acquire_until(
    mut semaphore: &Semaphore,
    until: Option<Instant>,
) -> Option<Result<Permit, Fault>> {
    wait(&mut semaphore, until, |it| it.side(), |_| Duration::ZERO, |it| it.attempt()).await
}

//! Acquiring a permit in a task.

use std::borrow::Borrow;
use std::time::{Duration, Instant};

use parkline_core::driver::Side;
use parkline_core::{Fault, Permit, Semaphore, WaitTimeoutError};

use crate::wait::wait;
use crate::waiting::Waits;

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
pub trait AsyncSemaphore: sealed::Sealed + Borrow<Semaphore> {
    /// Acquires a permit, waiting while none is free.
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # Cancel safety
    /// If it is dropped before it is ready, nothing was acquired; a wake that was meant for it goes to
    /// another waiter.
    ///
    /// # If a peer dies
    /// The permits that it had come back, and go to the tasks that wait.
    fn acquire(&self) -> impl Future<Output = Result<Permit, Fault>> + Send {
        let semaphore = self.borrow();
        // Without a deadline there is an answer.
        async move { acquire_until(semaphore, None).await.unwrap_or(Err(Fault::Forked)) }
    }

    /// As [`acquire`](Self::acquire), for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when none became free.
    fn acquire_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<Permit, WaitTimeoutError>> + Send {
        acquire_in_time(self.borrow(), Instant::now().checked_add(timeout))
    }

    /// As [`acquire`](Self::acquire), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when none became free.
    fn acquire_deadline(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Permit, WaitTimeoutError>> + Send {
        acquire_in_time(self.borrow(), Some(deadline))
    }
}

impl AsyncSemaphore for Semaphore {}

impl Waits for &Semaphore {
    fn side(&self, (): ()) -> Side {
        Semaphore::side(self)
    }
}

async fn acquire_until(
    mut semaphore: &Semaphore,
    until: Option<Instant>,
) -> Option<Result<Permit, Fault>> {
    wait(&mut semaphore, until, |it| it.attempt()).await
}

async fn acquire_in_time(
    semaphore: &Semaphore,
    until: Option<Instant>,
) -> Result<Permit, WaitTimeoutError> {
    Ok(acquire_until(semaphore, until).await.ok_or(WaitTimeoutError::Timeout)??)
}

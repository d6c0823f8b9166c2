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
/// A timeout counts from the call, not from the first poll; one beyond the clock's range, as
/// `Duration::MAX`, never passes.
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
    /// # Ordering
    /// As [`Semaphore::try_acquire`].
    ///
    /// # If a peer dies
    /// As [`Semaphore::acquire_blocking`].
    ///
    /// ```
    /// use parkline_uring::{AsyncSemaphore, Queue, block_on};
    ///
    /// let semaphore = Queue::builder().create_semaphore(1)?;
    /// let only = block_on(semaphore.acquire())?;
    /// assert!(semaphore.try_acquire()?.is_none());
    /// let worker = std::thread::spawn(move || only.release());
    /// let again = block_on(semaphore.acquire())?; // waits for the worker
    /// assert_eq!(semaphore.available_permits(), 0);
    /// drop(again);
    /// worker.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn acquire(&self) -> impl Future<Output = Result<Permit, Fault>> + Send {
        let semaphore = self.borrow();
        // Without a deadline there is an answer.
        async move { acquire_until(semaphore, None).await.unwrap_or(Err(Fault::Forked)) }
    }

    /// As [`acquire`](Self::acquire), for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when none became free.
    ///
    /// ```
    /// use parkline_uring::{AsyncSemaphore, Queue, WaitTimeoutError, block_on};
    /// use std::time::Duration;
    ///
    /// let semaphore = Queue::builder().create_semaphore(1)?;
    /// let soon = Duration::from_millis(1);
    /// let only = block_on(semaphore.acquire_timeout(soon))?;
    /// let refused = block_on(semaphore.acquire_timeout(soon));
    /// assert_eq!(refused.unwrap_err(), WaitTimeoutError::Timeout);
    /// drop(only);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    ///
    /// ```
    /// use parkline_uring::{AsyncSemaphore, Queue, WaitTimeoutError, block_on};
    /// use std::time::Instant;
    ///
    /// let semaphore = Queue::builder().create_semaphore(1)?;
    /// let now = Instant::now();
    /// let only = block_on(semaphore.acquire_deadline(now))?;
    /// let refused = block_on(semaphore.acquire_deadline(now));
    /// assert_eq!(refused.unwrap_err(), WaitTimeoutError::Timeout);
    /// drop(only);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

//! Waiting for an event in a task.

use std::time::{Duration, Instant};

use parkline_core::driver::Expecting;
use parkline_core::{Event, Fault, WaitTimeoutError};

use crate::waiting::wait;

mod sealed {
    pub trait Sealed {}
    impl Sealed for parkline_core::Event {}
}

/// Waiting in a task until an [`Event`] is set.
///
/// ```
/// use parkline_uring::{AsyncEvent, Queue, WaitTimeoutError, block_on};
/// use std::time::Duration;
///
/// let start = Queue::builder().create_event()?;
/// block_on(async {
///     let soon = start.wait_timeout(Duration::from_millis(5)).await;
///     assert_eq!(soon, Err(WaitTimeoutError::Timeout));
///     start.set()?;
///     start.wait().await
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AsyncEvent: sealed::Sealed {
    /// Waits until the event is set: returns at the first poll if it is, and also if it was set and
    /// cleared again since this was called.
    ///
    /// # Errors
    /// [`Fault::Forked`].
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    ///
    /// # If a peer dies
    /// A wake that a killed process took with it comes within the watchdog's period, if the event is
    /// still set then.
    fn wait(&self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// As [`wait`](Self::wait), for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when it was not set by then.
    fn wait_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), WaitTimeoutError>> + Send;

    /// As [`wait`](Self::wait), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when it was not set by then.
    fn wait_deadline(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), WaitTimeoutError>> + Send;
}

impl AsyncEvent for Event {
    fn wait(&self) -> impl Future<Output = Result<(), Fault>> + Send {
        let expecting = self.expecting();
        // Without a deadline there is an answer.
        async { wait_until(expecting, None).await.unwrap_or(Err(Fault::Forked)) }
    }

    fn wait_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), WaitTimeoutError>> + Send {
        let (expecting, until) = (self.expecting(), Instant::now().checked_add(timeout));
        async move { Ok(wait_until(expecting, until).await.ok_or(WaitTimeoutError::Timeout)??) }
    }

    fn wait_deadline(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), WaitTimeoutError>> + Send {
        let (expecting, until) = (self.expecting(), Some(deadline));
        async move { Ok(wait_until(expecting, until).await.ok_or(WaitTimeoutError::Timeout)??) }
    }
}

async fn wait_until(mut expecting: Expecting, until: Option<Instant>) -> Option<Result<(), Fault>> {
    wait(&mut expecting, until, Expecting::side, |_| Duration::ZERO, |it| it.attempt()).await
}

//! Waiting for an event in a task.

use std::borrow::Borrow;
use std::time::{Duration, Instant};

use parkline_core::driver::{Expecting, Side};
use parkline_core::{Event, Fault, WaitTimeoutError};

use crate::wait::wait;
use crate::waiting::Waits;

mod sealed {
    pub trait Sealed {}
    impl Sealed for parkline_core::Event {}
}

/// Waiting in a task until an [`Event`] is set.
///
/// A timeout counts from the call, not from the first poll; one beyond the clock's range, as
/// `Duration::MAX`, never passes.
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
pub trait AsyncEvent: sealed::Sealed + Borrow<Event> {
    /// Waits until the event is set: returns at the first poll if it is, and also if it was set and
    /// cleared again since this was called.
    ///
    /// # Errors
    /// [`Fault::Forked`].
    ///
    /// # Cancel safety
    /// If it is dropped, nothing changes.
    ///
    /// # Ordering
    /// What happened before the set happens before this is ready.
    ///
    /// # If a peer dies
    /// A wake that was lost with a killed process is made up for within the watchdog's period, even if the
    /// event was set and cleared again.
    ///
    /// ```
    /// use parkline_uring::{AsyncEvent, Queue, block_on};
    ///
    /// let event = Queue::builder().create_event()?;
    /// let wait = event.wait();
    /// event.set()?;
    /// event.clear()?;
    /// assert_eq!(block_on(wait), Ok(()), "it was set since the call");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn wait(&self) -> impl Future<Output = Result<(), Fault>> + Send {
        let expecting = self.borrow().expecting();
        // Without a deadline there is an answer.
        async { wait_until(expecting, None).await.unwrap_or(Err(Fault::Forked)) }
    }

    /// As [`wait`](Self::wait), for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when it was not set by then.
    ///
    /// ```
    /// use parkline_uring::{AsyncEvent, Queue, WaitTimeoutError, block_on};
    /// use std::time::Duration;
    ///
    /// let event = Queue::builder().create_event()?;
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(block_on(event.wait_timeout(soon)), Err(WaitTimeoutError::Timeout));
    /// event.set()?;
    /// assert_eq!(block_on(event.wait_timeout(soon)), Ok(()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn wait_timeout(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), WaitTimeoutError>> + Send {
        wait_in_time(self.borrow().expecting(), Instant::now().checked_add(timeout))
    }

    /// As [`wait`](Self::wait), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when it was not set by then.
    ///
    /// ```
    /// use parkline_uring::{AsyncEvent, Queue, WaitTimeoutError, block_on};
    /// use std::time::Instant;
    ///
    /// let event = Queue::builder().create_event()?;
    /// let now = Instant::now();
    /// assert_eq!(block_on(event.wait_deadline(now)), Err(WaitTimeoutError::Timeout));
    /// event.set()?;
    /// assert_eq!(block_on(event.wait_deadline(now)), Ok(()), "it attempts once");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn wait_deadline(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), WaitTimeoutError>> + Send {
        wait_in_time(self.borrow().expecting(), Some(deadline))
    }
}

impl AsyncEvent for Event {}

impl Waits for Expecting {
    fn side(&self, (): ()) -> Side {
        Self::side(self)
    }
}

async fn wait_until(mut expecting: Expecting, until: Option<Instant>) -> Option<Result<(), Fault>> {
    wait(&mut expecting, until, |it| it.attempt()).await
}

async fn wait_in_time(
    expecting: Expecting,
    until: Option<Instant>,
) -> Result<(), WaitTimeoutError> {
    Ok(wait_until(expecting, until).await.ok_or(WaitTimeoutError::Timeout)??)
}

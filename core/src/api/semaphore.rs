//! A semaphore: a queue of tokens, where a permit is the lease of one.
//!
//! To acquire is to receive a token and hold it, to release is to return it. So all that is true of
//! messages is true of permits: each is in one place, a wake goes on to another if its waiter gives
//! up, and what a killed process held comes back by its audit, with nobody having counted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::lease::Lease;
use crate::api::message::sealed::Sealed;
use crate::api::message::{InBlock, Mark, Message};
use crate::api::queue::{Builder, Queue};
use crate::api::receiver::Receiver;
use crate::error::{
    AttachError, Corrupt, CreateError, Fault, OpenError, TryRecvError, WaitTimeoutError,
};
use crate::process::side::Side;
use crate::ring::geometry::TypeMark;

/// What the queue of a semaphore carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token;

impl Sealed for Token {}

impl Message for Token {
    type Owned = Self;

    fn bytes(&self) -> &[u8] {
        &[]
    }

    fn read_to<'p>(
        _: InBlock<'_>,
        put: impl FnOnce(Self) -> Option<&'p mut Self>,
    ) -> Result<(), Corrupt> {
        put(Self);
        Ok(())
    }

    fn mark() -> Mark {
        Mark(TypeMark::SEMAPHORE)
    }
}

/// A number of permits in a sealed memfd, that the threads and tasks of any processes acquire and
/// release.
///
/// What a killed process had acquired comes back by itself. A permit is an object: it is released
/// once, in the process that acquired it, by whatever thread or task has it then; so nobody can
/// release more than there is. Made by [`Builder::create_semaphore`], handed on by its descriptor as a
/// [`Queue`] is.
///
/// Whoever waits in the kernel is woken in the order of arrival; who comes just when a permit is
/// released can be quicker.
///
/// ```
/// use parkline_core::{Queue, Semaphore};
///
/// let semaphore = Queue::builder().create_semaphore(2)?;
/// let same = Semaphore::open(semaphore.try_clone_fd()?)?; // in another process, or as here in this
/// let (first, second) = (semaphore.acquire_blocking()?, same.acquire_blocking()?);
/// assert!(semaphore.try_acquire()?.is_none());
/// drop(second);
/// assert_eq!((semaphore.available_permits(), semaphore.permits()), (1, 2));
/// first.release();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Semaphore {
    queue: Queue<Token>,
    /// Locked for one acquire at a time.
    receiver: Mutex<Receiver<Token>>,
}

/// What was acquired of a [`Semaphore`]. Dropping it releases, in a panic too.
///
/// Keeps its handle alive.
#[derive(Debug)]
#[must_use = "dropping a permit releases it"]
pub struct Permit {
    /// Dropping it returns the token.
    _lease: Lease<Token>,
}

impl Builder {
    /// As [`memory`](Self::memory), for [`create_semaphore`](Self::create_semaphore).
    ///
    /// # Errors
    /// As [`memory`](Self::memory).
    pub fn memory_semaphore(self, permits: usize) -> Result<u64, CreateError> {
        Semaphore::builder(self, permits)?.memory()
    }

    /// Creates a semaphore of `permits`, at least 1, that as many processes can have at a time as
    /// there are [`handles`](Self::handles); `capacity`, `leases` and `max_attempts` follow from
    /// that.
    ///
    /// # Errors
    /// As [`create`](Self::create): each handle has room for all permits, so `permits` times
    /// `handles` cannot be more than a million.
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// let semaphore = Queue::builder().handles(8).create_semaphore(3)?;
    /// assert_eq!(semaphore.available_permits(), 3);
    /// let refused = Queue::builder().create_semaphore(0);
    /// assert!(matches!(refused, Err(CreateError::Zero { what: "permits" })));
    /// # Ok::<(), CreateError>(())
    /// ```
    pub fn create_semaphore(mut self, permits: usize) -> Result<Semaphore, CreateError> {
        self.schema = None;
        Semaphore::create(self, permits)
    }
}

impl Semaphore {
    /// The numbers of a semaphore.
    pub(crate) fn builder(builder: Builder, permits: usize) -> Result<Builder, CreateError> {
        if permits == 0 {
            return Err(CreateError::Zero { what: "permits" });
        }
        Ok(builder.capacity(permits).leases(permits).max_message(0))
    }

    pub(crate) fn create(builder: Builder, permits: usize) -> Result<Self, CreateError> {
        let queue = Self::builder(builder, permits)?.create_typed::<Token>()?;
        let mut tokens = queue.sender().map_err(|error| CreateError::Open(error.into()))?;
        for _ in 0..permits {
            // The ring has room for all of them, and nobody else has it yet.
            let sent = tokens.try_send(&Token);
            debug_assert_eq!(sent, Ok(()));
        }
        // Its record is for one more process.
        drop(tokens);
        Self::of(queue).map_err(CreateError::Open)
    }

    /// Opens the semaphore of a descriptor.
    ///
    /// # Errors
    /// As [`Queue::open`]; [`OpenError::WrongType`] when it is something else, [`OpenError::Attach`]
    /// when no handle can be had, as for [`Queue::receiver`].
    pub fn open(fd: impl Into<OwnedFd>) -> Result<Self, OpenError> {
        Self::of(Queue::open_typed(fd)?)
    }

    fn of(queue: Queue<Token>) -> Result<Self, OpenError> {
        let geometry = queue.segment().geometry();
        // A release could find no room in the ring.
        if geometry.leases() > geometry.capacity() {
            return Err(OpenError::Claims);
        }
        let receiver = Mutex::new(queue.receiver()?);
        Ok(Self { queue, receiver })
    }

    /// Acquires a permit if one is free now; `None` if none is. Waits for nobody in another process.
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # Ordering
    /// What happened before the release of the permit happens before this returns.
    ///
    /// # If a peer dies
    /// If this process dies in the call or after it, the permit comes back once others have noticed:
    /// they who wait do so within the watchdog's period, [`recover`](Self::recover) at once.
    pub fn try_acquire(&self) -> Result<Option<Permit>, Fault> {
        if self.queue.segment().ring().is_none() {
            // Before the lock: another thread of the parent may have had it.
            return Err(Fault::Forked);
        }
        let taken = lock(&self.receiver).try_lease();
        match taken {
            Ok(lease) => Ok(Some(Permit { _lease: lease })),
            // This handle has all permits, or others have.
            Err(TryRecvError::Empty | TryRecvError::Fault(Fault::LeasesOut { .. })) => Ok(None),
            Err(TryRecvError::Fault(fault)) => Err(fault),
            Err(TryRecvError::Closed) => Err(Corrupt { what: "a semaphore was closed" }.into()),
        }
    }

    /// Acquires a permit, waiting on the calling thread while none is free.
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # Ordering
    /// As [`try_acquire`](Self::try_acquire).
    ///
    /// # If a peer dies
    /// The permits that it had come back within the watchdog's period, and so does a wake that it took
    /// with it.
    pub fn acquire_blocking(&self) -> Result<Permit, Fault> {
        // Without a deadline there is an answer.
        self.acquire_until(None).unwrap_or(Err(Fault::Forked))
    }

    /// As [`acquire_blocking`](Self::acquire_blocking), for at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when none became free.
    ///
    /// ```
    /// use parkline_core::{Queue, WaitTimeoutError};
    /// use std::time::Duration;
    ///
    /// let semaphore = Queue::builder().create_semaphore(1)?;
    /// let soon = Duration::from_millis(5);
    /// let only = semaphore.acquire_blocking_timeout(soon)?;
    /// let refused = semaphore.acquire_blocking_timeout(soon);
    /// assert_eq!(refused.unwrap_err(), WaitTimeoutError::Timeout);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acquire_blocking_timeout(&self, timeout: Duration) -> Result<Permit, WaitTimeoutError> {
        let acquired = self.acquire_until(Instant::now().checked_add(timeout));
        Ok(acquired.ok_or(WaitTimeoutError::Timeout)??)
    }

    /// As [`acquire_blocking`](Self::acquire_blocking), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when none became free.
    pub fn acquire_blocking_deadline(&self, deadline: Instant) -> Result<Permit, WaitTimeoutError> {
        Ok(self.acquire_until(Some(deadline)).ok_or(WaitTimeoutError::Timeout)??)
    }

    fn acquire_until(&self, until: Option<Instant>) -> Option<Result<Permit, Fault>> {
        let first = self.attempt();
        first.or_else(|| self.side().sleep(until, || self.attempt()))
    }

    /// What a waiting call answers; `None` if it waits. For drivers that park tasks.
    #[doc(hidden)]
    pub fn attempt(&self) -> Option<Result<Permit, Fault>> {
        self.try_acquire().transpose()
    }

    /// Where this handle waits, for drivers that park tasks. Not in a forked child.
    #[doc(hidden)]
    pub fn side(&self) -> Side {
        lock(&self.receiver).side()
    }

    /// How many permits there are in all.
    pub fn permits(&self) -> usize {
        self.queue.segment().geometry().leases()
    }

    /// How many permits are free. Others acquire and release meanwhile; 0 in a forked child.
    pub fn available_permits(&self) -> usize {
        self.queue.len()
    }

    /// Has the permits of dead processes come back now; returns how many. It happens by itself
    /// wherever somebody waits.
    ///
    /// # Errors
    /// As [`Queue::recover`].
    pub fn recover(&self) -> Result<usize, AttachError> {
        self.queue.recover().map(|found| found.messages)
    }

    /// The semaphore's number, as [`Queue::id`].
    pub fn id(&self) -> u128 {
        self.queue.id()
    }

    /// Another descriptor of the same semaphore, close-on-exec, to hand on.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.queue.try_clone_fd()
    }
}

impl AsFd for Semaphore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl Permit {
    /// Releases it: the same as dropping it. Wakes one who waits. In a forked child, where it is the
    /// parent's, nothing happens.
    ///
    /// # Ordering
    /// What happened before this happens before the next acquires it.
    ///
    /// # If a peer dies
    /// If this process dies in the call, the permit is released all the same, by others: within the
    /// watchdog's period where somebody waits.
    pub fn release(self) {}
}

/// A handle has no state that a panic could leave half done.
fn lock(receiver: &Mutex<Receiver<Token>>) -> MutexGuard<'_, Receiver<Token>> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if the numbers are not looked at (seen failing).
    #[test]
    fn a_semaphore_in_which_permits_would_get_lost_is_refused() {
        let builder = Queue::builder().capacity(2).leases(3);
        let queue = builder.create_typed::<Token>().unwrap();
        let opened = Semaphore::open(queue.try_clone_fd().unwrap());
        assert!(matches!(opened, Err(OpenError::Claims)), "{opened:?}");
    }
}

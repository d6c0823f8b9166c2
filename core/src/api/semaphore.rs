//! A semaphore: a queue of tokens, where a permit is the lease of one token.
//!
//! To acquire is to receive a token and hold it; to release is to return it. So permits have the
//! properties of messages: each is in one place; a waiter that gives up passes its wake on; and the
//! permits of a killed process come back when its record is audited, without a counter.

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

    fn read(_: InBlock<'_>) -> Result<Self, Corrupt> {
        Ok(Self)
    }

    fn mark() -> Mark {
        Mark(TypeMark::SEMAPHORE)
    }
}

/// A number of permits in a sealed memfd, which the threads and tasks of any processes acquire and
/// release.
///
/// The permits of a killed process come back without a call. A permit is an object: it is released
/// once, in the process that acquired it, by the thread or task that has it then. So no more
/// permits can be released than were acquired. A semaphore is made by
/// [`Builder::create_semaphore`], and passed on by its descriptor as a [`Queue`] is.
///
/// Waiters in the kernel are woken in the order of their arrival. A thread or task that arrives
/// just when a permit is released can be quicker.
///
/// ```
/// use parkline_core::{Queue, Semaphore};
///
/// let semaphore = Queue::builder().create_semaphore(2)?;
/// let same = Semaphore::open(semaphore.try_clone_fd()?)?; // in another process, or as here in this
/// assert_eq!(same.id(), semaphore.id());
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
    /// Locked during each acquire.
    receiver: Mutex<Receiver<Token>>,
}

/// A permit that was acquired of a [`Semaphore`]. Dropping it releases it, in a panic too.
///
/// Keeps the semaphore's handle alive.
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
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// let builder = Queue::builder().handles(8);
    /// assert!(builder.memory_semaphore(3)? < builder.memory_semaphore(1000)?);
    /// let refused = builder.memory_semaphore(0);
    /// assert!(matches!(refused, Err(CreateError::Zero { what: "permits" })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn memory_semaphore(self, permits: usize) -> Result<u64, CreateError> {
        Semaphore::builder(self, permits)?.memory()
    }

    /// Creates a semaphore of `permits`, at least 1. As many processes can have it at a time as
    /// there are [`handles`](Self::handles); `capacity`, `leases`, `max_message` and `schema` are
    /// replaced, and `max_attempts` has no effect.
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
            // The ring has room for all of them, and no other process has it yet.
            let sent = tokens.try_send(&Token);
            debug_assert_eq!(sent, Ok(()));
        }
        // Frees its record for one more process.
        drop(tokens);
        Self::of(queue).map_err(CreateError::Open)
    }

    /// Opens the semaphore of a descriptor.
    ///
    /// # Errors
    /// As [`Queue::open`]; [`OpenError::WrongType`] when it is not a semaphore,
    /// [`OpenError::Attach`] when no handle can be made, as for [`Queue::receiver`].
    ///
    /// ```
    /// use parkline_core::{OpenError, Queue, Semaphore};
    ///
    /// let semaphore = Queue::builder().handles(2).create_semaphore(3)?;
    /// let same = Semaphore::open(semaphore.try_clone_fd()?)?;
    /// assert_eq!(same.permits(), 3);
    /// let third = Semaphore::open(semaphore.try_clone_fd()?);
    /// assert!(matches!(third, Err(OpenError::Attach(_))), "there are 2 handles");
    /// let no_semaphore = Semaphore::open(Queue::builder().create()?.try_clone_fd()?);
    /// assert!(matches!(no_semaphore, Err(OpenError::WrongType { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(fd: impl Into<OwnedFd>) -> Result<Self, OpenError> {
        Self::of(Queue::open_typed(fd)?)
    }

    fn of(queue: Queue<Token>) -> Result<Self, OpenError> {
        let geometry = queue.segment().geometry();
        // A release might find no room in the ring.
        if geometry.leases() > geometry.capacity() {
            return Err(OpenError::Claims);
        }
        let receiver = Mutex::new(queue.receiver()?);
        Ok(Self { queue, receiver })
    }

    /// Acquires a permit if one is free now; `None` if none is. Never waits for another process;
    /// threads of this process that acquire at the same moment take turns.
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # Ordering
    /// What happened before the release of the permit happens before this returns.
    ///
    /// # If a peer dies
    /// If this process dies in the call or after it, the permit comes back when another process
    /// recovers it: a waiting one does within the watchdog's period, [`recover`](Self::recover)
    /// does at once.
    ///
    /// ```
    /// let semaphore = parkline_core::Queue::builder().create_semaphore(1)?;
    /// let permit = semaphore.try_acquire()?;
    /// assert!(permit.is_some() && semaphore.try_acquire()?.is_none());
    /// drop(permit);
    /// assert!(semaphore.try_acquire()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_acquire(&self) -> Result<Option<Permit>, Fault> {
        if self.queue.segment().ring().is_none() {
            // Before the lock: in a forked child another thread of the parent may have held it.
            return Err(Fault::Forked);
        }
        let taken = lock(&self.receiver).try_lease();
        match taken {
            Ok(lease) => Ok(Some(Permit { _lease: lease })),
            // All permits are in use, by this process or by others.
            Err(TryRecvError::Empty | TryRecvError::Fault(Fault::LeasesOut { .. })) => Ok(None),
            Err(TryRecvError::Fault(fault)) => Err(fault),
            Err(TryRecvError::Closed) => Err(Corrupt { what: "a semaphore was closed" }.into()),
        }
    }

    /// Acquires a permit; the calling thread waits while none is free.
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # Ordering
    /// As [`try_acquire`](Self::try_acquire).
    ///
    /// # If a peer dies
    /// The permits of the peer come back within the watchdog's period. If the wake of this thread
    /// is lost with a killed process, the thread attempts again within the same period.
    ///
    /// ```
    /// let semaphore = parkline_core::Queue::builder().create_semaphore(1)?;
    /// let first = semaphore.acquire_blocking()?;
    /// assert_eq!(semaphore.available_permits(), 0);
    /// let second = std::thread::scope(|scope| {
    ///     let worker = scope.spawn(|| semaphore.acquire_blocking()); // waits for the first
    ///     first.release();
    ///     worker.join().unwrap()
    /// })?;
    /// assert!(semaphore.try_acquire()?.is_none(), "the second has it");
    /// second.release();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acquire_blocking(&self) -> Result<Permit, Fault> {
        // Without a deadline there is always an answer.
        self.acquire_until(None).unwrap_or(Err(Fault::Forked))
    }

    /// As [`acquire_blocking`](Self::acquire_blocking), for at most `timeout`. With zero it does not
    /// wait; a `timeout` beyond the clock's range, as `Duration::MAX`, never passes.
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
    ///
    /// ```
    /// use parkline_core::{Queue, WaitTimeoutError};
    /// use std::time::Instant;
    ///
    /// let semaphore = Queue::builder().create_semaphore(1)?;
    /// let only = semaphore.acquire_blocking_deadline(Instant::now())?;
    /// let refused = semaphore.acquire_blocking_deadline(Instant::now());
    /// assert_eq!(refused.unwrap_err(), WaitTimeoutError::Timeout);
    /// drop(only);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acquire_blocking_deadline(&self, deadline: Instant) -> Result<Permit, WaitTimeoutError> {
        Ok(self.acquire_until(Some(deadline)).ok_or(WaitTimeoutError::Timeout)??)
    }

    fn acquire_until(&self, until: Option<Instant>) -> Option<Result<Permit, Fault>> {
        let first = self.attempt();
        first.or_else(|| self.side().sleep(until, || self.attempt()))
    }

    /// The answer of a waiting call; `None` if it must wait. For drivers that park tasks.
    #[doc(hidden)]
    pub fn attempt(&self) -> Option<Result<Permit, Fault>> {
        self.try_acquire().transpose()
    }

    /// The side at which this handle waits, for drivers that park tasks. Not for a forked child.
    #[doc(hidden)]
    pub fn side(&self) -> Side {
        lock(&self.receiver).side()
    }

    /// How many permits there are in all.
    pub fn permits(&self) -> usize {
        self.queue.segment().geometry().leases()
    }

    /// How many permits are free. It may change before you act on it; 0 in a forked child.
    pub fn available_permits(&self) -> usize {
        self.queue.len()
    }

    /// Recovers the permits of dead processes now; returns how many. Processes that wait do this
    /// once per watchdog period.
    ///
    /// # Errors
    /// As [`Queue::recover`].
    ///
    /// ```
    /// let semaphore = parkline_core::Queue::builder().create_semaphore(1)?;
    /// let mine = semaphore.acquire_blocking()?;
    /// assert_eq!(semaphore.recover()?, 0, "no process died");
    /// assert!(semaphore.try_acquire()?.is_none(), "a living process keeps its permit");
    /// drop(mine);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recover(&self) -> Result<usize, AttachError> {
        self.queue.recover().map(|found| found.messages)
    }

    /// The semaphore's number, as [`Queue::id`].
    pub fn id(&self) -> u128 {
        self.queue.id()
    }

    /// Another descriptor of the same semaphore, close-on-exec, to pass on.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    ///
    /// ```
    /// use parkline_core::{Queue, Semaphore};
    ///
    /// let semaphore = Queue::builder().create_semaphore(1)?;
    /// let _only = semaphore.acquire_blocking()?;
    /// let fd = semaphore.try_clone_fd()?; // to another process, or as here to a thread
    /// let peer = std::thread::spawn(move || Semaphore::open(fd).unwrap().try_acquire());
    /// assert!(peer.join().unwrap()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    /// Releases the permit, as dropping it does, and wakes one waiter. In a forked child, where the
    /// permit is the parent's, nothing happens.
    ///
    /// # Ordering
    /// What happened before this happens before the next acquire of the permit returns.
    ///
    /// # If a peer dies
    /// If this process dies in the call, a recovery by another process releases the permit: within
    /// the watchdog's period if any process waits.
    ///
    /// ```
    /// let semaphore = parkline_core::Queue::builder().create_semaphore(1)?;
    /// let permit = semaphore.acquire_blocking()?;
    /// assert!(semaphore.try_acquire()?.is_none());
    /// permit.release();
    /// assert!(semaphore.try_acquire()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn release(self) {}
}

/// A poisoned lock is no fault: a panic cannot leave a handle half changed.
fn lock(receiver: &Mutex<Receiver<Token>>) -> MutexGuard<'_, Receiver<Token>> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if the numbers are not checked (seen failing).
    #[test]
    fn a_semaphore_in_which_permits_would_get_lost_is_refused() {
        let builder = Queue::builder().capacity(2).leases(3);
        let queue = builder.create_typed::<Token>().unwrap();
        let opened = Semaphore::open(queue.try_clone_fd().unwrap());
        assert!(matches!(opened, Err(OpenError::Claims)), "{opened:?}");
    }
}

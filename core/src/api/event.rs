//! An event: a flag that processes share and wait for.
//!
//! It is a segment like a queue's, with the same checks and the same rules for forks, and uses two
//! words of it: the flag and a gate. No process attaches, because none has anything that could be
//! lost.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::queue::Builder;
use crate::error::{CreateError, Fault, OpenError, WaitTimeoutError};
use crate::process::futex::Futex;
use crate::process::segment::{Allocation, Segment};
use crate::process::side::{Side, WaitsFor};
use crate::ring::geometry::{Geometry, Schema, SchemaAsked, Share, TypeMark, Wishes};
use crate::wait::flag::{Flag, Since};
use crate::wait::gate::{Gate, Wake};

/// A flag in a sealed memfd that any number of processes set, clear and wait for: the signal to start,
/// or to stop.
///
/// It stays set until a process clears it. It is made by [`Builder::create_event`], and passed on
/// by its descriptor as a [`Queue`](crate::Queue) is. Any number of processes can have it: it has
/// no handles that could run out.
///
/// ```
/// use parkline_core::{Event, Queue};
///
/// let stop = Queue::builder().create_event()?;
/// let same = Event::open(stop.try_clone_fd()?)?; // in another process, or as here in a thread
/// assert_eq!(same.id(), stop.id());
/// let worker = std::thread::spawn(move || same.wait_blocking());
/// stop.set()?;
/// worker.join().unwrap()?;
/// assert!(stop.is_set());
/// stop.clear()?;
/// assert!(!stop.is_set());
/// assert!(Queue::open(stop.try_clone_fd()?).is_err(), "it is no queue");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`Builder::create_event`]: crate::Builder::create_event
#[derive(Debug)]
pub struct Event {
    segment: Arc<Segment>,
}

impl Builder {
    /// Creates an event. Of the settings only the [`watchdog`](Self::watchdog) counts.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    /// use std::time::Duration;
    ///
    /// let event = Queue::builder().watchdog(Duration::from_millis(10)).create_event()?;
    /// assert!(!event.is_set());
    /// let refused = Queue::builder().watchdog(Duration::ZERO).create_event();
    /// assert!(matches!(refused, Err(CreateError::Watchdog { .. })));
    /// # Ok::<(), CreateError>(())
    /// ```
    pub fn create_event(self) -> Result<Event, CreateError> {
        Event::create(self.wishes.watchdog)
    }
}

impl Event {
    pub(crate) fn create(watchdog: Duration) -> Result<Self, CreateError> {
        let wishes = Wishes {
            capacity: 1,
            max_message: 0,
            handles: Share::Asked(1),
            leases: Share::Asked(0),
            lazy: false,
            watchdog,
            max_attempts: 1,
        };
        let geometry = Geometry::plan(wishes)?;
        let segment = Segment::create(geometry, TypeMark::EVENT, Schema::NONE, Allocation::Now)?;
        Ok(Self { segment: Arc::new(segment) })
    }

    /// Opens the event of a descriptor.
    ///
    /// # Errors
    /// As [`Queue::open`](crate::Queue::open); [`OpenError::WrongType`] when it is not an event.
    ///
    /// ```
    /// use parkline_core::{Event, OpenError, Queue};
    ///
    /// let event = Queue::builder().create_event()?;
    /// assert_eq!(Event::open(event.try_clone_fd()?)?.id(), event.id());
    /// let queue = Queue::builder().create()?;
    /// let no_event = Event::open(queue.try_clone_fd()?);
    /// assert!(matches!(no_event, Err(OpenError::WrongType { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(fd: impl Into<OwnedFd>) -> Result<Self, OpenError> {
        let segment =
            Arc::new(Segment::open_as(fd.into(), TypeMark::EVENT, SchemaAsked::default())?);
        Ok(Self { segment })
    }

    /// Sets the event, and wakes all waiters in all processes. Setting it twice does no harm.
    /// Wait-free: it never waits for a peer, whether that is dead, stopped or slow.
    ///
    /// # Errors
    /// [`Fault::Forked`].
    ///
    /// # Ordering
    /// What happened before this happens before a wait that finds the event set returns.
    ///
    /// # If a peer dies
    /// If this process dies in the call, the event is set or it is not. If it is, waiters notice
    /// within the watchdog's period at the latest.
    ///
    /// ```
    /// use parkline_core::{Event, Queue};
    ///
    /// let event = Queue::builder().create_event()?;
    /// let same = Event::open(event.try_clone_fd()?)?;
    /// assert!(!same.is_set());
    /// event.set()?;
    /// event.set()?; // no harm
    /// assert!(same.is_set());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set(&self) -> Result<(), Fault> {
        self.change(Flag::set)
    }

    /// Clears the event. A wait that began before the set returns all the same. Wait-free.
    ///
    /// # Errors
    /// [`Fault::Forked`].
    ///
    /// # Ordering
    /// What happened before the set that this clears happens before this returns.
    ///
    /// # If a peer dies
    /// If this process dies in the call, the event is cleared or it is not. Waits that began before
    /// the set return within the watchdog's period at the latest.
    ///
    /// ```
    /// use parkline_core::{Queue, WaitTimeoutError};
    /// use std::time::Duration;
    ///
    /// let event = Queue::builder().create_event()?;
    /// event.set()?;
    /// event.clear()?;
    /// assert!(!event.is_set());
    /// let wait = event.wait_blocking_timeout(Duration::from_millis(1));
    /// assert_eq!(wait, Err(WaitTimeoutError::Timeout), "it began after the clear");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear(&self) -> Result<(), Fault> {
        self.change(Flag::clear)
    }

    /// Whether the event is set; `false` in a forked child. It may change before you act on it.
    ///
    /// # Ordering
    /// What happened before the set that this finds happens before this returns.
    pub fn is_set(&self) -> bool {
        self.segment.ring().is_some_and(|ring| ring.control.rare.flag.is_set())
    }

    /// Waits on the calling thread until the event is set. Returns at once if it is; also returns
    /// if it was set and cleared again since the call began.
    ///
    /// # Errors
    /// [`Fault::Forked`].
    ///
    /// # Ordering
    /// What happened before the set happens before this returns.
    ///
    /// # If a peer dies
    /// If a wake was lost with a killed process, this returns within the watchdog's period, even if
    /// the event was set and cleared again.
    ///
    /// ```
    /// use parkline_core::{Event, Queue};
    ///
    /// let start = Queue::builder().create_event()?;
    /// let same = Event::open(start.try_clone_fd()?)?;
    /// let worker = std::thread::spawn(move || same.wait_blocking());
    /// start.set()?;
    /// assert_eq!(worker.join().unwrap(), Ok(()));
    /// assert_eq!(start.wait_blocking(), Ok(()), "at once: it stays set");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_blocking(&self) -> Result<(), Fault> {
        // Without a deadline there is always an answer.
        self.wait_until(None).unwrap_or(Err(Fault::Forked))
    }

    /// As [`wait_blocking`](Self::wait_blocking), for at most `timeout`. With zero it does not wait;
    /// a `timeout` beyond the clock's range, as `Duration::MAX`, never passes.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when the event was not set by then.
    ///
    /// ```
    /// use parkline_core::{Queue, WaitTimeoutError};
    /// use std::time::Duration;
    ///
    /// let event = Queue::builder().create_event()?;
    /// let soon = Duration::from_millis(5);
    /// assert_eq!(event.wait_blocking_timeout(soon), Err(WaitTimeoutError::Timeout));
    /// event.set()?;
    /// event.wait_blocking_timeout(soon)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_blocking_timeout(&self, timeout: Duration) -> Result<(), WaitTimeoutError> {
        let set = self.wait_until(Instant::now().checked_add(timeout));
        Ok(set.ok_or(WaitTimeoutError::Timeout)??)
    }

    /// As [`wait_blocking`](Self::wait_blocking), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](WaitTimeoutError::Timeout) when the event was not set by then.
    ///
    /// ```
    /// use parkline_core::{Queue, WaitTimeoutError};
    /// use std::time::Instant;
    ///
    /// let event = Queue::builder().create_event()?;
    /// let refused = event.wait_blocking_deadline(Instant::now());
    /// assert_eq!(refused, Err(WaitTimeoutError::Timeout));
    /// event.set()?;
    /// assert_eq!(event.wait_blocking_deadline(Instant::now()), Ok(()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_blocking_deadline(&self, deadline: Instant) -> Result<(), WaitTimeoutError> {
        Ok(self.wait_until(Some(deadline)).ok_or(WaitTimeoutError::Timeout)??)
    }

    /// Begins a wait, for drivers that park tasks.
    #[doc(hidden)]
    pub fn expecting(&self) -> Expecting {
        let since = self.segment.ring().map(|ring| ring.control.rare.flag.since());
        Expecting { segment: Arc::clone(&self.segment), since }
    }

    /// The event's number, as [`Queue::id`](crate::Queue::id).
    pub fn id(&self) -> u128 {
        self.segment.id()
    }

    /// Another descriptor of the same event, close-on-exec, to pass on.
    ///
    /// # Errors
    /// When the process has no descriptor left, or has closed the event's own.
    ///
    /// ```
    /// use parkline_core::{Event, Queue};
    ///
    /// let event = Queue::builder().create_event()?;
    /// let fd = event.try_clone_fd()?;
    /// event.set()?;
    /// drop(event);
    /// assert!(Event::open(fd)?.is_set(), "it lives as long as its descriptor");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.segment.try_clone_fd()
    }

    fn change(
        &self,
        change: impl for<'a> FnOnce(&Flag, &'a Gate) -> Option<Wake<'a>>,
    ) -> Result<(), Fault> {
        let control = self.segment.ring().ok_or(Fault::Forked)?.control;
        if let Some(wake) = change(&control.rare.flag, &control.after_send.readable) {
            wake.carry_out(&Futex::uncounted());
        }
        Ok(())
    }

    fn wait_until(&self, until: Option<Instant>) -> Option<Result<(), Fault>> {
        let expecting = self.expecting();
        expecting.side().sleep(until, || expecting.attempt())
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

/// A wait for an event under way: see [`Event::wait_blocking`].
#[derive(Debug)]
pub struct Expecting {
    segment: Arc<Segment>,
    /// The state of the flag when the wait began; `None` in a forked child.
    since: Option<Since>,
}

impl Expecting {
    /// Whether the event was set since this wait began; `None` if not.
    pub fn attempt(&self) -> Option<Result<(), Fault>> {
        match (self.segment.ring(), self.since) {
            (Some(ring), Some(since)) => {
                ring.control.rare.flag.was_set_since(since).then_some(Ok(()))
            }
            _ => Some(Err(Fault::Forked)),
        }
    }

    /// The side at which this waits.
    pub fn side(&self) -> Side {
        Side::new(&self.segment, WaitsFor::Event)
    }
}

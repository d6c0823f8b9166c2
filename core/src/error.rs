//! Every refusal, what it means, and what to do about it.
//!
//! Errors of an operation hand back the message that they refused. A [`Fault`] is an error that a
//! retry alone does not mend. An error whose text includes its cause does not return it from
//! `source()` too, so that a chain of errors says everything once.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::remedy::Refusal;

/// A word of the segment has a value that no correct peer writes. Some process overwrote part of
/// the segment, or has a bug; messages may be lost. Use a new queue.
///
/// Once a handle, a close or a join has returned this, all calls of this process on that
/// [`Queue`](crate::Queue) and its handles return it at once. Leases that end after that neither
/// acknowledge nor return their messages; a close still closes the queue for the peers. Other
/// queues are not affected, nor is the same queue after another open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the segment is corrupt: {what}; some process wrote where it must not, use a new queue")]
pub struct Corrupt {
    /// What was found.
    pub what: &'static str,
}

/// Why an operation fails, whatever is sent or received in the meantime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The message is longer than the queue's `max_message`.
    #[error(
        "message is {len} bytes, the queue takes at most {max}; create it with a larger `max_message`"
    )]
    MessageTooLarge {
        /// The message's length in bytes.
        len: usize,
        /// The queue's `max_message`.
        max: usize,
    },
    /// The handle was made before this process was forked.
    #[error("the handle belongs to the parent of this forked process; open the queue's fd anew")]
    Forked,
    /// All leases of this handle are in use.
    #[error(
        "all {max} leases of this handle are out; acknowledge or drop one, or create the queue with more `leases`"
    )]
    LeasesOut {
        /// The queue's `leases`.
        max: usize,
    },
    /// See [`Corrupt`].
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// Why a join ended before all was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JoinTimeoutError {
    /// A message is still in the queue or in the hands of a receiver.
    #[error("the time is over, and not every message is acknowledged")]
    Timeout,
    /// No retry will help.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a wait for an event or a semaphore failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WaitTimeoutError {
    /// The event was not set, or no permit became free.
    #[error("the time is over")]
    Timeout,
    /// No retry will help.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Less memory is left than was asked for.
///
/// A reading, not a reservation: the answer may be different a moment later.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{bytes} bytes of shared memory are asked for, and {available} are left by {limit} (a reading, no reservation); ask for less, or raise the limit"
)]
pub struct Shortage {
    /// What was asked for.
    pub bytes: u64,
    /// What is left.
    pub available: u64,
    /// The limit: the machine's `MemAvailable`, or the numbers of a control group.
    pub limit: String,
}

/// Why a queue could not be created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// `capacity`, `handles`, `max_attempts`, the permits of a semaphore or the length of a name was
    /// 0.
    #[error("{what} is 0, it must be at least 1")]
    Zero {
        /// Which number.
        what: &'static str,
    },
    /// A number beyond the most that a segment can have.
    #[error("{what} is {asked}, at most {max} is possible")]
    TooLarge {
        /// Which number.
        what: &'static str,
        /// What was asked for.
        asked: usize,
        /// What is possible.
        max: u64,
    },
    /// The sum of slots and of the handles' own blocks is too large.
    #[error(
        "capacity {capacity} and {handles} handles of 1 + {leases} blocks are more than {max} blocks; ask for fewer"
    )]
    TooManyBlocks {
        /// The capacity asked for.
        capacity: usize,
        /// The handles asked for.
        handles: usize,
        /// The leases asked for.
        leases: usize,
        /// The most blocks of a segment.
        max: u64,
    },
    /// The watchdog's period is out of range.
    #[error("watchdog is {asked:?}, it must be between 1 ms and 1 h")]
    Watchdog {
        /// What was asked for.
        asked: Duration,
    },
    /// The machine or a control group has less memory left than the queue takes. Nothing was
    /// allocated.
    #[error("{0}, or use `lazy_memory`")]
    Memory(Shortage),
    /// A system call failed. All that was created before it is gone.
    #[error("{}", Refusal { call, cause })]
    Os {
        /// Which call.
        call: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The queue was created, but not attached to.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Why a file descriptor could not be opened as a queue.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The descriptor is not open, or is no memfd.
    #[error("the file descriptor is no memfd ({cause}); pass the one of `Queue::as_fd`")]
    NotMemfd {
        /// The kernel's answer.
        cause: io::Error,
    },
    /// A peer could truncate the memfd while it is mapped.
    #[error("the memfd lacks the seals {missing}; a peer could truncate it and crash us: refused")]
    Unsealed {
        /// The missing seals.
        missing: String,
    },
    /// The memfd is on huge pages, where a fault can be a signal.
    #[error("the memfd uses huge pages; a fault in one can kill the process: refused")]
    HugePages,
    /// The memfd holds something else.
    #[error("the memfd holds no parkline queue; pass the fd of `Queue::as_fd`")]
    NotParkline,
    /// The segment was made by another version of this library.
    #[error(
        "the segment has layout version {found}, this library speaks {expected}; use the same version in all processes"
    )]
    Version {
        /// The segment's version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// The segment has our layout, but uses an addition of a later version of this library.
    #[error(
        "the segment was made with {what} {found:#x}, which this version of the library does not know; use the same version in all processes"
    )]
    Unsupported {
        /// Which field of the header.
        what: &'static str,
        /// What it says.
        found: u32,
    },
    /// The header has numbers that no creator writes.
    #[error("the segment's header claims an impossible shape; its creator is broken or hostile")]
    Claims,
    /// The file's length is not what its header says.
    #[error(
        "the memfd is {found} bytes long, its header needs {expected}; it is truncated or foreign"
    )]
    WrongLength {
        /// The length that the header implies.
        expected: u64,
        /// The file's length.
        found: u64,
    },
    /// The segment carries another type.
    #[error("the segment carries {found}, you asked for {expected}")]
    WrongType {
        /// The type that it carries.
        found: String,
        /// The type that was asked for.
        expected: String,
    },
    /// The creator and the opener do not name the same schema.
    #[error(
        "the queue's schema is {found}, you asked for {expected}; name the same one where the queue is made and where it is opened, and make a new queue for a new version"
    )]
    Schema {
        /// What the creator named.
        found: String,
        /// What the opener asked for.
        expected: String,
    },
    /// A semaphore has no free handle for one more process.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A system call failed.
    #[error("{}", Refusal { call, cause })]
    Os {
        /// Which call.
        call: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
}

/// Why a sender or receiver could not be made, or a queue could not be prepared for them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Every record is taken, or holds messages that only a new receiver can take over.
    #[error(
        "all {handles} handles of the queue are taken; drop one, or create it with more `handles`"
    )]
    NoFreeHandle {
        /// The queue's `handles`.
        handles: usize,
    },
    /// The queue object was made before this process was forked.
    #[error("the queue belongs to the parent of this forked process; open its fd anew")]
    Forked,
    /// A new handle opens a file description of its own through `/proc`, and could not.
    #[error("cannot reopen the segment: {}", Refusal { call: "open /proc/thread-self/fd", cause })]
    Proc {
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The machine or a control group has less memory left than a
    /// [`prefault`](crate::Queue::prefault) takes. Nothing was allocated.
    #[error(transparent)]
    Memory(#[from] Shortage),
    /// Another process holds a lease (`F_SETLEASE`) on the memfd, which blocks every open. A new
    /// handle waits for the end of the lease for 10 ms.
    #[error(
        "another process holds a lease (F_SETLEASE) on the memfd of the queue ({cause}); try again: the kernel ends the lease within fs.lease-break-time, 45 s by default; if the process takes it again and again, use a new queue"
    )]
    Leased {
        /// The kernel's answer.
        cause: io::Error,
    },
    /// This process has closed the queue's descriptor, with `close_range` for example.
    #[error(
        "this process has closed the queue's descriptor; its handles go on, for a new one open the queue anew"
    )]
    DescriptorClosed,
    /// The search for a free record used up its 100 ms before it had asked about all records.
    #[error(
        "none of {looked} handles that could be asked about in 100 ms is free, of {handles}; the memfd has very many file locks; call again: the search goes on where it stopped"
    )]
    SearchTooLong {
        /// How many records the kernel was asked about.
        looked: usize,
        /// The queue's `handles`.
        handles: usize,
    },
    /// See [`Corrupt`].
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// A system call failed.
    #[error("{}", Refusal { call, cause })]
    Os {
        /// Which call.
        call: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
}

/// Why nothing was sent at once. Hands the message back; `T` is `()` if the message was only
/// borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TrySendError<T = ()> {
    /// The queue holds as many messages as it has room for.
    #[error("queue is full")]
    Full(T),
    /// The queue was closed.
    #[error("queue is closed")]
    Closed(T),
    /// No retry will help.
    #[error("{1}")]
    Fault(T, Fault),
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError<T = ()> {
    /// The queue was closed.
    #[error("queue is closed")]
    Closed(T),
    /// No retry will help.
    #[error("{1}")]
    Fault(T, Fault),
}

/// Why nothing was sent in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendTimeoutError<T = ()> {
    /// The queue stayed full.
    #[error("queue stayed full until the deadline")]
    Timeout(T),
    /// The queue was closed.
    #[error("queue is closed")]
    Closed(T),
    /// No retry will help.
    #[error("{1}")]
    Fault(T, Fault),
}

/// Why nothing was received at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TryRecvError {
    /// No message is waiting.
    #[error("queue is empty")]
    Empty,
    /// The queue was closed, and all that was sent before has been received.
    #[error("queue is closed and drained")]
    Closed,
    /// No retry will help.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecvError {
    /// The queue was closed, and all that was sent before has been received.
    #[error("queue is closed and drained")]
    Closed,
    /// No retry will help.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why nothing was received in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecvTimeoutError {
    /// The queue stayed empty.
    #[error("queue stayed empty until the deadline")]
    Timeout,
    /// The queue was closed, and all that was sent before has been received.
    #[error("queue is closed and drained")]
    Closed,
    /// No retry will help.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl<T> TrySendError<T> {
    /// The message that was refused.
    ///
    /// ```
    /// use parkline_core::{Queue, TrySendError};
    ///
    /// let mut sender = Queue::builder().capacity(1).create()?.sender()?;
    /// sender.try_send(b"first")?;
    /// let mut message = sender.reserve_now(6)?;
    /// message.write_at(0, b"second");
    /// let refused = message.try_commit().unwrap_err();
    /// assert!(matches!(refused, TrySendError::Full(_)));
    /// assert_eq!(refused.into_inner().len(), 6, "the reservation, to be committed later");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_inner(self) -> T {
        let (Self::Full(message) | Self::Closed(message) | Self::Fault(message, _)) = self;
        message
    }

    /// The error, if waiting could not change it; or the message to try again with.
    ///
    /// # Errors
    /// The message, if the queue was full.
    ///
    /// ```
    /// use parkline_core::{SendError, TrySendError};
    ///
    /// assert_eq!(TrySendError::Closed("late").settled(), Ok(SendError::Closed("late")));
    /// assert_eq!(TrySendError::Full("again").settled(), Err("again"));
    /// ```
    pub fn settled(self) -> Result<SendError<T>, T> {
        match self {
            Self::Full(message) => Err(message),
            Self::Closed(message) => Ok(SendError::Closed(message)),
            Self::Fault(message, fault) => Ok(SendError::Fault(message, fault)),
        }
    }

    /// The same refusal of another message.
    ///
    /// ```
    /// use parkline_core::{Queue, TrySendError};
    ///
    /// let mut sender = Queue::builder().capacity(1).create()?.sender()?;
    /// let message = sender.try_reserve(5)?;
    /// // `?` cannot return the reservation, because that borrows the sender.
    /// message.try_commit().map_err(|refused| refused.map(drop))?;
    /// let refused = sender.reserve_now(5)?.try_commit().map_err(|refused| refused.map(drop));
    /// assert_eq!(refused, Err(TrySendError::Full(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map<U>(self, other: impl FnOnce(T) -> U) -> TrySendError<U> {
        match self {
            Self::Full(message) => TrySendError::Full(other(message)),
            Self::Closed(message) => TrySendError::Closed(other(message)),
            Self::Fault(message, fault) => TrySendError::Fault(other(message), fault),
        }
    }
}

impl TryRecvError {
    /// The error, if waiting could not change it.
    ///
    /// ```
    /// use parkline_core::{RecvError, TryRecvError};
    ///
    /// assert_eq!(TryRecvError::Closed.settled(), Some(RecvError::Closed));
    /// assert_eq!(TryRecvError::Empty.settled(), None, "a message may come");
    /// ```
    pub fn settled(self) -> Option<RecvError> {
        match self {
            Self::Empty => None,
            Self::Closed => Some(RecvError::Closed),
            Self::Fault(fault) => Some(RecvError::Fault(fault)),
        }
    }
}

/// The same refusal, of a call that had a deadline.
///
/// ```
/// use parkline_core::{SendError, SendTimeoutError};
///
/// let refused: SendTimeoutError = SendError::Closed(()).into();
/// assert_eq!(refused, SendTimeoutError::Closed(()));
/// ```
impl<T> From<SendError<T>> for SendTimeoutError<T> {
    fn from(error: SendError<T>) -> Self {
        match error {
            SendError::Closed(message) => Self::Closed(message),
            SendError::Fault(message, fault) => Self::Fault(message, fault),
        }
    }
}

/// The same refusal, of a call that had a deadline.
///
/// ```
/// use parkline_core::{RecvError, RecvTimeoutError};
///
/// assert_eq!(RecvTimeoutError::from(RecvError::Closed), RecvTimeoutError::Closed);
/// ```
impl From<RecvError> for RecvTimeoutError {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Closed => Self::Closed,
            RecvError::Fault(fault) => Self::Fault(fault),
        }
    }
}

//! A queue: the segment, and what can be asked of it without a handle.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::attachment::Attachment;
use crate::error::{AttachError, CreateError, Fault, OpenError};
use crate::futex::Futex;
use crate::geometry::{Geometry, Wishes};
use crate::message::Message;
use crate::receiver::Receiver;
use crate::segment::{Mapping, Segment};
use crate::sender::Sender;

/// A bounded queue in a sealed memfd, for many senders and many receivers in many processes.
///
/// It lives as long as one process holds its file descriptor or a mapping of it; it has no name and
/// leaves nothing behind. Hand the descriptor on by inheritance or over a Unix socket, and
/// [`open`](Queue::open) it there.
///
/// ```
/// use parkline_core::Queue;
///
/// let queue = Queue::builder().capacity(1000).max_message(256).create()?;
/// assert_eq!(queue.capacity(), 1024, "a power of two");
/// let same = Queue::open(queue.try_clone_fd()?)?;
/// queue.sender()?.try_send(b"hello")?;
/// assert_eq!(same.len(), 1);
/// assert_eq!(same.receiver()?.try_recv()?, b"hello");
/// assert!(Queue::open(std::fs::File::open("/dev/null")?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Queue<M: Message + ?Sized = [u8]> {
    segment: Segment,
    mapping: Mapping,
    trusted: bool,
    carries: PhantomData<fn(&M) -> Box<M>>,
}

/// The numbers of a new queue.
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is created until `create`"]
pub struct Builder {
    wishes: Wishes,
    lazy: bool,
}

impl Queue {
    /// Begins a new queue: 1024 messages of up to 1024 bytes, 64 handles with 4 leases each, 1.4
    /// MB.
    pub fn builder() -> Builder {
        let wishes = Wishes {
            capacity: 1024,
            max_message: 1024,
            handles: 64,
            leases: 4,
            watchdog: Duration::from_millis(100),
        };
        Builder { wishes, lazy: false }
    }

    /// Opens the queue of bytes that another process, or this one, created.
    ///
    /// Everything that can be checked of a stranger's memfd is checked, once: its seals, its
    /// length, its header.
    ///
    /// # Errors
    /// [`OpenError`] tells what is wrong with the descriptor.
    pub fn open(fd: impl Into<OwnedFd>) -> Result<Self, OpenError> {
        Self::open_typed(fd)
    }
}

impl<M: Message + ?Sized> Queue<M> {
    /// Opens a queue that carries `M`.
    ///
    /// # Errors
    /// As [`Queue::open`], and [`OpenError::WrongType`] when it carries something else.
    pub fn open_typed(fd: impl Into<OwnedFd>) -> Result<Self, OpenError> {
        let segment = Segment::open(fd.into())?;
        let (found, expected) = (segment.payload(), M::mark().0);
        if found != expected {
            let (found, expected) = (found.to_string(), expected.to_string());
            return Err(OpenError::WrongType { found, expected });
        }
        Self::of(segment).map_err(|cause| OpenError::Os { call: "mmap", cause })
    }

    fn of(segment: Segment) -> io::Result<Self> {
        let mapping = segment.observe()?;
        Ok(Self { segment, mapping, trusted: false, carries: PhantomData })
    }

    /// Vouches for every process that maps this queue, now and later: handles made from here on
    /// give in-place views of messages.
    ///
    /// # Safety
    /// No process may write to a block that it does not own by the protocol: a view is a plain
    /// reference, and a write under it is undefined behaviour in this process.
    #[expect(unsafe_code, reason = "the one statement of trust behind all in-place views")]
    pub unsafe fn trust_peers(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// A new sending handle with a record of its own.
    ///
    /// # Errors
    /// [`AttachError::NoFreeHandle`] when all records are taken, and others.
    pub fn sender(&self) -> Result<Sender<M>, AttachError> {
        Sender::new(self.attach()?).map_err(attach_fault)
    }

    /// A new receiving handle with a record of its own.
    ///
    /// # Errors
    /// [`AttachError::NoFreeHandle`] when all records are taken, and others.
    pub fn receiver(&self) -> Result<Receiver<M>, AttachError> {
        Receiver::new(self.attach()?).map_err(attach_fault)
    }

    fn attach(&self) -> Result<std::sync::Arc<Attachment>, AttachError> {
        if self.mapping.is_forked() {
            return Err(AttachError::Forked);
        }
        Attachment::new(&self.segment, self.trusted)
    }

    /// How many messages the queue has room for: a power of two.
    pub fn capacity(&self) -> usize {
        self.segment.geometry().capacity()
    }

    /// The longest message in bytes.
    pub fn max_message(&self) -> usize {
        self.segment.geometry().max_message()
    }

    /// How many handles the queue can have at a time, in all processes together.
    pub fn handles(&self) -> usize {
        self.segment.geometry().handles() as usize
    }

    /// How many messages wait. Others send and receive meanwhile: right at some instant if nobody
    /// does, and never more than the capacity. 0 in a forked child.
    pub fn len(&self) -> usize {
        if self.mapping.is_forked() {
            return 0;
        }
        // At most the capacity.
        self.mapping.ring().len().map_or(0, |len| len as usize)
    }

    /// Whether no message waits. Others may send before you act on it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes the queue for everybody: what is in it can still be received, every send that begins
    /// after this is refused, and all waiters of all processes wake. Closing twice does no harm.
    ///
    /// A send that was under way may still come through.
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # If a peer dies
    /// If this process dies in the call, the queue is closed or it is not, and waiters learn of it
    /// within the watchdog's period.
    ///
    /// ```
    /// use parkline_core::{Queue, TryRecvError, TrySendError};
    ///
    /// let queue = Queue::builder().capacity(2).create()?;
    /// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    /// sender.try_send(b"last")?;
    /// queue.close()?;
    /// assert!(queue.is_closed());
    /// assert_eq!(sender.try_send(b"too late"), Err(TrySendError::Closed(())));
    /// assert_eq!(receiver.try_recv()?, b"last");
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) -> Result<(), Fault> {
        if self.mapping.is_forked() {
            return Err(Fault::Forked);
        }
        let ring = self.mapping.ring();
        let closed = ring.close();
        for gate in [&ring.control.readable, &ring.control.writable, &ring.control.acknowledged] {
            gate.notify_all().carry_out(&Futex);
        }
        closed
    }

    /// Whether somebody closed the queue. There may still be messages in it.
    pub fn is_closed(&self) -> bool {
        !self.mapping.is_forked() && self.mapping.ring().is_closing()
    }

    /// Another descriptor of the same queue, close-on-exec, to hand on.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.segment.as_fd().try_clone_to_owned()
    }
}

fn attach_fault(fault: Fault) -> AttachError {
    match fault {
        Fault::Corrupt(corrupt) => AttachError::Corrupt(corrupt),
        // Nothing else can happen to a handle that was just made.
        _ => AttachError::Forked,
    }
}

impl<M: Message + ?Sized> AsFd for Queue<M> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

impl<M: Message + ?Sized> core::fmt::Debug for Queue<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Queue")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("max_message", &self.max_message())
            .field("handles", &self.handles())
            .field("closed", &self.is_closed())
            .field("carries", &format_args!("{}", self.segment.payload()))
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// How many messages the queue has room for: 1 to 524,288, rounded up to a power of two.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.wishes.capacity = messages;
        self
    }

    /// The longest message in bytes: 0 to 1 GiB. Every message takes the room of the longest.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.wishes.max_message = bytes;
        self
    }

    /// How many senders and receivers there can be at a time, in all processes together.
    pub fn handles(mut self, handles: usize) -> Self {
        self.wishes.handles = handles;
        self
    }

    /// How many messages each receiver can lease at a time, without acknowledging: 0 for no leases.
    pub fn leases(mut self, leases: usize) -> Self {
        self.wishes.leases = leases;
        self
    }

    /// How often a waiter looks without having been woken, 1 ms to 1 h: the longest that a wake can
    /// be late which a killed process took with it.
    pub fn watchdog(mut self, period: Duration) -> Self {
        self.wishes.watchdog = period;
        self
    }

    /// Lets the kernel find memory when a block is first used, not now: for a large `max_message`
    /// that few messages need. Where memory runs out then, the process that touches it is killed by
    /// a signal.
    pub fn lazy_memory(mut self) -> Self {
        self.lazy = true;
        self
    }

    /// Creates a queue of bytes.
    ///
    /// # Errors
    /// [`CreateError`] names the number that is wrong, or what the kernel refused.
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// assert!(Queue::builder().capacity(16).create().is_ok());
    /// let refused = Queue::builder().capacity(0).create();
    /// assert!(matches!(refused, Err(CreateError::Zero { what: "capacity" })));
    /// ```
    pub fn create(self) -> Result<Queue, CreateError> {
        self.build()
    }

    /// Creates a queue that carries `T`; `max_message` is its size.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_typed<T: Message>(mut self) -> Result<Queue<T>, CreateError> {
        self.wishes.max_message = size_of::<T>();
        self.build()
    }

    fn build<M: Message + ?Sized>(self) -> Result<Queue<M>, CreateError> {
        let segment = Segment::create(Geometry::plan(self.wishes)?, M::mark().0, self.lazy)?;
        Queue::of(segment).map_err(|cause| CreateError::Os { call: "mmap", cause })
    }
}

//! A queue: its segment, and the operations that need no handle.

#[cfg(not(loom))]
use std::io;
use std::marker::PhantomData;
#[cfg(not(loom))]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::message::Message;
use crate::api::receiver::Receiver;
use crate::api::sender::Sender;
#[cfg(not(loom))]
use crate::api::snapshot::Snapshot;
use crate::error::{AttachError, CreateError, Fault, JoinTimeoutError};
use crate::process::attachment::Attachment;
use crate::process::barriers::order_acknowledgements;
use crate::process::claim::TakesLeftovers;
#[cfg(not(loom))]
use crate::process::recovery::Recovered;
use crate::process::segment::{Allocation, Segment};
use crate::process::side::{Side, WaitsFor, wake_all_waiters};
use crate::ring::geometry::{Geometry, Schema, Share, Wishes};
use crate::ring::join::Join;
use crate::ring::stats::Stats;

/// A bounded queue in a sealed memfd, for many senders and many receivers in many processes.
///
/// It lives as long as one process has its file descriptor or a mapping of it. It has no name and
/// leaves nothing behind. Pass the descriptor on by inheritance or over a Unix socket, and
/// [`open`](Queue::open) it there.
///
/// ```
/// use parkline_core::Queue;
///
/// let queue = Queue::builder().capacity(1000).max_message(256).create()?;
/// assert_eq!(queue.capacity(), 1024, "a power of two");
/// assert_eq!((queue.max_message(), queue.handles(), queue.leases()), (256, 64, 4));
/// assert_eq!(queue.schema(), None);
/// let same = Queue::open(queue.try_clone_fd()?)?;
/// queue.sender()?.try_send(b"hello")?;
/// assert_eq!(same.len(), 1);
/// assert_eq!(same.receiver()?.try_recv()?, b"hello");
/// assert!(queue.is_empty());
/// assert!(Queue::open(std::fs::File::open("/dev/null")?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Queue<M: Message + ?Sized = [u8]> {
    segment: Arc<Segment>,
    trusted: bool,
    carries: PhantomData<fn(&M) -> Box<M>>,
}

/// The settings of a new queue.
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is created until `create`"]
pub struct Builder {
    pub(crate) wishes: Wishes,
    pub(crate) schema: Option<Schema>,
    prefault: bool,
    in_core_dumps: bool,
}

impl Queue {
    /// Begins a new queue: 1024 messages of up to 1024 bytes, 64 handles with 4 leases each, 1.5
    /// MB.
    ///
    /// With larger messages the defaults are fewer handles and leases: as many as keep the queue
    /// below 64 MiB, see [`Builder::memory`]. Numbers that you set are kept.
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// let queue = Queue::builder().capacity(16).create()?;
    /// assert_eq!((queue.capacity(), queue.max_message()), (16, 1024));
    /// let refused = Queue::builder().handles(0).create();
    /// assert!(matches!(refused, Err(CreateError::Zero { what: "handles" })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> Builder {
        let wishes = Wishes {
            capacity: 1024,
            max_message: 1024,
            handles: Share::AtMost(64),
            leases: Share::AtMost(4),
            lazy: false,
            watchdog: Duration::from_millis(100),
            max_attempts: 5,
        };
        Builder { wishes, schema: None, prefault: false, in_core_dumps: false }
    }
}

impl<M: Message + ?Sized> Queue<M> {
    pub(crate) fn of(segment: Segment) -> Self {
        Self { segment: Arc::new(segment), trusted: false, carries: PhantomData }
    }

    /// Declares that every process that maps this queue is trusted, now and later: handles made
    /// from here on give in-place views of messages.
    ///
    /// # Safety
    /// No process may write to a block that it does not own by the protocol: a view is a plain
    /// reference, and a write under it is undefined behaviour in this process.
    ///
    /// ```
    /// use parkline_core::Queue;
    ///
    /// let queue = Queue::builder().create()?;
    /// let untrusting = Queue::open(queue.try_clone_fd()?)?;
    /// // SAFETY: no other process has this queue, and none gets it.
    /// let queue = unsafe { queue.trust_peers() };
    /// queue.sender()?.try_send(b"in place")?;
    /// assert_eq!(queue.receiver()?.try_lease()?.as_slice(), Some(&b"in place"[..]));
    /// assert_eq!(untrusting.receiver()?.try_lease()?.as_slice(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[expect(unsafe_code, reason = "the one statement of trust behind all in-place views")]
    pub unsafe fn trust_peers(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// A new sending handle with a record of its own.
    ///
    /// # Errors
    /// [`AttachError::NoFreeHandle`] when all records are taken, or when each free record holds
    /// messages of a dead handle for which the ring has no room: a receiver can take such a record.
    /// While another handle recovers or frees a record, this waits for it, 100 ms at most.
    /// [`AttachError::SearchTooLong`] says to call again; the other errors of [`AttachError`] say
    /// what is wrong with the queue or what the kernel refused.
    ///
    /// ```
    /// use parkline_core::{AttachError, Queue};
    ///
    /// let queue = Queue::builder().handles(1).create()?;
    /// let mut sender = queue.sender()?;
    /// sender.try_send(b"hello")?;
    /// assert!(matches!(queue.sender(), Err(AttachError::NoFreeHandle { handles: 1 })));
    /// drop(sender);
    /// assert!(queue.sender().is_ok(), "the record is free again");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sender(&self) -> Result<Sender<M>, AttachError> {
        Sender::new(self.attach(TakesLeftovers::No)?).map_err(attach_fault)
    }

    /// A new receiving handle with a record of its own.
    ///
    /// If no other record is free, it may take one whose owner died with messages that find no room
    /// in the ring. It receives those first, flagged as redelivered.
    ///
    /// # Errors
    /// [`AttachError::NoFreeHandle`] when all records are taken. While another handle recovers or
    /// frees a record, this waits for it, 100 ms at most. Otherwise as [`sender`](Self::sender).
    ///
    /// ```
    /// use parkline_core::{AttachError, Queue};
    ///
    /// let queue = Queue::builder().handles(2).create()?;
    /// queue.sender()?.try_send(b"hello")?;
    /// let mut receivers = (queue.receiver()?, queue.receiver()?);
    /// assert!(matches!(queue.receiver(), Err(AttachError::NoFreeHandle { handles: 2 })));
    /// assert_eq!(receivers.1.try_recv()?, b"hello");
    /// assert!(receivers.0.try_recv().is_err(), "each message goes to one receiver");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn receiver(&self) -> Result<Receiver<M>, AttachError> {
        Receiver::new(self.attach(TakesLeftovers::Yes)?).map_err(attach_fault)
    }

    fn attach(&self, takes_leftovers: TakesLeftovers) -> Result<Arc<Attachment>, AttachError> {
        if self.segment.ring().is_none() {
            return Err(AttachError::Forked);
        }
        Attachment::new(&self.segment, self.trusted, takes_leftovers)
    }

    /// Makes each handle that this process creates from here on map all of the queue's memory at
    /// once, so that its messages cause no page faults. Otherwise the first use of each 4 KiB page
    /// costs each handle a fault: 1,041 for a sender's first 1,024 messages of 4 KB, 69 for a
    /// receiver's. In exchange, making a handle takes longer: 1.8 ms with a queue of 5.4 MiB, 0.7 s
    /// with one of 1 GiB, on the machine where it was measured.
    ///
    /// Memory that is not allocated yet ([`Builder::lazy_memory`]) is allocated now, if as much is
    /// left as [`Builder::create`] asks for. Existing handles do not change. Each process calls
    /// this for its own handles.
    ///
    /// After `mlockall(MCL_FUTURE)` a process has this without a call: the kernel maps all of a
    /// queue when it is created or opened, and again for each handle. That allocates a lazy queue
    /// whole, *unchecked*. Each mapping counts with its full length against `RLIMIT_MEMLOCK`, with
    /// `MCL_ONFAULT` too; beyond the limit creating, opening and making handles fail with `EAGAIN`.
    /// `prefault` locks nothing: the kernel may swap the pages out.
    ///
    /// # Errors
    /// [`AttachError::Memory`] when less memory is left than is needed: a reading, not a
    /// reservation. [`AttachError::Forked`], [`AttachError::DescriptorClosed`], [`AttachError::Os`].
    /// Making a handle then fails with [`AttachError::Os`] if the kernel cannot do it (before Linux
    /// 5.14).
    ///
    /// ```
    /// use parkline_core::{AttachError, Queue};
    ///
    /// let queue = Queue::builder().lazy_memory().create()?;
    /// queue.prefault()?;
    /// let mut sender = queue.sender()?; // maps all
    /// sender.try_send(b"no page fault")?;
    /// let huge = Queue::builder().capacity(16_384).max_message(1 << 30).lazy_memory().create()?;
    /// assert!(matches!(huge.prefault(), Err(AttachError::Memory(_))), "16 TiB");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prefault(&self) -> Result<(), AttachError> {
        self.segment.prefault()
    }

    /// Includes the queue's memory in core dumps of this process: this mapping, and those of
    /// handles that are made from here on.
    ///
    /// By default no dump includes it. A dump would have a copy of all messages, also of old ones
    /// that are still in their blocks. To write it, the kernel would allocate every page of a lazy
    /// queue, and they stay allocated for all processes.
    ///
    /// # Errors
    /// [`AttachError::Forked`], [`AttachError::Os`].
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// queue.keep_in_core_dumps()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keep_in_core_dumps(&self) -> Result<(), AttachError> {
        self.segment.keep_in_core_dumps()
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The queue's number: 128 random bits, drawn when it was created, never 0. It is the same in
    /// every process and after every [`open`](Queue::open), and no two queues have the same.
    ///
    /// The [ids of messages](crate::Lease::id) need it beside them wherever they leave the queue: a
    /// queue that is created anew begins with the same ids again, and has another number.
    ///
    /// It names the queue in logs and in other systems (`{:032x}`). It is no secret and proves
    /// nothing: a hostile creator can copy the number of another queue.
    ///
    /// ```
    /// use parkline_core::Queue;
    ///
    /// let queue = Queue::builder().create()?;
    /// let same = Queue::open(queue.try_clone_fd()?)?;
    /// assert_eq!(queue.id(), same.id());
    /// assert_ne!(queue.id(), Queue::builder().create()?.id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(&self) -> u128 {
        self.segment.id()
    }

    /// The name and the version of the schema that the creator set: see [`Builder::schema`].
    pub fn schema(&self) -> Option<(&str, u32)> {
        self.segment.schema()
    }

    /// How many messages the queue can hold: a power of two.
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

    /// How many messages each receiver can lease at a time.
    pub fn leases(&self) -> usize {
        self.segment.geometry().leases()
    }

    /// How many messages wait, never more than the capacity. Exact if no other handle sends or
    /// receives during the call. 0 in a forked child.
    pub fn len(&self) -> usize {
        let len = self.segment.ring().and_then(|ring| ring.len().ok());
        // At most the capacity.
        len.map_or(0, |len| len as usize)
    }

    /// Whether no message waits: [`len`](Self::len) is 0. Another handle may send before you act on
    /// it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many messages are not acknowledged: those that wait, and those that receivers lease or owe.
    /// A message that a dead handle holds counts. Exact if no other handle sends or receives during the
    /// call. 0 in a forked child. Loads a word of every lease of every handle, so it is for people and
    /// for tests; [`join_blocking`](Self::join_blocking) waits for the end.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    /// sender.try_send(b"first")?;
    /// sender.try_send(b"second")?;
    /// let lease = receiver.try_lease()?;
    /// assert_eq!((queue.len(), queue.unacknowledged()), (1, 2));
    /// lease.ack();
    /// assert_eq!((queue.len(), queue.unacknowledged()), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unacknowledged(&self) -> usize {
        let count = self.segment.ring().and_then(|ring| ring.unacknowledged().ok());
        // At most the number of blocks.
        count.map_or(0, |count| count as usize)
    }

    /// Copies of the messages that wait now, which stay. For drivers.
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    #[cfg(not(loom))]
    #[doc(hidden)]
    pub fn snapshot(&self) -> Result<Snapshot, Fault> {
        Snapshot::of(&self.segment)
    }

    /// How many times a message is delivered before it is a dead letter: see
    /// [`Builder::max_attempts`].
    pub fn max_attempts(&self) -> u16 {
        self.segment.geometry().max_attempts()
    }

    /// Closes the queue in all processes: messages in it can still be received, every send that
    /// begins after this is refused, and all waiters wake. Closing twice does no harm.
    ///
    /// A send that began before may still complete. A message that was received before may come
    /// back, because its receiver died or returned it. So a receiver gets
    /// [`TryRecvError::Closed`](crate::TryRecvError::Closed) only when the queue is drained and no
    /// receiver holds a message. Until then a waiting receive keeps waiting, also for leases of its
    /// own handle, and a receive that does not wait finds the queue empty. The last acknowledgement
    /// wakes all that wait for the end.
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # If a peer dies
    /// If this process dies in the call, the queue is closed or it is not. If it is, waiters notice
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
        let ring = self.segment.ring().ok_or(Fault::Forked)?;
        let closed = ring.close();
        wake_all_waiters(&ring);
        closed
    }

    /// Whether a process closed the queue. Messages may still be in it. `false` in a forked child.
    pub fn is_closed(&self) -> bool {
        self.segment.ring().is_some_and(|ring| ring.is_closing())
    }

    /// Recovers the handles of dead processes now: completes or undoes the exchange that each was
    /// in, and puts the messages that it received and did not acknowledge back into the queue.
    ///
    /// This happens without a call, too: a new handle recovers the record that it takes, and each
    /// process with a waiting thread or task searches for dead handles once per
    /// [`watchdog`](Builder::watchdog) period. Call it where no process waits, or for the result.
    ///
    /// It begins no further handle after 20 ms, and counts those that it did not come to in
    /// [`unseen`](Recovered::unseen): call it again until that is 0.
    ///
    /// # Errors
    /// [`AttachError::Forked`], [`AttachError::DescriptorClosed`]; [`AttachError::Proc`],
    /// [`AttachError::Leased`] or [`AttachError::Os`] when there is a dead handle and the kernel
    /// refuses what its recovery needs; [`AttachError::Corrupt`] when a process overwrote a dead
    /// handle's record, after the other records were recovered.
    ///
    /// # If a peer dies
    /// If this process dies in the call, the next recovery completes it.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// let alive = queue.sender()?;
    /// assert_eq!(queue.recover()?.handles, 0, "no process died");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(not(loom))]
    pub fn recover(&self) -> Result<Recovered, AttachError> {
        self.segment.recover()
    }

    /// Counts of what happened at this queue since it was created, in all processes together. All 0
    /// in a forked child.
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().create()?;
    /// queue.sender()?.try_send(b"counted")?;
    /// assert_eq!((queue.stats().sent, queue.stats().received), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        if let Some(ring) = self.segment.ring() {
            for record in ring.records {
                stats.add(&record.tally);
            }
            stats.owed = ring.owed();
        }
        stats
    }

    /// Waits on the calling thread until every message that was sent before the call is
    /// acknowledged: received and copied out, or its lease [acknowledged](crate::Lease::ack). If a
    /// receiver dies or returns a message, the join waits until another receive acknowledges it,
    /// also while the message is owed or held back ([`nack_after`](crate::Lease::nack_after)).
    ///
    /// A join ends under steady traffic: it does not wait for messages that were sent after it
    /// began, even if these come back. When a message that it waits for comes back, it waits for
    /// all that had been sent by then. While later joins run, it may also wait for their messages.
    ///
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    ///
    /// # Ordering
    /// What happened before the acknowledgements that it waits for happens before this returns.
    ///
    /// # If a peer dies
    /// The messages that the peer held are delivered again, and the join waits for them. A dead
    /// letter counts as acknowledged once it is handled, forwarded or discarded.
    ///
    /// ```
    /// use parkline_core::{JoinTimeoutError, Queue};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().create()?;
    /// queue.join_blocking()?;
    /// queue.sender()?.try_send(b"job")?;
    /// let mut receiver = queue.receiver()?;
    /// let job = receiver.try_lease()?;
    /// let soon = Duration::from_millis(5);
    /// assert_eq!(queue.join_blocking_timeout(soon), Err(JoinTimeoutError::Timeout));
    /// job.ack();
    /// queue.join_blocking()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join_blocking(&self) -> Result<(), Fault> {
        self.join_until(None).unwrap_or(Ok(()))
    }

    /// As [`join_blocking`](Self::join_blocking), for at most `timeout`. With zero it does not wait;
    /// a `timeout` beyond the clock's range, as `Duration::MAX`, never passes.
    ///
    /// # Errors
    /// [`Timeout`](JoinTimeoutError::Timeout) when a message is not acknowledged by then.
    ///
    /// ```
    /// use parkline_core::{JoinTimeoutError, Queue};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::builder().create()?;
    /// let soon = Duration::from_millis(1);
    /// assert_eq!(queue.join_blocking_timeout(soon), Ok(()));
    /// queue.sender()?.try_send(b"not received")?;
    /// assert_eq!(queue.join_blocking_timeout(soon), Err(JoinTimeoutError::Timeout));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join_blocking_timeout(&self, timeout: Duration) -> Result<(), JoinTimeoutError> {
        let joined = self.join_until(Instant::now().checked_add(timeout));
        Ok(joined.ok_or(JoinTimeoutError::Timeout)??)
    }

    /// As [`join_blocking`](Self::join_blocking), until `deadline` at most.
    ///
    /// # Errors
    /// [`Timeout`](JoinTimeoutError::Timeout) when a message is not acknowledged by then.
    ///
    /// ```
    /// use parkline_core::{JoinTimeoutError, Queue};
    /// use std::time::Instant;
    ///
    /// let queue = Queue::builder().create()?;
    /// assert_eq!(queue.join_blocking_deadline(Instant::now()), Ok(()), "there is no message");
    /// queue.sender()?.try_send(b"not received")?;
    /// let refused = queue.join_blocking_deadline(Instant::now());
    /// assert_eq!(refused, Err(JoinTimeoutError::Timeout));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join_blocking_deadline(&self, deadline: Instant) -> Result<(), JoinTimeoutError> {
        Ok(self.join_until(Some(deadline)).ok_or(JoinTimeoutError::Timeout)??)
    }

    fn join_until(&self, until: Option<Instant>) -> Option<Result<(), Fault>> {
        let mut joining = self.joining();
        joining.side().sleep(until, || joining.attempt())
    }

    /// Begins a join, for drivers that park tasks.
    #[doc(hidden)]
    pub fn joining(&self) -> Joining {
        Joining { segment: Arc::clone(&self.segment), join: None }
    }

    /// Another descriptor of the same queue, close-on-exec, to pass on.
    ///
    /// # Errors
    /// When the process has no descriptor left, or has closed the queue's own.
    ///
    /// ```
    /// use parkline_core::Queue;
    ///
    /// let queue = Queue::builder().create()?;
    /// let fd = queue.try_clone_fd()?; // to another process, or as here to a thread
    /// let peer = std::thread::spawn(move || Queue::open(fd).map(|same| same.id()));
    /// assert_eq!(peer.join().unwrap()?, queue.id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(not(loom))]
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.segment.try_clone_fd()
    }
}

/// A join under way: see [`Queue::join_blocking`].
#[derive(Debug)]
pub struct Joining {
    segment: Arc<Segment>,
    join: Option<Join>,
}

impl Joining {
    /// Whether all messages are acknowledged that were sent before the first attempt; `None` if
    /// not. Searches for dead handles if that is due. A waiter announces itself at the gate before
    /// it attempts.
    pub fn attempt(&mut self) -> Option<Result<(), Fault>> {
        self.segment.maintain();
        order_acknowledgements();
        self.is_joined().map_or_else(|fault| Some(Err(fault)), |joined| joined.then_some(Ok(())))
    }

    fn is_joined(&mut self) -> Result<bool, Fault> {
        let ring = self.segment.ring().ok_or(Fault::Forked)?;
        ring.condition.check()?;
        let join = match &mut self.join {
            Some(join) => join,
            None => self.join.insert(ring.begin_join()?),
        };
        Ok(ring.is_joined(join)?)
    }

    /// The side at which this waits.
    pub fn side(&self) -> Side {
        Side::new(&self.segment, WaitsFor::Acknowledgement)
    }
}

fn attach_fault(fault: Fault) -> AttachError {
    match fault {
        Fault::Corrupt(corrupt) => AttachError::Corrupt(corrupt),
        // No other fault can happen to a handle that was just made.
        _ => AttachError::Forked,
    }
}

#[cfg(not(loom))]
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
            .field("schema", &self.schema())
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// How many messages the queue can hold: 1 to 524,288, rounded up to a power of two.
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// assert_eq!(Queue::builder().capacity(100).create()?.capacity(), 128);
    /// let refused = Queue::builder().capacity(524_289).create();
    /// assert!(matches!(refused, Err(CreateError::TooLarge { max: 524_288, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn capacity(mut self, messages: usize) -> Self {
        self.wishes.capacity = messages;
        self
    }

    /// The longest message in bytes: 0 to 1 GiB. Every slot takes the memory of the longest
    /// message, and every handle that of one message and of each of its leases: see
    /// [`memory`](Self::memory).
    ///
    /// ```
    /// use parkline_core::{CreateError, Fault, Queue, TrySendError};
    ///
    /// let mut sender = Queue::builder().max_message(4).create()?.sender()?;
    /// sender.try_send(b"four")?;
    /// let too_large = Fault::MessageTooLarge { len: 8, max: 4 };
    /// assert_eq!(sender.try_send(b"too long"), Err(TrySendError::Fault((), too_large)));
    /// let refused = Queue::builder().max_message((1 << 30) + 1).create();
    /// assert!(matches!(refused, Err(CreateError::TooLarge { what: "max_message", .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.wishes.max_message = bytes;
        self
    }

    /// How many senders and receivers there can be at a time, in all processes together: 1 to
    /// 16,384. The default is 64; fewer, but at least 2, if the queue would take 64 MiB or more
    /// even with one lease per handle.
    ///
    /// ```
    /// use parkline_core::{AttachError, CreateError, Queue};
    ///
    /// let queue = Queue::builder().handles(2).create()?;
    /// let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    /// assert!(matches!(queue.sender(), Err(AttachError::NoFreeHandle { handles: 2 })));
    /// let refused = Queue::builder().handles(16_385).create();
    /// assert!(matches!(refused, Err(CreateError::TooLarge { what: "handles", .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handles(mut self, handles: usize) -> Self {
        self.wishes.handles = Share::Asked(handles);
        self
    }

    /// How many messages each receiver can lease at a time: 0 for no leases. A message that the
    /// receiver owes, because it came back while the queue was full, occupies one. The default is
    /// 4; fewer, but at least 1, if the queue would take 64 MiB or more.
    ///
    /// ```
    /// use parkline_core::{Fault, Queue, TryRecvError};
    ///
    /// let queue = Queue::builder().leases(1).create()?;
    /// queue.sender()?.try_send_many([&b"first"[..], b"second"])?;
    /// let mut receiver = queue.receiver()?;
    /// let first = receiver.try_lease()?;
    /// let refused = receiver.try_lease().unwrap_err();
    /// assert_eq!(refused, TryRecvError::Fault(Fault::LeasesOut { max: 1 }));
    /// first.ack();
    /// assert!(receiver.try_lease().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn leases(mut self, leases: usize) -> Self {
        self.wishes.leases = Share::Asked(leases);
        self
    }

    /// Sets another default than 4 leases, for bindings.
    #[doc(hidden)]
    pub fn usual_leases(mut self, leases: usize) -> Self {
        self.wishes.leases = Share::AtMost(leases);
        self
    }

    /// How often a waiting thread or task attempts again without a wake, 1 ms to 1 h, 100 ms by
    /// default: the longest delay of a wake that was lost with a killed process.
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    /// use std::time::Duration;
    ///
    /// assert!(Queue::builder().watchdog(Duration::from_millis(10)).create().is_ok());
    /// let refused = Queue::builder().watchdog(Duration::from_micros(999)).create();
    /// assert!(matches!(refused, Err(CreateError::Watchdog { .. })));
    /// ```
    pub fn watchdog(mut self, period: Duration) -> Self {
        self.wishes.watchdog = period;
        self
    }

    /// How many times a message is delivered before it is a dead letter: at least 1, by default 5.
    /// A receiver with a place for dead letters ([`Receiver::on_dead_letter`],
    /// [`Receiver::forward_dead_letters`], [`Receiver::discard_dead_letters`]) then puts the
    /// message there. A receiver without such a place receives it again, and its attempts go on
    /// counting.
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// let queue = Queue::builder().max_attempts(2).create()?;
    /// queue.sender()?.try_send(b"poison")?;
    /// let mut receiver = queue.receiver()?;
    /// receiver.discard_dead_letters();
    /// receiver.try_lease()?.nack();
    /// receiver.try_lease()?.nack();
    /// assert!(receiver.try_lease().is_err(), "no third time");
    /// let refused = Queue::builder().max_attempts(0).create();
    /// assert!(matches!(refused, Err(CreateError::Zero { what: "max_attempts" })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_attempts(mut self, attempts: u16) -> Self {
        self.wishes.max_attempts = attempts;
        self
    }

    /// Names what the messages mean. Every opener must name the same schema, by
    /// [`Queue::open_options`]; an opener that names none is refused. Raise the `version` with each
    /// change of the messages.
    ///
    /// Without a schema a queue of bytes opens for every program, and a typed queue opens as a type of
    /// the same size, alignment and name whose fields differ.
    ///
    /// The name has 1 to 64 bytes; [`create`](Self::create) refuses any other. Events and
    /// semaphores carry no messages, so they have no schema.
    ///
    /// ```
    /// use parkline_core::{CreateError, OpenError, Queue};
    /// use zerocopy::{FromBytes, Immutable, IntoBytes};
    ///
    /// mod yesterday {
    /// # use zerocopy::{FromBytes, Immutable, IntoBytes};
    ///     #[derive(FromBytes, IntoBytes, Immutable)]
    ///     #[repr(C)]
    ///     pub struct Order { pub id: u64, pub amount: u64 }
    /// }
    ///
    /// #[derive(FromBytes, IntoBytes, Immutable)]
    /// #[repr(C)]
    /// struct Order { amount: u64, id: u64 }
    ///
    /// let queue = Queue::builder().schema("orders", 2).create_typed::<Order>()?;
    /// let older = Queue::open_options().schema("orders", 1);
    /// let refused = older.open_typed::<yesterday::Order>(queue.try_clone_fd()?);
    /// assert!(matches!(refused, Err(OpenError::Schema { .. })));
    /// let newer = Queue::open_options().schema("orders", 2);
    /// assert!(newer.open_typed::<Order>(queue.try_clone_fd()?).is_ok());
    ///
    /// let too_long = Queue::builder().schema(&"x".repeat(65), 1).create();
    /// assert!(matches!(too_long, Err(CreateError::TooLarge { asked: 65, max: 64, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn schema(mut self, name: &str, version: u32) -> Self {
        self.schema = Some(Schema::new(name, version));
        self
    }

    /// Lets the kernel allocate memory when a block is first used, not now: for a large
    /// `max_message` that few messages need. If no memory is left at that time, a signal kills the
    /// process that touches the block, because nothing checks how much is left.
    ///
    /// Each block of an unused handle takes one page only, so the defaults of `handles` and
    /// `leases` are 64 and 4 at any size of messages.
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// let files = Queue::builder().capacity(16_384).max_message(1 << 30); // 16 TiB
    /// assert!(matches!(files.create(), Err(CreateError::Memory(_))));
    /// let queue = files.lazy_memory().create()?;
    /// queue.sender()?.try_send(b"a short one")?;
    /// assert_eq!((queue.handles(), queue.leases()), (64, 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lazy_memory(mut self) -> Self {
        self.wishes.lazy = true;
        self
    }

    /// Makes the handles that this process creates of the new queue map all of its memory at once:
    /// see [`Queue::prefault`]. The memory is allocated now, even with
    /// [`lazy_memory`](Self::lazy_memory).
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// let queue = Queue::builder().prefault().create()?;
    /// queue.sender()?.try_send(b"no page fault")?;
    /// let huge = Queue::builder().capacity(16_384).max_message(1 << 30).lazy_memory().prefault();
    /// assert!(matches!(huge.create(), Err(CreateError::Memory(_))), "16 TiB");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prefault(mut self) -> Self {
        self.prefault = true;
        self
    }

    /// Includes this process's mappings of the new queue in core dumps: see
    /// [`Queue::keep_in_core_dumps`].
    ///
    /// ```
    /// let queue = parkline_core::Queue::builder().keep_in_core_dumps().create()?;
    /// queue.sender()?.try_send(b"in a core dump")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keep_in_core_dumps(mut self) -> Self {
        self.in_core_dumps = true;
        self
    }

    /// How many bytes of shared memory [`create`](Self::create) takes: the length of the memfd. All
    /// of it is allocated at once, or on first use with [`lazy_memory`](Self::lazy_memory). This
    /// call creates nothing, and does not check whether the machine has as much.
    ///
    /// `(capacity + handles x (1 + leases)) x block`, where `capacity` is a power of two and
    /// `block` is `max_message + 16` rounded up to 64 bytes; and a little for bookkeeping, which
    /// `docs/memory.md` in the repository counts too, with examples. In addition the page tables of
    /// each handle take 1/512 of what the handle has touched.
    ///
    /// # Errors
    /// As [`create`](Self::create), for numbers out of range.
    ///
    /// ```
    /// use parkline_core::Queue;
    ///
    /// assert_eq!(Queue::builder().memory()?, 1_490_944);
    /// let frames = Queue::builder().capacity(8).max_message(1 << 20);
    /// assert!(frames.memory()? < 64 << 20, "fewer handles, one lease each");
    /// assert_eq!(frames.handles(64).leases(4).memory()? >> 20, 328, "what is asked for stays");
    /// assert!(frames.capacity(0).memory().is_err());
    /// # Ok::<(), parkline_core::CreateError>(())
    /// ```
    pub fn memory(self) -> Result<u64, CreateError> {
        Ok(Geometry::plan(self.wishes)?.file_len() as u64)
    }

    /// As [`memory`](Self::memory), for [`create_typed`](Self::create_typed).
    ///
    /// # Errors
    /// As [`memory`](Self::memory).
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// let builder = Queue::builder().capacity(16);
    /// assert_eq!(builder.memory_typed::<u64>()?, builder.max_message(8).memory()?);
    /// let refused = builder.handles(0).memory_typed::<u64>();
    /// assert!(matches!(refused, Err(CreateError::Zero { what: "handles" })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn memory_typed<T: Message>(self) -> Result<u64, CreateError> {
        self.of_type::<T>().memory()
    }

    /// Creates a queue of bytes.
    ///
    /// # Errors
    /// [`CreateError`] names the number that is wrong, or what the kernel refused.
    /// [`CreateError::Memory`] when the queue takes more memory than is left. The limits are
    /// `MemAvailable` of `/proc/meminfo` and, with control groups of version 2, `memory.max` of the
    /// group of this process and of each of its ancestors (less `memory.current`, without the pages
    /// of files that the kernel can drop). This is a reading, not a reservation: processes that
    /// allocate at the same moment can still use up the memory together. A queue with
    /// [`lazy_memory`](Self::lazy_memory) is not checked.
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// assert!(Queue::builder().capacity(16).create().is_ok());
    /// let refused = Queue::builder().capacity(0).create();
    /// assert!(matches!(refused, Err(CreateError::Zero { what: "capacity" })));
    /// let half_a_petabyte = Queue::builder().capacity(524_288).max_message(1 << 30);
    /// assert!(matches!(half_a_petabyte.create(), Err(CreateError::Memory(_))));
    /// ```
    pub fn create(self) -> Result<Queue, CreateError> {
        self.build()
    }

    /// Creates a queue that carries `T`. `max_message` is the size of `T`; only for a
    /// [`Pack`](crate::Pack) it is the number that was set.
    ///
    /// An opener's type must have the size, the alignment and the name of `T`. Its fields are not
    /// compared: name a [`schema`](Self::schema) if they may change.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    ///
    /// ```
    /// use parkline_core::{CreateError, Queue};
    ///
    /// let queue = Queue::builder().capacity(4).create_typed::<[u32; 2]>()?;
    /// queue.sender()?.try_send(&[1, 2])?;
    /// assert_eq!(queue.receiver()?.try_recv()?, [1, 2]);
    /// assert_eq!(queue.max_message(), 8);
    /// let refused = Queue::builder().capacity(0).create_typed::<[u32; 2]>();
    /// assert!(matches!(refused, Err(CreateError::Zero { what: "capacity" })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create_typed<T: Message>(self) -> Result<Queue<T>, CreateError> {
        self.of_type::<T>().build()
    }

    fn of_type<T: Message>(mut self) -> Self {
        if T::mark().0.is_of_fixed_size() {
            self.wishes.max_message = size_of::<T>();
        }
        self
    }

    fn build<M: Message + ?Sized>(self) -> Result<Queue<M>, CreateError> {
        let schema = self.schema.map_or(Ok(Schema::NONE), Schema::plan)?;
        let geometry = Geometry::plan(self.wishes)?;
        let is_lazy = self.wishes.lazy && !self.prefault;
        let allocation = if is_lazy { Allocation::Lazy } else { Allocation::Now };
        let segment = Segment::create(geometry, M::mark().0, schema, allocation)?;
        if self.prefault {
            segment.prefault_handles();
        }
        if self.in_core_dumps {
            segment.keep_in_core_dumps().map_err(|error| CreateError::Open(error.into()))?;
        }
        Ok(Queue::of(segment))
    }
}

//! A queue as this process has it open: the segment, the two handles, and the items that are out on
//! lease. Each handle is made when it is first needed.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use parkline_core::driver::{ForkGuard, WaitsFor};
use parkline_uring::{
    AsyncReceiver, AsyncSender, AttachError, Fault, Lease, Queue, Receiver, RecvError, Sender,
    Shared, TryRecvError,
};
use pyo3::prelude::*;

use crate::blocking::Waiters;
use crate::codec::Codec;
use crate::errors;
use crate::handle::{Handle, Open};
use crate::message::Message;

pub(crate) struct Opened {
    pub(crate) queue: Queue,
    pub(crate) codec: Arc<Codec>,
    pub(crate) joinable: bool,
    pub(crate) guard: ForkGuard,
    sender: OnceLock<Shared<Sender>>,
    receiver: OnceLock<Shared<Receiver>>,
    out: Mutex<AllOut>,
    pub(crate) getters: Arc<Waiters>,
    pub(crate) putters: Arc<Waiters>,
    /// How often the item of the last get was delivered, that get included.
    last_attempts: AtomicU32,
    pub(crate) late: Late,
    pub(crate) max_attempts: u32,
    /// The place for dead letters, and how often it was set.
    place: Mutex<(u64, Place)>,
}

/// A queue of Python. Shared with its view for tasks, with its leases, and with a queue that sends its dead
/// letters there.
#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) handle: Handle<Opened>,
    /// Set by `__init__`.
    pub(crate) kind: OnceLock<Kind>,
}

/// What is known of a closed handle too.
pub(crate) struct Kind {
    pub(crate) codec: Arc<Codec>,
    pub(crate) joinable: bool,
}

/// Where this handle puts dead letters.
pub(crate) enum Place {
    /// Nowhere: it counts them.
    Nowhere,
    /// Into another queue.
    Queue(Arc<Inner>),
    /// To a callable of Python. Core gives them to this handle like other messages, and each get calls it
    /// when no lock is held.
    Handler(Py<PyAny>),
}

impl Place {
    fn clone(&self, py: Python<'_>) -> Self {
        match self {
            Self::Nowhere => Self::Nowhere,
            Self::Queue(queue) => Self::Queue(Arc::clone(queue)),
            Self::Handler(handler) => Self::Handler(handler.clone_ref(py)),
        }
    }

    /// What `receiver` is to do. A lock of this process is not held while the GIL is given back.
    fn prepare(&self, py: Python<'_>) -> PyResult<impl FnOnce(&mut Receiver) + use<>> {
        let sender = match self {
            Self::Queue(to) => {
                let to = to.handle.opened()?;
                let made = py.detach(|| to.queue.sender());
                Some(made.map_err(|error| errors::attach(py, error))?)
            }
            Self::Nowhere | Self::Handler(_) => None,
        };
        let discards = matches!(self, Self::Nowhere);
        Ok(move |receiver: &mut Receiver| match sender {
            Some(sender) => receiver.forward_dead_letters(sender),
            None if discards => receiver.discard_dead_letters(),
            None => receiver.keep_dead_letters(),
        })
    }
}

/// What a get left for the next get of this process.
pub(crate) enum Left {
    /// An interrupt ended the batch that had got it.
    Item(Py<PyAny>),
    /// An interrupt ended its decoding, and the queue has no copy of it.
    Message(Vec<u8>),
    /// The error that a batch met after its last good item.
    Error(PyErr),
}

/// All that was left, oldest first.
#[derive(Default)]
pub(crate) struct Late {
    /// Loaded before the lock is taken, because mostly nothing is left.
    is_there: AtomicBool,
    left: Mutex<VecDeque<Left>>,
}

impl Late {
    pub(crate) fn put(&self, left: impl IntoIterator<Item = Left>) {
        let mut all = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(left);
        self.is_there.store(!all.is_empty(), Relaxed);
    }

    pub(crate) fn take(&self) -> Option<Left> {
        // Relaxed: the GIL orders it.
        if !self.is_there.load(Relaxed) {
            return None;
        }
        let mut all = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.pop_front();
        self.is_there.store(!all.is_empty(), Relaxed);
        first
    }
}

/// An item that a get returned, and that is not done yet.
struct Out {
    held_by: HeldBy,
    lease: Lease,
}

enum HeldBy {
    /// The thread or task that got it, for `task_done`. While this is kept, no other is the same object.
    Holder(Py<PyAny>),
    /// An object of Python, which knows it by its number. They ascend.
    Number(u64),
}

impl Out {
    fn is_of(&self, holder: &Bound<'_, PyAny>) -> bool {
        matches!(&self.held_by, HeldBy::Holder(own) if holder.is(own))
    }
}

/// All that is out, oldest first.
#[derive(Default)]
struct AllOut {
    items: VecDeque<Out>,
    last_number: u64,
}

impl Open for Opened {
    const CLOSED: &str = "this handle of the queue is closed";

    fn guard(&self) -> ForkGuard {
        self.guard
    }

    fn open_again(&self, py: Python<'_>) -> PyResult<Self> {
        let fd = self.queue.try_clone_fd().map_err(errors::descriptor)?;
        // The parent has checked the schema.
        let how = Queue::open_options().any_schema();
        let queue = py.detach(|| how.open(fd)).map_err(errors::open)?;
        let place = self.place().1.clone(py);
        let own = Self::new(queue, Arc::clone(&self.codec), self.joinable)?;
        own.place().1 = place;
        Ok(own)
    }
}

impl Opened {
    pub(crate) fn new(queue: Queue, codec: Arc<Codec>, joinable: bool) -> PyResult<Self> {
        Ok(Self {
            max_attempts: queue.max_attempts().into(),
            place: Mutex::new((0, Place::Nowhere)),
            queue,
            codec,
            joinable,
            guard: errors::guard()?,
            sender: OnceLock::new(),
            receiver: OnceLock::new(),
            out: Mutex::default(),
            getters: Arc::default(),
            putters: Arc::default(),
            last_attempts: AtomicU32::new(1),
            late: Late::default(),
        })
    }

    pub(crate) fn sender(&self, py: Python<'_>) -> PyResult<&Shared<Sender>> {
        attached(py, &self.sender, || Ok(self.queue.sender()?.share()))
    }

    pub(crate) fn receiver(&self, py: Python<'_>) -> PyResult<&Shared<Receiver>> {
        if let Some(receiver) = self.receiver.get() {
            return Ok(receiver);
        }
        let made = py.detach(|| self.queue.receiver());
        let mut made = made.map_err(|error| errors::attach(py, error))?;
        let set = self.apply_place(py, |set| set(&mut made))?;
        let receiver = self.receiver.get_or_init(|| made.share());
        if self.place().0 != set {
            self.apply_place(py, |set| set(&mut receiver.lock()))?;
        }
        Ok(receiver)
    }

    fn place(&self) -> MutexGuard<'_, (u64, Place)> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a receiver do what the place says; returns how often the place was set until then.
    fn apply_place(
        &self,
        py: Python<'_>,
        mut to: impl FnMut(Box<dyn FnOnce(&mut Receiver)>),
    ) -> PyResult<u64> {
        loop {
            let (set, place) = {
                let now = self.place();
                (now.0, now.1.clone(py))
            };
            to(Box::new(place.prepare(py)?));
            // Another thread may have set it meanwhile.
            if self.place().0 == set {
                return Ok(set);
            }
        }
    }

    /// Puts dead letters there from now on.
    pub(crate) fn put_dead_letters(&self, py: Python<'_>, place: Place) -> PyResult<()> {
        // Before it is set, because this can fail.
        drop(place.prepare(py)?);
        let before = {
            let mut now = self.place();
            now.0 += 1;
            std::mem::replace(&mut now.1, place)
        };
        // Without the lock, because that can run code of Python.
        drop(before);
        if let Some(receiver) = self.receiver.get() {
            self.apply_place(py, |set| set(&mut receiver.lock()))?;
        }
        Ok(())
    }

    /// The handler of dead letters.
    pub(crate) fn handler(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &self.place().1 {
            Place::Handler(handler) => Some(handler.clone_ref(py)),
            Place::Nowhere | Place::Queue(_) => None,
        }
    }

    /// One attempt of a get.
    pub(crate) fn attempt(&self, receiver: &mut Receiver) -> Result<Message, TryRecvError> {
        match self.queue.leases() {
            0 => receiver.try_recv().map(Message::Copied),
            _ => receiver.try_lease().map(Message::Leased),
        }
    }

    /// The answer of a get, in threads and in tasks, or what it waits for.
    ///
    /// A queue that was shut down has ended when no message is left that could be delivered again. Before
    /// a get returns the end, it recovers dead handles, and waits while other processes hold items that
    /// are not done. It does not wait for the items of this handle, because its caller may hold them, and
    /// can acknowledge them only after this call.
    pub(crate) fn answer(
        &self,
        receiver: &Shared<Receiver>,
    ) -> ControlFlow<Result<Message, RecvError>, WaitsFor> {
        let answer = receiver.lock().answer(|it| self.attempt(it));
        let is_at_end = answer.is_continue() && self.queue.is_closed() && self.queue.is_empty();
        if is_at_end && self.out_on_lease() > 0 {
            return ControlFlow::Break(Err(RecvError::Closed));
        }
        answer
    }

    /// Takes and acknowledges all messages of the queue, and those that dead processes held.
    pub(crate) fn throw_away(&self, receiver: &Shared<Receiver>) -> Result<(), Fault> {
        // As many as the queue and its handles can hold. A message that is returned later stays.
        let held = self.queue.handles() * (self.queue.leases() + 1);
        for _ in 0..self.queue.capacity() + held {
            match receiver.lock().answer(discard) {
                ControlFlow::Break(Ok(())) => {}
                ControlFlow::Break(Err(RecvError::Fault(fault))) => return Err(fault),
                ControlFlow::Break(Err(RecvError::Closed)) | ControlFlow::Continue(_) => break,
            }
        }
        Ok(())
    }

    fn out(&self) -> MutexGuard<'_, AllOut> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_attempts(&self, message: &Message) {
        self.last_attempts.store(message.attempts(), Relaxed);
    }

    /// Keeps the leases of items until `task_done`.
    pub(crate) fn keep(&self, holder: &Bound<'_, PyAny>, leases: impl IntoIterator<Item = Lease>) {
        let held_by = || HeldBy::Holder(holder.clone().unbind());
        let out = |lease| Out { held_by: held_by(), lease };
        self.out().items.extend(leases.into_iter().map(out));
    }

    /// Keeps a lease until [`take_numbered`](Self::take_numbered); returns its number.
    pub(crate) fn keep_numbered(&self, lease: Lease) -> u64 {
        let mut out = self.out();
        out.last_number += 1;
        let number = out.last_number;
        out.items.push_back(Out { held_by: HeldBy::Number(number), lease });
        number
    }

    /// The lease of that number, which is not kept any more.
    pub(crate) fn take_numbered(&self, number: u64) -> Option<Lease> {
        let mut out = self.out();
        let is_it = |it: &Out| matches!(it.held_by, HeldBy::Number(own) if own == number);
        let at = out.items.iter().position(is_it)?;
        out.items.remove(at).map(|it| it.lease)
    }

    /// Acknowledges the oldest item that `holder` got, or the oldest of all holders if it has none;
    /// whether there was one. An item on a lease of its own is not among them.
    pub(crate) fn done(&self, holder: &Bound<'_, PyAny>) -> bool {
        let done = {
            let mut out = self.out();
            let own = out.items.iter().position(|it| it.is_of(holder));
            let any = || out.items.iter().position(|it| matches!(it.held_by, HeldBy::Holder(_)));
            own.or_else(any).and_then(|at| out.items.remove(at))
        };
        let was_out = done.is_some();
        if let Some(done) = done {
            done.lease.ack();
        }
        was_out
    }

    /// How often the last item that `holder` got, and that is not done, was delivered. If there is none,
    /// the same for the item of the last get through this handle.
    pub(crate) fn attempts(&self, holder: &Bound<'_, PyAny>) -> u32 {
        let out = self.out();
        let last = out.items.iter().rfind(|it| it.is_of(holder));
        last.map_or_else(|| self.last_attempts.load(Relaxed), |it| it.lease.attempts().into())
    }

    /// How many items are out on lease.
    pub(crate) fn out_on_lease(&self) -> usize {
        self.out().items.len()
    }
}

/// Takes and acknowledges the oldest message.
pub(crate) fn discard(receiver: &mut Receiver) -> Result<(), TryRecvError> {
    match receiver.try_lease() {
        Ok(lease) => {
            lease.ack();
            Ok(())
        }
        // To copy a message out takes no lease.
        Err(TryRecvError::Fault(Fault::LeasesOut { .. })) => receiver.try_recv().map(drop),
        Err(error) => Err(error),
    }
}

/// The handle, made now if there is none. Two threads may make one each, and one is dropped.
fn attached<'a, H: Send>(
    py: Python<'_>,
    handle: &'a OnceLock<H>,
    make: impl FnOnce() -> Result<H, AttachError> + Send,
) -> PyResult<&'a H> {
    match handle.get() {
        Some(handle) => Ok(handle),
        None => {
            let made = py.detach(make).map_err(|error| errors::attach(py, error))?;
            Ok(handle.get_or_init(|| made))
        }
    }
}

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
use crate::handle::Open;
use crate::message::Message;

pub(crate) struct Opened {
    pub(crate) queue: Queue,
    pub(crate) codec: Arc<Codec>,
    pub(crate) joinable: bool,
    pub(crate) guard: ForkGuard,
    sender: OnceLock<Shared<Sender>>,
    receiver: OnceLock<Shared<Receiver>>,
    out: Mutex<VecDeque<Out>>,
    pub(crate) getters: Arc<Waiters>,
    pub(crate) putters: Arc<Waiters>,
    /// How often the item of the last get was delivered, that get included.
    last_attempts: AtomicU32,
    pub(crate) late: Late,
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
    /// The thread or task that got it. While this is kept, no other is the same object.
    holder: Py<PyAny>,
    lease: Lease,
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
        Self::new(queue, Arc::clone(&self.codec), self.joinable)
    }
}

impl Opened {
    pub(crate) fn new(queue: Queue, codec: Arc<Codec>, joinable: bool) -> PyResult<Self> {
        Ok(Self {
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
        let make = || {
            let mut receiver = self.queue.receiver()?;
            receiver.discard_dead_letters();
            Ok(receiver.share())
        };
        attached(py, &self.receiver, make)
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
        let attempt = |it: &mut Receiver| match it.try_lease() {
            Ok(lease) => {
                lease.ack();
                Ok(())
            }
            // To copy a message out takes no lease.
            Err(TryRecvError::Fault(Fault::LeasesOut { .. })) => it.try_recv().map(drop),
            Err(error) => Err(error),
        };
        // As many as the queue and its handles can hold. A message that is returned later stays.
        let held = self.queue.handles() * (self.queue.leases() + 1);
        for _ in 0..self.queue.capacity() + held {
            match receiver.lock().answer(attempt) {
                ControlFlow::Break(Ok(())) => {}
                ControlFlow::Break(Err(RecvError::Fault(fault))) => return Err(fault),
                ControlFlow::Break(Err(RecvError::Closed)) | ControlFlow::Continue(_) => break,
            }
        }
        Ok(())
    }

    fn out(&self) -> MutexGuard<'_, VecDeque<Out>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_attempts(&self, message: &Message) {
        self.last_attempts.store(message.attempts(), Relaxed);
    }

    /// Keeps the leases of items until they are done.
    pub(crate) fn keep(&self, holder: &Bound<'_, PyAny>, leases: impl IntoIterator<Item = Lease>) {
        let out = |lease| Out { holder: holder.clone().unbind(), lease };
        self.out().extend(leases.into_iter().map(out));
    }

    /// Acknowledges the oldest item that `holder` got, or the oldest of all if `holder` has none;
    /// whether there was one.
    pub(crate) fn done(&self, holder: &Bound<'_, PyAny>) -> bool {
        let done = {
            let mut out = self.out();
            let own = out.iter().position(|it| holder.is(&it.holder)).unwrap_or(0);
            out.remove(own)
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
        let last = out.iter().rfind(|it| holder.is(&it.holder));
        last.map_or_else(|| self.last_attempts.load(Relaxed), |it| it.lease.attempts().into())
    }

    /// How many items are out on lease.
    pub(crate) fn out_on_lease(&self) -> usize {
        self.out().len()
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

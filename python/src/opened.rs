//! A queue as this process has it: the segment, the two handles made when first needed, and the
//! items that are out on lease.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use parkline_core::driver::{ForkGuard, WaitsFor};
use parkline_uring::{
    AsyncReceiver, AsyncSender, AttachError, Fault, Lease, Queue, Receiver, RecvError, Sender,
    Shared, TryRecvError,
};
use pyo3::prelude::*;

use crate::blocking::Eyes;
use crate::errors;
use crate::message::Message;

pub(crate) struct Opened {
    pub(crate) queue: Queue,
    pub(crate) guard: ForkGuard,
    sender: OnceLock<Shared<Sender>>,
    receiver: OnceLock<Shared<Receiver>>,
    out: Mutex<VecDeque<Out>>,
    /// Calls and tasks of this process that wait, for people.
    pub(crate) getters: AtomicUsize,
    pub(crate) putters: AtomicUsize,
    /// How often the item that was got last had been handed out.
    last_attempts: AtomicU32,
    pub(crate) late: Late,
    pub(crate) getting: Eyes,
    pub(crate) putting: Eyes,
}

/// What a get left for the next one of this process.
pub(crate) enum Left {
    /// A batch got it, and an interrupt ended the batch.
    Item(Py<PyAny>),
    /// An interrupt ended its decoding, and it has no other place to be.
    Message(Vec<u8>),
    /// What a batch met after its last good item.
    Error(PyErr),
}

/// All that was left, oldest first.
#[derive(Default)]
pub(crate) struct Late {
    /// A look at it spares the lock.
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
        // The GIL orders it.
        if !self.is_there.load(Relaxed) {
            return None;
        }
        let mut all = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.pop_front();
        self.is_there.store(!all.is_empty(), Relaxed);
        first
    }
}

/// An item that was got and not yet done.
struct Out {
    /// The thread or task that got it. No later one is the same object, as long as this is kept.
    holder: Py<PyAny>,
    lease: Lease,
}

impl Opened {
    pub(crate) fn new(queue: Queue) -> PyResult<Self> {
        Ok(Self {
            queue,
            guard: errors::guard()?,
            sender: OnceLock::new(),
            receiver: OnceLock::new(),
            out: Mutex::default(),
            getters: AtomicUsize::new(0),
            putters: AtomicUsize::new(0),
            last_attempts: AtomicU32::new(1),
            late: Late::default(),
            getting: Eyes::default(),
            putting: Eyes::default(),
        })
    }

    /// The same queue for this forked child.
    pub(crate) fn open_anew(&self, py: Python<'_>) -> PyResult<Self> {
        let fd = self.queue.try_clone_fd().map_err(errors::descriptor)?;
        // The parent has named it.
        let how = Queue::open_options().any_schema();
        Self::new(py.detach(|| how.open(fd)).map_err(errors::open)?)
    }

    /// Whether this is the parent's, inherited by a forked child.
    pub(crate) fn is_forked(&self) -> bool {
        self.guard.is_forked()
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

    /// What every get answers, in threads and in tasks, or what it waits for.
    ///
    /// A queue that was shut down has ended when nothing is left that could come again. Before it
    /// says so, a get recovers the dead, and waits while other processes have items that they are not
    /// done with. It does not wait for the items of this handle: perhaps its caller has them, and is
    /// done with them after this call alone.
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

    /// Takes and acknowledges all that is in the queue, and what the dead had.
    pub(crate) fn throw_away(&self, receiver: &Shared<Receiver>) -> Result<(), Fault> {
        let attempt = |it: &mut Receiver| match it.try_lease() {
            Ok(lease) => {
                lease.ack();
                Ok(())
            }
            // There is always room for what is copied out.
            Err(TryRecvError::Fault(Fault::LeasesOut { .. })) => it.try_recv().map(drop),
            Err(error) => Err(error),
        };
        // As many as there can be: what comes back later is for the next to throw away.
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

    /// Acknowledges the oldest item that `holder` got, or, where it has none, the oldest of all;
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

    /// How often the item was handed out that `holder` got last and is not done with; otherwise the
    /// one that was got last through this handle.
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

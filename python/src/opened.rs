//! A queue as this process has it: the segment, the two handles made when first needed, and the
//! items that are out on lease.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use parkline_core::driver::ForkGuard;
use parkline_uring::{
    AsyncReceiver, AsyncSender, AttachError, Lease, Queue, Receiver, Sender, Shared,
};
use pyo3::prelude::*;

use crate::blocking::Eyes;
use crate::errors;
use crate::starved::Starved;

pub(crate) struct Opened {
    pub(crate) queue: Queue,
    pub(crate) guard: ForkGuard,
    sender: OnceLock<Shared<Sender>>,
    receiver: OnceLock<Shared<Receiver>>,
    out: Mutex<VecDeque<Out>>,
    /// Who waits for a lease to come back, since all of this handle's are out.
    pub(crate) starved: Starved,
    /// Calls and tasks of this process that wait, for people.
    pub(crate) getters: AtomicUsize,
    pub(crate) putters: AtomicUsize,
    /// How often the item that was got last had been handed out.
    last_attempts: AtomicU32,
    pub(crate) late: Late,
    pub(crate) getting: Eyes,
    pub(crate) putting: Eyes,
}

/// What a batch met after its last good item.
#[derive(Default)]
pub(crate) struct Late {
    /// A look at it spares the lock.
    is_there: AtomicBool,
    error: Mutex<Option<PyErr>>,
}

impl Late {
    pub(crate) fn put(&self, error: PyErr) {
        let before = self.error.lock().unwrap_or_else(PoisonError::into_inner).replace(error);
        self.is_there.store(true, Relaxed);
        drop(before);
    }

    pub(crate) fn take(&self) -> Option<PyErr> {
        // The GIL orders it.
        if !self.is_there.load(Relaxed) {
            return None;
        }
        self.is_there.store(false, Relaxed);
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An item that was got and not yet done.
struct Out {
    /// The thread or task that got it.
    holder: u64,
    lease: Lease,
}

impl Opened {
    pub(crate) fn new(queue: Queue) -> PyResult<Self> {
        Ok(Self {
            queue,
            guard: ForkGuard::new()?,
            sender: OnceLock::new(),
            receiver: OnceLock::new(),
            out: Mutex::default(),
            starved: Starved::default(),
            getters: AtomicUsize::new(0),
            putters: AtomicUsize::new(0),
            last_attempts: AtomicU32::new(1),
            late: Late::default(),
            getting: Eyes::default(),
            putting: Eyes::default(),
        })
    }

    /// The same queue for this forked child, or `None` where it is its own.
    pub(crate) fn after_fork(&self) -> PyResult<Option<Self>> {
        if !self.is_forked() {
            return Ok(None);
        }
        // The parent has named it.
        let how = Queue::open_options().any_schema();
        let queue = how.open(self.queue.try_clone_fd()?).map_err(errors::open)?;
        Self::new(queue).map(Some)
    }

    /// Whether this is the parent's, inherited by a forked child.
    pub(crate) fn is_forked(&self) -> bool {
        self.guard.is_forked()
    }

    pub(crate) fn sender(&self, py: Python<'_>) -> PyResult<&Shared<Sender>> {
        attached(&self.sender, || Ok(self.queue.sender()?.share()))
            .map_err(|error| errors::attach(py, error))
    }

    pub(crate) fn receiver(&self, py: Python<'_>) -> PyResult<&Shared<Receiver>> {
        attached(&self.receiver, || Ok(self.queue.receiver()?.share()))
            .map_err(|error| errors::attach(py, error))
    }

    /// The receiver, if there is one already.
    pub(crate) fn known_receiver(&self) -> Option<&Shared<Receiver>> {
        self.receiver.get()
    }

    fn out(&self) -> MutexGuard<'_, VecDeque<Out>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_attempts(&self, lease: &Lease) {
        self.last_attempts.store(lease.attempts().into(), Relaxed);
    }

    /// Keeps the lease of an item until it is done.
    pub(crate) fn keep(&self, holder: u64, lease: Lease) {
        self.out().push_back(Out { holder, lease });
    }

    /// Acknowledges a message.
    pub(crate) fn acknowledge(&self, lease: Lease) {
        lease.ack();
        self.starved.feed();
    }

    /// Acknowledges the oldest item that `holder` got, or, where it has none, the oldest of all;
    /// whether there was one.
    pub(crate) fn done(&self, holder: u64) -> bool {
        let done = {
            let mut out = self.out();
            let own = out.iter().position(|it| it.holder == holder).unwrap_or(0);
            out.remove(own)
        };
        let was_out = done.is_some();
        if let Some(done) = done {
            self.acknowledge(done.lease);
        }
        was_out
    }

    /// How often the item was handed out that `holder` got last and is not done with; otherwise the
    /// one that was got last through this handle.
    pub(crate) fn attempts(&self, holder: u64) -> u32 {
        let out = self.out();
        let last = out.iter().rfind(|it| it.holder == holder);
        last.map_or_else(|| self.last_attempts.load(Relaxed), |it| it.lease.attempts().into())
    }

    /// How many items are out on lease.
    pub(crate) fn out_on_lease(&self) -> usize {
        self.out().len()
    }
}

impl Drop for Opened {
    /// What is not done is delivered again, once the receiver is dropped, too.
    fn drop(&mut self) {
        let out = self.out.get_mut().unwrap_or_else(PoisonError::into_inner);
        for it in out.drain(..) {
            it.lease.abandon();
        }
    }
}

/// The handle, made now if there is none. Two threads may make one each, and one is dropped.
fn attached<H>(
    handle: &OnceLock<H>,
    make: impl FnOnce() -> Result<H, AttachError>,
) -> Result<&H, AttachError> {
    match handle.get() {
        Some(handle) => Ok(handle),
        None => {
            let made = make()?;
            Ok(handle.get_or_init(|| made))
        }
    }
}

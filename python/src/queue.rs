//! The queue's blocking calls, and the beginnings of its async ones.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use parkline_uring::{Builder, Stats};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyType};

use crate::blocking::{self, deadline};
use crate::codec::Codec;
use crate::errors;
use crate::opened::Opened;
use crate::transfer::{Batch, holder};
use crate::turn;
use crate::waiting::{Wait, pending};

/// How many items a process can have got and not done, of a joinable queue.
const LEASES_OF_JOINABLE: usize = 256;
/// Core would choose fewer, to make room for those leases.
const HANDLES_OF_JOINABLE: usize = 64;

#[pyclass(subclass, frozen, weakref, module = "parkline._parkline")]
pub(crate) struct Queue {
    /// `None` once this handle is closed. Shared with its view for tasks.
    opened: Arc<Mutex<Option<Arc<Opened>>>>,
    pub(crate) codec: Arc<Codec>,
    pub(crate) joinable: bool,
}

impl Queue {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<Opened>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue as this process has it: a forked child opens it anew.
    fn opened(&self) -> PyResult<Arc<Opened>> {
        let opened = self.slot().as_ref().map(Arc::clone).ok_or_else(errors::closed)?;
        if opened.is_forked() { self.open_anew(&opened) } else { Ok(opened) }
    }

    #[cold]
    fn open_anew(&self, inherited: &Opened) -> PyResult<Arc<Opened>> {
        // Without the lock, for which others wait with the GIL in their hands.
        let own = Python::attach(|py| inherited.open_anew(py))?;
        let mut slot = self.slot();
        let opened = slot.as_mut().ok_or_else(errors::closed)?;
        if opened.is_forked() {
            *opened = Arc::new(own);
        }
        Ok(Arc::clone(opened))
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (
        maxsize,
        *,
        max_message = 8192,
        codec = None,
        joinable = false,
        handles = None,
        leases = None,
        lazy_memory = true,
        max_attempts = 5,
        watchdog = 0.1,
        schema = None,
        _fd = None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        py: Python<'_>,
        maxsize: usize,
        max_message: usize,
        codec: Option<&Bound<'_, PyAny>>,
        joinable: bool,
        handles: Option<usize>,
        leases: Option<usize>,
        lazy_memory: bool,
        max_attempts: u16,
        watchdog: f64,
        schema: Option<(String, u32)>,
        _fd: Option<RawFd>,
    ) -> PyResult<Self> {
        let codec = match codec {
            Some(codec) => Codec::of(codec)?,
            None => Codec::of(pyo3::intern!(py, "pickle"))?,
        };
        let queue = match _fd {
            Some(fd) => {
                let fd = duplicate(fd)?;
                let how = parkline_uring::Queue::open_options();
                let how = match &schema {
                    Some((name, version)) => how.schema(name, *version),
                    None => how,
                };
                py.detach(|| how.open(fd)).map_err(errors::open)?
            }
            None => {
                let watchdog = Duration::try_from_secs_f64(watchdog)
                    .map_err(|error| PyValueError::new_err(format!("watchdog: {error}")))?;
                let shape = shape(maxsize, max_message, joinable, handles, leases, lazy_memory)?;
                let builder = shape.max_attempts(max_attempts).watchdog(watchdog);
                let builder = match &schema {
                    Some((name, version)) => builder.schema(name, *version),
                    None => builder,
                };
                py.detach(|| builder.create()).map_err(errors::create)?
            }
        };
        if joinable && queue.leases() == 0 {
            return Err(PyValueError::new_err(
                "joinable=True needs leases, of which this queue has none: its items are done when they are got",
            ));
        }
        let opened = Arc::new(Mutex::new(Some(Arc::new(Opened::new(queue)?))));
        Ok(Self { opened, codec: Arc::new(codec), joinable })
    }

    /// How many bytes of shared memory a queue of this shape takes, or, with `lazy_memory`, can come to
    /// take. Nothing is made.
    #[staticmethod]
    #[pyo3(signature = (
        maxsize,
        *,
        max_message = 8192,
        joinable = false,
        handles = None,
        leases = None,
        lazy_memory = true,
    ))]
    fn memory(
        maxsize: usize,
        max_message: usize,
        joinable: bool,
        handles: Option<usize>,
        leases: Option<usize>,
        lazy_memory: bool,
    ) -> PyResult<u64> {
        let shape = shape(maxsize, max_message, joinable, handles, leases, lazy_memory)?;
        shape.memory().map_err(errors::create)
    }

    /// `Queue[T]` is for type checkers.
    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, _item: &Bound<'_, PyAny>) -> Py<PyType> {
        class.clone().unbind()
    }

    /// Puts an item, waiting while the queue is full. When this returns, it is in shared memory,
    /// and survives this process. Raises `Full`, `ShutDown`, `MessageTooLarge`, and what the
    /// encoding raises, before anything is put.
    #[pyo3(signature = (item, block = true, timeout = None))]
    fn put(
        &self,
        py: Python<'_>,
        item: &Bound<'_, PyAny>,
        block: bool,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let opened = self.opened()?;
        let item = self.codec.encode(item)?;
        if Self::try_offer(py, &opened, &item)? {
            return Ok(());
        }
        if block && Self::offer_until(py, &opened, item, deadline(timeout)?)? {
            return Ok(());
        }
        Err(errors::full(py, ()))
    }

    /// Puts an item, or raises `Full`.
    fn put_nowait(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(py, item, false, None)
    }

    /// Takes the oldest item, waiting while there is none. It is acknowledged after it was decoded, that of
    /// a joinable queue by `task_done`. Raises `Empty`; `Undecodable`; `ShutDown` when the queue was shut
    /// down and nothing is left that could come again.
    #[pyo3(signature = (block = true, timeout = None))]
    fn get(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let opened = self.opened()?;
        if let Some(item) = self.try_take(py, &opened)? {
            return Ok(item);
        }
        if block && let Some(message) = self.take_until(py, &opened, deadline(timeout)?)? {
            return self.hand_over(py, &opened, message);
        }
        Err(errors::empty(py, ()))
    }

    /// Takes an item, or raises `Empty`.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.get(py, false, None)
    }

    /// Puts items in order, waiting where there is no room. All are encoded before any is put.
    /// Returns how many; `Full` says how many were put until the time was over. Without items it is 0
    /// at once.
    #[pyo3(signature = (items, timeout = None))]
    fn put_many(
        &self,
        py: Python<'_>,
        items: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let opened = self.opened()?;
        let until = deadline(timeout)?;
        let mut items = self.encode_all(items)?;
        let all = items.len();
        while Self::try_offer_many(py, &opened, &mut items)? {
            let Some(first) = items.pop_front() else { break };
            if !Self::offer_until(py, &opened, first, until)? {
                let left = items.len() + 1;
                return Err(errors::full(py, (format!("{} of {all} items were put", all - left),)));
            }
        }
        Ok(all)
    }

    /// Takes up to `max_items` and `maxsize`, in order: what is there, but waits for the first.
    /// `get_many(0)` is `[]` at once.
    #[pyo3(signature = (max_items, block = true, timeout = None))]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        max_items: usize,
        block: bool,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let opened = self.opened()?;
        let mut batch = Batch::default();
        self.take_more(py, &opened, max_items, &mut batch, false)?;
        if max_items > 0 && batch.items.is_empty() {
            let first = match block {
                true => self.take_until(py, &opened, deadline(timeout)?)?,
                false => None,
            };
            let first = first.ok_or_else(|| errors::empty(py, ()))?;
            self.add(py, &opened, first, &mut batch)?;
            self.take_more(py, &opened, max_items, &mut batch, true)?;
        }
        PyList::new(py, batch.items)
    }

    /// How many items wait. Others put and get meanwhile; never more than `maxsize`.
    fn qsize(&self) -> PyResult<usize> {
        Ok(self.opened()?.queue.len())
    }

    /// Whether no item waits. Others may put one before you act on it.
    fn empty(&self) -> PyResult<bool> {
        Ok(self.opened()?.queue.is_empty())
    }

    /// Whether there is no room. Others may make some before you act on it.
    fn full(&self) -> PyResult<bool> {
        let queue = &self.opened()?.queue;
        Ok(queue.len() >= queue.capacity())
    }

    /// For how many items there is room: a power of two.
    #[getter]
    fn maxsize(&self) -> PyResult<usize> {
        Ok(self.opened()?.queue.capacity())
    }

    /// The longest encoded item in bytes.
    #[getter]
    fn max_message(&self) -> PyResult<usize> {
        Ok(self.opened()?.queue.max_message())
    }

    /// Whether an item is out on lease until `task_done`.
    #[getter]
    fn joinable(&self) -> bool {
        self.joinable
    }

    /// How items become bytes: "pickle", "raw", or a pair of callables.
    #[getter]
    fn codec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.codec.spec(py)
    }

    /// The name and the version that the queue was made with.
    #[getter]
    fn schema(&self) -> PyResult<Option<(String, u32)>> {
        let opened = self.opened()?;
        Ok(opened.queue.schema().map(|(name, version)| (name.into(), version)))
    }

    /// The queue's number of 128 random bits: the same in every process, and no other queue's.
    #[getter]
    fn id(&self) -> PyResult<u128> {
        Ok(self.opened()?.queue.id())
    }

    /// Whether somebody shut the queue down. There may still be items in it.
    #[getter]
    fn is_shutdown(&self) -> PyResult<bool> {
        Ok(self.opened()?.queue.is_closed())
    }

    /// Whether this handle is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.slot().is_none()
    }

    /// Says that this task or thread is done with the oldest item that it got; where it has none,
    /// with the oldest that this handle got. `ValueError` when there is none at all.
    fn task_done(&self, py: Python<'_>) -> PyResult<()> {
        let opened = self.opened()?;
        if !self.joinable {
            return Err(PyValueError::new_err(
                "task_done() is for a queue with joinable=True; others are done with an item when they get it",
            ));
        }
        if opened.done(&holder(py)?) {
            return Ok(());
        }
        Err(PyValueError::new_err("task_done() called too many times"))
    }

    /// How often the item that this task or thread got last was handed out, this time included.
    #[getter]
    fn last_attempts(&self, py: Python<'_>) -> PyResult<u32> {
        let opened = self.opened()?;
        Ok(opened.attempts(&holder(py)?))
    }

    /// Whether somebody had the item before that this task or thread got last, and died with it.
    #[getter]
    fn last_redelivered(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.last_attempts(py)? > 1)
    }

    /// Waits until all that was put before is got, and, if the queue is joinable, done. What a
    /// killed process had is waited for until another is done with it. Raises `TimeoutError`.
    #[pyo3(signature = (timeout = None))]
    fn join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let opened = self.opened()?;
        let mut joining = opened.queue.joining();
        let side = joining.side();
        match blocking::wait(py, &side, None, deadline(timeout)?, || joining.attempt())? {
            Some(joined) => joined.map_err(|fault| errors::fault(py, fault)),
            None => Err(pyo3::exceptions::PyTimeoutError::new_err(
                "the time is over, and not every item is done",
            )),
        }
    }

    /// Shuts the queue down, for everybody: no more is put, what is in it can be got, and who waits
    /// in vain gets `ShutDown`. With `immediate` what is in it is thrown away.
    #[pyo3(signature = (immediate = false))]
    fn shutdown(&self, py: Python<'_>, immediate: bool) -> PyResult<()> {
        let opened = self.opened()?;
        opened.queue.close().map_err(|fault| errors::fault(py, fault))?;
        if !immediate {
            return Ok(());
        }
        let receiver = opened.receiver(py)?;
        let thrown = py.detach(|| opened.throw_away(receiver));
        thrown.map_err(|fault| errors::fault(py, fault))
    }

    /// Lets go of this handle. What it got and was not done with comes again, to others. Calls that
    /// are under way end as if it were open.
    fn close(&self, py: Python<'_>) {
        let opened = self.slot().take();
        // The last one unmaps the queue.
        py.detach(|| drop(opened));
    }

    /// How many calls and tasks of this process wait for an item.
    #[getter]
    fn waiting_getters(&self) -> PyResult<usize> {
        Ok(self.opened()?.getters.load(Relaxed))
    }

    /// How many calls and tasks of this process wait for room.
    #[getter]
    fn waiting_putters(&self) -> PyResult<usize> {
        Ok(self.opened()?.putters.load(Relaxed))
    }

    /// The queue's descriptor, to be passed on: see `from_fd`.
    fn fileno(&self) -> PyResult<RawFd> {
        let opened = self.opened()?;
        descriptor_of(&opened.queue, opened.queue.try_clone_fd())
    }

    /// Has what dead processes held delivered again, now; returns how many items. It happens by
    /// itself wherever somebody waits.
    fn recover(&self, py: Python<'_>) -> PyResult<usize> {
        let opened = self.opened()?;
        let found = py.detach(|| opened.queue.recover());
        found.map(|it| it.messages).map_err(|error| errors::attach(py, error))
    }

    /// What happened at this queue, in all processes together.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Stats {
            sent, received, redelivered, dead_lettered, owed, recovered, parks, wakes, ..
        } = self.opened()?.queue.stats();
        let stats = PyDict::new(py);
        for (name, count) in [
            ("sent", sent),
            ("received", received),
            ("redelivered", redelivered),
            ("dead_lettered", dead_lettered),
            ("owed", owed),
            ("recovered", recovered),
            ("parks", parks),
            ("wakes", wakes),
        ] {
            stats.set_item(name, count)?;
        }
        Ok(stats)
    }

    fn __repr__(&self) -> PyResult<String> {
        if self.slot().is_none() {
            return Ok("<parkline.Queue closed>".into());
        }
        let opened = self.opened()?;
        let queue = &opened.queue;
        let mut text = format!("<parkline.Queue {}/{} items", queue.len(), queue.capacity());
        text += &format!(" of up to {} bytes", queue.max_message());
        let (getters, putters) = (opened.getters.load(Relaxed), opened.putters.load(Relaxed));
        text += &format!(", {getters} getters and {putters} putters wait here");
        if self.joinable {
            text += &format!(", {} items out here", opened.out_on_lease());
        }
        if queue.is_closed() {
            text += ", shut down";
        }
        let (name, _) = crate::backend();
        Ok(text + &format!(", {name}>"))
    }

    /// An item, or `PENDING`: there is none, or the loop has to run first.
    fn _take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if turn::is_over(py)? {
            return Ok(pending(py));
        }
        Ok(self.try_take(py, &*self.opened()?)?.unwrap_or_else(|| pending(py)))
    }

    /// The wait for an item.
    fn _begin_get(this: &Bound<'_, Self>) -> PyResult<Wait> {
        let opened = this.get().opened()?;
        let receiver = opened.receiver(this.py())?;
        Ok(Wait::get(&opened, this, receiver))
    }

    /// What is there, up to `max_items`; none if the loop has to run first. Where the caller `has_some`
    /// already, an error is for the next call.
    fn _take_many<'py>(
        &self,
        py: Python<'py>,
        max_items: usize,
        has_some: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let mut batch = Batch::default();
        if has_some || !turn::is_over(py)? {
            self.take_more(py, &*self.opened()?, max_items, &mut batch, has_some)?;
        }
        PyList::new(py, batch.items)
    }

    /// `None` if it was put, or the wait for room, and for the loop to run.
    fn _begin_put(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<Option<Wait>> {
        let opened = self.opened()?;
        let item = self.codec.encode(item)?;
        if !turn::is_over(py)? && Self::try_offer(py, &opened, &item)? {
            return Ok(None);
        }
        let sender = opened.sender(py)?;
        Ok(Some(Wait::put(&opened, sender, item.settle(py))))
    }

    /// The same handle as another object: what its view for tasks works on, which the handle keeps
    /// without a cycle.
    fn _same(&self) -> Self {
        let (opened, codec) = (Arc::clone(&self.opened), Arc::clone(&self.codec));
        Self { opened, codec, joinable: self.joinable }
    }

    /// The wait for all to be done.
    fn _begin_join(&self) -> PyResult<Wait> {
        Ok(Wait::join(&*self.opened()?))
    }
}

/// What says how much memory a queue takes. What is not asked for is core's to choose.
fn shape(
    maxsize: usize,
    max_message: usize,
    joinable: bool,
    handles: Option<usize>,
    leases: Option<usize>,
    lazy_memory: bool,
) -> PyResult<Builder> {
    if maxsize == 0 {
        return Err(PyValueError::new_err(
            "maxsize is 0; this queue is bounded, it must be at least 1",
        ));
    }
    let mut shape = parkline_uring::Queue::builder().capacity(maxsize).max_message(max_message);
    if let Some(handles) = handles.or(joinable.then_some(HANDLES_OF_JOINABLE)) {
        shape = shape.handles(handles);
    }
    if let Some(leases) = leases.or(joinable.then_some(LEASES_OF_JOINABLE)) {
        shape = shape.leases(leases);
    }
    Ok(if lazy_memory { shape.lazy_memory() } else { shape })
}

/// One more that waits, as long as it lives.
pub(crate) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(crate) fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The number of the descriptor of `it`, of which `copy` is a copy: of one that the process has closed
/// none can be made.
///
/// # Errors
/// `OSError` if this process has closed it.
pub(crate) fn descriptor_of(it: &impl AsFd, copy: io::Result<OwnedFd>) -> PyResult<RawFd> {
    copy.map_err(errors::descriptor)?;
    Ok(it.as_fd().as_raw_fd())
}

pub(crate) fn shut_down(py: Python<'_>) -> PyErr {
    errors::shut_down(py, ("the queue is shut down",))
}

/// # Errors
/// `ValueError` for a number that no descriptor has, `OSError` for one that is not open.
#[expect(unsafe_code, reason = "a descriptor comes from Python as a number")]
pub(crate) fn duplicate(fd: RawFd) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(PyValueError::new_err("a file descriptor cannot be negative"));
    }
    // SAFETY: it is used at once, to duplicate it; one that is not open is refused by the kernel.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed
        .try_clone_to_owned()
        .map_err(|cause| errors::refused(&format!("duplicate the file descriptor {fd}"), &cause))
}

//! The queue's blocking calls, and the beginnings of its async ones.

use std::os::fd::RawFd;
use std::sync::Arc;

use parkline_core::driver::{Joining, Side, WaitsFor};
use parkline_uring::driver::{Waits, wait, wait_where};
use parkline_uring::{Builder, Receiver, RecvError, SendError, Sender, Shared, Stats};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyType};

use crate::blocking::{self, deadline};
use crate::codec::Codec;
use crate::handle::{Handle, descriptor_of, duplicate, watchdog_of};
use crate::message::Message;
use crate::opened::{Left, Opened};
use crate::transfer::{Batch, holder, not_sent, refused};
use crate::waiter::{Outcome, nothing};
use crate::waiting::{Wait, backend, pending};
use crate::{errors, turn};

/// How many items of a joinable queue a process can hold that are not done.
const LEASES_OF_JOINABLE: usize = 256;
/// The default of core for handles is smaller where a handle has so many leases.
const HANDLES_OF_JOINABLE: usize = 64;

#[pyclass(subclass, frozen, weakref, module = "parkline._parkline")]
pub(crate) struct Queue {
    /// Shared with its view for tasks.
    handle: Arc<Handle<Opened>>,
    codec: Arc<Codec>,
    joinable: bool,
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
                let watchdog = watchdog_of(watchdog)?;
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
        let codec = Arc::new(codec);
        let handle = Handle::new(Opened::new(queue, Arc::clone(&codec), joinable)?);
        Ok(Self { handle: Arc::new(handle), codec, joinable })
    }

    /// How many bytes of shared memory a queue of this shape takes, or, with `lazy_memory`, takes at
    /// most. Nothing is made.
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
        let opened = self.handle.opened()?;
        let item = self.codec.encode(item)?;
        if opened.try_offer(py, &item)? {
            return Ok(());
        }
        if block && opened.offer_until(py, item, deadline(timeout)?)? {
            return Ok(());
        }
        Err(errors::full(py, ()))
    }

    /// Puts an item, or raises `Full`.
    fn put_nowait(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(py, item, false, None)
    }

    /// Takes the oldest item, waiting while there is none. The item is acknowledged once it is decoded; in
    /// a joinable queue `task_done` acknowledges it. Raises `Empty`; `Undecodable`; `ShutDown` when the
    /// queue was shut down and no item is left that could be delivered again.
    #[pyo3(signature = (block = true, timeout = None))]
    fn get(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let opened = self.handle.opened()?;
        if let Some(item) = opened.try_take(py)? {
            return Ok(item);
        }
        if block && let Some(message) = opened.take_until(py, deadline(timeout)?)? {
            return opened.hand_over(py, message);
        }
        Err(errors::empty(py, ()))
    }

    /// Takes an item, or raises `Empty`.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.get(py, false, None)
    }

    /// Puts items in order, waiting while there is no room. All are encoded before any is put.
    /// Returns how many it put; `Full` says how many were put before the time was over. Without items it
    /// returns 0 at once.
    #[pyo3(signature = (items, timeout = None))]
    fn put_many(
        &self,
        py: Python<'_>,
        items: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let opened = self.handle.opened()?;
        let until = deadline(timeout)?;
        let mut items = opened.encode_all(items)?;
        let all = items.len();
        while opened.try_offer_many(py, &mut items)? {
            let Some(first) = items.pop_front() else { break };
            if !opened.offer_until(py, first, until)? {
                let left = items.len() + 1;
                return Err(errors::full(py, (format!("{} of {all} items were put", all - left),)));
            }
        }
        Ok(all)
    }

    /// Takes the items that are there, in order, up to `max_items` and `maxsize`. Waits only for the
    /// first. `get_many(0)` returns `[]` at once.
    #[pyo3(signature = (max_items, block = true, timeout = None))]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        max_items: usize,
        block: bool,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let opened = self.handle.opened()?;
        let mut batch = Batch::default();
        opened.take_more(py, max_items, &mut batch, false)?;
        if max_items > 0 && batch.items.is_empty() {
            let first = match block {
                true => opened.take_until(py, deadline(timeout)?)?,
                false => None,
            };
            let first = first.ok_or_else(|| errors::empty(py, ()))?;
            opened.add(py, first, &mut batch)?;
            opened.take_more(py, max_items, &mut batch, true)?;
        }
        PyList::new(py, batch.items)
    }

    /// How many items wait. Others put and get meanwhile; never more than `maxsize`.
    fn qsize(&self) -> PyResult<usize> {
        Ok(self.handle.opened()?.queue.len())
    }

    /// Whether no item waits. Others may put one before you act on it.
    fn empty(&self) -> PyResult<bool> {
        Ok(self.handle.opened()?.queue.is_empty())
    }

    /// Whether there is no room. Others may make some before you act on it.
    fn full(&self) -> PyResult<bool> {
        let queue = &self.handle.opened()?.queue;
        Ok(queue.len() >= queue.capacity())
    }

    /// The number of items that the queue has room for: a power of two.
    #[getter]
    fn maxsize(&self) -> PyResult<usize> {
        Ok(self.handle.opened()?.queue.capacity())
    }

    /// The longest encoded item in bytes.
    #[getter]
    fn max_message(&self) -> PyResult<usize> {
        Ok(self.handle.opened()?.queue.max_message())
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
        let opened = self.handle.opened()?;
        Ok(opened.queue.schema().map(|(name, version)| (name.into(), version)))
    }

    /// The queue's number of 128 random bits: the same in every process, and no other queue's.
    #[getter]
    fn id(&self) -> PyResult<u128> {
        Ok(self.handle.opened()?.queue.id())
    }

    /// Whether the queue was shut down. There may still be items in it.
    #[getter]
    fn is_shutdown(&self) -> PyResult<bool> {
        Ok(self.handle.opened()?.queue.is_closed())
    }

    /// Whether this handle is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Acknowledges the oldest item that this task or thread got; if it has none, the oldest that this
    /// handle got. Raises `ValueError` when there is none at all.
    fn task_done(&self, py: Python<'_>) -> PyResult<()> {
        let opened = self.handle.opened()?;
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

    /// How often the last item that this task or thread got was delivered, this time included.
    #[getter]
    fn last_attempts(&self, py: Python<'_>) -> PyResult<u32> {
        let opened = self.handle.opened()?;
        Ok(opened.attempts(&holder(py)?))
    }

    /// Whether the last item that this task or thread got was delivered before, to a process that died
    /// with it or returned it.
    #[getter]
    fn last_redelivered(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.last_attempts(py)? > 1)
    }

    /// Waits until all items that were put before are got; in a joinable queue, until they are done. An
    /// item that a killed process held counts until another process is done with it. Raises `TimeoutError`.
    #[pyo3(signature = (timeout = None))]
    fn join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let opened = self.handle.opened()?;
        let mut joining = opened.queue.joining();
        let side = joining.side();
        match blocking::wait(py, &side, None, deadline(timeout)?, || joining.attempt())? {
            Some(joined) => joined.map_err(|fault| errors::fault(py, fault)),
            None => Err(pyo3::exceptions::PyTimeoutError::new_err(
                "the time is over, and not every item is done",
            )),
        }
    }

    /// Shuts the queue down in all processes: no item can be put any more, its items can still be got, and
    /// a call that waits for more raises `ShutDown`. With `immediate` its items are discarded.
    #[pyo3(signature = (immediate = false))]
    fn shutdown(&self, py: Python<'_>, immediate: bool) -> PyResult<()> {
        let opened = self.handle.opened()?;
        opened.queue.close().map_err(|fault| errors::fault(py, fault))?;
        if !immediate {
            return Ok(());
        }
        let receiver = opened.receiver(py)?;
        let thrown = py.detach(|| opened.throw_away(receiver));
        thrown.map_err(|fault| errors::fault(py, fault))
    }

    /// Closes this handle. Items that it got, and that are not done, are delivered again, through other
    /// handles. Calls that are under way end as if it were open.
    fn close(&self, py: Python<'_>) {
        let opened = self.handle.close();
        // The last one unmaps the queue.
        py.detach(|| drop(opened));
    }

    /// How many calls and tasks of this process wait for an item.
    #[getter]
    fn waiting_getters(&self) -> PyResult<usize> {
        Ok(self.handle.opened()?.getters.count())
    }

    /// How many calls and tasks of this process wait for room.
    #[getter]
    fn waiting_putters(&self) -> PyResult<usize> {
        Ok(self.handle.opened()?.putters.count())
    }

    /// The queue's descriptor, to be passed on: see `from_fd`.
    fn fileno(&self) -> PyResult<RawFd> {
        let opened = self.handle.opened()?;
        descriptor_of(&opened.queue, opened.queue.try_clone_fd())
    }

    /// Puts the items that dead processes held back into the queue, now; returns how many. Waiting tasks
    /// and threads do the same.
    fn recover(&self, py: Python<'_>) -> PyResult<usize> {
        let opened = self.handle.opened()?;
        let found = py.detach(|| opened.queue.recover());
        found.map(|it| it.messages).map_err(|error| errors::attach(py, error))
    }

    /// Counters of this queue, of all processes together.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Stats {
            sent, received, redelivered, dead_lettered, owed, recovered, parks, wakes, ..
        } = self.handle.opened()?.queue.stats();
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
        if self.handle.is_closed() {
            return Ok("<parkline.Queue closed>".into());
        }
        let opened = self.handle.opened()?;
        let queue = &opened.queue;
        let mut text = format!("<parkline.Queue {}/{} items", queue.len(), queue.capacity());
        text += &format!(" of up to {} bytes", queue.max_message());
        let (getters, putters) = (opened.getters.count(), opened.putters.count());
        text += &format!(", {getters} getters and {putters} putters wait here");
        if self.joinable {
            text += &format!(", {} items out here", opened.out_on_lease());
        }
        if queue.is_closed() {
            text += ", shut down";
        }
        let (name, _) = backend();
        Ok(text + &format!(", {name}>"))
    }

    /// An item, or `PENDING`: there is none, or the loop has to run first.
    fn _take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if turn::is_over(py)? {
            return Ok(pending(py));
        }
        Ok(self.handle.opened()?.try_take(py)?.unwrap_or_else(|| pending(py)))
    }

    /// The wait for an item.
    fn _begin_get(&self, py: Python<'_>) -> PyResult<Wait> {
        let opened = self.handle.opened()?;
        let receiver = opened.receiver(py)?.clone();
        let mut getter = Getter { opened: Arc::clone(&opened), receiver };
        let future = async move {
            let attempt = |it: &mut Getter| it.opened.answer(&it.receiver);
            let answer = wait_where(&mut getter, None, attempt).await;
            let answer = answer.unwrap_or(Err(RecvError::Closed));
            let got = Got { opened: getter.opened, answer: Some(answer) };
            Box::new(move |py: Python<'_>| got.hand_over(py)) as Outcome
        };
        Ok(Wait::new(opened.guard, Some(&opened.getters), future))
    }

    /// The items that are there, up to `max_items`; none if the loop has to run first. If the caller
    /// `has_some` already, the next call raises the error.
    fn _take_many<'py>(
        &self,
        py: Python<'py>,
        max_items: usize,
        has_some: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let mut batch = Batch::default();
        if has_some || !turn::is_over(py)? {
            self.handle.opened()?.take_more(py, max_items, &mut batch, has_some)?;
        }
        PyList::new(py, batch.items)
    }

    /// `None` if the item was put; else the wait for room, and for the loop to run.
    fn _begin_put(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<Option<Wait>> {
        let opened = self.handle.opened()?;
        let item = self.codec.encode(item)?;
        if !turn::is_over(py)? && opened.try_offer(py, &item)? {
            return Ok(None);
        }
        let (mut sender, item) = (opened.sender(py)?.clone(), item.settle(py));
        let (guard, putters) = (opened.guard, Arc::clone(&opened.putters));
        let future = async move {
            let attempt = |it: &mut Shared<Sender>| it.lock().answer(|to| item.try_send(to));
            let sent = wait_where(&mut sender, None, attempt).await;
            Box::new(move |py: Python<'_>| {
                drop(opened);
                let sent = sent.unwrap_or(Err(SendError::Closed(())));
                sent.map(|()| py.None()).map_err(|error| not_sent(py, error))
            }) as Outcome
        };
        Ok(Some(Wait::new(guard, Some(&putters), future)))
    }

    /// The same handle as another object. The view for tasks uses it, so that the handle can keep the
    /// view without a cycle.
    fn _same(&self) -> Self {
        let (handle, codec) = (Arc::clone(&self.handle), Arc::clone(&self.codec));
        Self { handle, codec, joinable: self.joinable }
    }

    /// The wait of a join.
    fn _begin_join(&self) -> PyResult<Wait> {
        let opened = self.handle.opened()?;
        let mut joining = opened.queue.joining();
        let future = async move {
            let joined = wait(&mut joining, None, Joining::attempt).await.unwrap_or(Ok(()));
            Box::new(move |py: Python<'_>| nothing(py, joined)) as Outcome
        };
        Ok(Wait::new(opened.guard, None, future))
    }
}

/// The parameters that decide how much memory a queue takes. Core chooses those that are `None`.
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

struct Getter {
    opened: Arc<Opened>,
    receiver: Shared<Receiver>,
}

impl Waits<WaitsFor> for Getter {
    fn side(&self, waits_for: WaitsFor) -> Side {
        self.receiver.side(waits_for)
    }
}

/// The answer to a get, on its way to the task that waited for it.
struct Got {
    opened: Arc<Opened>,
    /// `None` once it is handed over.
    answer: Option<Result<Message, RecvError>>,
}

impl Got {
    fn hand_over(mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.answer.take() {
            Some(Ok(message)) => self.opened.hand_over(py, message),
            Some(Err(error)) => Err(refused(py, error)),
            None => Ok(py.None()),
        }
    }
}

impl Drop for Got {
    fn drop(&mut self) {
        // A dropped lease returns its message. The queue has no copy of a message that was copied out.
        if let Some(Ok(Message::Copied(bytes))) = self.answer.take() {
            self.opened.late.put([Left::Message(bytes)]);
        }
    }
}

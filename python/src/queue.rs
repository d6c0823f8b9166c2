//! The queue's blocking calls, and the beginnings of its async ones.

use std::os::fd::RawFd;
use std::sync::Arc;

use parkline_core::driver::{Joining, Side, WaitsFor};
use parkline_uring::driver::{Waits, wait, wait_where};
use parkline_uring::{
    Builder, Receiver, RecvError, SendError, Sender, Shared, Stats, TryRecvError,
};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PyTuple, PyType};

use crate::args::{Truth, count, count_of};
use crate::blocking::{self, deadline};
use crate::codec::Codec;
use crate::handle::{descriptor_of, duplicate, watchdog_of};
use crate::message::Message;
use crate::opened::{Inner, Kind, Left, Opened, Place, discard};
use crate::snapshot::Items;
use crate::transfer::{As, Batch, holder, not_sent, refused};
use crate::waiter::{Outcome, nothing};
use crate::waiting::{Wait, again, backend, pending};
use crate::{errors, turn};

/// How many items of a joinable queue a process can hold that are not done.
const LEASES_OF_JOINABLE: usize = 256;
const MAX_MESSAGE: usize = 8192;
const MAX_ATTEMPTS: usize = 5;
/// The default of core for handles is smaller where a handle has so many leases.
const HANDLES_OF_JOINABLE: usize = 64;

#[pyclass(subclass, frozen, weakref, module = "parkline._parkline")]
pub(crate) struct Queue(Arc<Inner>);

impl Queue {
    fn opened(&self) -> PyResult<Arc<Opened>> {
        self.0.handle.opened()
    }

    fn kind(&self) -> PyResult<&Kind> {
        let unmade = || PyRuntimeError::new_err("the base class was not initialized");
        self.0.kind.get().ok_or_else(unmade)
    }

    /// What a get on lease needs.
    fn opened_for_leases(&self) -> PyResult<Arc<Opened>> {
        let opened = self.opened()?;
        if opened.queue.leases() == 0 {
            return Err(PyValueError::new_err(
                "lease() needs leases, of which this queue has none: its items are done when they are got",
            ));
        }
        Ok(opened)
    }

    /// The wait for an item, which is handed over on lease or not.
    fn wait_for_item(&self, py: Python<'_>, opened: Arc<Opened>, leases: bool) -> PyResult<Wait> {
        let receiver = opened.receiver(py)?.clone();
        let (guard, getters) = (opened.guard, Arc::clone(&opened.getters));
        let mut getter = Getter { opened, receiver };
        let queue = leases.then(|| Arc::clone(&self.0));
        let future = async move {
            let attempt = |it: &mut Getter| it.opened.answer(&it.receiver);
            let answer = wait_where(&mut getter, None, attempt).await;
            let answer = answer.unwrap_or(Err(RecvError::Closed));
            let got = Got { opened: getter.opened, queue, answer: Some(answer) };
            Box::new(move |py: Python<'_>| got.hand_over(py)) as Outcome
        };
        Ok(Wait::new(guard, Some(&getters), future))
    }
}

#[pymethods]
impl Queue {
    /// `__init__` makes it, so that a subclass can have an `__init__` of its own.
    #[new]
    #[pyo3(
        signature = (*_args, **_keywords),
        text_signature = "(maxsize, *, max_message=8192, codec=None, joinable=False, handles=None, \
            leases=None, lazy_memory=True, max_attempts=5, watchdog=0.1, schema=None, _fd=None)"
    )]
    fn new(_args: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self(Arc::default())
    }

    #[pyo3(signature = (
        maxsize = None,
        *,
        max_message = None,
        codec = None,
        joinable = false,
        handles = None,
        leases = None,
        lazy_memory = true,
        max_attempts = None,
        watchdog = 0.1,
        schema = None,
        _fd = None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn __init__(
        &self,
        py: Python<'_>,
        maxsize: Option<&Bound<'_, PyAny>>,
        max_message: Option<&Bound<'_, PyAny>>,
        codec: Option<&Bound<'_, PyAny>>,
        joinable: bool,
        handles: Option<&Bound<'_, PyAny>>,
        leases: Option<&Bound<'_, PyAny>>,
        lazy_memory: bool,
        max_attempts: Option<&Bound<'_, PyAny>>,
        watchdog: f64,
        schema: Option<(String, u32)>,
        _fd: Option<RawFd>,
    ) -> PyResult<()> {
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
                let max_attempts = count("max_attempts", max_attempts)?.unwrap_or(MAX_ATTEMPTS);
                // More attempts than core counts are as good as no bound.
                let max_attempts = u16::try_from(max_attempts).unwrap_or(u16::MAX - 1);
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
        self.0.handle.begin(Opened::new(queue, Arc::clone(&codec), joinable)?)?;
        // It is set at most once, as the handle is.
        let _ = self.0.kind.set(Kind { codec, joinable });
        Ok(())
    }

    /// It was sent, and did not arrive.
    #[pyo3(signature = (errno, text, codec, joinable, schema = None))]
    fn _lose(
        &self,
        errno: i32,
        text: String,
        codec: &Bound<'_, PyAny>,
        joinable: bool,
        schema: Option<(String, u32)>,
    ) -> PyResult<()> {
        // The schema of a queue that is not open is not known.
        drop(schema);
        let codec = Arc::new(Codec::of(codec)?);
        self.0.handle.lose(errno, text)?;
        let _ = self.0.kind.set(Kind { codec, joinable });
        Ok(())
    }

    /// How many bytes of shared memory a queue of this shape takes, or, with `lazy_memory`, takes at
    /// most. Nothing is made.
    #[staticmethod]
    #[pyo3(
        signature = (
            maxsize,
            *,
            max_message = None,
            joinable = false,
            handles = None,
            leases = None,
            lazy_memory = true,
        ),
        text_signature = "(maxsize, *, max_message=8192, joinable=False, handles=None, leases=None, \
            lazy_memory=True)"
    )]
    fn memory(
        maxsize: &Bound<'_, PyAny>,
        max_message: Option<&Bound<'_, PyAny>>,
        joinable: bool,
        handles: Option<&Bound<'_, PyAny>>,
        leases: Option<&Bound<'_, PyAny>>,
        lazy_memory: bool,
    ) -> PyResult<u64> {
        let shape = shape(Some(maxsize), max_message, joinable, handles, leases, lazy_memory)?;
        shape.memory().map_err(errors::create)
    }

    /// `Queue[T]` is for type checkers.
    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, _item: &Bound<'_, PyAny>) -> Py<PyType> {
        class.clone().unbind()
    }

    /// Puts an item, waiting while the queue is full. When this returns, it is in shared memory,
    /// and survives this process. Raises `Full`, `ShutDown`, `MessageTooLarge`, `ValueError` for a negative
    /// timeout, and what the encoding raises, before anything is put.
    #[pyo3(
        signature = (item, block = Truth(true), timeout = None),
        text_signature = "($self, item, block=True, timeout=None)"
    )]
    fn put(
        &self,
        py: Python<'_>,
        item: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let opened = self.opened()?;
        // Without a wait the timeout counts for nothing, as in the standard library.
        let until = if block.0 { deadline(timeout)? } else { None };
        let item = opened.codec.encode(item)?;
        if opened.try_offer(py, &item)? {
            return Ok(());
        }
        if block.0 && opened.offer_until(py, item, until)? {
            return Ok(());
        }
        Err(errors::full(py, ()))
    }

    /// Puts an item, or raises `Full`.
    fn put_nowait(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(py, item, Truth(false), None)
    }

    /// Takes the oldest item, waiting while there is none. The item is acknowledged once it is decoded; in
    /// a joinable queue `task_done` acknowledges it. Raises `Empty`; `LeasesOut`, which is an `Empty`, if
    /// items wait and this handle has all its leases out; `Undecodable`; `ValueError` for a negative
    /// timeout; `ShutDown` when the queue was shut down and no item is left that could be delivered again.
    #[pyo3(
        signature = (block = Truth(true), timeout = None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn get(&self, py: Python<'_>, block: Truth, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        take(py, &self.opened()?, block, timeout, As::Item)
    }

    /// Takes an item, or raises `Empty`.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        take(py, &self.opened()?, Truth(false), None, As::Item)
    }

    /// Takes the oldest item on lease, waiting while there is none: `with queue.lease() as job:`. `job.item`
    /// is done at the end of the block, or at `job.done()`, and is delivered again in every other case: if
    /// an exception leaves the block, after `job.nack()`, when `job` is dropped, when its process dies or
    /// its handle is closed. Works in every queue that has leases. Raises as `get`, and `ValueError` in a
    /// queue without leases.
    #[pyo3(
        signature = (block = Truth(true), timeout = None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn lease(&self, py: Python<'_>, block: Truth, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        take(py, &self.opened_for_leases()?, block, timeout, As::Lease(&self.0))
    }

    /// Puts items in order, waiting while there is no room. All are encoded before any is put, and if one
    /// cannot be encoded, or is too large, none is put. Returns how many it put. The `count` of an
    /// exception (`Full`, `ShutDown`, `KeyboardInterrupt`) says how many were put before. Without items
    /// it returns 0 at once.
    #[pyo3(signature = (items, timeout = None))]
    fn put_many(
        &self,
        py: Python<'_>,
        items: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let opened = self.opened()?;
        let until = deadline(timeout)?;
        let mut items = opened.encode_all(items)?;
        let all = items.len();
        loop {
            let offered = opened.try_offer_many(py, &mut items);
            let was_put = all - items.len();
            let failed = |error| errors::with_count(py, error, was_put);
            if !offered.map_err(failed)? {
                return Ok(all);
            }
            let Some(first) = items.pop_front() else { return Ok(all) };
            if !opened.offer_until(py, first, until).map_err(failed)? {
                return Err(failed(errors::full(
                    py,
                    (format!("{was_put} of {all} items were put"),),
                )));
            }
        }
    }

    /// Takes the items that are there, in order, up to `max_items` and `maxsize`. Waits only for the
    /// first. `get_many(0)` returns `[]` at once. Raises as `get`.
    #[pyo3(
        signature = (max_items, block = Truth(true), timeout = None),
        text_signature = "($self, max_items, block=True, timeout=None)"
    )]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        max_items: &Bound<'py, PyAny>,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let opened = self.opened()?;
        let max_items = count_of("max_items", max_items)?;
        let until = if block.0 { deadline(timeout)? } else { None };
        let mut batch = Batch::default();
        opened.take_more(py, max_items, &mut batch, false)?;
        while max_items > 0 && batch.items.is_empty() {
            let waited = if block.0 { opened.take_until(py, until)? } else { None };
            let first = waited.map_or_else(|| opened.take_at_last(py), Ok)?;
            opened.add(py, first, &mut batch)?;
            opened.take_more(py, max_items, &mut batch, true)?;
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

    /// The number of items that the queue has room for: a power of two.
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
    fn joinable(&self) -> PyResult<bool> {
        Ok(self.kind()?.joinable)
    }

    /// How items become bytes: "pickle", "raw", or a pair of callables.
    #[getter]
    fn codec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.kind()?.codec.spec(py)
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

    /// Whether the queue was shut down. There may still be items in it.
    #[getter]
    fn is_shutdown(&self) -> PyResult<bool> {
        Ok(self.opened()?.queue.is_closed())
    }

    /// Whether this handle is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.0.handle.is_closed()
    }

    /// Acknowledges the oldest item that this task or thread got; if it has none, the oldest that this
    /// handle got. An item on a lease of its own (`lease()`) is not among them. Raises `ValueError` when
    /// there is none at all. In a queue that is not joinable an item was done when it was got, and this does
    /// nothing.
    fn task_done(&self, py: Python<'_>) -> PyResult<()> {
        let opened = self.opened()?;
        if !opened.joinable || opened.done(&holder(py)?) {
            return Ok(());
        }
        Err(PyValueError::new_err("task_done() called too many times"))
    }

    /// How many items are not done, in all processes: those that wait, and those that are out on lease.
    /// Others put and get meanwhile. It reads a word of each lease of each handle.
    #[getter]
    fn unfinished_tasks(&self) -> PyResult<usize> {
        Ok(self.opened()?.queue.unacknowledged())
    }

    /// Gives each dead letter that this handle takes to `handler`, a callable with one argument: an item
    /// that was delivered `max_attempts` times and never acknowledged. The get that takes it calls the
    /// handler, in its own thread or task, and then goes on with the next item. The letter is done when
    /// the handler returns. If the handler raises, the get raises that, and the letter is delivered again,
    /// to the handler of the handle that takes it; so it is if the process dies in the handler.
    ///
    /// This and the next two say what this handle does; another one, also in another process, says it
    /// anew. A forked child goes on with what its parent said.
    fn on_dead_letter(&self, py: Python<'_>, handler: &Bound<'_, PyAny>) -> PyResult<()> {
        if !handler.is_callable() {
            return Err(PyTypeError::new_err("the handler of dead letters must be callable"));
        }
        self.opened()?.put_dead_letters(py, Place::Handler(handler.clone().unbind()))
    }

    /// Puts each dead letter that this handle takes into another queue, as it is. It arrives there
    /// flagged as redelivered, and its attempts start again. If that queue is full, shut down or has a
    /// smaller `max_message`, this handle gets the item after all. If this process dies in between, the item
    /// is in both queues. Raises `ValueError` if that queue has another codec.
    fn forward_dead_letters(&self, py: Python<'_>, queue: &Bound<'_, Queue>) -> PyResult<()> {
        let (own, other) = (self.codec(py)?, queue.get().codec(py)?);
        if !own.eq(&other)? {
            return Err(PyValueError::new_err(format!(
                "the queue for dead letters has the codec {}, this one has {}",
                other.repr()?,
                own.repr()?,
            )));
        }
        self.opened()?.put_dead_letters(py, Place::Queue(Arc::clone(&queue.get().0)))
    }

    /// Discards dead letters and counts them: `stats()["dead_lettered"]`. So does a handle that was told
    /// nothing.
    fn discard_dead_letters(&self, py: Python<'_>) -> PyResult<()> {
        self.opened()?.put_dead_letters(py, Place::Nowhere)
    }

    /// How often the last item that this task or thread got was delivered, this time included.
    #[getter]
    fn last_attempts(&self, py: Python<'_>) -> PyResult<u32> {
        let opened = self.opened()?;
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

    /// Shuts the queue down in all processes: no item can be put any more, its items can still be got, and
    /// a call that waits for more raises `ShutDown`. With `immediate` its items are discarded.
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

    /// Closes this handle. Items that it got, and that are not done, are delivered again, through other
    /// handles. Calls that are under way end as if it were open.
    fn close(&self, py: Python<'_>) {
        let opened = self.0.handle.close();
        // The last one unmaps the queue.
        py.detach(|| drop(opened));
    }

    /// How many calls and tasks of this process wait for an item.
    #[getter]
    fn waiting_getters(&self) -> PyResult<usize> {
        Ok(self.opened()?.getters.count())
    }

    /// How many calls and tasks of this process wait for room.
    #[getter]
    fn waiting_putters(&self) -> PyResult<usize> {
        Ok(self.opened()?.putters.count())
    }

    /// The number of the queue's descriptor, to be passed on: see `from_fd`. It stays the handle's. To poll
    /// it is of no use, because the kernel says of it that it is always ready.
    fn share_fd(&self) -> PyResult<RawFd> {
        let opened = self.opened()?;
        descriptor_of(&opened.queue, opened.queue.try_clone_fd())
    }

    /// Puts the items that dead processes held back into the queue, now; returns how many. Waiting tasks
    /// and threads do the same.
    fn recover(&self, py: Python<'_>) -> PyResult<usize> {
        let opened = self.opened()?;
        let found = py.detach(|| opened.queue.recover());
        found.map(|it| it.messages).map_err(|error| errors::attach(py, error))
    }

    /// Counters of this queue, of all processes together.
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
        if self.0.handle.is_closed() {
            return Ok("<parkline.Queue closed>".into());
        }
        let opened = self.opened()?;
        let queue = &opened.queue;
        let mut text = format!("<parkline.Queue {}/{} items", queue.len(), queue.capacity());
        text += &format!(" of up to {} bytes", queue.max_message());
        let (getters, putters) = (opened.getters.count(), opened.putters.count());
        text += &format!(", {getters} getters and {putters} putters wait here");
        if opened.joinable {
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
        Ok(self.opened()?.try_take(py, As::Item)?.unwrap_or_else(|| pending(py)))
    }

    /// The same on lease.
    fn _take_lease(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if turn::is_over(py)? {
            return Ok(pending(py));
        }
        let taken = self.opened_for_leases()?.try_take(py, As::Lease(&self.0))?;
        Ok(taken.unwrap_or_else(|| pending(py)))
    }

    /// The wait for an item. Its result is `AGAIN` if that was a dead letter.
    fn _begin_get(&self, py: Python<'_>) -> PyResult<Wait> {
        self.wait_for_item(py, self.opened()?, false)
    }

    /// The same for an item on lease.
    fn _begin_lease(&self, py: Python<'_>) -> PyResult<Wait> {
        self.wait_for_item(py, self.opened_for_leases()?, true)
    }

    /// The items that are there, up to `max_items`; none if the loop has to run first. If the caller
    /// `has_some` already, the next call raises the error.
    fn _take_many<'py>(
        &self,
        py: Python<'py>,
        max_items: &Bound<'py, PyAny>,
        has_some: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let max_items = count_of("max_items", max_items)?;
        let mut batch = Batch::default();
        if has_some || !turn::is_over(py)? {
            self.opened()?.take_more(py, max_items, &mut batch, has_some)?;
        }
        PyList::new(py, batch.items)
    }

    /// `None` if the item was put; else the wait for room, and for the loop to run.
    fn _begin_put(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<Option<Wait>> {
        let opened = self.opened()?;
        let item = opened.codec.encode(item)?;
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

    /// Discards the oldest item; whether there was one.
    fn _discard(&self, py: Python<'_>) -> PyResult<bool> {
        let opened = self.opened()?;
        if opened.late.take().is_some() {
            return Ok(true);
        }
        let discarded = discard(&mut opened.receiver(py)?.lock());
        match discarded {
            Ok(()) => Ok(true),
            Err(TryRecvError::Fault(fault)) => Err(errors::fault(py, fault)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => Ok(false),
        }
    }

    /// An iterator over the items that wait. It takes none.
    fn _items(&self, py: Python<'_>) -> PyResult<Items> {
        let opened = self.opened()?;
        let copies = opened.queue.snapshot().map_err(|fault| errors::fault(py, fault))?;
        Ok(Items::new(copies, &opened.codec))
    }

    /// The same handle as another object. The view for tasks uses it, so that the handle can keep the
    /// view without a cycle.
    fn _same(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// The wait of a join.
    fn _begin_join(&self) -> PyResult<Wait> {
        let opened = self.opened()?;
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
    maxsize: Option<&Bound<'_, PyAny>>,
    max_message: Option<&Bound<'_, PyAny>>,
    joinable: bool,
    handles: Option<&Bound<'_, PyAny>>,
    leases: Option<&Bound<'_, PyAny>>,
    lazy_memory: bool,
) -> PyResult<Builder> {
    const UNBOUNDED: &str = "this queue is bounded: maxsize says how many items it has room for, as in \
                             Queue(1024), and is at least 1; parkline.multiprocessing.Queue() has a default";
    let Some(maxsize) = maxsize else { return Err(PyTypeError::new_err(UNBOUNDED)) };
    if maxsize.is_instance_of::<PyInt>() && maxsize.le(0)? {
        return Err(PyValueError::new_err(format!("maxsize is {maxsize}; {UNBOUNDED}")));
    }
    let maxsize = count_of("maxsize", maxsize)?;
    let max_message = count("max_message", max_message)?.unwrap_or(MAX_MESSAGE);
    let (handles, leases) = (count("handles", handles)?, count("leases", leases)?);
    let mut shape = parkline_uring::Queue::builder().capacity(maxsize).max_message(max_message);
    if let Some(handles) = handles.or(joinable.then_some(HANDLES_OF_JOINABLE)) {
        shape = shape.handles(handles);
    }
    if let Some(leases) = leases.or(joinable.then_some(LEASES_OF_JOINABLE)) {
        shape = shape.leases(leases);
    }
    Ok(if lazy_memory { shape.lazy_memory() } else { shape })
}

/// What `get` and `lease` do.
fn take(
    py: Python<'_>,
    opened: &Arc<Opened>,
    block: Truth,
    timeout: Option<f64>,
    way: As<'_>,
) -> PyResult<Py<PyAny>> {
    // Without a wait the timeout counts for nothing, as in the standard library.
    let until = if block.0 { deadline(timeout)? } else { None };
    if let Some(item) = opened.try_take(py, way)? {
        return Ok(item);
    }
    if block.0 {
        return opened.take_waiting(py, until, way);
    }
    let message = opened.take_at_last(py)?;
    opened.hand_over(py, message, way)?.ok_or_else(|| errors::empty(py, ()))
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
    /// For an item on lease.
    queue: Option<Arc<Inner>>,
    /// `None` once it is handed over.
    answer: Option<Result<Message, RecvError>>,
}

impl Got {
    fn hand_over(mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.answer.take() {
            Some(Ok(message)) => {
                let way = self.queue.as_ref().map_or(As::Item, As::Lease);
                let item = self.opened.hand_over(py, message, way)?;
                Ok(item.unwrap_or_else(|| again(py)))
            }
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

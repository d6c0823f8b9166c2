//! An item that a get took on lease, as an object of its own: it says which item is done. And a dead
//! letter, which is an item that was delivered too often.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parkline_core::driver::ForkGuard;
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use crate::codec::Codec;
use crate::message::Message;
use crate::opened::{Inner, Left, Opened};

/// An item that is out on lease. `done()` acknowledges this item, and no other. In every other case the
/// item is delivered again: after `nack()`, when this object is dropped, and when its process ends.
///
/// It is a context manager: the end of the block is `done()`, and an exception or a cancel that leaves
/// the block is `nack()`. Any thread or task of the process may end it, once.
#[pyclass(frozen, weakref, module = "parkline._parkline")]
pub(crate) struct Lease {
    item: Py<PyAny>,
    /// `None` if the item was done before: see [`Left::Item`].
    id: Option<u64>,
    attempts: u32,
    /// Its number in `opened`. `None` if the item was done before: see [`Left::Item`].
    number: Option<u64>,
    opened: Weak<Opened>,
    guard: ForkGuard,
    has_ended: AtomicBool,
    /// Keeps the handle open, because the lease ends with the handle.
    _queue: Arc<Inner>,
}

impl Lease {
    pub(crate) fn new(
        queue: &Arc<Inner>,
        opened: &Arc<Opened>,
        item: Py<PyAny>,
        lease: Option<parkline_uring::Lease>,
    ) -> Self {
        let attempts = lease.as_ref().map_or(1, |it| it.attempts().into());
        let id = lease.as_ref().map(parkline_uring::Lease::id);
        Self {
            item,
            id,
            attempts,
            number: lease.map(|lease| opened.keep_numbered(lease)),
            opened: Arc::downgrade(opened),
            guard: opened.guard,
            has_ended: AtomicBool::new(false),
            _queue: Arc::clone(queue),
        }
    }

    /// Ends the lease: the lease of core, which `None` stands for if the item was done before.
    fn end(&self) -> PyResult<(Arc<Opened>, Option<parkline_uring::Lease>)> {
        if self.guard.is_forked() {
            return Err(PyRuntimeError::new_err(
                "this lease is the parent process's: only that can end it",
            ));
        }
        if self.has_ended.swap(true, Relaxed) {
            return Err(PyValueError::new_err("this lease has ended: done() or nack() was called"));
        }
        let gone = || {
            PyValueError::new_err(
                "the handle of the queue was closed: the item of this lease is delivered again",
            )
        };
        let opened = self.opened.upgrade().ok_or_else(gone)?;
        let lease = match self.number {
            Some(number) => Some(opened.take_numbered(number).ok_or_else(gone)?),
            None => None,
        };
        Ok((opened, lease))
    }

    fn give_back(&self, py: Python<'_>, delay: Duration) -> PyResult<()> {
        match self.end()? {
            (_, Some(lease)) if delay.is_zero() => lease.nack(),
            (_, Some(lease)) => lease.nack_after(delay),
            (opened, None) => opened.late.put([Left::Item(self.item.clone_ref(py))]),
        }
        Ok(())
    }
}

#[pymethods]
impl Lease {
    /// `Lease[T]` is for type checkers.
    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, _item: &Bound<'_, PyAny>) -> Py<PyType> {
        class.clone().unbind()
    }

    /// The item.
    #[getter]
    fn item(&self, py: Python<'_>) -> Py<PyAny> {
        self.item.clone_ref(py)
    }

    /// The id of the item, the same at every delivery, which no other item of the queue has. Where ids
    /// leave the queue, `Queue.id` belongs beside them: a queue that is made anew repeats ids. `None` for
    /// an item that an interrupted batch of this handle had got: it was done before.
    #[getter]
    fn id(&self) -> Option<u64> {
        self.id
    }

    /// How often the item was delivered, this time included.
    #[getter]
    fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether the item was delivered before, to a process that died with it or returned it.
    #[getter]
    fn redelivered(&self) -> bool {
        self.attempts > 1
    }

    /// Acknowledges the item: it is not delivered again. If the process dies in this call, the item is done
    /// or is delivered again. Raises `ValueError` if the lease has ended, or if its handle was closed, and
    /// `RuntimeError` in a forked child.
    fn done(&self) -> PyResult<()> {
        if let (_, Some(lease)) = self.end()? {
            lease.ack();
        }
        Ok(())
    }

    /// Returns the item to the end of the queue, to be delivered again, to any getter, with one attempt
    /// more. With `delay` seconds not before that time is over: until then the item occupies a lease of
    /// this handle, and it goes back at once if the process ends or the handle is closed. Raises as
    /// `done`, and `ValueError` for a negative delay.
    #[pyo3(signature = (delay = 0.0))]
    fn nack(&self, py: Python<'_>, delay: f64) -> PyResult<()> {
        if delay.is_nan() || delay < 0.0 {
            return Err(PyValueError::new_err("'delay' must be a non-negative number"));
        }
        self.give_back(py, Duration::try_from_secs_f64(delay).unwrap_or(Duration::MAX))
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    /// Ends the lease, if the block has not: as done, or by an exception as not done. A forked child that
    /// leaves the block ends nothing.
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if self.has_ended.load(Relaxed) || self.guard.is_forked() {
            return Ok(());
        }
        if kind.is_none() {
            return self.done();
        }
        // If the handle was closed, the item went back then. The exception goes on, not that error.
        let _ = self.give_back(py, Duration::ZERO);
        Ok(())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let state = if self.has_ended.load(Relaxed) { ", ended" } else { "" };
        let item = self.item.bind(py).repr()?;
        Ok(format!("<parkline.Lease of {item}, attempt {}{state}>", self.attempts))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.item)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What the parent holds is not this child's.
        if !*self.has_ended.get_mut() && !self.guard.is_forked() {
            let opened = self.opened.upgrade();
            let lease = opened.zip(self.number).map(|(it, number)| it.take_numbered(number));
            // A dropped lease returns its message.
            drop(lease);
        }
    }
}

/// An item that was delivered `max_attempts` times and never acknowledged: what `on_dead_letter` gives to
/// its handler.
#[pyclass(frozen, module = "parkline._parkline")]
pub(crate) struct DeadLetter {
    encoded: Py<PyBytes>,
    id: u64,
    attempts: u32,
    codec: Arc<Codec>,
}

impl DeadLetter {
    pub(crate) fn new(encoded: Py<PyBytes>, id: u64, attempts: u32, codec: &Arc<Codec>) -> Self {
        Self { encoded, id, attempts, codec: Arc::clone(codec) }
    }
}

#[pymethods]
impl DeadLetter {
    /// The item as it was in the queue, as a get of a queue with `codec="raw"` returns it.
    #[getter]
    fn encoded(&self, py: Python<'_>) -> Py<PyBytes> {
        self.encoded.clone_ref(py)
    }

    /// The id of the item: see `Lease.id`. In a second queue it has another.
    #[getter]
    fn id(&self) -> u64 {
        self.id
    }

    /// How often the item was delivered, this time included.
    #[getter]
    fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Decodes the item. An item that is here because its decoding fails, or kills its process, does so
    /// again: `encoded` is safe. Raises what the decoding raises.
    fn decode(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let copy = Message::Copied(self.encoded.as_bytes(py).to_vec());
        let copied = self.codec.copy(py, &copy)?;
        Ok(self.codec.decode(copied)?.unbind())
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let len = self.encoded.as_bytes(py).len();
        format!("<parkline.DeadLetter of {len} bytes, attempt {}>", self.attempts)
    }
}

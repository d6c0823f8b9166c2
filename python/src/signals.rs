//! Events and semaphores: what processes tell each other beside the items of a queue.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use parkline_core::driver::ForkGuard;
use parkline_uring::Permit;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::blocking::{self, Eyes, deadline};
use crate::errors;
use crate::queue::{Counted, descriptor_of, duplicate};
use crate::turn;
use crate::waiting::Wait;

/// An event or a semaphore as this process has it.
pub(crate) struct Signal<T> {
    pub(crate) it: T,
    guard: ForkGuard,
    /// Calls and tasks of this process that wait, for people.
    pub(crate) waiting: AtomicUsize,
    eyes: Eyes,
}

/// A handle of one: `None` once it is closed.
struct Handle<T>(Mutex<Option<Arc<Signal<T>>>>);

impl<T> Signal<T> {
    fn new(it: T) -> PyResult<Self> {
        let (waiting, eyes) = (AtomicUsize::new(0), Eyes::default());
        Ok(Self { it, guard: errors::guard()?, waiting, eyes })
    }

    pub(crate) fn guard(&self) -> ForkGuard {
        self.guard
    }
}

impl<T> Handle<T> {
    fn new(it: T) -> PyResult<Self> {
        Ok(Self(Mutex::new(Some(Arc::new(Signal::new(it)?)))))
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Signal<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is in this process: a forked child opens it anew.
    fn opened(&self, open_anew: impl FnOnce(&T) -> PyResult<T>) -> PyResult<Arc<Signal<T>>> {
        let opened = self.slot().as_ref().map(Arc::clone).ok_or_else(closed)?;
        if !opened.guard.is_forked() {
            return Ok(opened);
        }
        // Without the lock, for which others wait with the GIL in their hands.
        let own = Arc::new(Signal::new(open_anew(&opened.it)?)?);
        let mut slot = self.slot();
        let opened = slot.as_mut().ok_or_else(closed)?;
        if opened.guard.is_forked() {
            *opened = own;
        }
        Ok(Arc::clone(opened))
    }

    fn close(&self) -> Option<Arc<Signal<T>>> {
        self.slot().take()
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("this handle is closed")
}

fn watchdog_of(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| PyValueError::new_err(format!("watchdog: {error}")))
}

#[pyclass(subclass, frozen, weakref, module = "parkline._parkline")]
pub(crate) struct Event(Handle<parkline_uring::Event>);

impl Event {
    fn opened(&self) -> PyResult<Arc<Signal<parkline_uring::Event>>> {
        self.0.opened(|inherited| {
            let fd = inherited.try_clone_fd().map_err(errors::descriptor)?;
            let open = || parkline_uring::Event::open(fd);
            Python::attach(|py| py.detach(open)).map_err(errors::open)
        })
    }
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*, watchdog = 0.1, _fd = None))]
    fn new(py: Python<'_>, watchdog: f64, _fd: Option<RawFd>) -> PyResult<Self> {
        let event = match _fd {
            Some(fd) => {
                let fd = duplicate(fd)?;
                py.detach(|| parkline_uring::Event::open(fd)).map_err(errors::open)?
            }
            None => {
                let builder = parkline_uring::Queue::builder().watchdog(watchdog_of(watchdog)?);
                py.detach(|| builder.create_event()).map_err(errors::create)?
            }
        };
        Handle::new(event).map(Self)
    }

    /// Sets it, and wakes everybody who waits, in all processes.
    fn set(&self, py: Python<'_>) -> PyResult<()> {
        self.opened()?.it.set().map_err(|fault| errors::fault(py, fault))
    }

    /// Clears it. Who waited before it was set does not wait on.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.opened()?.it.clear().map_err(|fault| errors::fault(py, fault))
    }

    /// Whether it is set. Others may set or clear it before you act on it.
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.opened()?.it.is_set())
    }

    /// Waits until it is set; `False` when it was not by the end of `timeout` seconds.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let opened = self.opened()?;
        let expecting = opened.it.expecting();
        let side = expecting.side();
        let _counted = Counted::new(&opened.waiting);
        let attempt = || expecting.attempt();
        match blocking::wait(py, &side, Some(&opened.eyes), deadline(timeout)?, attempt)? {
            Some(set) => set.map(|()| true).map_err(|fault| errors::fault(py, fault)),
            None => Ok(false),
        }
    }

    /// How many calls and tasks of this process wait.
    #[getter]
    fn waiting(&self) -> PyResult<usize> {
        Ok(self.opened()?.waiting.load(Relaxed))
    }

    /// Lets go of this handle. Waits that are under way end as if it were open.
    fn close(&self) {
        drop(self.0.close());
    }

    /// Whether this handle is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.0.slot().is_none()
    }

    /// The event's number of 128 random bits: the same in every process, and no other's.
    #[getter]
    fn id(&self) -> PyResult<u128> {
        Ok(self.opened()?.it.id())
    }

    /// The event's descriptor, to be passed on: see `from_fd`.
    fn fileno(&self) -> PyResult<RawFd> {
        let opened = self.opened()?;
        descriptor_of(&opened.it, opened.it.try_clone_fd())
    }

    fn __repr__(&self) -> PyResult<String> {
        if self.closed() {
            return Ok("<parkline.Event closed>".into());
        }
        let opened = self.opened()?;
        let state = if opened.it.is_set() { "set" } else { "not set" };
        Ok(format!("<parkline.Event {state}, {} wait here>", opened.waiting.load(Relaxed)))
    }

    /// The wait for it to be set.
    fn _begin_wait(&self) -> PyResult<Wait> {
        Ok(Wait::event(self.opened()?))
    }
}

/// A semaphore, and what was acquired through this handle.
pub(crate) struct Held {
    pub(crate) semaphore: parkline_uring::Semaphore,
    /// `None` once the handle is closed.
    permits: Mutex<Option<Vec<Permit>>>,
}

impl Held {
    fn new(semaphore: parkline_uring::Semaphore) -> Self {
        Self { semaphore, permits: Mutex::new(Some(Vec::new())) }
    }

    fn permits(&self) -> MutexGuard<'_, Option<Vec<Permit>>> {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was acquired.
    ///
    /// # Errors
    /// `ValueError` if the handle was closed meanwhile: the permit goes back.
    pub(crate) fn keep(&self, permit: Permit) -> PyResult<()> {
        self.permits().as_mut().ok_or_else(closed)?.push(permit);
        Ok(())
    }
}

#[pyclass(subclass, frozen, weakref, module = "parkline._parkline")]
pub(crate) struct Semaphore(Handle<Held>);

impl Semaphore {
    fn opened(&self) -> PyResult<Arc<Signal<Held>>> {
        self.0.opened(|inherited| {
            let fd = inherited.semaphore.try_clone_fd().map_err(errors::descriptor)?;
            let open = || parkline_uring::Semaphore::open(fd);
            let semaphore = Python::attach(|py| py.detach(open));
            Ok(Held::new(semaphore.map_err(errors::open)?))
        })
    }

    /// Acquires a permit if one is free; whether one was.
    fn try_acquire(py: Python<'_>, opened: &Signal<Held>) -> PyResult<bool> {
        let taken = opened.it.semaphore.try_acquire().map_err(|fault| errors::fault(py, fault))?;
        let is_there = taken.is_some();
        taken.map_or(Ok(()), |permit| opened.it.keep(permit))?;
        Ok(is_there)
    }
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (value = 1, *, handles = 64, watchdog = 0.1, _fd = None))]
    fn new(
        py: Python<'_>,
        value: usize,
        handles: usize,
        watchdog: f64,
        _fd: Option<RawFd>,
    ) -> PyResult<Self> {
        let semaphore = match _fd {
            Some(fd) => {
                let fd = duplicate(fd)?;
                py.detach(|| parkline_uring::Semaphore::open(fd)).map_err(errors::open)?
            }
            None => {
                if value == 0 {
                    return Err(PyValueError::new_err(
                        "value is 0; a semaphore has at least 1 permit, use an Event for a signal",
                    ));
                }
                let builder = parkline_uring::Queue::builder().handles(handles).lazy_memory();
                let builder = builder.watchdog(watchdog_of(watchdog)?);
                py.detach(|| builder.create_semaphore(value)).map_err(errors::create)?
            }
        };
        Handle::new(Held::new(semaphore)).map(Self)
    }

    /// Acquires a permit, waiting while none is free; `False` when none was by the end of `timeout`
    /// seconds, or with `blocking=False` now.
    #[pyo3(signature = (blocking = true, timeout = None))]
    fn acquire(&self, py: Python<'_>, blocking: bool, timeout: Option<f64>) -> PyResult<bool> {
        if !blocking && timeout.is_some() {
            return Err(PyValueError::new_err("can't specify timeout for non-blocking acquire"));
        }
        let opened = self.opened()?;
        if Self::try_acquire(py, &opened)? {
            return Ok(true);
        }
        if !blocking {
            return Ok(false);
        }
        let side = opened.it.semaphore.side();
        let _counted = Counted::new(&opened.waiting);
        let attempt = || opened.it.semaphore.attempt();
        match blocking::wait(py, &side, Some(&opened.eyes), deadline(timeout)?, attempt)? {
            Some(Ok(permit)) => {
                opened.it.keep(permit)?;
                Ok(true)
            }
            Some(Err(fault)) => Err(errors::fault(py, fault)),
            None => Ok(false),
        }
    }

    /// Releases `n` permits that were acquired through this handle, by whatever task or thread.
    /// `ValueError`, and nothing is released, when there are not so many.
    #[pyo3(signature = (n = 1))]
    fn release(&self, n: usize) -> PyResult<()> {
        let opened = self.opened()?;
        let released = {
            let mut permits = opened.it.permits();
            let permits = permits.as_mut().ok_or_else(closed)?;
            match permits.len().checked_sub(n) {
                Some(left) if n > 0 => permits.split_off(left),
                Some(_) => return Err(PyValueError::new_err("n must be one or more")),
                None => {
                    return Err(PyValueError::new_err(
                        "Semaphore released too many times: more than this handle acquired",
                    ));
                }
            }
        };
        drop(released);
        Ok(())
    }

    /// How many permits are free. Others acquire and release meanwhile.
    #[getter]
    fn value(&self) -> PyResult<usize> {
        Ok(self.opened()?.it.semaphore.available_permits())
    }

    /// How many permits there are in all.
    #[getter]
    fn permits(&self) -> PyResult<usize> {
        Ok(self.opened()?.it.semaphore.permits())
    }

    /// Whether no permit is free. Others may release one before you act on it.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.value()? == 0)
    }

    /// How many calls and tasks of this process wait.
    #[getter]
    fn waiting(&self) -> PyResult<usize> {
        Ok(self.opened()?.waiting.load(Relaxed))
    }

    /// Has the permits of dead processes come back, now; returns how many. It happens by itself
    /// wherever somebody waits.
    fn recover(&self, py: Python<'_>) -> PyResult<usize> {
        let opened = self.opened()?;
        py.detach(|| opened.it.semaphore.recover()).map_err(|error| errors::attach(py, error))
    }

    /// Releases what was acquired through this handle, and lets go of it. Whoever waits through it
    /// waits on, and is told then, in place of a permit, that it is closed.
    fn close(&self) {
        let opened = self.0.close();
        let permits = opened.and_then(|opened| opened.it.permits().take());
        drop(permits);
    }

    /// Whether this handle is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.0.slot().is_none()
    }

    /// The semaphore's number of 128 random bits: the same in every process, and no other's.
    #[getter]
    fn id(&self) -> PyResult<u128> {
        Ok(self.opened()?.it.semaphore.id())
    }

    /// The semaphore's descriptor, to be passed on: see `from_fd`.
    fn fileno(&self) -> PyResult<RawFd> {
        let opened = self.opened()?;
        descriptor_of(&opened.it.semaphore, opened.it.semaphore.try_clone_fd())
    }

    fn __repr__(&self) -> PyResult<String> {
        if self.closed() {
            return Ok("<parkline.Semaphore closed>".into());
        }
        let opened = self.opened()?;
        let semaphore = &opened.it.semaphore;
        let (free, all) = (semaphore.available_permits(), semaphore.permits());
        let (out, wait) =
            (opened.it.permits().as_ref().map_or(0, Vec::len), opened.waiting.load(Relaxed));
        Ok(format!("<parkline.Semaphore {free}/{all} free, {out} held here, {wait} wait here>"))
    }

    /// `None` if a permit was acquired, or the wait for one, and for the loop to run.
    fn _begin_acquire(&self, py: Python<'_>) -> PyResult<Option<Wait>> {
        let opened = self.opened()?;
        if !turn::is_over(py)? && Self::try_acquire(py, &opened)? {
            return Ok(None);
        }
        Ok(Some(Wait::acquire(opened)))
    }
}

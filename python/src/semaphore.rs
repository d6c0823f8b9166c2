//! Semaphores: permits that the tasks and threads of several processes share.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use parkline_core::driver::ForkGuard;
use parkline_uring::driver::wait;
use parkline_uring::{Fault, Permit};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::args::{Truth, count};
use crate::blocking::{self, Waiters, deadline};
use crate::handle::{Handle, Open, closed, descriptor_of, duplicate, watchdog_of};
use crate::waiter::Outcome;
use crate::waiting::Wait;
use crate::{errors, turn};

#[pyclass(subclass, frozen, weakref, module = "parkline._parkline")]
pub(crate) struct Semaphore(Handle<Opened>);

/// A semaphore as this process has it open, and the permits that were acquired through this handle.
struct Opened {
    semaphore: parkline_uring::Semaphore,
    /// `None` once the handle is closed.
    permits: Mutex<Option<Vec<Permit>>>,
    guard: ForkGuard,
    waiters: Arc<Waiters>,
}

impl Open for Opened {
    fn guard(&self) -> ForkGuard {
        self.guard
    }

    fn open_again(&self, py: Python<'_>) -> PyResult<Self> {
        let fd = self.semaphore.try_clone_fd().map_err(errors::descriptor)?;
        Self::new(py.detach(|| parkline_uring::Semaphore::open(fd)).map_err(errors::open)?)
    }
}

impl Opened {
    fn new(semaphore: parkline_uring::Semaphore) -> PyResult<Self> {
        let (permits, waiters) = (Mutex::new(Some(Vec::new())), Arc::default());
        Ok(Self { semaphore, permits, guard: errors::guard()?, waiters })
    }

    fn permits(&self) -> MutexGuard<'_, Option<Vec<Permit>>> {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an acquired permit.
    ///
    /// # Errors
    /// `ValueError` if the handle was closed meanwhile: the permit is released.
    fn keep(&self, permit: Permit) -> PyResult<()> {
        self.permits().as_mut().ok_or_else(closed::<Self>)?.push(permit);
        Ok(())
    }

    /// Acquires a permit if one is free; `false` if none is.
    fn try_acquire(&self, py: Python<'_>) -> PyResult<bool> {
        let taken = self.semaphore.try_acquire().map_err(|fault| errors::fault(py, fault))?;
        let is_there = taken.is_some();
        taken.map_or(Ok(()), |permit| self.keep(permit))?;
        Ok(is_there)
    }
}

#[pymethods]
impl Semaphore {
    /// `__init__` makes it, so that a subclass can have an `__init__` of its own.
    #[new]
    #[pyo3(
        signature = (*_args, **_keywords),
        text_signature = "(value=1, *, handles=64, watchdog=0.1, _fd=None)"
    )]
    fn new(_args: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self(Handle::default())
    }

    #[pyo3(signature = (value = None, *, handles = None, watchdog = 0.1, _fd = None))]
    fn __init__(
        &self,
        py: Python<'_>,
        value: Option<&Bound<'_, PyAny>>,
        handles: Option<&Bound<'_, PyAny>>,
        watchdog: f64,
        _fd: Option<RawFd>,
    ) -> PyResult<()> {
        let value = count("value", value)?.unwrap_or(1);
        let handles = count("handles", handles)?.unwrap_or(64);
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
        self.0.begin(Opened::new(semaphore)?)
    }

    /// It was sent, and did not arrive.
    fn _lose(&self, errno: i32, text: String) -> PyResult<()> {
        self.0.lose(errno, text)
    }

    /// Acquires a permit, waiting while none is free; `False` when none was by the end of `timeout`
    /// seconds, or with `blocking=False` now. `ValueError` for a negative timeout, and for a timeout with
    /// `blocking=False`.
    #[pyo3(
        signature = (blocking = Truth(true), timeout = None),
        text_signature = "($self, blocking=True, timeout=None)"
    )]
    fn acquire(&self, py: Python<'_>, blocking: Truth, timeout: Option<f64>) -> PyResult<bool> {
        let Truth(blocking) = blocking;
        if !blocking && timeout.is_some() {
            return Err(PyValueError::new_err("can't specify timeout for non-blocking acquire"));
        }
        let until = deadline(timeout)?;
        let opened = self.0.opened()?;
        if opened.try_acquire(py)? {
            return Ok(true);
        }
        if !blocking {
            return Ok(false);
        }
        let side = opened.semaphore.side();
        let attempt = || opened.semaphore.attempt();
        match blocking::wait(py, &side, Some(&opened.waiters), until, attempt)? {
            Some(Ok(permit)) => {
                opened.keep(permit)?;
                Ok(true)
            }
            Some(Err(fault)) => Err(errors::fault(py, fault)),
            None => Ok(false),
        }
    }

    /// Releases `n` permits that were acquired through this handle, by any task or thread.
    /// `ValueError`, and nothing is released, when there are not so many.
    #[pyo3(signature = (n = None), text_signature = "($self, n=1)")]
    fn release(&self, n: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let n = count("n", n)?.unwrap_or(1);
        let opened = self.0.opened()?;
        let released = {
            let mut permits = opened.permits();
            let permits = permits.as_mut().ok_or_else(closed::<Opened>)?;
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
        Ok(self.0.opened()?.semaphore.available_permits())
    }

    /// How many permits there are in all.
    #[getter]
    fn permits(&self) -> PyResult<usize> {
        Ok(self.0.opened()?.semaphore.permits())
    }

    /// Whether no permit is free. Others may release one before you act on it.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.value()? == 0)
    }

    /// How many calls and tasks of this process wait.
    #[getter]
    fn waiting(&self) -> PyResult<usize> {
        Ok(self.0.opened()?.waiters.count())
    }

    /// Takes the permits of dead processes back, now; returns how many. Waiting tasks and threads do the
    /// same.
    fn recover(&self, py: Python<'_>) -> PyResult<usize> {
        let opened = self.0.opened()?;
        py.detach(|| opened.semaphore.recover()).map_err(|error| errors::attach(py, error))
    }

    /// Releases the permits that were acquired through this handle, and closes it. Waits that are under
    /// way go on, and raise `ValueError` when a permit is free.
    fn close(&self) {
        let opened = self.0.close();
        let permits = opened.and_then(|opened| opened.permits().take());
        drop(permits);
    }

    /// Whether this handle is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.0.is_closed()
    }

    /// The semaphore's number of 128 random bits: the same in every process, and no other's.
    #[getter]
    fn id(&self) -> PyResult<u128> {
        Ok(self.0.opened()?.semaphore.id())
    }

    /// The number of the semaphore's descriptor, to be passed on: see `from_fd`. It stays the handle's. To
    /// poll it is of no use, because the kernel says of it that it is always ready.
    fn share_fd(&self) -> PyResult<RawFd> {
        let opened = self.0.opened()?;
        descriptor_of(&opened.semaphore, opened.semaphore.try_clone_fd())
    }

    fn __repr__(&self) -> PyResult<String> {
        if self.closed() {
            return Ok("<parkline.Semaphore closed>".into());
        }
        let opened = self.0.opened()?;
        let semaphore = &opened.semaphore;
        let (free, all) = (semaphore.available_permits(), semaphore.permits());
        let (out, wait) = (opened.permits().as_ref().map_or(0, Vec::len), opened.waiters.count());
        Ok(format!("<parkline.Semaphore {free}/{all} free, {out} held here, {wait} wait here>"))
    }

    /// `None` if a permit was acquired; else the wait for one, and for the loop to run.
    fn _begin_acquire(&self, py: Python<'_>) -> PyResult<Option<Wait>> {
        let opened = self.0.opened()?;
        if !turn::is_over(py)? && opened.try_acquire(py)? {
            return Ok(None);
        }
        let (guard, waiters) = (opened.guard, Arc::clone(&opened.waiters));
        let future = async move {
            let mut semaphore = &opened.semaphore;
            let acquired = wait(&mut semaphore, None, |it| it.attempt()).await;
            let acquired = acquired.unwrap_or(Err(Fault::Forked));
            Box::new(move |py: Python<'_>| match acquired {
                Ok(permit) => opened.keep(permit).map(|()| py.None()),
                Err(fault) => Err(errors::fault(py, fault)),
            }) as Outcome
        };
        Ok(Some(Wait::new(guard, Some(&waiters), future)))
    }
}

//! Events: a flag that the tasks and threads of several processes wait for.

use std::os::fd::RawFd;
use std::sync::Arc;

use parkline_core::driver::ForkGuard;
use parkline_uring::driver::wait;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::blocking::{self, Waiters, deadline};
use crate::errors;
use crate::handle::{Handle, Open, descriptor_of, duplicate, watchdog_of};
use crate::waiter::{Outcome, nothing};
use crate::waiting::Wait;

#[pyclass(subclass, frozen, weakref, module = "parkline._parkline")]
pub(crate) struct Event(Handle<Opened>);

/// An event as this process has it open.
struct Opened {
    event: parkline_uring::Event,
    guard: ForkGuard,
    waiters: Arc<Waiters>,
}

impl Opened {
    fn new(event: parkline_uring::Event) -> PyResult<Self> {
        Ok(Self { event, guard: errors::guard()?, waiters: Arc::default() })
    }
}

impl Open for Opened {
    fn guard(&self) -> ForkGuard {
        self.guard
    }

    fn open_again(&self, py: Python<'_>) -> PyResult<Self> {
        let fd = self.event.try_clone_fd().map_err(errors::descriptor)?;
        Self::new(py.detach(|| parkline_uring::Event::open(fd)).map_err(errors::open)?)
    }
}

#[pymethods]
impl Event {
    /// `__init__` makes it, so that a subclass can have an `__init__` of its own.
    #[new]
    #[pyo3(signature = (*_args, **_keywords), text_signature = "(*, watchdog=0.1, _fd=None)")]
    fn new(_args: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self(Handle::default())
    }

    #[pyo3(signature = (*, watchdog = 0.1, _fd = None))]
    fn __init__(&self, py: Python<'_>, watchdog: f64, _fd: Option<RawFd>) -> PyResult<()> {
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
        self.0.begin(Opened::new(event)?)
    }

    /// It was sent, and did not arrive.
    fn _lose(&self, errno: i32, text: String) -> PyResult<()> {
        self.0.lose(errno, text)
    }

    /// Sets it, and wakes all tasks and threads that wait, in all processes.
    fn set(&self, py: Python<'_>) -> PyResult<()> {
        self.0.opened()?.event.set().map_err(|fault| errors::fault(py, fault))
    }

    /// Clears it. A wait that began before it was set still ends.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.0.opened()?.event.clear().map_err(|fault| errors::fault(py, fault))
    }

    /// Whether it is set. Others may set or clear it before you act on it.
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.0.opened()?.event.is_set())
    }

    /// Waits until it is set; `False` when it was not by the end of `timeout` seconds. `ValueError` for a
    /// negative timeout.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let opened = self.0.opened()?;
        let expecting = opened.event.expecting();
        let side = expecting.side();
        let attempt = || expecting.attempt();
        match blocking::wait(py, &side, Some(&opened.waiters), deadline(timeout)?, attempt)? {
            Some(set) => set.map(|()| true).map_err(|fault| errors::fault(py, fault)),
            None => Ok(false),
        }
    }

    /// How many calls and tasks of this process wait.
    #[getter]
    fn waiting(&self) -> PyResult<usize> {
        Ok(self.0.opened()?.waiters.count())
    }

    /// Closes this handle. Waits that are under way end as if it were open.
    fn close(&self) {
        drop(self.0.close());
    }

    /// Whether this handle is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.0.is_closed()
    }

    /// The event's number of 128 random bits: the same in every process, and no other's.
    #[getter]
    fn id(&self) -> PyResult<u128> {
        Ok(self.0.opened()?.event.id())
    }

    /// The number of the event's descriptor, to be passed on: see `from_fd`. It stays the handle's. To poll
    /// it is of no use, because the kernel says of it that it is always ready.
    fn share_fd(&self) -> PyResult<RawFd> {
        let opened = self.0.opened()?;
        descriptor_of(&opened.event, opened.event.try_clone_fd())
    }

    fn __repr__(&self) -> PyResult<String> {
        if self.closed() {
            return Ok("<parkline.Event closed>".into());
        }
        let opened = self.0.opened()?;
        let state = if opened.event.is_set() { "set" } else { "not set" };
        Ok(format!("<parkline.Event {state}, {} wait here>", opened.waiters.count()))
    }

    /// The wait for it to be set.
    fn _begin_wait(&self) -> PyResult<Wait> {
        let opened = self.0.opened()?;
        let mut expecting = opened.event.expecting();
        let (guard, waiters) = (opened.guard, Arc::clone(&opened.waiters));
        let future = async move {
            let ended = wait(&mut expecting, None, |it| it.attempt()).await.unwrap_or(Ok(()));
            Box::new(move |py: Python<'_>| {
                drop(opened);
                nothing(py, ended)
            }) as Outcome
        };
        Ok(Wait::new(guard, Some(&waiters), future))
    }
}

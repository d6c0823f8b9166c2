//! A handle of a queue, an event or a semaphore, and its descriptor.
//!
//! A handle is open or closed, or it was sent and did not arrive. A forked child inherits the handles of its parent, but not their records
//! in shared memory, so the first call of the child opens each one again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use parkline_core::driver::ForkGuard;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::errors;

/// What a handle opens: an object in shared memory, and what this process keeps about it.
pub(crate) trait Open: Sized {
    /// What a call through a closed handle raises.
    const CLOSED: &str = "this handle is closed";

    /// Remembers the process that opened this.
    fn guard(&self) -> ForkGuard;

    /// Opens the same object for this forked child.
    fn open_again(&self, py: Python<'_>) -> PyResult<Self>;
}

/// What a handle of Python stands for.
enum State<T> {
    /// `__new__` has run, `__init__` has not.
    Unmade,
    Open(Arc<T>),
    /// It came in a pickle from a process that had closed it: the `errno`, and what happened.
    Lost(i32, String),
    Closed,
}

pub(crate) struct Handle<T>(Mutex<State<T>>);

impl<T> Default for Handle<T> {
    fn default() -> Self {
        Self(Mutex::new(State::Unmade))
    }
}

impl<T: Open> Handle<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `__init__` opened.
    ///
    /// # Errors
    /// `RuntimeError` if `__init__` was called before.
    pub(crate) fn begin(&self, it: T) -> PyResult<()> {
        self.leave_unmade(State::Open(Arc::new(it)))
    }

    /// The handle did not arrive: each call raises an `OSError`.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(crate) fn lose(&self, errno: i32, text: String) -> PyResult<()> {
        self.leave_unmade(State::Lost(errno, text))
    }

    fn leave_unmade(&self, next: State<T>) -> PyResult<()> {
        let mut state = self.state();
        if !matches!(*state, State::Unmade) {
            return Err(PyRuntimeError::new_err("__init__() was called twice"));
        }
        *state = next;
        Ok(())
    }

    /// What this process has open. In a forked child the first call opens it.
    ///
    /// # Errors
    /// `ValueError` if the handle is closed; `OSError` if it did not arrive; `RuntimeError` if it was never
    /// made; what opening it again raises.
    pub(crate) fn opened(&self) -> PyResult<Arc<T>> {
        let opened = self.state().open()?.clone();
        if opened.guard().is_forked() { self.open_again(&opened) } else { Ok(opened) }
    }

    #[cold]
    fn open_again(&self, inherited: &T) -> PyResult<Arc<T>> {
        // The lock is free meanwhile, because other threads wait for it with the GIL held.
        let own = Python::attach(|py| inherited.open_again(py))?;
        let mut state = self.state();
        let opened = state.open()?;
        if opened.guard().is_forked() {
            *opened = Arc::new(own);
        }
        Ok(Arc::clone(opened))
    }

    /// Closes the handle, and returns what it had open.
    pub(crate) fn close(&self) -> Option<Arc<T>> {
        match std::mem::replace(&mut *self.state(), State::Closed) {
            State::Open(opened) => Some(opened),
            State::Unmade | State::Lost(..) | State::Closed => None,
        }
    }

    /// Whether each call is refused: the handle was closed, or did not arrive.
    pub(crate) fn is_closed(&self) -> bool {
        !matches!(*self.state(), State::Open(_))
    }
}

impl<T: Open> State<T> {
    fn open(&mut self) -> PyResult<&mut Arc<T>> {
        match self {
            Self::Open(opened) => Ok(opened),
            Self::Closed => Err(closed::<T>()),
            Self::Lost(errno, text) => Err(PyOSError::new_err((*errno, text.clone()))),
            Self::Unmade => Err(PyRuntimeError::new_err(
                "the base class was not initialized: call super().__init__() in __init__()",
            )),
        }
    }
}

/// What a call through a closed handle raises.
pub(crate) fn closed<T: Open>() -> PyErr {
    PyValueError::new_err(T::CLOSED)
}

/// The number of the descriptor of `it`, of which `copy` is a copy. A descriptor that the process has
/// closed cannot be copied.
///
/// # Errors
/// `OSError` if this process has closed it.
pub(crate) fn descriptor_of(it: &impl AsFd, copy: io::Result<OwnedFd>) -> PyResult<RawFd> {
    copy.map_err(errors::descriptor)?;
    Ok(it.as_fd().as_raw_fd())
}

/// # Errors
/// `ValueError` for a number that no descriptor has, `OSError` for one that is not open.
#[expect(unsafe_code, reason = "a descriptor comes from Python as a number")]
pub(crate) fn duplicate(fd: RawFd) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(PyValueError::new_err("a file descriptor cannot be negative"));
    }
    // SAFETY: it is used at once, to duplicate it; the kernel refuses a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed
        .try_clone_to_owned()
        .map_err(|cause| errors::refused(&format!("duplicate the file descriptor {fd}"), &cause))
}

/// # Errors
/// `ValueError` for a number of seconds that is no duration.
pub(crate) fn watchdog_of(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| PyValueError::new_err(format!("watchdog: {error}")))
}

//! A handle of a queue, an event or a semaphore, and its descriptor.
//!
//! A handle is open or closed. A forked child inherits the handles of its parent, but not their records
//! in shared memory, so the first call of the child opens each one again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use parkline_core::driver::ForkGuard;
use pyo3::exceptions::PyValueError;
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

/// `None` once it is closed.
pub(crate) struct Handle<T>(Mutex<Option<Arc<T>>>);

impl<T: Open> Handle<T> {
    pub(crate) fn new(it: T) -> Self {
        Self(Mutex::new(Some(Arc::new(it))))
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this process has open. In a forked child the first call opens it.
    ///
    /// # Errors
    /// `ValueError` if the handle is closed; what opening it again raises.
    pub(crate) fn opened(&self) -> PyResult<Arc<T>> {
        let opened = self.slot().as_ref().map(Arc::clone).ok_or_else(Self::closed)?;
        if opened.guard().is_forked() { self.open_again(&opened) } else { Ok(opened) }
    }

    #[cold]
    fn open_again(&self, inherited: &T) -> PyResult<Arc<T>> {
        // The lock is free meanwhile, because other threads wait for it with the GIL held.
        let own = Python::attach(|py| inherited.open_again(py))?;
        let mut slot = self.slot();
        let opened = slot.as_mut().ok_or_else(Self::closed)?;
        if opened.guard().is_forked() {
            *opened = Arc::new(own);
        }
        Ok(Arc::clone(opened))
    }

    /// Closes the handle, and returns what it had open.
    pub(crate) fn close(&self) -> Option<Arc<T>> {
        self.slot().take()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.slot().is_none()
    }

    fn closed() -> PyErr {
        closed::<T>()
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

//! The errors of the Rust crates as Python's exceptions, which `parkline/_errors.py` defines.

use std::io;

use parkline_core::driver::ForkGuard;
use parkline_uring::{AttachError, CreateError, Fault, OpenError};
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use rustix::io::Errno;

macro_rules! exception {
    ($function:ident, $name:literal) => {
        pub(crate) fn $function(
            py: Python<'_>,
            args: impl pyo3::PyErrArguments + 'static,
        ) -> PyErr {
            static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
            match TYPE.import(py, "parkline._errors", $name) {
                Ok(exception) => PyErr::from_type(exception.clone(), args),
                Err(error) => error,
            }
        }
    };
}

exception!(empty, "Empty");
exception!(leases_out, "LeasesOut");
exception!(full, "Full");
exception!(shut_down, "ShutDown");
exception!(message_too_large, "MessageTooLarge");
exception!(corrupt, "Corrupt");
exception!(no_free_handle, "NoFreeHandle");
exception!(undecodable, "Undecodable");

/// `error`, which says how many items of its batch were put before.
pub(crate) fn with_count(py: Python<'_>, error: PyErr, count: usize) -> PyErr {
    // An exception that takes no attributes goes without.
    let _ = error.value(py).setattr(pyo3::intern!(py, "count"), count);
    error
}

pub(crate) fn is_undecodable(py: Python<'_>, error: &PyErr) -> bool {
    static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = TYPE.import(py, "parkline._errors", "Undecodable");
    class.is_ok_and(|class| error.matches(py, class).unwrap_or(false))
}

pub(crate) fn fault(py: Python<'_>, fault: Fault) -> PyErr {
    let text = fault.to_string();
    match fault {
        Fault::MessageTooLarge { len, max } => message_too_large(py, (text, len, max)),
        Fault::Corrupt(_) => corrupt(py, (text,)),
        // `Forked`. All leases out is no error here: a get waits.
        _ => PyRuntimeError::new_err(text),
    }
}

pub(crate) fn attach(py: Python<'_>, error: AttachError) -> PyErr {
    let text = error.to_string();
    match error {
        AttachError::NoFreeHandle { .. } | AttachError::SearchTooLong { .. } => {
            no_free_handle(py, (text,))
        }
        AttachError::Corrupt(_) => corrupt(py, (text,)),
        AttachError::Memory(_) => PyMemoryError::new_err(text),
        AttachError::DescriptorClosed => PyOSError::new_err((EBADF, text)),
        // A lease is EWOULDBLOCK, and so a `BlockingIOError`.
        AttachError::Leased { cause }
        | AttachError::Proc { cause }
        | AttachError::Os { cause, .. } => os(&cause, text),
        // `Forked`.
        _ => PyRuntimeError::new_err(text),
    }
}

pub(crate) fn create(error: CreateError) -> PyErr {
    let text = error.to_string();
    match error {
        CreateError::Memory(_) => PyMemoryError::new_err(text),
        CreateError::Os { cause, .. } => os(&cause, text),
        CreateError::Open(error) => open(error),
        // An impossible shape.
        _ => PyValueError::new_err(text),
    }
}

pub(crate) fn open(error: OpenError) -> PyErr {
    let text = error.to_string();
    match error {
        OpenError::Os { cause, .. } => os(&cause, text),
        OpenError::Attach(error) => Python::attach(|py| attach(py, error)),
        // A descriptor of another kind of file.
        _ => PyValueError::new_err(text),
    }
}

/// Why the descriptor of a queue, an event or a semaphore could not be duplicated.
pub(crate) fn descriptor(cause: io::Error) -> PyErr {
    match cause.raw_os_error() {
        None | Some(EBADF) => PyOSError::new_err((
            EBADF,
            format!(
                "this process has closed the descriptor ({cause}): what closes all descriptors, as a \
                 program does that becomes a daemon, has to leave that of `share_fd()`; or make or open \
                 this after that"
            ),
        )),
        Some(_) => refused("duplicate the descriptor", &cause),
    }
}

const EBADF: i32 = Errno::BADF.raw_os_error();
const EMFILE: i32 = Errno::MFILE.raw_os_error();

/// The error of the kernel for a call of this package, and what to do about it.
pub(crate) fn refused(what: &str, cause: &io::Error) -> PyErr {
    let remedy = match cause.raw_os_error() {
        Some(EMFILE) => {
            "; this process has no descriptor left: close some, or raise RLIMIT_NOFILE (`ulimit -n`)"
        }
        _ => "",
    };
    os(cause, format!("cannot {what}: {cause}{remedy}"))
}

/// A conversion by `?` would lose the number.
fn os(cause: &io::Error, text: String) -> PyErr {
    PyOSError::new_err((cause.raw_os_error(), text))
}

/// The check whether this process made a thing or inherited it by a fork.
pub(crate) fn guard() -> PyResult<ForkGuard> {
    ForkGuard::new().map_err(|cause| refused("map a page", &cause))
}

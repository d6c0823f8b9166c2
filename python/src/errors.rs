//! The errors of the Rust crates as Python's exceptions, which `parkline/_errors.py` defines.

use std::io;

use parkline_uring::{AttachError, CreateError, Fault, OpenError};
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

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
exception!(full, "Full");
exception!(shut_down, "ShutDown");
exception!(message_too_large, "MessageTooLarge");
exception!(corrupt, "Corrupt");
exception!(no_free_handle, "NoFreeHandle");

pub(crate) fn closed() -> PyErr {
    PyValueError::new_err("this handle of the queue is closed")
}

pub(crate) fn fault(py: Python<'_>, fault: Fault) -> PyErr {
    let text = fault.to_string();
    match fault {
        Fault::MessageTooLarge { len, max } => message_too_large(py, (text, len, max)),
        Fault::Corrupt(_) => corrupt(py, (text,)),
        _ => PyRuntimeError::new_err(text),
    }
}

pub(crate) fn attach(py: Python<'_>, error: AttachError) -> PyErr {
    let text = error.to_string();
    match error {
        AttachError::NoFreeHandle { .. } => no_free_handle(py, (text,)),
        AttachError::Corrupt(_) => corrupt(py, (text,)),
        AttachError::Proc { cause } | AttachError::Os { cause, .. } => os(&cause, text),
        _ => PyRuntimeError::new_err(text),
    }
}

pub(crate) fn create(error: CreateError) -> PyErr {
    let text = error.to_string();
    match error {
        CreateError::Memory { .. } => PyMemoryError::new_err(text),
        CreateError::Os { cause, .. } => os(&cause, text),
        CreateError::Open(error) => open(error),
        _ => PyValueError::new_err(text),
    }
}

pub(crate) fn open(error: OpenError) -> PyErr {
    let text = error.to_string();
    match error {
        OpenError::Os { cause, .. } => os(&cause, text),
        OpenError::Attach(error) => Python::attach(|py| attach(py, error)),
        _ => PyValueError::new_err(text),
    }
}

fn os(cause: &io::Error, text: String) -> PyErr {
    PyOSError::new_err((cause.raw_os_error(), text))
}

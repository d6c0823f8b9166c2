//! The items that wait, decoded from copies: nothing is taken.

use std::sync::{Arc, Mutex, PoisonError};

use parkline_core::driver::Snapshot;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::codec::Codec;
use crate::errors;
use crate::message::Message;

/// An iterator. An item that is got meanwhile is left out.
#[pyclass(frozen, module = "parkline._parkline")]
pub(crate) struct Items {
    copies: Mutex<Snapshot>,
    codec: Arc<Codec>,
}

impl Items {
    pub(crate) fn new(copies: Snapshot, codec: &Arc<Codec>) -> Self {
        Self { copies: Mutex::new(copies), codec: Arc::clone(codec) }
    }
}

#[pymethods]
impl Items {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        // The lock is free again before any code of Python runs.
        let copy = self.copies.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(copy) = copy else { return Ok(None) };
        let message = Message::Copied(copy.map_err(|fault| errors::fault(py, fault))?);
        let copied = self.codec.copy(py, &message);
        match copied.and_then(|copied| self.codec.decode(copied)) {
            Ok(item) => Ok(Some(item.unbind())),
            Err(error) if !error.is_instance_of::<pyo3::exceptions::PyException>(py) => Err(error),
            Err(error) => {
                let Message::Copied(bytes) = message else { return Err(error) };
                let text = format!(
                    "an item of {} bytes cannot be decoded: {error}; it is in the queue still; its bytes \
                     are in `encoded`",
                    bytes.len(),
                );
                let encoded = PyBytes::new(py, &bytes).unbind();
                let undecodable = errors::undecodable(py, (text, encoded, 0));
                undecodable.set_cause(py, Some(error));
                Err(undecodable)
            }
        }
    }
}

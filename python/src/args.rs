//! Arguments as Python's standard library takes them.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// What decides as in an `if`: any object, as in `q.get(0)`.
pub(crate) struct Truth(pub(crate) bool);

impl FromPyObject<'_, '_> for Truth {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        object.is_truthy().map(Self)
    }
}

/// The argument `name`, a number of things. `None` if it was not given.
///
/// # Errors
/// `ValueError` for a negative one, or one that no memory could hold; `TypeError` for anything that is no
/// integer.
pub(crate) fn count(name: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<usize>> {
    given.map(|given| count_of(name, given)).transpose()
}

/// [`count`], of an argument that is always given.
///
/// # Errors
/// As [`count`].
pub(crate) fn count_of(name: &str, given: &Bound<'_, PyAny>) -> PyResult<usize> {
    match given.extract::<usize>() {
        Ok(count) => Ok(count),
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(given.py()) => {
            let what = if given.lt(0)? { "it must not be negative" } else { "it is too large" };
            Err(PyValueError::new_err(format!("{name} is {given}, {what}")))
        }
        Err(error) => Err(error),
    }
}

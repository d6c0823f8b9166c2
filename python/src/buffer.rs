//! The buffer protocol: the memory of a Python object, borrowed.
//!
//! Declared here, because it is in the stable ABI only from 3.11 on. In 3.10 the functions and the
//! layout are the same.
#![expect(unsafe_code, reason = "speaks Python's buffer protocol, and fills objects it made")]

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The request for contiguous bytes, without format or shape.
const SIMPLE: c_int = 0;

/// `Py_buffer`.
#[repr(C)]
struct View {
    buf: *mut c_void,
    obj: *mut ffi::PyObject,
    len: isize,
    itemsize: isize,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut isize,
    strides: *mut isize,
    suboffsets: *mut isize,
    internal: *mut c_void,
}

unsafe extern "C" {
    fn PyObject_GetBuffer(obj: *mut ffi::PyObject, view: *mut View, flags: c_int) -> c_int;
    fn PyBuffer_Release(view: *mut View);
}

/// The contiguous memory of an object, which cannot move or shrink while this view exists.
pub(crate) struct Buffer(Box<View>);

// SAFETY: a view is plain data; it is read and released with the GIL held only.
unsafe impl Send for Buffer {}
// SAFETY: as for Send.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// # Errors
    /// `TypeError` for an object without a buffer, `BufferError` for one that is not contiguous.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = Box::new(MaybeUninit::uninit());
        // SAFETY: the object lives, the view is writable memory of the right layout.
        if unsafe { PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), SIMPLE) } == -1 {
            return Err(PyErr::fetch(object.py()));
        }
        // SAFETY: the call succeeded and has filled the view.
        Ok(Self(unsafe { view.assume_init() }))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len.unsigned_abs()
    }

    pub(crate) fn is_readonly(&self) -> bool {
        self.0.readonly != 0
    }

    /// The bytes. They do not change while this thread holds the GIL, unless a library writes to them
    /// without the GIL.
    pub(crate) fn bytes<'py>(&'py self, _held: Python<'py>) -> &'py [u8] {
        if self.0.buf.is_null() {
            return &[];
        }
        // SAFETY: a simple view is `len` readable bytes until it is released.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.len()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        Python::attach(|_held| {
            // SAFETY: the view was filled by PyObject_GetBuffer and is released once.
            unsafe { PyBuffer_Release(&raw mut *self.0) };
        });
    }
}

/// Immutable bytes that can be read without the GIL.
pub(crate) struct FrozenBytes {
    start: *const u8,
    len: usize,
    _owner: Py<PyBytes>,
}

// SAFETY: the memory of a `bytes` object never changes, and the owner keeps it.
unsafe impl Send for FrozenBytes {}
// SAFETY: as for Send.
unsafe impl Sync for FrozenBytes {}

impl FrozenBytes {
    pub(crate) fn of(bytes: &Bound<'_, PyBytes>) -> Self {
        let view = bytes.as_bytes();
        Self { start: view.as_ptr(), len: view.len(), _owner: bytes.clone().unbind() }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `start` and `len` are those of the object that `_owner` keeps.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

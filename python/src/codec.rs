//! Codecs: items are encoded to bytes, and bytes are decoded to items.
//!
//! A message of the pickle codec is one of these, so that large buffers (protocol 5) are copied
//! straight into the block and straight out of it:
//!
//! | first byte | |
//! |---|---|
//! | `0x80` | a pickle, as `pickle.dumps` makes it |
//! | `1` | seven zeros, then the bytes of a `bytes` object |
//! | `2` | three zeros, the number of buffers as u32, `length << 1 \| readonly` of the pickle and each buffer as u64, then the pickle and the buffers, each at a whole word |

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyTuple};

use crate::buffer::Buffer;
use crate::encoded::{Encoded, PART_ALIGN, Piece};
use crate::errors;
use crate::message::Message;

const PICKLE: u8 = 0x80;
const BYTES: u8 = 1;
const OUT_OF_BAND: u8 = 2;
const BYTES_HEAD: [u8; PART_ALIGN] = [BYTES, 0, 0, 0, 0, 0, 0, 0];

/// A buffer smaller than this is quicker within the pickle.
const SMALLEST_OUT_OF_BAND: usize = 4096;
/// A pickler that wrote more has a memo that takes long to clear.
const LONGEST_TO_USE_AGAIN: usize = 1 << 16;
/// From this length on the GIL is released while a message is copied out.
const LONG_COPY: usize = 1 << 18;

/// How the items of one queue are encoded.
pub(crate) enum Codec {
    Raw,
    Pickle(Picklers),
    Pair { encode: Py<PyAny>, decode: Py<PyAny> },
}

/// A message as Python objects: copied out, not yet decoded.
pub(crate) enum Copied<'py> {
    Item(Bound<'py, PyAny>),
    Pickle(Bound<'py, PyBytes>, Option<Bound<'py, PyList>>),
    Encoded(Bound<'py, PyBytes>),
}

impl Codec {
    pub(crate) fn of(codec: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(name) = codec.extract::<&str>() {
            return match name {
                "pickle" => Ok(Self::Pickle(Picklers::default())),
                "raw" => Ok(Self::Raw),
                other => Err(PyValueError::new_err(format!(
                    "codec '{other}' is not known; use 'pickle', 'raw', or a pair of callables"
                ))),
            };
        }
        let pair: (Py<PyAny>, Py<PyAny>) = codec.extract().map_err(|_| {
            PyTypeError::new_err("a codec is 'pickle', 'raw', or a pair of callables")
        })?;
        Ok(Self::Pair { encode: pair.0, decode: pair.1 })
    }

    /// The Python value that this was made from.
    pub(crate) fn spec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Raw => "raw".into_bound_py_any(py),
            Self::Pickle(_) => "pickle".into_bound_py_any(py),
            Self::Pair { encode, decode } => {
                Ok(PyTuple::new(py, [encode.bind(py), decode.bind(py)])?.into_any())
            }
        }
    }

    /// # Errors
    /// Those of pickle or of the callable; `TypeError` for an object that is not bytes.
    pub(crate) fn encode(&self, item: &Bound<'_, PyAny>) -> PyResult<Encoded> {
        match self {
            Self::Raw => Piece::of(item).map(Encoded::one),
            Self::Pickle(picklers) => match item.cast_exact::<PyBytes>() {
                Ok(bytes) => {
                    let piece = Piece::Bytes(bytes.clone().unbind());
                    Ok(Encoded::with_head(&BYTES_HEAD[..], vec![piece]))
                }
                Err(_) => picklers.dumps(item),
            },
            Self::Pair { encode, .. } => {
                Piece::of(&encode.bind(item.py()).call1((item,))?).map(Encoded::one)
            }
        }
    }

    /// Copies a message out. No Python code runs here.
    pub(crate) fn copy<'py>(&self, py: Python<'py>, message: &Message) -> PyResult<Copied<'py>> {
        match self {
            Self::Raw => Ok(Copied::Item(bytes_at(py, message, 0, message.len())?.into_any())),
            Self::Pair { .. } => Ok(Copied::Encoded(bytes_at(py, message, 0, message.len())?)),
            Self::Pickle(_) => {
                let mut head = [0; PART_ALIGN];
                message.copy_from(0, &mut head).map_err(|fault| errors::fault(py, fault))?;
                match head[0] {
                    PICKLE => Ok(Copied::Pickle(bytes_at(py, message, 0, message.len())?, None)),
                    BYTES => {
                        let len = message.len().saturating_sub(PART_ALIGN);
                        Ok(Copied::Item(bytes_at(py, message, PART_ALIGN, len)?.into_any()))
                    }
                    OUT_OF_BAND => copy_parts(py, message, head),
                    _ => Err(not_ours()),
                }
            }
        }
    }

    /// # Errors
    /// Those of pickle, or of the callable.
    pub(crate) fn decode<'py>(&self, copied: Copied<'py>) -> PyResult<Bound<'py, PyAny>> {
        match copied {
            Copied::Item(item) => Ok(item),
            Copied::Pickle(pickle, None) => loads(pickle.py())?.call1((pickle,)),
            Copied::Pickle(pickle, Some(buffers)) => {
                let py = pickle.py();
                let keywords = PyDict::new(py);
                keywords.set_item("buffers", buffers)?;
                loads(py)?.call((pickle,), Some(&keywords))
            }
            Copied::Encoded(bytes) => match self {
                Self::Pair { decode, .. } => decode.bind(bytes.py()).call1((bytes,)),
                Self::Raw | Self::Pickle(_) => Ok(bytes.into_any()),
            },
        }
    }
}

fn not_ours() -> PyErr {
    PyValueError::new_err("it is no item of the pickle codec; its sender uses another codec")
}

fn loads<'py>(py: Python<'py>) -> PyResult<&'py Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(py, "pickle", "loads")
}

fn bytes_at<'py>(
    py: Python<'py>,
    message: &Message,
    offset: usize,
    len: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, len, |to| fill(py, message, offset, to))
}

fn fill(py: Python<'_>, message: &Message, offset: usize, to: &mut [u8]) -> PyResult<()> {
    let copied = if to.len() < LONG_COPY {
        message.copy_from(offset, to)
    } else {
        py.detach(|| message.copy_from(offset, to))
    };
    copied.map_err(|fault| errors::fault(py, fault))
}

/// A pickle and its buffers. A peer can write anything into the head, so each number is checked.
fn copy_parts<'py>(
    py: Python<'py>,
    message: &Message,
    head: [u8; PART_ALIGN],
) -> PyResult<Copied<'py>> {
    let [_, _, _, _, count @ ..] = head;
    let count = u32::from_le_bytes(count) as usize;
    let lengths_len = count.checked_add(1).and_then(|it| it.checked_mul(8));
    let fits = |end: usize| end <= message.len();
    let Some(lengths_len) = lengths_len.filter(|len| fits(PART_ALIGN + len)) else {
        return Err(not_ours());
    };
    let mut lengths = vec![0; lengths_len];
    fill(py, message, PART_ALIGN, &mut lengths)?;
    let mut at = PART_ALIGN + lengths_len;
    let mut pickle = None;
    let buffers = PyList::empty(py);
    for length in lengths.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*length);
        let (len, is_readonly) = (usize::try_from(word >> 1)?, word & 1 == 1);
        if !at.checked_add(len).is_some_and(fits) {
            return Err(not_ours());
        }
        match pickle {
            None => pickle = Some(bytes_at(py, message, at, len)?),
            Some(_) if is_readonly => buffers.append(bytes_at(py, message, at, len)?)?,
            Some(_) => {
                buffers.append(PyByteArray::new_with(py, len, |to| fill(py, message, at, to))?)?
            }
        }
        at = (at + len).next_multiple_of(PART_ALIGN);
    }
    Ok(Copied::Pickle(pickle.ok_or_else(not_ours)?, Some(buffers)))
}

/// Picklers that are used again, each by one call at a time: a quarter quicker than `pickle.dumps`,
/// which makes one for each item.
#[derive(Default)]
pub(crate) struct Picklers(Mutex<Vec<Pickler>>);

struct Pickler {
    /// The methods of a `pickle.Pickler(sink, 5, buffer_callback=collector)`.
    dump: Py<PyAny>,
    clear_memo: Py<PyAny>,
    sink: Py<Sink>,
    collector: Py<Collector>,
}

impl Picklers {
    fn dumps(&self, item: &Bound<'_, PyAny>) -> PyResult<Encoded> {
        let py = item.py();
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let pickler = idle.map_or_else(|| Pickler::new(py), Ok)?;
        // A pickler that failed, or that wrote a long pickle, is not used again.
        pickler.dump.bind(py).call1((item,))?;
        let (pickle, buffers) = (pickler.sink.get().take(py)?, pickler.collector.get().take());
        if pickle.as_bytes().len() <= LONGEST_TO_USE_AGAIN {
            // Else it would keep the objects that it has seen, and refer to them in the next pickle.
            pickler.clear_memo.bind(py).call0()?;
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pickler);
        }
        if buffers.is_empty() {
            return Ok(Encoded::one(Piece::Bytes(pickle.unbind())));
        }
        let count = u32::try_from(buffers.len())?;
        let mut head = vec![OUT_OF_BAND, 0, 0, 0];
        head.extend(count.to_le_bytes());
        head.extend((pickle.as_bytes().len() as u64 * 2).to_le_bytes());
        for buffer in &buffers {
            let word = buffer.len() as u64 * 2 + u64::from(buffer.is_readonly());
            head.extend(word.to_le_bytes());
        }
        let mut parts = vec![Piece::Bytes(pickle.unbind())];
        parts.extend(buffers.into_iter().map(Piece::Buffer));
        Ok(Encoded::with_head(head, parts))
    }
}

impl Pickler {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let sink = Bound::new(py, Sink::default())?;
        let collector = Bound::new(py, Collector::default())?;
        let keywords = PyDict::new(py);
        keywords.set_item("buffer_callback", &collector)?;
        let class = py.import("pickle")?.getattr("Pickler")?;
        let pickler = class.call((&sink, 5), Some(&keywords))?;
        Ok(Self {
            dump: pickler.getattr("dump")?.unbind(),
            clear_memo: pickler.getattr("clear_memo")?.unbind(),
            sink: sink.unbind(),
            collector: collector.unbind(),
        })
    }
}

/// The file that a pickler writes to.
#[pyclass(frozen, module = "parkline._parkline")]
#[derive(Default)]
struct Sink(Mutex<Vec<Py<PyBytes>>>);

impl Sink {
    /// The bytes that were written: mostly one piece. More pieces are joined.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let pieces = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if let [only] = &*pieces {
            return Ok(only.bind(py).clone());
        }
        let pieces: Vec<_> = pieces.iter().map(|piece| piece.as_bytes(py)).collect();
        Ok(PyBytes::new(py, &pieces.concat()))
    }
}

#[pymethods]
impl Sink {
    /// pickle hands over a large object itself, which may change later.
    fn write(&self, piece: &Bound<'_, PyAny>) -> PyResult<usize> {
        let bytes = match piece.cast_exact::<PyBytes>() {
            Ok(bytes) => bytes.clone(),
            Err(_) => PyBytes::new(piece.py(), Buffer::of(piece)?.bytes(piece.py())),
        };
        let len = bytes.as_bytes().len();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes.unbind());
        Ok(len)
    }
}

/// The callback that pickle calls with each buffer.
#[pyclass(frozen, module = "parkline._parkline")]
#[derive(Default)]
struct Collector(Mutex<Vec<Buffer>>);

impl Collector {
    fn take(&self) -> Vec<Buffer> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl Collector {
    /// Whether the buffer is to stay within the pickle.
    fn __call__(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        let view = Buffer::of(&buffer.call_method0("raw")?)?;
        if view.len() < SMALLEST_OUT_OF_BAND {
            return Ok(true);
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(view);
        Ok(false)
    }
}

use pyo3::IntoPyObjectExt;

//! An item on its way into a block, and how it gets there.

use std::borrow::Cow;

use parkline_uring::{Sender, TrySendError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{Buffer, FrozenBytes};

/// Every part of a message begins at a whole word: copies are faster, and arrays are aligned.
pub(crate) const PART_ALIGN: usize = 8;

/// An encoded item: one piece, or a head and parts. Nothing is copied yet.
pub(crate) struct Encoded {
    head: Cow<'static, [u8]>,
    parts: Parts,
}

enum Parts {
    One(Piece),
    Many(Vec<Piece>),
}

pub(crate) enum Piece {
    Bytes(Py<PyBytes>),
    Buffer(Buffer),
}

impl Piece {
    /// The memory of an object that has a buffer.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        match object.cast_exact::<PyBytes>() {
            Ok(bytes) => Ok(Self::Bytes(bytes.clone().unbind())),
            Err(_) => Buffer::of(object).map(Self::Buffer),
        }
    }

    fn bytes<'py>(&'py self, py: Python<'py>) -> &'py [u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(py),
            Self::Buffer(buffer) => buffer.bytes(py),
        }
    }

    fn settle(self, py: Python<'_>) -> Settled {
        match self {
            Self::Bytes(bytes) => Settled::Frozen(FrozenBytes::of(bytes.bind(py))),
            Self::Buffer(buffer) => Settled::Copied(buffer.bytes(py).to_vec()),
        }
    }
}

impl Encoded {
    pub(crate) fn one(piece: Piece) -> Self {
        Self { head: Cow::Borrowed(&[]), parts: Parts::One(piece) }
    }

    pub(crate) fn with_head(head: impl Into<Cow<'static, [u8]>>, parts: Vec<Piece>) -> Self {
        Self { head: head.into(), parts: Parts::Many(parts) }
    }

    /// How long its message is.
    pub(crate) fn len(&self, py: Python<'_>) -> usize {
        match &self.parts {
            Parts::One(piece) => piece.bytes(py).len(),
            Parts::Many(parts) => len_of(&self.head, parts.iter().map(|part| part.bytes(py))),
        }
    }

    /// Sends it if there is room.
    pub(crate) fn try_send(&self, py: Python<'_>, to: &mut Sender) -> Result<(), TrySendError> {
        match &self.parts {
            Parts::One(piece) => to.try_send(piece.bytes(py)),
            Parts::Many(parts) => {
                try_send_parts(to, &self.head, parts.iter().map(|part| part.bytes(py)))
            }
        }
    }

    /// The same item, to be sent without the GIL: memory that could still change is copied.
    pub(crate) fn settle(self, py: Python<'_>) -> SettledItem {
        let parts = match self.parts {
            Parts::One(piece) => vec![piece.settle(py)],
            Parts::Many(parts) => parts.into_iter().map(|part| part.settle(py)).collect(),
        };
        SettledItem { head: self.head, parts }
    }
}

/// An encoded item that does not change any more.
pub(crate) struct SettledItem {
    head: Cow<'static, [u8]>,
    parts: Vec<Settled>,
}

enum Settled {
    Frozen(FrozenBytes),
    Copied(Vec<u8>),
}

impl Settled {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Frozen(bytes) => bytes.bytes(),
            Self::Copied(bytes) => bytes,
        }
    }
}

impl SettledItem {
    /// Sends it if there is room.
    pub(crate) fn try_send(&self, to: &mut Sender) -> Result<(), TrySendError> {
        match (&*self.head, &*self.parts) {
            ([], [only]) => to.try_send(only.bytes()),
            (head, parts) => try_send_parts(to, head, parts.iter().map(Settled::bytes)),
        }
    }
}

fn len_of<'a>(head: &[u8], parts: impl Iterator<Item = &'a [u8]>) -> usize {
    parts.fold(head.len(), |len, part| len.next_multiple_of(PART_ALIGN) + part.len())
}

fn try_send_parts<'a>(
    to: &mut Sender,
    head: &[u8],
    parts: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<(), TrySendError> {
    let mut message = to.try_reserve(len_of(head, parts.clone()))?;
    message.write_at(0, head);
    let mut at = head.len();
    for part in parts {
        at = at.next_multiple_of(PART_ALIGN);
        message.write_at(at, part);
        at += part.len();
    }
    message.commit_in_place()
}

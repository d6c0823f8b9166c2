//! Whether this process has found a queue corrupt.
//!
//! A queue with invalid slots or messages is of no more use. So after one call has found it
//! corrupt, all later calls of the process return that fault before they load a shared word. This
//! also bounds a call that does many operations: only the first of them uses up its attempts
//! (`MAX_ATTEMPTS`).
//!
//! A fault in the record of a dead handle is not kept: only that record is lost, and the queue
//! still works.

use std::sync::OnceLock;

use crate::error::Corrupt;

/// The first fault that a call of this process found in a queue. Private memory of the process, one
/// for each segment that it has opened.
#[derive(Debug, Default)]
pub(crate) struct KnownCorruption(OnceLock<Corrupt>);

impl KnownCorruption {
    /// An error if a call of this process has found the queue corrupt.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Corrupt> {
        self.0.get().map_or(Ok(()), |found| Err(*found))
    }

    /// Keeps the first fault, and returns it.
    #[cold]
    pub(crate) fn keep(&self, corrupt: Corrupt) -> Corrupt {
        *self.0.get_or_init(|| corrupt)
    }
}

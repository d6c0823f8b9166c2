//! What this process found wrong with a segment, and does not forget.
//!
//! A queue whose slots make no sense, or whose messages are no messages, serves nobody: what one
//! call was told, all later calls are told at once, before they touch a shared word. That is also
//! what bounds the calls that do many operations: only the first of them comes to the end of its
//! looks.
//!
//! A corrupt record of a dead handle is not kept in mind: it costs the record, and the rest is well.

use std::sync::OnceLock;

use crate::error::Corrupt;

/// Private memory of this process, one for each segment that it opened.
#[derive(Debug, Default)]
pub(crate) struct Finding(OnceLock<Corrupt>);

impl Finding {
    /// Nothing was found, or the first finding again.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Corrupt> {
        self.0.get().map_or(Ok(()), |found| Err(*found))
    }

    /// Keeps `corrupt` in mind, and hands it on.
    #[cold]
    pub(crate) fn keep(&self, corrupt: Corrupt) -> Corrupt {
        *self.0.get_or_init(|| corrupt)
    }
}

//! Messages that say who they are in every byte, so that a garbled one shows.

/// The number of a message, 1 to 9, or 0 where messages have no bytes to tell them apart.
pub(crate) type Id = u8;

pub(crate) fn of(id: Id, len: usize) -> Vec<u8> {
    vec![id; len]
}

/// Which message `bytes` is; `None` if it is garbled.
pub(crate) fn id(bytes: &[u8], len: usize) -> Option<Id> {
    let id = bytes.first().copied().unwrap_or(0);
    (bytes.len() == len && bytes.iter().all(|byte| *byte == id)).then_some(id)
}

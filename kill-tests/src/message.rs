//! Messages that repeat their number in every byte, so that a garbled message shows.

/// The number of a message, 1 to 9; 0 if messages have no bytes to tell them apart.
pub(crate) type Id = u8;

pub(crate) fn of(id: Id, len: usize) -> Vec<u8> {
    vec![id; len]
}

/// The number of the message with these `bytes`; `None` if they are garbled.
pub(crate) fn id(bytes: &[u8], len: usize) -> Option<Id> {
    let id = bytes.first().copied().unwrap_or(0);
    (bytes.len() == len && bytes.iter().all(|byte| *byte == id)).then_some(id)
}

//! A pack: many short messages that travel as one.
//!
//! The payload of its frame is a row of messages, each from a whole word on: a word with its length in
//! bytes, then its bytes, padded to a whole word. So a pack is as many words as it says, and each copy
//! of it goes word by word.
//!
//! What a peer wrote is copied out first and checked then: what is handed out was looked at where
//! nobody else can write.

use core::iter::FusedIterator;

use crate::error::{Corrupt, Fault};
use crate::frame::Block;
use crate::geometry::TypeMark;
use crate::message::{InBlock, Mark, Message};

const WORD: usize = size_of::<u64>();

/// Many short messages that travel as one through a `Queue<Pack>`: one block, one exchange and one wake
/// for all of them.
///
/// A pack goes to one receiver, and comes again as a whole should that die with it. Each message in it
/// takes eight bytes more than its own, padded to eight: a queue's `max_message` is the length of a
/// whole pack.
///
/// Made of the messages by [`Sender::try_send_packed`](crate::Sender::try_send_packed) and its like,
/// where they lie in the queue, or by collecting them.
///
/// ```
/// use parkline_core::{Fault, Pack, Queue, TrySendError};
///
/// let queue = Queue::builder().capacity(4).max_message(4096).create_typed::<Pack>()?;
/// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
/// assert_eq!(sender.try_send_packed(["one", "two", "three"])?, 3);
/// let pack = receiver.try_recv()?;
/// assert_eq!(pack.len(), 3);
/// assert!(pack.iter().eq([&b"one"[..], b"two", b"three"]));
///
/// let pack: Pack = ["four", "five"].into_iter().collect();
/// sender.try_send(&pack)?;
/// assert_eq!(receiver.try_recv()?, pack);
/// let refused = sender.try_send_packed([[0; 4096]]);
/// let too_large = Fault::MessageTooLarge { len: 4096, max: 4088 };
/// assert_eq!(refused, Err(TrySendError::Fault((), too_large)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct Pack {
    /// Invariant: a row of `len` messages, and nothing behind.
    bytes: Vec<u8>,
    len: usize,
}

/// The messages of a [`Pack`], in the order in which they were packed.
#[derive(Clone)]
pub struct Messages<'a> {
    row: &'a [u8],
    left: usize,
}

impl Pack {
    /// How many messages are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its messages, in the order in which they were packed.
    pub fn iter(&self) -> Messages<'_> {
        Messages { row: &self.bytes, left: self.len }
    }

    /// The pack that a peer sent. For fuzzers, too.
    ///
    /// # Errors
    /// If it is none.
    #[doc(hidden)]
    pub fn check(bytes: Vec<u8>) -> Result<Self, Corrupt> {
        let (mut len, mut row) = (0_usize, bytes.as_slice());
        while !row.is_empty() {
            let cut = Corrupt { what: "a pack ends in the midst of a message" };
            (_, row) = split_first(row).ok_or(cut)?;
            len = len.saturating_add(1);
        }
        Ok(Self { bytes, len })
    }
}

/// The first message of `row`, and the row behind it.
#[inline]
fn split_first(row: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, row) = row.split_first_chunk()?;
    let len = usize::try_from(u64::from_ne_bytes(*len)).ok()?;
    let (padded, behind) = row.split_at_checked(len.checked_next_multiple_of(WORD)?)?;
    Some((padded.get(..len)?, behind))
}

/// A pack that is being written into a block of ours.
pub(crate) struct Packing {
    /// What can be written, in bytes: whole words.
    room: usize,
    written: usize,
}

impl Packing {
    /// Of at most `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self { room: max & !(WORD - 1), written: 0 }
    }

    /// Why a message of `len` bytes can never be sent.
    pub(crate) fn too_large(&self, len: usize) -> Fault {
        Fault::MessageTooLarge { len, max: self.room.saturating_sub(WORD) }
    }

    /// How many bytes were written.
    pub(crate) fn written(&self) -> usize {
        self.written
    }

    #[inline]
    pub(crate) fn has_room(&self, len: usize) -> bool {
        let left = self.room.saturating_sub(self.written).checked_sub(WORD);
        left.is_some_and(|left| len <= left)
    }

    /// Writes `message`, for which there is room, behind the others in `block`.
    #[inline]
    pub(crate) fn push(&mut self, block: Block<'_>, message: &[u8]) {
        let words = self.written / WORD;
        if let Some(row) = block.skip(words) {
            row.write(&(message.len() as u64).to_ne_bytes());
        }
        if let Some(row) = block.skip(words.saturating_add(1)) {
            row.write(message);
        }
        let padded = message.len().div_ceil(WORD).saturating_mul(WORD);
        self.written = self.written.saturating_add(padded).saturating_add(WORD);
    }
}

impl Message for Pack {
    type Owned = Self;

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn read(from: InBlock<'_>) -> Result<Self, Corrupt> {
        let mut bytes = vec![0; from.frame().len()];
        from.block().read(&mut bytes);
        Self::check(bytes)
    }

    fn mark() -> Mark {
        Mark(TypeMark::PACK)
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Pack {
    fn from_iter<I: IntoIterator<Item = T>>(messages: I) -> Self {
        let mut pack = Self::default();
        pack.extend(messages);
        pack
    }
}

impl<T: AsRef<[u8]>> Extend<T> for Pack {
    fn extend<I: IntoIterator<Item = T>>(&mut self, messages: I) {
        for message in messages {
            let message = message.as_ref();
            self.bytes.extend((message.len() as u64).to_ne_bytes());
            self.bytes.extend(message);
            self.bytes.resize(self.bytes.len().next_multiple_of(WORD), 0);
            self.len = self.len.saturating_add(1);
        }
    }
}

// Not what the padding holds.
impl PartialEq for Pack {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Pack {}

impl<'a> IntoIterator for &'a Pack {
    type Item = &'a [u8];
    type IntoIter = Messages<'a>;

    fn into_iter(self) -> Messages<'a> {
        self.iter()
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (message, row) = split_first(self.row)?;
        (self.row, self.left) = (row, self.left.saturating_sub(1));
        Some(message)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Messages<'_> {}
impl FusedIterator for Messages<'_> {}

impl core::fmt::Debug for Pack {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl core::fmt::Debug for Messages<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(words: &[u64]) -> Result<Pack, Corrupt> {
        Pack::check(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }

    /// Fails if a length is not checked against what is left of the row, or its rounding can wrap
    /// around (each seen failing).
    #[test]
    fn what_is_no_row_of_messages_is_corrupt() {
        assert_eq!(row(&[]).unwrap().len(), 0);
        assert_eq!(row(&[0, 0, 0]).unwrap().len(), 3);
        assert!(row(&[8, 7, 3, 7]).unwrap().iter().eq([&7u64.to_ne_bytes()[..], &[7, 0, 0]]));
        for len in [9, 16, 1 << 32, u64::MAX - 8, u64::MAX - 7, u64::MAX] {
            assert!(row(&[len, 7]).is_err(), "{len}");
            assert!(row(&[8, 7, len, 7]).is_err(), "{len}");
        }
        for len in 1..8 {
            assert!(Pack::check(vec![0; len]).is_err(), "no whole word");
        }
    }

    /// Fails if the padding counts (seen failing): a peer may have left anything in it.
    #[test]
    fn packs_are_equal_by_their_messages() {
        assert_eq!(row(&[3, 7]).unwrap(), row(&[3, 7 | 1 << 63]).unwrap());
        assert_ne!(row(&[3, 7]).unwrap(), row(&[2, 7]).unwrap());
    }
}

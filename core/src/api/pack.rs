//! A pack: many short messages that travel as one.
//!
//! Its payload consists of whole words: the messages, each starting on a word; their lengths in
//! bytes, two per word; and the number of messages. Because the lengths are side by side, a reader
//! finds each message without reading the one before it.
//!
//! A received pack is copied out first and then checked, so that no peer can change it after the
//! check.

use core::iter::FusedIterator;
use core::slice;

use zerocopy::{FromBytes, IntoBytes};

use crate::api::message::sealed::Sealed;
use crate::api::message::{InBlock, Mark, Message};
use crate::error::{Corrupt, Fault};
use crate::ring::frame::Block;
use crate::ring::geometry::TypeMark;

const WORD: usize = size_of::<u64>();

/// Many short messages that travel as one through a `Queue<Pack>`: one block, one exchange and one wake
/// for all of them.
///
/// A pack goes to one receiver, and is delivered again as a whole if that receiver dies before it
/// acknowledges. Its length, which the queue's `max_message` limits, is the sum of: each message,
/// rounded up to a multiple of eight bytes; four bytes per message, rounded up likewise; and eight
/// bytes. The messages are aligned to eight bytes.
///
/// [`Sender::try_send_packed`](crate::Sender::try_send_packed) and its like pack messages straight
/// into the queue's memory. A pack can also be collected from an iterator.
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
/// let too_large = Fault::MessageTooLarge { len: 4096, max: 4080 };
/// assert_eq!(refused, Err(TrySendError::Fault((), too_large)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Pack {
    /// Invariant: `messages` words of messages, then their `len` lengths, which add up to those
    /// words, then `len`.
    words: Vec<u64>,
    messages: usize,
    len: usize,
}

/// The messages of a [`Pack`], in the order in which they were packed.
#[derive(Clone)]
pub struct Messages<'a> {
    messages: &'a [u8],
    lengths: slice::Iter<'a, u32>,
}

impl Pack {
    /// The number of messages.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the pack has no messages.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The messages, in the order in which they were packed.
    #[inline]
    pub fn iter(&self) -> Messages<'_> {
        let (messages, lengths) = split(&self.words, self.messages, self.len).unwrap_or_default();
        Messages { messages: messages.as_bytes(), lengths: lengths.iter() }
    }

    /// Checks the words of a pack that a peer sent. Public for fuzzers.
    ///
    /// # Errors
    /// If they are not a pack.
    #[doc(hidden)]
    pub fn check(words: Vec<u64>) -> Result<Self, Corrupt> {
        let cut = Corrupt { what: "a pack is not as long as its messages" };
        let len = words.last().and_then(|len| usize::try_from(*len).ok()).ok_or(cut)?;
        let messages = words.len().checked_sub(1).and_then(|it| it.checked_sub(len.div_ceil(2)));
        let messages = messages.ok_or(cut)?;
        let (_, lengths) = split(&words, messages, len).ok_or(cut)?;
        // The sum is less than 2^64, because there are less than 2^32 lengths.
        let lengths = lengths.iter().map(|len| u64::from(len.div_ceil(WORD as u32)));
        if lengths.sum::<u64>() != messages as u64 {
            return Err(cut);
        }
        Ok(Self { words, messages, len })
    }
}

/// Splits a pack with `messages` words of messages and `len` lengths.
#[inline]
fn split(words: &[u64], messages: usize, len: usize) -> Option<(&[u64], &[u32])> {
    let (messages, lengths) = words.split_at_checked(messages)?;
    let lengths = <[u32]>::ref_from_bytes(lengths.as_bytes()).ok()?;
    Some((messages, lengths.get(..len)?))
}

/// A pack that is being written into a block of this handle.
pub(crate) struct Packing {
    /// The longest pack, in words.
    room: usize,
    /// How many words of messages were written.
    messages: usize,
    lengths: Vec<u32>,
}

impl Packing {
    /// For a pack of at most `max` bytes; with room for `count` lengths, if they fit.
    pub(crate) fn new(max: usize, count: usize) -> Self {
        let room = max / WORD;
        let most = room.saturating_mul(2);
        Self { room, messages: 0, lengths: Vec::with_capacity(count.min(most)) }
    }

    /// The error for a message of `len` bytes that does not fit into any pack.
    pub(crate) fn too_large(&self, len: usize) -> Fault {
        Fault::MessageTooLarge { len, max: self.room.saturating_sub(2).saturating_mul(WORD) }
    }

    pub(crate) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether one more message of `len` bytes fits.
    #[inline]
    pub(crate) fn has_room(&self, len: usize) -> bool {
        let messages = self.messages.saturating_add(len.div_ceil(WORD));
        let lengths = (self.lengths.len() / 2).saturating_add(1);
        messages.saturating_add(lengths).saturating_add(1) <= self.room
    }

    /// Writes `message`, for which there is room, behind the others in `block`.
    #[inline]
    pub(crate) fn push(&mut self, block: Block<'_>, message: &[u8]) {
        if let Some(rest) = block.skip(self.messages) {
            rest.write(message);
        }
        self.messages = self.messages.saturating_add(message.len().div_ceil(WORD));
        // No block is longer than 1 GiB.
        self.lengths.push(message.len() as u32);
    }

    /// Writes the lengths and their number behind the messages in `block`; returns the length of
    /// the pack in bytes.
    pub(crate) fn finish(&self, block: Block<'_>) -> usize {
        if let Some(rest) = block.skip(self.messages) {
            rest.write(self.lengths.as_bytes());
        }
        let words = self.messages.saturating_add(self.lengths.len().div_ceil(2));
        if let Some(rest) = block.skip(words) {
            rest.write((self.lengths.len() as u64).as_bytes());
        }
        words.saturating_add(1).saturating_mul(WORD)
    }
}

impl Sealed for Pack {}

impl Message for Pack {
    type Owned = Self;

    fn bytes(&self) -> &[u8] {
        self.words.as_bytes()
    }

    fn read(from: InBlock<'_>) -> Result<Self, Corrupt> {
        let len = from.frame().len();
        if !len.is_multiple_of(WORD) {
            return Err(Corrupt { what: "a pack ends in the midst of a word" });
        }
        Self::check(from.block().words(len / WORD))
    }

    fn mark() -> Mark {
        Mark(TypeMark::PACK)
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Pack {
    /// # Panics
    /// If a message is 4 GiB or longer: no queue carries it.
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let (mut words, mut lengths) = (Vec::new(), Vec::new());
        for message in all {
            let message = message.as_ref();
            let length = u32::try_from(message.len());
            assert!(length.is_ok(), "a message of {} bytes is for no queue", message.len());
            lengths.extend(length);
            extend(&mut words, message);
        }
        let (messages, len) = (words.len(), lengths.len());
        extend(&mut words, lengths.as_bytes());
        words.push(len as u64);
        Self { words, messages, len }
    }
}

/// Appends `bytes`, padded to whole words.
fn extend(words: &mut Vec<u64>, bytes: &[u8]) {
    let (whole, tail) = bytes.as_chunks();
    words.extend(whole.iter().map(|word| u64::from_ne_bytes(*word)));
    if !tail.is_empty() {
        let mut last = [0; WORD];
        last.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
        words.push(u64::from_ne_bytes(last));
    }
}

impl Default for Pack {
    fn default() -> Self {
        Self { words: vec![0], messages: 0, len: 0 }
    }
}

// The contents of the padding do not count.
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
        let len = *self.lengths.next()? as usize;
        let (padded, rest) = self.messages.split_at_checked(len.next_multiple_of(WORD))?;
        self.messages = rest;
        padded.get(..len)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.lengths.size_hint()
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
    use crate::sync::AtomicU64;

    /// A pack of words of messages, of the lengths, and of their number.
    fn pack(messages: usize, lengths: &[u32], len: u64) -> Result<Pack, Corrupt> {
        let lengths = lengths
            .chunks(2)
            .map(|two| u64::from(two[0]) | u64::from(two.get(1).copied().unwrap_or(7)) << 32);
        Pack::check((0..messages as u64).chain(lengths).chain([len]).collect())
    }

    /// Fails if a pack without messages is not empty, if one with empty messages is, or if the length
    /// is another number (each seen failing).
    #[test]
    fn a_pack_is_as_long_as_it_has_messages() {
        assert!(pack(0, &[], 0).unwrap().is_empty() && Pack::default().is_empty());
        assert!(!pack(0, &[0], 1).unwrap().is_empty());
        assert_eq!([0, 3].map(|len| pack(0, &vec![0; len], len as u64).unwrap().len()), [0, 3]);
    }

    /// Fails if lengths that add up to more than there is pass, or to less (each seen failing).
    #[test]
    fn what_is_not_as_long_as_its_messages_is_corrupt() {
        assert!(Pack::check(Vec::new()).is_err());
        assert_eq!(pack(0, &[], 0).unwrap(), Pack::default());
        assert!(pack(0, &[0; 3], 3).unwrap().iter().eq([[]; 3]));
        assert!(pack(3, &[8, 3, 1], 3).unwrap().iter().eq([&[0; 8][..], &[1, 0, 0], &[2]]));
        for len in [2, 4, 5, 1 << 32, u64::MAX - 1, u64::MAX] {
            assert!(pack(3, &[8, 3, 1], len).is_err(), "{len}");
        }
        for len in [17, 24, u32::MAX - 7, u32::MAX] {
            assert!(pack(3, &[8, len, 1], 3).is_err(), "{len}");
            assert!(pack(3, &[8, 0, len], 3).is_err(), "{len}");
        }
        assert!(pack(4, &[8, 3, 1], 3).is_err());
    }

    /// Fails if the padding of a message, or of the lengths, keeps old bytes of the block (seen
    /// failing).
    #[test]
    fn nothing_of_an_earlier_message_is_in_a_pack() {
        let words: Vec<_> = (0..12).map(|_| AtomicU64::new(u64::MAX)).collect();
        let block = Block::new(&words).unwrap();
        let mut packing = Packing::new(80, 3);
        for message in [&b"one"[..], b"", b"of eleven b"] {
            packing.push(block, message);
        }
        let len = packing.finish(block);
        let pack: Pack = [&b"one"[..], b"", b"of eleven b"].into_iter().collect();
        assert_eq!(block.words(len / WORD).as_bytes(), pack.bytes());
    }

    /// Fails if the padding counts (seen failing): a peer may leave any bytes in it.
    #[test]
    fn packs_are_equal_by_their_messages() {
        let padded = |rest: u64| Pack::check(vec![7 | rest << 8, 1 | rest << 32, 1]).unwrap();
        assert_eq!(padded(0), padded(9));
        assert_ne!(pack(1, &[3], 1).unwrap(), pack(1, &[2], 1).unwrap());
    }
}

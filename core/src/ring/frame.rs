//! A frame: the layout of one message in a block.
//!
//! A block is an array of words: the owner tag, the frame's header, the message's id (`swap.rs`),
//! the origin, and then the payload, padded to a whole word. The header is one `u64`, which is
//! copied to private memory and checked before use:
//!
//! | bits | 0..32 | 32..40 | 40..48 | 48..64 |
//! |---|---|---|---|---|
//! | | length in bytes | kind | flags | attempts |
//!
//! A message that goes back into the queue is flagged *returned*, and the receiver that gets it
//! next counts the attempt. So a return can be repeated after a process was killed in the midst of
//! it. The block keeps the position of the first receive, the *origin*, for `join.rs`.
//!
//! Payload words are relaxed atomics, and long copies are as in `copy.rs`: a peer that writes to a
//! payload garbles that message and does no other harm. The exchange on the slot orders the words
//! ([message] and [space] in `swap.rs`).

use core::mem::MaybeUninit;
use core::ops::RangeInclusive;

use crate::error::Corrupt;
use crate::ring::copy;
use crate::ring::position::Position;
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// The only kind of frame. Not 0, so that unwritten memory is no frame.
const KIND_MESSAGE: u64 = 1;
/// An earlier receiver did not acknowledge the message.
const FLAG_REDELIVERED: u64 = 1;
/// The message was returned, and its next attempt is not counted yet.
const FLAG_RETURNED: u64 = 2;
const FLAGS: u64 = FLAG_REDELIVERED | FLAG_RETURNED;

/// Words before the payload: owner tag, frame header, id, and origin.
pub(crate) const BLOCK_HEADER_WORDS: usize = 4;
/// The origin of a message whose first receiver died before it stored the position.
const UNDATED: u64 = u64::MAX;

/// The checked header of a frame, in the bits of the table above.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame(u64);

const KIND_SHIFT: u32 = 32;
const FLAGS_SHIFT: u32 = 40;
const ATTEMPTS_SHIFT: u32 = 48;

impl Frame {
    #[inline]
    pub(crate) fn first(len: u32) -> Self {
        Self(u64::from(len) | KIND_MESSAGE << KIND_SHIFT | 1 << ATTEMPTS_SHIFT)
    }

    /// The same message on its way back into the queue. Idempotent.
    pub(crate) fn returned(self) -> Self {
        Self(self.0 | (FLAG_REDELIVERED | FLAG_RETURNED) << FLAGS_SHIFT)
    }

    /// The same message handed to one more receiver.
    pub(crate) fn handed_out(self) -> Self {
        let attempts = self.attempts().saturating_add(1);
        let others = self.0 & !(0xffff << ATTEMPTS_SHIFT | FLAG_RETURNED << FLAGS_SHIFT);
        Self(others | FLAG_REDELIVERED << FLAGS_SHIFT | u64::from(attempts) << ATTEMPTS_SHIFT)
    }

    /// The same message for another queue, where its attempts are counted from the start.
    pub(crate) fn of_dead_letter(self) -> Self {
        Self(Self::first(self.0 as u32).0 | FLAG_REDELIVERED << FLAGS_SHIFT)
    }

    /// The payload's length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.0 as u32 as usize
    }

    /// Whether the payload has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often this message was handed to a receiver, this time included: 1 unless redelivered.
    pub fn attempts(&self) -> u16 {
        (self.0 >> ATTEMPTS_SHIFT) as u16
    }

    /// Whether an earlier receiver got this message and did not acknowledge it.
    pub fn redelivered(&self) -> bool {
        self.0 >> FLAGS_SHIFT & FLAG_REDELIVERED != 0
    }

    /// Whether the message went back into the queue, and its next attempt is not counted yet.
    #[inline]
    pub fn is_returned(&self) -> bool {
        self.0 >> FLAGS_SHIFT & FLAG_RETURNED != 0
    }

    /// The header `bits`, if they are of a message that no receiver had before, with one of these
    /// lengths.
    #[inline(always)]
    fn check_first(bits: u64, lens: RangeInclusive<usize>) -> Option<Self> {
        // The kind, the flags, the attempts and the length, in one comparison: a header that differs in
        // any of the first three is far beyond the longest message.
        let (least, most) = (*lens.start() as u64, *lens.end() as u64);
        let more = bits.wrapping_sub(Self::first(0).0).wrapping_sub(least);
        (more <= most.wrapping_sub(least)).then_some(Self(bits))
    }

    #[cold]
    fn check(bits: u64, max_message: usize) -> Result<Self, Corrupt> {
        if bits >> KIND_SHIFT & 0xff != KIND_MESSAGE {
            return Err(Corrupt { what: "a block holds no frame of a known kind" });
        }
        if bits >> FLAGS_SHIFT & 0xff & !FLAGS != 0 {
            return Err(Corrupt { what: "a frame has unknown flags" });
        }
        let frame = Self(bits);
        if frame.len() > max_message {
            return Err(Corrupt { what: "a frame is longer than its block" });
        }
        Ok(frame)
    }
}

impl core::fmt::Debug for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Frame")
            .field("len", &self.len())
            .field("attempts", &self.attempts())
            .field("redelivered", &self.redelivered())
            .field("returned", &self.is_returned())
            .finish()
    }
}

/// One block's words.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    header: &'a [AtomicU64; BLOCK_HEADER_WORDS],
    payload: &'a [AtomicU64],
}

impl<'a> Block<'a> {
    /// The block in `words`; `None` if they are too few for the header words.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn new(words: &'a [AtomicU64]) -> Option<Self> {
        words.split_first_chunk().map(|(header, payload)| Self::of(header, payload))
    }

    #[inline(always)]
    pub(crate) fn of(
        header: &'a [AtomicU64; BLOCK_HEADER_WORDS],
        payload: &'a [AtomicU64],
    ) -> Self {
        Self { header, payload }
    }

    #[inline(always)]
    fn owner_word(&self) -> &'a AtomicU64 {
        let [owner, ..] = self.header;
        owner
    }

    #[inline(always)]
    fn frame_word(&self) -> &'a AtomicU64 {
        let [_, frame, ..] = self.header;
        frame
    }

    #[inline(always)]
    fn id_word(&self) -> &'a AtomicU64 {
        let [_, _, id, _] = self.header;
        id
    }

    fn origin_word(&self) -> &'a AtomicU64 {
        let [.., origin] = self.header;
        origin
    }

    /// Tags the block with the cell that gained it, by its number in the segment. Only an audit
    /// reads the tag.
    #[inline]
    pub(crate) fn set_owner(&self, cell: u32) {
        // Relaxed: the idle announcement that follows releases it ([settle]).
        self.owner_word().store(cell.into(), Relaxed);
    }

    pub(crate) fn owner(&self) -> u32 {
        self.owner_word().load(Relaxed) as u32
    }

    /// The message's id. The caller keeps this copy and does not read the word again, because a peer
    /// could change it.
    #[inline(always)]
    pub(crate) fn id(&self) -> u64 {
        self.id_word().load(Relaxed)
    }

    /// Stores the id of a message that is about to be sent.
    #[inline(always)]
    pub(crate) fn set_id(&self, id: u64) {
        // Relaxed: the exchange releases it ([message]).
        self.id_word().store(id, Relaxed);
    }

    /// The position at which the message was first received; `None` if that is unknown. Valid only
    /// for a returned message.
    pub(crate) fn origin(&self) -> Option<Position> {
        let bits = self.origin_word().load(Relaxed);
        (bits != UNDATED).then(|| Position::from_low_bits(bits))
    }

    pub(crate) fn set_origin(&self, at: Option<Position>) {
        self.origin_word().store(at.map_or(UNDATED, Position::bits), Relaxed);
    }

    /// The checked header of the message, if no receiver had it before and it has one of these
    /// lengths.
    #[inline(always)]
    pub(crate) fn first_frame(&self, lens: RangeInclusive<usize>) -> Option<Frame> {
        Frame::check_first(self.frame_word().load(Relaxed), lens)
    }

    /// The checked header of the message.
    pub(crate) fn frame(&self, max_message: usize) -> Result<Frame, Corrupt> {
        let room = max_message.min(self.payload.len().saturating_mul(8));
        Frame::check(self.frame_word().load(Relaxed), room)
    }

    #[inline]
    pub(crate) fn set_frame(&self, frame: Frame) {
        self.frame_word().store(frame.0, Relaxed);
    }

    /// Copies `bytes` to the start of the payload if there is room.
    #[inline]
    pub(crate) fn write(&self, bytes: &[u8]) {
        let (words, tail) = bytes.as_chunks::<8>();
        // One check of the room, not one for each word: a message of known size is copied without a
        // loop.
        let Some((whole, rest)) = self.payload.split_at_checked(words.len()) else { return };
        copy::to_shared(words, whole);
        if let (Some(to), false) = (rest.first(), tail.is_empty()) {
            let mut last = [0; 8];
            for (to, from) in last.iter_mut().zip(tail) {
                *to = *from;
            }
            to.store(u64::from_ne_bytes(last), Relaxed);
        }
    }

    /// Copies `bytes` to `offset` in the payload, as far as there is room.
    pub(crate) fn write_at(&self, offset: usize, bytes: &[u8]) {
        let within = offset % 8;
        let mut words = self.payload.get(offset / 8..).unwrap_or_default();
        let (head, bytes) = bytes.split_at(bytes.len().min(8_usize.wrapping_sub(within) % 8));
        if let (Some((first, rest)), false) = (words.split_first(), head.is_empty()) {
            merge(first, within, head);
            words = rest;
        }
        let (whole, tail) = bytes.split_at(bytes.len() & !7);
        self.at(words).write(whole);
        if let (Some(last), false) = (words.get(whole.len() / 8), tail.is_empty()) {
            merge(last, 0, tail);
        }
    }

    /// Zeroes the payload from byte `from` to byte `to` and on to the end of that word, as far as
    /// there is room.
    pub(crate) fn zero(&self, from: usize, to: usize) {
        let words = self.payload.get(from / 8..to.div_ceil(8).min(self.payload.len()));
        let mut words = words.unwrap_or_default();
        if let (Some((first, rest)), within @ 1..) = (words.split_first(), from % 8) {
            merge(first, within, &[0; 8]);
            words = rest;
        }
        copy::zero_shared(words);
    }

    /// Copies the start of the payload into `out`, and returns it; `None` if the payload is shorter.
    #[inline(always)]
    pub(crate) fn read_new<'o>(&self, out: &'o mut [MaybeUninit<u8>]) -> Option<&'o mut [u8]> {
        copy::from_shared(self.payload, out)
    }

    /// Copies the start of the payload into `out` if the payload is that long.
    pub(crate) fn read(&self, out: &mut [u8]) {
        copy::from_shared_over(self.payload, out);
    }

    /// A copy of the first `count` words of the payload; empty if there are fewer.
    pub(crate) fn words(&self, count: usize) -> Vec<u64> {
        let words = self.payload.get(..count).unwrap_or_default();
        words.iter().map(|word| word.load(Relaxed)).collect()
    }

    /// Copies the payload at `offset` into `out` if the payload is that long.
    pub(crate) fn read_at(&self, offset: usize, out: &mut [u8]) {
        let within = offset % 8;
        let mut words = self.payload.get(offset / 8..).unwrap_or_default();
        let (head, out) = out.split_at_mut(out.len().min(8_usize.wrapping_sub(within) % 8));
        if let (Some((first, rest)), false) = (words.split_first(), head.is_empty()) {
            let first = first.load(Relaxed).to_ne_bytes();
            for (to, from) in head.iter_mut().zip(first.into_iter().skip(within)) {
                *to = from;
            }
            words = rest;
        }
        self.at(words).read(out);
    }

    /// The same block with a payload that begins `words` words later.
    #[inline]
    pub(crate) fn skip(&self, words: usize) -> Option<Self> {
        self.payload.get(words..).map(|payload| self.at(payload))
    }

    /// The same block with another payload.
    fn at(&self, payload: &'a [AtomicU64]) -> Self {
        Self { payload, ..*self }
    }

    /// Copies the first `len` bytes of the payload of `from`, as far as there is room.
    pub(crate) fn copy_payload(&self, from: Block<'_>, len: usize) {
        let words = len.div_ceil(size_of::<u64>());
        for (to, from) in self.payload.iter().zip(from.payload).take(words) {
            to.store(from.load(Relaxed), Relaxed);
        }
    }

    /// The address of the payload, for the in-place views of queues that trust their peers.
    pub(crate) fn payload_ptr(&self) -> *mut u8 {
        self.payload.as_ptr().cast::<u8>().cast_mut()
    }
}

/// Stores `bytes` at byte `within` of a word, as far as there is room.
fn merge(word: &AtomicU64, within: usize, bytes: &[u8]) {
    let mut merged = word.load(Relaxed).to_ne_bytes();
    for (to, from) in merged.iter_mut().skip(within).zip(bytes) {
        *to = *from;
    }
    word.store(u64::from_ne_bytes(merged), Relaxed);
}

/// Decodes any words as a block: the frame's header and the payload. For fuzzing.
///
/// # Errors
/// [`Corrupt`] if the words are no frame.
#[cfg(fuzzing)]
pub fn decode_block(words: &[u64], max_message: usize) -> Result<(Frame, Vec<u8>), Corrupt> {
    let words: Vec<_> = words.iter().map(|word| AtomicU64::new(*word)).collect();
    let missing = Corrupt { what: "a block has no room for a header" };
    let block = Block::new(&words).ok_or(missing)?;
    let frame = block.frame(max_message)?;
    let mut payload = vec![0; frame.len()];
    block.read(&mut payload);
    Ok((frame, payload))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn words(n: usize) -> Vec<AtomicU64> {
        (0..n).map(|_| AtomicU64::new(0)).collect()
    }

    /// Fails if the last word keeps a byte of the previous message (seen failing).
    #[test]
    fn every_length_comes_back_as_it_was_written() {
        for len in 0..=32_usize {
            let words = words(BLOCK_HEADER_WORDS + 4);
            let block = Block::new(&words).unwrap();
            block.write(&[0xff; 32]);
            let sent: Vec<u8> = (0..len).map(|n| n as u8 ^ 0xa5).collect();
            block.write(&sent);
            let mut received = vec![0; len];
            block.read(&mut received);
            assert_eq!(received, sent);
            let mut padded = vec![1; len.next_multiple_of(8)];
            block.read(&mut padded);
            assert!(padded[len..].iter().all(|byte| *byte == 0), "{padded:?}");
        }
    }

    #[test]
    fn writing_in_pieces_equals_writing_at_once() {
        let sent: Vec<u8> = (0..32).collect();
        for cut in 0..=32 {
            let words = words(BLOCK_HEADER_WORDS + 4);
            let block = Block::new(&words).unwrap();
            block.write_at(cut, &sent[cut..]);
            block.write_at(0, &sent[..cut]);
            let mut received = [0; 32];
            block.read(&mut received);
            assert_eq!(received, *sent);
        }
    }

    /// Fails if a byte before or after the part is zeroed, or if a byte within it or the padding of
    /// the last word is not (each seen failing).
    #[test]
    fn every_part_is_zeroed_to_the_end_of_its_last_word() {
        for from in 0_usize..=40 {
            for to in from..=40 {
                let words = words(BLOCK_HEADER_WORDS + 4);
                let block = Block::new(&words).unwrap();
                block.write(&[7; 32]);
                block.zero(from, to);
                let mut left = [0; 32];
                block.read(&mut left);
                let expected =
                    |at| if (from..to.next_multiple_of(8)).contains(&at) { 0 } else { 7 };
                assert!(left.into_iter().eq((0..32).map(expected)), "{from} to {to}: {left:?}");
            }
        }
    }

    #[test]
    fn every_part_is_read_as_it_lies() {
        let words = words(BLOCK_HEADER_WORDS + 4);
        let block = Block::new(&words).unwrap();
        let sent: Vec<u8> = (0..32).collect();
        block.write(&sent);
        for from in 0..=32 {
            for to in from..=32 {
                let mut part = vec![0; to - from];
                block.read_at(from, &mut part);
                assert_eq!(part, sent[from..to]);
            }
        }
    }

    #[test]
    fn a_frame_survives_its_word() {
        let back = Frame::first(1 << 20).returned().returned();
        for frame in [back, back.handed_out()] {
            assert_eq!(Frame::check(frame.0, 1 << 20), Ok(frame));
        }
        assert!(back.redelivered() && back.attempts() == 1 && back.is_returned());
        let again = back.handed_out();
        assert!(again.redelivered() && again.attempts() == 2 && !again.is_returned());
    }

    #[test]
    fn a_frame_longer_than_its_block_is_corrupt() {
        let words = words(BLOCK_HEADER_WORDS + 1);
        let block = Block::new(&words).unwrap();
        block.set_frame(Frame::first(9));
        assert!(block.frame(1000).is_err(), "the block has room for 8 bytes");
        block.set_frame(Frame::first(8));
        assert!(block.frame(7).is_err(), "the queue allows 7 bytes");
        assert!(block.frame(8).is_ok());
    }

    #[test]
    fn memory_that_nobody_wrote_is_no_frame() {
        assert!(Frame::check(0, 100).is_err());
        assert!(Frame::check(2 << 32, 100).is_err(), "unknown kind");
        assert!(Frame::check(Frame::first(1).0 | 4 << 40, 100).is_err(), "unknown flag");
    }
}

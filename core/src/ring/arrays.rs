//! The slots and the blocks of a segment. A block is found by one comparison with a number in private
//! memory, a slot by none.
//!
//! A swap finds three of each. Slices would check each index against a length, and the words of each
//! block against another.
#![expect(unsafe_code, reason = "indices that are proved once, in place of a check at each access")]

use crate::ring::frame::{BLOCK_HEADER_WORDS, Block};
use crate::ring::position::{Laps, Position};
use crate::ring::slot::BlockId;
use crate::sync::AtomicU64;

/// The slots of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots<'a> {
    /// As many as a lap has positions.
    words: &'a [AtomicU64],
    laps: Laps,
}

/// The blocks of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks<'a> {
    /// At least `count` times `stride` bytes.
    words: &'a [AtomicU64],
    count: usize,
    /// Bytes from one block to the next: those of the header, and of `payload` words.
    stride: usize,
    payload: usize,
    /// Bytes from a block's first cache line to its second; 0 if it has only one.
    second_line: usize,
}

/// The bytes of a cache line.
const LINE: usize = 64;

impl<'a> Slots<'a> {
    /// # Panics
    /// If there are not as many words as a lap has positions: an error of this crate.
    pub(crate) fn new(words: &'a [AtomicU64], laps: Laps) -> Self {
        assert!(
            words.len() as u64 == laps.capacity(),
            "a ring has a slot for each position of a lap"
        );
        Self { words, laps }
    }

    #[inline(always)]
    pub(crate) fn laps(&self) -> Laps {
        self.laps
    }

    /// The slot of position `at`, and its number.
    #[inline(always)]
    pub(crate) fn at(&self, at: Position) -> (&'a AtomicU64, usize) {
        let index = self.laps.index(at);
        // SAFETY: `Laps::index` returns a number below the capacity, whatever the position, and there
        // are as many words (`new`).
        (unsafe { self.words.get_unchecked(index) }, index)
    }

    /// Slot `index`, which another process can have named.
    pub(crate) fn get(&self, index: usize) -> Option<&'a AtomicU64> {
        self.words.get(index)
    }

    #[cfg(any(loom, feature = "census"))]
    pub(crate) fn all(&self) -> &'a [AtomicU64] {
        self.words
    }
}

impl<'a> Blocks<'a> {
    /// `count` blocks of `len` words each.
    ///
    /// # Panics
    /// If `words` has no room for them, or a block no room for its header: an error of this crate.
    pub(crate) fn new(words: &'a [AtomicU64], count: usize, len: usize) -> Self {
        let all = count.checked_mul(len);
        assert!(all.is_some_and(|all| all <= words.len()), "a segment has room for its blocks");
        assert!(len >= BLOCK_HEADER_WORDS, "a block has room for its header");
        let payload = len.saturating_sub(BLOCK_HEADER_WORDS);
        let stride = len.wrapping_mul(size_of::<AtomicU64>());
        let second_line = if stride > LINE { LINE } else { 0 };
        Self { words, count, stride, payload, second_line }
    }

    /// Block `id`; `None` if there is no such block: a peer can have named any number.
    #[inline(always)]
    pub(crate) fn get(&self, id: BlockId) -> Option<Block<'a>> {
        if id.index() >= self.count {
            return None;
        }
        let from = id.index().wrapping_mul(self.stride);
        // SAFETY: `id` is below the number of blocks, all of which lie in `words` (`new`): the block
        // begins within them, and the product does not overflow.
        let first = unsafe { self.words.as_ptr().byte_add(from) };
        // SAFETY: a block has at least the words of its header (`new`), within `words`, which live for
        // `'a`. A multiple of the size of a word is aligned.
        let header = unsafe { &*first.cast::<[AtomicU64; BLOCK_HEADER_WORDS]>() };
        // SAFETY: the payload follows within the block, or begins where it ends.
        let payload = unsafe { first.add(BLOCK_HEADER_WORDS) };
        // SAFETY: as for the header: a block has so many words more (`new`).
        let payload = unsafe { core::slice::from_raw_parts(payload, self.payload) };
        Some(Block::of(header, payload))
    }

    /// The address of the first cache line of block `id`, and the bytes from there to its second: 0
    /// if it has only one. For a prefetch only: there may be no memory, if a peer has named a block
    /// that does not exist.
    #[inline(always)]
    pub(crate) fn lines(&self, id: BlockId) -> (*const AtomicU64, usize) {
        let from = id.index().wrapping_mul(self.stride);
        (self.words.as_ptr().wrapping_byte_add(from), self.second_line)
    }
}

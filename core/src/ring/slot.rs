//! The words of the protocol that other processes read: a slot, a record's `op` and `returning`,
//! and a cell.
//!
//! Each is one `u64`, so that it changes in one step and is read once.
//!
//! | word | bits 0..20 | then |
//! |---|---|---|
//! | slot | block | 2 bits state, 42 bits lap |
//! | op, returning | gain (the block about to be gained) | 20 bits slot, 20 bits cell, 2 bits verb |
//! | cell | block | 1 bit held, 1 bit owed, 42 bits position (all ones: undated) |

use crate::ring::position::{Lap, Position};

/// Bits of a block number: at most 2^20 blocks in a segment.
pub(crate) const BLOCK_BITS: u32 = 20;
const BLOCK_MASK: u64 = (1 << BLOCK_BITS) - 1;

/// A block's number in the segment. It can exceed the number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockId(u32);

impl BlockId {
    /// No segment has this block.
    pub(crate) const NONE: Self = Self(BLOCK_MASK as u32);

    pub(crate) fn new(id: u32) -> Self {
        Self(id & Self::NONE.0)
    }

    fn of(word: u64) -> Self {
        Self((word & BLOCK_MASK) as u32)
    }

    fn bits(self) -> u64 {
        u64::from(self.0)
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The state of a slot in its lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// Free for a message; its block is parked here.
    Empty,
    /// The message is in the block.
    Full,
    /// Nothing is sent here or after.
    Closed,
    /// A value that the protocol does not use.
    Unknown,
}

/// One slot: `lap | state | block`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotWord(u64);

impl SlotWord {
    const STATE_SHIFT: u32 = BLOCK_BITS;
    const LAP_SHIFT: u32 = BLOCK_BITS + 2;

    pub(crate) fn new(lap: Lap, state: SlotState, block: BlockId) -> Self {
        let state = match state {
            SlotState::Empty => 0,
            SlotState::Full => 1,
            SlotState::Closed => 2,
            SlotState::Unknown => 3,
        };
        Self(lap.bits() << Self::LAP_SHIFT | state << Self::STATE_SHIFT | block.bits())
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn lap(self) -> Lap {
        Lap::new(self.0 >> Self::LAP_SHIFT)
    }

    pub(crate) fn state(self) -> SlotState {
        match self.0 >> Self::STATE_SHIFT & 3 {
            0 => SlotState::Empty,
            1 => SlotState::Full,
            2 => SlotState::Closed,
            _ => SlotState::Unknown,
        }
    }

    /// Whether the slot is in `state` of `lap`, whatever its block.
    #[inline]
    pub(crate) fn is_at(self, lap: Lap, state: SlotState) -> bool {
        self.is_as(Self::new(lap, state, BlockId::new(0)))
    }

    /// Whether both are in the same state of the same lap, whatever their blocks.
    #[inline]
    pub(crate) fn is_as(self, other: Self) -> bool {
        self.0 ^ other.0 <= BLOCK_MASK
    }

    pub(crate) fn block(self) -> BlockId {
        BlockId::of(self.0)
    }
}

/// An operation, which a handle announces in its record before the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Send,
    Recv,
    /// Sends a held message again. Also possible on a closed queue, because the message was
    /// committed before the close.
    Return,
}

/// A record's `op` or `returning`: idle (0), or the exchange under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpWord(u64);

impl OpWord {
    const SLOT_SHIFT: u32 = BLOCK_BITS;
    const CELL_SHIFT: u32 = 2 * BLOCK_BITS;
    const VERB_SHIFT: u32 = 3 * BLOCK_BITS;

    pub(crate) const IDLE: Self = Self(0);

    /// An announcement of which only the cell is known: its number is below 2^20.
    pub(crate) fn of_cell(cell: usize) -> Self {
        debug_assert!(cell as u64 <= BLOCK_MASK);
        Self((cell as u64) << Self::CELL_SHIFT)
    }

    /// The announcement of an exchange of the cell `of_cell` at `slot`, a number below 2^20.
    #[inline(always)]
    pub(crate) fn busy(self, verb: Verb, slot: usize, gain: BlockId) -> Self {
        debug_assert!(slot as u64 <= BLOCK_MASK);
        let verb = match verb {
            Verb::Send => 1,
            Verb::Recv => 2,
            Verb::Return => 3,
        };
        Self(self.0 | verb << Self::VERB_SHIFT | (slot as u64) << Self::SLOT_SHIFT | gain.bits())
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// The exchange under way; `None` if there is none.
    pub(crate) fn verb(self) -> Option<Verb> {
        match self.0 >> Self::VERB_SHIFT & 3 {
            1 => Some(Verb::Send),
            2 => Some(Verb::Recv),
            3 => Some(Verb::Return),
            _ => None,
        }
    }

    pub(crate) fn cell(self) -> usize {
        (self.0 >> Self::CELL_SHIFT & BLOCK_MASK) as usize
    }

    pub(crate) fn slot(self) -> usize {
        (self.0 >> Self::SLOT_SHIFT & BLOCK_MASK) as usize
    }

    pub(crate) fn gain(self) -> BlockId {
        BlockId::of(self.0)
    }
}

/// A cell of a record: one block that the handle owns. If the block holds a message that is not
/// acknowledged, also the position at which the handle received it.
///
/// | held | owed | the block |
/// |---|---|---|
/// | 0 | 0 | is free |
/// | 1 | 0 | holds a message of a lease, or of a call under way |
/// | 1 | 1 | holds a message on its way back, for which the ring had no room yet |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CellWord(u64);

impl CellWord {
    const HELD: u64 = 1 << BLOCK_BITS;
    const OWED: u64 = 1 << (BLOCK_BITS + 1);
    const POSITION_SHIFT: u32 = BLOCK_BITS + 2;
    const UNDATED: u64 = u64::MAX >> Self::POSITION_SHIFT;

    pub(crate) fn free(block: BlockId) -> Self {
        Self(block.bits())
    }

    /// Received at `at`. One position in 2^42 is stored as undated, because its bits are all ones.
    #[inline]
    pub(crate) fn held(block: BlockId, at: Position) -> Self {
        Self(block.bits() | Self::HELD | at.bits() << Self::POSITION_SHIFT)
    }

    /// Held, received at an unknown position: the receiver died before it stored the position.
    pub(crate) fn held_undated(block: BlockId) -> Self {
        Self(block.bits() | Self::HELD | Self::UNDATED << Self::POSITION_SHIFT)
    }

    /// The same message, on its way back.
    pub(crate) fn owed(self) -> Self {
        Self(self.0 | Self::OWED)
    }

    /// The same message, taken again by the handle that owed it.
    pub(crate) fn taken(self) -> Self {
        Self(self.0 & !Self::OWED)
    }

    /// The position at which the message was received; `None` if that is unknown.
    pub(crate) fn received_at(self) -> Option<Position> {
        let bits = self.0 >> Self::POSITION_SHIFT;
        (bits != Self::UNDATED).then(|| Position::from_low_bits(bits))
    }

    /// Whether the cell holds a message received before position `at`, or at an unknown position.
    pub(crate) fn is_held_before(self, at: Position) -> bool {
        self.is_held() && self.received_at().is_none_or(|received| received.is_before(at))
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn block(self) -> BlockId {
        BlockId::of(self.0)
    }

    /// The block, if the cell is free.
    #[inline(always)]
    pub(crate) fn block_if_free(self) -> Option<BlockId> {
        // A free cell has no other bits.
        (self.0 <= BLOCK_MASK).then_some(BlockId(self.0 as u32))
    }

    pub(crate) fn is_held(self) -> bool {
        self.0 & Self::HELD != 0
    }

    pub(crate) fn is_owed(self) -> bool {
        self.0 & Self::OWED != 0 && self.is_held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_word_keeps_its_three_parts() {
        let block = BlockId::new((1 << BLOCK_BITS) - 1);
        for state in [SlotState::Empty, SlotState::Full, SlotState::Closed, SlotState::Unknown] {
            for lap in [0, 1, Lap::MASK] {
                let word = SlotWord::new(Lap::new(lap), state, block);
                assert_eq!((word.lap().bits(), word.state(), word.block()), (lap, state, block));
            }
        }
    }

    #[test]
    fn a_cell_is_held_or_free_and_keeps_its_block() {
        let block = BlockId::new(77);
        let held = CellWord::held(block, Position::new(0));
        assert!(held.is_held());
        assert!(!CellWord::free(block).is_held());
        assert_eq!(held.block(), block);
        assert!(CellWord::held_undated(block).is_held());
        assert_eq!(CellWord::held_undated(block).block(), block);
    }

    #[test]
    fn a_cell_tells_what_was_received_before() {
        let block = BlockId::new(77);
        for n in [0, 1, (1 << 42) - 2, 1 << 42, u64::MAX - 1] {
            let at = Position::new(n);
            assert!(CellWord::held(block, at).is_held_before(at.plus(1)));
            assert!(!CellWord::held(block, at).is_held_before(at));
            assert!(!CellWord::held(block, at.plus(9)).is_held_before(at));
        }
        // The position that is stored as undated counts as before all others.
        let odd = Position::new(u64::MAX);
        assert!(CellWord::held(block, odd).is_held_before(odd));
        assert!(!CellWord::free(block).is_held_before(Position::new(1)));
        assert!(CellWord::held_undated(block).is_held_before(Position::new(0)));
        assert!(CellWord::held(block, Position::new(3)).owed().is_held_before(Position::new(4)));
    }

    #[test]
    fn a_cell_that_owes_keeps_the_rest() {
        let block = BlockId::new(77);
        let held = CellWord::held(block, Position::new(5));
        let owed = held.owed();
        assert!(owed.is_owed() && owed.is_held() && !held.is_owed());
        assert_eq!((owed.block(), owed.received_at()), (block, held.received_at()));
        assert_eq!(owed.taken(), held);
        assert_eq!(CellWord::held_undated(block).owed().received_at(), None);
    }

    #[test]
    fn no_busy_op_reads_as_idle() {
        let op = OpWord::of_cell(0).busy(Verb::Send, 0, BlockId::new(0));
        assert_ne!(op, OpWord::IDLE);
        assert_ne!(op, OpWord::of_cell(0).busy(Verb::Recv, 0, BlockId::new(0)));
        assert_eq!(OpWord::IDLE.verb(), None);
    }

    #[test]
    fn an_op_keeps_its_four_parts() {
        let most = (1 << BLOCK_BITS) - 1;
        for verb in [Verb::Send, Verb::Recv, Verb::Return] {
            let op = OpWord::of_cell(most).busy(verb, 3, BlockId::new(7));
            assert_eq!((op.verb(), op.cell(), op.slot()), (Some(verb), most, 3));
            assert_eq!(op.gain(), BlockId::new(7));
        }
    }
}

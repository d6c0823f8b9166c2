//! A census: is every block in exactly one place? For tests.

use crate::error::Corrupt;
use crate::ring::slot::{CellWord, OpWord, SlotState, SlotWord};
use crate::ring::slots::Ring;
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// Where the blocks of a queue are. Exact while no handle does an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// Slots with a message.
    pub in_ring: usize,
    /// Messages received and not acknowledged, by handles alive or dead.
    pub held: usize,
    /// Handles in the midst of an exchange, a return included. While there are any, only an audit
    /// can find where their blocks are.
    pub busy: usize,
    /// Handles that are alive.
    pub owned: usize,
}

impl Census {
    #[expect(clippy::arithmetic_side_effects, reason = "counts of slots, of records and of cells")]
    pub(crate) fn of(ring: &Ring<'_>) -> Result<Self, Corrupt> {
        let mut census = Self::default();
        let mut blocks = Vec::new();
        for slot in ring.slots.all() {
            // Relaxed, here and below: exact only while no handle does an operation.
            let slot = SlotWord::from_bits(slot.load(Relaxed));
            census.in_ring += usize::from(slot.state() == SlotState::Full);
            blocks.push(slot.block().index());
        }
        for (id, record) in (0..).zip(ring.records) {
            let is_busy = |word: &AtomicU64| OpWord::from_bits(word.load(Relaxed)).verb().is_some();
            census.busy += usize::from(record.announcements().into_iter().any(is_busy));
            for cell in ring.cells_of(id).unwrap_or_default() {
                let cell = CellWord::from_bits(cell.load(Relaxed));
                census.held += usize::from(cell.is_held());
                blocks.push(cell.block().index());
            }
        }
        blocks.sort_unstable();
        if census.busy == 0 && !blocks.into_iter().eq(0..ring.geometry.blocks()) {
            return Err(Corrupt { what: "a block is in two places, or in none" });
        }
        Ok(census)
    }
}

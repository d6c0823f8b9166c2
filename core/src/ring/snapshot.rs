//! A copy of a message that waits, without a receive.

use crate::error::Corrupt;
use crate::ring::position::Position;
use crate::ring::slot::{SlotState, SlotWord};
use crate::ring::slots::Ring;
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, fence};

impl Ring<'_> {
    /// A copy of the message at `at`, if it is there before and after the copy. A slot has a word for each
    /// position, so an unchanged word says that no receive took the block meanwhile.
    ///
    /// Only the exchange of a receive lets a sender write to the block. A copy of what that sender wrote is
    /// therefore made after that exchange, and the second load of the slot shows it: on x86-64 and on
    /// AArch64, where a store that one thread has seen is seen by all. A language without that rule would
    /// let the copy be garbled.
    pub(crate) fn copy_at(&self, at: Position) -> Result<Option<Vec<u8>>, Corrupt> {
        let (slot, seen) = self.load_at(at)?;
        if !seen.is_at(self.laps().lap(at), SlotState::Full) {
            return Ok(None);
        }
        let block = self.block(seen.block())?;
        let frame = block.frame(self.geometry.max_message());
        let mut bytes = vec![0; frame.as_ref().map_or(0, |it| it.len())];
        block.read(&mut bytes);
        fence(Acquire); // the copy before the load
        // Relaxed: the fence orders it.
        if SlotWord::from_bits(slot.load(Relaxed)).bits() != seen.bits() {
            return Ok(None);
        }
        frame.map(|_| Some(bytes))
    }
}

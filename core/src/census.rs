//! A census: is every block in exactly one place? For tests, and for people who look inside.

#[cfg(not(loom))]
use crate::error::AttachError;
use crate::error::Corrupt;
#[cfg(not(loom))]
use crate::message::Message;
#[cfg(not(loom))]
use crate::queue::Queue;
use crate::ring::Ring;
use crate::slot::{CellWord, OpWord, SlotState, SlotWord};
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// Where the blocks of a queue are. Right when nobody moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// Slots with a message.
    pub in_ring: usize,
    /// Messages received and not acknowledged, of the living and of the dead.
    pub held: usize,
    /// Handles in the midst of an exchange, of their own or of a return: while there are any, where
    /// their blocks are is for an audit to tell.
    pub busy: usize,
    /// Handles that live.
    pub owned: usize,
}

/// Counts the blocks of `queue`.
///
/// # Errors
/// [`AttachError::Corrupt`] when a block is in two places or in none, though no handle is busy;
/// [`AttachError::Forked`], [`AttachError::DescriptorClosed`], [`AttachError::Os`].
#[cfg(not(loom))]
#[expect(clippy::arithmetic_side_effects, reason = "counts of records")]
pub fn census<M: Message + ?Sized>(queue: &Queue<M>) -> Result<Census, AttachError> {
    let segment = queue.segment();
    let ring = segment.ring().ok_or(AttachError::Forked)?;
    let mut census = Census::of(&ring)?;
    let fd = segment.descriptor()?;
    for id in 0..ring.geometry.handles() {
        let owner = segment.owner(fd, id);
        let owner = owner.map_err(|cause| AttachError::Os { call: "F_OFD_GETLK", cause })?;
        census.owned += usize::from(owner.is_some());
    }
    Ok(census)
}

impl Census {
    #[expect(clippy::arithmetic_side_effects, reason = "counts of slots, of records and of cells")]
    pub(crate) fn of(ring: &Ring<'_>) -> Result<Self, Corrupt> {
        let mut census = Self::default();
        let mut blocks = Vec::new();
        for slot in ring.slots {
            // Relaxed, here and below: right when nobody moves.
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

#[cfg(all(test, not(loom), not(kill_points)))]
mod tests {
    use crate::Queue;
    use crate::slot::Verb;

    use super::*;

    /// Fails if one of the numbers stays 0 (seen failing with that of the ring).
    #[test]
    fn each_block_and_each_handle_is_counted_where_it_is() {
        let queue = Queue::builder().capacity(4).max_message(8).handles(4).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for _ in 0..3 {
            sender.try_send(b"message").unwrap();
        }
        let _lease = receiver.try_lease().unwrap();
        let counted = Census { in_ring: 2, held: 1, busy: 0, owned: 2 };
        assert_eq!(census(&queue).unwrap(), counted);
        let ring = queue.segment().ring().unwrap();
        let gain = CellWord::from_bits(ring.cells_of(3).unwrap()[0].load(Relaxed)).block();
        ring.records[3].op.store(OpWord::busy(Verb::Send, 0, 0, gain).bits(), Relaxed);
        assert_eq!(census(&queue).unwrap(), Census { busy: 1, ..counted });
    }
}

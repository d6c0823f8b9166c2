//! Counts where the blocks of a queue are, and how many handles live.

use crate::api::message::Message;
use crate::api::queue::Queue;
use crate::error::AttachError;
use crate::ring::census::Census;

/// Counts the blocks of `queue`, and the records that have an owner.
///
/// # Errors
/// [`AttachError::Corrupt`] when a block is in two places or in none, though no handle is in an
/// exchange; [`AttachError::Forked`], [`AttachError::DescriptorClosed`], [`AttachError::Os`].
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

#[cfg(all(test, not(kill_points)))]
mod tests {
    use crate::Queue;
    use crate::ring::slot::{CellWord, OpWord, Verb};
    use crate::sync::Ordering::Relaxed;

    use super::*;

    /// Fails if one of the numbers stays 0 (seen failing with the number of blocks in the ring).
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
        ring.records[3].op.store(OpWord::of_cell(0).busy(Verb::Send, 0, gain).bits(), Relaxed);
        assert_eq!(census(&queue).unwrap(), Census { busy: 1, ..counted });
    }
}

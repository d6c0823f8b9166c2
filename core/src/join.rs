//! Joining: waiting until all that was sent before has been acknowledged.
//!
//! Nobody counts, for a counter would leak with its owner. It follows from what the protocol keeps
//! anyway: where the sends were when the join began (`until`), and then
//!
//! 1. the receives have passed `until`;
//! 2. no record is in the midst of a receive;
//! 3. no cell holds a message received before `until`;
//! 4. no message went back into the ring meanwhile, for it lies at a position that nobody reckoned
//!    with: then all of it begins anew, with all that was sent by now.
//!
//! In this order a message cannot slip through: what (1) shows received is announced in an op until
//! its cell says so ([message], [settle]), and a cell that gave it back shows free only after the
//! return was counted ([return]).
//!
//! Who announced a receive and lost the message to another tells the joiners, too, as after an
//! acknowledgement: they may have seen (2) of it.
//!
//! An acknowledgement is a plain store, too frequent for a fence of its own. So the joiner has the
//! kernel put a barrier into all threads of all attached processes (`membarrier`) between its
//! announcement and its look. Where that is refused a joiner may learn of the last acknowledgement
//! as late as by the watchdog.

use crate::error::Corrupt;
use crate::position::Position;
use crate::ring::Ring;
use crate::slot::{CellWord, OpWord, Verb};
use crate::sync::Ordering::Acquire;

/// How often a look begins anew before the joiner rests.
const ROUNDS: u32 = 16;

/// What one join waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    until: Position,
    returns: u64,
}

impl Ring<'_> {
    pub(crate) fn begin_join(&self) -> Result<Join, Corrupt> {
        // In this order: a return that is not counted yet is counted later.
        let returns = self.returns();
        Ok(Join { until: self.start(Verb::Send)?, returns })
    }

    /// Whether all that `join` waits for is acknowledged.
    pub(crate) fn is_joined(&self, join: &mut Join) -> Result<bool, Corrupt> {
        for _ in 0..ROUNDS {
            if self.start(Verb::Recv)?.is_before(join.until) || self.is_in_hands(join.until) {
                return Ok(false);
            }
            if self.returns() == join.returns {
                return Ok(true);
            }
            *join = self.begin_join()?;
        }
        Ok(false)
    }

    /// Whether any handle may have a message received before `until` and not acknowledged. One look
    /// at each record and at each cell.
    fn is_in_hands(&self, until: Position) -> bool {
        let ids = 0..self.geometry.handles();
        ids.zip(self.records).any(|(id, record)| {
            let op = OpWord::from_bits(record.op.load(Acquire)); // [announce-op], [settle]
            let row = self.cells_of(id).unwrap_or_default();
            let is_held = |cell: &crate::sync::AtomicU64| {
                CellWord::from_bits(cell.load(Acquire)).is_held_before(until) // [settle]
            };
            op.verb() == Some(Verb::Recv) || row.iter().any(is_held)
        })
    }
}

#[cfg(not(loom))]
pub(crate) use barriers::{let_joiners_order_us, order_acknowledgements};

#[cfg(not(loom))]
mod barriers {
    use rustix::thread::{MembarrierCommand, membarrier};

    /// Has the barriers of joiners reach this process. Once would do; it is quick.
    pub(crate) fn let_joiners_order_us() {
        // Where it is refused, joiners have their watchdog.
        let _ = membarrier(MembarrierCommand::RegisterGlobalExpedited);
    }

    /// Orders every acknowledgement of every attached process before this call, or its look at the
    /// gate after.
    pub(crate) fn order_acknowledgements() {
        // As above.
        let _ = membarrier(MembarrierCommand::GlobalExpedited);
    }
}

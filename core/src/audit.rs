//! The audit of the dead: which block did a handle own whose process died in the midst of a swap?
//!
//! Whoever owns the record's byte lock acts as that record. So an auditor that dies is one more
//! death of the same record, and every step may be repeated.
//!
//! The dead announced (`op`) that it offers the block of a cell for the one in a slot, the *gain*.
//! In this order, each look ruling out what the next could mistake:
//!
//! 1. The cell has the gain: all was settled.
//! 2. The slot has the offer: exchanged. Nobody else could have put it there.
//! 3. Another record announces the offer as its gain in that slot: it may have taken it out of the
//!    slot and not tagged it yet. Postponed until that record moves on.
//! 4. The offer's owner tag tells: still the dead's, then nothing was exchanged.
//!
//! Why 4 is right: the offer can leave the slot only with somebody who announces it as his gain
//! before his exchange and tags it before he is idle. The look at the slot (2) comes after that
//! exchange and acquires it, so the look at his record (3) finds the announcement or all of what
//! followed it, the tag included ([announce-op], [settle]).
//!
//! Why the postponed do not wait for each other in a circle: of those in it, the one that looked at
//! the slot last saw its gain there, which is another's offer; so that other had exchanged, and what
//! it gained was lost to the circle for good, for it died right there. `loom-tests/tests/recovery.rs`
//! checks this and all of the above in all states of small queues, and `loom-tests/tests/audit.rs`
//! runs this very code.

use crate::control::Record;
use crate::error::Corrupt;
use crate::port::{Cell, Port};
use crate::ring::Ring;
use crate::slot::{BlockId, CellWord, OpWord, SlotWord, Verb};
use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Release};

/// What became of an announced exchange.
enum Verdict {
    Exchanged,
    NotExchanged,
    /// Another handle that may have the answer is itself in the midst of a swap.
    Postponed,
}

impl<'a> Ring<'a> {
    /// Settles what the last owner of `port`'s record left open; `false` if that must wait.
    pub(crate) fn audit(&self, port: &Port<'_>) -> Result<bool, Corrupt> {
        let op = OpWord::from_bits(port.record().op.load(Acquire)); // [settle]
        let Some(verb) = op.verb() else {
            // Idle, or no word of ours, which would be found again for ever.
            port.record().op.store(OpWord::IDLE.bits(), Release);
            return Ok(true);
        };
        let gain = self.block(op.gain())?;
        match self.verdict(port, op) {
            Verdict::Postponed => return Ok(false),
            Verdict::NotExchanged => {}
            // As at the end of a swap.
            Verdict::Exchanged => {
                gain.set_owner(port.id());
                let settled = match verb {
                    Verb::Recv => CellWord::held_undated(op.gain()),
                    Verb::Send => CellWord::free(op.gain()),
                    Verb::Return => {
                        self.count_return();
                        CellWord::free(op.gain())
                    }
                };
                if let Ok(cell) = port.cell(op.cell()) {
                    cell.settle(settled);
                }
            }
        }
        port.record().op.store(OpWord::IDLE.bits(), Release);
        Ok(true)
    }

    fn verdict(&self, port: &Port<'_>, op: OpWord) -> Verdict {
        let offer = port.cell(op.cell()).map_or(BlockId::NONE, Cell::block);
        if offer == op.gain() {
            // Only the op remains to be cleared. The tag was stored before the cell.
            return Verdict::NotExchanged;
        }
        // [message], [space]: what was stored before the exchange is seen after this.
        let parked = self.slots.get(op.slot()).map(|slot| SlotWord::from_bits(slot.load(Acquire)));
        if parked.is_some_and(|slot| slot.block() == offer) {
            return Verdict::Exchanged;
        }
        let slot = op.slot();
        let announces = |record: &Record| {
            let op = OpWord::from_bits(record.op.load(Acquire)); // [announce-op]
            op.verb().is_some() && op.gain() == offer && op.slot() == slot
        };
        let mut others = self.records.iter().enumerate();
        if others.any(|(id, record)| id != port.id() as usize && announces(record)) {
            return Verdict::Postponed;
        }
        match self.block(offer) {
            Ok(block) if block.owner() == port.id() => Verdict::NotExchanged,
            _ => Verdict::Exchanged,
        }
    }

    /// The cells of record `id`.
    pub(crate) fn cells_of(&self, id: u32) -> Option<&'a [AtomicU64]> {
        let from = (id as usize).wrapping_mul(self.geometry.cell_stride());
        self.cells.get(from..from.wrapping_add(self.geometry.cells()))
    }

    /// Whether record `id` has something to be recovered, should its owner be dead: it was in the
    /// midst of a swap, or has messages that are not acknowledged.
    pub(crate) fn is_dirty(&self, id: u32) -> bool {
        let index = id as usize;
        let busy = |record: &Record| record.op.load(Acquire) != OpWord::IDLE.bits();
        if self.records.get(index).is_some_and(busy) {
            return true;
        }
        let row = self.cells_of(id).unwrap_or_default();
        row.iter().any(|cell| CellWord::from_bits(cell.load(Acquire)).is_held())
    }
}

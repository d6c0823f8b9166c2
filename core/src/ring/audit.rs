//! The audit of a dead handle: its process died in the midst of a swap. Which block did the handle
//! own?
//!
//! A process acts as a record only while it holds the record's byte lock. So the death of an
//! auditor is one more death of the same record, and every step can be repeated.
//!
//! The dead handle announced that it offers the block of a cell for the block in a slot, the
//! *gain*. A record has two words for that, `op` and `returning` (`swap.rs`), so up to two
//! exchanges are in question. For each of them the audit takes these steps in this order. Each step
//! rules out a case that the next could mistake.
//!
//! 1. The cell has the gain: all was settled.
//! 2. The slot has the offer: exchanged. No other handle could have put it there.
//! 3. Another word announces the offer as its gain in that slot. It is a word of another record, or
//!    the other word of the dead one. That exchange may have taken the offer out of the slot and
//!    not tagged it yet, so the audit is postponed until that word changes.
//! 4. The offer's tag decides: if it names the cell that offered the block, nothing was exchanged.
//!    While an exchange of a cell is announced, the cell gains nothing else. So a block that came
//!    back to the dead handle by its other exchange is in another cell, and has the tag of that.
//!
//! One of the two exchanges can be postponed until the other is settled. So the audit tries the
//! first again after the second.
//!
//! Why 4 is right: a handle that takes the offer out of the slot announces it as its gain before
//! the exchange, and tags it before its word is idle. The load of the slot in 2 comes after that
//! exchange and acquires it. So the load of that handle's word in 3 finds the announcement, or a
//! later value that carries the tag ([announce-op], [settle]).
//!
//! Why postponed exchanges do not wait for each other in a circle: take the one of the circle that
//! loaded the slot last. It saw its gain there, and its gain is the offer of another exchange of
//! the circle. So that other exchange had succeeded before. Its handle died right there, so the
//! block that it gained stays with it. That block is the offer of a third exchange, which therefore
//! had succeeded earlier still, and so on round the circle. In the end the first exchange had
//! succeeded before it loaded the slot, which is impossible.
//!
//! `loom-tests/tests/recovery.rs` checks a model of all this in all states of small queues, and
//! `loom-tests/tests/audit.rs` runs this code.

use crate::error::Corrupt;
use crate::ring::control::Record;
use crate::ring::port::Port;
use crate::ring::slot::{CellWord, OpWord, SlotWord, Verb};
use crate::ring::slots::Ring;
use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// The result of an announced exchange.
enum Verdict {
    Exchanged,
    NotExchanged,
    /// Unknown until another announced exchange is settled.
    Postponed,
}

impl<'a> Port<'a> {
    /// Takes over record `id`, whose byte lock the caller holds, and settles what its last owner
    /// left open. `None` if that must wait for another handle.
    ///
    /// Cells can be held: they hold messages that the last owner received and did not acknowledge.
    pub(crate) fn take_over(ring: Ring<'a>, id: u32) -> Result<Option<Self>, Corrupt> {
        let port = Self::unsettled(ring, id)?;
        Ok(ring.audit(&port)?.then_some(port))
    }
}

impl<'a> Ring<'a> {
    /// Settles what the last owner of `port`'s record left open; `false` if that must wait.
    fn audit(&self, port: &Port<'_>) -> Result<bool, Corrupt> {
        let [op, returning] = port.record().announcements();
        let is_op_settled = self.settle(port, op)?;
        let is_return_settled = self.settle(port, returning)?;
        // An exchange that waited for the return finds it settled now.
        Ok(is_return_settled && (is_op_settled || self.settle(port, op)?))
    }

    /// Settles the exchange that `announced`, a word of `port`'s record, names; `false` if that
    /// must wait.
    fn settle(&self, port: &Port<'_>, announced: &AtomicU64) -> Result<bool, Corrupt> {
        // Relaxed: the record's lock orders us after its last owner.
        let op = OpWord::from_bits(announced.load(Relaxed));
        let Some(verb) = op.verb() else {
            // Idle, or a word that no handle stores: cleared, because every later audit would find
            // it again. [settle]
            announced.store(OpWord::IDLE.bits(), Release);
            return Ok(true);
        };
        let gain = self.block(op.gain())?;
        match self.verdict(port, announced, op) {
            Verdict::Postponed => return Ok(false),
            Verdict::NotExchanged => {}
            // The same as at the end of a swap.
            Verdict::Exchanged => {
                if verb == Verb::Return {
                    // Another handle can own the block that held the origin.
                    self.count_return(None);
                }
                if let Ok(cell) = port.cell(op.cell()) {
                    gain.set_owner(cell.tag());
                    cell.settle(match verb {
                        Verb::Recv => CellWord::held_undated(op.gain()),
                        Verb::Send | Verb::Return => CellWord::free(op.gain()),
                    });
                }
            }
        }
        announced.store(OpWord::IDLE.bits(), Release); // [settle]
        Ok(true)
    }

    fn verdict(&self, port: &Port<'_>, announced: &AtomicU64, op: OpWord) -> Verdict {
        // A peer corrupted the word: a handle announces only cells of its own.
        let Ok(cell) = port.cell(op.cell()) else { return Verdict::NotExchanged };
        let offer = cell.block();
        if offer == op.gain() {
            // All was settled but the announcement. The tag was stored before the cell.
            return Verdict::NotExchanged;
        }
        // [message], [space]: this load sees all that was stored before the exchange.
        let parked = self.slots.get(op.slot()).map(|slot| SlotWord::from_bits(slot.load(Acquire)));
        if parked.is_some_and(|slot| slot.block() == offer) {
            return Verdict::Exchanged;
        }
        let announces = |word: &AtomicU64| {
            let other = OpWord::from_bits(word.load(Acquire)); // [announce-op]
            other.verb().is_some() && other.gain() == offer && other.slot() == op.slot()
        };
        let mut others = self.records.iter().flat_map(Record::announcements);
        if others.any(|word| !core::ptr::eq(word, announced) && announces(word)) {
            return Verdict::Postponed;
        }
        match self.block(offer) {
            Ok(block) if block.owner() == cell.tag() => Verdict::NotExchanged,
            _ => Verdict::Exchanged,
        }
    }

    /// The number of messages that all handles owe.
    pub(crate) fn owed(&self) -> u64 {
        // Relaxed: a statistic.
        let is_owed = |cell: &&AtomicU64| CellWord::from_bits(cell.load(Relaxed)).is_owed();
        let rows = (0..self.geometry.handles()).filter_map(|id| self.cells_of(id));
        rows.flatten().filter(is_owed).count() as u64
    }

    /// Whether record `id` would need recovery if its owner were dead: a swap is announced, or
    /// messages are not acknowledged.
    pub(crate) fn is_dirty(&self, id: u32) -> bool {
        let index = id as usize;
        // Relaxed: a caller that knows that the owner has ended is ordered after its stores. Every
        // other caller checks again before it acts.
        let is_busy = |word: &AtomicU64| word.load(Relaxed) != OpWord::IDLE.bits();
        if self.records.get(index).is_some_and(|it| it.announcements().into_iter().any(is_busy)) {
            return true;
        }
        let row = self.cells_of(id).unwrap_or_default();
        row.iter().any(|cell| CellWord::from_bits(cell.load(Relaxed)).is_held())
    }
}

#[cfg(all(test, not(any(loom, kill_points))))]
mod tests {
    use super::*;
    use crate::Queue;
    use crate::sync::Ordering::Relaxed;

    /// A queue with one message.
    fn queue() -> Queue {
        let queue = Queue::builder().capacity(2).handles(2).max_message(8).create().unwrap();
        queue.sender().unwrap().try_send(b"job").unwrap();
        queue
    }

    /// The record whose owner dies.
    const DEAD: u32 = 1;

    fn port(queue: &Queue) -> Port<'_> {
        Port::take_over(queue.segment().ring().unwrap(), DEAD).unwrap().unwrap()
    }

    /// Exchanges the block of the first cell by `exchange`, and makes the record look as if its
    /// owner had died right after that. Returns the cell's word after the audit, and its word after
    /// the exchange.
    fn die_after(
        queue: &Queue,
        port: Port<'_>,
        verb: Verb,
        exchange: impl FnOnce(&Port<'_>),
    ) -> (CellWord, CellWord) {
        let ring = *port.ring();
        let cell = &ring.cells_of(DEAD).unwrap()[0];
        let slot = ring.geometry.laps().index(port.start(verb).unwrap());
        let before = cell.load(Relaxed);
        exchange(&port);
        let after = CellWord::from_bits(cell.swap(before, Relaxed));
        let busy = OpWord::of_cell(0).busy(verb, slot, after.block());
        port.record().announcement(verb).store(busy.bits(), Relaxed);
        drop(port);
        drop(self::port(queue));
        (CellWord::from_bits(cell.load(Relaxed)), after)
    }

    fn recv(port: &Port<'_>) {
        let mut at = port.start(Verb::Recv).unwrap();
        port.recv(port.cell(0).unwrap(), &mut at, || {}).map(drop).unwrap();
    }

    /// Fails if the audit stores a position for a message that was received at an unknown one (seen
    /// failing): a join would not wait for the message.
    #[test]
    fn what_the_dead_had_just_received_has_no_date() {
        let queue = queue();
        let port = port(&queue);
        let (audited, lived) = die_after(&queue, port, Verb::Recv, recv);
        assert!(audited.is_held() && lived.received_at().is_some());
        assert_eq!((audited.block(), audited.received_at()), (lived.block(), None));
    }

    /// Fails if the audit does not count a message that the dead handle had just returned (seen
    /// failing). A join or the end of a closed queue would not wait for the message.
    #[test]
    fn what_the_dead_had_just_returned_is_counted() {
        let queue = queue();
        let port = port(&queue);
        recv(&port);
        let rare = &port.ring().control.rare;
        let counted = || (rare.returns.load(Relaxed), rare.due_returns.load(Relaxed));
        let (audited, _) = die_after(&queue, port, Verb::Return, |port| {
            let cell = port.cell(0).unwrap();
            assert!(port.give_back(cell, port.frame(cell).unwrap()).unwrap());
            // Undoes the counts of the live return.
            rare.returns.store(0, Relaxed);
            rare.due_returns.store(0, Relaxed);
        });
        assert!(!audited.is_held());
        assert_eq!(counted(), (1, 1));
    }
}

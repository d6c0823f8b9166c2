//! Joining: waiting until all that was sent before has been acknowledged.
//!
//! There is no counter, for a counter would leak with its owner. It follows from what the protocol
//! keeps anyway. A join waits in rounds; a round takes the position that the sends have reached
//! (`until`), and then asks:
//!
//! 1. have the receives passed `until`?
//! 2. is no record in the midst of a receive?
//! 3. does no cell hold a message received before `until`? A message that is owed is held.
//! 4. did no message that the join waits for go back into the ring meanwhile? Such a message lies at
//!    a new position: then a new round begins.
//!
//! In this order a message cannot slip through: what (1) shows received is announced in an op until
//! its cell says so ([message], [settle]), and a cell that gave it back shows free only after the
//! return was counted ([return]).
//!
//! **A join ends under steady traffic**, because (4) counts only messages that the join waits for. A
//! message keeps the position of its first receive, its *origin* (`frame.rs`). The join raises
//! `joined_before` to the position that the sends have reached, and each return counts itself as due
//! if its origin lies before that. A message sent after the join began is not counted, however often
//! it is returned. Two fences make the count exact ([due]): either the return sees `joined_before`,
//! or the join sees the position that the message went to, and waits for that.
//!
//! | edge | first | then | carries |
//! |---|---|---|---|
//! | [due] | a join: joined_before, fence | the slots, for `until` | one of the two sees the other: |
//! | [due] | a return: its exchange, fence | joined_before | the join that the return is for |
//!
//! A handle that announced a receive and lost the message to another one wakes the joiners, too, as
//! after an acknowledgement: they may have seen (2) of it.
//!
//! An acknowledgement is a plain store, too frequent for a fence of its own. So the joiner has the
//! kernel put a barrier into all threads of all attached processes (`membarrier`) between its
//! announcement and its look. Where that is refused a joiner may learn of the last acknowledgement
//! as late as by the watchdog.

use crate::error::Corrupt;
use crate::position::Position;
use crate::ring::Ring;
use crate::slot::{CellWord, OpWord, Verb};
use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::SeqCst, fence};

/// How often a look begins anew before the joiner rests.
const ROUNDS: u32 = 16;
/// How often a join tries to raise `joined_before`.
const RAISES: u32 = 1024;

/// What one join waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    until: Position,
    due_returns: u64,
}

impl Ring<'_> {
    pub(crate) fn begin_join(&self) -> Result<Join, Corrupt> {
        self.raise_joined_before(self.start(Verb::Send)?);
        fence(SeqCst); // [due]
        self.begin_round()
    }

    fn begin_round(&self) -> Result<Join, Corrupt> {
        // In this order: a return that is not counted yet is counted later.
        let due_returns = self.due_returns();
        Ok(Join { until: self.start(Verb::Send)?, due_returns })
    }

    /// Has returns of messages sent before `at` count as due.
    fn raise_joined_before(&self, at: Position) {
        let word = &self.control.rare.joined_before;
        let raise = |before| {
            let before = Position::from_low_bits(before);
            self.geometry.laps().is_before(before, at).then_some(at.bits())
        };
        // Each that fails was raised by another join meanwhile. A peer that scribbles could fail all.
        for _ in 0..RAISES {
            // Relaxed: [due] orders it.
            let before = word.load(Relaxed);
            let Some(raised) = raise(before) else { return };
            if word.compare_exchange(before, raised, Relaxed, Relaxed).is_ok() {
                return;
            }
        }
    }

    fn due_returns(&self) -> u64 {
        self.control.rare.due_returns.load(Acquire) // [return]
    }

    /// Whether all that `join` waits for is acknowledged.
    pub(crate) fn is_joined(&self, join: &mut Join) -> Result<bool, Corrupt> {
        for _ in 0..ROUNDS {
            if self.start(Verb::Recv)?.is_before(join.until)
                || self.is_in_hands(|cell| cell.is_held_before(join.until))
            {
                return Ok(false);
            }
            if self.due_returns() == join.due_returns {
                return Ok(true);
            }
            *join = self.begin_round()?;
        }
        Ok(false)
    }

    /// Whether a closed queue has ended: it `is_drained`, and no message is in any hands, so none can
    /// come back.
    pub(crate) fn has_ended(&self, is_drained: impl FnOnce() -> bool) -> bool {
        let returns = self.returns();
        is_drained() && !self.is_in_hands(CellWord::is_held) && self.returns() == returns
    }

    /// Whether any handle is in the midst of a receive, or has a cell that `counts`. One load of each
    /// record and of each cell.
    fn is_in_hands(&self, counts: impl Fn(CellWord) -> bool) -> bool {
        let ids = 0..self.geometry.handles();
        ids.zip(self.records).any(|(id, record)| {
            let op = OpWord::from_bits(record.op.load(Acquire)); // [announce-op], [settle]
            let row = self.cells_of(id).unwrap_or_default();
            let word = |cell: &AtomicU64| CellWord::from_bits(cell.load(Acquire)); // [settle]
            op.verb() == Some(Verb::Recv) || row.iter().any(|cell| counts(word(cell)))
        })
    }
}

#[cfg(not(loom))]
pub(crate) use barriers::{let_joiners_order_us, order_acknowledgements};

#[cfg(not(loom))]
mod barriers {
    use rustix::thread::{MembarrierCommand, membarrier};

    #[cfg(test)]
    thread_local! {
        /// The calls that the thread made.
        pub(super) static CALLS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }

    /// Has the barriers of joiners reach this process. Once would do; it is quick.
    pub(crate) fn let_joiners_order_us() {
        #[cfg(test)]
        CALLS.set(CALLS.get() + 1);
        // Where it is refused, joiners have their watchdog.
        let _ = membarrier(MembarrierCommand::RegisterGlobalExpedited);
    }

    /// Orders every acknowledgement of every attached process before this call, or its look at the
    /// gate after.
    pub(crate) fn order_acknowledgements() {
        #[cfg(test)]
        CALLS.set(CALLS.get() + 1);
        // As above.
        let _ = membarrier(MembarrierCommand::GlobalExpedited);
    }
}

#[cfg(all(test, not(any(loom, kill_points))))]
mod tests {
    use std::ops::ControlFlow;

    use super::barriers::CALLS;
    use crate::driver::WaitsFor;
    use crate::{Queue, Receiver};

    /// How many calls `act` makes.
    fn calls(act: impl FnOnce()) -> u32 {
        let before = CALLS.get();
        act();
        CALLS.get() - before
    }

    /// Fails if a handle does not have the barriers of others reach its process (seen failing).
    #[test]
    fn a_new_handle_lets_joiners_order_its_process() {
        let queue = Queue::builder().create().unwrap();
        assert_eq!(calls(|| drop(queue.sender().unwrap())), 1);
        assert_eq!(calls(|| drop(queue.receiver().unwrap())), 1);
    }

    /// x86 orders a store before a later load of another thread often enough to hide a barrier that is
    /// missing.
    ///
    /// Fails if a join, a wait for a lease, or a wait at the end of a closed queue looks without a
    /// barrier (each seen failing).
    #[test]
    fn each_look_for_an_acknowledgement_has_a_barrier() {
        let queue = Queue::builder().leases(1).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.try_send(b"job").unwrap();
        let mut joining = queue.joining();
        assert_eq!(calls(|| assert!(joining.attempt().is_none())), 1);
        let job = receiver.try_lease().unwrap();
        let side = receiver.side_for(WaitsFor::Lease);
        assert_eq!(calls(|| side.order()), 1);
        queue.close().unwrap();
        let mut other = queue.receiver().unwrap();
        let waits = || {
            let waits = other.answer(Receiver::try_recv);
            assert_eq!(waits, ControlFlow::Continue(WaitsFor::Message));
        };
        assert_eq!(calls(waits), 1);
        job.ack();
    }
}

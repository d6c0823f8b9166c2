//! Joining: waiting until all messages sent before are acknowledged.
//!
//! There is no counter, because a counter would leak when its owner dies. The words of the protocol
//! suffice. A join waits in rounds. A round stores the position that the sends have reached
//! (`until`), and then asks:
//!
//! 1. Have the receives passed `until`?
//! 2. Is no record in the midst of a receive?
//! 3. Does no cell hold a message received before `until`? An owed message is held.
//! 4. Did no message that the join waits for go back into the ring meanwhile? Such a message has a
//!    new position, so a new round begins.
//!
//! In this order no message is missed. A message that (1) shows received is announced in an op
//! until its cell shows it ([space], [settle]). A cell that returned its message shows free only
//! after the return was counted ([settle]).
//!
//! **A join ends under steady traffic**, because (4) counts only messages that the join waits for.
//! A message keeps the position of its first receive, its *origin* (`frame.rs`). The join raises
//! `joined_before` to the position that the sends have reached, and each return counts itself as
//! due if its origin lies before that. A message sent after the join began is not counted, however
//! often it is returned. Two fences make the count exact ([due]): either the return sees
//! `joined_before`, or the join sees the position that the message went to, and waits for that.
//!
//! | edge | first | then | carries |
//! |---|---|---|---|
//! | [due] | a join: joined_before, fence | the slots, for `until` | one of the two sees the other: |
//! | [due] | a return: its exchange, fence | joined_before | the join that the return is for |
//!
//! A handle that announced a receive and lost the message to another handle wakes the joiners, as
//! after an acknowledgement: (2) may have failed because of its announcement.
//!
//! An acknowledgement is a plain store, too frequent for a fence of its own. So between its
//! announcement and its next attempt the joiner has the kernel put a barrier into all threads of
//! all attached processes (`membarrier`). If the kernel refuses that, the joiner can miss the
//! wake-up of the last acknowledgement, and then ends by its watchdog.

use crate::error::Corrupt;
use crate::ring::position::Position;
use crate::ring::slot::{CellWord, OpWord, Verb};
use crate::ring::slots::Ring;
use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::SeqCst, fence};

/// Most rounds of one attempt, before the joiner sleeps.
const ROUNDS: u32 = 16;
/// Most attempts of a join to raise `joined_before`.
const RAISES: u32 = 1024;

/// One round of a join.
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
        // In this order: a return that is not in `due_returns` yet changes it later, and the slots
        // show each return that is in it.
        let due_returns = self.due_returns();
        Ok(Join { until: self.start(Verb::Send)?, due_returns })
    }

    /// Makes returns of messages sent before `at` count as due.
    fn raise_joined_before(&self, at: Position) {
        let word = &self.control.rare.joined_before;
        let raise = |before| {
            let before = Position::from_low_bits(before);
            self.geometry.laps().is_before(before, at).then_some(at.bits())
        };
        // An attempt fails because another join raised the word. A bound, because a peer that keeps
        // writing could fail all attempts.
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

    /// Whether all messages that `join` waits for are acknowledged.
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

    /// Whether a closed queue has ended: `is_drained` returns true, no handle holds or receives a
    /// message, and no message came back meanwhile.
    pub(crate) fn has_ended(&self, is_drained: impl FnOnce() -> bool) -> bool {
        let returns = self.returns();
        is_drained() && !self.is_in_hands(CellWord::is_held) && self.returns() == returns
    }

    /// How many messages are not acknowledged: those that wait, and those that handles hold. Exact if no
    /// handle sends, receives or acknowledges during the call.
    pub(crate) fn unacknowledged(&self) -> Result<u64, Corrupt> {
        let ids = 0..self.geometry.handles();
        let rows = ids.filter_map(|id| self.cells_of(id));
        // Relaxed: a count that is old when it is returned.
        let held = rows.flatten().filter(|it| CellWord::from_bits(it.load(Relaxed)).is_held());
        let held = held.count() as u64;
        Ok(self.len()?.saturating_add(held))
    }

    /// Whether any handle is in the midst of a receive, or has a cell for which `counts` is true.
    /// One load of each record and of each cell.
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

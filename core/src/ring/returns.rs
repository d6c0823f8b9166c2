//! Returns: messages that were received and go back.
//!
//! A return is a swap (`swap.rs`), one at a time in a handle: the lock of returns is held for it. A
//! message for which the ring has no room is *owed*, and stays in its cell.

use crate::error::{Corrupt, Fault};
use crate::ring::frame::Frame;
use crate::ring::port::{Cell, Port};
use crate::ring::position::Position;
use crate::ring::slot::Verb;
use crate::ring::slots::{Ring, Stop};
use crate::sync::{MutexGuard, fence};
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

impl<'a> Port<'a> {
    /// Sends the message in `cell`, a held one that the caller answers for, again, flagged as
    /// redelivered; `false` if the ring is full: the message is owed then. Its header was read as
    /// `frame`.
    ///
    /// # Errors
    /// Of a corrupt ring: the message stays in the cell.
    pub(crate) fn give_back(&self, cell: &Cell<'_>, frame: Frame) -> Result<bool, Fault> {
        let _returns = self.lock_returns();
        match self.give_back_alone(cell, frame) {
            Ok(()) => Ok(true),
            Err(Stop::Fault(fault)) => Err(fault),
            Err(Stop::NotNow | Stop::Closed) => {
                self.owe(cell);
                Ok(false)
            }
        }
    }

    /// Has the message in `cell`, a held one that the caller answers for, returned later.
    pub(crate) fn give_back_later(&self, cell: &Cell<'_>, frame: Frame) -> Result<(), Corrupt> {
        let _returns = self.lock_returns();
        self.flag(cell, frame)?;
        self.owe(cell);
        Ok(())
    }

    /// Whether some message is owed. Exact for the thread that owed or returned it last.
    #[inline]
    pub(crate) fn owes(&self) -> bool {
        // Relaxed: the lock of returns orders all that is done because of it.
        self.owed.load(Relaxed) != 0
    }

    /// Returns what is owed, as far as there is room, but for the cells that `waits` names: how many
    /// messages went.
    pub(crate) fn return_owed(&self, waits: impl Fn(usize) -> bool) -> usize {
        let _returns = self.lock_returns();
        self.give_each_back(|cell| cell.word().is_owed() && !waits(cell.number()), usize::MAX).0
    }

    /// Takes one owed message to be received again, unless `waits` names its cell.
    pub(crate) fn take_owed(&self, waits: impl Fn(usize) -> bool) -> Option<&Cell<'a>> {
        let _returns = self.lock_returns();
        let cell = self.cells.iter().find(|it| it.word().is_owed() && !waits(it.number()))?;
        self.owed.fetch_sub(1, Relaxed);
        cell.settle(cell.word().taken());
        // It came back, and is received once more, though it was not in the ring meanwhile.
        self.record.tally.redelivered.increment();
        self.record.tally.received.increment();
        Some(cell)
    }

    /// Whether [`take_owed`](Self::take_owed) would take one.
    pub(crate) fn can_take_owed(&self, waits: impl Fn(usize) -> bool) -> bool {
        self.owes() && self.cells.iter().any(|it| it.word().is_owed() && !waits(it.number()))
    }

    /// Gives all held messages back for which there is room; how many went and how many stay. Only
    /// for a port without leases.
    pub(crate) fn give_all_back(&self) -> (usize, usize) {
        self.give_back_most(usize::MAX)
    }

    /// The same of at most `most` messages.
    pub(crate) fn give_back_most(&self, most: usize) -> (usize, usize) {
        let _returns = self.lock_returns();
        self.give_each_back(|cell| cell.is_held(), most)
    }

    /// Owes all held messages. Only for a port without leases.
    pub(crate) fn owe_all(&self) {
        let _returns = self.lock_returns();
        for cell in self.cells.iter().filter(|cell| cell.is_held() && !cell.word().is_owed()) {
            match self.frame(cell).and_then(|frame| self.flag(cell, frame)) {
                Ok(()) => self.owe(cell),
                // Some process scribbled on it: there is no message to be saved.
                Err(_) => cell.acknowledge(),
            }
        }
    }

    /// The caller has the lock of returns. Of those that stay, the first is owed.
    #[expect(clippy::arithmetic_side_effects, reason = "counts of cells")]
    fn give_each_back(&self, which: impl Fn(&Cell<'a>) -> bool, most: usize) -> (usize, usize) {
        let (mut gone, mut left) = (0, 0);
        for cell in self.cells.iter().filter(|cell| which(cell)) {
            // A creator can make a record with a million cells. Where one message finds no room, the
            // next finds none either.
            if left > 0 || gone == most {
                left += 1;
                continue;
            }
            let was_owed = cell.word().is_owed();
            let frame = self.frame(cell);
            match frame.map(|frame| self.give_back_alone(cell, frame)) {
                Ok(Ok(())) => gone += 1,
                // Some process scribbled on it: there is no message to be saved.
                Err(_) => cell.acknowledge(),
                // A fault is the ring's: the message is whole, and waits.
                Ok(Err(_)) => {
                    left += 1;
                    if !was_owed {
                        self.owe(cell);
                    }
                    continue;
                }
            }
            if was_owed {
                self.owed.fetch_sub(1, Relaxed);
            }
        }
        (gone, left)
    }

    /// Flags the message in `cell` as returned, with the position of its first receive.
    pub(super) fn flag(&self, cell: &Cell<'_>, frame: Frame) -> Result<(), Corrupt> {
        let block = self.block_of(cell)?;
        if !frame.redelivered() {
            block.set_origin(cell.word().received_at());
        }
        block.set_frame(frame.returned());
        Ok(())
    }

    /// The caller has the lock of returns.
    fn owe(&self, cell: &Cell<'_>) {
        cell.settle(cell.word().owed());
        self.owed.fetch_add(1, Relaxed);
    }

    /// Counts one more attempt for the message in `cell`, which is about to be handed out.
    pub(crate) fn hand_out_again(&self, cell: &Cell<'_>, frame: Frame) -> Result<Frame, Corrupt> {
        let again = frame.handed_out();
        self.block_of(cell)?.set_frame(again);
        Ok(again)
    }

    fn lock_returns(&self) -> MutexGuard<'_, ()> {
        // What a panic could leave behind is whole: an exchange happened or it did not.
        self.returns.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Ring<'_> {
    /// Whether a message could go back now.
    pub(crate) fn has_room(&self) -> bool {
        self.start(Verb::Return).is_ok_and(|mut at| self.turn(Verb::Return, &mut at).is_ok())
    }

    /// A message went back into the ring, to a position that no join reckons with. A join that began
    /// after its first receive, at `origin`, need not wait for it.
    #[cold]
    pub(crate) fn count_return(&self, origin: Option<Position>) {
        let rare = &self.control.rare;
        rare.returns.fetch_add(1, Release); // [return]
        fence(SeqCst); // [due]
        let until = Position::from_low_bits(rare.joined_before.load(Relaxed));
        if origin.is_none_or(|origin| origin.is_before(until)) {
            // Relaxed: the fence releases it.
            rare.due_returns.fetch_add(1, Relaxed); // [return]
        }
    }

    pub(crate) fn returns(&self) -> u64 {
        self.control.rare.returns.load(Acquire) // [return]
    }
}

//! Returns: received messages that go back into the ring.
//!
//! A return is a swap (`swap.rs`). A handle makes one at a time, under its lock of returns. A
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
    /// Returns the message in `cell` to the ring, flagged as redelivered. The caller holds its one
    /// lease and has read its header as `frame`. `false` if the ring is full: the message is owed
    /// then.
    ///
    /// # Errors
    /// A corrupt ring: the message stays in the cell.
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

    /// Makes the message in `cell` owed, to be returned later. The caller holds its one lease.
    pub(crate) fn give_back_later(&self, cell: &Cell<'_>, frame: Frame) -> Result<(), Corrupt> {
        let _returns = self.lock_returns();
        self.flag(cell, frame)?;
        self.owe(cell);
        Ok(())
    }

    /// Whether the handle owes a message. Exact for the thread that last changed that.
    #[inline]
    pub(crate) fn owes(&self) -> bool {
        // Relaxed: the thread that acts on it takes the lock of returns first.
        self.owed.load(Relaxed) != 0
    }

    /// Returns owed messages while there is room, except those in cells for which `waits` is true.
    /// Returns how many went.
    pub(crate) fn return_owed(&self, waits: impl Fn(usize) -> bool) -> usize {
        let _returns = self.lock_returns();
        self.give_each_back(|cell| cell.word().is_owed() && !waits(cell.number()), usize::MAX).0
    }

    /// Takes one owed message to be received again, unless `waits` is true for its cell.
    pub(crate) fn take_owed(&self, waits: impl Fn(usize) -> bool) -> Option<&Cell<'a>> {
        let _returns = self.lock_returns();
        let cell = self.cells().find(|it| it.word().is_owed() && !waits(it.number()))?;
        self.no_longer_owes();
        cell.settle(cell.word().taken());
        // Counted as a return and a receive, though the message did not pass through the ring.
        self.record.tally.redelivered.increment();
        self.record.tally.received.increment();
        Some(cell)
    }

    /// Whether [`take_owed`](Self::take_owed) would take a message.
    pub(crate) fn can_take_owed(&self, waits: impl Fn(usize) -> bool) -> bool {
        self.owes() && self.cells().any(|it| it.word().is_owed() && !waits(it.number()))
    }

    /// Returns held messages while there is room: how many went and how many stay. Only for a port
    /// without leases.
    pub(crate) fn give_all_back(&self) -> (usize, usize) {
        self.give_back_most(usize::MAX)
    }

    /// The same for at most `most` messages.
    pub(crate) fn give_back_most(&self, most: usize) -> (usize, usize) {
        let _returns = self.lock_returns();
        self.give_each_back(|cell| cell.is_held(), most)
    }

    /// Makes all held messages owed. Only for a port without leases.
    pub(crate) fn owe_all(&self) {
        let _returns = self.lock_returns();
        for cell in self.cells().filter(|cell| cell.is_held() && !cell.word().is_owed()) {
            match self.frame(cell).and_then(|frame| self.flag(cell, frame)) {
                Ok(()) => self.owe(cell),
                // A peer has overwritten the header: there is no message to be saved.
                Err(_) => cell.acknowledge(),
            }
        }
    }

    /// Returns at most `most` of the messages for whose cells `which` is true. The first that finds
    /// no room becomes owed. The caller holds the lock of returns.
    #[expect(clippy::arithmetic_side_effects, reason = "counts of cells")]
    fn give_each_back(&self, which: impl Fn(&Cell<'a>) -> bool, most: usize) -> (usize, usize) {
        let (mut gone, mut left) = (0, 0);
        for cell in self.cells().filter(|cell| which(cell)) {
            // A record can have a million cells, so no attempt follows one that found no room.
            if left > 0 || gone == most {
                left += 1;
                continue;
            }
            let was_owed = cell.word().is_owed();
            let frame = self.frame(cell);
            match frame.map(|frame| self.give_back_alone(cell, frame)) {
                Ok(Ok(())) => gone += 1,
                // A peer has overwritten the header: there is no message to be saved.
                Err(_) => cell.acknowledge(),
                // Even after a fault of the ring the message is whole.
                Ok(Err(_)) => {
                    left += 1;
                    if !was_owed {
                        self.owe(cell);
                    }
                    continue;
                }
            }
            if was_owed {
                self.no_longer_owes();
            }
        }
        (gone, left)
    }

    /// Returns the message in `cell`. The caller holds the lock of returns.
    fn give_back_alone(&self, cell: &Cell<'_>, frame: Frame) -> Result<(), Stop> {
        self.flag(cell, frame)?;
        let mut at = self.start(Verb::Return)?;
        self.swap(Verb::Return, cell, &mut at).map(drop)
    }

    /// Flags the message in `cell` as returned, with the position of its first receive.
    fn flag(&self, cell: &Cell<'_>, frame: Frame) -> Result<(), Corrupt> {
        let block = self.block_of(cell)?;
        if !frame.redelivered() {
            block.set_origin(cell.word().received_at());
        }
        block.set_frame(frame.returned());
        Ok(())
    }

    /// Makes the message in `cell` owed. The caller holds the lock of returns.
    fn owe(&self, cell: &Cell<'_>) {
        cell.settle(cell.word().owed());
        self.owed.fetch_add(1, Relaxed);
        self.ring.condition.add_owed();
    }

    fn no_longer_owes(&self) {
        self.owed.fetch_sub(1, Relaxed);
        self.ring.condition.remove_owed();
    }

    /// Counts one more attempt for the message in `cell`, which is about to be handed out.
    pub(crate) fn hand_out_again(&self, cell: &Cell<'_>, frame: Frame) -> Result<Frame, Corrupt> {
        let again = frame.handed_out();
        self.block_of(cell)?.set_frame(again);
        Ok(again)
    }

    fn lock_returns(&self) -> MutexGuard<'_, ()> {
        // A panic leaves no partial state, because an exchange happened or it did not.
        self.returns.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Ring<'_> {
    /// Whether a message could go back now.
    pub(crate) fn has_room(&self) -> bool {
        self.start(Verb::Return).is_ok_and(|mut at| self.advance(Verb::Return, &mut at).is_ok())
    }

    /// Counts a message that went back into the ring, to a position that no join waits for yet. The
    /// return is due if a join began after the message was sent at `origin`, or if that is unknown.
    #[cold]
    pub(crate) fn count_return(&self, origin: Option<Position>) {
        let rare = &self.control.rare;
        rare.returns.fetch_add(1, Release); // [return]
        fence(SeqCst); // [due]
        let until = Position::from_low_bits(rare.joined_before.load(Relaxed));
        if origin.is_none_or(|origin| origin.is_before(until)) {
            // Relaxed: the fence above releases the exchange.
            rare.due_returns.fetch_add(1, Relaxed); // [return]
        }
    }

    pub(crate) fn returns(&self) -> u64 {
        self.control.rare.returns.load(Acquire) // [return]
    }
}

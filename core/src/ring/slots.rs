//! What a slot tells of a position: whether it is its turn, or how far the cursor must move.
//!
//! The committed positions are a prefix, for sends and for receives, and a slot shows which position
//! it has reached. So the first uncommitted position is found from the slots alone.

use crate::error::{Corrupt, Fault, TryRecvError, TrySendError};
use crate::ring::control::{Control, Record};
use crate::ring::finding::Finding;
use crate::ring::frame::Block;
use crate::ring::geometry::Geometry;
use crate::ring::position::{Lap, Laps, Position};
use crate::ring::slot::{BlockId, CellWord, SlotState, SlotWord, Verb};
use crate::sync::AtomicU64;
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release, kill_point};

/// How often an operation looks again before it calls the segment corrupt: the bound of every loop
/// here that a peer can keep going. A failed exchange means that another handle got through, so
/// honest peers come nowhere near it.
pub(super) const LOOKS: u32 = 1 << 16;
pub(super) const UNSETTLED: Corrupt = Corrupt { what: "the slots never settle" };

/// Why an operation did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Full for a sender, empty for a receiver: exact at the instant of the look.
    NotNow,
    Closed,
    Fault(Fault),
}

impl From<Corrupt> for Stop {
    fn from(corrupt: Corrupt) -> Self {
        Self::Fault(corrupt.into())
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Stop> for TrySendError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::NotNow => Self::Full(()),
            Stop::Closed => Self::Closed(()),
            Stop::Fault(fault) => Self::Fault((), fault),
        }
    }
}

impl From<Stop> for TryRecvError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::NotNow => Self::Empty,
            Stop::Closed => Self::Closed,
            Stop::Fault(fault) => Self::Fault(fault),
        }
    }
}

/// What a slot tells about a position.
enum Look {
    /// The position's turn: exchange here.
    Here,
    NotNow,
    Closed,
    /// Committed already, and so is everything up to the position named.
    Passed(Position),
    Nonsense,
}

/// The shared words of a queue, wherever they live: a mapping, or the heap.
#[derive(Clone, Copy)]
pub(crate) struct Ring<'a> {
    pub(crate) geometry: Geometry,
    pub(crate) finding: &'a Finding,
    pub(crate) control: &'a Control,
    pub(crate) slots: &'a [AtomicU64],
    pub(crate) records: &'a [Record],
    pub(crate) cells: &'a [AtomicU64],
    pub(crate) blocks: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    /// Moves the cursor to the position whose turn it is.
    pub(crate) fn turn(&self, verb: Verb, at: &mut Position) -> Result<(), Stop> {
        self.finding.check()?;
        for _ in 0..LOOKS {
            let (slot, seen) = self.look_at(*at)?;
            if self.is_turn(verb, seen, *at) {
                return Ok(());
            }
            self.step(verb, slot, seen, at)?;
        }
        Err(self.finding.keep(UNSETTLED).into())
    }

    /// Whether an exchange may be tried: the usual answer, and a short way to it. Why not is for
    /// `step` to tell.
    #[inline]
    pub(super) fn is_turn(&self, verb: Verb, seen: SlotWord, at: Position) -> bool {
        let lap = self.laps().lap(at);
        match verb {
            // The flag after the slot, and anew at each: a return can make a sealed slot full, and
            // then the next must not be sent to.
            Verb::Send => seen.is_at(lap, SlotState::Empty) && !self.is_closing(),
            Verb::Recv => seen.is_at(lap, SlotState::Full),
            Verb::Return => seen.is_at(lap, SlotState::Empty) || seen.is_at(lap, SlotState::Closed),
        }
    }

    /// Whether the turn is still to come and that is all: what most looks find of one who polls, and
    /// told at once.
    #[inline(always)]
    pub(super) fn is_early(&self, verb: Verb, seen: SlotWord, at: Position) -> bool {
        let lap = self.laps().lap(at);
        let (lap, state) = match verb {
            Verb::Send | Verb::Return => (lap.before(), SlotState::Full),
            Verb::Recv => (lap, SlotState::Empty),
        };
        seen.is_at(lap, state) && !self.is_closing()
    }

    /// Moves the cursor, or says why the operation cannot be.
    #[cold]
    pub(super) fn step(
        &self,
        verb: Verb,
        slot: &AtomicU64,
        seen: SlotWord,
        at: &mut Position,
    ) -> Result<(), Stop> {
        match (verb, self.look(verb, seen, *at)) {
            // While somebody asked to close, the first free slot is sealed by whoever finds it.
            (Verb::Send, Look::Here) | (Verb::Recv, Look::NotNow) if self.is_closing() => {
                self.seal(slot, seen);
            }
            // A sender that went on waiting for room could wait for ever.
            (Verb::Send, Look::NotNow) if self.is_closing() => return Err(Stop::Closed),
            (_, Look::Here) => {}
            (_, Look::NotNow) => return Err(Stop::NotNow),
            (_, Look::Closed) => return Err(Stop::Closed),
            (_, Look::Passed(passed)) => *at = self.frontier(verb, passed)?,
            // A cursor that slept through half of all laps, or a segment that somebody scribbled
            // on.
            (_, Look::Nonsense) => {
                let fresh = self.start(verb)?;
                if fresh == *at {
                    let behind = Corrupt { what: "a slot is behind its position" };
                    return Err(self.finding.keep(behind).into());
                }
                *at = fresh;
            }
        }
        Ok(())
    }

    /// Refuses all further sends: sets the flag that sends test, and seals the first free slot if
    /// there is one. While the ring is full the first receiver that finds it drained does that
    /// instead.
    pub(crate) fn close(&self) -> Result<(), Fault> {
        // Relaxed: the seal carries it ([closed]), and so do the wakes that follow ([bump]).
        self.control.rare.closing.store(1, Relaxed);
        match self.turn(Verb::Send, &mut self.start(Verb::Send)?) {
            Err(Stop::Fault(fault)) => Err(fault),
            Err(Stop::Closed | Stop::NotNow) | Ok(()) => Ok(()),
        }
    }

    /// Turns an empty slot into CLOSED. Whether or not the exchange was ours, the slot has changed.
    fn seal(&self, slot: &AtomicU64, seen: SlotWord) {
        let closed = SlotWord::new(seen.lap(), SlotState::Closed, seen.block());
        // [closed]
        let _ = slot.compare_exchange(seen.bits(), closed.bits(), Release, Relaxed);
        kill_point("exchanged");
    }

    /// Whether somebody asked to close. A send that begins after that is refused.
    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        // Relaxed: whoever is ordered after `close` sees it by coherence; nobody else need.
        self.control.rare.closing.load(Relaxed) != 0
    }

    /// How many messages are in the ring: right at some instant of the call if nobody else moves.
    pub(crate) fn len(&self) -> Result<u64, Corrupt> {
        let received = self.start(Verb::Recv)?;
        let sent = self.start(Verb::Send)?;
        // A send's frontier read later can be more than a ring ahead of the receive's read before.
        Ok(sent.minus(received).min(self.laps().capacity()))
    }

    /// Whether `verb` would find something to do, an end by close included. Quick if it is the turn
    /// of the position `at`.
    pub(crate) fn is_ready(&self, verb: Verb, at: Option<Position>) -> bool {
        let look = |at| self.look_at(at).map(|(_, seen)| self.look(verb, seen, at));
        let looked = match at.map(look) {
            Some(Ok(here @ (Look::Here | Look::NotNow))) => Ok(here),
            _ => self.start(verb).and_then(look),
        };
        // A corrupt segment is news for the waiter too.
        !matches!(looked, Ok(Look::NotNow)) || self.is_closing()
    }

    /// Where a handle with no cursor begins: the first position that `verb` has not committed.
    pub(crate) fn start(&self, verb: Verb) -> Result<Position, Corrupt> {
        let laps = self.laps();
        let (_, seen) = self.look_at(laps.start_of(Lap::new(0)))?;
        // One lap before the one that slot 0 is in: passed by sends and receives alike.
        let before = laps.shift(laps.start_of(seen.lap()), -1);
        match self.look(verb, seen, before) {
            Look::Passed(passed) => self.frontier(verb, passed),
            _ => Err(self.finding.keep(Corrupt { what: "slot 0 is in no known state" })),
        }
    }

    /// The first uncommitted position after `passed`, in steps that double and then halve.
    ///
    /// Right because the committed positions are a prefix and stay committed.
    fn frontier(&self, verb: Verb, mut passed: Position) -> Result<Position, Corrupt> {
        let is_passed = |at: Position| -> Result<bool, Corrupt> {
            let (_, seen) = self.look_at(at)?;
            Ok(matches!(self.look(verb, seen, at), Look::Passed(_)))
        };
        // At most as many looks as the capacity has bits, on the way up and on the way down.
        let mut step = 1u64;
        while step < self.laps().capacity() && is_passed(passed.plus(step))? {
            passed = passed.plus(step);
            step <<= 1;
        }
        while step > 1 {
            step /= 2;
            if is_passed(passed.plus(step))? {
                passed = passed.plus(step);
            }
        }
        Ok(passed.plus(1))
    }

    fn look(&self, verb: Verb, seen: SlotWord, at: Position) -> Look {
        let laps = self.laps();
        let ahead = seen.lap().ahead_of(laps.lap(at));
        match (verb, seen.state(), ahead) {
            (Verb::Send | Verb::Return, SlotState::Empty, 0)
            | (Verb::Return, SlotState::Closed, 0)
            | (Verb::Recv, SlotState::Full, 0) => Look::Here,
            (Verb::Send | Verb::Return, SlotState::Full, -1)
            | (Verb::Recv, SlotState::Empty, 0) => Look::NotNow,
            (_, SlotState::Closed, 0) => Look::Closed,
            (_, SlotState::Unknown, _) => Look::Nonsense,
            // FULL(lap) proves that lap sent; any state of a lap proves the lap before received.
            (Verb::Send | Verb::Return, SlotState::Full, 0..) => {
                Look::Passed(laps.shift(at, ahead))
            }
            (_, _, 1..) => Look::Passed(laps.shift(at, ahead.wrapping_sub(1))),
            _ => Look::Nonsense,
        }
    }

    #[inline]
    pub(super) fn look_at(&self, at: Position) -> Result<(&'a AtomicU64, SlotWord), Corrupt> {
        self.look_into(self.laps().index(at))
    }

    #[inline]
    pub(super) fn look_into(&self, slot: usize) -> Result<(&'a AtomicU64, SlotWord), Corrupt> {
        let slot = self.slots.get(slot).ok_or(Corrupt { what: "a position has no slot" })?;
        Ok((slot, SlotWord::from_bits(slot.load(Acquire)))) // [message], [space], [closed]
    }

    /// The words of a block that a peer named.
    #[inline]
    pub(crate) fn block(&self, id: BlockId) -> Result<Block<'a>, Corrupt> {
        let stride = self.geometry.block_words();
        let missing = Corrupt { what: "a word names a block that does not exist" };
        let from = self.blocks.get(id.index().wrapping_mul(stride)..).ok_or(missing)?;
        from.get(..stride).and_then(Block::new).ok_or(missing)
    }

    /// The cells of record `id`.
    pub(crate) fn cells_of(&self, id: u32) -> Option<&'a [AtomicU64]> {
        let from = (id as usize).wrapping_mul(self.geometry.cell_stride());
        self.cells.get(from..from.wrapping_add(self.geometry.cells()))
    }

    /// Writes the first state of a new segment: a block in every slot and in every cell.
    pub(crate) fn lay_out(&self) {
        let geometry = &self.geometry;
        let first = self.laps().start_of(Lap::new(0));
        for n in 0..geometry.capacity() as u32 {
            let (block, at) = (BlockId::new(n), first.plus(n.into()));
            let word = SlotWord::new(Lap::new(0), SlotState::Empty, block);
            // Relaxed, here and below: the segment is handed on by a system call.
            if let Some(slot) = self.slots.get(self.laps().index(at)) {
                slot.store(word.bits(), Relaxed);
            }
        }
        for (handle, row) in (0..).zip(self.cells.chunks(geometry.cell_stride())) {
            for (cell, word) in row.iter().take(geometry.cells()).enumerate() {
                let block = BlockId::new(geometry.first_block(handle as usize, cell));
                word.store(CellWord::free(block).bits(), Relaxed);
                if let Ok(block) = self.block(block) {
                    block.set_owner(geometry.cell_tag(handle, cell));
                }
            }
        }
    }

    #[inline]
    pub(super) fn laps(&self) -> Laps {
        self.geometry.laps()
    }
}

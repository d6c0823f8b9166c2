//! What a slot says about a position: the operation is possible here, or not yet, or the cursor
//! must move.
//!
//! The committed positions are a prefix, for sends and for receives, and a slot shows which
//! position it has reached. So the first uncommitted position is found from the slots alone.
//!
//! | the slot's state and lap | send | return | receive |
//! |---|---|---|---|
//! | EMPTY, the position's lap | here | here | not now |
//! | FULL, the position's lap | passed | passed | here |
//! | CLOSED, the position's lap | closed | here | closed |
//! | FULL, the lap before | not now | not now | nonsense |
//! | any of these, a later lap | passed | passed | passed |
//! | all else | nonsense | nonsense | nonsense |
//!
//! While the queue is closing, a send that finds "here" and a receive that finds "not now" seal the
//! slot. A send that finds "not now" is refused as closed.

use crate::error::{Corrupt, Fault, TryRecvError, TrySendError};
use crate::ring::arrays::{Blocks, Slots};
use crate::ring::condition::Condition;
use crate::ring::control::{Control, Record};
use crate::ring::frame::Block;
use crate::ring::geometry::Geometry;
use crate::ring::position::{Lap, Laps, Position};
use crate::ring::slot::{BlockId, CellWord, SlotState, SlotWord, Verb};
use crate::sync::AtomicU64;
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release, kill_point};

/// Most attempts of one operation before it calls the segment corrupt: the bound of every loop here
/// that a peer can prolong. A failed exchange means that another handle succeeded, so peers that
/// keep the protocol never come near it.
pub(super) const MAX_ATTEMPTS: u32 = 1 << 16;
pub(super) const NO_BLOCK: Corrupt = Corrupt { what: "a word names a block that does not exist" };
pub(super) const UNSETTLED: Corrupt = Corrupt { what: "the slots never settle" };

/// Why an operation did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Full for a sender, empty for a receiver: exact at the instant of the load.
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

/// What a slot says about a position, for one verb: see the table above.
enum Class {
    /// The operation can exchange at this slot.
    Here,
    NotNow,
    Closed,
    /// This position is committed, and so are all up to the one named.
    Passed(Position),
    Nonsense,
}

/// The shared words of a queue, in a mapping or on the heap. First what each swap needs.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ring<'a> {
    pub(crate) slots: Slots<'a>,
    pub(crate) blocks: Blocks<'a>,
    pub(crate) control: &'a Control,
    pub(crate) condition: &'a Condition,
    /// The word of `condition`.
    pub(crate) usual: &'a core::sync::atomic::AtomicU64,
    pub(crate) geometry: Geometry,
    pub(crate) records: &'a [Record],
    pub(crate) cells: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    /// Moves the cursor to the first position at which `verb` can exchange.
    pub(crate) fn advance(&self, verb: Verb, at: &mut Position) -> Result<(), Stop> {
        self.condition.check()?;
        for _ in 0..MAX_ATTEMPTS {
            let (_, seen) = self.load_at(*at)?;
            if self.can_exchange(verb, seen, self.laps().lap(*at)) {
                return Ok(());
            }
            self.step(verb, seen, at)?;
        }
        Err(self.condition.keep(UNSETTLED).into())
    }

    /// Whether an exchange can be tried: the usual answer, tested first. `step` finds the reason if
    /// not.
    #[inline(always)]
    pub(super) fn can_exchange(&self, verb: Verb, seen: SlotWord, lap: Lap) -> bool {
        match verb {
            // The flag is loaded after the slot, and again for each slot ([closed]): a return can
            // fill a sealed slot, and then no send may go to the next one.
            Verb::Send => seen.is_at(lap, SlotState::Empty) && !self.is_closing(),
            Verb::Recv => seen.is_at(lap, SlotState::Full),
            Verb::Return => seen.is_at(lap, SlotState::Empty) || seen.is_at(lap, SlotState::Closed),
        }
    }

    /// Whether the slot is not ready yet and the queue is not closing. A handle that polls finds
    /// this most often, so it is tested before `step`.
    #[inline(always)]
    pub(super) fn must_wait(&self, verb: Verb, seen: SlotWord, lap: Lap) -> bool {
        let (lap, state) = match verb {
            Verb::Send | Verb::Return => (lap.before(), SlotState::Full),
            Verb::Recv => (lap, SlotState::Empty),
        };
        seen.is_at(lap, state) && !self.is_closing()
    }

    /// Moves the cursor or seals the slot; an error if the operation is not possible now.
    #[cold]
    pub(super) fn step(&self, verb: Verb, seen: SlotWord, at: &mut Position) -> Result<(), Stop> {
        match (verb, self.classify(verb, seen, *at)) {
            // While the queue is closing, the handle that finds the first free slot seals it.
            (Verb::Send, Class::Here) | (Verb::Recv, Class::NotNow) if self.is_closing() => {
                self.seal(self.slots.at(*at).0, seen);
            }
            // A sender that waited for room in a closing queue could wait for ever.
            (Verb::Send, Class::NotNow) if self.is_closing() => return Err(Stop::Closed),
            (_, Class::Here) => {}
            (_, Class::NotNow) => return Err(Stop::NotNow),
            (_, Class::Closed) => return Err(Stop::Closed),
            (_, Class::Passed(passed)) => *at = self.frontier(verb, passed)?,
            // The cursor is half of all laps behind or more, or a peer wrote a wrong word into the
            // slot.
            (_, Class::Nonsense) => {
                let fresh = self.start(verb)?;
                if fresh == *at {
                    let behind = Corrupt { what: "a slot is behind its position" };
                    return Err(self.condition.keep(behind).into());
                }
                *at = fresh;
            }
        }
        Ok(())
    }

    /// Refuses all further sends: sets the flag that each send tests, and seals the first free
    /// slot. If the ring is full, the first receiver that finds it empty seals instead.
    pub(crate) fn close(&self) -> Result<(), Fault> {
        // Relaxed: the seal carries the flag ([closed]), and so do the wake-ups that follow
        // ([bump]).
        self.control.rare.closing.store(1, Relaxed);
        match self.advance(Verb::Send, &mut self.start(Verb::Send)?) {
            Err(Stop::Fault(fault)) => Err(fault),
            Err(Stop::Closed | Stop::NotNow) | Ok(()) => Ok(()),
        }
    }

    /// Turns an empty slot into CLOSED. If the exchange fails, another handle has changed the slot.
    fn seal(&self, slot: &AtomicU64, seen: SlotWord) {
        let closed = SlotWord::new(seen.lap(), SlotState::Closed, seen.block());
        // [closed]
        let _ = slot.compare_exchange(seen.bits(), closed.bits(), Release, Relaxed);
        kill_point("exchanged");
    }

    /// Whether the queue is closing. A send that begins later is refused.
    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        self.control.is_closing()
    }

    /// How many messages are in the ring. Exact if no other handle sends or receives meanwhile.
    pub(crate) fn len(&self) -> Result<u64, Corrupt> {
        let received = self.start(Verb::Recv)?;
        let sent = self.start(Verb::Send)?;
        // The position of sends is found later, so it can be more than a ring ahead of that of
        // receives.
        Ok(sent.minus(received).min(self.laps().capacity()))
    }

    /// Whether an operation would not have to wait: it would succeed, or find the queue closing or
    /// corrupt. Quick if the cursor `at` needs no move.
    pub(crate) fn is_ready(&self, verb: Verb, at: Option<Position>) -> bool {
        let class_at = |at| self.load_at(at).map(|(_, seen)| self.classify(verb, seen, at));
        let class = match at.map(class_at) {
            Some(Ok(here @ (Class::Here | Class::NotNow))) => Ok(here),
            _ => self.start(verb).and_then(class_at),
        };
        // An operation on a corrupt segment returns the fault and does not wait.
        !matches!(class, Ok(Class::NotNow)) || self.is_closing()
    }

    /// The first position that `verb` has not committed: where a handle without a cursor begins.
    pub(crate) fn start(&self, verb: Verb) -> Result<Position, Corrupt> {
        let laps = self.laps();
        let (_, seen) = self.load_at(laps.start_of(Lap::new(0)))?;
        // The position of slot 0 one lap earlier, which sends and receives have passed.
        let before = laps.shift(laps.start_of(seen.lap()), -1);
        match self.classify(verb, seen, before) {
            Class::Passed(passed) => self.frontier(verb, passed),
            _ => Err(self.condition.keep(Corrupt { what: "slot 0 is in no known state" })),
        }
    }

    /// The first uncommitted position after `passed`, in steps that double and then halve.
    ///
    /// Correct because the committed positions are a prefix and stay committed.
    fn frontier(&self, verb: Verb, mut passed: Position) -> Result<Position, Corrupt> {
        let is_passed = |at: Position| -> Result<bool, Corrupt> {
            let (_, seen) = self.load_at(at)?;
            Ok(matches!(self.classify(verb, seen, at), Class::Passed(_)))
        };
        // At most log2(capacity) loads on the way up, and as many on the way down.
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

    fn classify(&self, verb: Verb, seen: SlotWord, at: Position) -> Class {
        let laps = self.laps();
        let ahead = seen.lap().ahead_of(laps.lap(at));
        match (verb, seen.state(), ahead) {
            (Verb::Send | Verb::Return, SlotState::Empty, 0)
            | (Verb::Return, SlotState::Closed, 0)
            | (Verb::Recv, SlotState::Full, 0) => Class::Here,
            (Verb::Send | Verb::Return, SlotState::Full, -1)
            | (Verb::Recv, SlotState::Empty, 0) => Class::NotNow,
            (_, SlotState::Closed, 0) => Class::Closed,
            (_, SlotState::Unknown, _) => Class::Nonsense,
            // FULL(lap) proves that this lap was sent. Any state of a lap proves that the lap
            // before was received.
            (Verb::Send | Verb::Return, SlotState::Full, 0..) => {
                Class::Passed(laps.shift(at, ahead))
            }
            (_, _, 1..) => Class::Passed(laps.shift(at, ahead.wrapping_sub(1))),
            _ => Class::Nonsense,
        }
    }

    #[inline]
    pub(super) fn load_at(&self, at: Position) -> Result<(&'a AtomicU64, SlotWord), Corrupt> {
        let (slot, _) = self.slots.at(at);
        Ok((slot, SlotWord::from_bits(slot.load(Acquire)))) // [message], [space], [closed]
    }

    /// The words of block `id`. A peer can have named any number.
    #[inline(always)]
    pub(crate) fn block(&self, id: BlockId) -> Result<Block<'a>, Corrupt> {
        self.blocks.get(id).ok_or(NO_BLOCK)
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
            // Relaxed, here and below: other processes get the segment by a system call, which
            // orders these stores.
            self.slots.at(at).0.store(word.bits(), Relaxed);
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
        self.slots.laps()
    }
}

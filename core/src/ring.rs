//! The block-swap ring: the algorithm.
//!
//! A slot always holds one block, every handle owns some blocks, and an operation *swaps* one of
//! its blocks with the slot's by a single exchange. Before the exchange nothing has happened, after
//! it all has: there is no state in between for a killed or stopped process to leave behind.
//!
//! ```text
//! send:  write the message into a block of mine          nobody else reads it
//!        EMPTY(lap, gain)      -> FULL(lap, mine)        THE commit, the only locked instruction
//! recv:  FULL(lap, gain)       -> EMPTY(lap + 1, mine)   the message is in `gain`, which is mine now
//! close: EMPTY(lap, block)     -> CLOSED(lap, block)     nothing is ever sent here or after
//! return: as send, with a message that was received and not acknowledged; at CLOSED, too, for it
//!        was committed before the close: the next slot is sealed in its stead
//! ```
//!
//! **Nobody shares a head or a tail.** A handle keeps a private cursor, and the slots are the only
//! truth: a slot tells which position it has reached, and so whether the cursor must move.
//!
//! Invariants, on which FIFO, exact `Full` and exact `Empty` rest:
//! 1. A cursor never lies beyond the first uncommitted position: it moves only past positions that
//!    a slot showed committed. So the committed positions are a prefix, for sends and for receives.
//! 2. Every block is in exactly one slot or one cell. A swap keeps that.
//!
//! Before its exchange a handle announces in its record what it is about to do. That is for the audit
//! of the dead alone: did the dead own the block it offered, or the one it was about to gain?
//!
//! **A record has two such words**, `op` and `returning`, because a lease may be dropped on any thread
//! while the handle's own thread sends or receives. `op` belongs to that thread; returns take turns
//! behind a lock of the process. So the tag in a block names the *cell* that gained it: what one of a
//! record's exchanges gave away and the other one took back is then found to have moved.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [message] | send's exchange to FULL | recv's exchange | the frame and its payload |
//! | [space] | recv's exchange to EMPTY | send's exchange | the last read of the parked block |
//! | [closed] | the exchange to CLOSED | anybody's load of the slot, also when a return has filled it | `closing`: no send goes on past the slot |
//! | [announce-op] | op or returning = busy, before the exchange | an audit's load of it | which two blocks are in question |
//! | [settle] | op or returning = idle, after owner tag and cell | an audit's load of it | the owner tag and the cell |
//! | [return] | `returns` and `due_returns`, after the exchange and before the cell is free | `is_joined`, `has_ended` | a cell that is free again was acknowledged, or its return is counted |
//!
//! The exchange is SeqCst for the gates' sake: [announce] in `gate.rs` is its partner.

use crate::control::{Control, Record};
use crate::error::{Corrupt, Fault, TryRecvError, TrySendError};
use crate::finding::Finding;
use crate::frame::Block;
use crate::geometry::Geometry;
use crate::port::{Cell, Port};
use crate::position::{Lap, Laps, Position};
use crate::prefetch;
use crate::slot::{BlockId, CellWord, OpWord, SlotState, SlotWord, Verb};
use crate::sync::{AtomicU64, fence};
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

/// How often an operation looks again before it calls the segment corrupt: the bound of every loop
/// here that a peer can keep going. A failed exchange means that another handle got through, so
/// honest peers come nowhere near it.
const LOOKS: u32 = 1 << 16;
/// How many positions ahead, at most, a handle asks for the slot, and for the block that it will gain
/// there.
const MOST_AHEAD: u64 = 3;
const UNSETTLED: Corrupt = Corrupt { what: "the slots never settle" };

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
    /// Swaps the block in `cell` with the one of the first slot whose turn it is: commits the
    /// message in the cell, which holds an empty block then, or takes the oldest message into the
    /// cell. Returns the block that the cell has now.
    #[inline(always)] // so that the verb is a constant within
    pub(crate) fn swap(
        &self,
        verb: Verb,
        port: &Port<'_>,
        cell: &Cell<'_>,
        at: &mut Position,
    ) -> Result<Block<'a>, Stop> {
        // The usual case has no loop around it, for the sake of registers.
        match self.swap_once(verb, port, cell, at)? {
            Some(gained) => Ok(gained),
            None => self.swap_again(verb, port, cell, at),
        }
    }

    #[cold]
    fn swap_again(
        &self,
        verb: Verb,
        port: &Port<'_>,
        cell: &Cell<'_>,
        at: &mut Position,
    ) -> Result<Block<'a>, Stop> {
        self.finding.check()?;
        for _ in 0..LOOKS {
            if let Some(gained) = self.swap_once(verb, port, cell, at)? {
                return Ok(gained);
            }
        }
        Err(self.finding.keep(UNSETTLED).into())
    }

    /// Announces, exchanges, and settles who owns what. `None` when the slot was not, or is no
    /// longer, the one.
    #[inline(always)]
    fn swap_once(
        &self,
        verb: Verb,
        port: &Port<'_>,
        cell: &Cell<'_>,
        at: &mut Position,
    ) -> Result<Option<Block<'a>>, Stop> {
        let here = *at;
        let index = self.laps().index(here);
        let (slot, seen) = self.look_into(index)?;
        if !self.is_turn(verb, seen, here) {
            if self.is_early(verb, seen, here) {
                return Err(Stop::NotNow);
            }
            self.step(verb, slot, seen, at)?;
            return Ok(None);
        }
        let (offer, gain) = (cell.block(), seen.block());
        let block = self.block(gain).map_err(|corrupt| self.finding.keep(corrupt))?;
        // While the exchange waits for the slot's line.
        self.prefetch_block(gain);
        let (swapped, settled) = match verb {
            // [message]: the exchange releases the frame and its payload.
            Verb::Send | Verb::Return => {
                (SlotWord::new(seen.lap(), SlotState::Full, offer), CellWord::free(gain))
            }
            // [space]: the exchange releases our last read of the block we park.
            Verb::Recv => {
                let held = CellWord::held(gain, here);
                (SlotWord::new(seen.lap().next(), SlotState::Empty, offer), held)
            }
        };
        // Before the exchange: after it, the block may be another handle's.
        let origin = match verb {
            Verb::Send | Verb::Recv => None,
            Verb::Return => self.block(offer)?.origin(),
        };
        let op = port.record().announcement(verb);
        let busy = OpWord::busy(verb, cell.number(), index, gain);
        op.store(busy.bits(), Release); // [announce-op]
        // Relaxed on failure: the slot is looked at again.
        let won = slot.compare_exchange(seen.bits(), swapped.bits(), SeqCst, Relaxed).is_ok();
        if won {
            block.set_owner(cell.tag());
            match verb {
                Verb::Send => {
                    port.record().tally.sent.increment();
                    cell.settle(settled);
                }
                Verb::Recv => {
                    port.record().tally.received.increment();
                    cell.settle(settled);
                }
                Verb::Return => {
                    self.count_return(origin);
                    port.record().tally.redelivered.increment();
                    cell.tell(settled);
                }
            }
            *at = here.plus(1);
            self.look_ahead(port, seen, here);
        }
        op.store(OpWord::IDLE.bits(), Release); // [settle]
        if won && verb == Verb::Return {
            // Only now: the receiving thread may use the cell at once, and what it gains there must not be
            // taken for the offer of a return that is still announced.
            cell.settle(settled);
        }
        Ok(won.then_some(block))
    }

    /// Asks for the slot of a position after `here`, and for the block that is gained there, if the
    /// slot is by now as the one of `here` was when it was `seen`. One whose turn is not come yet is
    /// another's, who writes it, and its block: so who comes close to those it follows looks no farther
    /// than it looks next anyway, and who does not, farther each time.
    #[inline(always)]
    fn look_ahead(&self, port: &Port<'_>, seen: SlotWord, here: Position) {
        let ahead = port.ahead.load(Relaxed);
        let at = here.plus(ahead);
        let next = match self.look_at(at) {
            Ok((_, word)) if word.is_as(seen) => {
                self.prefetch_slot(at);
                self.prefetch_block(word.block());
                MOST_AHEAD.min(ahead.wrapping_add(1))
            }
            _ => 1,
        };
        port.ahead.store(next, Relaxed);
    }

    /// Has the line fetched that the slot of `at` lies in.
    #[inline(always)]
    pub(crate) fn prefetch_slot(&self, at: Position) {
        prefetch::to_write(self.slots, self.laps().index(at));
    }

    /// Has the lines fetched that a short message lies in.
    #[inline(always)]
    fn prefetch_block(&self, id: BlockId) {
        const LINE: usize = 64 / size_of::<u64>();
        let stride = self.geometry.block_words();
        let from = id.index().wrapping_mul(stride);
        prefetch::to_write(self.blocks, from);
        if stride > LINE {
            prefetch::to_write(self.blocks, from.wrapping_add(LINE));
        }
    }

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
    fn is_turn(&self, verb: Verb, seen: SlotWord, at: Position) -> bool {
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
    fn is_early(&self, verb: Verb, seen: SlotWord, at: Position) -> bool {
        let lap = self.laps().lap(at);
        let (lap, state) = match verb {
            Verb::Send | Verb::Return => (lap.before(), SlotState::Full),
            Verb::Recv => (lap, SlotState::Empty),
        };
        seen.is_at(lap, state) && !self.is_closing()
    }

    /// Moves the cursor, or says why the operation cannot be.
    #[cold]
    fn step(
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
    }

    /// Whether somebody asked to close. A send that begins after that is refused.
    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        // Relaxed: whoever is ordered after `close` sees it by coherence; nobody else need.
        self.control.rare.closing.load(Relaxed) != 0
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
    fn look_at(&self, at: Position) -> Result<(&'a AtomicU64, SlotWord), Corrupt> {
        self.look_into(self.laps().index(at))
    }

    #[inline]
    fn look_into(&self, slot: usize) -> Result<(&'a AtomicU64, SlotWord), Corrupt> {
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
    fn laps(&self) -> Laps {
        self.geometry.laps()
    }
}

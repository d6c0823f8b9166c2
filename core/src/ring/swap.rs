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
//! The exchange is SeqCst for the gates' sake: [announce] in `wait/gate.rs` is its partner.

use crate::ring::frame::{Block, Frame};
use crate::ring::port::{Cell, Port, SEND_CELL};
use crate::ring::position::Position;
use crate::ring::slot::{CellWord, OpWord, SlotState, SlotWord, Verb};
use crate::ring::slots::{LOOKS, Ring, Stop, UNSETTLED};
use crate::sync::{Ordering::Relaxed, Ordering::Release, Ordering::SeqCst, kill_point};

impl<'a> Port<'a> {
    /// Commits what is in the cell of sends, which holds an empty block then.
    #[inline]
    pub(crate) fn send(&self, at: &mut Position) -> Result<(), Stop> {
        self.ring.swap(Verb::Send, self, self.cell(SEND_CELL)?, at).map(drop)
    }

    /// Takes the oldest message into `cell`, a free one, and returns its block. Calls `on_lost` when
    /// it announced that and there was none left: a joiner that saw it waits for us.
    #[inline]
    pub(crate) fn recv(
        &self,
        cell: &Cell<'_>,
        at: &mut Position,
        on_lost: impl FnOnce(),
    ) -> Result<Block<'a>, Stop> {
        let began_at = *at;
        self.ring.swap(Verb::Recv, self, cell, at).inspect_err(|_| {
            // An exchange is lost to who took the message: the cursor went past it.
            if *at != began_at {
                on_lost();
            }
        })
    }

    /// The caller has the lock of returns.
    pub(super) fn give_back_alone(&self, cell: &Cell<'_>, frame: Frame) -> Result<(), Stop> {
        self.flag(cell, frame)?;
        let mut at = self.start(Verb::Return)?;
        self.ring.swap(Verb::Return, self, cell, &mut at).map(drop)
    }
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
            kill_point("exchanged");
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
}

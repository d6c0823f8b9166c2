//! The block-swap ring: the algorithm.
//!
//! A slot always holds one block, every handle owns some blocks, and an operation *swaps* one of
//! its blocks with the slot's by a single exchange. Before the exchange nothing has happened, after
//! it all has: a killed or stopped process leaves no state in between.
//!
//! ```text
//! send:  write the message into a block of mine          no other handle reads it
//!        EMPTY(lap, gain)      -> FULL(lap, mine)        the commit: the only locked instruction
//! recv:  FULL(lap, gain)       -> EMPTY(lap + 1, mine)   the message is in `gain`, mine now
//! close: EMPTY(lap, block)     -> CLOSED(lap, block)     nothing is sent here or after
//! return: as send, with a message that was received and not acknowledged. Also at CLOSED, because
//!        the message was committed before the close. The next free slot is then sealed instead.
//! ```
//!
//! **There is no shared head or tail.** A handle keeps a private cursor, and the slots are the only
//! truth. A slot shows which position it has reached, and so whether the cursor must move.
//!
//! Invariants, on which FIFO, exact `Full` and exact `Empty` rest:
//! 1. A cursor never lies beyond the first uncommitted position: it moves only past positions that
//!    a slot showed committed. So the committed positions are a prefix, for sends and for receives.
//! 2. Every block is in exactly one slot or one cell. A swap keeps that.
//!
//! Before its exchange a handle announces in its record which block it offers and which it is about
//! to gain. If the handle dies, an audit finds out from that which of the two it owned.
//!
//! **A record has two such words**, `op` and `returning`, because a lease can be dropped on any
//! thread while the handle's own thread sends or receives. `op` belongs to the handle's thread.
//! `returning` belongs to the thread that holds the process's lock of returns. The tag in a block
//! names the *cell* that gained it. So an audit sees that a block moved, even if one exchange of a
//! record gave it away and the record's other exchange took it back.
//!
//! **Ids.** The id of a message is the number of its sender's record, in as many upper bits as the
//! queue has handles for, and the number of the message in that record: the tally of sends, which
//! goes on over the owners of the record. The number is reserved before the exchange, in this order:
//! the id is stored in the block, the tally is increased, the exchange is announced (which releases
//! both) and made. So wherever a sender is killed, the tally is beyond the number of each message
//! that is in the ring, and no audit has to find out whether one counts. A death before the exchange
//! leaves a number that no message has. After a lost exchange the tally is decreased again, and the
//! next attempt has the same number. Nothing else writes the id: a message keeps it over all returns.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [message] | send's exchange to FULL | recv's exchange | the frame and its payload |
//! | [space] | recv's exchange to EMPTY | send's exchange | the last read of the parked block |
//! | [closed] | the exchange to CLOSED | any later load of the slot, also after a return has filled it | `closing`: no send goes on past the slot |
//! | [announce-op] | op or returning = busy, before the exchange | an audit's or a join's load of it | which two blocks are in question, the owner tags of the word's earlier exchanges, and the tally of sends |
//! | [settle] | op or returning = idle, after owner tag and cell; the cell's shared word, after the count of its return | an audit's or a join's load of it | the owner tag, the cell, the count |
//! | [return] | `returns` and `due_returns`, after the exchange and before the cell is free | a join's and `has_ended`'s load of the count | the exchange: the slots show the message of each return that is counted |
//!
//! The exchange is SeqCst because it is the commit of the gates: its partner is [announce] in
//! `wait/gate.rs`.

use crate::ring::frame::Block;
use crate::ring::port::{Cell, Port};
use crate::ring::position::Position;
use crate::ring::slot::{BlockId, CellWord, OpWord, SlotState, SlotWord, Verb};
use crate::ring::slots::{MAX_ATTEMPTS, NO_BLOCK, Stop, UNSETTLED};
use crate::sync::{
    AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
    kill_point,
};

/// What one attempt of a swap came to. A call whose usual case has to be quick makes the first attempt
/// itself, by [`Port::swap_once`].
pub(crate) enum Swapped<'a> {
    /// The block that the cell holds now, and its number.
    Done(Block<'a>, BlockId),
    /// Full for a sender, empty for a receiver: exact at the instant of the load.
    NotNow,
    /// The cursor has to move, or the slot to be sealed.
    Unready(SlotWord),
    /// Another handle changed the slot first.
    Lost,
}

impl<'a> Port<'a> {
    /// Commits the message in `cell`, that of sends, which holds an empty block afterwards.
    pub(crate) fn send(&self, cell: &Cell<'_>, at: &mut Position) -> Result<(), Stop> {
        self.block_of(cell)?.set_id(self.next_id());
        self.swap(Verb::Send, cell, at).map(drop)
    }

    /// Takes the oldest message into `cell`, a free one, and returns its block. Calls `on_lost` if
    /// it announced a receive and another handle took the message: a joiner that saw the
    /// announcement waits for this handle.
    pub(crate) fn recv(
        &self,
        cell: &Cell<'_>,
        at: &mut Position,
        on_lost: impl FnOnce(),
    ) -> Result<Block<'a>, Stop> {
        let began_at = *at;
        self.swap(Verb::Recv, cell, at).inspect_err(|_| {
            // A lost exchange moves the cursor past the message that the other handle took.
            if *at != began_at {
                on_lost();
            }
        })
    }

    /// Swaps the block in `cell` with that of the first slot that is ready for `verb`. A send or a
    /// return commits the message in the cell, which holds an empty block afterwards. A receive
    /// takes the oldest message into the cell. Returns the block that the cell holds now.
    #[cold]
    pub(super) fn swap(
        &self,
        verb: Verb,
        cell: &Cell<'_>,
        at: &mut Position,
    ) -> Result<Block<'a>, Stop> {
        for _ in 0..MAX_ATTEMPTS {
            self.ring.condition.check()?;
            match self.swap_once(verb, cell, cell.block(), at, self.ring.slots.at(*at)) {
                Swapped::Done(block, _) => return Ok(block),
                Swapped::NotNow => return Err(Stop::NotNow),
                Swapped::Unready(seen) => self.ring.step(verb, seen, at)?,
                Swapped::Lost => {}
            }
        }
        Err(self.ring.condition.keep(UNSETTLED).into())
    }

    /// Announces, exchanges the block of `cell`, which is `offer`, at the slot of `at`, and records
    /// the new owners. The message of a send has its id already.
    #[inline(always)] // so that `verb` is a constant here
    pub(crate) fn swap_once(
        &self,
        verb: Verb,
        cell: &Cell<'_>,
        offer: BlockId,
        at: &mut Position,
        (slot, index): (&AtomicU64, usize),
    ) -> Swapped<'a> {
        let ring = &self.ring;
        let here = *at;
        let lap = ring.slots.laps().lap(here);
        let seen = SlotWord::from_bits(slot.load(Acquire)); // [message], [space], [closed]
        if !ring.can_exchange(verb, seen, lap) {
            let must_wait = ring.must_wait(verb, seen, lap);
            return if must_wait { Swapped::NotNow } else { Swapped::Unready(seen) };
        }
        let gain = seen.block();
        let Some(block) = ring.blocks.get(gain) else {
            // The next attempt reports it.
            ring.condition.keep(NO_BLOCK);
            return Swapped::Lost;
        };
        // The block's cache lines load while the exchange waits for the slot's.
        ring.blocks.prefetch(gain);
        let (swapped, settled) = match verb {
            // [message]: the exchange releases the frame and its payload.
            Verb::Send | Verb::Return => {
                (SlotWord::new(lap, SlotState::Full, offer), CellWord::free(gain))
            }
            // [space]: the exchange releases our last read of the block we park.
            Verb::Recv => {
                let held = CellWord::held(gain, here);
                (SlotWord::new(lap.next(), SlotState::Empty, offer), held)
            }
        };
        // Before the exchange, because afterwards another handle can own the block.
        let origin = match verb {
            Verb::Send | Verb::Recv => None,
            Verb::Return => ring.blocks.get(offer).and_then(|block| block.origin()),
        };
        if verb == Verb::Send {
            // Reserves the number of the message.
            self.record.tally.sent.increment();
        }
        let op = self.record.announcement(verb);
        let busy = cell.announced().busy(verb, index, gain);
        op.store(busy.bits(), Release); // [announce-op]
        // SeqCst: [message] or [space], and the commit of [announce]. Relaxed on failure: the next
        // attempt loads the slot again.
        if slot.compare_exchange(seen.bits(), swapped.bits(), SeqCst, Relaxed).is_err() {
            if verb == Verb::Send {
                self.record.tally.sent.decrement();
            }
            end_announcement(op);
            return Swapped::Lost;
        }
        kill_point("exchanged");
        block.set_owner(cell.tag());
        match verb {
            Verb::Send => cell.settle(settled),
            Verb::Recv => {
                self.record.tally.received.increment();
                cell.settle(settled);
            }
            Verb::Return => {
                ring.count_return(origin);
                self.record.tally.redelivered.increment();
                cell.tell(settled);
            }
        }
        *at = here.plus(1);
        self.prefetch_ahead(seen, here);
        end_announcement(op);
        if verb == Verb::Return {
            // Only after the word is idle: the receiving thread can use a free cell at once. An
            // audit must not take the block that it gains there for the offer of this return.
            cell.settle(settled);
        }
        Swapped::Done(block, gain)
    }
}

/// Makes `op` idle, after a lost exchange too: an audit that loads this value has to see the owner tags of
/// the word's earlier exchanges.
#[inline(always)]
fn end_announcement(op: &AtomicU64) {
    op.store(OpWord::IDLE.bits(), Release); // [settle]
}

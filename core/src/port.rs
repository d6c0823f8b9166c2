//! A port: one handle's place at the ring, its record and the cells with the blocks it owns.
//!
//! A cell always holds exactly one block: free, or *held* by a message that is not yet
//! acknowledged. Cell and record are written by their owner alone; the shared copy is for an audit,
//! and the private copy is the one we believe, since a peer could have scribbled on the other.

use crate::control::Record;
use crate::error::{Corrupt, Fault};
use crate::frame::{Block, Frame};
use crate::position::Position;
use crate::ring::{Ring, Stop};
use crate::slot::{BlockId, CellWord, Verb};
use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Release};

/// The cell of all sends: a sender never holds a message.
const SEND_CELL: usize = 0;

/// One handle's place at the ring. At most one operation at a time may use it; acknowledging is
/// free.
pub(crate) struct Port<'a> {
    ring: Ring<'a>,
    id: u32,
    record: &'a Record,
    cells: Box<[Cell<'a>]>,
    /// How many positions ahead the next operation looks: a hint of the ring's, for its own use.
    pub(crate) ahead: core::sync::atomic::AtomicU64,
}

/// A cell of ours.
pub(crate) struct Cell<'a> {
    number: usize,
    shared: &'a AtomicU64,
    mine: AtomicU64,
}

impl Cell<'_> {
    #[inline]
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    #[inline]
    pub(crate) fn block(&self) -> BlockId {
        self.word().block()
    }

    #[inline]
    fn is_held(&self) -> bool {
        self.word().is_held()
    }

    /// Makes the cell free again: its message needs no redelivery.
    #[inline]
    pub(crate) fn acknowledge(&self) {
        self.settle(CellWord::free(self.block()));
    }

    /// Records what the cell holds now.
    #[inline]
    pub(crate) fn settle(&self, word: CellWord) {
        // Release: the next user of the cell comes after the last read of its block.
        self.shared.store(word.bits(), Release);
        self.mine.store(word.bits(), Release);
    }

    #[inline]
    fn word(&self) -> CellWord {
        CellWord::from_bits(self.mine.load(Acquire))
    }
}

impl<'a> Port<'a> {
    /// Takes over record `id`, whose byte lock the caller owns, and settles what its last owner left
    /// open. `None` if that must wait for another handle: see `audit.rs`.
    ///
    /// Cells may be held: what the last owner received and did not acknowledge.
    pub(crate) fn take_over(ring: Ring<'a>, id: u32) -> Result<Option<Self>, Corrupt> {
        let missing = Corrupt { what: "a record does not exist" };
        let record = ring.records.get(id as usize).ok_or(missing)?;
        let shared = ring.cells_of(id).ok_or(missing)?;
        let mut cells = Vec::with_capacity(shared.len());
        for (number, shared) in shared.iter().enumerate() {
            let word = CellWord::from_bits(shared.load(Acquire)); // [settle]
            ring.block(word.block())?;
            cells.push(Cell { number, shared, mine: AtomicU64::new(word.bits()) });
        }
        let (cells, ahead) = (cells.into_boxed_slice(), 1.into());
        let port = Self { ring, id, record, cells, ahead };
        Ok(ring.audit(&port)?.then_some(port))
    }

    pub(crate) fn ring(&self) -> &Ring<'a> {
        &self.ring
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn record(&self) -> &'a Record {
        self.record
    }

    pub(crate) fn start(&self, verb: Verb) -> Result<Position, Corrupt> {
        self.ring.start(verb)
    }

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

    /// A free cell, the first from `hint` on, that leaves `spare` others free.
    #[inline]
    pub(crate) fn free_cell(&self, hint: usize, spare: usize) -> Result<&Cell<'a>, Fault> {
        match self.cells.get(hint) {
            Some(cell) if spare == 0 && !cell.is_held() => Ok(cell),
            _ => self.find_free_cell(hint, spare),
        }
    }

    fn find_free_cell(&self, hint: usize, spare: usize) -> Result<&Cell<'a>, Fault> {
        let (before, after) = self.cells.split_at(hint.min(self.cells.len()));
        let mut free = after.iter().chain(before).filter(|cell| !cell.is_held());
        let first = free.next();
        let enough = spare == 0 || free.nth(spare.wrapping_sub(1)).is_some();
        let out = Fault::LeasesOut { max: self.cells.len().saturating_sub(1) };
        first.filter(|_| enough).ok_or(out)
    }

    /// Makes cell `number` free again: its message needs no redelivery.
    pub(crate) fn acknowledge(&self, number: usize) {
        if let Ok(cell) = self.cell(number) {
            cell.acknowledge();
        }
    }

    /// The cells with messages that are not acknowledged.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Cell<'a>> {
        self.cells.iter().filter(|cell| cell.is_held())
    }

    /// Sends the message in `cell`, whose header was read as `frame`, again, flagged as redelivered.
    /// Refused only while the ring is full: it stays in the cell then.
    pub(crate) fn give_back(&self, cell: &Cell<'_>, frame: Frame) -> Result<(), Stop> {
        self.block_of(cell)?.set_frame(frame.returned());
        let mut at = self.start(Verb::Return)?;
        self.ring.swap(Verb::Return, self, cell, &mut at).map(drop)
    }

    /// Gives all held messages back for which there is room; how many went and how many stay.
    #[expect(clippy::arithmetic_side_effects, reason = "counts of cells")]
    pub(crate) fn give_all_back(&self) -> (usize, usize) {
        let (mut gone, mut left) = (0, 0);
        for cell in self.held() {
            // Somebody scribbled on it: there is no message to be saved.
            let Ok(frame) = self.frame(cell) else {
                cell.acknowledge();
                continue;
            };
            match self.give_back(cell, frame) {
                Ok(()) => gone += 1,
                // A fault is the ring's: the message is whole, and waits.
                Err(_) => left += 1,
            }
        }
        (gone, left)
    }

    /// Writes a whole message into the block of the cell of sends, which nobody else reads.
    #[inline]
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        let block = self.unsent()?;
        block.set_frame(self.frame_of(bytes.len())?);
        block.write(bytes);
        Ok(())
    }

    /// The header of a new message of `len` bytes.
    #[inline]
    pub(crate) fn frame_of(&self, len: usize) -> Result<Frame, Fault> {
        let max = self.ring.geometry.max_message();
        match u32::try_from(len) {
            Ok(short) if len <= max => Ok(Frame::first(short)),
            _ => Err(Fault::MessageTooLarge { len, max }),
        }
    }

    /// The header of the message in `cell`, checked. Who has it works with this copy, and does not
    /// read it again: a peer may have changed it.
    #[inline]
    pub(crate) fn frame(&self, cell: &Cell<'_>) -> Result<Frame, Corrupt> {
        self.block_of(cell)?.frame(self.ring.geometry.max_message())
    }

    /// Counts one more attempt for the message in `cell`, which is about to be handed out.
    pub(crate) fn hand_out_again(&self, cell: &Cell<'_>, frame: Frame) -> Result<Frame, Corrupt> {
        let again = frame.handed_out();
        self.block_of(cell)?.set_frame(again);
        Ok(again)
    }

    /// The block of the next message to be sent.
    #[inline]
    pub(crate) fn unsent(&self) -> Result<Block<'a>, Corrupt> {
        self.block_of(self.cell(SEND_CELL)?)
    }

    #[inline]
    pub(crate) fn block_of(&self, cell: &Cell<'_>) -> Result<Block<'a>, Corrupt> {
        self.ring.block(cell.block())
    }

    #[inline]
    pub(crate) fn cell(&self, number: usize) -> Result<&Cell<'a>, Corrupt> {
        self.cells.get(number).ok_or(Corrupt { what: "a handle has no such cell" })
    }
}

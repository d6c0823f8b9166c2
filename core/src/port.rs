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
pub(crate) const SEND_CELL: usize = 0;

/// One handle's place at the ring. At most one operation at a time may use it; acknowledging is
/// free.
pub(crate) struct Port<'a> {
    ring: Ring<'a>,
    id: u32,
    record: &'a Record,
    shared: &'a [AtomicU64],
    cells: Box<[AtomicU64]>,
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
        for word in shared {
            let cell = CellWord::from_bits(word.load(Acquire)); // [settle]
            ring.block(cell.block())?;
            cells.push(AtomicU64::new(cell.bits()));
        }
        let port = Self { ring, id, record, shared, cells: cells.into_boxed_slice() };
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

    /// Commits what is in `cell`, which holds an empty block then.
    #[inline]
    pub(crate) fn send(&self, cell: usize, at: &mut Position) -> Result<(), Stop> {
        self.ring.swap(Verb::Send, self, cell, at)
    }

    /// Takes the oldest message into `cell`, a free one. Calls `on_lost` when it announced that and
    /// there was none left: a joiner that saw it waits for us.
    #[inline]
    pub(crate) fn recv(
        &self,
        cell: usize,
        at: &mut Position,
        on_lost: impl FnOnce(),
    ) -> Result<(), Stop> {
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
    pub(crate) fn free_cell(&self, hint: usize, spare: usize) -> Result<usize, Fault> {
        let is_free = |cell: &usize| self.cell(*cell).is_some_and(|cell| !cell.is_held());
        let mut free = (hint..self.cells.len()).chain(0..hint).filter(is_free);
        let first = free.next();
        let enough = spare == 0 || free.nth(spare.wrapping_sub(1)).is_some();
        let out = Fault::LeasesOut { max: self.cells.len().saturating_sub(1) };
        first.filter(|_| enough).ok_or(out)
    }

    /// The cells with messages that are not acknowledged.
    pub(crate) fn held(&self) -> impl Iterator<Item = usize> {
        let is_held = |cell: &usize| self.cell(*cell).is_some_and(CellWord::is_held);
        (0..self.cells.len()).filter(is_held)
    }

    /// Sends the message in `cell`, whose header was read as `frame`, again, flagged as redelivered.
    /// Refused only while the ring is full: it stays in the cell then.
    pub(crate) fn give_back(&self, cell: usize, frame: Frame) -> Result<(), Stop> {
        self.block(cell)?.set_frame(frame.returned());
        let mut at = self.start(Verb::Return)?;
        self.ring.swap(Verb::Return, self, cell, &mut at)
    }

    /// Gives all held messages back for which there is room; how many went and how many stay.
    #[expect(clippy::arithmetic_side_effects, reason = "counts of cells")]
    pub(crate) fn give_all_back(&self) -> (usize, usize) {
        let (mut gone, mut left) = (0, 0);
        for cell in self.held() {
            // Somebody scribbled on it: there is no message to be saved.
            let Ok(frame) = self.frame(cell) else {
                self.acknowledge(cell);
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

    /// Makes `cell` free again: its message needs no redelivery.
    #[inline]
    pub(crate) fn acknowledge(&self, cell: usize) {
        self.settle(cell, CellWord::free(self.block_in(cell)));
    }

    /// Writes a whole message into the block of `cell`, which nobody else reads.
    #[inline]
    pub(crate) fn write(&self, cell: usize, bytes: &[u8]) -> Result<(), Fault> {
        let block = self.block(cell)?;
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
    pub(crate) fn frame(&self, cell: usize) -> Result<Frame, Corrupt> {
        self.block(cell)?.frame(self.ring.geometry.max_message())
    }

    /// Counts one more attempt for the message in `cell`, which is about to be handed out.
    pub(crate) fn hand_out_again(&self, cell: usize, frame: Frame) -> Result<Frame, Corrupt> {
        let again = frame.handed_out();
        self.block(cell)?.set_frame(again);
        Ok(again)
    }

    #[inline]
    pub(crate) fn block(&self, cell: usize) -> Result<Block<'a>, Corrupt> {
        self.ring.block(self.block_in(cell))
    }

    #[inline]
    pub(crate) fn block_in(&self, cell: usize) -> BlockId {
        self.cell(cell).map_or(BlockId::NONE, CellWord::block)
    }

    /// Records what `cell` holds now.
    #[inline]
    pub(crate) fn settle(&self, cell: usize, word: CellWord) {
        if let (Some(mine), Some(shared)) = (self.cells.get(cell), self.shared.get(cell)) {
            // Release: the next user of the cell comes after the last read of its block.
            shared.store(word.bits(), Release);
            mine.store(word.bits(), Release);
        }
    }

    #[inline]
    fn cell(&self, cell: usize) -> Option<CellWord> {
        self.cells.get(cell).map(|word| CellWord::from_bits(word.load(Acquire)))
    }
}

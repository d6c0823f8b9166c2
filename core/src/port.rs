//! A port: one handle's place at the ring, its record and the cells with the blocks it owns.
//!
//! A cell always holds exactly one block: free, or *held* by a message that is not yet
//! acknowledged. Cell and record are written by their owner alone; the shared copy is for an audit,
//! and the private copy is the one we believe, since a peer could have scribbled on the other.

use crate::error::{Corrupt, Fault};
use crate::frame::{Block, Frame};
use crate::position::Position;
use crate::ring::{Record, Ring, Stop};
use crate::slot::{BlockId, CellWord, OpWord, Verb};
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
    /// Takes over record `id`, whose byte lock the caller owns. `None` if its last owner died in
    /// the midst of something: such a record waits for an audit.
    pub(crate) fn take_over(ring: Ring<'a>, id: u32) -> Result<Option<Self>, Corrupt> {
        let missing = Corrupt { what: "a record does not exist" };
        let index = id as usize;
        let record = ring.records.get(index).ok_or(missing)?;
        let count = ring.geometry.cells();
        let from = index.wrapping_mul(ring.geometry.cell_stride());
        let shared = ring.cells.get(from..from.wrapping_add(count)).ok_or(missing)?;
        if record.op.load(Acquire) != OpWord::IDLE.bits() {
            return Ok(None);
        }
        let mut cells = Vec::with_capacity(count);
        for word in shared {
            let cell = CellWord::from_bits(word.load(Acquire));
            if cell.is_held() {
                return Ok(None);
            }
            ring.block(cell.block())?;
            cells.push(AtomicU64::new(CellWord::free(cell.block()).bits()));
        }
        Ok(Some(Self { ring, id, record, shared, cells: cells.into_boxed_slice() }))
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

    /// Takes the oldest message into `cell`, a free one.
    #[inline]
    pub(crate) fn recv(&self, cell: usize, at: &mut Position) -> Result<(), Stop> {
        self.ring.swap(Verb::Recv, self, cell, at)
    }

    /// A free cell, the first from `hint` on, that leaves `spare` others free.
    #[inline]
    pub(crate) fn free_cell(&self, hint: usize, spare: usize) -> Result<usize, Fault> {
        let is_free = |cell: &usize| self.cell(*cell).is_some_and(|cell| !cell.is_held());
        let mut free = (hint..self.cells.len()).chain(0..hint).filter(is_free);
        let first = free.next();
        let enough = spare == 0 || free.nth(spare - 1).is_some();
        let out = Fault::LeasesOut { max: self.cells.len().saturating_sub(1) };
        first.filter(|_| enough).ok_or(out)
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

    /// The header of the message in `cell`, read once and checked.
    #[inline]
    pub(crate) fn frame(&self, cell: usize) -> Result<Frame, Fault> {
        Ok(self.block(cell)?.frame(self.ring.geometry.max_message())?)
    }

    /// Replaces what is in `message` by the message in `cell`.
    #[inline]
    pub(crate) fn read_into(&self, cell: usize, message: &mut Vec<u8>) -> Result<(), Fault> {
        let frame = self.frame(cell)?;
        message.clear();
        message.resize(frame.len(), 0);
        self.block(cell)?.read(message);
        Ok(())
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

//! A port: a handle's access to the ring, with its record and the cells of the blocks that it owns.
//!
//! A cell always holds exactly one block: free, or *held* by a message that is not acknowledged
//! yet. Only the owner writes a cell or a record. Each cell has a shared copy for audits and joins,
//! and a private copy, which the handle uses because a peer could have overwritten the shared one.
//!
//! One thread at a time sends or receives through a port. At the same time any thread may do these:
//!
//! | what | to which cell | the thread |
//! |---|---|---|
//! | acknowledge | held | has the one lease of its message |
//! | give back: to the ring, or as *owed* when the ring is full | held | has the one lease of its message, then the lock of returns |
//! | return an owed message, or take it to be received again | owed | has the lock of returns |
//!
//! So a free cell belongs to the thread that receives, a held one to its lease, an owed one to the
//! lock.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [cell] | `settle`: the private copy | `word` | the last access to the block that was in the cell, and the idle `returning` of its return |

use crate::error::{Corrupt, Fault};
use crate::ring::control::Record;
use crate::ring::frame::{Block, Frame};
use crate::ring::position::Position;
use crate::ring::slot::{BlockId, CellWord, Verb};
use crate::ring::slots::Ring;
use crate::sync::{AtomicU64, Mutex, kill_point};
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// The cell of all sends: a sender never holds a message.
pub(super) const SEND_CELL: usize = 0;

/// One handle's access to the ring.
pub(crate) struct Port<'a> {
    pub(super) ring: Ring<'a>,
    id: u32,
    pub(super) record: &'a Record,
    pub(super) cells: Box<[Cell<'a>]>,
    /// The number of cells that owe a message. The receiving thread loads it before each receive.
    /// Changes under the lock of returns.
    pub(super) owed: core::sync::atomic::AtomicUsize,
    /// The lock of returns. No user code runs under it.
    pub(super) returns: Mutex<()>,
    /// How many positions ahead the next operation prefetches. Only a hint, used by `prefetch.rs`.
    pub(crate) ahead: core::sync::atomic::AtomicU64,
}

/// A cell of this handle.
pub(crate) struct Cell<'a> {
    number: usize,
    /// Its number in the segment.
    tag: u32,
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
    pub(super) fn is_held(&self) -> bool {
        self.word().is_held()
    }

    /// The tag of the blocks that this cell gains.
    #[inline]
    pub(crate) fn tag(&self) -> u32 {
        self.tag
    }

    /// Makes the cell free again: its message needs no redelivery.
    #[inline]
    pub(crate) fn acknowledge(&self) {
        self.settle(CellWord::free(self.block()));
    }

    /// Stores what the cell holds now, for other processes and for this one.
    #[inline]
    pub(crate) fn settle(&self, word: CellWord) {
        self.tell(word);
        // [cell]: the next user of the cell comes after the last access to its block.
        self.mine.store(word.bits(), Release);
        kill_point("settled");
    }

    /// Stores what the cell holds now for other processes, before this process may use the cell.
    #[inline]
    pub(crate) fn tell(&self, word: CellWord) {
        // [settle]: a reader of a free cell also sees the count of its return.
        self.shared.store(word.bits(), Release);
    }

    #[inline]
    pub(super) fn word(&self) -> CellWord {
        CellWord::from_bits(self.mine.load(Acquire)) // [cell]
    }
}

impl<'a> Port<'a> {
    /// The port of record `id`, as its last owner left it: see [`take_over`](Self::take_over).
    pub(super) fn unsettled(ring: Ring<'a>, id: u32) -> Result<Self, Corrupt> {
        let missing = Corrupt { what: "a record does not exist" };
        let record = ring.records.get(id as usize).ok_or(missing)?;
        let shared = ring.cells_of(id).ok_or(missing)?;
        let mut cells = Vec::with_capacity(shared.len());
        for (number, shared) in shared.iter().enumerate() {
            // Relaxed: the record's lock orders us after its last owner.
            let word = CellWord::from_bits(shared.load(Relaxed));
            ring.block(word.block())?;
            let (mine, tag) = (word.taken(), ring.geometry.cell_tag(id, number));
            cells.push(Cell { number, tag, shared, mine: AtomicU64::new(mine.bits()) });
        }
        let (cells, owed) = (cells.into_boxed_slice(), 0.into());
        Ok(Self { ring, id, record, cells, owed, returns: Mutex::new(()), ahead: 1.into() })
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

    /// The first free cell from `hint` on, if `spare` other cells are free as well.
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

    /// Writes a whole message into the block of the cell of sends, which no other handle reads.
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

    /// The checked header of the message in `cell`. The caller keeps this copy and does not read
    /// the header again, because a peer could change it.
    #[inline]
    pub(crate) fn frame(&self, cell: &Cell<'_>) -> Result<Frame, Corrupt> {
        self.block_of(cell)?.frame(self.ring.geometry.max_message())
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

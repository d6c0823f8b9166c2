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
use crate::ring::slot::{BlockId, CellWord, OpWord, Verb};
use crate::ring::slots::Ring;
use crate::sync::{AtomicU64, Mutex, kill_point};
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// One handle's access to the ring. First what each swap needs, with the first part of `ring`.
#[repr(C)]
pub(crate) struct Port<'a> {
    pub(super) record: &'a Record,
    /// The cell of all sends, because a sender never holds a message. Of a receiver it is the one that
    /// no lease takes, so that a message can always be copied out.
    first: Cell<'a>,
    /// The id of the record's message number 0.
    first_id: u64,
    /// How many positions ahead the next operation prefetches. Only a hint, used by `prefetch.rs`.
    pub(crate) ahead: core::sync::atomic::AtomicU64,
    /// The number of cells that owe a message. The receiving thread loads it before each receive.
    /// Changes under the lock of returns.
    pub(super) owed: core::sync::atomic::AtomicUsize,
    pub(super) ring: Ring<'a>,
    /// The cells of leases.
    others: Box<[Cell<'a>]>,
    id: u32,
    /// The lock of returns. No user code runs under it.
    pub(super) returns: Mutex<()>,
}

/// A cell of this handle.
#[repr(C)]
pub(crate) struct Cell<'a> {
    mine: AtomicU64,
    shared: &'a AtomicU64,
    /// The announcement of an exchange of this cell, without the rest.
    announced: OpWord,
    number: u32,
    /// Its number in the segment.
    tag: u32,
}

impl Cell<'_> {
    #[inline]
    pub(crate) fn number(&self) -> usize {
        self.number as usize
    }

    /// The announcement of an exchange of this cell.
    #[inline(always)]
    pub(crate) fn announced(&self) -> OpWord {
        self.announced
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

    /// Makes the cell free again: its message, in `block`, needs no redelivery.
    #[inline(always)]
    pub(crate) fn acknowledge_block(&self, block: BlockId) {
        self.settle(CellWord::free(block));
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
        let cell = |(number, shared): (usize, &'a AtomicU64)| {
            // Relaxed: the record's lock orders us after its last owner.
            let word = CellWord::from_bits(shared.load(Relaxed));
            ring.block(word.block())?;
            let (mine, tag) = (word.taken(), ring.geometry.cell_tag(id, number));
            let announced = OpWord::of_cell(number);
            let (mine, number) = (AtomicU64::new(mine.bits()), number as u32);
            Ok(Cell { mine, shared, announced, number, tag })
        };
        let mut cells = shared.iter().enumerate().map(cell);
        let first = cells.next().ok_or(missing)??;
        let others = cells.collect::<Result<_, _>>()?;
        let first_id = ring.geometry.first_id(id);
        let (ahead, owed, returns) = (1.into(), 0.into(), Mutex::new(()));
        Ok(Self { record, first, first_id, ahead, owed, ring, others, id, returns })
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

    /// The first cell, the one of sends, with its block, unless it holds a message.
    #[inline(always)]
    pub(crate) fn first_if_free(&self) -> Option<(&Cell<'a>, BlockId)> {
        self.first.word().block_if_free().map(|block| (&self.first, block))
    }

    /// Cell `number` for a lease, with its block, if it is free, and the first one as well.
    #[inline(always)]
    pub(crate) fn lease_cell_if_free(&self, number: usize) -> Option<(&Cell<'a>, BlockId)> {
        let cell = self.others.get(number.wrapping_sub(1))?;
        let block = cell.word().block_if_free()?;
        (!self.first.is_held()).then_some((cell, block))
    }

    /// The cell that the next lease tries first: each in turn.
    #[inline(always)]
    pub(crate) fn lease_cell_after(&self, number: usize) -> usize {
        if number < self.others.len() { number.wrapping_add(1) } else { 1 }
    }

    /// A free cell, if `spare` other cells are free as well.
    #[cold]
    pub(crate) fn free_cell(&self, spare: usize) -> Result<&Cell<'a>, Fault> {
        // The first one last.
        let mut free = self.others.iter().chain([&self.first]).filter(|cell| !cell.is_held());
        let first = free.next();
        let enough = spare == 0 || free.nth(spare.wrapping_sub(1)).is_some();
        first.filter(|_| enough).ok_or(Fault::LeasesOut { max: self.others.len() })
    }

    /// All cells, the first one last: what a call has just received comes after what leases hold.
    pub(super) fn cells(&self) -> impl Iterator<Item = &Cell<'a>> {
        self.others.iter().chain([&self.first])
    }

    /// Writes a whole message into the block of `cell`, that of sends, which no other handle reads.
    #[inline(always)]
    pub(crate) fn write(&self, cell: &Cell<'_>, bytes: &[u8]) -> Result<(), Fault> {
        let block = self.block_of(cell)?;
        block.set_frame(self.frame_of(bytes.len())?);
        block.write(bytes);
        Ok(())
    }

    /// The id of the next message to be sent, which its block needs before the swap.
    #[inline(always)]
    pub(crate) fn next_id(&self) -> u64 {
        self.first_id | self.record.tally.sent.get()
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

    /// The cell of sends.
    #[inline(always)]
    pub(crate) fn send_cell(&self) -> &Cell<'a> {
        &self.first
    }

    /// The block of the next message to be sent.
    #[inline(always)]
    pub(crate) fn unsent(&self) -> Result<Block<'a>, Corrupt> {
        self.block_of(self.send_cell())
    }

    #[inline]
    pub(crate) fn block_of(&self, cell: &Cell<'_>) -> Result<Block<'a>, Corrupt> {
        self.ring.block(cell.block())
    }

    #[inline]
    pub(crate) fn cell(&self, number: usize) -> Result<&Cell<'a>, Corrupt> {
        let others = || self.others.get(number.wrapping_sub(1));
        let cell = if number == 0 { Some(&self.first) } else { others() };
        cell.ok_or(Corrupt { what: "a handle has no such cell" })
    }
}

//! A port: one handle's place at the ring, its record and the cells with the blocks it owns.
//!
//! A cell always holds exactly one block: free, or *held* by a message that is not yet
//! acknowledged. Cell and record are written by their owner alone; the shared copy is for an audit,
//! and the private copy is the one we believe, since a peer could have scribbled on the other.
//!
//! One thread at a time sends or receives through a port. Beside it any thread may do these:
//!
//! | what | to which cell | by whom |
//! |---|---|---|
//! | acknowledge | held | the one lease of its message |
//! | give back: to the ring, or as *owed* when the ring is full | held | the one lease of its message, then the lock of returns |
//! | return what is owed, or take it to be received again | owed | the lock of returns |
//!
//! So a free cell belongs to the thread that receives, a held one to its lease, an owed one to the lock.

use crate::control::Record;
use crate::error::{Corrupt, Fault};
use crate::frame::{Block, Frame};
use crate::position::Position;
use crate::ring::{Ring, Stop};
use crate::slot::{BlockId, CellWord, Verb};
use crate::sync::{AtomicU64, Mutex, MutexGuard};
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// The cell of all sends: a sender never holds a message.
const SEND_CELL: usize = 0;

/// One handle's place at the ring.
pub(crate) struct Port<'a> {
    ring: Ring<'a>,
    id: u32,
    record: &'a Record,
    cells: Box<[Cell<'a>]>,
    /// How many cells owe: what the receiving thread asks before each receive. Changes under the lock
    /// of returns.
    owed: core::sync::atomic::AtomicUsize,
    /// Of the one return under way. Held for one exchange; no code of a user runs under it.
    returns: Mutex<()>,
    /// How many positions ahead the next operation looks: a hint of the ring's, for its own use.
    pub(crate) ahead: core::sync::atomic::AtomicU64,
}

/// A cell of ours.
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
    fn is_held(&self) -> bool {
        self.word().is_held()
    }

    /// What blocks are tagged with that it gains.
    #[inline]
    pub(crate) fn tag(&self) -> u32 {
        self.tag
    }

    /// Makes the cell free again: its message needs no redelivery.
    #[inline]
    pub(crate) fn acknowledge(&self) {
        self.settle(CellWord::free(self.block()));
    }

    /// Records what the cell holds now.
    #[inline]
    pub(crate) fn settle(&self, word: CellWord) {
        self.tell(word);
        // Release: the next user of the cell comes after the last read of its block.
        self.mine.store(word.bits(), Release);
    }

    /// Tells other processes what the cell holds now, before this process may act on it.
    #[inline]
    pub(crate) fn tell(&self, word: CellWord) {
        // Release: as above.
        self.shared.store(word.bits(), Release); // [settle]
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
            // Relaxed: the record's lock orders us after its last owner.
            let word = CellWord::from_bits(shared.load(Relaxed));
            ring.block(word.block())?;
            let (mine, tag) = (word.taken(), ring.geometry.cell_tag(id, number));
            cells.push(Cell { number, tag, shared, mine: AtomicU64::new(mine.bits()) });
        }
        let (cells, owed) = (cells.into_boxed_slice(), 0.into());
        let port = Self { ring, id, record, cells, owed, returns: Mutex::new(()), ahead: 1.into() };
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

    /// Sends the message in `cell`, a held one that the caller answers for, again, flagged as
    /// redelivered; `false` if the ring is full: the message is owed then. Its header was read as
    /// `frame`.
    ///
    /// # Errors
    /// Of a corrupt ring: the message stays in the cell.
    pub(crate) fn give_back(&self, cell: &Cell<'_>, frame: Frame) -> Result<bool, Fault> {
        let _returns = self.lock_returns();
        match self.give_back_alone(cell, frame) {
            Ok(()) => Ok(true),
            Err(Stop::Fault(fault)) => Err(fault),
            Err(Stop::NotNow | Stop::Closed) => {
                self.owe(cell);
                Ok(false)
            }
        }
    }

    /// Has the message in `cell`, a held one that the caller answers for, returned later.
    pub(crate) fn give_back_later(&self, cell: &Cell<'_>, frame: Frame) -> Result<(), Corrupt> {
        let _returns = self.lock_returns();
        self.flag(cell, frame)?;
        self.owe(cell);
        Ok(())
    }

    /// Whether some message is owed. Exact for the thread that owed or returned it last.
    #[inline]
    pub(crate) fn owes(&self) -> bool {
        // Relaxed: the lock of returns orders all that is done because of it.
        self.owed.load(Relaxed) != 0
    }

    /// Returns what is owed, as far as there is room, but for the cells that `waits` names: how many
    /// messages went.
    pub(crate) fn return_owed(&self, waits: impl Fn(usize) -> bool) -> usize {
        let _returns = self.lock_returns();
        self.give_each_back(|cell| cell.word().is_owed() && !waits(cell.number), usize::MAX).0
    }

    /// Takes one owed message to be received again, unless `waits` names its cell.
    pub(crate) fn take_owed(&self, waits: impl Fn(usize) -> bool) -> Option<&Cell<'a>> {
        let _returns = self.lock_returns();
        let cell = self.cells.iter().find(|it| it.word().is_owed() && !waits(it.number))?;
        self.owed.fetch_sub(1, Relaxed);
        cell.settle(cell.word().taken());
        // It came back, and is received once more, though it was not in the ring meanwhile.
        self.record.tally.redelivered.increment();
        self.record.tally.received.increment();
        Some(cell)
    }

    /// Whether [`take_owed`](Self::take_owed) would take one.
    pub(crate) fn can_take_owed(&self, waits: impl Fn(usize) -> bool) -> bool {
        self.owes() && self.cells.iter().any(|it| it.word().is_owed() && !waits(it.number))
    }

    /// Gives all held messages back for which there is room; how many went and how many stay. Only
    /// for a port without leases.
    pub(crate) fn give_all_back(&self) -> (usize, usize) {
        self.give_back_most(usize::MAX)
    }

    /// The same of at most `most` messages.
    pub(crate) fn give_back_most(&self, most: usize) -> (usize, usize) {
        let _returns = self.lock_returns();
        self.give_each_back(|cell| cell.is_held(), most)
    }

    /// Owes all held messages. Only for a port without leases.
    pub(crate) fn owe_all(&self) {
        let _returns = self.lock_returns();
        for cell in self.cells.iter().filter(|cell| cell.is_held() && !cell.word().is_owed()) {
            match self.frame(cell).and_then(|frame| self.flag(cell, frame)) {
                Ok(()) => self.owe(cell),
                // Some process scribbled on it: there is no message to be saved.
                Err(_) => cell.acknowledge(),
            }
        }
    }

    /// The caller has the lock of returns. Of those that stay, the first is owed.
    #[expect(clippy::arithmetic_side_effects, reason = "counts of cells")]
    fn give_each_back(&self, which: impl Fn(&Cell<'a>) -> bool, most: usize) -> (usize, usize) {
        let (mut gone, mut left) = (0, 0);
        for cell in self.cells.iter().filter(|cell| which(cell)) {
            // A creator can make a record with a million cells. Where one message finds no room, the
            // next finds none either.
            if left > 0 || gone == most {
                left += 1;
                continue;
            }
            let was_owed = cell.word().is_owed();
            let frame = self.frame(cell);
            match frame.map(|frame| self.give_back_alone(cell, frame)) {
                Ok(Ok(())) => gone += 1,
                // Some process scribbled on it: there is no message to be saved.
                Err(_) => cell.acknowledge(),
                // A fault is the ring's: the message is whole, and waits.
                Ok(Err(_)) => {
                    left += 1;
                    if !was_owed {
                        self.owe(cell);
                    }
                    continue;
                }
            }
            if was_owed {
                self.owed.fetch_sub(1, Relaxed);
            }
        }
        (gone, left)
    }

    /// The caller has the lock of returns.
    fn give_back_alone(&self, cell: &Cell<'_>, frame: Frame) -> Result<(), Stop> {
        self.flag(cell, frame)?;
        let mut at = self.start(Verb::Return)?;
        self.ring.swap(Verb::Return, self, cell, &mut at).map(drop)
    }

    /// Flags the message in `cell` as returned, with the position of its first receive.
    fn flag(&self, cell: &Cell<'_>, frame: Frame) -> Result<(), Corrupt> {
        let block = self.block_of(cell)?;
        if !frame.redelivered() {
            block.set_origin(cell.word().received_at());
        }
        block.set_frame(frame.returned());
        Ok(())
    }

    /// The caller has the lock of returns.
    fn owe(&self, cell: &Cell<'_>) {
        cell.settle(cell.word().owed());
        self.owed.fetch_add(1, Relaxed);
    }

    fn lock_returns(&self) -> MutexGuard<'_, ()> {
        // What a panic could leave behind is whole: an exchange happened or it did not.
        self.returns.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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

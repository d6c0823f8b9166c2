//! The places of the words of a segment, and values for them. Most values look like words of the
//! protocol, because random values are refused at once and test little.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use arbitrary::Arbitrary;
use parkline_core::Queue;

/// See `core/src/ring/geometry.rs`.
const CONTROL_AT: u64 = 1024;
const SLOTS_AT: u64 = 4096;
const LINE: u64 = 128;
const PAGE: u64 = 4096;

/// A segment as a peer sees it: its file, and the numbers of its shape.
#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    len: u64,
    capacity: u64,
    handles: u64,
    cells: u64,
    blocks: u64,
    stride: u64,
}

/// The first payload byte of a block: after the owner tag, the frame header, an id and the origin.
const PAYLOAD: u64 = 32;

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Place {
    Anywhere(u32),
    /// The words that are checked when the queue is opened.
    Header(u8),
    /// The gates, and words that change seldom.
    Control(u8),
    Slot(u16),
    /// The first slot, where an operation begins that has no cursor.
    FirstSlot,
    /// The send or receive that a handle is about to make.
    Op(u8),
    /// The return that a handle is about to make.
    Returning(u8),
    /// Another word of a record.
    Record(u8, u8),
    Cell(u8, u8),
    /// The tag that names the cell that gained a block.
    Owner(u16),
    /// The header of a message.
    Frame(u16),
    /// The position at which a message was received first.
    Origin(u16),
    Payload(u16, u16),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Word {
    Any(u64),
    Small(u16),
    /// The present value with one bit changed.
    Flip(u8),
    /// The present value plus a small number.
    Plus(i8),
    Slot {
        lap: i8,
        state: u8,
        block: u16,
    },
    /// The present value in another state of a lap nearby.
    NextState {
        laps: i8,
        state: u8,
    },
    Cell {
        block: u16,
        held: bool,
        owed: bool,
        undated: bool,
        position: i8,
    },
    Op {
        verb: u8,
        cell: u8,
        slot: u8,
        gain: u16,
    },
    /// A frame that is well formed except for its length.
    Frame {
        len: u16,
        flags: u8,
        attempts: i8,
    },
    /// The position of an origin or of a join. All ones are an unknown position.
    Position(i8),
    /// A cell's number in the segment, as in the tag of a block.
    Tag(u8, u8),
    CopyOf(Place),
}

impl Segment {
    pub(crate) fn of(queue: &Queue) -> io::Result<Self> {
        let file = File::from(queue.try_clone_fd()?);
        let mut leases = [0; 4];
        file.read_exact_at(&mut leases, 20)?;
        let (capacity, handles) = (queue.capacity() as u64, queue.handles() as u64);
        let cells = u64::from(u32::from_ne_bytes(leases)) + 1;
        Ok(Self {
            len: file.metadata()?.len(),
            file,
            capacity,
            handles,
            cells,
            blocks: capacity + handles * cells,
            stride: (queue.max_message() as u64 + PAYLOAD).next_multiple_of(64),
        })
    }

    fn cells_at(&self) -> u64 {
        SLOTS_AT + (self.capacity * 8).next_multiple_of(LINE) + self.handles * LINE
    }

    fn row(&self) -> u64 {
        (self.cells * 8).next_multiple_of(LINE)
    }

    /// The length of the file in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The offset of a place. It is within the file, and on a whole word.
    pub(crate) fn offset(&self, place: Place) -> u64 {
        let records_at = self.cells_at() - self.handles * LINE;
        let blocks_at = (self.cells_at() + self.handles * self.row()).next_multiple_of(PAGE);
        let handle = |id: u8| u64::from(id) % self.handles;
        let block = |id: u16| blocks_at + u64::from(id) % self.blocks * self.stride;
        let at = match place {
            Place::Anywhere(word) => u64::from(word) * 8,
            Place::Header(word) => u64::from(word % 16) * 8,
            // There are three cache lines. Five words of the last are in use.
            Place::Control(word) => {
                CONTROL_AT + u64::from(word / 5 % 3) * LINE + u64::from(word % 5) * 8
            }
            Place::Slot(index) => SLOTS_AT + u64::from(index) % self.capacity * 8,
            Place::FirstSlot => SLOTS_AT,
            Place::Op(id) => records_at + handle(id) * LINE,
            Place::Returning(id) => records_at + handle(id) * LINE + 8,
            Place::Record(id, word) => records_at + handle(id) * LINE + u64::from(word % 16) * 8,
            Place::Cell(id, cell) => {
                self.cells_at() + handle(id) * self.row() + u64::from(cell) % self.cells * 8
            }
            Place::Owner(id) => block(id),
            Place::Frame(id) => block(id) + 8,
            Place::Origin(id) => block(id) + 24,
            Place::Payload(id, word) => block(id) + PAYLOAD + u64::from(word) * 8 % self.stride,
        };
        at % self.len / 8 * 8
    }

    fn read(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at).expect("within the file");
        u64::from_ne_bytes(bytes)
    }

    /// Overwrites the word at `at`.
    pub(crate) fn write(&self, at: u64, word: &Word) {
        let bits = self.bits(at, word, &|at| self.read(at));
        self.file.write_all_at(&bits.to_ne_bytes(), at).expect("within the file");
    }

    /// The value of `word` for the place `at`. `read` loads present values.
    pub(crate) fn bits(&self, at: u64, word: &Word, read: &impl Fn(u64) -> u64) -> u64 {
        match *word {
            Word::Any(bits) => bits,
            Word::Small(bits) => bits.into(),
            Word::Flip(bit) => read(at) ^ 1 << (bit % 64),
            Word::Plus(more) => read(at).wrapping_add_signed(more.into()),
            Word::Slot { lap, state, block } => {
                signed(lap) << 22 | u64::from(state & 3) << 20 | u64::from(block)
            }
            Word::NextState { laps, state } => {
                let there = read(at);
                let lap = (there >> 22).wrapping_add_signed(laps.into());
                lap << 22 | u64::from(state & 3) << 20 | there & 0xf_ffff
            }
            Word::Cell { block, held, owed, undated, position } => {
                let flags = u64::from(held) << 20 | u64::from(owed) << 21;
                let position = if undated { u64::MAX } else { signed(position) };
                position << 22 | flags | u64::from(block)
            }
            Word::Op { verb, cell, slot, gain } => {
                let (verb, cell) = (u64::from(verb & 3) << 60, u64::from(cell) << 40);
                verb | cell | u64::from(slot) << 20 | u64::from(gain)
            }
            Word::Frame { len, flags, attempts } => {
                // Half of the lengths are short, as those of messages are.
                let len = if len >> 15 == 0 { len % 64 } else { len };
                signed(attempts) << 48 | u64::from(flags & 3) << 40 | 1 << 32 | u64::from(len)
            }
            Word::Position(position) => signed(position),
            Word::Tag(handle, cell) => {
                u64::from(handle) % self.handles * self.cells + u64::from(cell) % self.cells
            }
            Word::CopyOf(place) => read(self.offset(place)),
        }
    }
}

/// Small numbers of both signs.
fn signed(n: i8) -> u64 {
    i64::from(n).cast_unsigned()
}

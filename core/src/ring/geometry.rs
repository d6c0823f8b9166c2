//! The parts of a segment, their offsets, and the check of the first page of a segment that another
//! process created.
//!
//! ```text
//! 0      claims            written once, read once at open, checked, and never read again
//! 1024   gates, and rare    128 bytes each
//! 4096   slots             8 bytes each, neighbours in different lines: `position.rs`
//!        records           128 bytes each
//!        cells             8 bytes each, one row of 128-byte lines per record
//!        blocks            64-byte strides, on a page
//! ```

use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{CreateError, OpenError};
use crate::ring::frame::BLOCK_HEADER_WORDS;
use crate::ring::position::Laps;
use crate::ring::slot::BLOCK_BITS;

pub(crate) const MAGIC: [u8; 8] = *b"PARKLINE";
/// The version of the layout and the protocol. Both sides of a segment must agree.
pub const VERSION: u32 = 6;

pub(crate) const CONTROL_OFFSET: usize = 1024;
pub(crate) const HEADER_LEN: usize = 4096;
pub(crate) const RECORD_LEN: usize = 128;
const CELL_ROW: usize = 128;
const BLOCK_STRIDE: usize = 64;
const PAGE: usize = 4096;

/// Most blocks of a segment: the numbers that a word can hold, without
/// [`crate::ring::slot::BlockId::NONE`].
pub(crate) const MAX_BLOCKS: u64 = (1 << BLOCK_BITS) - 1;
/// Largest capacity: half the blocks.
pub(crate) const MAX_CAPACITY: u64 = 1 << (BLOCK_BITS - 1);
/// Most handles. An audit can load every record, and a search for the dead can audit every one.
pub(crate) const MAX_HANDLES: u64 = 1 << 14;
/// Largest `max_message`: 1 GiB.
pub(crate) const MAX_MESSAGE: u64 = 1 << 30;
/// A queue stays below this many bytes, as far as its creator left the numbers open.
const USUAL_MEMORY: usize = 64 << 20;
/// One handle cannot both send and receive.
const FEWEST_HANDLES: usize = 2;
const MAX_WATCHDOG: Duration = Duration::from_secs(3600);

const NAME_LEN: usize = 64;

/// The type of the messages of a queue, as its creator named it: checked at open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct TypeMark {
    size: u64,
    align: u32,
    name_len: u32,
    name: [u8; NAME_LEN],
}

impl TypeMark {
    /// Bytes of any length.
    pub(crate) const BYTES: Self = Self::named("");
    pub(crate) const EVENT: Self = Self::named("the flag of an event");
    pub(crate) const SEMAPHORE: Self = Self::named("the permits of a semaphore");
    pub(crate) const PACK: Self = Self::named("packs of messages");

    /// A mark that differs from that of every Rust type, because no alignment is zero.
    const fn named(name: &str) -> Self {
        let mut mark = Self { size: 0, align: 0, name_len: name.len() as u32, name: [0; NAME_LEN] };
        let (whole, _) = mark.name.split_at_mut(name.len());
        whole.copy_from_slice(name.as_bytes());
        mark
    }

    /// Whether all messages are as long as the type's size says.
    pub(crate) fn is_of_fixed_size(&self) -> bool {
        self.align != 0
    }

    /// The size, alignment and name of `T`. The name is without paths, so that two programs that
    /// keep the type in different modules agree. A long name counts by its length and its first 64
    /// bytes.
    pub(crate) fn of<T>() -> Self {
        let mut short = String::new();
        for part in core::any::type_name::<T>().split_inclusive(|c: char| !is_path(c)) {
            short.push_str(part.rsplit("::").next().unwrap_or(part));
        }
        let mut name = [0; NAME_LEN];
        for (to, from) in name.iter_mut().zip(short.bytes()) {
            *to = from;
        }
        Self {
            size: size_of::<T>() as u64,
            align: align_of::<T>() as u32,
            name_len: short.len() as u32,
            name,
        }
    }
}

fn is_path(c: char) -> bool {
    c == ':' || c == '_' || c.is_alphanumeric()
}

impl core::fmt::Display for TypeMark {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if *self == Self::BYTES {
            return f.write_str("raw bytes");
        }
        let len = self.name.len().min(self.name_len as usize);
        let name = self.name.get(..len).unwrap_or_default().escape_ascii();
        if self.align == 0 {
            return write!(f, "{name}");
        }
        write!(f, "`{name}` ({} bytes, align {})", self.size, self.align)
    }
}

/// The meaning of the messages, as the creator gave it: a name and a version. All zeros if there is
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Schema {
    version: u32,
    name_len: u32,
    name: [u8; NAME_LEN],
}

impl Schema {
    pub(crate) const NONE: Self = Self { version: 0, name_len: 0, name: [0; NAME_LEN] };

    /// If the name is too long, its length is kept, and [`name`](Self::name) is `None`.
    pub(crate) fn new(name: &str, version: u32) -> Self {
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let mut schema = Self { version, name_len, ..Self::NONE };
        for (to, from) in schema.name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        schema
    }

    /// The schema that a builder asks for, if a segment can store it.
    pub(crate) fn plan(self) -> Result<Self, CreateError> {
        let what = "the length of the schema's name";
        match self.name_len as usize {
            0 => Err(CreateError::Zero { what }),
            1..=NAME_LEN => Ok(self),
            asked => Err(CreateError::TooLarge { what, asked, max: NAME_LEN as u64 }),
        }
    }

    /// The name, if it is valid: 1 to 64 bytes of UTF-8, followed by zeros.
    pub(crate) fn name(&self) -> Option<&str> {
        let (name, rest) = self.name.split_at_checked(self.name_len as usize)?;
        let whole = !name.is_empty() && rest.iter().all(|byte| *byte == 0);
        core::str::from_utf8(name).ok().filter(|_| whole)
    }

    pub(crate) fn version(&self) -> u32 {
        self.version
    }
}

/// The schemas that an opener accepts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum SchemaAsked {
    /// None.
    #[default]
    Unnamed,
    Named(Schema),
    Any,
}

impl SchemaAsked {
    /// The schema that was asked for, if `found` is another one.
    pub(crate) fn refuses(self, found: Schema) -> Option<Schema> {
        match self {
            Self::Any => None,
            Self::Unnamed => (found != Schema::NONE).then_some(Schema::NONE),
            // An empty name does not stand for "no schema".
            Self::Named(asked) => (found != asked || found.name().is_none()).then_some(asked),
        }
    }
}

impl core::fmt::Display for Schema {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name:?} version {}", self.version),
            None if *self == Self::NONE => f.write_str("none"),
            None => {
                write!(f, "a name of {} bytes, where 1 to {NAME_LEN} are possible", self.name_len)
            }
        }
    }
}

/// A queue's random number. Never 0.
pub(crate) type QueueId = [u8; 16];

/// What a segment's first page says besides the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) id: QueueId,
    pub(crate) payload: TypeMark,
    pub(crate) schema: Schema,
}

/// The first page of a segment, as its creator wrote it. All numbers are in the machine's byte
/// order.
///
/// | at | field | |
/// |---|---|---|
/// | 0 | `magic` | `PARKLINE` |
/// | 8 | `version` | [`VERSION`]; if it differs, the other fields have another layout |
/// | 12 | `capacity_log2` | slots, as a power of two |
/// | 16, 20 | `handles`, `leases` | records, and blocks of each besides the first |
/// | 24 | `max_message` | bytes |
/// | 32, 40 | `watchdog_micros`, `max_attempts` | |
/// | 48 | `batch` | messages a block; 0: blocks hold one message each |
/// | 52 | `flags` | features that an opener must know; it refuses a bit that it does not know |
/// | 56 | `queue_id` | random, not all zeros |
/// | 72 | `payload` | size `u64`, alignment `u32`, length of the name `u32`, name |
/// | 152 | `schema` | version `u32`, length of the name `u32`, name; all zeros: none |
/// | 224 | | zeros up to the control words at 1024 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Claims {
    magic: [u8; 8],
    version: u32,
    capacity_log2: u32,
    handles: u32,
    leases: u32,
    max_message: u64,
    watchdog_micros: u64,
    max_attempts: u64,
    batch: u32,
    flags: u32,
    queue_id: QueueId,
    payload: TypeMark,
    schema: Schema,
}

const _: () = assert!(size_of::<Claims>() == 224);

/// The checked shape of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    laps: Laps,
    handles: u32,
    leases: u32,
    max_message: usize,
    blocks: usize,
    block_words: usize,
    cells_at: usize,
    blocks_at: usize,
    file_len: usize,
    watchdog: Duration,
    max_attempts: u16,
}

/// The shape that a creator asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    pub(crate) capacity: usize,
    pub(crate) max_message: usize,
    pub(crate) handles: Share,
    pub(crate) leases: Share,
    /// Whether blocks take memory only when they are first used.
    pub(crate) lazy: bool,
    pub(crate) watchdog: Duration,
    pub(crate) max_attempts: u16,
}

/// A number that depends on the size of the messages unless the creator gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Share {
    Asked(usize),
    AtMost(usize),
}

impl Share {
    fn or(self, fewest: usize, is_small: impl Fn(usize) -> bool) -> usize {
        match self {
            Self::Asked(n) => n,
            Self::AtMost(most) => {
                (fewest..=most).rev().find(|n| is_small(*n)).unwrap_or(fewest.min(most))
            }
        }
    }

    fn most(self) -> usize {
        let (Self::Asked(n) | Self::AtMost(n)) = self;
        n
    }
}

impl Geometry {
    pub(crate) fn plan(wishes: Wishes) -> Result<Self, CreateError> {
        let too_large = |what, asked: usize, max: u64| CreateError::TooLarge { what, asked, max };
        let Wishes { capacity, max_message, watchdog, max_attempts, .. } = wishes;
        if capacity == 0 {
            return Err(CreateError::Zero { what: "capacity" });
        }
        if wishes.handles.most() == 0 {
            return Err(CreateError::Zero { what: "handles" });
        }
        if max_attempts == 0 {
            return Err(CreateError::Zero { what: "max_attempts" });
        }
        if watchdog < Duration::from_millis(1) || watchdog > MAX_WATCHDOG {
            return Err(CreateError::Watchdog { asked: watchdog });
        }
        if capacity as u64 > MAX_CAPACITY {
            return Err(too_large("capacity", capacity, MAX_CAPACITY));
        }
        if wishes.handles.most() as u64 > MAX_HANDLES {
            return Err(too_large("handles", wishes.handles.most(), MAX_HANDLES));
        }
        if max_message as u64 > MAX_MESSAGE {
            return Err(too_large("max_message", max_message, MAX_MESSAGE));
        }
        let log2 = capacity.next_power_of_two().trailing_zeros();
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let compute = |handles, leases| {
            Self::compute(log2, narrow(handles), narrow(leases), max_message as u64)
        };
        let is_small = |handles, leases| {
            compute(handles, leases).is_some_and(|it| wishes.lazy || it.file_len < USUAL_MEMORY)
        };
        // Leases are reduced first: a process without a handle cannot use the queue, a receiver
        // with one lease less can.
        let leases = wishes.leases.or(1, |leases| is_small(wishes.handles.most(), leases));
        let handles = wishes.handles.or(FEWEST_HANDLES, |handles| is_small(handles, leases));
        compute(handles, leases)
            .map(|geometry| Self { watchdog, max_attempts, ..geometry })
            .ok_or(CreateError::TooManyBlocks { capacity, handles, leases, max: MAX_BLOCKS })
    }

    /// Reads the claims of another process. Each is checked against the limits of this version, and
    /// the resulting length against the file's length.
    pub(crate) fn check(page: &[u8], file_len: u64) -> Result<(Self, Label), OpenError> {
        let truncated = |expected| OpenError::WrongLength { expected, found: file_len };
        let (claims, _) =
            Claims::read_from_prefix(page).map_err(|_| truncated(HEADER_LEN as u64))?;
        if claims.magic != MAGIC {
            return Err(OpenError::NotParkline);
        }
        if claims.version != VERSION {
            return Err(OpenError::Version { found: claims.version, expected: VERSION });
        }
        for (what, found) in [("batch", claims.batch), ("flags", claims.flags)] {
            if found != 0 {
                return Err(OpenError::Unsupported { what, found });
            }
        }
        let Claims { capacity_log2, handles, leases, max_message, watchdog_micros, .. } = claims;
        let Claims { queue_id: id, payload, schema, .. } = claims;
        let watchdog = Duration::from_micros(watchdog_micros);
        let max_attempts = u16::try_from(claims.max_attempts).unwrap_or(0);
        let sane = 1u64.checked_shl(capacity_log2).is_some_and(|it| it <= MAX_CAPACITY)
            && (1..=MAX_HANDLES).contains(&handles.into())
            && max_attempts > 0
            && max_message <= MAX_MESSAGE
            && id != [0; 16]
            && (schema == Schema::NONE || schema.name().is_some())
            && (Duration::from_millis(1)..=MAX_WATCHDOG).contains(&watchdog);
        let geometry = sane
            .then(|| Self::compute(capacity_log2, handles, leases, max_message))
            .flatten()
            .map(|geometry| Self { watchdog, max_attempts, ..geometry })
            .ok_or(OpenError::Claims)?;
        if geometry.file_len as u64 != file_len {
            return Err(truncated(geometry.file_len as u64));
        }
        Ok((geometry, Label { id, payload, schema }))
    }

    /// The offsets of the parts. `None` if the segment would have more blocks than a word can
    /// number, or a size overflows.
    fn compute(capacity_log2: u32, handles: u32, leases: u32, max_message: u64) -> Option<Self> {
        let capacity = 1usize.checked_shl(capacity_log2)?;
        let cells = usize::try_from(leases).ok()?.checked_add(1)?;
        let rows = usize::try_from(handles).ok()?;
        let blocks = rows.checked_mul(cells)?.checked_add(capacity)?;
        if blocks as u64 > MAX_BLOCKS {
            return None;
        }
        let max_message = usize::try_from(max_message).ok()?;
        let block_len = max_message
            .checked_add(BLOCK_HEADER_WORDS * 8)?
            .checked_next_multiple_of(BLOCK_STRIDE)?;
        let records_at = capacity
            .checked_mul(8)?
            .checked_next_multiple_of(RECORD_LEN)?
            .checked_add(HEADER_LEN)?;
        let cells_at = rows.checked_mul(RECORD_LEN)?.checked_add(records_at)?;
        let row = cells.checked_mul(8)?.checked_next_multiple_of(CELL_ROW)?;
        let blocks_at =
            rows.checked_mul(row)?.checked_add(cells_at)?.checked_next_multiple_of(PAGE)?;
        let file_len = blocks
            .checked_mul(block_len)?
            .checked_add(blocks_at)?
            .checked_next_multiple_of(PAGE)?;
        isize::try_from(file_len).ok()?;
        Some(Self {
            laps: Laps::of_capacity_log2(capacity_log2),
            handles,
            leases,
            max_message,
            blocks,
            block_words: block_len / 8,
            cells_at,
            blocks_at,
            file_len,
            watchdog: Duration::ZERO,
            max_attempts: 0,
        })
    }

    pub(crate) fn claims(&self, label: Label) -> Claims {
        Claims {
            magic: MAGIC,
            version: VERSION,
            capacity_log2: self.laps.capacity_log2(),
            handles: self.handles,
            leases: self.leases,
            max_message: self.max_message as u64,
            // Fits, because it is at most an hour.
            watchdog_micros: self.watchdog.as_micros() as u64,
            max_attempts: self.max_attempts.into(),
            batch: 0,
            flags: 0,
            queue_id: label.id,
            payload: label.payload,
            schema: label.schema,
        }
    }
}

/// Sizes that `compute` has found to fit.
#[expect(clippy::arithmetic_side_effects, reason = "`compute` checked each of these sums")]
impl Geometry {
    pub(crate) fn laps(&self) -> Laps {
        self.laps
    }

    pub(crate) fn capacity(&self) -> usize {
        self.laps.capacity() as usize
    }

    pub(crate) fn leases(&self) -> usize {
        self.leases as usize
    }

    pub(crate) fn handles(&self) -> u32 {
        self.handles
    }

    /// The id of message 0 of record `id`: the record's number, in as many upper bits as the number
    /// of the last record has.
    pub(crate) fn first_id(&self, id: u32) -> u64 {
        let bits = u32::BITS - (self.handles - 1).leading_zeros();
        // With one handle there are no such bits, and nothing to shift.
        u64::from(id).checked_shl(u64::BITS - bits).unwrap_or(0)
    }

    /// The blocks of one handle: one to work with and one for each lease.
    pub(crate) fn cells(&self) -> usize {
        self.leases as usize + 1
    }

    /// Words from one handle's cells to the next handle's.
    pub(crate) fn cell_stride(&self) -> usize {
        (self.cells() * 8).next_multiple_of(CELL_ROW) / 8
    }

    pub(crate) fn max_message(&self) -> usize {
        self.max_message
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(crate) fn block_words(&self) -> usize {
        self.block_words
    }

    pub(crate) fn watchdog(&self) -> Duration {
        self.watchdog
    }

    pub(crate) fn max_attempts(&self) -> u16 {
        self.max_attempts
    }

    pub(crate) fn records_at(&self) -> usize {
        self.cells_at - self.handles as usize * RECORD_LEN
    }

    pub(crate) fn cells_at(&self) -> usize {
        self.cells_at
    }

    pub(crate) fn blocks_at(&self) -> usize {
        self.blocks_at
    }

    pub(crate) fn file_len(&self) -> usize {
        self.file_len
    }

    /// The number of `cell` of `handle` in the segment, which is the tag of its blocks. Below the
    /// number of blocks.
    pub(crate) fn cell_tag(&self, handle: u32, cell: usize) -> u32 {
        (handle as usize * self.cells() + cell) as u32
    }

    /// The block that `cell` of `handle` holds in a new segment. The slot of position `n` holds
    /// block `n`.
    pub(crate) fn first_block(&self, handle: usize, cell: usize) -> u32 {
        (self.capacity() + handle * self.cells() + cell) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes() -> Wishes {
        Wishes {
            capacity: 5,
            max_message: 100,
            handles: Share::Asked(3),
            leases: Share::Asked(2),
            lazy: false,
            watchdog: Duration::from_millis(100),
            max_attempts: 5,
        }
    }

    fn schema(name: &[u8], version: u32) -> Schema {
        let mut schema = Schema { version, name_len: name.len() as u32, ..Schema::NONE };
        schema.name[..name.len()].copy_from_slice(name);
        schema
    }

    fn label() -> Label {
        Label { id: [7; 16], payload: TypeMark::BYTES, schema: Schema::NONE }
    }

    fn page(geometry: &Geometry) -> Vec<u8> {
        geometry.claims(label()).as_bytes().to_vec()
    }

    /// Fails if two records of a queue share an id within 2^50 messages each, or if a record has
    /// fewer than the bits of the handles leave (each seen failing).
    #[test]
    fn every_record_has_as_many_ids() {
        for handles in [1, 2, 3, 4, 5, 64, 65, MAX_HANDLES as u32] {
            let geometry = Geometry { handles, ..Geometry::plan(wishes()).unwrap() };
            let each = (u128::from(u64::MAX) + 1) / u128::from(handles.next_power_of_two());
            for id in 0..handles {
                assert_eq!(u128::from(geometry.first_id(id)), u128::from(id) * each);
            }
        }
    }

    #[test]
    fn what_was_planned_is_what_is_read() {
        let plan = Geometry::plan(wishes()).unwrap();
        for schema in [Schema::NONE, schema(b"orders", 3), schema(&[b'n'; NAME_LEN], 0)] {
            let label = Label { schema, ..label() };
            let page = plan.claims(label);
            let read = Geometry::check(page.as_bytes(), plan.file_len() as u64).unwrap();
            assert_eq!(read, (plan, label));
        }
        assert_eq!(plan.capacity(), 8, "rounded up to a power of two");
        assert_eq!(plan.blocks(), 8 + 3 * 3);
    }

    /// The handles, leases and bytes of a queue. `None`: the creator leaves that number open.
    fn planned(
        capacity: usize,
        max_message: usize,
        handles: Option<usize>,
        leases: Option<usize>,
    ) -> (usize, usize, usize) {
        let or = |asked: Option<_>, most| asked.map_or(Share::AtMost(most), Share::Asked);
        let (handles, leases) = (or(handles, 64), or(leases, 4));
        let plan =
            Geometry::plan(Wishes { capacity, max_message, handles, leases, ..wishes() }).unwrap();
        (plan.handles() as usize, plan.leases(), plan.file_len())
    }

    /// Fails if handles are reduced before leases, or if one more would fit (each seen failing).
    #[test]
    fn what_is_not_asked_for_is_the_most_below_64_mebibytes() {
        const MOST: usize = 64 << 20;
        assert!(matches!(planned(1024, 1024, None, None), (64, 4, _)));
        assert!(matches!(planned(8, 1 << 20, None, None), (27, 1, _)), "8 frames of 1 MiB");
        for capacity in [1, 8, 60, 500, 4000, 30_000] {
            for max_message in (0..24).map(|log2| 1 << log2) {
                let (handles, leases, bytes) = planned(capacity, max_message, None, None);
                let with =
                    |handles, leases| planned(capacity, max_message, Some(handles), Some(leases)).2;
                assert_eq!(bytes, with(handles, leases));
                assert!(bytes < MOST || (handles, leases) == (2, 1), "{handles} {leases} {bytes}");
                assert!(leases == 4 || with(64, leases + 1) >= MOST);
                assert!(handles == 64 || leases == 1 && with(handles + 1, 1) >= MOST);
            }
        }
    }

    /// Fails if the number asked for is used as the maximum (seen failing).
    #[test]
    fn what_is_asked_for_stays() {
        let frames = |handles, leases| planned(8, 1 << 20, handles, leases);
        assert_eq!(frames(Some(64), Some(4)).2 >> 20, 328);
        assert!(matches!(frames(Some(64), None), (64, 1, _)));
        assert!(matches!(frames(None, Some(4)), (11, 4, _)));
        assert!(matches!(frames(None, Some(0)), (55, 0, _)));
        assert!(matches!(frames(None, Some(100)), (2, 100, _)));
    }

    /// Fails if lazy queues get fewer handles (seen failing).
    #[test]
    fn a_lazy_queue_has_as_many_handles_at_any_size() {
        let (handles, leases) = (Share::AtMost(64), Share::AtMost(4));
        let wishes = Wishes { handles, leases, lazy: true, ..wishes() };
        let plan = |max_message| Geometry::plan(Wishes { max_message, ..wishes }).unwrap();
        assert_eq!((plan(1 << 30).handles(), plan(1 << 30).leases()), (64, 4));
    }

    #[test]
    fn the_parts_do_not_overlap() {
        let plan = Geometry::plan(wishes()).unwrap();
        assert!(HEADER_LEN + plan.capacity() * 8 <= plan.records_at());
        assert!(plan.records_at() + 3 * RECORD_LEN <= plan.cells_at());
        assert!(plan.cells_at() + 3 * plan.cell_stride() * 8 <= plan.blocks_at());
        assert!(plan.blocks_at() + plan.blocks() * plan.block_words() * 8 <= plan.file_len());
        assert!(plan.block_words() * 8 >= plan.max_message() + BLOCK_HEADER_WORDS * 8);
    }

    /// Fails if a claim is not checked (seen failing for `batch`, `flags`, `queue_id` and each part
    /// of `schema`).
    #[test]
    fn each_lie_is_refused() {
        let plan = Geometry::plan(wishes()).unwrap();
        let honest = plan.claims(label());
        let len = plan.file_len() as u64;
        let check = |lie: Claims| Geometry::check(lie.as_bytes(), len).unwrap_err();
        let magic = [b'x'; 8];
        assert!(matches!(check(Claims { magic, ..honest }), OpenError::NotParkline));
        for version in [VERSION - 1, VERSION + 1] {
            // No later field is read.
            let other = Claims { version, batch: 1, flags: 1, handles: 0, ..honest };
            assert!(matches!(check(other), OpenError::Version { .. }));
        }
        let named = schema(b"orders", 3);
        let name_after_its_end = Schema { name_len: 5, ..named };
        for lie in [
            Claims { capacity_log2: 20, ..honest },
            Claims { capacity_log2: u32::MAX, ..honest },
            Claims { handles: 0, ..honest },
            Claims { handles: u32::MAX, ..honest },
            Claims { leases: u32::MAX, ..honest },
            Claims { max_message: u64::MAX, ..honest },
            Claims { watchdog_micros: 0, ..honest },
            Claims { watchdog_micros: u64::MAX, ..honest },
            Claims { max_attempts: 0, ..honest },
            Claims { max_attempts: 1 << 16, ..honest },
            Claims { queue_id: [0; 16], ..honest },
            Claims { schema: Schema { version: 1, ..Schema::NONE }, ..honest },
            Claims { schema: Schema { name_len: 0, ..named }, ..honest },
            Claims { schema: name_after_its_end, ..honest },
            Claims { schema: Schema { name_len: 65, ..named }, ..honest },
            Claims { schema: Schema { name_len: u32::MAX, ..named }, ..honest },
            Claims { schema: schema(b"order\xff", 3), ..honest },
        ] {
            assert!(matches!(check(lie), OpenError::Claims), "{lie:?}");
        }
        for bit in 0..u32::BITS {
            let batch = check(Claims { batch: 1 << bit, ..honest });
            assert!(matches!(batch, OpenError::Unsupported { what: "batch", .. }), "{batch:?}");
            let flags = check(Claims { flags: 1 << bit, ..honest });
            assert!(matches!(flags, OpenError::Unsupported { what: "flags", .. }), "{flags:?}");
        }
        let longer = Claims { max_message: 200, ..honest };
        assert!(matches!(check(longer), OpenError::WrongLength { .. }));
        assert!(Geometry::check(&page(&plan)[..20], len).is_err());
    }

    #[test]
    fn a_type_is_known_by_its_name_without_paths() {
        struct Order(#[expect(dead_code)] u32);
        let mark = TypeMark::of::<Option<Order>>();
        assert!(mark.to_string().starts_with("`Option<Order>`"), "{mark}");
        assert_ne!(mark, TypeMark::of::<Option<u32>>());
    }
}

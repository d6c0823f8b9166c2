//! The segment: a sealed memfd, mapped. `locks.rs` tells which of its handles live.
//!
//! **Creation.** The memfd is sealed with SHRINK, GROW and SEAL: no peer can truncate it while it
//! is mapped, or add a seal that keeps other processes out. Its memory is allocated at once, so
//! that a shortage is an error now and not a signal later. `memory.rs` first reads how much is
//! left, because the kernel does not refuse: it gives pages until it must kill processes, and the
//! pages of a file stay when the process is killed. Every step that can fail comes before the
//! allocation.
//!
//! **Mappings** stay out of core dumps: to write one, the kernel would allocate each page of a lazy
//! segment that no process has touched, and the dump of each peer would have a copy of all
//! messages.
#![expect(unsafe_code, reason = "maps shared memory")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic};
use std::time::Duration;

use memfd::{FileSeal, MemfdOptions};
use rustix::fs::{FallocateFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};
use rustix::rand::GetRandomFlags;
use zerocopy::IntoBytes;

use crate::error::{AttachError, CreateError, OpenError};
use crate::process::companion::Companion;
use crate::process::descriptor::Descriptor;
use crate::process::fork::{WipedWord, hold_forks};
use crate::process::locks::{Locks, Owner};
use crate::process::memory;
use crate::process::owing_handles::OwingHandles;
use crate::process::watch::Watch;
use crate::ring::arrays::{Blocks, Slots};
use crate::ring::condition::Condition;
use crate::ring::control::{Control, Record};
use crate::ring::geometry::{
    CONTROL_OFFSET, Geometry, HEADER_LEN, Label, QueueId, RECORD_LEN, Schema, SchemaAsked, TypeMark,
};
use crate::ring::slots::Ring;
use crate::sync::{AtomicU64, Ordering::Relaxed, kill_point};

const _: () = assert!(size_of::<Record>() == RECORD_LEN);
const _: () = assert!(CONTROL_OFFSET.is_multiple_of(align_of::<Control>()));
const _: () = assert!(CONTROL_OFFSET + size_of::<Control>() <= HEADER_LEN);

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// How many bytes one call allocates: it takes less than a millisecond.
const PART: usize = 1 << 20;

/// A checked, sealed memfd that holds a queue, and a mapping of it that belongs to no handle.
#[derive(Debug)]
pub(crate) struct Segment {
    descriptor: Descriptor,
    /// For an audit that cannot open a description of its own. Locked while an audit uses it.
    spare: Mutex<Option<Locks>>,
    view: Mapping,
    label: Label,
    pub(crate) watch: Watch,
    pub(crate) owing_handles: OwingHandles,
    /// The record at which the next search of all records for a free one begins.
    pub(crate) searched: atomic::AtomicU32,
    pub(crate) companion: Companion,
    /// A number that no other segment of this process has.
    pub(crate) serial: u64,
    /// Whether a new handle maps all pages at once.
    prefaults: atomic::AtomicBool,
    /// Whether core dumps include the mappings.
    is_dumped: atomic::AtomicBool,
    /// The word of the condition. Dropped last: all mappings of the queue use it.
    _wiped: WipedWord,
}

/// When a new segment gets its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// Each page when it is first touched.
    Lazy,
    Now,
}

impl Segment {
    pub(crate) fn create(
        geometry: Geometry,
        payload: TypeMark,
        schema: Schema,
        allocation: Allocation,
    ) -> Result<Self, CreateError> {
        let os = |call| move |cause| CreateError::Os { call, cause };
        let len = geometry.file_len() as u64;
        if allocation == Allocation::Now {
            memory::check(len).map_err(CreateError::Memory)?;
        }
        let label = Label { id: random_id().map_err(os("getrandom"))?, payload, schema };
        let fd = memfd(len).map_err(|(call, cause)| os(call)(cause))?;
        let file = File::from(fd);
        // RLIMIT_FSIZE cannot refuse this: it allowed the length of the file, and this is shorter.
        file.write_all_at(geometry.claims(label).as_bytes(), 0).map_err(os("pwrite"))?;
        let wiped = WipedWord::new().map_err(os("MADV_WIPEONFORK"))?;
        let condition = Arc::new(Condition::new(wiped.get()));
        let view = Mapping::new(file.as_fd(), geometry, condition);
        let view = view.map_err(|(call, cause)| os(call)(cause))?;
        if allocation == Allocation::Now {
            allocate(&file, len).map_err(|errno| os("fallocate")(errno.into()))?;
        }
        view.ring().lay_out();
        Self::of(OwnedFd::from(file), view, label, wiped).map_err(os("fstat"))
    }

    /// Checks everything that can be checked of an untrusted memfd, before any of it is mapped.
    fn open(fd: OwnedFd) -> Result<Self, OpenError> {
        let os = |call| move |cause: io::Error| OpenError::Os { call, cause };
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|errno| match errno {
            // These two say what the descriptor is; other errors say what this process may not ask.
            Errno::BADF | Errno::INVAL => OpenError::NotMemfd { cause: errno.into() },
            errno => os("F_GET_SEALS")(errno.into()),
        })?;
        let missing = SEALS.difference(seals);
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter_names().map(|(name, _)| name).collect();
            return Err(OpenError::Unsealed { missing: names.join("|") });
        }
        let fs = rustix::fs::fstatfs(&fd).map_err(|errno| os("fstatfs")(errno.into()))?;
        if fs.f_type.cast_unsigned() as u64 == HUGETLBFS_MAGIC {
            return Err(OpenError::HugePages);
        }
        let file = File::from(fd);
        let file_len = file.metadata().map_err(os("fstat"))?.len();
        let mut page = [0; HEADER_LEN];
        let mut len = 0;
        // Ends at the end of the page or of the file, whichever comes first.
        while let Some(rest) = page.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, len as u64).map_err(os("pread"))? {
                0 => break,
                n => len = len.saturating_add(n),
            }
        }
        let (geometry, label) = Geometry::check(page.get(..len).unwrap_or_default(), file_len)?;
        let wiped = WipedWord::new().map_err(os("MADV_WIPEONFORK"))?;
        let condition = Arc::new(Condition::new(wiped.get()));
        let view = Mapping::new(file.as_fd(), geometry, condition);
        let view = view.map_err(|(call, cause)| os(call)(cause))?;
        Self::of(OwnedFd::from(file), view, label, wiped).map_err(os("fstat"))
    }

    /// As [`open`](Self::open), if the type is `expected` and the schema is one that was `asked`
    /// for.
    pub(crate) fn open_as(
        fd: OwnedFd,
        expected: TypeMark,
        asked: SchemaAsked,
    ) -> Result<Self, OpenError> {
        let segment = Self::open(fd)?;
        let Label { payload, schema, .. } = segment.label;
        if payload != expected {
            let (found, expected) = (payload.to_string(), expected.to_string());
            return Err(OpenError::WrongType { found, expected });
        }
        if let Some(expected) = asked.refuses(schema) {
            let (found, expected) = (schema.to_string(), expected.to_string());
            return Err(OpenError::Schema { found, expected });
        }
        Ok(segment)
    }

    fn of(fd: OwnedFd, view: Mapping, label: Label, wiped: WipedWord) -> io::Result<Self> {
        static OPENED: atomic::AtomicU64 = atomic::AtomicU64::new(0);
        let watch = Watch::begin(view.geometry.watchdog());
        let serial = OPENED.fetch_add(1, atomic::Ordering::Relaxed);
        let (prefaults, is_dumped) = (false.into(), false.into());
        let (owing_handles, searched, companion) =
            (OwingHandles::default(), 0.into(), Companion::default());
        let new = Self {
            descriptor: Descriptor::new(fd, serial)?,
            spare: Mutex::new(None),
            view,
            label,
            watch,
            owing_handles,
            searched,
            companion,
            serial,
            prefaults,
            is_dumped,
            _wiped: wiped,
        };
        // Waits without a handle need the spare, too. If this fails, making a handle fails and
        // reports it.
        let _ = new.keep_spare(Duration::ZERO);
        Ok(new)
    }

    /// Allocates all memory, and makes each new handle map all of it at once.
    pub(crate) fn prefault(&self) -> Result<(), AttachError> {
        if self.view.is_forked() {
            return Err(AttachError::Forked);
        }
        let os = |call| move |errno: Errno| AttachError::Os { call, cause: errno.into() };
        // If the program has closed the descriptor, the number may name another file, which must
        // not grow.
        let fd = self.descriptor()?;
        let len = self.geometry().file_len() as u64;
        let stat = rustix::fs::fstat(fd).map_err(os("fstat"))?;
        let allocated = stat.st_blocks.cast_unsigned().saturating_mul(512);
        memory::check(len.saturating_sub(allocated))?;
        allocate(fd, len).map_err(os("fallocate"))?;
        self.prefault_handles();
        Ok(())
    }

    pub(crate) fn prefault_handles(&self) {
        self.prefaults.store(true, Relaxed);
    }

    /// Includes this mapping, and those of new handles, in core dumps.
    pub(crate) fn keep_in_core_dumps(&self) -> Result<(), AttachError> {
        if self.view.is_forked() {
            return Err(AttachError::Forked);
        }
        let os = |(call, cause)| AttachError::Os { call, cause };
        self.view.advise("MADV_DODUMP", Advice::LinuxDoDump).map_err(os)?;
        self.is_dumped.store(true, Relaxed);
        Ok(())
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.view.geometry
    }

    /// The shared words; `None` in a forked child, where they are not mapped.
    pub(crate) fn ring(&self) -> Option<Ring<'_>> {
        (!self.view.is_forked()).then(|| self.view.ring())
    }

    pub(crate) fn payload(&self) -> TypeMark {
        self.label.payload
    }

    /// What the messages mean, if the creator named a schema: its name and version.
    pub(crate) fn schema(&self) -> Option<(&str, u32)> {
        let schema = &self.label.schema;
        schema.name().map(|name| (name, schema.version()))
    }

    /// The creator's random number.
    pub(crate) fn id(&self) -> u128 {
        u128::from_be_bytes(self.label.id)
    }

    pub(crate) fn condition(&self) -> &Condition {
        &self.view.condition
    }

    /// Another mapping, which keeps the locks that are taken through `locks`.
    pub(crate) fn map(&self, locks: &Locks) -> Result<Mapping, AttachError> {
        let os = |(call, cause)| AttachError::Os { call, cause };
        let condition = Arc::clone(&self.view.condition);
        let new = Mapping::new(locks.as_fd(), *self.geometry(), condition).map_err(os)?;
        if self.is_dumped.load(Relaxed) {
            new.advise("MADV_DODUMP", Advice::LinuxDoDump).map_err(os)?;
        }
        if self.prefaults.load(Relaxed) {
            new.advise("MADV_POPULATE_WRITE", Advice::LinuxPopulateWrite).map_err(os)?;
        }
        Ok(new)
    }

    /// A description through which this process can take locks of records. Waits for up to
    /// `patience` for the end of a lease on the memfd.
    pub(crate) fn locks(&self, patience: Duration) -> Result<Locks, AttachError> {
        Locks::open(&self.descriptor, patience)
    }

    /// Makes sure that this process has a spare description for its audits.
    pub(crate) fn keep_spare(&self, patience: Duration) -> Result<(), AttachError> {
        let mut spare = lock(&self.spare);
        if !spare.as_ref().is_some_and(Locks::is_open) {
            *spare = Some(self.locks(patience)?);
        }
        Ok(())
    }

    /// A description for one audit: a new one, or the spare.
    pub(crate) fn audit_locks(&self) -> Result<AuditLocks<'_>, AttachError> {
        self.locks(Duration::ZERO).map(AuditLocks::Own).or_else(|refused| {
            let spare = lock(&self.spare);
            let is_open = spare.as_ref().is_some_and(Locks::is_open);
            if is_open { Ok(AuditLocks::Spare(spare)) } else { Err(refused) }
        })
    }

    /// Another descriptor, close-on-exec.
    pub(crate) fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.descriptor().map_err(io::Error::other)?.try_clone_to_owned()
    }

    /// The descriptor, unless this process has closed it.
    pub(crate) fn descriptor(&self) -> Result<BorrowedFd<'_>, AttachError> {
        self.descriptor.checked()
    }

    /// The owner of the lock of record `id`: see the table in `locks.rs`. The answer comes through
    /// `fd`, a descriptor of this segment that has no lock of the record.
    pub(crate) fn owner(&self, fd: BorrowedFd<'_>, id: u32) -> io::Result<Option<Owner>> {
        let owner = Owner::find(fd, id)?;
        let ring = self.ring();
        let record = ring.as_ref().and_then(|ring| ring.records.get(id as usize));
        let is_named = record.is_none_or(Record::is_named);
        Ok(owner.map(|owner| if is_named { owner } else { Owner::Passing }))
    }
}

/// A description that one audit uses alone.
#[derive(Debug)]
pub(crate) enum AuditLocks<'a> {
    Own(Locks),
    Spare(MutexGuard<'a, Option<Locks>>),
}

impl AuditLocks<'_> {
    pub(crate) fn get(&self) -> Option<&Locks> {
        match self {
            Self::Own(locks) => Some(locks),
            Self::Spare(spare) => spare.as_ref(),
        }
    }

    /// Closes the description, and so releases all its locks.
    pub(crate) fn close(self) {
        if let Self::Spare(mut spare) = self {
            *spare = None;
        }
    }
}

/// No thread panics while it holds a record's lock. If one did, the description would still be
/// usable.
fn lock(spare: &Mutex<Option<Locks>>) -> MutexGuard<'_, Option<Locks>> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that no other queue has.
fn random_id() -> io::Result<QueueId> {
    let mut id = QueueId::default();
    // At boot the call waits until the kernel has gathered entropy. A signal can interrupt that.
    let filled =
        rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut id, GetRandomFlags::empty()))?;
    if filled < id.len() || id == QueueId::default() {
        return Err(io::Error::other("the kernel gave no random bytes"));
    }
    Ok(id)
}

/// A sealed memfd of `len` bytes, none of them allocated; or the call that failed.
fn memfd(len: u64) -> Result<OwnedFd, (&'static str, io::Error)> {
    // Beyond this limit the kernel answers with EFBIG and with a signal that ends the process, also
    // a program that uses no files. Blocking the signal instead is no way: the mask is the
    // program's, and the signal that we would consume could be one that the program waits for.
    if getrlimit(Resource::Fsize).current.is_some_and(|most| most < len) {
        return Err(("ftruncate", Errno::FBIG.into()));
    }
    let failed = |call| move |error: memfd::Error| (call, errno_of(error));
    let options = MemfdOptions::new().allow_sealing(true).close_on_exec(true);
    let memfd = options.create("parkline").map_err(failed("memfd_create"))?;
    memfd.as_file().set_len(len).map_err(|error| ("ftruncate", error))?;
    let seals = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal];
    memfd.add_seals(&seals).map_err(failed("F_ADD_SEALS"))?;
    Ok(memfd.into_file().into())
}

/// The kernel's error: the text of `error` itself leaves its number out.
fn errno_of(error: memfd::Error) -> io::Error {
    match error {
        memfd::Error::Create(errno)
        | memfd::Error::AddSeals(errno)
        | memfd::Error::GetSeals(errno) => errno,
    }
}

/// Allocates the first `len` bytes of a file that is no shorter.
///
/// In parts: on a signal the kernel undoes the whole call (`shmem_fallocate`), and a program that
/// gets a signal every few milliseconds would never finish.
fn allocate(fd: impl AsFd, len: u64) -> rustix::io::Result<()> {
    for from in (0..len).step_by(PART) {
        let part = len.saturating_sub(from).min(PART as u64);
        rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(fd.as_fd(), FallocateFlags::empty(), from, part)
        })?;
    }
    Ok(())
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A mapped segment. If it was mapped from a description that holds a record's lock, it keeps that
/// lock.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Invariant: `geometry.file_len()` bytes, page-aligned, readable and writable until drop, in
    /// the process that opened the queue.
    base: NonNull<c_void>,
    geometry: Geometry,
    /// Shared by all mappings of one opened queue.
    condition: Arc<Condition>,
}

// SAFETY: the mapping is plain shared memory, valid on every thread, and reached only through
// atomics.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A mapping that no child inherits and no core dump includes; or the call that failed.
    fn new(
        fd: BorrowedFd<'_>,
        geometry: Geometry,
        condition: Arc<Condition>,
    ) -> Result<Self, (&'static str, io::Error)> {
        kill_point("mmap");
        // No fork before the mapping is MADV_DONTFORK.
        let _forks = hold_forks();
        let len = geometry.file_len();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a shared mapping at an address of the kernel's choice overlaps nothing. The file
        // is sealed against shrinking and checked to be `len` bytes long, so no access within the
        // mapping lies beyond the end of the file and faults.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) };
        let base = base.map_err(|errno| ("mmap", errno.into()))?;
        let base = NonNull::new(base).ok_or(("mmap", io::ErrorKind::InvalidInput.into()))?;
        let mapping = Self { base, geometry, condition };
        // A forked child has no mapping there, and makes no access: every use asks the condition first.
        mapping.advise("MADV_DONTFORK", Advice::LinuxDontFork)?;
        mapping.advise("MADV_DONTDUMP", Advice::LinuxDontDump)?;
        Ok(mapping)
    }

    /// Advises the kernel about the mapping. None of the advices that we pass removes or changes
    /// its contents.
    fn advise(&self, call: &'static str, advice: Advice) -> Result<(), (&'static str, io::Error)> {
        // SAFETY: the range is our mapping. It is shared memory only, whose contents these advices
        // leave as they are.
        let done =
            unsafe { rustix::mm::madvise(self.base.as_ptr(), self.geometry.file_len(), advice) };
        done.map_err(|errno| (call, errno.into()))
    }

    /// Whether this is a forked child, where the mapping does not exist.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.condition.is_forked()
    }

    /// The shared words.
    ///
    /// In a forked child they must not be touched: see [`Mapping::is_forked`].
    pub(crate) fn ring(&self) -> Ring<'_> {
        let geometry = self.geometry;
        let control = self.at::<Control>(CONTROL_OFFSET);
        let records = self.at::<Record>(geometry.records_at());
        let slots = self.at::<AtomicU64>(HEADER_LEN);
        let cells = self.at::<AtomicU64>(geometry.cells_at());
        let blocks = self.at::<AtomicU64>(geometry.blocks_at());
        let handles = geometry.handles() as usize;
        // Both are less than the file's length.
        let cells_len = handles.saturating_mul(geometry.cell_stride());
        let blocks_len = geometry.blocks().saturating_mul(geometry.block_words());
        Ring {
            geometry,
            condition: &self.condition,
            usual: self.condition.word(),
            // SAFETY: in bounds by the assertions above, aligned, any bits are valid; all fields
            // are atomics.
            control: unsafe { control.as_ref() },
            // SAFETY: `Geometry::compute` placed these within the file, aligned and disjoint; any
            // bits are valid atomics, and atomics may be accessed while other processes write.
            slots: Slots::new(
                unsafe { NonNull::slice_from_raw_parts(slots, geometry.capacity()).as_ref() },
                geometry.laps(),
            ),
            // SAFETY: as for the slots.
            records: unsafe { NonNull::slice_from_raw_parts(records, handles).as_ref() },
            // SAFETY: as for the slots.
            cells: unsafe { NonNull::slice_from_raw_parts(cells, cells_len).as_ref() },
            // SAFETY: as for the slots.
            blocks: Blocks::new(
                unsafe { NonNull::slice_from_raw_parts(blocks, blocks_len).as_ref() },
                geometry.blocks(),
                geometry.block_words(),
            ),
        }
    }

    /// The shared words, without the lifetime of the mapping.
    ///
    /// # Safety
    /// The result must not outlive `self`.
    pub(crate) unsafe fn ring_unbound(&self) -> Ring<'static> {
        let ring = self.ring();
        // SAFETY: the type is the same except for the lifetime, for which the caller is
        // responsible.
        unsafe { core::mem::transmute::<Ring<'_>, Ring<'static>>(ring) }
    }

    fn at<T>(&self, offset: usize) -> NonNull<T> {
        // SAFETY: every offset that `Geometry` gives lies within the mapping.
        unsafe { self.base.byte_add(offset) }.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.is_forked() {
            // Nothing is mapped here, or a mapping that is not ours.
            return;
        }
        kill_point("munmap");
        // SAFETY: by the invariant of `base`; and nothing can borrow from a mapping that is being
        // dropped.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.geometry.file_len()) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

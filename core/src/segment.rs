//! The segment: a sealed memfd, mapped; and the byte lock that says which handles live.
//!
//! **Creation.** Sealed SHRINK, GROW and SEAL: no peer can truncate it under our feet, nor add a
//! seal that keeps others out. Its memory is allocated at once, so that shortage is an error then
//! and not a signal later.
//!
//! **Liveness is a kernel lock.** A handle reopens the memfd, maps *that* open file description,
//! takes an `F_OFD_SETLK` lock on one byte far beyond the file's end, and closes the descriptor.
//! The mapping keeps the description and so the lock: it survives `close` and SIGSTOP, is not
//! inherited over fork (the mapping is `MADV_DONTFORK`, and a fork that copies the descriptor
//! closes the copy), crosses pid namespaces, and goes with exit, exec, SIGKILL or unmap. Owning
//! byte `2^40 + 2n` is owning record `n`; an auditor of the dead takes the next byte with it, so
//! that a new handle that finds no free record can tell.
#![expect(
    unsafe_code,
    reason = "maps shared memory and speaks F_OFD_SETLK, which no crate we use wraps"
)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::{Arc, atomic};
use std::thread;
use std::time::{Duration, Instant};

use memfd::{FileSeal, MemfdOptions};
use rustix::fs::{FallocateFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use zerocopy::IntoBytes;

use crate::error::{AttachError, CreateError, OpenError};
use crate::finding::Finding;
use crate::fork::{ForkGuard, hold_forks};
use crate::geometry::{CONTROL_OFFSET, Geometry, HEADER_LEN, RECORD_LEN, TypeMark};
use crate::recovery::Watch;
use crate::ring::{Control, Record, Ring};
use crate::sync::{AtomicU64, kill_point};

const _: () = assert!(size_of::<Record>() == RECORD_LEN);
const _: () = assert!(CONTROL_OFFSET.is_multiple_of(align_of::<Control>()));
const _: () = assert!(CONTROL_OFFSET + size_of::<Control>() <= HEADER_LEN);

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
const LOCKS_AT: i64 = 1 << 40;
const LOCK_STRIDE: i64 = 2;
/// How long somebody waits for audits by others, when no record is free or a queue seems to have
/// ended, and how often a new handle looks. Nobody's
/// life is decided by it: an auditor that is stopped keeps what it has.
pub(crate) const AUDIT_PATIENCE: Duration = Duration::from_millis(100);
const AUDIT_PAUSE: Duration = Duration::from_micros(100);

/// A checked, sealed memfd that holds a queue, and a mapping of it that stands for no handle.
#[derive(Debug)]
pub(crate) struct Segment {
    fd: OwnedFd,
    /// Which file `fd` is.
    identity: (u64, u64),
    view: Mapping,
    payload: TypeMark,
    pub(crate) watch: Watch,
    /// No other segment of this process has it.
    pub(crate) serial: u64,
}

impl Segment {
    pub(crate) fn create(
        geometry: Geometry,
        payload: TypeMark,
        lazy: bool,
    ) -> Result<Self, CreateError> {
        let os = |call| move |errno: Errno| CreateError::Os { call, cause: errno.into() };
        let options = MemfdOptions::new().allow_sealing(true).close_on_exec(true);
        let memfd = options.create("parkline").map_err(|error| CreateError::Os {
            call: "memfd_create",
            cause: io::Error::other(error),
        })?;
        let file = memfd.as_file();
        let len = geometry.file_len();
        rustix::fs::ftruncate(file, len as u64).map_err(os("ftruncate"))?;
        if !lazy {
            rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len as u64)
                .map_err(|errno| CreateError::Memory { bytes: len, cause: errno.into() })?;
        }
        file.write_all_at(geometry.claims(payload).as_bytes(), 0)
            .map_err(|cause| CreateError::Os { call: "pwrite", cause })?;
        let seals = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal];
        memfd.add_seals(&seals).map_err(|error| CreateError::Os {
            call: "F_ADD_SEALS",
            cause: io::Error::other(error),
        })?;
        let view = Mapping::new(file.as_fd(), geometry, Arc::default())
            .map_err(|cause| CreateError::Memory { bytes: len, cause })?;
        view.ring().lay_out();
        let fd = OwnedFd::from(memfd.into_file());
        let identity = identity(&fd).map_err(|cause| CreateError::Os { call: "fstat", cause })?;
        Ok(Self::of(fd, identity, view, payload))
    }

    /// Checks everything that can be checked of a stranger's memfd, before any of it is mapped.
    pub(crate) fn open(fd: OwnedFd) -> Result<Self, OpenError> {
        let os = |call| move |cause: io::Error| OpenError::Os { call, cause };
        let seals = rustix::fs::fcntl_get_seals(&fd)
            .map_err(|errno| OpenError::NotMemfd { cause: errno.into() })?;
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
        // Ends with the page or with the file, whichever is shorter.
        while let Some(rest) = page.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, len as u64).map_err(os("pread"))? {
                0 => break,
                n => len = len.saturating_add(n),
            }
        }
        let (geometry, payload) = Geometry::check(page.get(..len).unwrap_or_default(), file_len)?;
        let view = Mapping::new(file.as_fd(), geometry, Arc::default()).map_err(os("mmap"))?;
        let fd = OwnedFd::from(file);
        let identity = identity(&fd).map_err(os("fstat"))?;
        Ok(Self::of(fd, identity, view, payload))
    }

    fn of(fd: OwnedFd, identity: (u64, u64), view: Mapping, payload: TypeMark) -> Self {
        static OPENED: atomic::AtomicU64 = atomic::AtomicU64::new(0);
        let watch = Watch::begin(view.geometry.watchdog());
        let serial = OPENED.fetch_add(1, atomic::Ordering::Relaxed);
        Self { fd, identity, view, payload, watch, serial }
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.view.geometry
    }

    /// The shared words; `None` in a forked child, where they are not mapped.
    pub(crate) fn ring(&self) -> Option<Ring<'_>> {
        (!self.view.is_forked()).then(|| self.view.ring())
    }

    pub(crate) fn payload(&self) -> TypeMark {
        self.payload
    }

    /// A mapping that owns a free record, for which `accept` has the last word.
    pub(crate) fn claim<P>(
        &self,
        mut accept: impl FnMut(&Mapping, u32) -> Result<Claim<P>, AttachError>,
    ) -> Result<(P, Mapping), AttachError> {
        let os = |call| move |cause: io::Error| AttachError::Os { call, cause };
        self.view.finding.check()?;
        let locks = self.locks().map_err(|cause| AttachError::Proc { cause })?;
        let finding = Arc::clone(&self.view.finding);
        let mapping = Mapping::new(locks.description.as_fd(), *self.geometry(), finding);
        let mapping = mapping.map_err(os("mmap"))?;
        let begin = Instant::now();
        // Whom somebody may let go of in a moment, or who has been refused for good.
        let mut ids: Vec<u32> = (0..self.geometry().handles()).collect();
        loop {
            let (mut corrupt, mut refused) = (None, Vec::new());
            for &id in &ids {
                // Not yet as a handle: who is told no knows that it may be free again.
                if !locks.take(id, Owner::Auditor).map_err(os("F_OFD_SETLK"))? {
                    continue;
                }
                match accept(&mapping, id) {
                    Ok(Claim::Taken(port)) => {
                        locks.keep(id).map_err(os("F_OFD_SETLK"))?;
                        // The description is closed here; the mapping keeps it, and so the lock.
                        kill_point("close");
                        return Ok((port, mapping));
                    }
                    Ok(Claim::Refused) => refused.push(id),
                    Ok(Claim::Postponed) => {}
                    // One record that somebody scribbled on does not keep the others.
                    Err(error @ AttachError::Corrupt(_)) => corrupt = Some(error),
                    Err(error) => return Err(error),
                }
                locks.release(id).map_err(os("F_OFD_SETLK"))?;
            }
            if let Some(corrupt) = corrupt {
                return Err(corrupt);
            }
            // One that is audited, or was a moment ago, is free in a moment.
            let lives = |id: &u32| matches!(self.owner(*id), Ok(Some(Owner::Handle)));
            ids.retain(|id| !refused.contains(id) && !lives(id));
            if ids.is_empty() || begin.elapsed() >= AUDIT_PATIENCE {
                let handles = self.geometry().handles() as usize;
                return Err(AttachError::NoFreeHandle { handles });
            }
            thread::sleep(AUDIT_PAUSE);
        }
    }

    /// The records' locks, to be taken in this process's name.
    pub(crate) fn locks(&self) -> io::Result<Locks> {
        // Not /proc/self: the process's first thread may have ended, or have other descriptors.
        let path = format!("/proc/thread-self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let mut forks = hold_forks();
        kill_point("open");
        let description = rustix::fs::open(path, flags, Mode::empty())?;
        forks.keep_from_children(description.as_raw_fd());
        drop(forks);
        let locks = Locks { description: ManuallyDrop::new(description) };
        // Who closes descriptors that are not his may have made our number another file's.
        if identity(&locks.description)? != self.identity {
            return Err(io::Error::other("this process has closed the queue's descriptor"));
        }
        Ok(locks)
    }

    /// Whether somebody has the lock of record `id`: a living handle, or who audits a dead one.
    pub(crate) fn is_owned(&self, id: u32) -> io::Result<bool> {
        Ok(self.owner(id)?.is_some())
    }

    /// Who has the lock of record `id`.
    pub(crate) fn owner(&self, id: u32) -> io::Result<Option<Owner>> {
        let mut lock = lock_of(id, Owner::Handle, libc::F_WRLCK);
        kill_point("F_OFD_GETLK");
        // SAFETY: `lock` is a valid flock that lives over the call, which writes into it.
        let asked = unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        if asked == -1 {
            return Err(io::Error::last_os_error());
        }
        let is_free = i32::from(lock.l_type) == libc::F_UNLCK;
        let owner = if lock.l_len == Owner::Handle.len() { Owner::Handle } else { Owner::Auditor };
        Ok((!is_free).then_some(owner))
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A mapped segment. If it was mapped from a description that holds a record's lock, it is the
/// lock.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Invariant: `geometry.file_len()` bytes, page-aligned, readable and writable until drop, in
    /// the process that `guard` remembers.
    base: NonNull<c_void>,
    guard: ForkGuard,
    geometry: Geometry,
    /// Shared by all mappings of one opened queue.
    finding: Arc<Finding>,
}

// SAFETY: the mapping is plain shared memory, valid on every thread, and reached only through
// atomics.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, geometry: Geometry, finding: Arc<Finding>) -> io::Result<Self> {
        kill_point("mmap");
        let guard = ForkGuard::new()?;
        // Until the mapping is not inherited.
        let _forks = hold_forks();
        let len = geometry.file_len();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a shared mapping at a place of the kernel's choice overlaps nothing. The file is
        // sealed against shrinking and checked to be `len` long, so no access within can fault for
        // lack of a file.
        let base =
            unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }?;
        let base = NonNull::new(base).ok_or(io::ErrorKind::InvalidInput)?;
        let mapping = Self { base, guard, geometry, finding };
        // SAFETY: the range is the mapping just made. A forked child finds nothing there, and does
        // not look: every use asks the guard first.
        unsafe { rustix::mm::madvise(base.as_ptr(), len, Advice::LinuxDontFork) }?;
        Ok(mapping)
    }

    /// Whether this is a forked child, where the mapping does not exist.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.guard.is_forked()
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
        // Less than the file's length, both.
        let cells_len = handles.saturating_mul(geometry.cell_stride());
        let blocks_len = geometry.blocks().saturating_mul(geometry.block_words());
        Ring {
            geometry,
            finding: &self.finding,
            // SAFETY: in bounds by the assertions above, aligned, any bits are valid; all fields
            // are atomics.
            control: unsafe { control.as_ref() },
            // SAFETY: `Geometry::compute` laid these out within the file, aligned and apart; any
            // bits are valid atomics, and shared memory that others write is what atomics are for.
            slots: unsafe { NonNull::slice_from_raw_parts(slots, geometry.capacity()).as_ref() },
            // SAFETY: as for the slots.
            records: unsafe { NonNull::slice_from_raw_parts(records, handles).as_ref() },
            // SAFETY: as for the slots.
            cells: unsafe { NonNull::slice_from_raw_parts(cells, cells_len).as_ref() },
            // SAFETY: as for the slots.
            blocks: unsafe { NonNull::slice_from_raw_parts(blocks, blocks_len).as_ref() },
        }
    }

    /// The shared words for as long as the caller keeps the mapping.
    ///
    /// # Safety
    /// The result must not outlive `self`.
    pub(crate) unsafe fn ring_unbound(&self) -> Ring<'static> {
        let ring = self.ring();
        // SAFETY: the same type but for the lifetime, which the caller answers for.
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
            // Nothing is mapped here, or something that is not ours.
            return;
        }
        kill_point("munmap");
        // SAFETY: by the invariant of `base`, and nothing borrows from a mapping that is dropped.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.geometry.file_len()) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

/// An open file description of a segment, through which records' locks are taken. They go with it,
/// or with the last mapping made of it; a forked child has no copy.
#[derive(Debug)]
pub(crate) struct Locks {
    description: ManuallyDrop<OwnedFd>,
}

impl Locks {
    /// Takes the lock of record `id`, as a living handle or to audit a dead one; `false` if somebody
    /// has it.
    pub(crate) fn take(&self, id: u32, owner: Owner) -> io::Result<bool> {
        match self.set(lock_of(id, owner, libc::F_WRLCK)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn release(&self, id: u32) -> io::Result<()> {
        self.set(lock_of(id, Owner::Auditor, libc::F_UNLCK))
    }

    /// Makes a handle's lock of an auditor's.
    fn keep(&self, id: u32) -> io::Result<()> {
        let mut second = lock_of(id, Owner::Handle, libc::F_UNLCK);
        second.l_start = second.l_start.wrapping_add(second.l_len);
        self.set(second)
    }

    fn set(&self, lock: libc::flock) -> io::Result<()> {
        kill_point("F_OFD_SETLK");
        // SAFETY: `lock` is a valid flock that lives over the call, which writes nothing for
        // F_OFD_SETLK.
        match unsafe {
            libc::fcntl(self.description.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock)
        } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        let mut forks = hold_forks();
        forks.is_closing(self.description.as_raw_fd());
        // SAFETY: dropped once, here, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.description) };
    }
}

fn identity(fd: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// What becomes of a record that somebody wants for a handle, and that nobody has.
pub(crate) enum Claim<P> {
    Taken(P),
    /// Not this handle's, for good.
    Refused,
    /// Its audit must wait for another handle.
    Postponed,
}

/// Who has the lock of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A living handle, by the first of the record's two bytes.
    Handle,
    /// Who audits it, by both: it is nobody's, in a moment.
    Auditor,
}

impl Owner {
    fn len(self) -> i64 {
        match self {
            Self::Handle => 1,
            Self::Auditor => LOCK_STRIDE,
        }
    }
}

fn lock_of(id: u32, owner: Owner, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKS_AT.saturating_add(LOCK_STRIDE.saturating_mul(id.into())),
        l_len: owner.len(),
        l_pid: 0,
    }
}

#[cfg(all(test, not(kill_points)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::Owner;
    use crate::{Queue, Receiver, RecvError, Sender};

    /// A queue whose record 1 was left with a message for which there is no room.
    fn with_an_inheritance(handles: usize) -> (Queue, Sender) {
        let queue = Queue::builder().capacity(1).handles(handles).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.try_send(b"first").unwrap();
        let lease = receiver.try_lease().unwrap();
        sender.try_send(b"second").unwrap();
        lease.abandon();
        (queue, sender)
    }

    /// Fails if a refusal wakes everybody (seen failing), once or each time that it looks.
    #[test]
    fn who_is_refused_what_others_left_wakes_nobody() {
        let (queue, sender) = with_an_inheritance(2);
        let side = sender.side();
        let word = || side.gate().unwrap().word().load(Relaxed);
        let before = word();
        assert!(queue.sender().is_err());
        assert_eq!(word(), before);
    }

    /// Fails if who claims a record holds it as a handle before it knows that it wants it (seen
    /// failing).
    #[test]
    fn an_heir_is_not_refused_for_somebody_who_is() {
        let (queue, _sender) = with_an_inheritance(2);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !is_over.load(Relaxed) {
                        assert!(queue.sender().is_err());
                    }
                });
            }
            let refused = (0..3000).filter_map(|_| queue.receiver().err()).next();
            is_over.store(true, Relaxed);
            assert!(refused.is_none(), "{refused:?}");
        });
    }

    /// Fails if the end is told while somebody recovers (seen failing).
    #[test]
    fn a_queue_has_not_ended_while_somebody_puts_back_what_the_dead_had() {
        let (queue, _sender) = with_an_inheritance(3);
        let mut receiver = queue.receiver().unwrap();
        assert_eq!(receiver.try_recv().unwrap(), b"second");
        queue.close().unwrap();
        let locks = queue.segment().locks().unwrap();
        assert!(locks.take(1, Owner::Auditor).unwrap());
        assert_eq!(receiver.answer(Receiver::try_recv), None);
        locks.release(1).unwrap();
        assert_eq!(receiver.answer(Receiver::try_recv), Some(Ok(b"first".to_vec())));
        assert_eq!(receiver.answer(Receiver::try_recv), Some(Err(RecvError::Closed)));
    }

    /// Fails if a new handle does not wait for auditors (seen failing), or if they lock as handles do
    /// (seen failing).
    #[test]
    fn a_record_that_is_audited_is_free_in_a_moment() {
        let queue = Queue::builder().handles(1).create().unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let locks = queue.segment().locks().unwrap();
                    if locks.take(0, Owner::Auditor).unwrap() {
                        locks.release(0).unwrap();
                    }
                }
            });
            let refused = (0..1000).filter_map(|_| queue.sender().err()).next();
            is_over.store(true, Relaxed);
            assert!(refused.is_none(), "{refused:?}");
        });
        let _taken = queue.sender().unwrap();
        assert!(queue.sender().is_err(), "nobody audits, and nothing is free");
    }
}

//! Am I still the process that made this handle? And what no child may get of it.
//!
//! One private page holds the number of this process among its forebears, and is marked
//! `MADV_WIPEONFORK`: whatever way a child is made, it reads 0 there. A child that makes a handle
//! of its own takes the next number, so that the handles it inherited stay strangers. A check is
//! one load of a line that hardly ever changes.
//!
//! A child gets a copy of every descriptor, and a copy keeps alive what hangs on it: the lock that
//! says which handles live, a ring and the waits in it. So `fork` waits while such a descriptor is
//! made or closed, by handlers of `pthread_atfork`, and the child closes its copies before it does
//! anything else. `vfork` and `posix_spawn` run no handlers and need none: such a child is a guest
//! in its parent's memory until it executes a program, and that closes them.
#![expect(unsafe_code, reason = "maps the page that the kernel wipes, and handles forks")]

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::fs::SeekFrom;
use rustix::mm::{Advice, MapFlags, ProtFlags};

const PAGE: usize = 4096;

/// The descriptors of which no forked child keeps a copy. Locked in the thread that forks, so that
/// a child finds it whole and can unlock it.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Kept {
    fd: RawFd,
    /// The offset of the description, if it has one of its own: the number may be another file's by
    /// now.
    mark: Option<Mark>,
}

/// An offset that one open file description has, and no other. It tells whether a number names that
/// description still: a program may have closed it, and opened another file, or the same, by that
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u64);

/// A random number, which a forked child and its parent do not share.
pub(crate) fn random() -> u64 {
    // The process and the time too: forked children have the same states.
    RandomState::new().hash_one((std::process::id(), Instant::now()))
}

impl Mark {
    /// Gives the description `fd` an offset of its own. Nothing must read or write at its offset.
    pub(crate) fn set(fd: impl AsFd) -> rustix::io::Result<Self> {
        // An offset is positive.
        let offset = random() >> 1;
        rustix::fs::seek(fd, SeekFrom::Start(offset)).map(Self)
    }

    /// Whether `fd` is of that description.
    pub(crate) fn is_of(self, fd: impl AsFd) -> bool {
        rustix::fs::tell(fd) == Ok(self.0)
    }
}

/// While one lives, no other thread of this process forks.
///
/// For a few system calls: nothing that calls back may run meanwhile, and this thread must not fork
/// or hold them twice. Also for locks of the whole process, which a child must not find taken.
#[derive(Debug)]
#[must_use = "forks go on when it is dropped"]
pub struct ForksHeld(MutexGuard<'static, Vec<Kept>>);

/// Lets no other thread of this process fork until the result is dropped.
pub fn hold_forks() -> ForksHeld {
    static HANDLED: AtomicBool = AtomicBool::new(false);
    // Not a `Once`: a child of a fork in this moment would wait for a thread that it does not have.
    if !HANDLED.load(Acquire) {
        // SAFETY: the handlers are `extern "C"`, take nothing, and do not unwind. Should there be no
        // memory for them, forks are not held: as if this process had forked without libc.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
        // After that, so that nobody counts on handlers that are not there; twice does no harm.
        HANDLED.store(true, Release);
    }
    ForksHeld(KEPT.lock().unwrap_or_else(PoisonError::into_inner))
}

impl ForksHeld {
    /// Has children close their copies of `fd`. It belongs to somebody who says so before closing
    /// it, and who leaves it alone in a child.
    pub fn keep_from_children(&mut self, fd: RawFd) {
        self.0.push(Kept { fd, mark: None });
    }

    /// The same of a description that stays open for long: children leave `fd` alone if it is another
    /// file's by then.
    pub(crate) fn keep_marked_from_children(&mut self, fd: RawFd, mark: Mark) {
        self.0.push(Kept { fd, mark: Some(mark) });
    }

    /// `fd` is about to be closed, before forks go on.
    pub fn is_closing(&mut self, fd: RawFd) {
        self.0.retain(|kept| kept.fd != fd || kept.mark.is_some());
    }

    /// The description with `mark` is about to be closed, or was closed by the program.
    pub(crate) fn is_closing_marked(&mut self, mark: Mark) {
        self.0.retain(|kept| kept.mark != Some(mark));
    }
}

thread_local! {
    /// The lock of a fork under way. Nothing to drop, and so there until the very end of a thread.
    static FORKING: Cell<Option<ManuallyDrop<MutexGuard<'static, Vec<Kept>>>>> =
        const { Cell::new(None) };
}

extern "C" fn before_fork() {
    if let held @ Some(_) = FORKING.take() {
        // Registered twice.
        FORKING.set(held);
        return;
    }
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    FORKING.set(Some(ManuallyDrop::new(kept)));
}

extern "C" fn in_parent() {
    drop(FORKING.take().map(ManuallyDrop::into_inner));
}

extern "C" fn in_child() {
    let Some(kept) = FORKING.take() else { return };
    let mut kept = ManuallyDrop::into_inner(kept);
    for Kept { fd, mark } in kept.drain(..) {
        // SAFETY: borrowed for one call, which fails if nothing is open by that number.
        let is_it = |mark: Mark| mark.is_of(unsafe { BorrowedFd::borrow_raw(fd) });
        if mark.is_none_or(is_it) {
            // SAFETY: whoever registered `fd` leaves the child's copy to us.
            unsafe { libc::close(fd) };
        }
    }
}

/// The memory of the process that made something.
#[derive(Clone, Copy, Debug)]
pub struct ForkGuard {
    current: &'static AtomicU32,
    made_in: u32,
}

impl ForkGuard {
    /// The guard of this process.
    ///
    /// # Errors
    /// When there is no memory for its page.
    pub fn new() -> io::Result<Self> {
        /// Ordinary memory: a child goes on from its parent's number.
        static LAST: AtomicU32 = AtomicU32::new(0);
        let current = page_of_process()?;
        let next = LAST.fetch_add(1, Relaxed).wrapping_add(1).max(1);
        let made_in = match current.compare_exchange(0, next, Relaxed, Relaxed) {
            Ok(_) => next,
            Err(number) => number,
        };
        Ok(Self { current, made_in })
    }

    /// Whether this is a forked child of the process that made the guard.
    #[inline]
    pub fn is_forked(self) -> bool {
        self.current.load(Relaxed) != self.made_in
    }
}

/// Not a `OnceLock`: a child of a fork in the midst would wait for a thread that it does not have.
fn page_of_process() -> rustix::io::Result<&'static AtomicU32> {
    static PAGE_OF_PROCESS: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
    let mut page = PAGE_OF_PROCESS.load(Acquire);
    if page.is_null() {
        let new = map_page()?;
        // Who was second leaves his page alone for ever.
        let first = PAGE_OF_PROCESS.compare_exchange(ptr::null_mut(), new, Release, Acquire);
        page = first.map_or_else(|other| other, |_| new);
    }
    // SAFETY: the page is aligned, zeroed, never unmapped, and only ever used as this one atomic.
    Ok(unsafe { &*page })
}

fn map_page() -> rustix::io::Result<*mut AtomicU32> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: an anonymous mapping at a place of the kernel's choice overlaps nothing.
    let page =
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), PAGE, prot, MapFlags::PRIVATE) }?;
    // SAFETY: the page is ours alone; wiping it in a child leaves a valid AtomicU32 of 0 there.
    unsafe { rustix::mm::madvise(page, PAGE, Advice::LinuxWipeOnFork) }?;
    Ok(page.cast())
}

//! Detects forked children, and keeps descriptors from them.
//!
//! One private page holds a number of this process, and is marked `MADV_WIPEONFORK`: a child reads
//! 0 there, however it was made. A child that makes a handle of its own takes the next number, so
//! that the handles that it inherited still do not match. A check is one load of a cache line that
//! hardly ever changes.
//!
//! A child gets a copy of every descriptor, and the copy keeps its description alive: the lock that
//! tells which handles live, or an io_uring with the waits in it. So `fork` waits while such a
//! descriptor is made or closed, by handlers of `pthread_atfork`, and the child closes its copies
//! before it does anything else. `vfork` and `posix_spawn` run no handlers and need none: such a
//! child uses its parent's memory until it executes a program, and that closes its copies.
#![expect(unsafe_code, reason = "maps the page that the kernel wipes, and handles forks")]

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed,
    Ordering::Release,
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::fs::SeekFrom;
use rustix::mm::{Advice, MapFlags, ProtFlags};

const PAGE: usize = 4096;

/// The descriptors of which no forked child keeps a copy. The thread that forks holds the lock, so
/// that the child finds the list complete and can unlock it.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Kept {
    fd: RawFd,
    /// The offset of the description, if it has one of its own: then the number may name another
    /// file by the time of a fork.
    mark: Option<Mark>,
}

/// A file offset that one open file description has and no other. It tells whether a number still
/// names that description: the program may have closed it, and opened the same or another file,
/// which got that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u64);

/// A random number, different in a forked child and its parent.
pub(crate) fn random() -> u64 {
    // Hashes the pid and the time too, because a forked child has the same keys as its parent.
    RandomState::new().hash_one((std::process::id(), Instant::now()))
}

impl Mark {
    /// Gives the description `fd` an offset of its own. No code may read or write at its offset.
    pub(crate) fn set(fd: impl AsFd) -> rustix::io::Result<Self> {
        // An offset is positive.
        let offset = random() >> 1;
        rustix::fs::seek(fd, SeekFrom::Start(offset)).map(Self)
    }

    /// Whether `fd` names the description with this mark.
    pub(crate) fn is_of(self, fd: impl AsFd) -> bool {
        rustix::fs::tell(fd) == Ok(self.0)
    }
}

/// While one lives, no other thread of this process forks.
///
/// For a few system calls: no callback may run in the meantime, and this thread must not fork or
/// call [`hold_forks`] again. Also for locks of the whole process that a child must not find
/// locked.
#[derive(Debug)]
#[must_use = "forks go on when it is dropped"]
pub struct ForksHeld(MutexGuard<'static, Vec<Kept>>);

/// Keeps all other threads of this process from forking until the result is dropped.
pub fn hold_forks() -> ForksHeld {
    static HANDLED: AtomicBool = AtomicBool::new(false);
    // Not a `Once`: a child that is forked inside it would wait for a thread that it does not have.
    if !HANDLED.load(Acquire) {
        // SAFETY: the handlers are `extern "C"`, take nothing, and do not unwind. Without memory
        // for them forks are not held, as if the process forked without libc.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
        // After the call, so that no thread relies on handlers that are not there yet. Two calls do
        // no harm.
        HANDLED.store(true, Release);
    }
    ForksHeld(KEPT.lock().unwrap_or_else(PoisonError::into_inner))
}

impl ForksHeld {
    /// Makes children close their copies of `fd`. The caller owns `fd`, calls
    /// [`is_closing`](Self::is_closing) before it closes it, and does not use it in a child.
    pub fn keep_from_children(&mut self, fd: RawFd) {
        self.0.push(Kept { fd, mark: None });
    }

    /// As [`keep_from_children`](Self::keep_from_children), for a description that stays open for
    /// long: children do not close `fd` if it names another file by then.
    pub(crate) fn keep_marked_from_children(&mut self, fd: RawFd, mark: Mark) {
        self.0.push(Kept { fd, mark: Some(mark) });
    }

    /// To be called before `fd` is closed, and before forks go on.
    pub fn is_closing(&mut self, fd: RawFd) {
        self.0.retain(|kept| kept.fd != fd || kept.mark.is_some());
    }

    /// To be called before the description with `mark` is closed, or after the program closed it.
    pub(crate) fn is_closing_marked(&mut self, mark: Mark) {
        self.0.retain(|kept| kept.mark != Some(mark));
    }
}

thread_local! {
    /// The lock of a fork under way. It needs no drop, so it exists until the very end of a thread.
    static FORKING: Cell<Option<ManuallyDrop<MutexGuard<'static, Vec<Kept>>>>> =
        const { Cell::new(None) };
}

extern "C" fn before_fork() {
    if let held @ Some(_) = FORKING.take() {
        // The handlers were registered twice.
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
        // SAFETY: borrowed for one call, which fails if no file is open by that number.
        let is_it = |mark: Mark| mark.is_of(unsafe { BorrowedFd::borrow_raw(fd) });
        if mark.is_none_or(is_it) {
            // SAFETY: the code that registered `fd` does not use the child's copy.
            unsafe { libc::close(fd) };
        }
    }
}

/// Tells whether this is still the process that made an object.
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
        /// In ordinary memory: a child continues from its parent's number.
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

/// Not a `OnceLock`: a child that is forked inside it would wait for a thread that it does not
/// have.
fn page_of_process() -> rustix::io::Result<&'static AtomicU32> {
    static PAGE_OF_PROCESS: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
    let mut page = PAGE_OF_PROCESS.load(Acquire);
    if page.is_null() {
        let new = map_page()?;
        // A thread that loses this race leaves its page mapped and unused.
        let first = PAGE_OF_PROCESS.compare_exchange(ptr::null_mut(), new, Release, Acquire);
        page = first.map_or_else(|other| other, |_| new);
    }
    // SAFETY: the page is aligned, zeroed, never unmapped, and used only as this one atomic.
    Ok(unsafe { &*page })
}

/// A word that the kernel sets to 0 in a forked child, for one opened queue.
#[derive(Debug)]
pub(crate) struct WipedWord(&'static AtomicU64);

/// The words that no queue uses, of pages that are never unmapped.
static WIPED: Mutex<Vec<&'static AtomicU64>> = Mutex::new(Vec::new());

impl WipedWord {
    pub(crate) fn new() -> io::Result<Self> {
        // A child must not find the list locked.
        let _forks = hold_forks();
        let mut free = WIPED.lock().unwrap_or_else(PoisonError::into_inner);
        if free.is_empty() {
            let page = map_page()?.cast::<AtomicU64>();
            const WORDS: usize = PAGE / size_of::<AtomicU64>();
            for word in 0..WORDS {
                // SAFETY: so many words lie on the page.
                let word = unsafe { page.add(word) };
                // SAFETY: the page is aligned, zeroed and never unmapped, and each of its words is used
                // as an atomic alone.
                free.push(unsafe { &*word });
            }
        }
        free.pop().map(Self).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    pub(crate) fn get(&self) -> &'static AtomicU64 {
        self.0
    }
}

impl Drop for WipedWord {
    fn drop(&mut self) {
        let _forks = hold_forks();
        WIPED.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

fn map_page() -> rustix::io::Result<*mut AtomicU32> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice overlaps nothing.
    let page =
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), PAGE, prot, MapFlags::PRIVATE) }?;
    // SAFETY: only this thread has the page; a wipe in a child leaves a valid AtomicU32 of 0 there.
    unsafe { rustix::mm::madvise(page, PAGE, Advice::LinuxWipeOnFork) }?;
    Ok(page.cast())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Fails if a word is not used again (seen failing): each queue that was ever opened would keep one.
    #[test]
    fn a_word_is_used_again_after_its_queue() {
        let address = || WipedWord::new().unwrap().get() as *const AtomicU64;
        let addresses: HashSet<_> = (0..10 * PAGE).map(|_| address()).collect();
        // Other tests have words at the same time.
        assert!(addresses.len() < PAGE, "{}", addresses.len());
    }
}

//! Liveness of handles: the kernel's lock on each record.
//!
//! A handle reopens the memfd, maps *that* open file description, takes `F_OFD_SETLK` locks through
//! it on bytes far beyond the file's end, and closes the descriptor. The mapping keeps the
//! description open, and so keeps the lock:
//!
//! * `close` and SIGSTOP do not release it; exit, exec, SIGKILL and unmap do.
//! * A forked child does not inherit it: the mapping is `MADV_DONTFORK`, and the child closes its
//!   copy of the descriptor.
//! * It holds across pid namespaces.
//!
//! Record `n` has two lock bytes, `2^40 + 2n` and the next one. An auditor of a dead handle locks
//! both. A new handle locks both too, and unlocks the second once it keeps the record. The record's
//! `pid` is *named* if it is not 0 and its `LEFT` bit is clear ([`Record::is_named`]). The three
//! together tell a handle that finds no free record which records may become free shortly:
//!
//! | first byte | second byte | pid | record `n` |
//! |---|---|---|---|
//! | free | free | not named | free; if `LEFT` is set, its last handle left messages |
//! | free | free | named | free; its owner died, and may have left something to recover |
//! | locked | locked | any | passing: an auditor or a new handle has it |
//! | locked | free | not named | passing: a new handle has not stored its pid yet, or the handle ended and a child between fork and exec has a copy of the descriptor |
//! | locked | free | named | owned: the handle lives, or its process died and such a child still has the copy |
//!
//! `vfork` and `posix_spawn` run no fork handlers: their child gets a copy of each descriptor that
//! is open at that moment, and keeps the description and the lock until it executes its program. So
//! a handle that ends changes its pid first (0, or `LEFT` if messages stay), and no other handle
//! takes its record for that of a living one.
//!
//! **What a call costs.** The kernel keeps the locks of a file in one list: the locks of one
//! description together, the descriptions in the order of their first lock. Each call walks this
//! list (`fs/locks.c`): `F_OFD_GETLK` to the first conflicting lock, `F_OFD_SETLK` of free bytes
//! twice to the end, an unlock to the locks of its own description, a `close` to the end. So a call
//! costs about 1 us among 50 locks and 70 to 220 us among 10,000, and asking about each record
//! takes a time that grows with the square of their number. Any process that has the memfd can take
//! as many locks as its memory allows. So every loop over these calls has a budget.
//!
//! **A spare description.** An auditor opens a description of its own. A process cannot do that any
//! more after a `chroot` away from `/proc`, or when it has used up its descriptors, and dead
//! handles would stay unrecovered. So each process keeps one spare description for each queue that
//! it has open, and audits through it where it cannot open another. One audit at a time uses the
//! spare, because the kernel grants a description the locks that it already has. The program can
//! close the spare without notice, and its number can come to name a description that other
//! processes share. So each description has a file offset of its own ([`Mark`]), which identifies
//! it.
//!
//! **Leases.** An open waits while another process holds a lease on the file (`F_SETLEASE`), for up
//! to `fs.lease-break-time`, 45 s. The memfd is opened with `O_NONBLOCK`: such an open starts to
//! break the lease, like any open, and does not wait. No other call here waits for a lease. While a
//! process keeps a description open the kernel grants no lease, because the description is open for
//! writing.
//! [`Record::is_named`]: crate::ring::control::Record::is_named
#![expect(unsafe_code, reason = "speaks F_OFD_SETLK, which no crate we use wraps")]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::AttachError;
use crate::process::descriptor::Descriptor;
use crate::process::fork::{Mark, hold_forks};
use crate::sync::kill_point;

const LOCKS_AT: i64 = 1 << 40;
const BOTH: i64 = 2;

/// How long a thread that waits for the end of a lease sleeps between two attempts.
const LEASE_PAUSE: Duration = Duration::from_millis(1);

/// The lock calls that this thread made, for tests.
#[cfg(test)]
pub(crate) mod calls {
    use std::cell::Cell;

    thread_local! {
        static MADE: Cell<u32> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        MADE.set(MADE.get() + 1);
    }

    /// How many calls `act` makes.
    pub(crate) fn of<R>(act: impl FnOnce() -> R) -> (R, u32) {
        let before = MADE.get();
        let done = act();
        (done, MADE.get() - before)
    }
}

/// The owner of the lock of a record: see the table at the top of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A living handle: the first byte is locked, the second is free, and the record's pid is
    /// named.
    Handle,
    /// The record may become free shortly. One of three things is true: an auditor or a new handle
    /// holds both bytes; a new handle has not stored its pid yet; or the handle has ended, and a
    /// child between fork and exec still has a copy of the descriptor.
    Passing,
}

impl Owner {
    /// The owner of the lock of record `id` of the segment `fd`, by the two bytes alone;
    /// `Segment::owner` adds the pid.
    pub(crate) fn find(fd: BorrowedFd<'_>, id: u32) -> io::Result<Option<Self>> {
        let mut lock = lock_of(id, 0, 1, libc::F_WRLCK);
        kill_point("F_OFD_GETLK");
        #[cfg(test)]
        calls::count();
        // SAFETY: `lock` is a valid flock that lives over the call, which writes into it.
        let asked = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        if asked == -1 {
            return Err(io::Error::last_os_error());
        }
        let is_free = i32::from(lock.l_type) == libc::F_UNLCK;
        let owner = if lock.l_len < BOTH { Self::Handle } else { Self::Passing };
        Ok((!is_free).then_some(owner))
    }
}

/// An open file description of a segment, through which locks of records are taken. The kernel
/// releases them when the description and the last mapping made of it are closed. A forked child
/// has no copy.
#[derive(Debug)]
pub(crate) struct Locks {
    description: ManuallyDrop<OwnedFd>,
    mark: Mark,
}

impl Locks {
    /// Reopens the segment of `descriptor`. Retries for up to `patience` while another process
    /// holds a lease on it.
    pub(crate) fn open(descriptor: &Descriptor, patience: Duration) -> Result<Self, AttachError> {
        let number = descriptor.checked()?.as_raw_fd();
        let begin = Instant::now();
        let locks = loop {
            match Self::try_open(number) {
                Ok(locks) => break locks,
                Err(AttachError::Leased { .. }) if begin.elapsed() < patience => {
                    thread::sleep(LEASE_PAUSE);
                }
                Err(refused) => return Err(refused),
            }
        };
        // Another thread may have closed the descriptor in the meantime.
        if !descriptor.is_of(&locks) {
            return Err(AttachError::DescriptorClosed);
        }
        Ok(locks)
    }

    fn try_open(number: i32) -> Result<Self, AttachError> {
        // Not /proc/self: the first thread of the process may have ended, or have other
        // descriptors.
        let path = format!("/proc/thread-self/fd/{number}");
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut forks = hold_forks();
        kill_point("open");
        let description = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
            let cause = errno.into();
            match errno {
                Errno::WOULDBLOCK => AttachError::Leased { cause },
                _ => AttachError::Proc { cause },
            }
        })?;
        let os = |errno: Errno| AttachError::Os { call: "lseek", cause: errno.into() };
        let mark = Mark::set(&description).map_err(os)?;
        forks.keep_marked_from_children(description.as_raw_fd(), mark);
        Ok(Self { description: ManuallyDrop::new(description), mark })
    }

    /// Whether the description is still open. It is not in a forked child, nor after the program
    /// closed it. Its number may then name another description of the segment, with another
    /// process's locks.
    pub(crate) fn is_open(&self) -> bool {
        self.mark.is_of(&*self.description)
    }

    /// Locks both bytes of record `id`, as an auditor does; `false` if another description has a
    /// lock.
    pub(crate) fn take(&self, id: u32) -> io::Result<bool> {
        match self.set(lock_of(id, 0, BOTH, libc::F_WRLCK)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Unlocks the second byte of record `id`: the auditor's lock becomes a handle's.
    pub(crate) fn keep(&self, id: u32) -> io::Result<()> {
        self.set(lock_of(id, 1, 1, libc::F_UNLCK))
    }

    pub(crate) fn release(&self, id: u32) -> io::Result<()> {
        self.set(lock_of(id, 0, BOTH, libc::F_UNLCK))
    }

    fn set(&self, lock: libc::flock) -> io::Result<()> {
        kill_point("F_OFD_SETLK");
        #[cfg(test)]
        calls::count();
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

impl AsFd for Locks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.description.as_fd()
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        let mut forks = hold_forks();
        forks.is_closing_marked(self.mark);
        if self.is_open() {
            // SAFETY: dropped once, here, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.description) };
        }
    }
}

/// A lock of `len` bytes of record `id`, from byte `from` (0 or 1) on.
fn lock_of(id: u32, from: i64, len: i64, kind: libc::c_int) -> libc::flock {
    let first = LOCKS_AT.saturating_add(BOTH.saturating_mul(id.into()));
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: first.saturating_add(from),
        l_len: len,
        l_pid: 0,
    }
}

#[cfg(all(test, not(kill_points)))]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;
    use crate::Queue;

    /// Fails if an auditor is taken for a handle, or a handle for an auditor (each seen failing).
    #[test]
    fn an_owner_is_an_auditor_while_it_has_both_bytes() {
        let queue = Queue::builder().capacity(1).handles(2).create().unwrap();
        let owner = || Owner::find(queue.as_fd(), 1).unwrap();
        let locks = queue.segment().locks(Duration::ZERO).unwrap();
        assert_eq!(owner(), None);
        assert!(locks.take(1).unwrap());
        assert_eq!(owner(), Some(Owner::Passing));
        locks.keep(1).unwrap();
        assert_eq!(owner(), Some(Owner::Handle));
        locks.release(1).unwrap();
        assert_eq!(owner(), None);
    }

    /// Fails if only the number is compared, or only the file (each seen failing).
    #[test]
    fn a_description_is_not_taken_for_another_of_the_same_queue() {
        let queue = Queue::builder().capacity(1).create().unwrap();
        let locks = queue.segment().locks(Duration::ZERO).unwrap();
        assert!(locks.is_open());
        // SAFETY: no memory is passed. The test is about a description that has lost its number.
        let number = unsafe { libc::dup2(queue.as_fd().as_raw_fd(), locks.as_fd().as_raw_fd()) };
        assert!(!locks.is_open());
        drop(locks);
        // SAFETY: the number is ours now.
        let other = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::fs::fstat(other).unwrap();
    }
}

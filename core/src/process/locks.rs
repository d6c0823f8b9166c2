//! Who lives: a kernel lock for each record.
//!
//! A handle reopens the memfd, maps *that* open file description, takes `F_OFD_SETLK` locks through
//! it on bytes far beyond the file's end, and closes the descriptor. The mapping keeps the
//! description and so the lock: it survives `close` and SIGSTOP, is not inherited over fork (the
//! mapping is `MADV_DONTFORK`, and a fork that copies the descriptor closes the copy), crosses pid
//! namespaces, and goes with exit, exec, SIGKILL or unmap.
//!
//! Owning byte `2^40 + 2n` is owning record `n`. It is taken together with the next byte, as an
//! auditor of the dead; a new handle lets go of that one once it knows that the record is its own. So
//! a handle that finds no free record can tell which of them may be free in a moment.
//!
//! `vfork` and `posix_spawn` copy a descriptor that is open just then, and their child keeps the
//! description, and the lock, until it executes its program. Handles that went say so by a 0 in place
//! of their process's number, so that no handle takes them for living ones meanwhile.
//!
//! **What a call costs.** The kernel keeps the locks of a file in one list, those of one description
//! together, the descriptions in the order of their first lock, and each call walks it (`fs/locks.c`):
//! `F_OFD_GETLK` to the first lock in its way, `F_OFD_SETLK` of free bytes twice to the end, an unlock
//! to the description's own, a `close` to the end. So a call costs about 1 us among 50 locks and 70 to
//! 220 us among 10,000, and who asks for each record in turn takes a time that grows with the square of
//! their number. Any process that has the memfd can lay as many locks as its memory allows. So every
//! loop over these calls has a budget.
//!
//! **A spare description.** Whoever recovers opens a description for it. A process that cannot do that
//! any more, for it has left `/proc` by `chroot`, or has used up its descriptors, would leave the dead
//! where they are. So a process keeps a spare one for each queue that it has open, and recovers
//! through it where no other is to be had; one audit at a time, since the kernel grants a description
//! what it has already. The program can close the spare one unseen, and its number can become that of
//! a description that other processes have, too. So each description has an offset of its own
//! ([`Mark`]), by which it is told from others.
//!
//! **Leases.** An open waits while another process holds a lease on the file (`F_SETLEASE`), for up to
//! `fs.lease-break-time`, 45 s. The memfd is opened with `O_NONBLOCK`: that begins to break the lease,
//! as any open does, and does not wait. None of the other calls waits for a lease. While a process
//! keeps a description the kernel grants none, since that is open for writing.
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

/// How often a thread that waits for the end of a lease tries again.
const LEASE_PAUSE: Duration = Duration::from_millis(1);

/// The lock calls that the thread made, for tests.
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

/// Who has the lock of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A living handle: the first byte is locked, and its process is named in the record.
    Handle,
    /// It may be free in a moment. Who audits it has both bytes; a handle that arrives has not named
    /// its process yet; of one that went, a program that is being started keeps the lock.
    Passing,
}

impl Owner {
    /// Who has the lock of record `id` of the segment `fd`.
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

/// An open file description of a segment, through which records' locks are taken. They go with it,
/// or with the last mapping made of it; a forked child has no copy.
#[derive(Debug)]
pub(crate) struct Locks {
    description: ManuallyDrop<OwnedFd>,
    mark: Mark,
}

impl Locks {
    /// Reopens the segment of `descriptor`. While another process holds a lease on it this tries
    /// again, for as long as `patience`.
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
        // Another thread may have closed it since.
        if !descriptor.is_of(&locks) {
            return Err(AttachError::DescriptorClosed);
        }
        Ok(locks)
    }

    fn try_open(number: i32) -> Result<Self, AttachError> {
        // Not /proc/self: the process's first thread may have ended, or have other descriptors.
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

    /// Whether the description is open: not in a forked child, nor after the program closed it. Its
    /// number may name another description of the segment then, whose locks are another process's.
    pub(crate) fn is_open(&self) -> bool {
        self.mark.is_of(&*self.description)
    }

    /// Takes the lock of record `id` as an auditor; `false` if another description has it.
    pub(crate) fn take(&self, id: u32) -> io::Result<bool> {
        match self.set(lock_of(id, 0, BOTH, libc::F_WRLCK)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the auditor's lock of record `id` a handle's.
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

/// `len` of the two bytes of record `id`, from byte `from` on.
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

    /// Fails if the number is all that is asked about, or its file (each seen failing).
    #[test]
    fn a_description_is_not_taken_for_another_of_the_same_queue() {
        let queue = Queue::builder().capacity(1).create().unwrap();
        let locks = queue.segment().locks(Duration::ZERO).unwrap();
        assert!(locks.is_open());
        // SAFETY: no memory is passed. That the description has lost its number is what is tried.
        let number = unsafe { libc::dup2(queue.as_fd().as_raw_fd(), locks.as_fd().as_raw_fd()) };
        assert!(!locks.is_open());
        drop(locks);
        // SAFETY: the number is ours now.
        let other = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::fs::fstat(other).unwrap();
    }
}

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
//! who finds no free record can tell which of them may be free in a moment.
//!
//! `vfork` and `posix_spawn` copy a descriptor that is open just then, and their child keeps the
//! description, and the lock, until it executes its program. Handles that went say so by a 0 in place
//! of their process's number, so that nobody takes them for living ones meanwhile.
#![expect(unsafe_code, reason = "speaks F_OFD_SETLK, which no crate we use wraps")]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::fork::hold_forks;
use crate::sync::kill_point;

const LOCKS_AT: i64 = 1 << 40;
const BOTH: i64 = 2;

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
    pub(crate) fn find(fd: &OwnedFd, id: u32) -> io::Result<Option<Self>> {
        let mut lock = lock_of(id, 0, 1, libc::F_WRLCK);
        kill_point("F_OFD_GETLK");
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

/// Which file a descriptor is of: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(u64, u64);

impl Identity {
    pub(crate) fn of(fd: &OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(Self(stat.st_dev, stat.st_ino))
    }

    /// Whoever closes descriptors that are not its own may have made `fd` another file's.
    pub(crate) fn check(fd: &OwnedFd, expected: Self) -> io::Result<()> {
        if Self::of(fd)? != expected {
            return Err(io::Error::other("this process has closed the queue's descriptor"));
        }
        Ok(())
    }
}

/// An open file description of a segment, through which records' locks are taken. They go with it,
/// or with the last mapping made of it; a forked child has no copy.
#[derive(Debug)]
pub(crate) struct Locks {
    description: ManuallyDrop<OwnedFd>,
}

impl Locks {
    /// Reopens the segment `fd`, which was `identity` when it was opened.
    pub(crate) fn open(fd: &OwnedFd, identity: Identity) -> io::Result<Self> {
        // Not /proc/self: the process's first thread may have ended, or have other descriptors.
        let path = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let mut forks = hold_forks();
        kill_point("open");
        let description = rustix::fs::open(path, flags, Mode::empty())?;
        forks.keep_from_children(description.as_raw_fd());
        drop(forks);
        let locks = Self { description: ManuallyDrop::new(description) };
        Identity::check(&locks.description, identity)?;
        Ok(locks)
    }

    /// Takes the lock of record `id` as an auditor; `false` if somebody has it.
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
        forks.is_closing(self.description.as_raw_fd());
        // SAFETY: dropped once, here, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.description) };
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

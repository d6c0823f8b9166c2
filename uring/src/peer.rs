//! A peer whose end a ring watches for, by its pidfd.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parkline_core::driver::kill_point;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How many a process watches, in all its rings: each takes a descriptor, and how many there are is
/// what peers say. For those beyond there is the watchdog.
const MOST: usize = 256;

static WATCHED: AtomicUsize = AtomicUsize::new(0);

/// A process that shares a queue.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
    _place: Place,
}

/// One of [`MOST`].
#[derive(Debug)]
struct Place(());

impl Peer {
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) if it is nobody that can be seen from here; others if
    /// there is no place or no descriptor for it now.
    pub(crate) fn find(pid: u32) -> io::Result<Self> {
        let name = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let name = name.ok_or(io::ErrorKind::NotFound)?;
        let place = Place::take().ok_or(io::ErrorKind::QuotaExceeded)?;
        kill_point("pidfd_open");
        let pidfd = pidfd_open(name, PidfdFlags::empty()).map_err(|errno| match errno {
            Errno::SRCH | Errno::INVAL => io::ErrorKind::NotFound.into(),
            other => io::Error::from(other),
        })?;
        Ok(Self { pid, pidfd, _place: place })
    }
}

impl AsRawFd for Peer {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Place {
    fn take() -> Option<Self> {
        let next = |taken| (taken < MOST).then_some(taken + 1);
        WATCHED.fetch_update(Relaxed, Relaxed, next).ok().map(|_| Self(()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        WATCHED.fetch_sub(1, Relaxed);
    }
}

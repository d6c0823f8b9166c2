//! A peer whose end a ring watches for, by its pidfd.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parkline_core::driver::kill_point;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

/// How many a process watches, in all its rings: each takes a descriptor, and how many there are is
/// what peers say. For those beyond there is the watchdog.
const MOST: u64 = 256;

/// How many are watched, beside the number of the process that does: a forked child begins anew.
static WATCHED: AtomicU64 = AtomicU64::new(0);

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
        change(|taken| (taken < MOST).then_some(taken.saturating_add(1))).then_some(Self(()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        change(|taken| taken.checked_sub(1));
    }
}

fn change(number: impl Fn(u64) -> Option<u64>) -> bool {
    let process = getpid().as_raw_nonzero().get().cast_unsigned();
    let next = |word| number(taken(word, process)).map(|taken| u64::from(process) << 32 | taken);
    WATCHED.fetch_update(Relaxed, Relaxed, next).is_ok()
}

/// How many `process` watches; none if the word is one that it inherited.
fn taken(word: u64, process: u32) -> u64 {
    if word >> 32 == u64::from(process) { word & u64::from(u32::MAX) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::taken;

    /// Fails if a child counts what its parent watches (seen failing).
    #[test]
    fn a_forked_child_has_places_of_its_own() {
        let of_parent = 7 << 32 | 256;
        assert_eq!((taken(of_parent, 7), taken(of_parent, 8)), (256, 0));
    }
}

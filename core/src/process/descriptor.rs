//! The descriptor of a queue, which its program may close without notice.
//!
//! A program that becomes a daemon closes all descriptors, the queue's among them, and the kernel
//! gives the number to the next file that the program opens. So each use of the number first asks
//! the kernel which file it names. The drop closes the number only if it is still ours: it names
//! the queue's file, and no queue that this process opened later has the same number.
#![expect(unsafe_code, reason = "closes a descriptor only if it is ours")]

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use crate::error::AttachError;
use crate::process::fork::hold_forks;

/// The file of a descriptor: its device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    fn of(fd: impl AsFd) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(Self(stat.st_dev, stat.st_ino))
    }
}

/// For each descriptor number, the serial of the segment that got it last.
static LATEST: Mutex<BTreeMap<RawFd, u64>> = Mutex::new(BTreeMap::new());

fn with_latest<R>(then: impl FnOnce(&mut BTreeMap<RawFd, u64>) -> R) -> R {
    // A forked child must not find it locked.
    let _forks = hold_forks();
    then(&mut LATEST.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A descriptor of a segment.
#[derive(Debug)]
pub(crate) struct Descriptor {
    fd: ManuallyDrop<OwnedFd>,
    identity: Identity,
    serial: u64,
}

impl Descriptor {
    /// Takes `fd`, the descriptor of the segment with this `serial`.
    pub(crate) fn new(fd: OwnedFd, serial: u64) -> rustix::io::Result<Self> {
        let identity = Identity::of(&fd)?;
        with_latest(|latest| latest.insert(fd.as_raw_fd(), serial));
        Ok(Self { fd: ManuallyDrop::new(fd), identity, serial })
    }

    /// The descriptor, if its number still names the queue's file.
    pub(crate) fn checked(&self) -> Result<BorrowedFd<'_>, AttachError> {
        self.is_of(&*self.fd).then(|| self.fd.as_fd()).ok_or(AttachError::DescriptorClosed)
    }

    /// Whether `other` is a descriptor of the same file.
    pub(crate) fn is_of(&self, other: impl AsFd) -> bool {
        Identity::of(other) == Ok(self.identity)
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let number = self.fd.as_raw_fd();
        let is_ours = with_latest(|latest| {
            let is_latest = latest.get(&number) == Some(&self.serial);
            is_latest && latest.remove(&number).is_some()
        });
        if is_ours && self.is_of(&*self.fd) {
            // SAFETY: dropped once, here, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        }
    }
}

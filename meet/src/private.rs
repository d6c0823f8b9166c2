//! A descriptor that no other process keeps: no executed program, and no forked child.
//!
//! A copy in a forked child would keep a lock held, or a connection open, after the death of its
//! owner, and the heirs would not learn of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use parkline_core::driver::{ForkGuard, hold_forks};

#[derive(Debug)]
pub(crate) struct Private {
    /// Always there, except in `drop`.
    fd: Option<OwnedFd>,
    guard: ForkGuard,
}

impl Private {
    /// Makes a descriptor while no thread forks. `make` sets close-on-exec.
    pub(crate) fn make(make: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Self> {
        let guard = ForkGuard::new()?;
        let mut forks = hold_forks();
        let fd = make()?;
        forks.keep_from_children(fd.as_raw_fd());
        Ok(Self { fd: Some(fd), guard })
    }

    /// Whether this is a forked child of the process that has the descriptor.
    pub(crate) fn is_forked(&self) -> bool {
        self.guard.is_forked()
    }
}

/// Registers `fd` with the current tokio runtime.
///
/// tokio's newer constructor is unsafe, because it asks that the descriptor stay open while it is
/// registered. Here it does: the registration has a share of its owner.
#[cfg(feature = "tokio")]
#[expect(
    deprecated,
    reason = "the newer constructor is unsafe, and this use of the old one is sound"
)]
pub(crate) fn register(
    fd: &std::sync::Arc<Private>,
) -> io::Result<tokio::io::unix::AsyncFd<std::sync::Arc<Private>>> {
    let readable = tokio::io::Interest::READABLE;
    tokio::io::unix::AsyncFd::with_interest(std::sync::Arc::clone(fd), readable)
}

impl Drop for Private {
    fn drop(&mut self) {
        let fd = self.fd.take();
        if self.guard.is_forked() {
            // The child closed its copy when it was forked. The number may name another file now.
            std::mem::forget(fd);
            return;
        }
        let mut forks = hold_forks();
        forks.is_closing(fd.as_ref().map_or(-1, AsRawFd::as_raw_fd));
        drop(fd);
    }
}

impl AsFd for Private {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("it is taken in `drop` alone").as_fd()
    }
}

impl AsRawFd for Private {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

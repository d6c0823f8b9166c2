//! A descriptor that an event loop polls. A forked child keeps no copy of it, because the child may use
//! the same number for another file.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use parkline_core::driver::{ForkGuard, hold_forks};
use pyo3::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

use crate::errors;

#[derive(Debug)]
pub(crate) struct Bell {
    /// `None` when it is dropped.
    fd: Option<OwnedFd>,
    guard: ForkGuard,
}

impl Bell {
    pub(crate) fn new() -> PyResult<Self> {
        Self::of(|| Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
            .map_err(|cause| errors::refused("make an eventfd for the loop", &cause))
    }

    pub(crate) fn of(make: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Self> {
        let guard = ForkGuard::new()?;
        let mut forks = hold_forks();
        let fd = make()?;
        forks.keep_from_children(fd.as_raw_fd());
        drop(forks);
        Ok(Self { fd: Some(fd), guard })
    }

    pub(crate) fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref().filter(|_| !self.guard.is_forked())
    }

    pub(crate) fn ring(&self) {
        // The write fails only when the counter is full, and then the bell is readable already.
        let _ = self.fd().map(|fd| rustix::io::write(fd, &1u64.to_ne_bytes()));
    }

    pub(crate) fn answer(&self) {
        // The read fails only when there is nothing to read.
        let _ = self.fd().map(|fd| rustix::io::read(fd, &mut [0; 8]));
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let Some(fd) = self.fd.take() else { return };
        if self.guard.is_forked() {
            std::mem::forget(fd);
            return;
        }
        let mut forks = hold_forks();
        forks.is_closing(fd.as_raw_fd());
        drop(fd);
    }
}

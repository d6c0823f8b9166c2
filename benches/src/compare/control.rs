//! How the processes of a sample keep step: a page they share.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::thread;

use anyhow::Result;
use zerocopy::FromZeros;

use crate::shared;

/// At most so many far ends count.
pub(crate) const MOST: usize = 64;

#[derive(Debug, FromZeros)]
#[repr(C, align(128))]
pub(crate) struct Count(AtomicU64);

#[derive(Debug, FromZeros)]
#[repr(C, align(128))]
pub(crate) struct Control {
    ready: AtomicU32,
    /// What the far ends shall do; each kind of work has its own numbers.
    phase: AtomicU32,
    counts: [Count; MOST],
}

impl Count {
    /// Not one locked instruction: there is one writer.
    #[inline]
    pub(crate) fn add(&self, some: u64) {
        self.0.store(self.0.load(Relaxed) + some, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Control {
    pub(crate) fn create() -> Result<(&'static Self, OwnedFd)> {
        let fd = shared::create::<Self>()?;
        Ok((Self::open(&fd)?, fd))
    }

    pub(crate) fn open(fd: &OwnedFd) -> Result<&'static Self> {
        Ok(shared::map(fd)?)
    }

    pub(crate) fn count(&self, index: usize) -> &Count {
        &self.counts[index]
    }

    pub(crate) fn sum(&self, indices: std::ops::Range<usize>) -> u64 {
        self.counts[indices].iter().map(Count::get).sum()
    }

    pub(crate) fn get_ready(&self) {
        self.ready.fetch_add(1, Release);
    }

    pub(crate) fn wait_ready(&self, all: u32) {
        while self.ready.load(Acquire) < all {
            thread::yield_now();
        }
    }

    #[inline]
    pub(crate) fn phase(&self) -> u32 {
        self.phase.load(Acquire)
    }

    pub(crate) fn enter(&self, phase: u32) {
        self.phase.store(phase, Release);
    }

    pub(crate) fn wait_phase(&self, phase: u32) {
        while self.phase() < phase {
            thread::yield_now();
        }
    }
}

//! The cores of this process.

use std::thread::available_parallelism;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub(crate) fn count() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Keeps the calling thread, and the threads and processes that it starts, on the `n`th core that it may use.
pub(crate) fn pin(n: usize) -> Result<()> {
    let allowed = sched_getaffinity(None)?;
    let core = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).nth(n);
    let mut only = CpuSet::new();
    only.set(core.context("there is no such core")?);
    Ok(sched_setaffinity(None, &only)?)
}

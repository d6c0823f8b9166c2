//! Where a run took place: no figure means anything without it.

use std::fmt;
use std::fs;
use std::io;

use rustix::thread::CpuSet;

/// The two cores that the two ends are pinned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Where the measuring end runs.
    pub near: usize,
    /// Where the far end runs; the same core, if the process may use only one.
    pub far: usize,
}

impl Cores {
    /// The first two that this process may use. Ask before pinning.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn pick() -> io::Result<Self> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let near = cores.next().ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { near, far: cores.next().unwrap_or(near) })
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pinned to cores {} and {}", self.near, self.far)?;
        if self.near == self.far { f.write_str(" (only one allowed)") } else { Ok(()) }
    }
}

/// Keeps the calling thread on `core`.
///
/// # Errors
/// When the process may not use that core.
pub fn pin(core: usize) -> io::Result<()> {
    pin_to(&[core])
}

/// Keeps the calling thread on one of `cores`.
///
/// # Errors
/// When the process may use none of them.
pub fn pin_to(cores: &[usize]) -> io::Result<()> {
    let mut only = CpuSet::new();
    cores.iter().for_each(|core| only.set(*core));
    Ok(rustix::thread::sched_setaffinity(None, &only)?)
}

/// The processor, how many there are, the kernel, the load and the command line, a line each.
pub fn description() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models =
        cpuinfo.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let models: Vec<_> = models.map(|(_, model)| model).collect();
    let kernel = rustix::system::uname();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let command: Vec<_> = std::env::args().collect();
    format!(
        "cpu      {} x {}\nkernel   {} {}\nload     {load} before the run\ncommand  {}",
        models.len(),
        models.first().unwrap_or(&"unknown"),
        kernel.sysname().to_string_lossy(),
        kernel.release().to_string_lossy(),
        command.join(" "),
    )
}

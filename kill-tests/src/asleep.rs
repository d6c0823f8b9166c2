//! Whether a thread sleeps in one of the calls in which the library waits: asked of the kernel, so
//! that nothing here is ordered by time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::libc;
use nix::unistd::Pid;

/// Far more than any wait here takes.
const LONG: Duration = Duration::from_secs(20);

/// A thread's directory in `/proc`.
#[derive(Clone, Debug)]
pub(crate) struct Sleeper(PathBuf);

impl Sleeper {
    pub(crate) fn process(pid: Pid) -> Self {
        Self(Path::new("/proc").join(pid.to_string()))
    }

    /// The calling thread.
    pub(crate) fn this_thread() -> Self {
        Self(Path::new("/proc/self/task").join(nix::unistd::gettid().to_string()))
    }

    /// Asleep by its state, in a futex wait or in its io_uring by its system call.
    pub(crate) fn is_asleep(&self) -> bool {
        let read = |name| fs::read_to_string(self.0.join(name)).unwrap_or_default();
        let call = read("syscall");
        let waits = [libc::SYS_futex, libc::SYS_io_uring_enter].map(|call| call.to_string());
        let in_wait = waits.iter().any(|wait| call.split(' ').next() == Some(wait));
        in_wait && read("stat").rsplit(") ").next().is_some_and(|state| state.starts_with('S'))
    }

    pub(crate) fn until_asleep(&self) -> Result<()> {
        let begin = Instant::now();
        while !self.is_asleep() {
            ensure!(begin.elapsed() < LONG, "nobody fell asleep who should");
            std::thread::yield_now();
        }
        Ok(())
    }
}

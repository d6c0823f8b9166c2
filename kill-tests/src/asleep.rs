//! Whether a thread sleeps in one of the system calls in which the library waits, and for how long it
//! sleeps without a reason. The kernel tells, so no test orders things by time, and a busy machine is
//! not taken for a lost wake-up.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::libc;
use nix::unistd::Pid;

/// Far longer than any wait here takes.
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

    /// Asleep by its state, in a futex wait or in its io_uring by its system call. The kernel continues
    /// a futex wait with a timeout as `restart_syscall` if it was interrupted without a signal handler
    /// (`futex_wait_restart` in kernel/futex/waitwake.c, Linux 6.18).
    pub(crate) fn is_asleep(&self) -> bool {
        let read = |name| fs::read_to_string(self.0.join(name)).unwrap_or_default();
        let call = read("syscall");
        let waits = [libc::SYS_futex, libc::SYS_io_uring_enter, libc::SYS_restart_syscall];
        let in_wait = waits.iter().any(|wait| call.split(' ').next() == Some(&wait.to_string()));
        in_wait && read("stat").rsplit(") ").next().is_some_and(|state| state.starts_with('S'))
    }

    /// The sum of all times in which it was ready to run but had no core.
    fn ready(&self) -> Duration {
        let counts = fs::read_to_string(self.0.join("schedstat")).unwrap_or_default();
        let ready = counts.split(' ').nth(1).and_then(|it| it.parse().ok());
        Duration::from_nanos(ready.unwrap_or(0))
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

/// A time from which a sleeper should wake up.
#[derive(Debug)]
pub(crate) struct Late {
    since: Instant,
    /// The sleeper, and the thread that watches it.
    threads: [Sleeper; 2],
    ready: Duration,
}

impl Late {
    /// The calling thread watches `sleeper` from now on.
    pub(crate) fn begin(sleeper: &Sleeper) -> Self {
        let threads = [sleeper.clone(), Sleeper::this_thread()];
        let ready = threads.iter().map(Sleeper::ready).sum();
        Self { since: Instant::now(), threads, ready }
    }

    /// For how long it has slept on; zero if it is awake now. The time in which either thread was ready
    /// to run but had no core does not count.
    pub(crate) fn asleep_for(&self) -> Duration {
        let elapsed = self.since.elapsed();
        let ready: Duration = self.threads.iter().map(Sleeper::ready).sum();
        let [sleeper, _] = &self.threads;
        if !sleeper.is_asleep() {
            return Duration::ZERO;
        }
        elapsed.saturating_sub(ready.saturating_sub(self.ready))
    }

    /// # Errors
    /// If it sleeps on for longer than `most`, or does not wake up at all.
    pub(crate) fn check(&self, most: Duration) -> Result<()> {
        let elapsed = self.since.elapsed();
        ensure!(elapsed < LONG, "it never came on");
        if elapsed >= most {
            let late = self.asleep_for();
            ensure!(late < most, "it sleeps on after {late:?}");
        }
        Ok(())
    }
}

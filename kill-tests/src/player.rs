//! A process that plays a part: this same program, executed again.
//!
//! Its standard input is the queue, and its standard output another file that it needs. So it starts
//! without a copy of our page tables, as a fork makes one, in half a millisecond. It dies with the
//! thread that started it.

use std::env;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A child between fork and exec has copies of all our descriptors. If one of them is of a handle that
/// is being made, the child keeps the handle's lock. So no thread makes a handle while another forks.
static FORKS: RwLock<()> = RwLock::new(());

/// No thread forks while this guard is held.
pub(crate) fn no_forks() -> RwLockReadGuard<'static, ()> {
    FORKS.read().unwrap_or_else(PoisonError::into_inner)
}

/// The first argument of every part. The second is its name.
pub(crate) const PART: &str = "--part";

/// A process that plays a part. Killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Player {
    pid: Pid,
    reaped: bool,
    /// Its exit code, if it exited.
    code: i32,
}

impl Player {
    /// Starts the part that `words` name.
    pub(crate) fn start(words: &[&str], stdin: OwnedFd, stdout: Option<OwnedFd>) -> Result<Self> {
        // Not `current_exe`, which makes a system call each time.
        let mut command = Command::new("/proc/self/exe");
        command.arg(PART).args(words).stdin(Stdio::from(stdin));
        command.stdout(stdout.map_or_else(Stdio::null, Stdio::from));
        // Without an environment, the stack is the same in every process of one part.
        command.env_clear();
        let forks = FORKS.write().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn().context("cannot start a process")?;
        drop(forks);
        let pid = Pid::from_raw(child.id().cast_signed());
        Ok(Self { pid, reaped: false, code: 0 })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// The next change of its state. With `wait` this waits for a change, or else returns `None` if there
    /// is none yet.
    pub(crate) fn news(&mut self, wait: bool) -> Result<Option<WaitStatus>> {
        let mut flags = WaitPidFlag::WUNTRACED;
        flags.set(WaitPidFlag::WNOHANG, !wait);
        let status = loop {
            match waitpid(self.pid, Some(flags)) {
                Err(Errno::EINTR) => {}
                other => break other.context("waitpid")?,
            }
        };
        self.reaped |= matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
        Ok((status != WaitStatus::StillAlive).then_some(status))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if !self.reaped {
            kill(self.pid, signal)?;
        }
        Ok(())
    }

    pub(crate) fn is_alive(&mut self) -> Result<bool> {
        if !self.reaped
            && let Some(WaitStatus::Exited(_, code)) = self.news(false)?
        {
            self.code = code;
        }
        Ok(!self.reaped)
    }

    /// Kills it and waits until it is dead.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.die().map(drop)
    }

    /// Waits until it is dead.
    pub(crate) fn die(&mut self) -> Result<Death> {
        while !self.reaped {
            match self.news(true)? {
                Some(WaitStatus::Exited(_, 0)) => return Ok(Death::Ended),
                Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => return Ok(Death::Killed),
                Some(WaitStatus::Exited(_, code)) => bail!("a part exited with {code}"),
                Some(WaitStatus::Signaled(_, signal, _)) => bail!("a part died of {signal}"),
                _ => {}
            }
        }
        ensure!(self.code == 0, "a part exited with {}", self.code);
        Ok(Death::Killed)
    }
}

/// How a part came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    Killed,
    Ended,
}

impl Drop for Player {
    fn drop(&mut self) {
        if !self.reaped {
            // An error says that it is gone already.
            let _ = self.kill();
        }
    }
}

/// The words of the part that this process is to play; `None` if it plays none.
pub(crate) fn part() -> Option<Vec<String>> {
    let mut words = env::args().skip(1);
    (words.next()? == PART).then(|| words.collect())
}

/// Every part calls this first, so that it does not outlive its tests.
pub(crate) fn die_with_parent() -> Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

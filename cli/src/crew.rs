//! The worker processes: started by exec with the queues' descriptors inherited, tied to this
//! process by a pipe, and watched. A worker that this process kills is replaced; any other death is
//! an error.

use std::env;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use command_fds::{CommandFdExt, FdMapping};
use parkline_uring::{Backend, Queue, backend};
use rustix::process::Signal;
use tokio::process::Child;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::args::Demo;

/// Where a worker finds the queues.
pub(crate) const JOBS_FD: i32 = 3;
/// Where a worker finds the queues.
pub(crate) const RESULTS_FD: i32 = 4;

/// The workers. They end when it is dropped.
#[derive(Debug)]
pub(crate) struct Crew {
    posts: JoinSet<Result<u64>>,
    /// One for each post: notified when its worker is to be killed.
    kills: Vec<Arc<Notify>>,
    /// The killed workers of all posts that are over.
    pub(crate) killed: u64,
    /// Every worker's stdin is the other end. When this process has dropped it, or has died, all
    /// workers read the end of file.
    _leash: PipeWriter,
}

impl Crew {
    /// Starts the workers, each with a task here that waits for its end.
    pub(crate) fn start(args: &Demo, jobs: &Queue, results: &Queue) -> Result<Self> {
        let (stdin, leash) = io::pipe()?;
        let hire = Arc::new(Hire {
            program: env::current_exe().context("cannot tell which program this is")?,
            tasks: args.tasks,
            stdin,
            jobs: jobs.try_clone_fd()?,
            results: results.try_clone_fd()?,
        });
        let (mut posts, mut kills) = (JoinSet::new(), Vec::new());
        for _ in 0..args.workers {
            let kill = Arc::new(Notify::new());
            posts.spawn(hold(hire.worker()?, Arc::clone(&hire), Arc::clone(&kill)));
            kills.push(kill);
        }
        Ok(Self { posts, kills, killed: 0, _leash: leash })
    }

    /// Waits until a worker of each post has exited with success. Meanwhile kills a random one in
    /// each `period` for which `may_kill` returns true.
    ///
    /// # Errors
    /// As soon as a worker has ended in another way and was not killed here.
    pub(crate) async fn ended(
        &mut self,
        period: Option<Duration>,
        may_kill: impl Fn() -> bool,
    ) -> Result<()> {
        let mut ticks = period.map(interval);
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let tick = async {
                match &mut ticks {
                    Some(ticks) => ticks.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = self.posts.join_next() => match ended {
                    Some(killed) => self.killed += killed??,
                    None => return Ok(()),
                },
                _ = tick => {
                    let victim = fastrand::choice(&self.kills).filter(|_| may_kill());
                    victim.into_iter().for_each(|it| it.notify_one());
                }
            }
        }
    }
}

/// Keeps a post until its worker has exited with success: a new worker replaces each one that was
/// killed. Returns how many were killed.
async fn hold(mut worker: Child, hire: Arc<Hire>, kill: Arc<Notify>) -> Result<u64> {
    let mut killed = 0;
    loop {
        // A child that was not waited for still has its pid.
        let pid = worker.id().unwrap_or(0);
        let is_victim = tokio::select! {
            _ = worker.wait() => false,
            () = kill.notified() => worker.start_kill().is_ok(),
        };
        let status = worker.wait().await;
        let status = status.with_context(|| format!("cannot wait for worker {pid}"))?;
        // A worker that was to be killed may have exited before the signal.
        if status.success() {
            return Ok(killed);
        }
        let was_killed = is_victim && status.signal() == Some(Signal::KILL.as_raw());
        ensure!(was_killed, "worker {pid} died: {status}");
        killed += 1;
        worker = hire.worker()?;
    }
}

/// Everything that is needed to start a worker.
#[derive(Debug)]
struct Hire {
    program: PathBuf,
    tasks: u32,
    stdin: PipeReader,
    jobs: OwnedFd,
    results: OwnedFd,
}

impl Hire {
    fn worker(&self) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.arg("worker").arg(format!("--tasks={}", self.tasks));
        if let Backend::Futex(_) = backend() {
            command.arg("--fallback-is-known");
        }
        // Output of a worker must not appear among the sums.
        command.stdin(self.stdin.try_clone()?).stdout(Stdio::null());
        command.fd_mappings(vec![
            FdMapping { parent_fd: self.jobs.try_clone()?, child_fd: JOBS_FD },
            FdMapping { parent_fd: self.results.try_clone()?, child_fd: RESULTS_FD },
        ])?;
        let child = tokio::process::Command::from(command).spawn();
        child.with_context(|| format!("cannot start a worker, {}", self.program.display()))
    }
}

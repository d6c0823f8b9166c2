//! The worker processes: started by exec with the queues' descriptors inherited, tied to this
//! process by a pipe, and watched. Who is killed here is replaced; who dies otherwise is an error.

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
    /// One a post: its worker is to be killed.
    kills: Vec<Arc<Notify>>,
    /// Workers that were killed at posts whose last worker has ended.
    pub(crate) killed: u64,
    /// Every worker's stdin is the other end: when nobody holds this one, all see the end of file.
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

    /// Waits until at all posts a worker has ended well. Meanwhile kills a random one each `period`
    /// that `may_kill` says so.
    ///
    /// # Errors
    /// As soon as one has ended otherwise and was not killed here.
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

/// Keeps a post until its worker has ended well: another takes the place of one that was killed.
/// Returns how many were.
async fn hold(mut worker: Child, hire: Arc<Hire>, kill: Arc<Notify>) -> Result<u64> {
    let mut killed = 0;
    loop {
        // One that was not waited for has its pid.
        let pid = worker.id().unwrap_or(0);
        let is_victim = tokio::select! {
            _ = worker.wait() => false,
            () = kill.notified() => worker.start_kill().is_ok(),
        };
        let status = worker.wait().await;
        let status = status.with_context(|| format!("cannot wait for worker {pid}"))?;
        // Also one that was to be killed may have been quicker.
        if status.success() {
            return Ok(killed);
        }
        let was_killed = is_victim && status.signal() == Some(Signal::KILL.as_raw());
        ensure!(was_killed, "worker {pid} died: {status}");
        killed += 1;
        worker = hire.worker()?;
    }
}

/// What it takes to start a worker.
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
        // Nothing that a worker prints belongs among the sums.
        command.stdin(self.stdin.try_clone()?).stdout(Stdio::null());
        command.fd_mappings(vec![
            FdMapping { parent_fd: self.jobs.try_clone()?, child_fd: JOBS_FD },
            FdMapping { parent_fd: self.results.try_clone()?, child_fd: RESULTS_FD },
        ])?;
        let child = tokio::process::Command::from(command).spawn();
        child.with_context(|| format!("cannot start a worker, {}", self.program.display()))
    }
}

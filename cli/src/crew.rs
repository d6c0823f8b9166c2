//! The worker processes: started by exec with the queues' descriptors inherited, tied to this
//! process by a pipe, and watched.

use std::env;
use std::io::{self, PipeWriter};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};
use parkline_uring::{Backend, Queue, backend};
use tokio::process::Child;
use tokio::task::JoinSet;

/// Where a worker finds the queues.
pub(crate) const JOBS_FD: i32 = 3;
/// Where a worker finds the queues.
pub(crate) const RESULTS_FD: i32 = 4;

/// The workers. They end when it is dropped.
#[derive(Debug)]
pub(crate) struct Crew {
    running: JoinSet<(u32, io::Result<ExitStatus>)>,
    /// Every worker's stdin is the other end: when nobody holds this one, all see the end of file.
    _leash: PipeWriter,
}

impl Crew {
    /// Starts the workers, each with a task here that waits for its end.
    pub(crate) fn start(args: &crate::Demo, jobs: &Queue, results: &Queue) -> Result<Self> {
        let (end, leash) = io::pipe()?;
        let program = env::current_exe().context("cannot tell which program this is")?;
        let mut running = JoinSet::new();
        for _ in 0..args.workers {
            let mut command = Command::new(&program);
            command.arg("worker").arg(format!("--tasks={}", args.tasks));
            if let Backend::Futex(_) = backend() {
                command.arg("--fallback-is-known");
            }
            // Nothing that a worker prints belongs among the sums.
            command.stdin(end.try_clone()?).stdout(Stdio::null());
            command.fd_mappings(vec![
                FdMapping { parent_fd: jobs.try_clone_fd()?, child_fd: JOBS_FD },
                FdMapping { parent_fd: results.try_clone_fd()?, child_fd: RESULTS_FD },
            ])?;
            let child = tokio::process::Command::from(command).spawn();
            let mut child =
                child.with_context(|| format!("cannot start a worker, {}", program.display()))?;
            let pid = pid(&child);
            running.spawn(async move { (pid, child.wait().await) });
        }
        Ok(Self { running, _leash: leash })
    }

    /// Waits until all workers have ended well.
    ///
    /// # Errors
    /// As soon as one has ended otherwise.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        while let Some(ended) = self.running.join_next().await {
            let (pid, status) = ended?;
            let status = status.with_context(|| format!("cannot wait for worker {pid}"))?;
            if !status.success() {
                bail!("worker {pid} died: {status}");
            }
        }
        Ok(())
    }
}

/// A child that was not waited for has its pid.
fn pid(child: &Child) -> u32 {
    child.id().unwrap_or(0)
}

//! The child: one process, one thread, one event loop, and on it many tasks that wait for jobs.
//!
//! The handle has one lease, so one task has a job at a time. Meanwhile the other tasks wait for
//! that lease, or for a message. The task that hashes keeps the loop for one chunk at a time. Its
//! job is leased until the result is sent: if the process is killed before, another worker gets the
//! job.
//!
//! The process ends when the jobs queue is closed and drained. It also ends when its parent dies,
//! because then the pipe that is its stdin has no writer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, stdin};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use parkline_uring::{
    AsyncReceiver, AsyncSender, Backend, Queue, Receiver, RecvError, Sender, Shared, backend,
};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::{JoinSet, yield_now};

use crate::args::Worker;
use crate::crew::{JOBS_FD, RESULTS_FD};
use crate::job::{Job, Report};

const CHUNK: u64 = 64 * 1024;

pub(crate) fn run(args: &Worker) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let leash = stdin().as_fd().try_clone_to_owned()?;
        let mut leash = pipe::Receiver::from_owned_fd(leash)
            .context("stdin is no pipe: workers are started by `parkline demo`")?;
        tokio::select! {
            done = work(args.tasks) => done?,
            // The parent never writes to it, so the read ends only with the pipe.
            _ = leash.read_u8() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn work(tasks: u32) -> Result<()> {
    let jobs = inherited(JOBS_FD)?.receiver()?.share();
    let mut results = inherited(RESULTS_FD)?.sender()?.share();
    let mut getters = JoinSet::new();
    for _ in 0..tasks {
        getters.spawn(serve(jobs.clone(), results.clone()));
    }
    // One thread polls the tasks in the order in which they were spawned: when this task is polled,
    // all others wait.
    let mut announced = results.clone();
    tokio::spawn(async move {
        let ready = Report::Ready {
            threads: threads()?,
            in_io_uring: matches!(backend(), Backend::IoUring),
        };
        anyhow::Ok(announced.send(&ready.encode()).await?)
    })
    .await??;
    while let Some(ended) = getters.join_next().await {
        ended??;
    }
    Ok(results.send(&Report::Done { threads: threads()? }.encode()).await?)
}

/// Takes jobs until the queue has ended.
async fn serve(mut jobs: Shared<Receiver>, mut results: Shared<Sender>) -> Result<()> {
    loop {
        let lease = match jobs.lease().await {
            Ok(lease) => lease,
            Err(RecvError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let job = Job::decode(&lease.read()?);
        let Job { index, path } = job.context("the parent sent something that is no job")?;
        let redelivered = lease.redelivered();
        let result = match hash(&path).await {
            Ok((len, digest)) => Report::Hashed { index, redelivered, len, digest },
            Err(error) => Report::Failed { index, redelivered, why: error.to_string() },
        };
        results.send(&result.encode()).await?;
        lease.ack();
        // While there is always a job, no call here waits, and no other task would run.
        yield_now().await;
    }
}

async fn hash(path: &Path) -> io::Result<(u64, [u8; 32])> {
    // The file may have become a FIFO since the parent saw it: do not wait for a writer.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("no regular file any more"));
    }
    // A file of /proc can have a length of 0 and yet have contents.
    let mut chunk = vec![0; metadata.len().clamp(4096, CHUNK) as usize];
    let (mut hasher, mut len) = (Sha256::new(), 0);
    while let Some(read) = read_some(&mut file, &mut chunk)? {
        hasher.update(read);
        len += read.len() as u64;
        yield_now().await;
    }
    Ok((len, hasher.finalize().into()))
}

/// The next bytes; `None` at the end.
fn read_some<'a>(file: &mut File, chunk: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    loop {
        match file.read(chunk) {
            Ok(0) => return Ok(None),
            Ok(n) => return Ok(chunk.get(..n)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn threads() -> io::Result<u32> {
    fs::read_dir("/proc/self/task").map(|threads| threads.count() as u32)
}

/// The queue of a descriptor that the parent put there. It is opened through `/proc`, not by its
/// number, because that is safe if the descriptor is not open.
fn inherited(fd: i32) -> Result<Queue> {
    let path = format!("/proc/self/fd/{fd}");
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.with_context(|| format!("no queue at descriptor {fd}"))?;
    Queue::open(file).with_context(|| format!("descriptor {fd}"))
}

//! A worker that SIGTERM stops: it finishes what it can in a short time, and returns the rest.
//!
//! `cargo run -p parkline-uring --example worker` makes a queue with four jobs, starts such a worker with
//! the queue as its standard input, and stops it when two jobs are done: see docs/stopping-a-worker.md.

use std::error::Error;
use std::io::{BufRead, BufReader, stdin};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use parkline_uring::{AsyncReceiver, Fault, Lease, Queue, RecvError};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// How long the jobs in hand may take when the worker is stopped.
const GRACE: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn Error>> {
    let is_worker = std::env::args().nth(1).as_deref() == Some("worker");
    if is_worker { worker() } else { story() }
}

#[tokio::main(flavor = "current_thread")]
async fn worker() -> Result<(), Box<dyn Error>> {
    let mut terminated = signal(SignalKind::terminate())?;
    let queue = Queue::open_typed(stdin().as_fd().try_clone_to_owned()?)?;
    let (mut jobs, mut in_hand) = (queue.receiver()?, JoinSet::new());
    loop {
        let job = tokio::select! {
            _ = terminated.recv() => break,
            job = jobs.lease() => job,
        };
        match job {
            Ok(job) => _ = in_hand.spawn(work(job)),
            Err(RecvError::Closed) => break,
            Err(RecvError::Fault(fault)) => return Err(fault.into()),
        }
        while in_hand.try_join_next().is_some() {}
    }
    let rest = async { while in_hand.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, rest).await.is_err() {
        println!("{} come back", in_hand.len());
        // Each task drops its lease.
        in_hand.shutdown().await;
    }
    Ok(())
}

/// A job is the number of milliseconds that it takes.
async fn work(job: Lease<u64>) -> Result<(), Fault> {
    let time = job.read()?;
    tokio::time::sleep(Duration::from_millis(time)).await;
    println!("{time} is done");
    job.ack();
    Ok(())
}

fn story() -> Result<(), Box<dyn Error>> {
    let queue = Queue::builder().leases(4).create_typed::<u64>()?;
    queue.sender()?.try_send_many(&[10, 60_000, 20, 60_001])?;
    let mut worker = Command::new(std::env::current_exe()?);
    worker.arg("worker").stdin(queue.try_clone_fd()?).stdout(Stdio::piped());
    let mut worker = worker.spawn()?;
    for (n, line) in (1..).zip(BufReader::new(worker.stdout.take().unwrap()).lines()) {
        println!("the worker says: {}", line?);
        if n == 2 {
            kill_process(Pid::from_child(&worker), Signal::TERM)?;
        }
    }
    println!("the worker ended with {}", worker.wait()?);
    let mut jobs = queue.receiver()?;
    while let Ok(job) = jobs.try_lease() {
        println!("{} was received {} times", job.read()?, job.attempts());
        job.ack();
    }
    Ok(())
}

//! Ten thousand tasks of one runtime wait at one queue, each for one message from another process, or
//! from another thread if the queue is of one process.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use anyhow::{Context, Result};
use parkline_uring::{AsyncReceiver, Queue};

#[cfg(feature = "peers")]
use super::channel::{Awaited, Blocking};
use super::control::Control;
use super::ends::runtime;
use super::link::Link;
use super::process::{Part, Started};
use super::spec::{Outcome, Work};
use super::times::{Times, now};
use crate::{CAPACITY, Message};

/// The phase in which messages are sent.
const SERVE: u32 = 1;

pub(crate) fn processes(part: Part) -> Result<Outcome> {
    let Work::Waiters { tasks } = part.spec().work else { return part.refuse() };
    match part {
        Part::Near(spec) => {
            let queue = Queue::builder().capacity(CAPACITY).create_typed::<Message>()?;
            let link = Link::fds([queue.try_clone_fd()?]);
            let (control, control_fd) = Control::create()?;
            let _started = Started::start(&spec, 0, &control_fd, &link)?;
            spec.pin(false)?;
            control.wait_ready(1);
            let receiver = queue.receiver()?.share();
            let recv = |mut receiver: parkline_uring::Shared<_>| async move {
                AsyncReceiver::<Message>::recv(&mut receiver).await.expect("the queue stays open")
            };
            wait(tasks, &receiver, recv, || control.enter(SERVE))
        }
        Part::Far(spec, far) => {
            spec.pin(true)?;
            let there = far.link.fds.into_iter().next().context("no descriptor came")?;
            let mut sender = Queue::<Message>::open_typed(there)?.sender()?;
            far.control.get_ready();
            far.control.wait_phase(SERVE);
            for _ in 0..tasks {
                sender.send_blocking(&[0, now(), 0, 0, 0, 0, 0, 0])?;
            }
            // The near end ends this process. Until then no process has to recover from its death.
            thread::park();
            Ok(Outcome::default())
        }
    }
}

/// Lets `tasks` tasks wait, calls `serve`, and measures the microseconds from the first message sent to
/// the last message received.
fn wait<R, F>(
    tasks: usize,
    receiver: &R,
    recv: impl Fn(R) -> F + Copy + Send + 'static,
    serve: impl FnOnce(),
) -> Result<Outcome>
where
    R: Clone + Send + 'static,
    F: Future<Output = Message> + Send,
{
    runtime()?.block_on(async {
        // The first wait sets up what all waits share.
        let mut waiting = Vec::with_capacity(tasks);
        let asleep = Arc::new(AtomicUsize::new(0));
        let (bytes, threads) = (resident()?, thread_count()?);
        for _ in 0..tasks {
            let (receiver, asleep) = (receiver.clone(), Arc::clone(&asleep));
            waiting.push(tokio::spawn(async move {
                asleep.fetch_add(1, Relaxed);
                let sent = recv(receiver).await[1];
                (sent, now())
            }));
        }
        while asleep.load(Relaxed) < tasks {
            tokio::task::yield_now().await;
        }
        let bytes = resident()?.saturating_sub(bytes);
        serve();
        let (mut first, mut last, mut times) = (u64::MAX, 0, Times::new());
        for task in waiting {
            let (sent, served) = task.await?;
            first = first.min(sent);
            last = last.max(served);
            times.record_nanos(served.saturating_sub(sent));
        }
        let more = thread_count()?.saturating_sub(threads);
        Ok(Outcome {
            value: last.saturating_sub(first) as f64 / 1e3,
            extras: [
                ("bytes a waiter".to_owned(), bytes as f64 / tasks as f64),
                ("more threads".to_owned(), more as f64),
            ]
            .into(),
            times: times.pairs(),
            ..Outcome::default()
        })
    })
}

/// Bytes of memory in use by this process.
fn resident() -> Result<u64> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages.split(' ').nth(1).context("a second field")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn thread_count() -> Result<u64> {
    Ok(fs::read_dir("/proc/self/task")?.count() as u64)
}

/// The tasks await one receiver of a channel between threads.
#[cfg(feature = "peers")]
pub(crate) fn threads<C: Blocking + Awaited>(part: Part) -> Result<Outcome>
where
    C::Receiver: Clone,
{
    let Work::Waiters { tasks } = part.spec().work else { return part.refuse() };
    let spec = part.near_alone()?;
    let (mut sender, receiver) = C::make();
    let (control, _) = Control::create()?;
    let pinned = spec.clone();
    let thread = thread::spawn(move || -> Result<()> {
        pinned.pin(true)?;
        control.wait_phase(SERVE);
        (0..tasks).for_each(|_| C::send(&mut sender, &[0, now(), 0, 0, 0, 0, 0, 0]));
        Ok(())
    });
    spec.pin(false)?;
    let recv = |mut receiver| async move { C::recv_async(&mut receiver).await };
    let outcome = wait(tasks, &receiver, recv, || control.enter(SERVE));
    thread.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    outcome
}

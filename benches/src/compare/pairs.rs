//! Two ends: one way and round trips, one message a call, in batches, of many lengths, awaited.
//!
//! The far end answers the messages that ask for it, so the ends need not agree on the number of
//! messages. Each measurement is repeated with more of them until it takes as long as it should; the
//! repetitions before are the warm-up.

use std::fs;
use std::hint::black_box;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::ends::{ASK, BATCH, Bytes, END, End, Many, PLAIN, Process, Task, Threads, runtime};
use super::process::{Part, Started};
use super::spec::{Outcome, Placement, Spec, Work};
use super::times::Times;
use crate::Message;

/// Messages one by one, between processes.
pub(crate) fn processes<E: Process + End>(part: Part) -> Result<Outcome> {
    let measure = |end: &mut E, spec: &Spec, far: &Started| measure(end, spec, Some(far));
    part.between(measure, |end, _| answer(end))
}

/// Messages one by one, between threads.
pub(crate) fn threads<E: Threads + End>(part: Part) -> Result<Outcome> {
    part.within(|end: &mut E, spec| measure(end, spec, None), answer)
}

/// Batches between processes.
pub(crate) fn many_between<E: Process + Many>(part: Part) -> Result<Outcome> {
    part.between(|end: &mut E, spec, _| batches(end, spec), |end, _| answer_batches(end))
}

/// Batches between threads.
#[cfg(feature = "peers")]
pub(crate) fn many_within<E: Threads + Many>(part: Part) -> Result<Outcome> {
    part.within(|end: &mut E, spec| batches(end, spec), answer_batches)
}

/// Messages of any length, between processes.
pub(crate) fn bytes_between<E: Process + Bytes>(part: Part) -> Result<Outcome> {
    part.between(|end: &mut E, spec, _| bytes(end, spec), answer_bytes)
}

/// Awaited, between processes.
pub(crate) fn tasks_between<T: Process + Task>(part: Part) -> Result<Outcome> {
    let runtime = runtime()?;
    // An end may register with the runtime as it opens.
    let _entered = runtime.enter();
    part.between(
        |near: &mut T, spec, _| Ok(runtime.block_on(tasks(near, spec))),
        |far, _| {
            runtime.block_on(answer_tasks(far));
            Ok(())
        },
    )
}

/// Awaited, in one runtime of two threads, which the placement pins together or not at all.
pub(crate) fn tasks_within<T: Threads + Task>(part: Part) -> Result<Outcome> {
    let spec = part.near_alone()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let (mut near, mut far) = T::pair();
    runtime.block_on(async {
        tokio::spawn(async move { answer_tasks(&mut far).await });
        let measured = tokio::spawn(async move { tasks(&mut near, &spec).await });
        measured.await.context("the near task panicked")
    })
}

/// The far end: returns what asks for it, until the last message.
pub(crate) fn answer(end: &mut impl End) -> Result<()> {
    loop {
        match end.recv() {
            END => return Ok(()),
            ASK => end.send(&ASK),
            _ => {}
        }
    }
}

/// Nanoseconds a message, or what the work calls for.
fn measure(end: &mut impl End, spec: &Spec, far: Option<&Started>) -> Result<Outcome> {
    let mut ask = |count: u64| (0..count).for_each(|_| drop_answer(end));
    ask(64);
    let outcome = match spec.work {
        Work::Stream => Outcome::of(repeat(spec.millis, |count| {
            let start = Instant::now();
            (1..count).for_each(|_| end.send(&PLAIN));
            drop_answer(end);
            start.elapsed()
        })),
        Work::RoundTrips { .. } => round_trips(end, spec.millis),
        Work::BusyRoundTrips => {
            let _others = Others::start(spec)?;
            round_trips(end, spec.millis)
        }
        Work::Idle => idle(far.context("it has a process of its own")?.pid(), spec.millis)?,
        _ => anyhow::bail!("not the work of a pair"),
    };
    end.send(&END);
    Ok(outcome)
}

fn drop_answer(end: &mut impl End) {
    end.send(&ASK);
    black_box(end.recv());
}

/// Nanoseconds a message, with as many messages as take `millis`.
fn repeat(millis: u64, mut run: impl FnMut(u64) -> Duration) -> f64 {
    let mut count = 64;
    loop {
        let took = run(count);
        match more(count, took, millis) {
            Some(more) => count = more,
            None => return took.as_nanos() as f64 / count as f64,
        }
    }
}

/// How many messages to try next; `None` if `count` of them took long enough.
fn more(count: u64, took: Duration, millis: u64) -> Option<u64> {
    let wanted = Duration::from_millis(millis);
    if took * 10 >= wanted * 8 {
        return None;
    }
    let factor = wanted.as_secs_f64() / took.as_secs_f64().max(1e-9);
    Some((count as f64 * factor.clamp(1.25, 16.0)) as u64)
}

/// First without reading the clock in between, then a quarter of the time with it.
fn round_trips(end: &mut impl End, millis: u64) -> Outcome {
    let value = repeat(millis, |count| {
        let start = Instant::now();
        (0..count).for_each(|_| drop_answer(end));
        start.elapsed()
    });
    let mut times = Times::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(millis / 4) {
        let start = Instant::now();
        drop_answer(end);
        times.record(start.elapsed());
    }
    Outcome { value, times: times.pairs(), ..Outcome::default() }
}

/// A second pair that does the same for as long as this lives.
struct Others(Child);

impl Others {
    fn start(spec: &Spec) -> Result<Self> {
        let spec = Spec {
            work: Work::RoundTrips { parked: true },
            placement: Placement::Free,
            millis: 60_000,
            name: format!("{}-others", spec.name),
            ..spec.clone()
        };
        let mut stage = Command::new(std::env::current_exe()?);
        stage.args(["stage", &serde_json::to_string(&spec)?]).stdout(Stdio::null());
        let others = Self(stage.spawn()?);
        // Without it the first messages would have less company; nothing else depends on it.
        thread::sleep(Duration::from_millis(20));
        Ok(others)
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        // An error means that it is gone already; its far end goes with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The share of a core, in percent, that process `pid` takes while it waits.
fn idle(pid: u32, millis: u64) -> Result<Outcome> {
    // Its last answer is under way.
    thread::sleep(Duration::from_millis(50));
    let (before, start) = (Used::by(pid)?, Instant::now());
    thread::sleep(Duration::from_millis(millis));
    let (after, took) = (Used::by(pid)?, start.elapsed());
    let nanos = (after.nanos - before.nanos) as f64;
    let switches = (after.switches - before.switches) as f64;
    Ok(Outcome {
        value: 100.0 * nanos / took.as_nanos() as f64,
        extras: [("switches in 10 s".to_owned(), 10.0 * switches / took.as_secs_f64())].into(),
        ..Outcome::default()
    })
}

/// What all threads of a process used so far.
struct Used {
    nanos: u64,
    switches: u64,
}

impl Used {
    fn by(pid: u32) -> Result<Self> {
        let mut used = Self { nanos: 0, switches: 0 };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            let run = fs::read_to_string(task.join("schedstat"))?;
            used.nanos += run.split(' ').next().unwrap_or_default().parse::<u64>()?;
            let status = fs::read_to_string(task.join("status"))?;
            let switches = status.lines().filter_map(|line| line.split_once("_switches:"));
            for (_, count) in switches {
                used.switches += count.trim().parse::<u64>()?;
            }
        }
        Ok(used)
    }
}

/// The far end of [`batches`].
fn answer_batches(end: &mut impl Many) -> Result<()> {
    let mut messages = Vec::with_capacity(2 * BATCH);
    loop {
        end.recv_many(&mut messages);
        for message in messages.drain(..) {
            match message {
                END => return Ok(()),
                ASK => end.send(&ASK),
                _ => {}
            }
        }
    }
}

/// One way, [`BATCH`] messages a call.
fn batches(end: &mut impl Many, spec: &Spec) -> Result<Outcome> {
    let plain = [PLAIN; BATCH];
    let mut asking = plain;
    asking[BATCH - 1] = ASK;
    let nanos = repeat(spec.millis, |count| {
        let start = Instant::now();
        (1..count).for_each(|_| end.send_many(&plain));
        end.send_many(&asking);
        black_box(end.recv());
        start.elapsed()
    });
    end.send(&END);
    Ok(Outcome::of(nanos / BATCH as f64))
}

/// The far end of [`bytes`].
fn answer_bytes(end: &mut impl Bytes, spec: &Spec) -> Result<()> {
    let mut message = vec![0; spec.shape().len];
    loop {
        end.recv(&mut message)?;
        match message[0] {
            0 => {}
            1 => end.send(&message)?,
            _ => return Ok(()),
        }
    }
}

/// One way, messages of any length.
fn bytes(end: &mut impl Bytes, spec: &Spec) -> Result<Outcome> {
    let plain = vec![0; spec.shape().len];
    let (mut asking, mut answer) = (plain.clone(), plain.clone());
    asking[0] = 1;
    let mut failed = None;
    let value = repeat(spec.millis, |count| {
        let start = Instant::now();
        let mut run = || {
            (1..count).try_for_each(|_| end.send(&plain))?;
            end.send(&asking)?;
            end.recv(&mut answer)
        };
        if let Err(error) = run() {
            failed = Some(error);
            return Duration::MAX / 16;
        }
        start.elapsed()
    });
    if let Some(error) = failed {
        return Err(error);
    }
    asking[0] = 2;
    end.send(&asking)?;
    Ok(Outcome::of(value))
}

/// What copying in and out costs without a queue: into the slots of a queue in turn, then out.
pub(crate) fn copies(part: Part) -> Result<Outcome> {
    let spec = part.near_alone()?;
    let shape = spec.shape();
    spec.pin(false)?;
    let (from, mut to) = (vec![1; shape.len], vec![0; shape.len]);
    let mut slots = vec![vec![0; shape.len]; shape.capacity];
    let mut next = 0;
    let value = repeat(spec.millis, |count| {
        let start = Instant::now();
        for _ in 0..count {
            slots[next].copy_from_slice(black_box(&from));
            to.copy_from_slice(black_box(&slots[next]));
            black_box(&mut to);
            next = (next + 1) % shape.capacity;
        }
        start.elapsed()
    });
    Ok(Outcome::of(value))
}

/// The far end of [`tasks`].
async fn answer_tasks(task: &mut impl Task) {
    loop {
        match task.recv().await {
            END => return,
            ASK => task.send(&ASK).await,
            _ => {}
        }
    }
}

/// One way, awaiting each call.
async fn tasks(task: &mut impl Task, spec: &Spec) -> Outcome {
    let mut count = 64;
    loop {
        let start = Instant::now();
        for _ in 1..count {
            task.send(&PLAIN).await;
        }
        task.send(&ASK).await;
        let _: Message = task.recv().await;
        let took = start.elapsed();
        if let Some(more) = more(count, took, spec.millis) {
            count = more;
            continue;
        }
        task.send(&END).await;
        return Outcome::of(took.as_nanos() as f64 / count as f64);
    }
}

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

use super::control::Control;
use super::peers::{BATCH, Bytes, FarTask, Many, NearTask, Process, Shape, Task, Threads, runtime};
use super::process::{Part, Started};
use super::spec::{Outcome, Placement, Spec, Work};
use super::times::Times;
use crate::{ASK, END, End, Message, PLAIN};

/// Messages one by one, between processes.
pub(crate) fn processes<E: Process>(part: Part) -> Result<Outcome> {
    let measure = |end: &mut E, spec: &Spec, started: &Started| {
        let outcome = measure(end, spec, Some(started))?;
        crate::finish(end);
        Ok(outcome)
    };
    let answer = |end: &mut E| {
        crate::answer(end);
        Ok(())
    };
    part.between(E::create, E::open, measure, answer)
}

/// Messages one by one, between threads.
pub(crate) fn threads<E: Threads>(part: Part) -> Result<Outcome> {
    let measure = |end: &mut E, spec: &Spec| {
        let outcome = measure(end, spec, None);
        crate::finish(end);
        outcome
    };
    part.within(E::pair, measure, crate::answer)
}

/// Batches between processes.
pub(crate) fn many_between<E: Process + Many>(part: Part) -> Result<Outcome> {
    let measure = |end: &mut E, spec: &Spec, _: &Started| {
        let outcome = batches(end, spec);
        crate::finish(end);
        Ok(outcome)
    };
    let answer = |end: &mut E| {
        answer_batches(end);
        Ok(())
    };
    part.between(E::create, E::open, measure, answer)
}

/// Batches between threads.
#[cfg(feature = "peers")]
pub(crate) fn many_within<E: Threads + Many>(part: Part) -> Result<Outcome> {
    let measure = |end: &mut E, spec: &Spec| {
        let outcome = batches(end, spec);
        crate::finish(end);
        Ok(outcome)
    };
    part.within(E::pair, measure, answer_batches)
}

/// Messages of any length, between processes.
pub(crate) fn bytes_between<E: Bytes>(part: Part) -> Result<Outcome> {
    let Some(shape) = Shape::of(part.spec()) else { return part.refuse() };
    part.between(
        |spec| E::create(spec, shape),
        |link, near| E::open(link, shape, near),
        |end, spec, _| bytes(end, spec, shape),
        |end| answer_bytes(end, shape),
    )
}

/// Awaited, between processes.
pub(crate) fn tasks_between<T: FarTask>(part: Part) -> Result<Outcome> {
    let runtime = runtime()?;
    match part {
        Part::Near(spec) => {
            let link = T::create()?;
            let (control, control_fd) = Control::create()?;
            let _started = Started::start(&spec, 0, &control_fd, &link)?;
            spec.pin(false)?;
            control.wait_ready(1);
            runtime.block_on(async { Ok(tasks(T::open(&link, true)?, spec).await) })
        }
        Part::Far(spec, far) => {
            spec.pin(true)?;
            runtime.block_on(async {
                let task = T::open(&far.link, false)?;
                far.control.get_ready();
                answer_tasks(task).await;
                Ok(Outcome::default())
            })
        }
    }
}

/// Awaited, in one runtime of two threads, which the placement pins together or not at all.
pub(crate) fn tasks_within<T: NearTask>(part: Part) -> Result<Outcome> {
    let spec = part.near_alone()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let (near, far) = T::pair();
    runtime.block_on(async {
        tokio::spawn(answer_tasks(far));
        tokio::spawn(tasks(near, spec)).await.context("the near task panicked")
    })
}

/// Nanoseconds a message, or what the work calls for.
fn measure(end: &mut impl End, spec: &Spec, far: Option<&Started>) -> Result<Outcome> {
    let mut ask = |count: u64| (0..count).for_each(|_| drop_answer(end));
    ask(64);
    match spec.work {
        Work::Stream => {
            let value = repeat(spec.millis, |count| {
                let start = Instant::now();
                (1..count).for_each(|_| end.send(&PLAIN));
                drop_answer(end);
                start.elapsed()
            });
            Ok(Outcome { value, ..Outcome::default() })
        }
        Work::RoundTrips { .. } => Ok(round_trips(end, spec.millis)),
        Work::BusyRoundTrips => {
            let _others = Others::start(spec)?;
            Ok(round_trips(end, spec.millis))
        }
        Work::Idle => idle(far.context("it has a process of its own")?.pid(), spec.millis),
        _ => anyhow::bail!("not the work of a pair"),
    }
}

fn drop_answer(end: &mut impl End) {
    end.send(&ASK);
    black_box(end.recv());
}

/// Nanoseconds a message, with as many messages as take `millis`.
fn repeat(millis: u64, mut run: impl FnMut(u64) -> Duration) -> f64 {
    let wanted = Duration::from_millis(millis);
    let mut count = 64;
    loop {
        let took = run(count);
        if took * 10 >= wanted * 8 {
            return took.as_nanos() as f64 / count as f64;
        }
        let factor = wanted.as_secs_f64() / took.as_secs_f64().max(1e-9);
        count = (count as f64 * factor.clamp(1.25, 16.0)) as u64;
    }
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
fn answer_batches(end: &mut (impl End + Many)) {
    let mut messages = Vec::with_capacity(2 * BATCH);
    loop {
        end.recv_many(&mut messages);
        for message in messages.drain(..) {
            match message {
                END => return,
                ASK => end.send(&ASK),
                _ => {}
            }
        }
    }
}

/// One way, [`BATCH`] messages a call.
fn batches(end: &mut (impl End + Many), spec: &Spec) -> Outcome {
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
    Outcome { value: nanos / BATCH as f64, ..Outcome::default() }
}

/// The far end of [`bytes`].
fn answer_bytes(end: &mut impl Bytes, shape: Shape) -> Result<()> {
    let mut message = vec![0; shape.len];
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
fn bytes(end: &mut impl Bytes, spec: &Spec, shape: Shape) -> Result<Outcome> {
    let (plain, mut asking, mut answer) =
        (vec![0; shape.len], vec![0; shape.len], vec![0; shape.len]);
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
    Ok(Outcome { value, ..Outcome::default() })
}

/// What copying in and out costs without a queue: into the slots of a queue in turn, then out.
pub(crate) fn copies(part: Part) -> Result<Outcome> {
    let Some(shape) = Shape::of(part.spec()) else { return part.refuse() };
    let spec = part.near_alone()?;
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
    Ok(Outcome { value, ..Outcome::default() })
}

/// The far end of [`tasks`].
async fn answer_tasks(mut task: impl Task) {
    loop {
        match task.recv().await {
            END => return,
            ASK => task.send(&ASK).await,
            _ => {}
        }
    }
}

/// One way, awaiting each call.
async fn tasks(mut task: impl Task, spec: Spec) -> Outcome {
    let wanted = Duration::from_millis(spec.millis);
    let mut count = 64;
    loop {
        let start = Instant::now();
        for _ in 1..count {
            task.send(&PLAIN).await;
        }
        task.send(&ASK).await;
        let _: Message = task.recv().await;
        let took = start.elapsed();
        if took >= wanted * 8 / 10 {
            task.send(&END).await;
            let value = took.as_nanos() as f64 / count as f64;
            return Outcome { value, ..Outcome::default() };
        }
        let factor = wanted.as_secs_f64() / took.as_secs_f64().max(1e-9);
        count = (count as f64 * factor.clamp(1.25, 16.0)) as u64;
    }
}

//! Many senders and many receivers of one queue: how many messages go through it, and, at a set pace,
//! how long each message is on its way.
//!
//! The pace is open: each message carries the time at which it was due, whether or not its sender
//! came to send it then, so that a stalled sender counts as much as a stalled receiver.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::control::Control;
use super::ends::{END, End, Process, Threads, retry};
use super::process::{Part, Started};
use super::spec::{Outcome, Spec, Work};
use super::times::{Times, now};

/// The phases: all ends warm up, then the near end counts, then the senders stop.
const WARM_UP: u32 = 1;
const COUNTS: u32 = 2;
const STOP: u32 = 3;

/// How many there are of each, and the nanoseconds from one message of a sender to its next.
fn shape(spec: &Spec) -> (usize, Option<u64>) {
    match spec.work {
        Work::Paced { each, rate } => (each, Some(each as u64 * 1_000_000_000 / rate)),
        Work::Crowd { each } => (each, None),
        _ => (0, None),
    }
}

/// All in processes of their own.
pub(crate) fn processes<E: Process + End>(part: Part) -> Result<Outcome> {
    match part {
        Part::Near(spec) => {
            let (each, _) = shape(&spec);
            let mut link = E::create(&spec)?;
            let (control, control_fd) = Control::create()?;
            let far = (0..2 * each).map(|index| Started::start(&spec, index, &control_fd, &link));
            let far = far.collect::<Result<Vec<_>>>()?;
            spec.pin(false)?;
            let mut end = E::open(&mut link, &spec, true)?;
            let outcome = direct(control, each, &mut end, &spec);
            let mut times = Times::new();
            for receiver in far.into_iter().skip(each) {
                times.add(&receiver.result()?);
            }
            Ok(with_times(outcome, &times, &spec))
        }
        Part::Far(spec, mut far) => {
            let (each, pace) = shape(&spec);
            let near = far.index < each;
            spec.pin(!near)?;
            let mut end = E::open(&mut far.link, &spec, near)?;
            if near {
                send(&mut end, far.control, far.index, pace);
            } else {
                let times = receive(&mut end, far.control, far.index, pace.is_some());
                Started::report(&times.pairs())?;
            }
            Ok(Outcome::default())
        }
    }
}

/// All in threads of this process.
pub(crate) fn threads<E: Threads + End + Clone>(part: Part) -> Result<Outcome> {
    let spec = part.near_alone()?;
    let (each, pace) = shape(&spec);
    let (mut near, far) = E::pair();
    let (control, _) = Control::create()?;
    spec.pin(false)?;
    thread::scope(|scope| {
        for index in 0..each {
            let mut end = near.clone();
            scope.spawn(move || send(&mut end, control, index, pace));
        }
        let receive = |index| {
            let mut end = far.clone();
            scope.spawn(move || receive(&mut end, control, index, pace.is_some()).pairs())
        };
        let receivers: Vec<_> = (each..2 * each).map(receive).collect();
        let outcome = direct(control, each, &mut near, &spec);
        let mut times = Times::new();
        for receiver in receivers {
            times.add(&receiver.join().unwrap_or_default());
        }
        Ok(with_times(outcome, &times, &spec))
    })
}

/// Leads the far ends through the phases, and then sends one end to each receiver.
fn direct(control: &Control, each: usize, end: &mut impl End, spec: &Spec) -> Outcome {
    let all = u32::try_from(each).unwrap_or(u32::MAX);
    control.wait_ready(2 * all);
    control.enter(WARM_UP);
    thread::sleep(Duration::from_millis(spec.millis / 4));
    control.enter(COUNTS);
    let received = || control.sum(each..2 * each);
    let (before, start) = (received(), Instant::now());
    thread::sleep(Duration::from_millis(spec.millis));
    let (after, took) = (received(), start.elapsed());
    control.enter(STOP);
    control.wait_ready(3 * all);
    (0..each).for_each(|_| end.send(&END));
    Outcome::of(took.as_nanos() as f64 / (after - before).max(1) as f64)
}

/// At a set pace, the figure is the time that all but one in a thousand messages took at most.
fn with_times(outcome: Outcome, times: &Times, spec: &Spec) -> Outcome {
    match spec.work {
        Work::Paced { .. } => {
            Outcome { value: times.at(0.999) as f64, times: times.pairs(), ..outcome }
        }
        _ => outcome,
    }
}

fn send(end: &mut impl End, control: &Control, index: usize, pace: Option<u64>) {
    control.get_ready();
    control.wait_phase(WARM_UP);
    let mut due = now();
    while control.phase() < STOP {
        if let Some(pace) = pace {
            due += pace;
            retry(|| (now() >= due).then_some(()));
        }
        end.send(&[0, due, 0, 0, 0, 0, 0, index as u64]);
    }
    control.get_ready();
}

fn receive(end: &mut impl End, control: &Control, index: usize, paced: bool) -> Times {
    let mut times = Times::new();
    let count = control.count(index);
    control.get_ready();
    loop {
        let message = end.recv();
        if message == END {
            return times;
        }
        count.add(1);
        if paced && control.phase() == COUNTS {
            times.record_nanos(now().saturating_sub(message[1]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Placement, Workload};
    use super::*;

    /// Fails if the figure stays the time from one message to the next.
    #[test]
    fn at_a_set_pace_the_figure_is_what_all_but_one_in_a_thousand_took() {
        let mut times = Times::new();
        (0..1999).for_each(|_| times.record_nanos(100));
        times.record_nanos(5_000);
        times.record_nanos(5_000);
        times.record_nanos(5_000);
        let spec = |work| Spec {
            work,
            workload: Workload::Crowd,
            peer: String::new(),
            placement: Placement::Shared,
            cores: [0, 1],
            millis: 1,
            name: String::new(),
        };
        let figure = |work| with_times(Outcome::of(7.0), &times, &spec(work)).value;
        assert!((4_990.0..5_010.0).contains(&figure(Work::Paced { each: 2, rate: 1000 })));
        assert!((6.9..7.1).contains(&figure(Work::Crowd { each: 2 })));
    }
}

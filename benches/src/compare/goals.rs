//! The goals of Parkline, and whether this run meets them.

use serde::Serialize;

use super::peer::names::*;
use super::plan::{Group, Unit};
use super::results::{Entry, Results};
use super::spec::{Placement, Work, Workload};

/// A goal, what was reached, and whether that is enough; nothing where the goal has no number.
#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) workload: Workload,
    pub(crate) goal: String,
    pub(crate) reached: String,
    pub(crate) met: Option<bool>,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

struct Goals(Vec<Goal>);

impl Goals {
    /// `value` is nothing where the run has not measured it: then there is no line.
    fn add(&mut self, workload: Workload, what: &str, bound: Bound, value: Option<f64>) {
        let Some(value) = value else { return };
        let (words, met) = match bound {
            AtLeast(least) => (format!("at least {least}"), value >= least),
            AtMost(most) => (format!("at most {most}"), value <= most),
        };
        let (goal, reached) = (format!("{what}: {words}"), three_digits(value));
        self.0.push(Goal { workload, goal, reached, met: Some(met) });
    }

    fn show(&mut self, workload: Workload, goal: &str, reached: String) {
        self.0.push(Goal { workload, goal: goal.to_owned(), reached, met: None });
    }
}

pub(crate) fn three_digits(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. | 0.0 => format!("{value:.2}"),
        0.01.. => format!("{value:.3}"),
        _ => format!("{value:.5}"),
    }
}

/// A line each.
pub(crate) fn goals(results: &Results) -> Vec<Goal> {
    let mut goals = Goals(Vec::new());
    let ratio = |entry: &Entry, peer, to| entry.ratio(peer, to);
    for entry in results.of(Workload::Oneway).filter(|it| it.group.placement == Placement::Apart) {
        let rate = "times the rate of the plain ring";
        goals.add(Workload::Oneway, rate, AtLeast(1.2), ratio(entry, PARKLINE, PLAIN_RING));
        let rate = "times the rate of the plain ring without its fence";
        goals.add(
            Workload::Oneway,
            rate,
            AtLeast(1.0),
            ratio(entry, PARKLINE, PLAIN_RING_NO_FENCE),
        );
    }
    for entry in results.of(Workload::Batch) {
        let rate = "64 a call, times the rate of the plain ring";
        goals.add(Workload::Batch, rate, AtLeast(2.5), ratio(entry, PARKLINE_MANY, PLAIN_RING));
        let rate = "64 a pack, times the rate of the plain ring";
        goals.add(Workload::Batch, rate, AtLeast(5.0), ratio(entry, PARKLINE_PACKS, PLAIN_RING));
    }
    for entry in results.of(Workload::Roundtrip).filter(|it| it.group.placement == Placement::Apart)
    {
        let time = "times the time of the raw cache line";
        goals.add(Workload::Roundtrip, time, AtMost(1.3), ratio(entry, PARKLINE, CACHE_LINE));
        let not_others = [CACHE_LINE, PLAIN_RING, PLAIN_RING_NO_FENCE, PARKLINE, PARKLINE_BLOCKING];
        let others = entry.rows.iter().filter(|row| !not_others.contains(&row.peer.name));
        let others =
            others.filter_map(|row| Some((ratio(entry, PARKLINE, row.peer.name)?, row.peer)));
        if let Some((most, peer)) = others.max_by(|one, two| one.0.total_cmp(&two.0)) {
            let time = format!("times the time of the fastest other queue, {}", peer.name);
            goals.add(Workload::Roundtrip, &time, AtMost(1.0), Some(most));
        }
    }
    for entry in results.of(Workload::Parked) {
        let (block_on, tokio, of_tokio, mpsc) = match entry.group.placement {
            Placement::Together => (1.2, 1.3, TOKIO_MPSC, "tokio mpsc"),
            _ => (1.03, 1.06, FUTEX, "the raw futex"),
        };
        let place = entry.group.placement;
        let time = format!("{place}: block_on, times the time of the raw futex");
        goals.add(
            Workload::Parked,
            &time,
            AtMost(block_on),
            ratio(entry, PARKLINE_BLOCK_ON, FUTEX),
        );
        let time = format!("{place}: tokio, times the time of {mpsc}");
        goals.add(Workload::Parked, &time, AtMost(tokio), ratio(entry, PARKLINE_TOKIO, of_tokio));
    }
    for entry in results.of(Workload::Strategy) {
        let better = [ALWAYS_SPIN, ALWAYS_PARK];
        let ratios = better.map(|peer| ratio(entry, PARKLINE_BLOCKING, peer));
        let most = ratios.into_iter().flatten().max_by(f64::total_cmp);
        let place = place(entry);
        let time = format!("{place}: default, times the time of the better of spin and park");
        goals.add(Workload::Strategy, &time, AtMost(1.1), most);
    }
    for entry in results.of(Workload::Naps) {
        for row in &entry.rows {
            let Some(spread) = row.spread() else { continue };
            let name = row.peer.name;
            if row.peer.name == PARKLINE {
                let calls = "FUTEX_WAKE calls a message, receiver awake";
                goals.add(Workload::Naps, calls, AtMost(0.0), Some(spread.median));
            } else {
                let goal = format!("{name}: FUTEX_WAKE calls a park, as near to 1 as can be");
                goals.show(Workload::Naps, &goal, three_digits(spread.median));
            }
        }
    }
    for entry in results.of(Workload::Crowd) {
        let (detail, found) = (&entry.group.detail, ratio(entry, PARKLINE, PLAIN_RING));
        if matches!(entry.group.work, Work::Crowd { .. }) {
            let rate = format!("{detail}: times the rate of the plain ring");
            goals.add(Workload::Crowd, &rate, AtLeast(1.1), found);
        } else {
            let time = format!("{detail}: times that of the plain ring");
            goals.add(Workload::Crowd, &time, AtMost(0.5), found);
        }
    }
    for entry in results.of(Workload::Tokio) {
        let rate = "times the rate of tokio mpsc in one process";
        goals.add(Workload::Tokio, rate, AtLeast(1.0), ratio(entry, PARKLINE_TOKIO, TOKIO_MPSC));
    }
    for entry in results.of(Workload::Copy) {
        let len = &entry.group.detail;
        for (peer, least) in [(PLAIN_RING, 1.0), (ICEORYX, 0.9)] {
            let rate = format!("{len}: times the GB/s of {peer}");
            goals.add(Workload::Copy, &rate, AtLeast(least), ratio(entry, PARKLINE, peer));
        }
    }
    let mut lengths = Vec::new();
    for entry in results.of(Workload::Inplace) {
        let time =
            format!("{}: iceoryx2's time, times that of reserve and lease", entry.group.detail);
        let found = ratio(entry, ICEORYX_LOAN, PARKLINE_IN_PLACE);
        goals.add(Workload::Inplace, &time, AtLeast(1.2), found);
        lengths.extend(entry.row(PARKLINE_IN_PLACE).and_then(|row| Some(row.spread()?.median)));
    }
    if let [shortest, .., longest] = lengths[..] {
        let time = "times the time of 4 KiB that 1 MiB takes, within the noise of 0.1";
        goals.add(Workload::Inplace, time, AtMost(1.1), Some(longest / shortest));
    }
    for entry in results.of(Workload::Waiters) {
        let both = entry.row(PARKLINE_TOKIO).zip(entry.row(ASYNC_CHANNEL));
        let bytes = both.and_then(|(ours, theirs)| {
            Some(ours.extra("bytes a waiter")? / theirs.extra("bytes a waiter")?)
        });
        goals.add(Workload::Waiters, "times async-channel's bytes a waiter", AtMost(1.0), bytes);
        let time = "times async-channel's time until all are served";
        goals.add(
            Workload::Waiters,
            time,
            AtMost(1.5),
            ratio(entry, PARKLINE_TOKIO, ASYNC_CHANNEL),
        );
        let ours = entry.row(PARKLINE_TOKIO);
        let threads = ours.and_then(|row| row.extra("more threads"));
        goals.add(Workload::Waiters, "more threads", AtMost(0.0), threads);
    }
    for entry in results.of(Workload::Idle) {
        for peer in [PARKLINE_BLOCKING, PARKLINE_BLOCK_ON, PARKLINE_TOKIO] {
            let share = entry.row(peer).and_then(|row| Some(row.spread()?.median));
            let percent = format!("{peer}: percent of a core");
            goals.add(Workload::Idle, &percent, AtMost(0.01), share);
        }
    }
    growth(results, &mut goals);
    goals.0
}

/// The steepest fall from one size to the next, which is to be explained where it is a cliff.
fn growth(results: &Results, goals: &mut Goals) {
    for (series, is_in) in SERIES {
        let entries: Vec<_> = results.of(Workload::Growth).filter(|it| is_in(&it.group)).collect();
        let figure = |entry: &Entry| {
            let ours = |peer| Some(entry.row(peer)?.spread()?.median);
            ours(PARKLINE).or_else(|| ours(PARKLINE_TOKIO))
        };
        let steps = entries.windows(2).filter_map(|pair| {
            let [before, after] = pair else { return None };
            Some((figure(after)? / figure(before)?, &after.group.detail))
        });
        let Some((step, to)) = steps.min_by(|one, two| one.0.total_cmp(&two.0)) else { continue };
        let reached = format!("the steepest step is {} x, to {to}", three_digits(step));
        goals.show(Workload::Growth, &format!("against {series}: no cliff unexplained"), reached);
    }
}

type Series = (&'static str, fn(&Group) -> bool);

const SERIES: [Series; 4] = [
    ("processes", |it| matches!(it.work, Work::Crowd { .. })),
    ("capacity", |it| matches!(it.work, Work::Bytes { .. }) && it.unit == Unit::Rate),
    ("message size", |it| matches!(it.work, Work::Bytes { .. }) && it.unit == Unit::Bandwidth),
    ("queues", |it| matches!(it.work, Work::Queues { .. })),
];

fn place(entry: &Entry) -> String {
    let detail = &entry.group.detail;
    if detail.is_empty() { entry.group.placement.to_string() } else { detail.clone() }
}

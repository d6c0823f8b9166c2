//! The goals of Parkline, and whether this run meets them.

use serde::Serialize;

use super::plan::{Group, Unit};
use super::results::{Entry, Results};
use super::spec::Peer::{self, *};
use super::spec::{Placement, Work};

/// A goal, what was reached, and whether that is enough; nothing where the goal has no number.
#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) workload: &'static str,
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
    fn add(&mut self, workload: &'static str, what: &str, bound: Bound, value: Option<f64>) {
        let Some(value) = value else { return };
        let (words, met) = match bound {
            AtLeast(least) => (format!("at least {least}"), value >= least),
            AtMost(most) => (format!("at most {most}"), value <= most),
        };
        let (goal, reached) = (format!("{what}: {words}"), three_digits(value));
        self.0.push(Goal { workload, goal, reached, met: Some(met) });
    }

    fn show(&mut self, workload: &'static str, goal: &str, reached: String) {
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
    for entry in results.of("oneway").filter(|it| it.group.placement == Placement::Apart) {
        let rate = "times the rate of the plain ring";
        goals.add("oneway", rate, AtLeast(1.2), ratio(entry, Parkline, PlainRing));
        let rate = "times the rate of the plain ring without its fence";
        goals.add("oneway", rate, AtLeast(1.0), ratio(entry, Parkline, PlainRingNoFence));
    }
    for entry in results.of("batch") {
        let rate = "64 a call, times the rate of the plain ring";
        goals.add("batch", rate, AtLeast(2.5), ratio(entry, ParklineMany, PlainRing));
        let rate = "64 a pack, times the rate of the plain ring";
        goals.add("batch", rate, AtLeast(5.0), ratio(entry, ParklinePacked, PlainRing));
    }
    for entry in results.of("roundtrip").filter(|it| it.group.placement == Placement::Apart) {
        let time = "times the time of the raw cache line";
        goals.add("roundtrip", time, AtMost(1.3), ratio(entry, Parkline, CacheLine));
        let others = entry.rows.iter().filter(|row| {
            !matches!(
                row.peer,
                CacheLine | PlainRing | PlainRingNoFence | Parkline | ParklineDefault
            )
        });
        let others = others.filter_map(|row| Some((ratio(entry, Parkline, row.peer)?, row.peer)));
        if let Some((most, peer)) = others.max_by(|one, two| one.0.total_cmp(&two.0)) {
            let time = format!("times the time of the fastest other queue, {}", peer.name());
            goals.add("roundtrip", &time, AtMost(1.0), Some(most));
        }
    }
    for entry in results.of("parked") {
        let (block_on, tokio, of_tokio, mpsc) = match entry.group.placement {
            Placement::Together => (1.2, 1.3, TokioMpsc, "tokio mpsc"),
            _ => (1.03, 1.06, Futex, "the raw futex"),
        };
        let place = entry.group.placement;
        let time = format!("{place}: block_on, times the time of the raw futex");
        goals.add("parked", &time, AtMost(block_on), ratio(entry, ParklineBlockOn, Futex));
        let time = format!("{place}: tokio, times the time of {mpsc}");
        goals.add("parked", &time, AtMost(tokio), ratio(entry, ParklineTokio, of_tokio));
    }
    for entry in results.of("strategy") {
        let better = [ParklineSpin, ParklinePark];
        let ratios = better.map(|peer| ratio(entry, ParklineDefault, peer));
        let most = ratios.into_iter().flatten().max_by(f64::total_cmp);
        let place = place(entry);
        let time = format!("{place}: default, times the time of the better of spin and park");
        goals.add("strategy", &time, AtMost(1.1), most);
    }
    for entry in results.of("naps") {
        for row in &entry.rows {
            let Some(spread) = row.spread() else { continue };
            let name = row.peer.name();
            if row.peer == Parkline {
                let calls = "FUTEX_WAKE calls a message, receiver awake";
                goals.add("naps", calls, AtMost(0.0), Some(spread.median));
            } else {
                let goal = format!("{name}: FUTEX_WAKE calls a park, as near to 1 as can be");
                goals.show("naps", &goal, three_digits(spread.median));
            }
        }
    }
    for entry in results.of("crowd") {
        let (detail, found) = (&entry.group.detail, ratio(entry, Parkline, PlainRing));
        if matches!(entry.group.work, Work::Crowd { .. }) {
            let rate = format!("{detail}: times the rate of the plain ring");
            goals.add("crowd", &rate, AtLeast(1.1), found);
        } else {
            let time = format!("{detail}: times that of the plain ring");
            goals.add("crowd", &time, AtMost(0.5), found);
        }
    }
    for entry in results.of("tokio") {
        let rate = "times the rate of tokio mpsc in one process";
        goals.add("tokio", rate, AtLeast(1.0), ratio(entry, ParklineTokio, TokioMpsc));
    }
    for entry in results.of("copy") {
        let len = &entry.group.detail;
        for (peer, least) in [(PlainRing, 1.0), (Iceoryx, 0.9)] {
            let rate = format!("{len}: times the GB/s of {}", peer.name());
            goals.add("copy", &rate, AtLeast(least), ratio(entry, Parkline, peer));
        }
    }
    let mut lengths = Vec::new();
    for entry in results.of("inplace") {
        let time =
            format!("{}: iceoryx2's time, times that of reserve and lease", entry.group.detail);
        let found = ratio(entry, IceoryxInPlace, ParklineInPlace);
        goals.add("inplace", &time, AtLeast(1.2), found);
        lengths.extend(entry.row(ParklineInPlace).and_then(|row| Some(row.spread()?.median)));
    }
    if let [shortest, .., longest] = lengths[..] {
        let time = "times the time of 4 KiB that 1 MiB takes, within the noise of 0.1";
        goals.add("inplace", time, AtMost(1.1), Some(longest / shortest));
    }
    for entry in results.of("waiters") {
        let both = entry.row(ParklineTokio).zip(entry.row(AsyncChannel));
        let bytes = both.and_then(|(ours, theirs)| {
            Some(ours.extra("bytes a waiter")? / theirs.extra("bytes a waiter")?)
        });
        goals.add("waiters", "times async-channel's bytes a waiter", AtMost(1.0), bytes);
        let time = "times async-channel's time until all are served";
        goals.add("waiters", time, AtMost(1.5), ratio(entry, ParklineTokio, AsyncChannel));
        let ours = entry.row(ParklineTokio);
        let threads = ours.and_then(|row| row.extra("more threads"));
        goals.add("waiters", "more threads", AtMost(0.0), threads);
    }
    for entry in results.of("idle") {
        for peer in [ParklineDefault, ParklineBlockOn, ParklineTokio] {
            let share = entry.row(peer).and_then(|row| Some(row.spread()?.median));
            let percent = format!("{}: percent of a core", peer.name());
            goals.add("idle", &percent, AtMost(0.01), share);
        }
    }
    growth(results, &mut goals);
    goals.0
}

/// The steepest fall from one size to the next, which is to be explained where it is a cliff.
fn growth(results: &Results, goals: &mut Goals) {
    for (series, is_in) in SERIES {
        let entries: Vec<_> = results.of("growth").filter(|it| is_in(&it.group)).collect();
        let figure = |entry: &Entry| {
            let ours = |peer: Peer| Some(entry.row(peer)?.spread()?.median);
            ours(Parkline).or_else(|| ours(ParklineTokio))
        };
        let steps = entries.windows(2).filter_map(|pair| {
            let [before, after] = pair else { return None };
            Some((figure(after)? / figure(before)?, &after.group.detail))
        });
        let Some((step, to)) = steps.min_by(|one, two| one.0.total_cmp(&two.0)) else { continue };
        let reached = format!("the steepest step is {} x, to {to}", three_digits(step));
        goals.show("growth", &format!("against {series}: no cliff unexplained"), reached);
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

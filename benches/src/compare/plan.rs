//! What is measured beside what.

use super::peer::{Peer, names};
use super::peers;
use super::spec::{Placement, Work, Workload};

/// Peers that do the same work in the same place. The first is the yardstick of the ratios.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// The row of the goals' table that it is for: what `--only` names.
    pub(crate) workload: Workload,
    /// The workload by whose calls the peers do it.
    pub(crate) by: Workload,
    /// What distinguishes it from the others of its workload.
    pub(crate) detail: String,
    pub(crate) work: Work,
    pub(crate) placement: Placement,
    pub(crate) peers: Vec<&'static Peer>,
    pub(crate) unit: Unit,
    /// How many times as long as others its samples take.
    pub(crate) longer: u64,
    /// All at the same time, in the first round alone: they wait.
    pub(crate) together: bool,
}

/// What a figure tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Samples are in nanoseconds a message, figures in millions a second.
    Rate,
    /// The same in gigabytes a second.
    Bandwidth,
    /// Nanoseconds.
    Nanos,
    /// As it was counted: microseconds, percent of a core, calls for each park.
    Micros,
    Percent,
    Calls,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "M/s",
            Self::Bandwidth => "GB/s",
            Self::Nanos => "ns",
            Self::Micros => "us",
            Self::Percent => "% of a core",
            Self::Calls => "wakes a park",
        }
    }

    /// The figure of a sample.
    pub(crate) fn figure(self, value: f64, work: Work) -> f64 {
        match (self, work) {
            (Self::Rate, _) => 1e3 / value,
            (Self::Bandwidth, Work::Bytes { len, .. }) => len as f64 / value,
            _ => value,
        }
    }
}

/// Whose figures the ratios of a workload are to.
fn yardstick(workload: Workload) -> &'static str {
    match workload {
        Workload::Oneway | Workload::Batch | Workload::Crowd | Workload::Copy => names::PLAIN_RING,
        Workload::Roundtrip => names::CACHE_LINE,
        Workload::Parked | Workload::Idle => names::FUTEX,
        Workload::Strategy | Workload::Naps => names::ALWAYS_PARK,
        Workload::Tokio => names::TOKIO_MPSC,
        Workload::Inplace => names::ICEORYX_LOAN,
        Workload::Waiters => names::ASYNC_CHANNEL,
        Workload::Growth => names::PARKLINE_TOKIO,
    }
}

/// The peers that are measured in all sizes.
const GROWING: [&str; 4] =
    [names::PLAIN_RING, names::PARKLINE, names::ASYNC_CHANNEL, names::PARKLINE_TOKIO];

impl Group {
    /// All peers that do the work of `workload`.
    fn of(workload: Workload, detail: &str, work: Work, placement: Placement, unit: Unit) -> Self {
        let mut peers: Vec<_> = peers::all().filter(|peer| peer.play(workload).is_some()).collect();
        // The others stay in order.
        peers.sort_by_key(|peer| peer.name != yardstick(workload));
        Self {
            workload,
            by: workload,
            detail: detail.to_owned(),
            work,
            placement,
            peers,
            unit,
            longer: match work {
                Work::RoundTrips { parked: true } | Work::BusyRoundTrips | Work::Naps => 2,
                Work::Crowd { .. } => 2,
                Work::Paced { .. } => 4,
                _ => 1,
            },
            together: work == Work::Idle,
        }
    }

    /// A size of a series: few peers, by the calls that they have for `by`.
    fn growing(by: Workload, detail: &str, work: Work, placement: Placement, unit: Unit) -> Self {
        let mut group =
            Self { workload: Workload::Growth, ..Self::of(by, detail, work, placement, unit) };
        group.peers.retain(|peer| GROWING.contains(&peer.name));
        group
    }
}

/// Messages a second at which the times of messages are taken.
pub(crate) const PACE: u64 = 100_000;

/// As many messages as make 16 MiB, at most what all others have.
fn capacity(len: usize) -> usize {
    ((16 << 20) / len).min(crate::CAPACITY)
}

pub(crate) fn groups(quick: bool) -> Vec<Group> {
    use Placement::{Apart, Free, Shared, Together};
    use Workload::*;
    let mut all = Vec::new();
    let mut group = |workload, detail: &str, work, placement, unit| {
        all.push(Group::of(workload, detail, work, placement, unit));
    };
    let everywhere: &[Placement] = if quick { &[Apart] } else { &[Apart, Together, Free] };
    for place in everywhere {
        group(Oneway, "", Work::Stream, *place, Unit::Rate);
    }
    group(Batch, "64 a call", Work::Batch, Apart, Unit::Rate);
    for place in everywhere {
        group(Roundtrip, "", Work::RoundTrips { parked: false }, *place, Unit::Nanos);
    }
    let asleep = Work::RoundTrips { parked: true };
    for workload in [Parked, Strategy] {
        for place in [Apart, Together] {
            group(workload, "", asleep, place, Unit::Nanos);
        }
    }
    group(Strategy, "two pairs", Work::BusyRoundTrips, Shared, Unit::Nanos);
    group(Naps, "", Work::Naps, Apart, Unit::Calls);
    for each in [2, 4] {
        let name = format!("{each}+{each}");
        group(Crowd, &name, Work::Crowd { each }, Shared, Unit::Rate);
        let name = format!("{each}+{each}, p99.9 at {} k/s", PACE / 1000);
        group(Crowd, &name, Work::Paced { each, rate: PACE }, Shared, Unit::Nanos);
    }
    group(Tokio, "", Work::Tasks, Free, Unit::Rate);
    for (name, len) in [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let work = Work::Bytes { capacity: capacity(len), len };
        group(Copy, name, work, Apart, Unit::Bandwidth);
        group(Inplace, name, work, Apart, Unit::Nanos);
    }
    group(Waiters, "10,000", Work::Waiters { tasks: 10_000 }, Apart, Unit::Micros);
    group(Idle, "", Work::Idle, Free, Unit::Percent);
    let some = |all: &[usize]| -> Vec<usize> {
        // The ends and the middle.
        let few = [all[0], all[all.len() / 2], all[all.len() - 1]];
        if quick { few.to_vec() } else { all.to_vec() }
    };
    let mut growing = |by, detail: String, work, placement, unit| {
        all.push(Group::growing(by, &detail, work, placement, unit));
    };
    for each in some(&[1, 2, 4, 8, 16]) {
        let name = format!("{each}+{each} processes");
        growing(Crowd, name, Work::Crowd { each }, Shared, Unit::Rate);
    }
    for capacity in some(&[16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144]) {
        let name = format!("capacity {capacity}");
        growing(Copy, name, Work::Bytes { capacity, len: 64 }, Apart, Unit::Rate);
    }
    for len in some(&[8, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1 << 20]) {
        let work = Work::Bytes { capacity: capacity(len), len };
        growing(Copy, format!("{len} B"), work, Apart, Unit::Bandwidth);
    }
    for queues in some(&[1, 2, 4, 8, 16, 32, 64]) {
        let name = format!("{queues} queues on one ring");
        growing(Growth, name, Work::Queues { queues }, Apart, Unit::Rate);
    }
    for tasks in some(&[10, 100, 1000, 10_000, 100_000]) {
        growing(Waiters, format!("{tasks} waiters"), Work::Waiters { tasks }, Apart, Unit::Micros);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if no peer does the work of a group, or its yardstick is not the first (each seen failing).
    #[test]
    fn every_group_begins_with_its_yardstick() {
        for group in groups(false) {
            let first = group.peers.first().expect("a peer does the work").name;
            let needs_peers = matches!(group.by, Workload::Inplace | Workload::Waiters);
            if cfg!(feature = "peers") || !needs_peers {
                assert_eq!(first, yardstick(group.by), "{} {}", group.workload, group.detail);
            }
        }
    }
}

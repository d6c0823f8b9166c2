//! What is measured beside what.

use super::spec::Peer::{self, *};
use super::spec::{Placement, Work};

/// Peers that do the same work in the same place. The first is the yardstick of the ratios.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// The row of the goals' table that it is for: what `--only` names.
    pub(crate) workload: &'static str,
    /// What distinguishes it from the others of its workload.
    pub(crate) detail: String,
    pub(crate) work: Work,
    pub(crate) placement: Placement,
    pub(crate) peers: Vec<Peer>,
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

pub(crate) const WORKLOADS: [&str; 13] = [
    "oneway",
    "batch",
    "roundtrip",
    "parked",
    "strategy",
    "naps",
    "crowd",
    "tokio",
    "copy",
    "inplace",
    "waiters",
    "idle",
    "growth",
];

/// Queues of one process end here: on two cores, more would measure nothing new.
const SPINNING: [Peer; 19] = [
    PlainRing,
    PlainRingNoFence,
    Parkline,
    ParklineDefault,
    ShaqSpsc,
    ShaqMpmc,
    Iceoryx,
    Cloudtoid,
    IpcChannel,
    SeqPacket,
    Pipe,
    PosixMq,
    ArrayQueue,
    CrossbeamChannel,
    Rtrb,
    Kanal,
    Flume,
    AsyncChannel,
    TokioMpsc,
];

const SLEEPING: [Peer; 18] = [
    Futex,
    ParklineDefault,
    ParklinePark,
    ParklineBlockOn,
    ParklineTokio,
    ShaqMpmc,
    IceoryxEvent,
    Cloudtoid,
    IpcChannel,
    SeqPacket,
    AsyncFd,
    Pipe,
    PosixMq,
    TokioMpsc,
    CrossbeamChannel,
    Kanal,
    Flume,
    AsyncChannel,
];

const CROWDS: [Peer; 12] = [
    PlainRing,
    PlainRingNoFence,
    Parkline,
    ShaqMpmc,
    Cloudtoid,
    SeqPacket,
    Pipe,
    PosixMq,
    ArrayQueue,
    CrossbeamChannel,
    Kanal,
    Flume,
];

/// Messages a second at which the times of messages are taken.
pub(crate) const PACE: u64 = 100_000;

/// As many messages as make 16 MiB, at most what all others have.
fn capacity(len: usize) -> usize {
    ((16 << 20) / len).min(crate::CAPACITY)
}

pub(crate) fn groups(quick: bool) -> Vec<Group> {
    use Placement::{Apart, Free, Shared, Together};
    let mut all = Vec::new();
    let mut group = |workload, detail: &str, work, placement, peers: &[Peer], unit| {
        let built = |peer: &Peer| cfg!(feature = "peers") || !peer.is_optional();
        all.push(Group {
            workload,
            detail: detail.to_owned(),
            work,
            placement,
            peers: peers.iter().copied().filter(built).collect(),
            unit,
            longer: match work {
                Work::RoundTrips { parked: true } | Work::BusyRoundTrips | Work::Naps => 2,
                Work::Crowd { .. } => 2,
                Work::Paced { .. } => 4,
                _ => 1,
            },
            together: work == Work::Idle,
        });
    };
    let everywhere: &[Placement] = if quick { &[Apart] } else { &[Apart, Together, Free] };
    for place in everywhere {
        group("oneway", "", Work::Stream, *place, &SPINNING, Unit::Rate);
    }
    let batches = [
        PlainRing,
        PlainRingNoFence,
        ParklineMany,
        ParklinePacked,
        ShaqSpsc,
        ShaqMpmc,
        Cloudtoid,
        Pipe,
        Rtrb,
        Kanal,
    ];
    group("batch", "64 a call", Work::Batch, Apart, &batches, Unit::Rate);
    for place in everywhere {
        let mut peers = vec![CacheLine];
        peers.extend(SPINNING);
        group("roundtrip", "", Work::RoundTrips { parked: false }, *place, &peers, Unit::Nanos);
    }
    let asleep = Work::RoundTrips { parked: true };
    for place in [Apart, Together] {
        group("parked", "", asleep, place, &SLEEPING, Unit::Nanos);
    }
    let strategies = [ParklinePark, ParklineSpin, ParklineDefault, ShaqMpmc];
    for place in [Apart, Together] {
        group("strategy", "", asleep, place, &strategies, Unit::Nanos);
    }
    group("strategy", "two pairs", Work::BusyRoundTrips, Shared, &strategies, Unit::Nanos);
    let naps = [ParklinePark, ParklineBlockOn, ParklineTokio, Parkline];
    group("naps", "", Work::Naps, Apart, &naps, Unit::Calls);
    for each in [2, 4] {
        let name = format!("{each}+{each}");
        group("crowd", &name, Work::Crowd { each }, Shared, &CROWDS, Unit::Rate);
        let name = format!("{each}+{each}, p99.9 at {} k/s", PACE / 1000);
        group("crowd", &name, Work::Paced { each, rate: PACE }, Shared, &CROWDS, Unit::Nanos);
    }
    let tasks = [TokioMpsc, ParklineTokio, AsyncFd, AsyncChannel, Flume, Kanal];
    group("tokio", "", Work::Tasks, Free, &tasks, Unit::Rate);
    let copies =
        [PlainRing, Memcpy, Parkline, Iceoryx, Cloudtoid, IpcChannel, SeqPacket, Pipe, PosixMq];
    let in_place = [IceoryxInPlace, ParklineInPlace];
    for (name, len) in [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let work = Work::Bytes { capacity: capacity(len), len };
        group("copy", name, work, Apart, &copies, Unit::Bandwidth);
        group("inplace", name, work, Apart, &in_place, Unit::Nanos);
    }
    let waiters = [AsyncChannel, ParklineTokio, Flume, Kanal];
    group("waiters", "10,000", Work::Waiters { tasks: 10_000 }, Apart, &waiters, Unit::Micros);
    let idle = [
        Futex,
        ParklineDefault,
        ParklineBlockOn,
        ParklineTokio,
        ShaqMpmc,
        IceoryxEvent,
        Cloudtoid,
        SeqPacket,
        AsyncFd,
    ];
    group("idle", "", Work::Idle, Free, &idle, Unit::Percent);
    let rings = [PlainRing, Parkline];
    let some = |all: &[usize]| -> Vec<usize> {
        // The ends and the middle.
        let few = [all[0], all[all.len() / 2], all[all.len() - 1]];
        if quick { few.to_vec() } else { all.to_vec() }
    };
    for each in some(&[1, 2, 4, 8, 16]) {
        let name = format!("{each}+{each} processes");
        group("growth", &name, Work::Crowd { each }, Shared, &rings, Unit::Rate);
    }
    for capacity in some(&[16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144]) {
        let name = format!("capacity {capacity}");
        group("growth", &name, Work::Bytes { capacity, len: 64 }, Apart, &rings, Unit::Rate);
    }
    for len in some(&[8, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1 << 20]) {
        let (name, work) = (format!("{len} B"), Work::Bytes { capacity: capacity(len), len });
        group("growth", &name, work, Apart, &rings, Unit::Bandwidth);
    }
    for queues in some(&[1, 2, 4, 8, 16, 32, 64]) {
        let name = format!("{queues} queues on one ring");
        group("growth", &name, Work::Queues { queues }, Apart, &[ParklineTokio], Unit::Rate);
    }
    for tasks in some(&[10, 100, 1000, 10_000, 100_000]) {
        let (name, work) = (format!("{tasks} waiters"), Work::Waiters { tasks });
        group("growth", &name, work, Apart, &[AsyncChannel, ParklineTokio], Unit::Micros);
    }
    all
}

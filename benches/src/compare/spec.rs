//! What one sample is, as it is told to the processes that take it, and what comes out of it.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::machine::{self, Cores};

/// One sample: a kind of work done over one peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) work: Work,
    pub(crate) peer: Peer,
    pub(crate) placement: Placement,
    pub(crate) cores: [usize; 2],
    /// For how long it measures, in milliseconds.
    pub(crate) millis: u64,
    /// For peers that meet by name. No two samples have the same.
    pub(crate) name: String,
}

/// What is done. Times are of 64-byte messages where no length is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Work {
    /// One way, one message a call.
    Stream,
    /// One way, 64 messages a call.
    Batch,
    /// One way between tasks of tokio.
    Tasks,
    /// There and back, one message at a time; by ends that sleep, or that stay awake.
    RoundTrips { parked: bool },
    /// Round trips while a second pair of processes does the same: four on two cores.
    BusyRoundTrips,
    /// One way, each message after the receiver fell asleep.
    Naps,
    /// Senders and receivers of one queue, `each` of both.
    Crowd { each: usize },
    /// The same at a set pace, `rate` messages a second in all: how long each is on its way.
    Paced { each: usize, rate: u64 },
    /// One way, `len` bytes a message, at most `capacity` of them in the queue.
    Bytes { capacity: usize, len: usize },
    /// So many tasks wait at one queue, and each gets a message from elsewhere.
    Waiters { tasks: usize },
    /// A process that waits for a message which does not come.
    Idle,
    /// One way over so many queues in turn, their receivers tasks of one runtime.
    Queues { queues: usize },
}

impl Work {
    /// Messages one by one, by ends that stay awake.
    pub(crate) fn is_awake(self) -> bool {
        matches!(self, Self::Stream | Self::RoundTrips { parked: false })
    }

    /// Messages one by one, by ends that sleep.
    pub(crate) fn is_asleep(self) -> bool {
        matches!(self, Self::RoundTrips { parked: true } | Self::BusyRoundTrips | Self::Idle)
    }

    /// Many senders and many receivers.
    pub(crate) fn is_crowd(self) -> bool {
        matches!(self, Self::Crowd { .. } | Self::Paced { .. })
    }
}

/// Where the ends run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Placement {
    /// Each on a core of its own.
    Apart,
    /// Both on one core.
    Together,
    /// Wherever the kernel puts them.
    Free,
    /// All on the two cores, wherever the kernel puts them there.
    Shared,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Apart => "two cores",
            Self::Together => "same core",
            Self::Free => "unpinned",
            Self::Shared => "two cores, shared",
        })
    }
}

impl Spec {
    pub(crate) fn cores(&self) -> Cores {
        Cores { near: self.cores[0], far: self.cores[1] }
    }

    /// Puts the calling thread where the near end or a far one belongs.
    pub(crate) fn pin(&self, far: bool) -> std::io::Result<()> {
        match self.placement {
            Placement::Apart => machine::pin(self.cores[usize::from(far)]),
            Placement::Together => machine::pin(self.cores[0]),
            Placement::Free => Ok(()),
            Placement::Shared => machine::pin_to(&self.cores),
        }
    }
}

/// Everything that is measured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
pub(crate) enum Peer {
    PlainRing,
    PlainRingNoFence,
    CacheLine,
    Futex,
    Memcpy,
    Parkline,
    ParklineMany,
    ParklinePacked,
    ParklineSpin,
    ParklinePark,
    ParklineDefault,
    ParklineBlockOn,
    ParklineTokio,
    ParklineInPlace,
    SeqPacket,
    Pipe,
    AsyncFd,
    ArrayQueue,
    TokioMpsc,
    ShaqSpsc,
    ShaqMpmc,
    Iceoryx,
    IceoryxInPlace,
    IceoryxEvent,
    IpcChannel,
    Cloudtoid,
    PosixMq,
    CrossbeamChannel,
    Rtrb,
    Kanal,
    Flume,
    AsyncChannel,
}

impl Peer {
    /// What tables and plots call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PlainRing => "plain Vyukov ring",
            Self::PlainRingNoFence => "plain Vyukov ring, no wake fence",
            Self::CacheLine => "raw cache line",
            Self::Futex => "raw futex",
            Self::Memcpy => "memcpy in and out, one thread",
            Self::Parkline => "parkline, try calls",
            Self::ParklineMany => "parkline, send_many/recv_many",
            Self::ParklinePacked => "parkline, send_packed/recv",
            Self::ParklineSpin => "parkline, always spin",
            Self::ParklinePark => "parkline, blocking calls, always park",
            Self::ParklineDefault => "parkline, blocking calls",
            Self::ParklineBlockOn => "parkline, block_on, always park",
            Self::ParklineTokio => "parkline, tokio",
            Self::ParklineInPlace => "parkline, reserve and lease",
            Self::SeqPacket => "Unix SEQPACKET",
            Self::Pipe => "pipe",
            Self::AsyncFd => "SEQPACKET over AsyncFd",
            Self::ArrayQueue => "ArrayQueue [threads]",
            Self::TokioMpsc => "tokio mpsc [threads]",
            Self::ShaqSpsc => "shaq SPSC",
            Self::ShaqMpmc => "shaq MPMC",
            Self::Iceoryx => "iceoryx2",
            Self::IceoryxInPlace => "iceoryx2, loan",
            Self::IceoryxEvent => "iceoryx2 event",
            Self::IpcChannel => "ipc-channel",
            Self::Cloudtoid => "cloudtoid-interprocess",
            Self::PosixMq => "POSIX mq",
            Self::CrossbeamChannel => "crossbeam channel [threads]",
            Self::Rtrb => "rtrb [threads]",
            Self::Kanal => "kanal [threads]",
            Self::Flume => "flume [threads]",
            Self::AsyncChannel => "async-channel [threads]",
        }
    }

    /// Whether it needs the feature `peers`.
    pub(crate) fn is_optional(self) -> bool {
        self >= Self::ShaqSpsc
    }
}

/// What a sample found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// In the unit of its workload.
    pub(crate) value: f64,
    /// What else was counted, by name.
    pub(crate) extras: BTreeMap<String, f64>,
    /// A histogram: nanoseconds, and how often.
    pub(crate) times: Vec<(u64, u64)>,
    /// Nanoseconds that a cache line takes from core to core and back, before and after.
    pub(crate) probe: [f64; 2],
}

//! What one sample is, as it is told to the processes that take it, and what comes out of it.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::machine::{self, Cores};
use crate::{CAPACITY, Message};

/// One sample: a kind of work, done over one peer by those calls that it has for a workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) work: Work,
    pub(crate) workload: Workload,
    /// Its name.
    pub(crate) peer: String,
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

/// What `--only` names, and what a peer does or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub(crate) enum Workload {
    Oneway,
    Batch,
    Roundtrip,
    Parked,
    Strategy,
    Naps,
    Crowd,
    Tokio,
    Copy,
    Inplace,
    Waiters,
    Idle,
    Growth,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}

/// The shape of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) capacity: usize,
    /// Bytes in each message.
    pub(crate) len: usize,
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

    /// The shape of each queue.
    pub(crate) fn shape(&self) -> Shape {
        match self.work {
            Work::Bytes { capacity, len } => Shape { capacity, len },
            _ => Shape { capacity: CAPACITY, len: size_of::<Message>() },
        }
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

impl Outcome {
    pub(crate) fn of(value: f64) -> Self {
        Self { value, ..Self::default() }
    }
}

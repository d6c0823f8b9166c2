//! A peer: what is measured, and which work it does by which of its calls.

use anyhow::Result;

use super::process::Part;
use super::spec::{Outcome, Workload};

/// Plays the part of one process in a sample.
pub(crate) type Play = fn(Part) -> Result<Outcome>;

/// A row of the tables.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What tables and plots call it. No two peers have the same.
    pub(crate) name: &'static str,
    /// The run names the version of this package: the peer's own, or that of its system calls.
    pub(crate) package: &'static str,
    pub(crate) does: &'static [(&'static [Workload], Play)],
}

impl Peer {
    /// How it does the work of `workload`; `None` if it does not.
    pub(crate) fn play(&self, workload: Workload) -> Option<Play> {
        let does = self.does.iter().find(|(workloads, _)| workloads.contains(&workload));
        does.map(|(_, play)| *play)
    }
}

/// The peers that are a yardstick or that a goal is about.
pub(crate) mod names {
    pub(crate) const ALWAYS_PARK: &str = "parkline, blocking calls, always park";
    pub(crate) const ALWAYS_SPIN: &str = "parkline, always spin";
    pub(crate) const ASYNC_CHANNEL: &str = "async-channel [threads]";
    pub(crate) const CACHE_LINE: &str = "raw cache line";
    pub(crate) const FUTEX: &str = "raw futex";
    pub(crate) const ICEORYX: &str = "iceoryx2";
    pub(crate) const ICEORYX_LOAN: &str = "iceoryx2, loan";
    pub(crate) const PARKLINE: &str = "parkline, try calls";
    pub(crate) const PARKLINE_BLOCKING: &str = "parkline, blocking calls";
    pub(crate) const PARKLINE_BLOCK_ON: &str = "parkline, block_on, always park";
    pub(crate) const PARKLINE_IN_PLACE: &str = "parkline, reserve and lease";
    pub(crate) const PARKLINE_MANY: &str = "parkline, send_many/recv_many";
    pub(crate) const PARKLINE_PACKS: &str = "parkline, send_packed/recv";
    pub(crate) const PARKLINE_TOKIO: &str = "parkline, tokio";
    pub(crate) const PLAIN_RING: &str = "plain Vyukov ring";
    pub(crate) const PLAIN_RING_NO_FENCE: &str = "plain Vyukov ring, no wake fence";
    pub(crate) const TOKIO_MPSC: &str = "tokio mpsc [threads]";
}

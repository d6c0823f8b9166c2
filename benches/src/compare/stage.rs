//! One sample: a process that makes the queue, starts the far ends in processes of their own, and
//! measures. Each sample has a new process, in a process group of its own, so that the process that
//! started it can end all of it when it hangs.

use std::io::stdin;
use std::os::fd::AsFd;

use anyhow::Result;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::control::Control;
use super::link::Link;
#[cfg(feature = "peers")]
use super::peers::{cloudtoid, iceoryx, ipc_channel, posix_mq, shaq};
use super::peers::{parkline, raw, sockets, tasks, threads};
use super::probe::probe;
use super::process::{Far, Part};
use super::spec::{Outcome, Peer, Spec};

/// Takes the sample.
pub(crate) fn near(spec: &str) -> Result<Outcome> {
    let spec: Spec = serde_json::from_str(spec)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let before = probe(spec.cores())?;
    let mut outcome = play(Part::Near(spec.clone()))?;
    outcome.probe = [before, probe(spec.cores())?];
    #[cfg(feature = "peers")]
    if spec.peer == Peer::PosixMq {
        posix_mq::clean(&spec.name);
    }
    Ok(outcome)
}

/// Plays the far end until it is told to end.
pub(crate) fn far(spec: &str, index: usize) -> Result<()> {
    let spec: Spec = serde_json::from_str(spec)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (control, link) = Link::recv(stdin().as_fd())?;
    let control = Control::open(&control)?;
    play(Part::Far(spec, Far { index, control, link }))?;
    Ok(())
}

/// The file of the peer knows which work the peer does, and how.
fn play(part: Part) -> Result<Outcome> {
    match part.spec().peer {
        Peer::PlainRing | Peer::PlainRingNoFence | Peer::CacheLine | Peer::Futex | Peer::Memcpy => {
            raw::play(part)
        }
        Peer::Parkline
        | Peer::ParklineMany
        | Peer::ParklinePacked
        | Peer::ParklineSpin
        | Peer::ParklinePark
        | Peer::ParklineDefault
        | Peer::ParklineBlockOn
        | Peer::ParklineInPlace => parkline::play(part),
        Peer::ParklineTokio => tasks::play(part),
        Peer::SeqPacket | Peer::Pipe | Peer::AsyncFd => sockets::play(part),
        Peer::ArrayQueue | Peer::TokioMpsc => threads::play(part),
        #[cfg(feature = "peers")]
        Peer::CrossbeamChannel | Peer::Rtrb | Peer::Kanal | Peer::Flume | Peer::AsyncChannel => {
            threads::play_optional(part)
        }
        #[cfg(feature = "peers")]
        Peer::ShaqSpsc | Peer::ShaqMpmc => shaq::play(part),
        #[cfg(feature = "peers")]
        Peer::Iceoryx | Peer::IceoryxInPlace | Peer::IceoryxEvent => iceoryx::play(part),
        #[cfg(feature = "peers")]
        Peer::IpcChannel => ipc_channel::play(part),
        #[cfg(feature = "peers")]
        Peer::Cloudtoid => cloudtoid::play(part),
        #[cfg(feature = "peers")]
        Peer::PosixMq => posix_mq::play(part),
        #[cfg(not(feature = "peers"))]
        _ => part.refuse(),
    }
}

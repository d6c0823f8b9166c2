//! What is measured, each at its best settings: queues between processes ([`Process`]) and, where
//! one process is all there is, between threads ([`Threads`]). All of them carry 64-byte messages
//! as an [`End`]; batches are [`Many`], other lengths [`Bytes`].

#[cfg(feature = "peers")]
pub(crate) mod cloudtoid;
#[cfg(feature = "peers")]
pub(crate) mod iceoryx;
#[cfg(feature = "peers")]
pub(crate) mod ipc_channel;
pub(crate) mod parkline;
#[cfg(feature = "peers")]
pub(crate) mod posix_mq;
pub(crate) mod raw;
#[cfg(feature = "peers")]
pub(crate) mod shaq;
pub(crate) mod sockets;
pub(crate) mod tasks;
pub(crate) mod threads;

use std::os::fd::OwnedFd;

use anyhow::{Result, anyhow};

use super::link::Link;
use super::spec::Spec;
use crate::{Between, End, Message};

/// Ends in different processes. The near ends send what the far ones receive, and the reverse.
pub(crate) trait Process: End + Sized {
    /// What both ends are opened from.
    fn create(spec: &Spec) -> Result<Link>;
    /// An end; for some peers one of many on its side. The near one opens when the far ones were
    /// started.
    fn open(link: &mut Link, near: bool) -> Result<Self>;
}

/// Ends in one process.
pub(crate) trait Threads: End + Sized + Send + 'static {
    fn pair() -> (Self, Self);
}

/// An end that takes many messages a call.
pub(crate) trait Many {
    fn send_many(&mut self, messages: &[Message]);
    /// Appends at least one and at most [`BATCH`].
    fn recv_many(&mut self, into: &mut Vec<Message>);
}

/// Messages in a batch.
pub(crate) const BATCH: usize = 64;

/// The shape of a queue of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) capacity: usize,
    /// Bytes in each message.
    pub(crate) len: usize,
}

/// An end for messages of one length between processes.
pub(crate) trait Bytes: Sized {
    fn create(spec: &Spec, shape: Shape) -> Result<Link>;
    fn open(link: &mut Link, shape: Shape, near: bool) -> Result<Self>;
    /// Sends `bytes`; in place, only the first eight are written.
    fn send(&mut self, bytes: &[u8]) -> Result<()>;
    /// Receives into `bytes`; in place, only the first eight are read.
    fn recv(&mut self, bytes: &mut [u8]) -> Result<()>;
}

/// Those of the memfds, two of them.
impl<E: Between> Process for E {
    fn create(_: &Spec) -> Result<Link> {
        let fd = || E::create().map_err(|error| anyhow!("{error}"));
        Ok(Link::fds([fd()?, fd()?]))
    }

    fn open(link: &mut Link, near: bool) -> Result<Self> {
        let [there, back] = two(link, near)?;
        E::open(there, back).map_err(|error| anyhow!("{error}"))
    }
}

/// The two descriptors of a link, the one to send over first.
pub(crate) fn two(link: &Link, near: bool) -> Result<[OwnedFd; 2]> {
    let [there, back] = &link.fds[..] else {
        return Err(anyhow!("{} descriptors came, not two", link.fds.len()));
    };
    let (there, back) = (there.try_clone()?, back.try_clone()?);
    Ok(if near { [there, back] } else { [back, there] })
}

/// Tries until it succeeds: eagerly at first, then lets others run. The same for all who try.
pub(crate) fn retry<R>(mut attempt: impl FnMut() -> Option<R>) -> R {
    let mut tries = 0;
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        tries += 1;
        if tries < 256 {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

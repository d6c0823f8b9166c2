//! What is measured, each at its best settings: queues between processes ([`Process`]), and queues of one
//! process between threads ([`Threads`]). All of them carry 64-byte messages as an [`End`]; batches are
//! [`Many`], other lengths [`Bytes`], tasks that await [`Task`]. Each file has a `play`: which work its
//! peers do, and by which of their calls.

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
use tokio::runtime::{Builder, Runtime};

use super::link::Link;
use super::spec::{Spec, Work};
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

/// An end that is awaited.
pub(crate) trait Task: Send + Sized + 'static {
    fn send(&mut self, message: &Message) -> impl Future<Output = ()> + Send;
    fn recv(&mut self) -> impl Future<Output = Message> + Send;
}

/// A task with its other end in another process.
pub(crate) trait FarTask: Task {
    fn create() -> Result<Link>;
    /// Called within a runtime.
    fn open(link: &Link, near: bool) -> Result<Self>;
}

/// A task with its other end in this process.
pub(crate) trait NearTask: Task {
    fn pair() -> (Self, Self);
}

pub(crate) fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// The shape of a queue of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) capacity: usize,
    /// Bytes in each message.
    pub(crate) len: usize,
}

impl Shape {
    /// `None` for work that is not of bytes.
    pub(crate) fn of(spec: &Spec) -> Option<Self> {
        let Work::Bytes { capacity, len } = spec.work else { return None };
        Some(Self { capacity, len })
    }
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

/// Queues in two memfds, one for each direction.
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

/// Attempts until one succeeds: without a pause at first, then it yields the core. All peers that have
/// calls without waiting use this.
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

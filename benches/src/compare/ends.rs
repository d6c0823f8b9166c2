//! The ends of queues: the peers implement these traits, and the kinds of work use them.

use std::os::fd::OwnedFd;

use anyhow::{Result, anyhow};
use tokio::runtime::{Builder, Runtime};

use super::link::Link;
use super::spec::Spec;
use crate::Message;

/// Word 0 tells the far end what to do.
pub(crate) const PLAIN: Message = [0; 8];
/// The far end answers it.
pub(crate) const ASK: Message = [1; 8];
/// It is the last message.
pub(crate) const END: Message = [2; 8];

/// Messages in a batch.
pub(crate) const BATCH: usize = 64;

/// An end that takes one message a call.
pub(crate) trait End {
    /// Sends, waiting in its own way while there is no room.
    fn send(&mut self, message: &Message);
    /// Receives, waiting in its own way while there is nothing.
    fn recv(&mut self) -> Message;
}

/// An end that takes many messages a call.
pub(crate) trait Many: End {
    fn send_many(&mut self, messages: &[Message]);
    /// Appends at least one and at most [`BATCH`].
    fn recv_many(&mut self, into: &mut Vec<Message>);
}

/// An end that is awaited.
pub(crate) trait Task: Send + Sized + 'static {
    fn send(&mut self, message: &Message) -> impl Future<Output = ()> + Send;
    fn recv(&mut self) -> impl Future<Output = Message> + Send;
}

/// An end for messages of one length, that of [`Spec::shape`].
pub(crate) trait Bytes {
    /// Sends `bytes`; in place, only the first eight are written.
    fn send(&mut self, bytes: &[u8]) -> Result<()>;
    /// Receives into `bytes`; in place, only the first eight are read.
    fn recv(&mut self, bytes: &mut [u8]) -> Result<()>;
}

/// Ends in different processes. The near ends send what the far ones receive, and the reverse.
pub(crate) trait Process: Sized {
    /// What both ends are opened from. Peers that meet by the name of the sample need nothing.
    fn create(_: &Spec) -> Result<Link> {
        Ok(Link::default())
    }

    /// An end; for some peers one of many on its side. The near one opens when the far ones were
    /// started.
    fn open(link: &mut Link, spec: &Spec, near: bool) -> Result<Self>;
}

/// Ends in different processes, over a memfd for each direction.
pub(crate) trait Memfds: Sized {
    /// One direction.
    fn memfd(spec: &Spec) -> Result<OwnedFd>;
    /// The end that sends `there` and receives what comes `back`.
    fn over(there: OwnedFd, back: OwnedFd, spec: &Spec) -> Result<Self>;
}

impl<E: Memfds> Process for E {
    fn create(spec: &Spec) -> Result<Link> {
        Ok(Link::fds([E::memfd(spec)?, E::memfd(spec)?]))
    }

    fn open(link: &mut Link, spec: &Spec, near: bool) -> Result<Self> {
        let [there, back] = &link.fds[..] else {
            return Err(anyhow!("{} descriptors came, not two", link.fds.len()));
        };
        let (there, back) = (there.try_clone()?, back.try_clone()?);
        if near { E::over(there, back, spec) } else { E::over(back, there, spec) }
    }
}

/// Ends in one process.
pub(crate) trait Threads: Sized + Send + 'static {
    fn pair() -> (Self, Self);
}

/// A thread that calls [`Task`]s one by one.
#[derive(Debug)]
pub(crate) struct OnTokio<T> {
    task: T,
    runtime: Runtime,
}

impl<T: Task + Process> Process for OnTokio<T> {
    fn create(spec: &Spec) -> Result<Link> {
        T::create(spec)
    }

    fn open(link: &mut Link, spec: &Spec, near: bool) -> Result<Self> {
        let runtime = runtime()?;
        let task = runtime.block_on(async { T::open(link, spec, near) })?;
        Ok(Self { task, runtime })
    }
}

impl<T: Task + Threads> Threads for OnTokio<T> {
    fn pair() -> (Self, Self) {
        let (near, far) = T::pair();
        let on = |task| Self { task, runtime: runtime().expect("tokio starts") };
        (on(near), on(far))
    }
}

impl<T: Task> End for OnTokio<T> {
    fn send(&mut self, message: &Message) {
        self.runtime.block_on(self.task.send(message));
    }

    fn recv(&mut self) -> Message {
        self.runtime.block_on(self.task.recv())
    }
}

pub(crate) fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
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

//! shaq: its queue of one sender and one receiver, and that of many. They can only try, or wait a
//! while.
#![expect(unsafe_code, reason = "shaq has its callers vouch for the file and its other users")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use shaq::{mpmc, spsc};

use super::super::process::Part;
use super::super::spec::{Outcome, Peer, Work};
use super::super::{crowd, pairs};
use super::{BATCH, Many, retry};
use crate::{Between, CAPACITY, End, Error, Message};

/// Plays a part of a peer of this file.
pub(crate) fn play(part: Part) -> anyhow::Result<Outcome> {
    match part.peer_and_work() {
        (Peer::ShaqSpsc, work) if work.is_awake() => pairs::processes::<Spsc>(part),
        (Peer::ShaqSpsc, Work::Batch) => pairs::many_between::<Spsc>(part),
        (Peer::ShaqMpmc, work) if work.is_awake() => pairs::processes::<Mpmc>(part),
        (Peer::ShaqMpmc, work) if work.is_asleep() => pairs::processes::<MpmcWaiting>(part),
        (Peer::ShaqMpmc, Work::Batch) => pairs::many_between::<Mpmc>(part),
        (Peer::ShaqMpmc, work) if work.is_crowd() => crowd::processes::<Mpmc>(part),
        _ => part.refuse(),
    }
}

pub(crate) struct Spsc {
    there: spsc::Producer<Message>,
    back: spsc::Consumer<Message>,
}

pub(crate) struct Mpmc {
    there: mpmc::Producer<Message>,
    back: mpmc::Consumer<Message>,
}

const LIMIT: NonZeroUsize = NonZeroUsize::new(BATCH).unwrap();

fn file() -> Result<File, Error> {
    Ok(rustix::fs::memfd_create("shaq", MemfdFlags::CLOEXEC)?.into())
}

impl Between for Spsc {
    const NAME: &str = "shaq SPSC";

    fn create() -> Result<OwnedFd, Error> {
        let file = file()?;
        let size = spsc::minimum_file_size::<Message>(CAPACITY);
        // SAFETY: no other process has the file yet.
        drop(unsafe { spsc::Producer::<Message>::create(&file, size) }.map_err(fault)?);
        Ok(file.into())
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
        // SAFETY: the only producer of a queue made by `create`: each has two ends.
        let there = unsafe { spsc::Producer::join(&there.into()) }.map_err(fault)?;
        // SAFETY: the only consumer, likewise.
        let back = unsafe { spsc::Consumer::join(&back.into()) }.map_err(fault)?;
        Ok(Self { there, back })
    }
}

impl End for Spsc {
    fn send(&mut self, message: &Message) {
        retry(|| self.there.try_write(*message).ok());
    }

    fn recv(&mut self) -> Message {
        retry(|| self.back.try_read())
    }
}

impl Many for Spsc {
    fn send_many(&mut self, messages: &[Message]) {
        let mut rest = messages.iter();
        while !rest.as_slice().is_empty() {
            let mut batch = self.there.write_batch();
            while let Some(message) = rest.as_slice().first() {
                if batch.try_write(*message).is_err() {
                    break;
                }
                rest.next();
            }
        }
    }

    fn recv_many(&mut self, into: &mut Vec<Message>) {
        retry(|| {
            let batch = self.back.try_reserve_read_batch(LIMIT)?;
            let (front, back) = batch.as_slices();
            into.extend_from_slice(front);
            into.extend_from_slice(back);
            Some(())
        });
    }
}

impl Between for Mpmc {
    const NAME: &str = "shaq MPMC";

    fn create() -> Result<OwnedFd, Error> {
        let file = file()?;
        let size = mpmc::minimum_file_size::<Message>(CAPACITY);
        // SAFETY: no other process has the file yet.
        drop(unsafe { mpmc::Producer::<Message>::create(&file, size) }.map_err(fault)?);
        Ok(file.into())
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
        // SAFETY: the queue was made by `create`, for the same type.
        let there = unsafe { mpmc::Producer::join(&there.into()) }.map_err(fault)?;
        // SAFETY: the queue was made by `create`, for the same type.
        let back = unsafe { mpmc::Consumer::join(&back.into()) }.map_err(fault)?;
        Ok(Self { there, back })
    }
}

impl End for Mpmc {
    fn send(&mut self, message: &Message) {
        retry(|| self.there.try_write(*message).ok());
    }

    fn recv(&mut self) -> Message {
        retry(|| self.back.try_read())
    }
}

impl Many for Mpmc {
    fn send_many(&mut self, messages: &[Message]) {
        retry(|| self.there.try_write_slice(messages).then_some(()));
    }

    fn recv_many(&mut self, into: &mut Vec<Message>) {
        retry(|| {
            let batch = self.back.try_reserve_read_batch(LIMIT)?;
            let (front, back) = batch.as_slices();
            into.extend_from_slice(front);
            into.extend_from_slice(back);
            Some(())
        });
    }
}

fn fault(error: impl std::fmt::Debug) -> Error {
    format!("shaq: {error:?}").into()
}

/// The same by its calls that wait, for a while each.
pub(crate) struct MpmcWaiting(Mpmc);

impl Between for MpmcWaiting {
    const NAME: &str = "shaq MPMC, waiting";

    fn create() -> Result<OwnedFd, Error> {
        Mpmc::create()
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
        Ok(Self(Mpmc::open(there, back)?))
    }
}

impl End for MpmcWaiting {
    fn send(&mut self, message: &Message) {
        self.0.send(message);
    }

    fn recv(&mut self) -> Message {
        loop {
            // An error means that the time is over.
            if let Ok(message) = self.0.back.read_timeout(Duration::from_secs(1)) {
                return message;
            }
        }
    }
}

//! shaq: its queue of one sender and one receiver, and that of many. They can only try, or wait a
//! while.
#![expect(unsafe_code, reason = "shaq has its callers vouch for the file and its other users")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Result, anyhow};
use rustix::fs::MemfdFlags;
use shaq::{mpmc, spsc};

use super::super::ends::{BATCH, End, Many, Memfds, retry};
use super::super::peer::Peer;
use super::super::spec::Spec;
use super::super::spec::Workload::{Batch, Crowd, Idle, Oneway, Parked, Roundtrip, Strategy};
use super::super::{crowd, pairs};
use crate::{CAPACITY, Message};

pub(crate) const PEERS: &[Peer] = &[
    Peer {
        name: "shaq SPSC",
        package: "shaq",
        does: &[
            (&[Oneway, Roundtrip], pairs::processes::<Spsc>),
            (&[Batch], pairs::many_between::<Spsc>),
        ],
    },
    Peer {
        name: "shaq MPMC",
        package: "shaq",
        does: &[
            (&[Oneway, Roundtrip], pairs::processes::<Mpmc>),
            (&[Parked, Strategy, Idle], pairs::processes::<MpmcWaiting>),
            (&[Batch], pairs::many_between::<Mpmc>),
            (&[Crowd], crowd::processes::<Mpmc>),
        ],
    },
];

struct Spsc {
    there: spsc::Producer<Message>,
    back: spsc::Consumer<Message>,
}

struct Mpmc {
    there: mpmc::Producer<Message>,
    back: mpmc::Consumer<Message>,
}

const LIMIT: NonZeroUsize = NonZeroUsize::new(BATCH).unwrap();

fn file() -> Result<File> {
    Ok(rustix::fs::memfd_create("shaq", MemfdFlags::CLOEXEC)?.into())
}

impl Memfds for Spsc {
    fn memfd(_: &Spec) -> Result<OwnedFd> {
        let file = file()?;
        let size = spsc::minimum_file_size::<Message>(CAPACITY);
        // SAFETY: no other process has the file yet.
        drop(unsafe { spsc::Producer::<Message>::create(&file, size) }.map_err(fault)?);
        Ok(file.into())
    }

    fn over(there: OwnedFd, back: OwnedFd, _: &Spec) -> Result<Self> {
        // SAFETY: the only producer of a queue made by `memfd`: each has two ends.
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

impl Memfds for Mpmc {
    fn memfd(_: &Spec) -> Result<OwnedFd> {
        let file = file()?;
        let size = mpmc::minimum_file_size::<Message>(CAPACITY);
        // SAFETY: no other process has the file yet.
        drop(unsafe { mpmc::Producer::<Message>::create(&file, size) }.map_err(fault)?);
        Ok(file.into())
    }

    fn over(there: OwnedFd, back: OwnedFd, _: &Spec) -> Result<Self> {
        // SAFETY: the queue was made by `memfd`, for the same type.
        let there = unsafe { mpmc::Producer::join(&there.into()) }.map_err(fault)?;
        // SAFETY: the queue was made by `memfd`, for the same type.
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

fn fault(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("shaq: {error:?}")
}

/// The same by its calls that wait, for a while each.
struct MpmcWaiting(Mpmc);

impl Memfds for MpmcWaiting {
    fn memfd(spec: &Spec) -> Result<OwnedFd> {
        Mpmc::memfd(spec)
    }

    fn over(there: OwnedFd, back: OwnedFd, spec: &Spec) -> Result<Self> {
        Ok(Self(Mpmc::over(there, back, spec)?))
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

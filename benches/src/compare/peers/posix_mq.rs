//! POSIX message queues, as deep as the system allows.

use anyhow::Result;
use posixmq::{OpenOptions, PosixMq, remove_queue};
use zerocopy::{FromZeros, IntoBytes};

use super::super::link::Link;
use super::super::process::Part;
use super::super::spec::{Outcome, Peer, Spec, Work};
use super::super::{crowd, pairs};
use super::{Bytes, Process, Shape};
use crate::{End, Message};

/// Plays a part of a peer of this file.
pub(crate) fn play(part: Part) -> Result<Outcome> {
    match part.peer_and_work() {
        (Peer::PosixMq, work) if work.is_awake() || work.is_asleep() => {
            pairs::processes::<Mq>(part)
        }
        (Peer::PosixMq, work) if work.is_crowd() => crowd::processes::<Mq>(part),
        (Peer::PosixMq, Work::Bytes { .. }) => pairs::bytes_between::<Mq>(part),
        _ => part.refuse(),
    }
}

#[derive(Debug)]
pub(crate) struct Mq {
    there: PosixMq,
    back: PosixMq,
}

/// Opens both. A privileged process may have as many messages as the other peers; other processes get
/// `fs.mqueue.msg_max`, which is 10 by default.
fn open(name: &str, near: bool, len: usize) -> Result<Mq> {
    let one = |way: &str| {
        let name = format!("/{name}-{way}");
        let opened = |capacity| {
            let mut options = OpenOptions::readwrite();
            options.create().mode(0o600).max_msg_len(len).capacity(capacity).open(&name)
        };
        opened(if len == 64 { 1024 } else { 16 }).or_else(|_| opened(10))
    };
    let (there, back) = if near { ("there", "back") } else { ("back", "there") };
    Ok(Mq { there: one(there)?, back: one(back)? })
}

/// Removes the names.
pub(crate) fn clean(name: &str) {
    for way in ["there", "back"] {
        // An error means that there is none.
        let _ = remove_queue(&format!("/{name}-{way}"));
    }
}

impl Process for Mq {
    fn create(spec: &Spec) -> Result<Link> {
        open(&spec.name, true, size_of::<Message>())?;
        Ok(Link::named(&spec.name))
    }

    fn open(link: &mut Link, near: bool) -> Result<Self> {
        open(&link.name, near, size_of::<Message>())
    }
}

impl End for Mq {
    fn send(&mut self, message: &Message) {
        self.there.send(0, message.as_bytes()).expect("the queue lives");
    }

    fn recv(&mut self) -> Message {
        let mut message = Message::new_zeroed();
        self.back.recv(message.as_mut_bytes()).expect("the queue lives");
        message
    }
}

impl Bytes for Mq {
    fn create(spec: &Spec, shape: Shape) -> Result<Link> {
        open(&spec.name, true, shape.len)?;
        Ok(Link::named(&spec.name))
    }

    fn open(link: &mut Link, shape: Shape, near: bool) -> Result<Self> {
        open(&link.name, near, shape.len)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.there.send(0, bytes)?)
    }

    fn recv(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.back.recv(bytes)?;
        Ok(())
    }
}

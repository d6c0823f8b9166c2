//! POSIX message queues, as deep as the system allows.

use anyhow::Result;
use posixmq::{OpenOptions, PosixMq, remove_queue};
use zerocopy::{FromZeros, IntoBytes};

use super::super::ends::{Bytes, End, Process};
use super::super::link::Link;
use super::super::peer::Peer;
use super::super::spec::Spec;
use super::super::spec::Workload::{Copy, Crowd, Oneway, Parked, Roundtrip};
use super::super::{crowd, pairs};
use crate::Message;

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: "POSIX mq",
    package: "posixmq",
    does: &[
        (&[Oneway, Roundtrip, Parked], pairs::processes::<Mq>),
        (&[Crowd], crowd::processes::<Mq>),
        (&[Copy], pairs::bytes_between::<Mq>),
    ],
}];

#[derive(Debug)]
struct Mq {
    there: PosixMq,
    back: PosixMq,
}

/// The names of the two directions.
fn names(spec: &Spec) -> [String; 2] {
    ["there", "back"].map(|way| format!("/{}-{way}", spec.name))
}

/// Removes the names when the near process has measured.
struct Named([String; 2]);

impl Drop for Named {
    fn drop(&mut self) {
        for name in &self.0 {
            // An error means that there is none.
            let _ = remove_queue(name);
        }
    }
}

/// A privileged process may have as many messages as the other peers; other processes get
/// `fs.mqueue.msg_max`, which is 10 by default.
fn open(name: &str, len: usize) -> Result<PosixMq> {
    let opened = |capacity| {
        let mut options = OpenOptions::readwrite();
        options.create().mode(0o600).max_msg_len(len).capacity(capacity).open(name)
    };
    Ok(opened(if len == 64 { 1024 } else { 16 }).or_else(|_| opened(10))?)
}

impl Process for Mq {
    fn create(spec: &Spec) -> Result<Link> {
        let named = Named(names(spec));
        for name in &named.0 {
            open(name, spec.shape().len)?;
        }
        Ok(Link { kept: Some(Box::new(named)), ..Link::default() })
    }

    fn open(_: &mut Link, spec: &Spec, near: bool) -> Result<Self> {
        let [there, back] = names(spec).map(|name| open(&name, spec.shape().len));
        let (there, back) = (there?, back?);
        Ok(if near { Self { there, back } } else { Self { there: back, back: there } })
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
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.there.send(0, bytes)?)
    }

    fn recv(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.back.recv(bytes)?;
        Ok(())
    }
}

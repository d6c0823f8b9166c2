//! cloudtoid-interprocess, in the memory file system.

use anyhow::Result;
use cloudtoid_interprocess::{Options, Publisher, Subscriber};
use zerocopy::{FromBytes, IntoBytes};

use super::super::link::Link;
use super::super::process::Part;
use super::super::spec::{Outcome, Peer, Spec, Work};
use super::super::{crowd, pairs};
use super::{BATCH, Bytes, Many, Process, Shape, retry};
use crate::{CAPACITY, End, Message};

/// Plays a part of a peer of this file.
pub(crate) fn play(part: Part) -> Result<Outcome> {
    match part.peer_and_work() {
        (Peer::Cloudtoid, work) if work.is_awake() => pairs::processes::<Cloudtoid>(part),
        (Peer::Cloudtoid, work) if work.is_asleep() => pairs::processes::<Waiting>(part),
        (Peer::Cloudtoid, Work::Batch) => pairs::many_between::<Cloudtoid>(part),
        (Peer::Cloudtoid, work) if work.is_crowd() => crowd::processes::<Cloudtoid>(part),
        (Peer::Cloudtoid, Work::Bytes { .. }) => pairs::bytes_between::<Cloudtoid>(part),
        _ => part.refuse(),
    }
}

pub(crate) struct Cloudtoid {
    there: Publisher,
    back: Subscriber,
}

/// What it writes before a message.
const HEADER: usize = 16;

fn open(link: &Link, near: bool, room: usize) -> Result<Cloudtoid> {
    let one = |way: &str| Options::new(format!("{}-{way}", link.name), room).with_path("/dev/shm");
    let (there, back) = if near { ("there", "back") } else { ("back", "there") };
    Ok(Cloudtoid { there: Publisher::open(&one(there))?, back: Subscriber::open(&one(back))? })
}

impl Process for Cloudtoid {
    fn create(spec: &Spec) -> Result<Link> {
        Ok(Link::named(&spec.name))
    }

    fn open(link: &mut Link, near: bool) -> Result<Self> {
        open(link, near, CAPACITY * (size_of::<Message>() + HEADER))
    }
}

impl End for Cloudtoid {
    fn send(&mut self, message: &Message) {
        retry(|| self.there.try_send(message.as_bytes()).ok());
    }

    fn recv(&mut self) -> Message {
        let mut message = [0; 8];
        retry(|| self.back.try_recv_into(message.as_mut_bytes()).ok().flatten());
        message
    }
}

impl Many for Cloudtoid {
    fn send_many(&mut self, messages: &[Message]) {
        let messages: Vec<_> = messages.iter().map(IntoBytes::as_bytes).collect();
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let sent = retry(|| self.there.try_send_batch(rest).ok().filter(|sent| *sent > 0));
            rest = &rest[sent..];
        }
    }

    /// It has no call that takes many.
    fn recv_many(&mut self, into: &mut Vec<Message>) {
        into.push(End::recv(self));
        let mut message = [0; 8];
        let mut next = || self.back.try_recv_into(message.as_mut_bytes()).ok()?.map(|_| message);
        into.extend(std::iter::from_fn(&mut next).take(BATCH - 1));
    }
}

impl Bytes for Cloudtoid {
    fn create(spec: &Spec, _: Shape) -> Result<Link> {
        <Self as Process>::create(spec)
    }

    fn open(link: &mut Link, shape: Shape, near: bool) -> Result<Self> {
        open(link, near, shape.capacity * (shape.len + HEADER).next_multiple_of(8))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        retry(|| self.there.try_send(bytes).ok());
        Ok(())
    }

    fn recv(&mut self, bytes: &mut [u8]) -> Result<()> {
        retry(|| self.back.try_recv_into(bytes).ok().flatten());
        Ok(())
    }
}

/// The same by its call that waits.
pub(crate) struct Waiting(Cloudtoid);

impl Process for Waiting {
    fn create(spec: &Spec) -> Result<Link> {
        <Cloudtoid as Process>::create(spec)
    }

    fn open(link: &mut Link, near: bool) -> Result<Self> {
        Ok(Self(<Cloudtoid as Process>::open(link, near)?))
    }
}

impl End for Waiting {
    fn send(&mut self, message: &Message) {
        End::send(&mut self.0, message);
    }

    fn recv(&mut self) -> Message {
        let bytes = self.0.back.recv().expect("the queue lives");
        Message::read_from_bytes(&bytes).expect("64 bytes were sent")
    }
}

//! cloudtoid-interprocess, in the memory file system.

use anyhow::Result;
use cloudtoid_interprocess::{Options, Publisher, Subscriber};
use zerocopy::{FromBytes, IntoBytes};

use super::super::ends::{BATCH, Bytes, End, Many, Process, retry};
use super::super::link::Link;
use super::super::peer::Peer;
use super::super::spec::Spec;
use super::super::spec::Workload::{Batch, Copy, Crowd, Idle, Oneway, Parked, Roundtrip};
use super::super::{crowd, pairs};
use crate::Message;

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: "cloudtoid-interprocess",
    package: "cloudtoid-interprocess",
    does: &[
        (&[Oneway, Roundtrip], pairs::processes::<Cloudtoid>),
        (&[Parked, Idle], pairs::processes::<Waiting>),
        (&[Batch], pairs::many_between::<Cloudtoid>),
        (&[Crowd], crowd::processes::<Cloudtoid>),
        (&[Copy], pairs::bytes_between::<Cloudtoid>),
    ],
}];

struct Cloudtoid {
    there: Publisher,
    back: Subscriber,
}

/// What it writes before a message.
const HEADER: usize = 16;

impl Process for Cloudtoid {
    fn open(_: &mut Link, spec: &Spec, near: bool) -> Result<Self> {
        let shape = spec.shape();
        let room = shape.capacity * (shape.len + HEADER).next_multiple_of(8);
        let one =
            |way: &str| Options::new(format!("{}-{way}", spec.name), room).with_path("/dev/shm");
        let (there, back) = if near { ("there", "back") } else { ("back", "there") };
        Ok(Self { there: Publisher::open(&one(there))?, back: Subscriber::open(&one(back))? })
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
struct Waiting(Cloudtoid);

impl Process for Waiting {
    fn open(link: &mut Link, spec: &Spec, near: bool) -> Result<Self> {
        Ok(Self(Cloudtoid::open(link, spec, near)?))
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

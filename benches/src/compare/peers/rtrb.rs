//! rtrb, between threads: one sender and one receiver.

use rtrb::{Consumer, Producer, RingBuffer};

use super::super::channel::{Channel, Ends};
use super::super::ends::{BATCH, Many, retry};
use super::super::pairs;
use super::super::peer::Peer;
use super::super::spec::Workload::{Batch, Oneway, Roundtrip};
use crate::{CAPACITY, Message};

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: "rtrb [threads]",
    package: "rtrb",
    does: &[
        (&[Oneway, Roundtrip], pairs::threads::<Ends<Rtrb>>),
        (&[Batch], pairs::many_within::<Ends<Rtrb>>),
    ],
}];

enum Rtrb {}

impl Channel for Rtrb {
    type Sender = Producer<Message>;
    type Receiver = Consumer<Message>;

    fn make() -> (Self::Sender, Self::Receiver) {
        RingBuffer::new(CAPACITY)
    }

    fn try_send(sender: &mut Self::Sender, message: &Message) -> Option<()> {
        sender.push(*message).ok()
    }

    fn try_recv(receiver: &mut Self::Receiver) -> Option<Message> {
        receiver.pop().ok()
    }
}

impl Many for Ends<Rtrb> {
    fn send_many(&mut self, messages: &[Message]) {
        retry(|| self.there.push_entire_slice(messages).ok());
    }

    fn recv_many(&mut self, into: &mut Vec<Message>) {
        retry(|| {
            let some = self.back.slots().min(BATCH);
            let chunk = self.back.read_chunk(some).ok().filter(|_| some > 0)?;
            let (front, back) = chunk.as_slices();
            into.extend_from_slice(front);
            into.extend_from_slice(back);
            chunk.commit_all();
            Some(())
        });
    }
}

//! kanal, between threads and between tasks.

use kanal::{Receiver, Sender, bounded};

use super::super::channel::{Awaited, Blocking, BlockingEnds, Channel, Ends};
use super::super::ends::{End, Many, retry};
use super::super::peer::Peer;
use super::super::spec::Workload::{Batch, Crowd, Oneway, Parked, Roundtrip, Tokio, Waiters};
use super::super::{crowd, pairs, waiters};
use crate::{CAPACITY, Message};

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: "kanal [threads]",
    package: "kanal",
    does: &[
        (&[Oneway, Roundtrip], pairs::threads::<Ends<Kanal>>),
        (&[Parked], pairs::threads::<BlockingEnds<Kanal>>),
        (&[Crowd], crowd::threads::<Ends<Kanal>>),
        (&[Tokio], pairs::tasks_within::<Ends<Kanal>>),
        (&[Batch], pairs::many_within::<Ends<Kanal>>),
        (&[Waiters], waiters::threads::<Kanal>),
    ],
}];

enum Kanal {}

impl Channel for Kanal {
    type Sender = Sender<Message>;
    type Receiver = Receiver<Message>;

    fn make() -> (Self::Sender, Self::Receiver) {
        bounded(CAPACITY)
    }

    fn try_send(sender: &mut Self::Sender, message: &Message) -> Option<()> {
        sender.try_send(*message).ok().filter(|sent| *sent).map(drop)
    }

    fn try_recv(receiver: &mut Self::Receiver) -> Option<Message> {
        receiver.try_recv().ok().flatten()
    }
}

impl Blocking for Kanal {
    fn send(sender: &mut Self::Sender, message: &Message) {
        sender.send(*message).expect("the far end lives");
    }

    fn recv(receiver: &mut Self::Receiver) -> Message {
        receiver.recv().expect("the far end lives")
    }
}

impl Awaited for Kanal {
    async fn send_async(sender: &mut Self::Sender, message: &Message) {
        sender.as_async().send(*message).await.expect("the far end lives");
    }

    async fn recv_async(receiver: &mut Self::Receiver) -> Message {
        receiver.as_async().recv().await.expect("the far end lives")
    }
}

/// It takes all there is in one call, and sends one by one.
impl Many for Ends<Kanal> {
    fn send_many(&mut self, messages: &[Message]) {
        messages.iter().for_each(|message| End::send(self, message));
    }

    fn recv_many(&mut self, into: &mut Vec<Message>) {
        retry(|| self.back.drain_into(into).ok().filter(|taken| *taken > 0));
    }
}

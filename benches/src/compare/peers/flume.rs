//! flume, between threads and between tasks.

use flume::{Receiver, Sender, bounded};

use super::super::channel::{Awaited, Blocking, BlockingEnds, Channel, Ends};
use super::super::peer::Peer;
use super::super::spec::Workload::{Crowd, Oneway, Parked, Roundtrip, Tokio, Waiters};
use super::super::{crowd, pairs, waiters};
use crate::{CAPACITY, Message};

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: "flume [threads]",
    package: "flume",
    does: &[
        (&[Oneway, Roundtrip], pairs::threads::<Ends<Flume>>),
        (&[Parked], pairs::threads::<BlockingEnds<Flume>>),
        (&[Crowd], crowd::threads::<Ends<Flume>>),
        (&[Tokio], pairs::tasks_within::<Ends<Flume>>),
        (&[Waiters], waiters::threads::<Flume>),
    ],
}];

enum Flume {}

impl Channel for Flume {
    type Sender = Sender<Message>;
    type Receiver = Receiver<Message>;

    fn make() -> (Self::Sender, Self::Receiver) {
        bounded(CAPACITY)
    }

    fn try_send(sender: &mut Self::Sender, message: &Message) -> Option<()> {
        sender.try_send(*message).ok()
    }

    fn try_recv(receiver: &mut Self::Receiver) -> Option<Message> {
        receiver.try_recv().ok()
    }
}

impl Blocking for Flume {
    fn send(sender: &mut Self::Sender, message: &Message) {
        sender.send(*message).expect("the far end lives");
    }

    fn recv(receiver: &mut Self::Receiver) -> Message {
        receiver.recv().expect("the far end lives")
    }
}

impl Awaited for Flume {
    async fn send_async(sender: &mut Self::Sender, message: &Message) {
        sender.send_async(*message).await.expect("the far end lives");
    }

    async fn recv_async(receiver: &mut Self::Receiver) -> Message {
        receiver.recv_async().await.expect("the far end lives")
    }
}

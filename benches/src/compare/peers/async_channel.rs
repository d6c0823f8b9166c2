//! async-channel, between threads and between tasks.

use async_channel::{Receiver, Sender, bounded};

use super::super::channel::{Awaited, Blocking, BlockingEnds, Channel, Ends};
use super::super::peer::{Peer, names};
use super::super::spec::Workload::{Oneway, Parked, Roundtrip, Tokio, Waiters};
use super::super::{pairs, waiters};
use crate::{CAPACITY, Message};

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: names::ASYNC_CHANNEL,
    package: "async-channel",
    does: &[
        (&[Oneway, Roundtrip], pairs::threads::<Ends<AsyncChannel>>),
        (&[Parked], pairs::threads::<BlockingEnds<AsyncChannel>>),
        (&[Tokio], pairs::tasks_within::<Ends<AsyncChannel>>),
        (&[Waiters], waiters::threads::<AsyncChannel>),
    ],
}];

enum AsyncChannel {}

impl Channel for AsyncChannel {
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

impl Blocking for AsyncChannel {
    fn send(sender: &mut Self::Sender, message: &Message) {
        sender.send_blocking(*message).expect("the far end lives");
    }

    fn recv(receiver: &mut Self::Receiver) -> Message {
        receiver.recv_blocking().expect("the far end lives")
    }
}

impl Awaited for AsyncChannel {
    async fn send_async(sender: &mut Self::Sender, message: &Message) {
        sender.send(*message).await.expect("the far end lives");
    }

    async fn recv_async(receiver: &mut Self::Receiver) -> Message {
        receiver.recv().await.expect("the far end lives")
    }
}

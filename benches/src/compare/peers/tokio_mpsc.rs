//! tokio's mpsc, between threads and between tasks.

use tokio::sync::mpsc;

use super::super::channel::{Awaited, Channel, Ends};
use super::super::ends::OnTokio;
use super::super::pairs;
use super::super::peer::{Peer, names};
use super::super::spec::Workload::{Oneway, Parked, Roundtrip, Tokio};
use crate::{CAPACITY, Message};

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: names::TOKIO_MPSC,
    package: "tokio",
    does: &[
        (&[Oneway, Roundtrip], pairs::threads::<Ends<TokioMpsc>>),
        (&[Parked], pairs::threads::<OnTokio<Ends<TokioMpsc>>>),
        (&[Tokio], pairs::tasks_within::<Ends<TokioMpsc>>),
    ],
}];

enum TokioMpsc {}

impl Channel for TokioMpsc {
    type Sender = mpsc::Sender<Message>;
    type Receiver = mpsc::Receiver<Message>;

    fn make() -> (Self::Sender, Self::Receiver) {
        mpsc::channel(CAPACITY)
    }

    fn try_send(sender: &mut Self::Sender, message: &Message) -> Option<()> {
        sender.try_send(*message).ok()
    }

    fn try_recv(receiver: &mut Self::Receiver) -> Option<Message> {
        receiver.try_recv().ok()
    }
}

impl Awaited for TokioMpsc {
    async fn send_async(sender: &mut Self::Sender, message: &Message) {
        sender.send(*message).await.expect("the far end lives");
    }

    async fn recv_async(receiver: &mut Self::Receiver) -> Message {
        receiver.recv().await.expect("the far end lives")
    }
}

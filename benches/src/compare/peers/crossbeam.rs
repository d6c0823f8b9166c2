//! crossbeam-channel, between threads.

use crossbeam_channel::{Receiver, Sender, bounded};

use super::super::channel::{Blocking, BlockingEnds, Channel, Ends};
use super::super::peer::Peer;
use super::super::spec::Workload::{Crowd, Oneway, Parked, Roundtrip};
use super::super::{crowd, pairs};
use crate::{CAPACITY, Message};

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: "crossbeam channel [threads]",
    package: "crossbeam-channel",
    does: &[
        (&[Oneway, Roundtrip], pairs::threads::<Ends<Crossbeam>>),
        (&[Parked], pairs::threads::<BlockingEnds<Crossbeam>>),
        (&[Crowd], crowd::threads::<Ends<Crossbeam>>),
    ],
}];

enum Crossbeam {}

impl Channel for Crossbeam {
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

impl Blocking for Crossbeam {
    fn send(sender: &mut Self::Sender, message: &Message) {
        sender.send(*message).expect("the far end lives");
    }

    fn recv(receiver: &mut Self::Receiver) -> Message {
        receiver.recv().expect("the far end lives")
    }
}

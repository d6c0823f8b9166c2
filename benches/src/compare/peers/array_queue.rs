//! crossbeam's `ArrayQueue`, between threads.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue as Queue;

use super::super::channel::{Channel, Ends};
use super::super::peer::Peer;
use super::super::spec::Workload::{Crowd, Oneway, Roundtrip};
use super::super::{crowd, pairs};
use crate::{CAPACITY, Message};

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: "ArrayQueue [threads]",
    package: "crossbeam-queue",
    does: &[
        (&[Oneway, Roundtrip], pairs::threads::<Ends<ArrayQueue>>),
        (&[Crowd], crowd::threads::<Ends<ArrayQueue>>),
    ],
}];

enum ArrayQueue {}

impl Channel for ArrayQueue {
    type Sender = Arc<Queue<Message>>;
    type Receiver = Arc<Queue<Message>>;

    fn make() -> (Self::Sender, Self::Receiver) {
        let queue = Arc::new(Queue::new(CAPACITY));
        (Arc::clone(&queue), queue)
    }

    fn try_send(sender: &mut Self::Sender, message: &Message) -> Option<()> {
        sender.push(*message).ok()
    }

    fn try_recv(receiver: &mut Self::Receiver) -> Option<Message> {
        receiver.pop()
    }
}

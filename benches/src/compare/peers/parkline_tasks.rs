//! Parkline between tasks of tokio: each has a current_thread runtime of its own.

use std::os::fd::OwnedFd;

use anyhow::Result;
use parkline_uring::{AsyncReceiver, AsyncSender, Queue, Receiver, Sender};

use super::super::ends::{Memfds, OnTokio, Task};
use super::super::peer::{Peer, names};
use super::super::spec::Spec;
use super::super::spec::Workload::{Growth, Idle, Naps, Parked, Tokio, Waiters};
use super::super::{naps, pairs, queues, waiters};
use crate::{CAPACITY, Message};

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: names::PARKLINE_TOKIO,
    package: "parkline-core",
    does: &[
        (&[Parked, Idle], pairs::processes::<OnTokio<Parkline>>),
        (&[Naps], naps::processes::<OnTokio<Parkline>>),
        (&[Tokio], pairs::tasks_between::<Parkline>),
        (&[Waiters], waiters::processes),
        (&[Growth], queues::processes),
    ],
}];

#[derive(Debug)]
struct Parkline {
    there: Sender<Message>,
    back: Receiver<Message>,
}

impl Memfds for Parkline {
    fn memfd(_: &Spec) -> Result<OwnedFd> {
        Ok(Queue::builder().capacity(CAPACITY).create_typed::<Message>()?.try_clone_fd()?)
    }

    fn over(there: OwnedFd, back: OwnedFd, _: &Spec) -> Result<Self> {
        let there = Queue::<Message>::open_typed(there)?.sender()?;
        let back = Queue::<Message>::open_typed(back)?.receiver()?;
        Ok(Self { there, back })
    }
}

impl Task for Parkline {
    async fn send(&mut self, message: &Message) {
        self.there.send(message).await.expect("the queue stays open");
    }

    async fn recv(&mut self) -> Message {
        self.back.recv().await.expect("the queue stays open")
    }
}

//! Parkline's async calls as [`End`]s: each call is awaited alone, so that it parks whenever it
//! must wait.

use std::os::fd::OwnedFd;

use parkline_uring::{AsyncReceiver, AsyncSender, Queue, Receiver, Sender, block_on};
use tokio::runtime::{Builder, Runtime};

use crate::ends::Spinning;
use crate::{Between, End, Error, Message};

/// A thread that sleeps in its own io_uring.
#[derive(Debug)]
pub struct BlockOn {
    there: Sender<Message>,
    back: Receiver<Message>,
}

/// A task of a tokio current_thread runtime.
#[derive(Debug)]
pub struct Tokio {
    runtime: Runtime,
    ends: BlockOn,
}

impl BlockOn {
    async fn send(&mut self, message: &Message) {
        self.there.send(message).await.expect("the queue stays open");
    }

    async fn recv(&mut self) -> Message {
        self.back.recv().await.expect("the queue stays open")
    }
}

impl Between for BlockOn {
    const NAME: &str = "parkline, block_on";

    fn create() -> Result<OwnedFd, Error> {
        Spinning::create()
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
        let there = Queue::<Message>::open_typed(there)?.sender()?;
        let back = Queue::<Message>::open_typed(back)?.receiver()?;
        Ok(Self { there, back })
    }
}

impl Between for Tokio {
    const NAME: &str = "parkline, tokio current_thread";

    fn create() -> Result<OwnedFd, Error> {
        Spinning::create()
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, ends: BlockOn::open(there, back)? })
    }
}

impl End for BlockOn {
    fn send(&mut self, message: &Message) {
        block_on(BlockOn::send(self, message));
    }

    fn recv(&mut self) -> Message {
        block_on(BlockOn::recv(self))
    }
}

impl End for Tokio {
    fn send(&mut self, message: &Message) {
        self.runtime.block_on(self.ends.send(message));
    }

    fn recv(&mut self) -> Message {
        self.runtime.block_on(self.ends.recv())
    }
}

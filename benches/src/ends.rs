//! The queues as [`End`]s: spinning (try again at once) and parked (sleep in the kernel).

use std::hint::spin_loop;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use parkline_core::{Queue, Receiver, Sender};

use crate::vyukov::Vyukov;
use crate::{Between, CAPACITY, End, Error, Message, shared};

/// A Parkline queue for the benches.
///
/// # Errors
/// When there is no memory for it.
pub fn parkline() -> Result<Queue<Message>, Error> {
    Ok(Queue::builder().capacity(CAPACITY).create_typed::<Message>()?)
}

/// Parkline by `try_send` and `try_recv`, again and again.
#[derive(Debug)]
pub struct Spinning {
    there: Sender<Message>,
    back: Receiver<Message>,
}

/// Parkline by the calls that block the thread.
#[derive(Debug)]
pub struct Parked(Spinning);

impl Between for Spinning {
    const NAME: &str = "parkline, spinning";

    fn create() -> Result<OwnedFd, Error> {
        Ok(parkline()?.try_clone_fd()?)
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
        let there = Queue::<Message>::open_typed(there)?.sender()?;
        let back = Queue::<Message>::open_typed(back)?.receiver()?;
        Ok(Self { there, back })
    }
}

impl Between for Parked {
    const NAME: &str = "parkline, blocking calls";

    fn create() -> Result<OwnedFd, Error> {
        Spinning::create()
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
        Ok(Self(Spinning::open(there, back)?))
    }
}

impl End for Spinning {
    fn send(&mut self, message: &Message) {
        while self.there.try_send(message).is_err() {
            spin_loop();
        }
    }

    fn recv(&mut self) -> Message {
        loop {
            match self.back.try_recv() {
                Ok(message) => return message,
                Err(_) => spin_loop(),
            }
        }
    }
}

impl End for Parked {
    fn send(&mut self, message: &Message) {
        self.0.there.send_blocking(message).expect("the queue stays open");
    }

    fn recv(&mut self) -> Message {
        self.0.back.recv_blocking().expect("the queue stays open")
    }
}

/// Two plain rings in shared memory.
#[derive(Debug)]
pub struct Plain {
    there: &'static Vyukov,
    back: &'static Vyukov,
}

impl Between for Plain {
    const NAME: &str = "plain Vyukov, spinning";

    fn create() -> Result<OwnedFd, Error> {
        Ok(shared::create::<Vyukov>()?)
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
        Ok(Self { there: shared::map(there)?, back: shared::map(back)? })
    }
}

impl End for Plain {
    fn send(&mut self, message: &Message) {
        while !self.there.try_push(message) {
            spin_loop();
        }
    }

    fn recv(&mut self) -> Message {
        loop {
            match self.back.try_pop() {
                Some(message) => return message,
                None => spin_loop(),
            }
        }
    }
}

/// Two queues between threads: what one would use if there were but one process.
#[derive(Debug)]
pub struct Threads {
    there: Arc<ArrayQueue<Message>>,
    back: Arc<ArrayQueue<Message>>,
}

impl Threads {
    /// Both ends.
    pub fn pair() -> (Self, Self) {
        let [there, back] = [(); 2].map(|()| Arc::new(ArrayQueue::new(CAPACITY)));
        let far = Self { there: Arc::clone(&back), back: Arc::clone(&there) };
        (Self { there, back }, far)
    }
}

impl End for Threads {
    fn send(&mut self, message: &Message) {
        while self.there.push(*message).is_err() {
            spin_loop();
        }
    }

    fn recv(&mut self) -> Message {
        loop {
            match self.back.pop() {
                Some(message) => return message,
                None => spin_loop(),
            }
        }
    }
}

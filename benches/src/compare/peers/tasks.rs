//! Queues between tasks of tokio: between processes each task has a current_thread runtime of its own,
//! within one process they have one runtime or two.

use anyhow::{Result, anyhow};
use parkline_uring::{AsyncReceiver, AsyncSender, Queue, Receiver, Sender};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::super::link::Link;
use super::super::process::Part;
use super::super::spec::{Outcome, Spec, Work};
use super::super::{naps, pairs, queues, waiters};
use super::{FarTask, NearTask, Process, Task, Threads, runtime, two};
use crate::ends::Spinning;
use crate::{Between, CAPACITY, End, Message};

/// Plays a part of Parkline's tasks.
pub(crate) fn play(part: Part) -> Result<Outcome> {
    match part.spec().work {
        work if work.is_asleep() => pairs::processes::<OnTokio<Parkline>>(part),
        Work::Naps => naps::processes::<OnTokio<Parkline>>(part),
        Work::Tasks => pairs::tasks_between::<Parkline>(part),
        Work::Waiters { .. } => waiters::processes(part),
        Work::Queues { .. } => queues::processes(part),
        _ => part.refuse(),
    }
}

/// A thread that calls [`Task`]s one by one.
#[derive(Debug)]
pub(crate) struct OnTokio<T> {
    task: T,
    runtime: Runtime,
}

impl<T: FarTask> Process for OnTokio<T> {
    fn create(_: &Spec) -> Result<Link> {
        T::create()
    }

    fn open(link: &mut Link, near: bool) -> Result<Self> {
        let runtime = runtime()?;
        let task = runtime.block_on(async { T::open(link, near) })?;
        Ok(Self { task, runtime })
    }
}

impl<T: NearTask> Threads for OnTokio<T> {
    fn pair() -> (Self, Self) {
        let (near, far) = T::pair();
        let on = |task| Self { task, runtime: runtime().expect("tokio starts") };
        (on(near), on(far))
    }
}

impl<T: Task> End for OnTokio<T> {
    fn send(&mut self, message: &Message) {
        self.runtime.block_on(self.task.send(message));
    }

    fn recv(&mut self) -> Message {
        self.runtime.block_on(self.task.recv())
    }
}

#[derive(Debug)]
pub(crate) struct Parkline {
    there: Sender<Message>,
    back: Receiver<Message>,
}

impl FarTask for Parkline {
    fn create() -> Result<Link> {
        let fd = || <Spinning as Between>::create().map_err(|error| anyhow!("{error}"));
        Ok(Link::fds([fd()?, fd()?]))
    }

    fn open(link: &Link, near: bool) -> Result<Self> {
        let [there, back] = two(link, near)?;
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

/// Two channels between tasks: the senders and receivers of some crate.
macro_rules! channel {
    ($name:ident, $tx:ty, $rx:ty, $make:expr, $send:ident, $recv:ident) => {
        pub(crate) struct $name {
            there: $tx,
            back: $rx,
        }

        impl NearTask for $name {
            fn pair() -> (Self, Self) {
                let ((there, theirs), (their_there, back)) = ($make, $make);
                (Self { there, back }, Self { there: their_there, back: theirs })
            }
        }

        impl Task for $name {
            async fn send(&mut self, message: &Message) {
                assert!(self.there.$send(*message).await.is_ok(), "the far end lives");
            }

            async fn recv(&mut self) -> Message {
                self.back.$recv().await.expect("the far end lives")
            }
        }
    };
}

channel!(
    TokioMpsc,
    mpsc::Sender<Message>,
    mpsc::Receiver<Message>,
    mpsc::channel(CAPACITY),
    send,
    recv
);
#[cfg(feature = "peers")]
channel!(
    AsyncChannel,
    async_channel::Sender<Message>,
    async_channel::Receiver<Message>,
    async_channel::bounded(CAPACITY),
    send,
    recv
);
#[cfg(feature = "peers")]
channel!(
    Flume,
    flume::Sender<Message>,
    flume::Receiver<Message>,
    flume::bounded(CAPACITY),
    send_async,
    recv_async
);
#[cfg(feature = "peers")]
channel!(
    Kanal,
    kanal::AsyncSender<Message>,
    kanal::AsyncReceiver<Message>,
    kanal::bounded_async(CAPACITY),
    send,
    recv
);

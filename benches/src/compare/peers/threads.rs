//! Queues of one process, between two threads: the alternatives for a program of one process. `Try` in a
//! name is for the calls that do not wait, `Park` for those that block.

use std::sync::Arc;

use anyhow::Result;
use crossbeam_queue::ArrayQueue as Queue;

use super::super::process::Part;
use super::super::spec::{Outcome, Peer, Work};
use super::super::{crowd, pairs};
use super::tasks::{self, OnTokio};
use super::{Threads, retry};
use crate::{CAPACITY, End, Message};

/// Plays a part of a peer of this file.
pub(crate) fn play(part: Part) -> Result<Outcome> {
    match part.peer_and_work() {
        (Peer::ArrayQueue, work) if work.is_awake() => pairs::threads::<ArrayQueue>(part),
        (Peer::ArrayQueue, work) if work.is_crowd() => crowd::threads::<ArrayQueue>(part),
        (Peer::TokioMpsc, work) if work.is_awake() => pairs::threads::<TokioTry>(part),
        (Peer::TokioMpsc, work) if work.is_asleep() => {
            pairs::threads::<OnTokio<tasks::TokioMpsc>>(part)
        }
        (Peer::TokioMpsc, Work::Tasks) => pairs::tasks_within::<tasks::TokioMpsc>(part),
        _ => part.refuse(),
    }
}

/// Two queues.
#[derive(Clone, Debug)]
pub(crate) struct ArrayQueue {
    there: Arc<Queue<Message>>,
    back: Arc<Queue<Message>>,
}

impl Threads for ArrayQueue {
    fn pair() -> (Self, Self) {
        let [there, back] = [(); 2].map(|()| Arc::new(Queue::new(CAPACITY)));
        let far = Self { there: Arc::clone(&back), back: Arc::clone(&there) };
        (Self { there, back }, far)
    }
}

impl End for ArrayQueue {
    fn send(&mut self, message: &Message) {
        retry(|| self.there.push(*message).ok());
    }

    fn recv(&mut self) -> Message {
        retry(|| self.back.pop())
    }
}

/// A sender and a receiver of two channels of some crate.
macro_rules! channel {
    ($name:ident, $there:ty, $back:ty, $make:expr, |$tx:ident, $message:ident| $send:expr, |$rx:ident| $recv:expr) => {
        pub(crate) struct $name {
            there: $there,
            back: $back,
        }

        impl Threads for $name {
            fn pair() -> (Self, Self) {
                let ((there, theirs), (their_there, back)) = ($make, $make);
                (Self { there, back }, Self { there: their_there, back: theirs })
            }
        }

        impl End for $name {
            fn send(&mut self, $message: &Message) {
                let $tx = &mut self.there;
                $send
            }

            fn recv(&mut self) -> Message {
                let $rx = &mut self.back;
                $recv
            }
        }
    };
}

channel!(
    TokioTry,
    tokio::sync::mpsc::Sender<Message>,
    tokio::sync::mpsc::Receiver<Message>,
    tokio::sync::mpsc::channel(CAPACITY),
    |tx, message| retry(|| tx.try_send(*message).ok()),
    |rx| retry(|| rx.try_recv().ok())
);

#[cfg(feature = "peers")]
pub(crate) use optional::*;

#[cfg(feature = "peers")]
mod optional {
    use super::super::super::waiters;
    use super::super::{BATCH, Many};
    use super::*;

    /// Plays a part of a peer that needs the feature `peers`.
    pub(crate) fn play_optional(part: Part) -> Result<Outcome> {
        match part.peer_and_work() {
            (Peer::CrossbeamChannel, work) if work.is_awake() => {
                pairs::threads::<CrossbeamTry>(part)
            }
            (Peer::CrossbeamChannel, work) if work.is_asleep() => {
                pairs::threads::<CrossbeamPark>(part)
            }
            (Peer::CrossbeamChannel, work) if work.is_crowd() => {
                crowd::threads::<CrossbeamTry>(part)
            }
            (Peer::Kanal, work) if work.is_awake() => pairs::threads::<KanalTry>(part),
            (Peer::Kanal, work) if work.is_asleep() => pairs::threads::<KanalPark>(part),
            (Peer::Kanal, work) if work.is_crowd() => crowd::threads::<KanalTry>(part),
            (Peer::Kanal, Work::Tasks) => pairs::tasks_within::<tasks::Kanal>(part),
            (Peer::Kanal, Work::Waiters { .. }) => waiters::threads::<waiters::Kanal>(part),
            (Peer::Flume, work) if work.is_awake() => pairs::threads::<FlumeTry>(part),
            (Peer::Flume, work) if work.is_asleep() => pairs::threads::<FlumePark>(part),
            (Peer::Flume, work) if work.is_crowd() => crowd::threads::<FlumeTry>(part),
            (Peer::Flume, Work::Tasks) => pairs::tasks_within::<tasks::Flume>(part),
            (Peer::Flume, Work::Waiters { .. }) => waiters::threads::<waiters::Flume>(part),
            (Peer::AsyncChannel, work) if work.is_awake() => {
                pairs::threads::<AsyncChannelTry>(part)
            }
            (Peer::AsyncChannel, work) if work.is_asleep() => {
                pairs::threads::<AsyncChannelPark>(part)
            }
            (Peer::AsyncChannel, work) if work.is_crowd() => {
                crowd::threads::<AsyncChannelTry>(part)
            }
            (Peer::AsyncChannel, Work::Tasks) => pairs::tasks_within::<tasks::AsyncChannel>(part),
            (Peer::AsyncChannel, Work::Waiters { .. }) => {
                waiters::threads::<waiters::AsyncChannel>(part)
            }
            (Peer::Kanal, Work::Batch) => pairs::many_within::<KanalTry>(part),
            (Peer::Rtrb, work) if work.is_awake() => pairs::threads::<Rtrb>(part),
            (Peer::Rtrb, Work::Batch) => pairs::many_within::<Rtrb>(part),
            _ => part.refuse(),
        }
    }

    macro_rules! clonable {
        ($($name:ident)*) => {$(
            impl Clone for $name {
                fn clone(&self) -> Self {
                    Self { there: self.there.clone(), back: self.back.clone() }
                }
            }
        )*};
    }

    channel!(
        CrossbeamTry,
        crossbeam_channel::Sender<Message>,
        crossbeam_channel::Receiver<Message>,
        crossbeam_channel::bounded(CAPACITY),
        |tx, message| retry(|| tx.try_send(*message).ok()),
        |rx| retry(|| rx.try_recv().ok())
    );
    channel!(
        CrossbeamPark,
        crossbeam_channel::Sender<Message>,
        crossbeam_channel::Receiver<Message>,
        crossbeam_channel::bounded(CAPACITY),
        |tx, message| tx.send(*message).expect("the far end lives"),
        |rx| rx.recv().expect("the far end lives")
    );
    channel!(
        KanalTry,
        kanal::Sender<Message>,
        kanal::Receiver<Message>,
        kanal::bounded(CAPACITY),
        |tx, message| retry(|| tx.try_send(*message).ok().filter(|sent| *sent).map(drop)),
        |rx| retry(|| rx.try_recv().ok().flatten())
    );
    channel!(
        KanalPark,
        kanal::Sender<Message>,
        kanal::Receiver<Message>,
        kanal::bounded(CAPACITY),
        |tx, message| tx.send(*message).expect("the far end lives"),
        |rx| rx.recv().expect("the far end lives")
    );
    channel!(
        FlumeTry,
        flume::Sender<Message>,
        flume::Receiver<Message>,
        flume::bounded(CAPACITY),
        |tx, message| retry(|| tx.try_send(*message).ok()),
        |rx| retry(|| rx.try_recv().ok())
    );
    channel!(
        FlumePark,
        flume::Sender<Message>,
        flume::Receiver<Message>,
        flume::bounded(CAPACITY),
        |tx, message| tx.send(*message).expect("the far end lives"),
        |rx| rx.recv().expect("the far end lives")
    );
    channel!(
        AsyncChannelTry,
        async_channel::Sender<Message>,
        async_channel::Receiver<Message>,
        async_channel::bounded(CAPACITY),
        |tx, message| retry(|| tx.try_send(*message).ok()),
        |rx| retry(|| rx.try_recv().ok())
    );
    channel!(
        AsyncChannelPark,
        async_channel::Sender<Message>,
        async_channel::Receiver<Message>,
        async_channel::bounded(CAPACITY),
        |tx, message| tx.send_blocking(*message).expect("the far end lives"),
        |rx| rx.recv_blocking().expect("the far end lives")
    );
    channel!(
        Rtrb,
        rtrb::Producer<Message>,
        rtrb::Consumer<Message>,
        rtrb::RingBuffer::new(CAPACITY),
        |tx, message| retry(|| tx.push(*message).ok()),
        |rx| retry(|| rx.pop().ok())
    );
    clonable!(CrossbeamTry KanalTry FlumeTry AsyncChannelTry);

    impl Many for Rtrb {
        fn send_many(&mut self, messages: &[Message]) {
            retry(|| self.there.push_entire_slice(messages).ok());
        }

        fn recv_many(&mut self, into: &mut Vec<Message>) {
            retry(|| {
                let some = self.back.slots().min(BATCH);
                let chunk = self.back.read_chunk(some).ok().filter(|_| some > 0)?;
                let (front, back) = chunk.as_slices();
                into.extend_from_slice(front);
                into.extend_from_slice(back);
                chunk.commit_all();
                Some(())
            });
        }
    }

    /// It takes all there is in one call, and sends one by one.
    impl Many for KanalTry {
        fn send_many(&mut self, messages: &[Message]) {
            messages.iter().for_each(|message| self.send(message));
        }

        fn recv_many(&mut self, into: &mut Vec<Message>) {
            retry(|| self.back.drain_into(into).ok().filter(|taken| *taken > 0));
        }
    }
}

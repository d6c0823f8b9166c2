//! Queues within one process, between two threads: what one would use if that were enough. Each
//! waits as `CALLS` says: by calls that try, or by its calls that block.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue as Queue;

use super::{Threads, retry};
use crate::{CAPACITY, End, Message};

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
    use super::super::{BATCH, Many};
    use super::*;

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

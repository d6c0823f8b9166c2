//! Parkline in its ways of waiting, many a call, and in place.

use std::hint::spin_loop;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::slice;
use std::time::Duration;

use anyhow::{Result, ensure};
use parkline_core::{Pack, Queue, Receiver, Sender};
use parkline_uring::{AsyncReceiver, AsyncSender, block_on};
use zerocopy::{FromBytes, IntoBytes};

use super::super::ends::{BATCH, Bytes, End, Many, Memfds, retry};
use super::super::peer::{Peer, names};
use super::super::spec::Spec;
use super::super::spec::Workload::{
    Batch, Copy, Crowd, Idle, Inplace, Naps, Oneway, Parked, Roundtrip, Strategy,
};
use super::super::{crowd, naps, pairs};
use crate::{CAPACITY, Message};

const PACKAGE: &str = "parkline-core";

pub(crate) const PEERS: &[Peer] = &[
    Peer {
        name: names::PARKLINE,
        package: PACKAGE,
        does: &[
            (&[Oneway, Roundtrip], pairs::processes::<Parkline<Try>>),
            (&[Naps], naps::processes::<Parkline<Try>>),
            (&[Crowd], crowd::processes::<Parkline<Try>>),
            (&[Copy], pairs::bytes_between::<Copied>),
        ],
    },
    Peer {
        name: names::PARKLINE_MANY,
        package: PACKAGE,
        does: &[(&[Batch], pairs::many_between::<Parkline<Try>>)],
    },
    Peer {
        name: names::PARKLINE_PACKS,
        package: PACKAGE,
        does: &[(&[Batch], pairs::many_between::<Packed>)],
    },
    Peer {
        name: names::PARKLINE_IN_PLACE,
        package: PACKAGE,
        does: &[(&[Inplace], pairs::bytes_between::<InPlace>)],
    },
    Peer {
        name: names::PARKLINE_BLOCKING,
        package: PACKAGE,
        does: &[(
            &[Oneway, Roundtrip, Parked, Strategy, Idle],
            pairs::processes::<Parkline<Block>>,
        )],
    },
    Peer {
        name: names::ALWAYS_PARK,
        package: PACKAGE,
        does: &[
            (&[Parked, Strategy], pairs::processes::<Parkline<Park>>),
            (&[Naps], naps::processes::<Parkline<Park>>),
        ],
    },
    Peer {
        name: names::ALWAYS_SPIN,
        package: PACKAGE,
        does: &[(&[Strategy], pairs::processes::<Parkline<Spin>>)],
    },
    Peer {
        name: names::PARKLINE_BLOCK_ON,
        package: PACKAGE,
        does: &[
            (&[Parked, Idle], pairs::processes::<Parkline<BlockOn>>),
            (&[Naps], naps::processes::<Parkline<BlockOn>>),
        ],
    },
];

/// Two queues, used by the calls of `C`.
#[derive(Debug)]
struct Parkline<C> {
    there: Sender<Message>,
    back: Receiver<Message>,
    calls: PhantomData<C>,
}

trait Calls {
    /// The limit of the spins before a wait; `None` leaves the default.
    const SPIN: Option<Duration> = None;

    fn send(there: &mut Sender<Message>, message: &Message);
    fn recv(back: &mut Receiver<Message>) -> Message;
}

/// The calls that do not wait, attempted again and again.
enum Try {}

/// The same, without ever yielding the core.
enum Spin {}

/// The blocking calls as users have them.
enum Block {}

/// The blocking calls without a spin before they sleep.
enum Park {}

/// `block_on` without a spin before it sleeps.
enum BlockOn {}

impl<C: Calls> Memfds for Parkline<C> {
    fn memfd(_: &Spec) -> Result<OwnedFd> {
        Ok(Queue::builder().capacity(CAPACITY).create_typed::<Message>()?.try_clone_fd()?)
    }

    fn over(there: OwnedFd, back: OwnedFd, _: &Spec) -> Result<Self> {
        let mut there = Queue::<Message>::open_typed(there)?.sender()?;
        let mut back = Queue::<Message>::open_typed(back)?.receiver()?;
        if let Some(limit) = C::SPIN {
            there.set_spin(limit);
            back.set_spin(limit);
        }
        Ok(Self { there, back, calls: PhantomData })
    }
}

impl<C: Calls> End for Parkline<C> {
    fn send(&mut self, message: &Message) {
        C::send(&mut self.there, message);
    }

    fn recv(&mut self) -> Message {
        C::recv(&mut self.back)
    }
}

impl Calls for Try {
    fn send(there: &mut Sender<Message>, message: &Message) {
        retry(|| there.try_send(message).ok());
    }

    fn recv(back: &mut Receiver<Message>) -> Message {
        retry(|| back.try_recv().ok())
    }
}

impl Calls for Spin {
    fn send(there: &mut Sender<Message>, message: &Message) {
        while there.try_send(message).is_err() {
            spin_loop();
        }
    }

    fn recv(back: &mut Receiver<Message>) -> Message {
        loop {
            match back.try_recv() {
                Ok(message) => return message,
                Err(_) => spin_loop(),
            }
        }
    }
}

impl Calls for Block {
    fn send(there: &mut Sender<Message>, message: &Message) {
        there.send_blocking(message).expect("the queue stays open");
    }

    fn recv(back: &mut Receiver<Message>) -> Message {
        back.recv_blocking().expect("the queue stays open")
    }
}

impl Calls for Park {
    const SPIN: Option<Duration> = Some(Duration::ZERO);

    fn send(there: &mut Sender<Message>, message: &Message) {
        Block::send(there, message);
    }

    fn recv(back: &mut Receiver<Message>) -> Message {
        Block::recv(back)
    }
}

impl Calls for BlockOn {
    const SPIN: Option<Duration> = Some(Duration::ZERO);

    fn send(there: &mut Sender<Message>, message: &Message) {
        block_on(AsyncSender::send(there, message)).expect("the queue stays open");
    }

    fn recv(back: &mut Receiver<Message>) -> Message {
        block_on(AsyncReceiver::recv(back)).expect("the queue stays open")
    }
}

impl Many for Parkline<Try> {
    fn send_many(&mut self, mut messages: &[Message]) {
        while !messages.is_empty() {
            let sent = retry(|| self.there.try_send_many(messages).ok().filter(|sent| *sent > 0));
            messages = &messages[sent..];
        }
    }

    fn recv_many(&mut self, into: &mut Vec<Message>) {
        retry(|| self.back.try_recv_many(into, BATCH).ok());
    }
}

/// Packs of [`BATCH`] messages, in a queue with room for as many messages as all others.
#[derive(Debug)]
struct Packed {
    there: Sender<Pack>,
    back: Receiver<Pack>,
}

impl Memfds for Packed {
    fn memfd(_: &Spec) -> Result<OwnedFd> {
        let whole = BATCH * (size_of::<u64>() + size_of::<Message>());
        let queue = Queue::builder().capacity(CAPACITY / BATCH).max_message(whole);
        Ok(queue.create_typed::<Pack>()?.try_clone_fd()?)
    }

    fn over(there: OwnedFd, back: OwnedFd, _: &Spec) -> Result<Self> {
        let there = Queue::<Pack>::open_typed(there)?.sender()?;
        let back = Queue::<Pack>::open_typed(back)?.receiver()?;
        Ok(Self { there, back })
    }
}

impl End for Packed {
    fn send(&mut self, message: &Message) {
        self.send_many(slice::from_ref(message));
    }

    fn recv(&mut self) -> Message {
        let mut one = Vec::with_capacity(1);
        self.recv_many(&mut one);
        one[0]
    }
}

impl Many for Packed {
    fn send_many(&mut self, messages: &[Message]) {
        let bytes = messages.iter().map(IntoBytes::as_bytes);
        let sent = retry(|| self.there.try_send_packed(bytes.clone()).ok());
        assert_eq!(sent, messages.len(), "a pack holds a batch");
    }

    fn recv_many(&mut self, into: &mut Vec<Message>) {
        let pack = retry(|| self.back.try_recv().ok());
        let whole = |bytes| Message::read_from_bytes(bytes).expect("64 bytes were sent");
        into.extend(pack.iter().map(whole));
    }
}

/// Bytes, copied in and out.
#[derive(Debug)]
struct Copied {
    there: Sender,
    back: Receiver,
}

/// Bytes, written and read where they lie.
#[derive(Debug)]
struct InPlace(Copied);

impl Memfds for Copied {
    fn memfd(spec: &Spec) -> Result<OwnedFd> {
        let shape = spec.shape();
        let queue = Queue::builder().capacity(shape.capacity).max_message(shape.len);
        Ok(queue.handles(8).leases(1).create()?.try_clone_fd()?)
    }

    fn over(there: OwnedFd, back: OwnedFd, _: &Spec) -> Result<Self> {
        Ok(Self { there: Queue::open(there)?.sender()?, back: Queue::open(back)?.receiver()? })
    }
}

impl Bytes for Copied {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        retry(|| self.there.try_send(bytes).ok());
        Ok(())
    }

    fn recv(&mut self, bytes: &mut [u8]) -> Result<()> {
        let lease = retry(|| self.back.try_lease().ok());
        ensure!(lease.copy_to(bytes)? == bytes.len(), "a message of another length");
        lease.ack();
        Ok(())
    }
}

impl Memfds for InPlace {
    fn memfd(spec: &Spec) -> Result<OwnedFd> {
        Copied::memfd(spec)
    }

    fn over(there: OwnedFd, back: OwnedFd, spec: &Spec) -> Result<Self> {
        Ok(Self(Copied::over(there, back, spec)?))
    }
}

impl Bytes for InPlace {
    #[expect(unsafe_code, reason = "as iceoryx2's loan, sent without writing all of it")]
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        retry(|| self.0.there.check_room(bytes.len()).ok());
        let mut message = self.0.there.reserve_now(bytes.len())?;
        message.write_at(0, &bytes[..8]);
        // SAFETY: what is left in the blocks is this benchmark's, and no secret.
        unsafe { message.assume_written() };
        retry(|| message.commit_in_place().ok());
        Ok(())
    }

    fn recv(&mut self, bytes: &mut [u8]) -> Result<()> {
        let lease = retry(|| self.0.back.try_lease().ok());
        ensure!(lease.len() == bytes.len(), "a message of another length");
        lease.copy_to(&mut bytes[..8])?;
        lease.ack();
        Ok(())
    }
}

const _: () = assert!(BATCH < CAPACITY);

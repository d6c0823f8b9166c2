//! Parkline in its ways of waiting, many a call, and in place.

use std::os::fd::OwnedFd;
use std::slice;
use std::time::Duration;

use anyhow::{Result, ensure};
use parkline_core::{Pack, Queue, Receiver, Sender};
use parkline_uring::{AsyncReceiver, AsyncSender, block_on};
use zerocopy::{FromBytes, IntoBytes};

use super::super::link::Link;
use super::super::process::Part;
use super::super::spec::{Outcome, Peer, Spec, Work};
use super::super::{crowd, naps, pairs};
use super::{BATCH, Bytes, Many, Shape, retry, two};
use crate::ends::{Parked, Spinning};
use crate::{Between, CAPACITY, End, Error, Message};

/// Plays a part of a peer of this file.
pub(crate) fn play(part: Part) -> Result<Outcome> {
    match part.peer_and_work() {
        (Peer::Parkline, work) if work.is_awake() => pairs::processes::<Parkline>(part),
        (Peer::Parkline, Work::Naps) => naps::processes::<Parkline>(part),
        (Peer::Parkline, work) if work.is_crowd() => crowd::processes::<Parkline>(part),
        (Peer::Parkline, Work::Bytes { .. }) => pairs::bytes_between::<Copied>(part),
        (Peer::ParklineInPlace, Work::Bytes { .. }) => pairs::bytes_between::<InPlace>(part),
        (Peer::ParklineMany, Work::Batch) => pairs::many_between::<Parkline>(part),
        (Peer::ParklinePacked, Work::Batch) => pairs::many_between::<Packed>(part),
        (Peer::ParklineSpin, work) if work.is_asleep() => pairs::processes::<Spinning>(part),
        (Peer::ParklinePark, work) if work.is_asleep() => {
            pairs::processes::<AlwaysPark<false>>(part)
        }
        (Peer::ParklinePark, Work::Naps) => naps::processes::<AlwaysPark<false>>(part),
        (Peer::ParklineBlockOn, work) if work.is_asleep() => {
            pairs::processes::<AlwaysPark<true>>(part)
        }
        (Peer::ParklineBlockOn, Work::Naps) => naps::processes::<AlwaysPark<true>>(part),
        (Peer::ParklineDefault, work) if work.is_awake() || work.is_asleep() => {
            pairs::processes::<Parked>(part)
        }
        (Peer::ParklineDefault, work) if work.is_crowd() => crowd::processes::<Parked>(part),
        _ => part.refuse(),
    }
}

/// Calls that do not wait, attempted again and again.
#[derive(Debug)]
pub(crate) struct Parkline {
    there: Sender<Message>,
    back: Receiver<Message>,
}

impl Between for Parkline {
    const NAME: &str = "parkline, try calls";

    fn create() -> Result<OwnedFd, Error> {
        Spinning::create()
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
        let there = Queue::<Message>::open_typed(there)?.sender()?;
        let back = Queue::<Message>::open_typed(back)?.receiver()?;
        Ok(Self { there, back })
    }
}

impl End for Parkline {
    fn send(&mut self, message: &Message) {
        retry(|| self.there.try_send(message).ok());
    }

    fn recv(&mut self) -> Message {
        retry(|| self.back.try_recv().ok())
    }
}

impl Many for Parkline {
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
pub(crate) struct Packed {
    there: Sender<Pack>,
    back: Receiver<Pack>,
}

impl Between for Packed {
    const NAME: &str = "parkline, packs";

    fn create() -> Result<OwnedFd, Error> {
        let whole = BATCH * (size_of::<u64>() + size_of::<Message>());
        let queue = Queue::builder().capacity(CAPACITY / BATCH).max_message(whole);
        Ok(queue.create_typed::<Pack>()?.try_clone_fd()?)
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
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
pub(crate) struct Copied {
    there: Sender,
    back: Receiver,
}

/// Bytes, written and read where they lie.
#[derive(Debug)]
pub(crate) struct InPlace(Copied);

impl Bytes for Copied {
    fn create(_: &Spec, shape: Shape) -> Result<Link> {
        let fd = || -> Result<OwnedFd> {
            let queue = Queue::builder().capacity(shape.capacity).max_message(shape.len);
            Ok(queue.handles(8).leases(1).create()?.try_clone_fd()?)
        };
        Ok(Link::fds([fd()?, fd()?]))
    }

    fn open(link: &mut Link, _: Shape, near: bool) -> Result<Self> {
        let [there, back] = two(link, near)?;
        Ok(Self { there: Queue::open(there)?.sender()?, back: Queue::open(back)?.receiver()? })
    }

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

impl Bytes for InPlace {
    fn create(spec: &Spec, shape: Shape) -> Result<Link> {
        Copied::create(spec, shape)
    }

    fn open(link: &mut Link, shape: Shape, near: bool) -> Result<Self> {
        Ok(Self(Copied::open(link, shape, near)?))
    }

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

/// The blocking calls, and `block_on`, which do not spin before they sleep.
#[derive(Debug)]
pub(crate) struct AlwaysPark<const BLOCK_ON: bool>(Parkline);

impl<const BLOCK_ON: bool> Between for AlwaysPark<BLOCK_ON> {
    const NAME: &str = "parkline, always park";

    fn create() -> Result<OwnedFd, Error> {
        Spinning::create()
    }

    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error> {
        let mut ends = Parkline::open(there, back)?;
        ends.there.set_spin(Duration::ZERO);
        ends.back.set_spin(Duration::ZERO);
        Ok(Self(ends))
    }
}

impl<const BLOCK_ON: bool> End for AlwaysPark<BLOCK_ON> {
    fn send(&mut self, message: &Message) {
        let there = &mut self.0.there;
        let sent = if BLOCK_ON {
            block_on(AsyncSender::send(there, message))
        } else {
            there.send_blocking(message)
        };
        sent.expect("the queue stays open");
    }

    fn recv(&mut self) -> Message {
        let back = &mut self.0.back;
        let received =
            if BLOCK_ON { block_on(AsyncReceiver::recv(back)) } else { back.recv_blocking() };
        received.expect("the queue stays open")
    }
}

//! iceoryx2: publish and subscribe without loss, by copies and in place; and its events, which is
//! how its users sleep.
#![expect(unsafe_code, reason = "a loan that is sent without writing all of it")]

use anyhow::{Result, anyhow, ensure};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use super::super::ends::{Bytes, End, Process, retry};
use super::super::link::Link;
use super::super::pairs;
use super::super::peer::{Peer, names};
use super::super::spec::Spec;
use super::super::spec::Workload::{Copy, Idle, Inplace, Oneway, Parked, Roundtrip};
use crate::{CAPACITY, Message};

pub(crate) const PEERS: &[Peer] = &[
    Peer {
        name: names::ICEORYX,
        package: "iceoryx2",
        does: &[
            (&[Oneway, Roundtrip], pairs::processes::<Messages>),
            (&[Copy], pairs::bytes_between::<Slices<false>>),
        ],
    },
    Peer {
        name: names::ICEORYX_LOAN,
        package: "iceoryx2",
        does: &[(&[Inplace], pairs::bytes_between::<Slices<true>>)],
    },
    Peer {
        name: "iceoryx2 event",
        package: "iceoryx2",
        does: &[(&[Parked, Idle], pairs::processes::<Events>)],
    },
];

fn node() -> Result<Node<ipc::Service>> {
    set_log_level(LogLevel::Fatal);
    NodeBuilder::new().create::<ipc::Service>().map_err(fault)
}

fn fault(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("iceoryx2: {error:?}")
}

/// The names of the two directions, the one to send over first.
fn ways(spec: &Spec, near: bool) -> [String; 2] {
    let way = |way: &str| format!("{}/{way}", spec.name);
    if near { [way("there"), way("back")] } else { [way("back"), way("there")] }
}

struct Messages {
    there: Publisher<ipc::Service, Message, ()>,
    back: Subscriber<ipc::Service, Message, ()>,
    _node: Node<ipc::Service>,
}

impl Process for Messages {
    fn open(_: &mut Link, spec: &Spec, near: bool) -> Result<Self> {
        let node = node()?;
        let service = |name: &str| {
            let service = node.service_builder(&name.try_into().map_err(fault)?);
            let service = service.publish_subscribe::<Message>();
            let service = service.enable_safe_overflow(false).history_size(0);
            let service = service.subscriber_max_buffer_size(CAPACITY);
            service.max_publishers(1).max_subscribers(1).open_or_create().map_err(fault)
        };
        let [there, back] = ways(spec, near);
        let (there, back) = (service(&there)?, service(&back)?);
        let there = there.publisher_builder();
        let there = there.backpressure_strategy(BackpressureStrategy::DiscardData);
        let there = there.create().map_err(fault)?;
        let back = back.subscriber_builder().buffer_size(CAPACITY).create().map_err(fault)?;
        Ok(Self { there, back, _node: node })
    }
}

impl End for Messages {
    /// A publisher without a subscriber, or with one that has no room, delivers to none.
    fn send(&mut self, message: &Message) {
        retry(|| self.there.send_copy(*message).ok().filter(|heard| *heard > 0));
    }

    fn recv(&mut self) -> Message {
        retry(|| self.back.receive().ok().flatten().map(|sample| *sample))
    }
}

/// Bytes; `IN_PLACE` neither fills nor reads them.
struct Slices<const IN_PLACE: bool> {
    there: Publisher<ipc::Service, [u8], ()>,
    back: Subscriber<ipc::Service, [u8], ()>,
    _node: Node<ipc::Service>,
}

impl<const IN_PLACE: bool> Process for Slices<IN_PLACE> {
    fn open(_: &mut Link, spec: &Spec, near: bool) -> Result<Self> {
        let shape = spec.shape();
        let node = node()?;
        let service = |name: &str| {
            let service = node.service_builder(&name.try_into().map_err(fault)?);
            let service = service.publish_subscribe::<[u8]>();
            let service = service.enable_safe_overflow(false).history_size(0);
            let service = service.subscriber_max_buffer_size(shape.capacity);
            service.max_publishers(1).max_subscribers(1).open_or_create().map_err(fault)
        };
        let [there, back] = ways(spec, near);
        let (there, back) = (service(&there)?, service(&back)?);
        let there = there.publisher_builder().initial_max_slice_len(shape.len);
        let there = there.backpressure_strategy(BackpressureStrategy::DiscardData);
        let there = there.create().map_err(fault)?;
        let back = back.subscriber_builder().buffer_size(shape.capacity).create().map_err(fault)?;
        Ok(Self { there, back, _node: node })
    }
}

impl<const IN_PLACE: bool> Bytes for Slices<IN_PLACE> {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        retry(|| {
            let mut sample = self.there.loan_slice_uninit(bytes.len()).ok()?;
            let sample = if IN_PLACE {
                for (to, from) in sample.payload_mut().iter_mut().zip(&bytes[..8]) {
                    to.write(*from);
                }
                // SAFETY: any bytes are bytes; the memory is the service's, which began as zeros.
                unsafe { sample.assume_init() }
            } else {
                sample.write_from_slice(bytes)
            };
            sample.send().ok().filter(|heard| *heard > 0)
        });
        Ok(())
    }

    fn recv(&mut self, bytes: &mut [u8]) -> Result<()> {
        let sample = retry(|| self.back.receive().ok().flatten());
        ensure!(sample.len() == bytes.len(), "a message of another length");
        let read = if IN_PLACE { 8 } else { bytes.len() };
        bytes[..read].copy_from_slice(&sample[..read]);
        Ok(())
    }
}

/// A notification carries no message: this one's id does, its first word.
struct Events {
    there: Notifier<ipc::Service>,
    back: Listener<ipc::Service>,
    _node: Node<ipc::Service>,
}

impl Process for Events {
    fn open(_: &mut Link, spec: &Spec, near: bool) -> Result<Self> {
        let node = node()?;
        let service = |name: &str| {
            let name = name.try_into().map_err(fault)?;
            node.service_builder(&name).event().open_or_create().map_err(fault)
        };
        let [there, back] = ways(spec, near);
        let (there, back) = (service(&there)?, service(&back)?);
        let back = back.listener_builder().create().map_err(fault)?;
        let there = there.notifier_builder().create().map_err(fault)?;
        Ok(Self { there, back, _node: node })
    }
}

impl End for Events {
    fn send(&mut self, message: &Message) {
        let id = EventId::new(usize::try_from(message[0]).unwrap_or_default());
        retry(|| self.there.notify_with_custom_event_id(id).ok().filter(|heard| *heard > 0));
    }

    fn recv(&mut self) -> Message {
        loop {
            let event = self.back.blocking_wait_one().expect("the listener lives");
            if let Some(id) = event {
                return [id.as_value() as u64; 8];
            }
        }
    }
}

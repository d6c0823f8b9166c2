//! The floor under every parked round trip: two processes hand one message back and forth on plain
//! futexes.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use anyhow::Result;
use rustix::thread::futex::{self, Flags};
use zerocopy::FromZeros;

use super::super::ends::{End, Memfds};
use super::super::pairs;
use super::super::peer::{Peer, names};
use super::super::spec::Spec;
use super::super::spec::Workload::{Idle, Parked};
use crate::{Message, shared};

pub(crate) const PEERS: &[Peer] = &[Peer {
    name: names::FUTEX,
    package: "rustix",
    does: &[(&[Parked, Idle], pairs::processes::<PingPong>)],
}];

/// A message on its way, and a futex that says so.
#[derive(Debug, FromZeros)]
#[repr(C, align(128))]
struct Mailbox {
    /// 1 while a message is in it.
    full: AtomicU32,
    message: [AtomicU64; 8],
}

/// One end of two mailboxes. For round trips alone: a sender takes it that its last message was
/// received, which it knows by the answer.
#[derive(Debug)]
struct PingPong {
    there: &'static Mailbox,
    back: &'static Mailbox,
}

impl Memfds for PingPong {
    fn memfd(_: &Spec) -> Result<OwnedFd> {
        Ok(shared::create::<Mailbox>()?)
    }

    fn over(there: OwnedFd, back: OwnedFd, _: &Spec) -> Result<Self> {
        Ok(Self { there: shared::map(there)?, back: shared::map(back)? })
    }
}

impl End for PingPong {
    fn send(&mut self, message: &Message) {
        let Mailbox { full, message: words } = self.there;
        for (to, from) in words.iter().zip(message) {
            to.store(*from, Relaxed);
        }
        full.store(1, Release);
        // An error would mean that the far end is gone, and then this process ends too.
        let _ = futex::wake(full, Flags::empty(), 1);
    }

    fn recv(&mut self) -> Message {
        let Mailbox { full, message: words } = self.back;
        while full.load(Acquire) == 0 {
            // Woken, changed before, interrupted: all mean "look again".
            let _ = futex::wait(full, Flags::empty(), 0, None);
        }
        let message = std::array::from_fn(|word| words[word].load(Relaxed));
        full.store(0, Release);
        message
    }
}

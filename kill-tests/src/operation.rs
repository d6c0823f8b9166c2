//! What a victim is killed in, and what may have become of the messages by then.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use parkline_core::Queue;
use parkline_uring::{AsyncReceiver, block_on};

use crate::marks::Marks;
use crate::message::{self, Id};
use crate::states::{State, States};

/// How full the ring is when the operation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fill {
    Empty,
    Half,
    Full,
}

/// Messages of every ring here.
pub(crate) const CAPACITY: usize = 4;
/// What victims send.
const NEW: [Id; 2] = [5, 6];

impl Fill {
    pub(crate) const ALL: [Self; 3] = [Self::Empty, Self::Half, Self::Full];

    pub(crate) fn messages(self) -> Vec<Id> {
        let count = match self {
            Self::Empty => 0,
            Self::Half => CAPACITY / 2,
            Self::Full => CAPACITY,
        };
        (1..=count as Id).collect()
    }
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Empty => "empty",
            Self::Half => "half full",
            Self::Full => "full",
        })
    }
}

/// An operation that a victim is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Operation {
    TrySend,
    TryRecv,
    ReserveCommit,
    LeaseAck,
    Nack,
    SendMany,
    RecvMany,
    Close,
    AttachSender,
    AttachReceiver,
    DetachSender,
    DetachReceiver,
    /// `recover()` of one that died right before its send's exchange.
    RecoverSending,
    /// `recover()` of one that died right after its send's exchange.
    RecoverSent,
    /// `recover()` of one that died right before its receive's exchange.
    RecoverTaking,
    /// `recover()` of one that died right after its receive's exchange.
    RecoverTaken,
    /// `recover()` of one that died with a lease.
    RecoverLease,
    /// A new receiver that takes the record of one that died with a lease.
    AttachLease,
    /// A blocking receive that sleeps and is woken by a send.
    Park,
    /// The same in a thread's own io_uring.
    ParkAsync,
    /// A blocking send that sleeps and is woken by a receive.
    ParkSend,
    /// A send while a receiver sleeps.
    Wake,
}

impl Operation {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }

    pub(crate) fn of_name(name: &str) -> Result<Self> {
        Self::from_str(name, false).ok().with_context(|| format!("no operation is `{name}`"))
    }

    /// Whom a recovery recovers: who died in which operation.
    pub(crate) fn recovers(self) -> Option<Dead> {
        Some(match self {
            Self::RecoverSending => Dead { of: Self::TrySend, when: When::BeforeExchange },
            Self::RecoverSent => Dead { of: Self::TrySend, when: When::AfterExchange },
            Self::RecoverTaking => Dead { of: Self::TryRecv, when: When::BeforeExchange },
            Self::RecoverTaken => Dead { of: Self::TryRecv, when: When::AfterExchange },
            Self::RecoverLease | Self::AttachLease => Dead { of: Self::Nack, when: When::AtBegin },
            _ => return None,
        })
    }

    /// Whether it sleeps until it is woken.
    pub(crate) fn sleeps(self) -> bool {
        matches!(self, Self::Park | Self::ParkAsync | Self::ParkSend)
    }

    /// Whether another receiver sleeps meanwhile.
    pub(crate) fn needs_waiter(self) -> bool {
        self == Self::Wake
    }

    /// Whether it can be what it is in a ring that begins so.
    pub(crate) fn makes_sense(self, fill: Fill) -> bool {
        match self {
            Self::Park | Self::ParkAsync | Self::Wake => fill == Fill::Empty,
            Self::ParkSend => fill == Fill::Full,
            Self::RecoverSending | Self::RecoverSent => fill != Fill::Full,
            Self::Nack
            | Self::RecoverTaking
            | Self::RecoverTaken
            | Self::RecoverLease
            | Self::AttachLease => fill != Fill::Empty,
            _ => true,
        }
    }

    /// Whether its process has its record from begin to end.
    #[cfg(kill_points)]
    pub(crate) fn keeps_record(self) -> bool {
        use Operation as It;
        let moves = [It::Close, It::AttachSender, It::AttachReceiver, It::DetachSender];
        !moves.contains(&self) && self != It::DetachReceiver && self.recovers().is_none()
    }

    /// How many records its processes own, the one that died before included.
    pub(crate) fn records(self) -> usize {
        match self {
            Self::Close => 0,
            _ => 1,
        }
    }

    /// The states that a kill may leave, in the order in which the operation goes through them.
    pub(crate) fn states(self, fill: Fill) -> States {
        self.states_from(State::of(&fill.messages()))
    }

    pub(crate) fn states_from(self, begin: State) -> States {
        let mut states = States::from(begin);
        match self {
            Self::TrySend | Self::ReserveCommit => states.then_sent(NEW[0]),
            Self::SendMany => NEW.into_iter().for_each(|id| states.then_sent(id)),
            Self::TryRecv | Self::LeaseAck => states.then_received(),
            Self::RecvMany => (0..2).for_each(|_| states.then_received()),
            Self::Nack => {
                states.begins_leased();
                states.then_returned();
            }
            Self::Close => states.then_closed(),
            Self::RecoverSent => states.begins_sent(NEW[0]),
            Self::RecoverTaken | Self::RecoverLease | Self::AttachLease => {
                states.begins_leased();
                states.then_returned();
            }
            Self::Park | Self::ParkAsync => {
                states.then_sent(1);
                states.then_received();
            }
            Self::ParkSend => {
                states.then_taken();
                states.then_sent(NEW[0]);
            }
            Self::Wake => states.then_sent(NEW[0]),
            Self::AttachSender
            | Self::AttachReceiver
            | Self::DetachSender
            | Self::DetachReceiver
            | Self::RecoverSending
            | Self::RecoverTaking => {}
        }
        states
    }

    /// The victim's part: prepares, and does it between two marks. `len` is that of all messages.
    pub(crate) fn play(self, queue: &Queue, len: usize, marks: &Marks) -> Result<()> {
        let new = NEW.map(|id| message::of(id, len));
        match self {
            Self::TrySend | Self::Wake => {
                let mut sender = queue.sender()?;
                let _ = marks.around(|| sender.try_send(&new[0]));
            }
            Self::ReserveCommit => {
                let mut sender = queue.sender()?;
                let _ = marks.around(|| {
                    let mut reserved = sender.try_reserve(len).ok()?;
                    reserved.write_at(0, &new[0]);
                    reserved.try_commit().ok()
                });
            }
            Self::SendMany => {
                let mut sender = queue.sender()?;
                let messages = new.each_ref().map(Vec::as_slice);
                let _ = marks.around(|| sender.try_send_many(messages));
            }
            Self::TryRecv => {
                let mut receiver = queue.receiver()?;
                let _ = marks.around(|| receiver.try_recv());
            }
            Self::RecvMany => {
                let mut receiver = queue.receiver()?;
                let mut messages = Vec::with_capacity(2);
                let _ = marks.around(|| receiver.try_recv_many(&mut messages, 2));
            }
            Self::LeaseAck => {
                let mut receiver = queue.receiver()?;
                marks.around(|| {
                    if let Ok(lease) = receiver.try_lease() {
                        lease.ack();
                    }
                });
            }
            Self::Nack => {
                let mut receiver = queue.receiver()?;
                let lease = receiver.try_lease()?;
                let _ = marks.around(|| receiver.nack(lease));
            }
            Self::Close => marks.around(|| queue.close())?,
            Self::AttachSender => drop(marks.around(|| queue.sender())?),
            Self::AttachReceiver | Self::AttachLease => drop(marks.around(|| queue.receiver())?),
            Self::DetachSender => {
                let sender = queue.sender()?;
                marks.around(|| drop(sender));
            }
            Self::DetachReceiver => {
                let receiver = queue.receiver()?;
                marks.around(|| drop(receiver));
            }
            Self::RecoverSending
            | Self::RecoverSent
            | Self::RecoverTaking
            | Self::RecoverTaken
            | Self::RecoverLease => {
                let recovered = marks.around(|| queue.recover())?;
                if recovered.handles != 1 || recovered.waiting + recovered.postponed != 0 {
                    bail!("one was dead, and this was recovered: {recovered:?}");
                }
            }
            Self::ParkSend => {
                let mut sender = queue.sender()?;
                // How often it would look is up to the clock; here and below.
                sender.set_spin(Duration::ZERO);
                let _ = marks.around(|| sender.send_blocking(&new[0]));
            }
            Self::Park => {
                let mut receiver = queue.receiver()?;
                receiver.set_spin(Duration::ZERO);
                let _ = marks.around(|| receiver.recv_blocking());
            }
            Self::ParkAsync => {
                let mut receiver = queue.receiver()?;
                receiver.set_spin(Duration::ZERO);
                // The thread's ring is there, as in all calls but the first.
                block_on(async {});
                let _ = marks.around(|| block_on(receiver.recv()));
            }
        }
        Ok(())
    }
}

/// One that died before the operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead {
    pub(crate) of: Operation,
    pub(crate) when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    AtBegin,
    BeforeExchange,
    AfterExchange,
}

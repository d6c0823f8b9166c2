//! The operations in which victims are killed, and the moves of each in the model of `states.rs`.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use parkline_core::{Lease, Queue, Receiver, Sender};
use parkline_uring::{AsyncReceiver, block_on};

use crate::marks::Marks;
use crate::message::{self, Id};
use crate::states::{CAPACITY, Move, RECEIVE, State, States};

/// How full the ring is when the operation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fill {
    Empty,
    Half,
    Full,
}

/// The messages that victims send.
pub(crate) const NEW: [Id; 2] = [5, 6];
/// Longer than any victim lives.
const HOUR: Duration = Duration::from_secs(3600);

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
    LeaseDrop,
    Nack,
    NackAfter,
    /// A lease is dropped while the ring is full: its message is owed.
    DropOwed,
    /// A receive of a handle that owes: it makes room, and returns with it what it owes.
    ReturnOwed,
    /// The same by a wait of the process, after another had made room.
    ReturnInWait,
    /// A receive of a handle that owes with all its cells, while the ring is full.
    TakeOwed,
    /// A receive that discards a message that had enough attempts.
    DiscardDead,
    /// The same with a handler.
    HandleDead,
    /// The same with a queue for such messages: here the very queue.
    ForwardDead,
    SendMany,
    RecvMany,
    Close,
    AttachSender,
    AttachReceiver,
    DetachSender,
    DetachReceiver,
    /// A receiver is dropped that owes, while the ring is full.
    DetachOwing,
    /// The same when there is room by then.
    DetachReturning,
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

    /// Which dead process the operation recovers: the operation and the place of its death.
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

    /// Whether the operation sleeps until it is woken.
    pub(crate) fn sleeps(self) -> bool {
        matches!(self, Self::Park | Self::ParkAsync | Self::ParkSend)
    }

    /// Whether another receiver sleeps meanwhile.
    pub(crate) fn needs_waiter(self) -> bool {
        self == Self::Wake
    }

    /// Whether the operation does what its name says if the ring begins with this fill.
    pub(crate) fn makes_sense(self, fill: Fill) -> bool {
        match self {
            Self::Park | Self::ParkAsync | Self::Wake => fill == Fill::Empty,
            Self::ParkSend
            | Self::DropOwed
            | Self::ReturnOwed
            | Self::ReturnInWait
            | Self::TakeOwed
            | Self::DetachOwing
            | Self::DetachReturning => fill == Fill::Full,
            // With a full ring or an empty one other messages would have attempts, too.
            Self::DiscardDead | Self::HandleDead | Self::ForwardDead => fill == Fill::Half,
            Self::RecoverSending | Self::RecoverSent => fill != Fill::Full,
            Self::LeaseDrop
            | Self::Nack
            | Self::NackAfter
            | Self::RecoverTaking
            | Self::RecoverTaken
            | Self::RecoverLease
            | Self::AttachLease => fill != Fill::Empty,
            _ => true,
        }
    }

    /// How many records the victim owns, or the victim and the process that died before it.
    pub(crate) fn records(self) -> usize {
        match self {
            Self::Close => 0,
            Self::DropOwed
            | Self::ReturnOwed
            | Self::TakeOwed
            | Self::DetachOwing
            | Self::ForwardDead => 2,
            Self::ReturnInWait | Self::DetachReturning => 3,
            _ => 1,
        }
    }

    /// After how many attempts a message is a dead letter, if the queue has such a limit.
    pub(crate) fn max_attempts(self) -> Option<u16> {
        matches!(self, Self::DiscardDead | Self::HandleDead | Self::ForwardDead).then_some(1)
    }

    /// What the victim did before the operation.
    pub(crate) fn before(self) -> &'static [Move] {
        use Move::{Acknowledge, GiveBack, Send, Take, TakenAway};
        match self {
            Self::LeaseDrop
            | Self::Nack
            | Self::NackAfter
            | Self::RecoverTaken
            | Self::RecoverLease
            | Self::AttachLease => &[Take],
            Self::RecoverSent => &[Send(NEW[0])],
            Self::DropOwed => &[Take, Send(NEW[0])],
            Self::ReturnOwed | Self::DetachOwing => &[Take, Send(NEW[0]), GiveBack(0)],
            Self::ReturnInWait | Self::DetachReturning => {
                &[Take, Send(NEW[0]), GiveBack(0), TakenAway]
            }
            Self::TakeOwed => &[Take, Take, Send(NEW[0]), Send(NEW[1]), GiveBack(0), GiveBack(1)],
            Self::DiscardDead | Self::HandleDead => &[Take, GiveBack(0), Take, Acknowledge],
            Self::ForwardDead => &[Take, GiveBack(0), Take, Acknowledge, Send(NEW[0])],
            _ => &[],
        }
    }

    /// What the operation does, one change after the other.
    pub(crate) fn moves(self) -> &'static [Move] {
        use Move::{
            Acknowledge, Close, Count, Forward, GiveBack, Owe, ReturnOwed, Send, Settle, Take,
            TakeOwed, TakenAway,
        };
        match self {
            Self::TrySend | Self::ReserveCommit | Self::Wake => &[Send(NEW[0])],
            Self::SendMany => &[Send(NEW[0]), Send(NEW[1])],
            Self::TryRecv | Self::LeaseAck | Self::DiscardDead | Self::HandleDead => &RECEIVE,
            Self::RecvMany => &[Take, Acknowledge, Take, Acknowledge],
            Self::LeaseDrop
            | Self::Nack
            | Self::DropOwed
            | Self::RecoverTaken
            | Self::RecoverLease
            | Self::AttachLease => &[GiveBack(0)],
            Self::NackAfter => &[Owe(0)],
            Self::ReturnOwed => &[Take, ReturnOwed, Settle, Acknowledge],
            Self::ReturnInWait | Self::DetachReturning => &[ReturnOwed, Settle],
            Self::TakeOwed => &[TakeOwed, Count, Acknowledge],
            Self::ForwardDead => &[Take, Count, Forward, Acknowledge, Take, Acknowledge],
            Self::Close => &[Close],
            Self::Park | Self::ParkAsync => &[Send(1), Take, Acknowledge],
            Self::ParkSend => &[TakenAway, Send(NEW[0])],
            Self::AttachSender
            | Self::AttachReceiver
            | Self::DetachSender
            | Self::DetachReceiver
            | Self::DetachOwing
            | Self::RecoverSending
            | Self::RecoverSent
            | Self::RecoverTaking => &[],
        }
    }

    /// The states that a kill may leave, in the order in which the operation goes through them.
    pub(crate) fn states(self, fill: Fill) -> States {
        self.states_from(self.prepared(State::of(&fill.messages()), 0), 0)
    }

    /// The state after what victim `who` did before the operation.
    pub(crate) fn prepared(self, begin: State, who: usize) -> State {
        begin.after(who, self.before())
    }

    /// The states of an operation of victim `who`, which is prepared.
    pub(crate) fn states_from(self, begin: State, who: usize) -> States {
        States::of(begin, who, self.moves())
    }

    /// The victim's part: prepares, and does the operation between two marks. All messages have `len`
    /// bytes.
    pub(crate) fn play(self, queue: &Queue, len: usize, marks: &impl Marks) -> Result<()> {
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
            Self::LeaseDrop => {
                let (_receiver, lease) = leased(queue)?;
                marks.around(|| drop(lease));
            }
            Self::Nack => {
                let (_receiver, lease) = leased(queue)?;
                marks.around(|| lease.nack());
            }
            Self::NackAfter => {
                let (_receiver, lease) = leased(queue)?;
                marks.around(|| lease.nack_after(HOUR));
            }
            Self::DropOwed => {
                let (_receiver, _sender, leases) = without_room(queue, &new[..1])?;
                marks.around(|| drop(leases));
            }
            Self::ReturnOwed => {
                let (mut receiver, _sender, leases) = without_room(queue, &new[..1])?;
                drop(leases);
                let _ = marks.around(|| receiver.try_recv());
            }
            Self::ReturnInWait => {
                let (_receiver, _sender, leases) = without_room(queue, &new[..1])?;
                drop(leases);
                let mut other = queue.receiver()?;
                other.try_recv()?;
                let _ = marks.around(|| queue.join_blocking_timeout(Duration::ZERO));
            }
            Self::TakeOwed => {
                let (mut receiver, _sender, leases) = without_room(queue, &new)?;
                drop(leases);
                marks.around(|| {
                    if let Ok(lease) = receiver.try_lease() {
                        lease.ack();
                    }
                });
            }
            Self::DiscardDead | Self::HandleDead | Self::ForwardDead => {
                let (mut receiver, lease) = leased(queue)?;
                drop(lease);
                receiver.try_recv()?;
                match self {
                    Self::DiscardDead => receiver.discard_dead_letters(),
                    Self::HandleDead => receiver.on_dead_letter(|_| {}),
                    _ => {
                        let mut sender = queue.sender()?;
                        sender.try_send(&new[0])?;
                        receiver.forward_dead_letters(sender);
                    }
                }
                let _ = marks.around(|| receiver.try_recv());
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
            Self::DetachOwing => {
                let (receiver, _sender, leases) = without_room(queue, &new[..1])?;
                drop(leases);
                marks.around(|| drop(receiver));
            }
            Self::DetachReturning => {
                let (receiver, _sender, leases) = without_room(queue, &new[..1])?;
                drop(leases);
                let mut other = queue.receiver()?;
                other.try_recv()?;
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
                // How often it would spin depends on the clock. So it does not spin, here and below.
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
                // Makes the thread's ring, which is there in all calls but a thread's first.
                block_on(async {});
                let _ = marks.around(|| block_on(receiver.recv()));
            }
        }
        Ok(())
    }
}

/// A receiver, and its lease on the oldest message.
pub(crate) fn leased(queue: &Queue) -> Result<(Receiver, Lease)> {
    let mut receiver = queue.receiver()?;
    let lease = receiver.try_lease()?;
    Ok((receiver, lease))
}

/// A receiver, and its leases on the oldest messages. There is no room to return them, because the
/// sender sent as many new ones.
pub(crate) fn without_room(
    queue: &Queue,
    new: &[Vec<u8>],
) -> Result<(Receiver, Sender, Vec<Lease>)> {
    let (mut receiver, mut sender) = (queue.receiver()?, queue.sender()?);
    let leases = new.iter().map(|_| receiver.try_lease()).collect::<Result<_, _>>()?;
    for message in new {
        sender.try_send(message)?;
    }
    Ok((receiver, sender, leases))
}

/// A process that died before the operation.
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

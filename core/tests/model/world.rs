//! What a queue must do, told by a `VecDeque`: an operation is applied to both, and their answers
//! must agree.
//!
//! Shared by the property test beside it and by the fuzz target `ops`.

use std::collections::VecDeque;
use std::time::Duration;

use parkline_core::{Fault, Lease, Queue, Receiver, Sender, TryRecvError, TrySendError};

const LEASES: usize = 2;
pub(crate) const MAX_MESSAGE: usize = 300;

/// An operation on one of two senders or receivers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Send { who: usize, len: usize },
    SendMany { who: usize, count: usize },
    Reserve { who: usize, len: usize, commit: bool },
    Recv { who: usize },
    RecvMany { who: usize, limit: usize },
    Lease { who: usize },
    Ack { who: usize },
    Nack { who: usize },
    Reattach { who: usize },
    Close,
}

/// A message in the model, with how often it was given back.
#[derive(Clone, Debug)]
struct Sent {
    bytes: Vec<u8>,
    returned: u16,
}

#[derive(Debug)]
struct Side {
    receiver: Receiver,
    leases: VecDeque<(Lease, Sent)>,
}

/// A queue with two senders and two receivers, and the model of it.
#[derive(Debug)]
pub(crate) struct World {
    queue: Queue,
    senders: Vec<Sender>,
    sides: Vec<Side>,
    model: VecDeque<Sent>,
    /// What each side owes, in the order in which they began: at most one message a side.
    owed: VecDeque<(usize, Sent)>,
    closed: bool,
    /// So that no two messages are alike.
    serial: u64,
}

impl World {
    pub(crate) fn new(capacity: usize) -> Self {
        let queue = Queue::builder()
            .capacity(capacity)
            .max_message(MAX_MESSAGE)
            .handles(4)
            .leases(LEASES)
            .max_attempts(u16::MAX)
            .create()
            .unwrap();
        let senders = (0..2).map(|_| queue.sender().unwrap()).collect();
        let side = || Side { receiver: queue.receiver().unwrap(), leases: VecDeque::new() };
        let sides = vec![side(), side()];
        let (model, owed) = (VecDeque::new(), VecDeque::new());
        Self { queue, senders, sides, model, owed, closed: false, serial: 0 }
    }

    fn message(&mut self, len: usize) -> Vec<u8> {
        self.serial += 1;
        self.serial.to_ne_bytes().into_iter().cycle().take(len).collect()
    }

    /// What a send of `len` bytes must answer.
    fn refusal(&self, len: usize) -> Option<TrySendError> {
        if len > MAX_MESSAGE {
            let fault = Fault::MessageTooLarge { len, max: MAX_MESSAGE };
            Some(TrySendError::Fault((), fault))
        } else if self.closed {
            Some(TrySendError::Closed(()))
        } else if self.model.len() == self.queue.capacity() {
            Some(TrySendError::Full(()))
        } else {
            None
        }
    }

    fn sent(&mut self, bytes: Vec<u8>) {
        self.model.push_back(Sent { bytes, returned: 0 });
    }

    fn nothing(&self) -> TryRecvError {
        let is_in_hands = self.sides.iter().any(|side| !side.leases.is_empty());
        if self.closed && !is_in_hands { TryRecvError::Closed } else { TryRecvError::Empty }
    }

    /// The oldest message. With the room that this makes, the side returns what it owes.
    fn receive(&mut self, who: usize) -> Option<Sent> {
        let received = self.model.pop_front()?;
        if let Some(at) = self.owed.iter().position(|(side, _)| *side == who) {
            self.model.extend(self.owed.remove(at).map(|(_, sent)| sent));
        }
        Some(received)
    }

    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Send { who, len } => {
                let message = self.message(len);
                let refusal = self.refusal(len);
                assert_eq!(self.senders[who].try_send(&message).err(), refusal);
                if refusal.is_none() {
                    self.sent(message);
                }
            }
            Op::SendMany { who, count } => {
                let messages: Vec<_> = (0..count).map(|_| self.message(9)).collect();
                let room = self.queue.capacity() - self.model.len();
                let refs = messages.iter().map(|it| &it[..]);
                match self.senders[who].try_send_many(refs) {
                    Ok(sent) => {
                        assert!(!self.closed || count == 0);
                        assert_eq!(sent, count.min(room));
                        messages.into_iter().take(sent).for_each(|it| self.sent(it));
                    }
                    Err(error) => assert_eq!(Some(error), self.refusal(9)),
                }
            }
            Op::Reserve { who, len, commit } => {
                let message = self.message(len);
                let refusal = self.refusal(len);
                match self.senders[who].try_reserve(len) {
                    Ok(mut reservation) => {
                        assert_eq!(refusal, None);
                        if commit {
                            reservation.write_at(0, &message);
                            reservation.try_commit().unwrap();
                            self.sent(message);
                        }
                    }
                    Err(error) => assert_eq!(Some(error), refusal),
                }
            }
            Op::Recv { who } => match (self.sides[who].receiver.try_recv(), self.receive(who)) {
                (Ok(received), Some(sent)) => assert_eq!(received, sent.bytes),
                (Err(error), None) => assert_eq!(error, self.nothing()),
                (received, sent) => panic!("received {received:?}, sent was {sent:?}"),
            },
            Op::RecvMany { who, limit } => {
                let mut messages = Vec::new();
                match self.sides[who].receiver.try_recv_many(&mut messages, limit) {
                    Ok(count) => {
                        let most = limit.min(self.queue.capacity());
                        let sent: Vec<_> = (0..most).map_while(|_| self.receive(who)).collect();
                        assert_eq!(messages.len(), count);
                        assert!(messages.iter().eq(sent.iter().map(|it| &it.bytes)));
                    }
                    Err(error) => {
                        assert!(self.model.is_empty() && limit > 0);
                        assert_eq!(error, self.nothing());
                    }
                }
            }
            Op::Lease { who } => {
                let nothing = self.nothing();
                let owes = self.owed.iter().position(|(side, _)| *side == who);
                let are_out = self.sides[who].leases.len() + usize::from(owes.is_some()) == LEASES;
                let expected = match owes {
                    // The queue is full, or it would be there.
                    Some(at) if are_out => self.owed.remove(at).map(|(_, sent)| sent),
                    _ if are_out => {
                        let out = TryRecvError::Fault(Fault::LeasesOut { max: LEASES });
                        assert_eq!(self.sides[who].receiver.try_lease().unwrap_err(), out);
                        return;
                    }
                    _ => self.receive(who),
                };
                match (self.sides[who].receiver.try_lease(), expected) {
                    (Ok(lease), Some(sent)) => {
                        assert_eq!(lease.attempts(), sent.returned + 1);
                        assert_eq!(lease.redelivered(), sent.returned > 0);
                        self.sides[who].leases.push_back((lease, sent));
                    }
                    (Err(error), None) => assert_eq!(error, nothing),
                    (leased, sent) => panic!("leased {leased:?}, sent was {sent:?}"),
                }
            }
            Op::Ack { who } => {
                if let Some((lease, sent)) = self.sides[who].leases.pop_front() {
                    assert_eq!(lease.read().unwrap(), sent.bytes);
                    lease.ack();
                }
            }
            Op::Nack { who } => {
                let is_full = self.model.len() == self.queue.capacity();
                let owes = self.owed.iter().any(|(side, _)| *side == who);
                if is_full && owes {
                    return;
                }
                let Some((lease, mut sent)) = self.sides[who].leases.pop_back() else { return };
                lease.nack();
                sent.returned += 1;
                match is_full {
                    true => self.owed.push_back((who, sent)),
                    false => self.model.push_back(sent),
                }
            }
            Op::Reattach { who } => {
                self.senders.remove(who);
                self.senders.insert(who, self.queue.sender().unwrap());
                let owes = self.owed.iter().any(|(side, _)| *side == who);
                if self.sides[who].leases.is_empty() && !owes {
                    self.sides.remove(who);
                    let receiver = self.queue.receiver().unwrap();
                    self.sides.insert(who, Side { receiver, leases: VecDeque::new() });
                }
            }
            Op::Close => {
                self.queue.close().unwrap();
                self.closed = true;
            }
        }
    }

    pub(crate) fn check(&mut self) {
        assert_eq!(self.queue.len(), self.model.len());
        assert_eq!(self.queue.stats().owed, self.owed.len() as u64);
        assert_eq!(self.queue.is_closed(), self.closed);
        // A wait of this process, as is a join, returns what it owes.
        while self.model.len() < self.queue.capacity()
            && let Some((_, sent)) = self.owed.pop_front()
        {
            self.model.push_back(sent);
        }
        let is_done = self.model.is_empty() && self.sides.iter().all(|it| it.leases.is_empty());
        assert_eq!(self.queue.join_blocking_timeout(Duration::ZERO).is_ok(), is_done);
        for (lease, sent) in self.sides.iter().flat_map(|side| &side.leases) {
            assert_eq!(lease.read().unwrap(), sent.bytes, "nobody writes to a leased message");
        }
    }
}

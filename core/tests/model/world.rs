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
        Self { queue, senders, sides, model: VecDeque::new(), closed: false, serial: 0 }
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
        if self.closed { TryRecvError::Closed } else { TryRecvError::Empty }
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
            Op::Recv { who } => match (self.sides[who].receiver.try_recv(), self.model.pop_front())
            {
                (Ok(received), Some(sent)) => assert_eq!(received, sent.bytes),
                (Err(error), None) => assert_eq!(error, self.nothing()),
                (received, sent) => panic!("received {received:?}, sent was {sent:?}"),
            },
            Op::RecvMany { who, limit } => {
                let mut messages = Vec::new();
                match self.sides[who].receiver.try_recv_many(&mut messages, limit) {
                    Ok(count) => {
                        assert_eq!(count, limit.min(self.model.len()));
                        let sent: Vec<_> = self.model.drain(..count).map(|it| it.bytes).collect();
                        assert_eq!(messages, sent);
                    }
                    Err(error) => {
                        assert!(self.model.is_empty() && limit > 0);
                        assert_eq!(error, self.nothing());
                    }
                }
            }
            Op::Lease { who } => {
                let nothing = self.nothing();
                let side = &mut self.sides[who];
                if side.leases.len() == LEASES && !self.model.is_empty() {
                    let out = Fault::LeasesOut { max: LEASES };
                    assert_eq!(side.receiver.try_lease().unwrap_err(), TryRecvError::Fault(out));
                    return;
                }
                match (side.receiver.try_lease(), self.model.pop_front()) {
                    (Ok(lease), Some(sent)) => {
                        assert_eq!(lease.attempts(), sent.returned + 1);
                        assert_eq!(lease.redelivered(), sent.returned > 0);
                        side.leases.push_back((lease, sent));
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
                let side = &mut self.sides[who];
                let Some((lease, mut sent)) = side.leases.pop_back() else { return };
                match side.receiver.nack(lease) {
                    Ok(()) => {
                        assert!(!is_full);
                        sent.returned += 1;
                        self.model.push_back(sent);
                    }
                    Err(TrySendError::Full(lease)) => {
                        assert!(is_full);
                        assert_eq!(lease.read().unwrap(), sent.bytes);
                        side.leases.push_back((lease, sent));
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            Op::Reattach { who } => {
                self.senders.remove(who);
                self.senders.insert(who, self.queue.sender().unwrap());
                if self.sides[who].leases.is_empty() {
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

    pub(crate) fn check(&self) {
        assert_eq!(self.queue.len(), self.model.len());
        assert_eq!(self.queue.is_closed(), self.closed);
        let is_done = self.model.is_empty() && self.sides.iter().all(|it| it.leases.is_empty());
        assert_eq!(self.queue.join_blocking_timeout(Duration::ZERO).is_ok(), is_done);
        for (lease, sent) in self.sides.iter().flat_map(|side| &side.leases) {
            assert_eq!(lease.read().unwrap(), sent.bytes, "nobody writes to a leased message");
        }
    }
}

//! Many handles at once, and handles that come late.

use std::collections::BTreeMap;
use std::thread;

use parkline_core::{TryRecvError, TrySendError};

use crate::{of_capacity, without_hanging};

/// A handle has no cursor when it starts: it finds the frontier by the slots alone, wherever that
/// is.
///
/// Caught: the search for the frontier without its way back.
#[test]
fn a_handle_that_starts_late_finds_its_place() {
    for capacity in [1, 2, 4, 8, 16, 32, 64] {
        for waiting in 0..=capacity as u32 {
            let queue = of_capacity(capacity);
            let mut early = queue.sender().unwrap();
            for n in 0..waiting {
                early.try_send(&n.to_ne_bytes()).unwrap();
            }
            for n in 0..2 * capacity as u32 + 1 {
                assert_eq!(queue.len(), waiting as usize);
                let (mut sender, mut receiver) =
                    (queue.sender().unwrap(), queue.receiver().unwrap());
                let next = (n + waiting).to_ne_bytes();
                if waiting as usize == capacity {
                    assert_eq!(sender.try_send(&next), Err(TrySendError::Full(())));
                    assert_eq!(receiver.try_recv().unwrap(), n.to_ne_bytes());
                    sender.try_send(&next).unwrap();
                } else if waiting == 0 {
                    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
                    sender.try_send(&next).unwrap();
                    assert_eq!(receiver.try_recv().unwrap(), n.to_ne_bytes());
                } else {
                    sender.try_send(&next).unwrap();
                    assert_eq!(receiver.try_recv().unwrap(), n.to_ne_bytes());
                }
            }
        }
    }
}

/// Caught: a cursor that moves one lap too far.
#[test]
fn a_handle_that_slept_finds_its_place_again() {
    for capacity in [1, 2, 4, 8, 64] {
        for moved in 0..3 * capacity as u32 + 1 {
            let queue = of_capacity(capacity);
            let (mut sleeper, mut old) = (queue.sender().unwrap(), queue.receiver().unwrap());
            let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
            for _ in 0..moved {
                sender.try_send(b"past").unwrap();
                receiver.try_recv().unwrap();
            }
            assert_eq!(old.try_recv(), Err(TryRecvError::Empty));
            for n in 0..capacity {
                sleeper.try_send(&[n as u8]).unwrap();
            }
            assert_eq!(sleeper.try_send(b"full"), Err(TrySendError::Full(())));
            for n in 0..capacity {
                assert_eq!(old.try_recv().unwrap(), [n as u8]);
            }
        }
    }
}

/// The fates of `(sender, number)` messages: each arrived once, and in the order of its sender at
/// each receiver.
fn assert_all_arrived_once_and_in_order(received: &[Vec<(u32, u32)>], senders: u32, each: u32) {
    let mut arrivals = BTreeMap::new();
    for messages in received {
        let mut last = BTreeMap::new();
        for (sender, n) in messages {
            let before = last.insert(*sender, *n);
            assert!(before < Some(*n), "{n} of sender {sender} came after {before:?}");
            *arrivals.entry((*sender, *n)).or_insert(0) += 1;
        }
    }
    assert_eq!(arrivals.len() as u32, senders * each, "none was lost, none invented");
    assert!(arrivals.values().all(|times| *times == 1), "none came twice");
}

fn to_bytes(sender: u32, n: u32) -> [u8; 8] {
    (u64::from(sender) << 32 | u64::from(n)).to_ne_bytes()
}

fn from_bytes(message: &[u8]) -> (u32, u32) {
    let both = u64::from_ne_bytes(message.try_into().unwrap());
    ((both >> 32) as u32, both as u32)
}

/// Caught: an exchange that stores without comparing.
#[test]
fn many_senders_and_receivers_lose_and_repeat_nothing() {
    const EACH: u32 = 5_000;
    for capacity in [1, 2, 8, 64] {
        without_hanging(move || {
            let queue = of_capacity(capacity);
            let received = thread::scope(|scope| {
                let receivers: Vec<_> = (0..4)
                    .map(|_| {
                        let mut receiver = queue.receiver().unwrap();
                        scope.spawn(move || {
                            let mut messages = Vec::new();
                            while let Ok(message) = receiver.recv_blocking() {
                                messages.push(from_bytes(&message));
                            }
                            messages
                        })
                    })
                    .collect();
                let senders: Vec<_> = (0..4)
                    .map(|id| {
                        let mut sender = queue.sender().unwrap();
                        scope.spawn(move || {
                            for n in 0..EACH {
                                sender.send_blocking(&to_bytes(id, n)).unwrap();
                            }
                        })
                    })
                    .collect();
                for sender in senders {
                    sender.join().unwrap();
                }
                queue.close().unwrap();
                receivers.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
            });
            assert_all_arrived_once_and_in_order(&received, 4, EACH);
        });
    }
}

#[test]
fn batches_reservations_and_leases_mix_without_loss() {
    const EACH: u32 = 3_000;
    without_hanging(|| {
        let queue = of_capacity(8);
        let received = thread::scope(|scope| {
            let mut by_batch = queue.receiver().unwrap();
            let by_batch = scope.spawn(move || {
                let mut messages = Vec::new();
                while by_batch.recv_many_blocking(&mut messages, 5).is_ok() {}
                messages.iter().map(|it| from_bytes(it)).collect::<Vec<_>>()
            });
            let mut by_lease = queue.receiver().unwrap();
            let by_lease = scope.spawn(move || {
                let mut messages = Vec::new();
                while let Ok(lease) = by_lease.lease_blocking() {
                    messages.push(from_bytes(&lease.read().unwrap()));
                    lease.ack();
                }
                messages
            });
            let mut sender = queue.sender().unwrap();
            let batches = scope.spawn(move || {
                let messages: Vec<_> = (0..EACH).map(|n| to_bytes(0, n)).collect();
                let mut rest = &messages[..];
                while !rest.is_empty() {
                    let batch = rest.iter().take(7).map(|it| &it[..]);
                    let sent = sender.send_many_blocking(batch).unwrap();
                    rest = &rest[sent..];
                }
            });
            let mut sender = queue.sender().unwrap();
            let reservations = scope.spawn(move || {
                for n in 0..EACH {
                    let mut message = sender.reserve_blocking(8).unwrap();
                    message.write_at(0, &to_bytes(1, n));
                    message.commit_blocking().map_err(drop).unwrap();
                }
            });
            batches.join().unwrap();
            reservations.join().unwrap();
            queue.close().unwrap();
            [by_batch.join().unwrap(), by_lease.join().unwrap()]
        });
        assert_all_arrived_once_and_in_order(&received, 2, EACH);
    });
}

/// Everything that a sender was told is sent, is received; nothing else is.
///
/// Caught: an exchange that stores without comparing.
#[test]
fn close_in_the_midst_of_sending_loses_nothing_that_was_sent() {
    without_hanging(|| {
        for _ in 0..200 {
            let queue = of_capacity(2);
            thread::scope(|scope| {
                let senders: Vec<_> = (0..2)
                    .map(|_| {
                        let mut sender = queue.sender().unwrap();
                        scope.spawn(move || {
                            let mut sent = 0;
                            while sender.send_blocking(b"x").is_ok() {
                                sent += 1;
                            }
                            sent
                        })
                    })
                    .collect();
                let mut receiver = queue.receiver().unwrap();
                let mut received = 0;
                while received < 10 {
                    receiver.recv_blocking().unwrap();
                    received += 1;
                }
                queue.close().unwrap();
                while receiver.recv_blocking().is_ok() {
                    received += 1;
                }
                let sent: u32 = senders.into_iter().map(|it| it.join().unwrap()).sum();
                assert_eq!(received, sent);
                assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
            });
        }
    });
}

/// Caught: `len` without its bound.
#[test]
fn len_never_exceeds_the_capacity_while_others_move() {
    without_hanging(|| {
        let queue = of_capacity(4);
        thread::scope(|scope| {
            let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
            scope.spawn(move || {
                for _ in 0..20_000 {
                    sender.send_blocking(b"x").unwrap();
                }
            });
            let receiving = scope.spawn(move || {
                for _ in 0..20_000 {
                    receiver.recv_blocking().unwrap();
                }
            });
            while !receiving.is_finished() {
                assert!(queue.len() <= 4);
            }
        });
        assert_eq!(queue.len(), 0);
    });
}

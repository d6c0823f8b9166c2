//! Ids of messages, one fact a test.

use std::collections::HashSet;
use std::sync::mpsc;
use std::time::Duration;

use parkline_core::{Lease, Queue, Receiver, Stats, TrySendError};

use crate::leases::HOUR;
use crate::of_capacity;

/// The message, and its id, of a receiver that takes it for good.
fn take(receiver: &mut Receiver) -> (u64, Vec<u8>) {
    let received = receiver.try_recv_with_id().unwrap();
    (received.id, received.message)
}

/// Fails if the ids of two records are the same (seen failing), or if a new owner of a record begins
/// at 0 (seen failing).
#[test]
fn no_two_messages_have_one_id_whoever_sent_them_and_how() {
    let queue = of_capacity(64);
    let mut receiver = queue.receiver().unwrap();
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let mut senders = [queue.sender().unwrap(), queue.sender().unwrap()];
        for sender in &mut senders {
            sender.try_send(b"one").unwrap();
            sender.try_send_many([&b"two"[..], b"three"]).unwrap();
            sender.send_blocking(&[4; 64]).unwrap();
            let mut reserved = sender.try_reserve(4).unwrap();
            reserved.write_at(0, b"five");
            reserved.try_commit().unwrap();
        }
        ids.extend((0..10).map(|_| take(&mut receiver).0));
    }
    assert_eq!(ids.len() as u64, queue.stats().sent);
    assert_eq!(ids.len(), 30);
}

/// Fails if a message that was refused has a number or is counted (seen failing).
#[test]
fn what_is_refused_uses_up_no_number() {
    let queue = of_capacity(1);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let first = {
        sender.try_send(b"first").unwrap();
        take(&mut receiver).0
    };
    for n in 1..4 {
        sender.try_send(b"next").unwrap();
        assert_eq!(sender.try_send(b"more"), Err(TrySendError::Full(())));
        assert!(sender.try_send(&[0; 65]).is_err(), "too large");
        assert!(sender.try_reserve(1).is_err());
        assert_eq!(take(&mut receiver).0, first + n);
    }
    queue.close().unwrap();
    assert_eq!(sender.try_send(b"late"), Err(TrySendError::Closed(())));
    assert_eq!(queue.stats().sent, 4);
}

/// Fails if a return gives the message another id (seen failing).
#[test]
fn a_message_has_its_id_at_every_delivery() {
    let returns: [fn(Lease); 3] =
        [Lease::nack, drop, |lease| lease.nack_after(Duration::from_secs(60))];
    for (give_back, is_full) in returns.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let queue = of_capacity(1);
        let (mut sender, mut first) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.try_send(b"job").unwrap();
        let lease = first.try_lease().unwrap();
        let id = lease.id();
        if is_full {
            sender.try_send(b"other").unwrap();
        }
        give_back(lease);
        let mut second = queue.receiver().unwrap();
        if is_full {
            assert_ne!(take(&mut second).0, id);
        }
        // Returns what it owes.
        drop(first);
        let again = second.try_lease().unwrap();
        assert_eq!((again.id(), again.attempts()), (id, 2), "full: {is_full}");
        again.ack();
    }
}

/// Fails if the handler is told another id (seen failing), or if a forwarded message keeps the id of
/// the first queue (seen failing).
#[test]
fn a_dead_letter_tells_its_id_and_has_a_new_one_in_another_queue() {
    let poisoned = || {
        let builder = Queue::builder().capacity(4).max_attempts(1).watchdog(HOUR);
        let queue = builder.create().unwrap();
        let _unused = queue.sender().unwrap();
        queue.sender().unwrap().try_send_many([&b"poison"[..], b"last"]).unwrap();
        let mut receiver = queue.receiver().unwrap();
        let lease = receiver.try_lease().unwrap();
        let id = lease.id();
        lease.nack();
        assert_eq!(take(&mut receiver).1, b"last");
        (queue, receiver, id)
    };
    let (_queue, mut receiver, id) = poisoned();
    let (letters, dead) = mpsc::channel();
    receiver.on_dead_letter(move |letter| letters.send(letter).unwrap());
    assert!(receiver.try_recv().is_err());
    let letter = dead.try_recv().unwrap();
    assert_eq!((letter.id, letter.message, letter.attempts), (id, b"poison".to_vec(), 2));

    let (_queue, mut receiver, id) = poisoned();
    let second = of_capacity(4);
    let mut sender = second.sender().unwrap();
    sender.try_send(b"first").unwrap();
    sender.try_send(b"second").unwrap();
    receiver.forward_dead_letters(sender);
    assert!(receiver.try_recv().is_err());
    let mut receiver = second.receiver().unwrap();
    let [(first, _), (next, _), (forwarded, message)] = [(); 3].map(|()| take(&mut receiver));
    assert_eq!(message, b"poison");
    assert_eq!([next, forwarded], [first + 1, first + 2], "as any message of its sender");
    assert_ne!(forwarded, id);
}

/// Fails if a queue that is created anew has the number of the last (seen failing): the ids of its
/// messages are the same.
#[test]
fn queues_repeat_ids_and_differ_in_their_own() {
    let [first, second] = [(); 2].map(|()| {
        let queue = of_capacity(1);
        queue.sender().unwrap().try_send(b"job").unwrap();
        (queue.id(), take(&mut queue.receiver().unwrap()).0)
    });
    assert_eq!(first.1, second.1);
    assert_ne!(first.0, second.0);
}

/// Fails if a return gives the message another id (seen failing).
#[test]
fn a_receive_and_a_lease_tell_the_same_id() {
    let queue: Queue<u64> = Queue::builder().capacity(4).create_typed().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send_many(&[1, 2, 3]).unwrap();
    let lease = receiver.try_lease().unwrap();
    let first = lease.id();
    lease.nack();
    let received = [(); 3].map(|()| receiver.recv_with_id_blocking().unwrap());
    let received = received.map(|it| (it.id, it.message));
    assert_eq!(received, [(first + 1, 2), (first + 2, 3), (first, 1)]);
    let Stats { sent, redelivered, .. } = queue.stats();
    assert_eq!((sent, redelivered), (3, 1));
}

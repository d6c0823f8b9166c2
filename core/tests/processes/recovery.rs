//! What the killed had comes again.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parkline_core::driver::census;
use parkline_core::{
    AttachError, Builder, JoinTimeoutError, Queue, Receiver, RecvError, RecvTimeoutError,
    TryRecvError,
};

use crate::player::{HOUR, Player, until_somebody_waits};

const SOON: Duration = Duration::from_millis(5);

fn builder() -> Builder {
    Queue::builder().capacity(2).max_message(8).watchdog(HOUR)
}

/// Has a process lease the oldest message, and kills it.
pub(crate) fn lease_and_die(queue: &Queue) {
    leaser(queue).kill();
}

fn leaser(queue: &Queue) -> Player {
    let mut player = Player::start(queue, "lease and hang", 0);
    assert_eq!(player.says().as_deref(), Some("ready"));
    player
}

fn assert_again(receiver: &mut Receiver, message: &[u8], attempts: u16) {
    let lease = receiver.try_lease().unwrap();
    assert_eq!(lease.read().unwrap(), message);
    assert!(lease.redelivered() && lease.attempts() == attempts, "{lease:?}");
    lease.ack();
}

/// A new receiver gets nothing, and its handler the message.
fn assert_dead_letter(queue: &Queue, message: &[u8], attempts: u16) {
    let mut receiver = queue.receiver().unwrap();
    let (letters, dead) = mpsc::channel();
    receiver.on_dead_letter(move |letter| letters.send(letter).unwrap());
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    let letter = dead.recv().unwrap();
    assert_eq!((letter.message.as_slice(), letter.attempts), (message, attempts));
}

/// At the end: nothing is held by anybody, and no block is lost.
fn assert_whole(queue: &Queue) {
    let census = census(queue).unwrap();
    assert_eq!((census.held, census.busy), (0, 0));
}

/// Caught: held cells of the dead taken for free; a return that is not flagged.
#[test]
fn a_lease_of_the_killed_is_delivered_again() {
    let queue = builder().create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    lease_and_die(&queue);
    let found = queue.recover().unwrap();
    assert_eq!((found.handles, found.messages, found.waiting, found.postponed), (1, 1, 0, 0));
    assert_again(&mut queue.receiver().unwrap(), b"job", 2);
    let stats = queue.stats();
    assert_eq!((stats.sent, stats.received, stats.redelivered, stats.recovered), (1, 2, 1, 1));
    assert_eq!(queue.recover().unwrap().handles, 0, "once");
    assert_whole(&queue);
}

/// Caught: a waiter that keeps no watch (it sleeps for ever).
#[test]
fn a_waiter_recovers_what_the_killed_had() {
    let queue = builder().watchdog(SOON).create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let mut player = leaser(&queue);
    let mut receiver = queue.receiver().unwrap();
    let side = receiver.side();
    let waiter = thread::spawn(move || receiver.lease_blocking().unwrap().read().unwrap());
    until_somebody_waits(&side);
    player.kill();
    assert_eq!(waiter.join().unwrap(), b"job");
}

/// Caught: an attach that takes dirty records as they are; one that leaves them.
#[test]
fn a_new_handle_recovers_the_record_that_it_takes() {
    let queue = builder().handles(2).create().unwrap();
    let mut sender = queue.sender().unwrap();
    sender.try_send(b"job").unwrap();
    lease_and_die(&queue);
    drop(queue.sender().unwrap());
    assert_again(&mut queue.receiver().unwrap(), b"job", 2);
    assert_whole(&queue);
}

/// All records are taken and the queue is full: only a new receiver can take the leftover.
///
/// Caught: a receiver that cannot attach; a leftover that is not flagged; one that is lost with the
/// receiver that took it.
#[test]
fn a_new_receiver_takes_a_record_with_leftovers() {
    let queue = builder().capacity(1).handles(2).create().unwrap();
    let mut sender = queue.sender().unwrap();
    sender.try_send(b"first").unwrap();
    lease_and_die(&queue);
    sender.try_send(b"second").unwrap();
    assert_eq!(queue.recover().unwrap().waiting, 1);
    assert!(matches!(queue.sender(), Err(AttachError::NoFreeHandle { .. })));
    drop(queue.receiver().unwrap());
    let mut receiver = queue.receiver().unwrap();
    assert_eq!(queue.stats().owed, 1);
    assert_eq!(receiver.try_recv().unwrap(), b"second", "which makes room");
    assert_again(&mut receiver, b"first", 2);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    assert_whole(&queue);
}

/// Caught: a sender that takes the room itself.
#[test]
fn whoever_waits_for_room_sees_to_the_dead_first() {
    let queue = builder().capacity(1).create().unwrap();
    // Arriving later it would wake the waiter.
    let mut receiver = queue.receiver().unwrap();
    let mut sender = queue.sender().unwrap();
    sender.try_send(b"1").unwrap();
    lease_and_die(&queue);
    sender.try_send(b"2").unwrap();
    let waiter = thread::spawn(move || sender.send_blocking(b"3").unwrap());
    while queue.stats().parks == 0 {
        thread::yield_now();
    }
    assert_eq!(queue.recover().unwrap().waiting, 1);
    for expected in [b"2", b"1", b"3"] {
        // Not waiting: it would see to the dead as well.
        let received = loop {
            if let Ok(received) = receiver.try_recv() {
                break received;
            }
        };
        assert_eq!(received, expected);
    }
    waiter.join().unwrap();
    assert_whole(&queue);
}

/// Caught: attempts that are not counted, or counted by whoever recovers.
#[test]
fn a_message_that_kills_every_receiver_is_given_up() {
    let queue = builder().max_attempts(3).create().unwrap();
    queue.sender().unwrap().try_send(b"poison").unwrap();
    for _ in 0..3 {
        lease_and_die(&queue);
        assert_eq!(queue.recover().unwrap().messages, 1);
    }
    assert_dead_letter(&queue, b"poison", 4);
    assert_eq!(queue.stats().dead_lettered, 1);
    queue.join_blocking().unwrap();
    assert_whole(&queue);
}

/// Caught: a dead letter that is dropped when its queue is full.
#[test]
fn a_dead_letter_that_its_queue_refuses_is_received_all_the_same() {
    let queue = builder().max_attempts(1).create().unwrap();
    let dead = builder().capacity(1).create().unwrap();
    let mut receiver = queue.receiver().unwrap();
    receiver.forward_dead_letters(dead.sender().unwrap());
    let mut sender = queue.sender().unwrap();
    for message in [b"1", b"2"] {
        sender.try_send(message).unwrap();
        receiver.try_lease().unwrap().nack();
    }
    assert_again(&mut receiver, b"2", 2);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    let letter = dead.receiver().unwrap().try_lease().unwrap();
    assert!(letter.redelivered() && letter.attempts() == 1);
    assert_eq!(letter.read().unwrap(), b"1");
}

/// Nothing is decided by time about a process that lives.
///
/// Caught: an audit without the lock.
#[test]
fn a_stopped_process_keeps_what_it_has() {
    let queue = builder().create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let mut player = leaser(&queue);
    player.stop();
    assert_eq!(queue.recover().unwrap().handles, 0);
    assert_eq!(queue.receiver().unwrap().try_recv(), Err(TryRecvError::Empty));
    player.kill();
    assert_eq!(queue.recover().unwrap().messages, 1);
}

/// Caught: a return that is refused as a send is; a queue that has no end after it.
#[test]
fn a_closed_queue_gives_what_the_killed_had_and_then_its_end() {
    let queue = builder().create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let mut player = leaser(&queue);
    queue.close().unwrap();
    let mut receiver = queue.receiver().unwrap();
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "it may come back");
    player.kill();
    assert_eq!(queue.recover().unwrap().messages, 1);
    assert_again(&mut receiver, b"job", 2);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    assert_whole(&queue);
}

/// Caught: a join that does not look at cells; one that ignores returns.
#[test]
fn join_waits_for_the_retry() {
    let queue = builder().create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let mut player = leaser(&queue);
    let timed_out = Err(JoinTimeoutError::Timeout);
    assert_eq!(queue.join_blocking_timeout(SOON), timed_out, "leased");
    player.kill();
    assert_eq!(queue.recover().unwrap().messages, 1);
    assert_eq!(queue.join_blocking_timeout(SOON), timed_out, "in the queue again");
    let mut receiver = queue.receiver().unwrap();
    let again = receiver.try_lease().unwrap();
    assert_eq!(queue.join_blocking_timeout(SOON), timed_out, "leased again");
    again.ack();
    queue.join_blocking().unwrap();
}

/// Caught: an acknowledgement that tells nobody (the join sleeps for an hour). A joiner without its
/// barrier is too rare to be caught here; `loom-tests/tests/audit.rs` does.
#[test]
fn join_is_woken_by_the_last_acknowledgement() {
    let queue = Arc::new(builder().create().unwrap());
    let mut receiver = queue.receiver().unwrap();
    let mut sender = queue.sender().unwrap();
    for round in 0..2000u32 {
        sender.try_send(b"job").unwrap();
        let same = Arc::clone(&queue);
        let joiner = thread::spawn(move || same.join_blocking());
        if round % 2 == 0 {
            receiver.recv_blocking().unwrap();
        } else {
            receiver.lease_blocking().unwrap().ack();
        }
        joiner.join().unwrap().unwrap();
    }
}

/// Caught: an end that is told without a look for the dead.
#[test]
fn what_the_killed_had_comes_before_the_end() {
    let queue = builder().create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let mut receiver = queue.receiver().unwrap();
    let mut player = leaser(&queue);
    queue.close().unwrap();
    let waited = receiver.recv_blocking_timeout(SOON);
    assert_eq!(
        waited,
        Err(RecvTimeoutError::Timeout),
        "it lives, and may acknowledge or return it"
    );
    player.kill();
    let job = receiver.lease_blocking().unwrap();
    assert!(job.redelivered());
    job.ack();
    assert_eq!(receiver.recv_blocking(), Err(RecvError::Closed));
}

/// Caught: a dead letter that is acknowledged before its handler returns.
#[test]
fn a_dead_letter_whose_handler_dies_with_it_comes_again() {
    let queue = builder().max_attempts(1).create().unwrap();
    queue.sender().unwrap().try_send(b"poison").unwrap();
    lease_and_die(&queue);
    assert_eq!(queue.recover().unwrap().messages, 1);
    let mut player = Player::start(&queue, "hang in the handler", 0);
    assert_eq!(player.says().as_deref(), Some("poison"));
    player.kill();
    assert_eq!(queue.recover().unwrap().messages, 1);
    assert_dead_letter(&queue, b"poison", 3);
    assert_whole(&queue);
}

//! What processes send each other, closed or killed.

use std::collections::BTreeMap;

use parkline_core::{AttachError, Queue, SendError};

use crate::player::{EACH, HOUR, Player, to_bytes, until_somebody_waits};

/// Caught: an exchange that stores without comparing.
#[test]
fn four_senders_and_four_receivers_lose_and_repeat_nothing() {
    for capacity in [1, 16, 256] {
        let queue = Queue::builder().capacity(capacity).max_message(8).watchdog(HOUR);
        let queue = queue.create().unwrap();
        let mut receivers: Vec<_> = (0..4).map(|id| Player::start(&queue, "receive", id)).collect();
        let mut senders: Vec<_> = (0..4).map(|id| Player::start(&queue, "send", id)).collect();
        for sender in &mut senders {
            assert_eq!(sender.says().as_deref(), Some("sent"));
        }
        for receiver in &mut receivers {
            assert_eq!(receiver.says().as_deref(), Some("ready"));
        }
        queue.close().unwrap();
        let mut arrivals = BTreeMap::new();
        for receiver in &mut receivers {
            let mut last = BTreeMap::new();
            for message in receiver.says_all() {
                let both: u64 = message.parse().unwrap();
                let (sender, n) = ((both >> 32) as u32, both as u32);
                assert!(last.insert(sender, n) < Some(n), "out of the order of sender {sender}");
                *arrivals.entry((sender, n)).or_insert(0) += 1;
            }
        }
        assert_eq!(arrivals.len() as u32, 4 * EACH, "none was lost, none invented");
        assert!(arrivals.values().all(|times| *times == 1), "none came twice");
    }
}

/// Caught: private futexes.
#[test]
fn close_reaches_a_sender_that_waits_in_another_process() {
    let queue = Queue::builder().capacity(1).watchdog(HOUR).create().unwrap();
    let mut filler = queue.sender().unwrap();
    filler.try_send(b"full").unwrap();
    let mut player = Player::start(&queue, "block in send", 0);
    assert_eq!(player.says().as_deref(), Some("ready"));
    until_somebody_waits(&filler.side());
    queue.close().unwrap();
    assert_eq!(player.says(), Some(SendError::<()>::Closed(()).to_string()));
}

/// Caught: private futexes.
#[test]
fn close_reaches_a_receiver_that_waits_in_another_process() {
    let queue = Queue::builder().capacity(1).watchdog(HOUR).create().unwrap();
    let side = queue.receiver().unwrap().side();
    let mut player = Player::start(&queue, "receive", 0);
    assert_eq!(player.says().as_deref(), Some("ready"));
    until_somebody_waits(&side);
    queue.close().unwrap();
    assert_eq!(player.says(), None);
    assert!(player.process.wait().unwrap().success());
}

#[test]
fn what_was_sent_outlives_its_sender() {
    let queue = Queue::builder().capacity(16_384).max_message(8).create().unwrap();
    let mut player = Player::start(&queue, "send", 0);
    assert_eq!(player.says().as_deref(), Some("sent"));
    player.kill();
    let mut receiver = queue.receiver().unwrap();
    for n in 0..EACH {
        assert_eq!(receiver.try_recv().unwrap(), to_bytes(0, n));
    }
}

/// Killed wherever they just are, among them in the midst of an exchange.
///
/// Caught: a slot claimed first and filled later, that others wait for.
#[test]
fn killed_senders_and_receivers_leave_the_others_going() {
    let queue = Queue::builder().capacity(4).max_message(8).handles(64).create().unwrap();
    for round in 0..10 {
        let mut players =
            ["send for ever", "send for ever", "receive for ever", "receive for ever"]
                .map(|part| Player::start(&queue, part, 77));
        for player in &mut players {
            assert_eq!(player.says().as_deref(), Some("ready"));
        }
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for _ in 0..20 {
            sender.send_blocking(&to_bytes(round, 1)).unwrap();
            receiver.recv_blocking().unwrap();
        }
        players.iter_mut().for_each(Player::kill);
        while receiver.try_recv().is_ok() {}
        for n in 0..100 {
            sender.try_send(&to_bytes(round, n)).unwrap();
            assert_eq!(receiver.try_recv().unwrap(), to_bytes(round, n));
        }
    }
}

/// Caught: a lock that is never taken.
#[test]
fn a_killed_waiter_gives_its_record_back() {
    let queue = Queue::builder().capacity(1).handles(1).create().unwrap();
    let mut player = Player::start(&queue, "receive", 0);
    assert_eq!(player.says().as_deref(), Some("ready"));
    assert!(matches!(queue.receiver(), Err(AttachError::NoFreeHandle { .. })));
    player.kill();
    assert!(queue.receiver().is_ok());
}

#[test]
fn a_killed_reservation_blocks_nobody_and_is_never_seen() {
    let queue = Queue::builder().capacity(1).handles(2).create().unwrap();
    let mut player = Player::start(&queue, "reserve and hang", 0);
    assert_eq!(player.says().as_deref(), Some("ready"));
    player.kill();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(b"whole").unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"whole");
    assert!(receiver.try_recv().is_err());
}

//! Calls that try, and what a message goes through.

use std::io::Write;
use std::thread;

use parkline_core::{Pack, Queue, RecvError, TryRecvError, TrySendError};

use crate::of_capacity;

#[test]
fn messages_come_out_in_the_order_they_went_in() {
    let queue = of_capacity(8);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for n in 0..8u8 {
        sender.try_send(&[n]).unwrap();
    }
    for n in 0..8u8 {
        assert_eq!(receiver.try_recv().unwrap(), [n]);
    }
}

/// Caught: a slot of the lap before taken for free.
#[test]
fn a_queue_is_full_at_its_capacity_and_not_before() {
    for (asked, capacity) in [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8)] {
        let queue = of_capacity(asked);
        assert_eq!(queue.capacity(), capacity);
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for lap in 0..3 {
            for _ in 0..capacity {
                sender.try_send(b"in").unwrap();
            }
            assert_eq!(sender.try_send(b"no"), Err(TrySendError::Full(())), "lap {lap}");
            for _ in 0..capacity {
                receiver.try_recv().unwrap();
            }
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "lap {lap}");
        }
    }
}

#[test]
fn one_receive_makes_room_for_one_send() {
    let queue = of_capacity(2);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send_many([&b"a"[..], b"b"]).unwrap();
    for _ in 0..10 {
        receiver.try_recv().unwrap();
        sender.try_send(b"c").unwrap();
        assert_eq!(sender.try_send(b"d"), Err(TrySendError::Full(())));
    }
}

#[test]
fn many_laps_keep_order_and_content() {
    for capacity in [1, 2, 4, 64] {
        let queue = of_capacity(capacity);
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for n in 0..10_000u32 {
            sender.try_send(&n.to_ne_bytes()).unwrap();
            assert_eq!(receiver.try_recv().unwrap(), n.to_ne_bytes());
        }
    }
}

#[test]
fn len_counts_what_waits() {
    let queue = of_capacity(4);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for _ in 0..10 {
        for waiting in 0..4 {
            assert_eq!((queue.len(), queue.is_empty()), (waiting, waiting == 0));
            sender.try_send(b"x").unwrap();
        }
        for waiting in (0..4).rev() {
            receiver.try_recv().unwrap();
            assert_eq!(queue.len(), waiting);
        }
    }
}

#[test]
fn a_leased_message_waits_no_longer() {
    let queue = of_capacity(4);
    queue.sender().unwrap().try_send(b"job").unwrap();
    let _lease = queue.receiver().unwrap().try_lease().unwrap();
    assert_eq!(queue.len(), 0);
}

#[test]
fn the_numbers_of_the_builder_are_reported() {
    let queue = Queue::builder().capacity(3).max_message(77).handles(5).create().unwrap();
    let opened = Queue::open(queue.try_clone_fd().unwrap()).unwrap();
    for queue in [queue, opened] {
        assert_eq!((queue.capacity(), queue.max_message(), queue.handles()), (4, 77, 5));
    }
}

#[test]
fn a_closed_queue_gives_what_is_in_it_and_then_its_end() {
    for waiting in 0..=4u8 {
        let queue = of_capacity(4);
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for n in 0..waiting {
            sender.try_send(&[n]).unwrap();
        }
        queue.close().unwrap();
        for n in 0..waiting {
            assert_eq!(receiver.try_recv().unwrap(), [n]);
        }
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed), "{waiting} waited");
    }
}

#[test]
fn close_is_seen_by_every_opener() {
    let queue = of_capacity(4);
    let same = Queue::open(queue.try_clone_fd().unwrap()).unwrap();
    let mut sender = same.sender().unwrap();
    assert!(!same.is_closed());
    queue.close().unwrap();
    assert!(same.is_closed());
    assert_eq!(sender.try_send(b"late"), Err(TrySendError::Closed(())));
}

#[test]
fn a_queue_lives_on_in_its_handles() {
    let queue = of_capacity(4);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    drop(queue);
    sender.try_send(b"hello").unwrap();
    drop(sender);
    assert_eq!(receiver.try_recv().unwrap(), b"hello");
}

#[test]
fn an_empty_message_is_a_message() {
    for max_message in [0, 64] {
        let queue = Queue::builder().capacity(1).max_message(max_message).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.try_send(b"").unwrap();
        assert_eq!(sender.try_send(b""), Err(TrySendError::Full(())));
        let lease = receiver.try_lease().unwrap();
        assert!(lease.is_empty());
        lease.ack();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    }
}

#[test]
fn a_type_without_bytes_can_be_sent() {
    let queue = Queue::builder().capacity(2).create_typed::<()>().unwrap();
    queue.sender().unwrap().try_send(&()).unwrap();
    assert_eq!(queue.receiver().unwrap().try_recv(), Ok(()));
}

/// Caught: the last word of an odd length left out.
#[test]
fn a_message_of_every_length_arrives_whole() {
    let max = 600;
    let queue = Queue::builder().capacity(2).max_message(max).create().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for len in 0..=max {
        let message: Vec<u8> = (0..len).map(|n| (n * 7 + len) as u8).collect();
        sender.try_send(&message).unwrap();
        assert_eq!(receiver.try_recv().unwrap(), message);
    }
}

/// Caught: blocks at a stride that leaves no room for the header.
#[test]
fn the_longest_messages_of_a_full_queue_do_not_touch_each_other() {
    for max in [40, 48, 49, 112, 1000] {
        let queue = Queue::builder().capacity(4).max_message(max).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for _ in 0..3 {
            for n in 1..=4u8 {
                sender.try_send(&vec![n; max]).unwrap();
            }
            for n in 1..=4u8 {
                assert_eq!(receiver.try_recv().unwrap(), vec![n; max]);
            }
        }
    }
}

#[test]
fn send_many_sends_what_has_room_and_counts_it() {
    let queue = of_capacity(4);
    let mut sender = queue.sender().unwrap();
    let messages: [&[u8]; 3] = [b"a", b"b", b"c"];
    assert_eq!(sender.try_send_many(messages), Ok(3));
    assert_eq!(sender.try_send_many(messages), Ok(1));
    assert_eq!(sender.try_send_many(messages), Err(TrySendError::Full(())));
    let mut received = Vec::new();
    queue.receiver().unwrap().try_recv_many(&mut received, 9).unwrap();
    assert_eq!(received, [b"a", b"b", b"c", b"a"]);
}

#[test]
fn send_many_stops_at_a_message_too_large() {
    let queue = of_capacity(4);
    let mut sender = queue.sender().unwrap();
    let messages: [&[u8]; 3] = [b"a", &[0; 65], b"c"];
    assert_eq!(sender.try_send_many(messages), Ok(1));
    assert_eq!(queue.len(), 1);
    assert_eq!(sender.send_many_blocking(messages), Ok(1));
    assert_eq!(queue.len(), 2);
}

#[test]
fn send_many_of_nothing_sends_nothing() {
    let queue = of_capacity(1);
    let mut sender = queue.sender().unwrap();
    assert_eq!(sender.try_send_many([]), Ok(0));
    sender.try_send(b"full").unwrap();
    assert_eq!(sender.send_many_blocking([]), Ok(0), "also on a full queue");
}

#[test]
fn recv_many_takes_up_to_its_limit_and_appends() {
    let queue = of_capacity(8);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for n in 0..5u8 {
        sender.try_send(&[n]).unwrap();
    }
    let mut messages = vec![vec![77]];
    assert_eq!(receiver.try_recv_many(&mut messages, 2), Ok(2));
    assert_eq!(receiver.try_recv_many(&mut messages, 0), Ok(0));
    assert_eq!(receiver.try_recv_many(&mut messages, 9), Ok(3));
    assert_eq!(receiver.try_recv_many(&mut messages, 9), Err(TryRecvError::Empty));
    assert_eq!(messages, [[77], [0], [1], [2], [3], [4]]);
}

/// Fails if a receive waits, or if a closed queue is looked at first (both seen failing).
#[test]
fn a_call_for_many_that_is_asked_for_none_returns_at_once() {
    const NONE: [&[u8]; 0] = [];
    let queue = of_capacity(1);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let packs = Queue::builder().capacity(1).create_typed::<Pack>().unwrap();
    let mut packer = packs.sender().unwrap();
    let mut ask = || {
        let mut messages = Vec::new();
        assert_eq!(receiver.recv_many_blocking(&mut messages, 0), Ok(0));
        assert_eq!(receiver.try_recv_many(&mut messages, 0), Ok(0));
        assert_eq!(sender.send_many_blocking(NONE), Ok(0));
        assert_eq!(sender.try_send_many(NONE), Ok(0));
        assert_eq!(packer.send_packed_blocking(NONE), Ok(0));
        assert_eq!(packer.try_send_packed(NONE), Ok(0));
    };
    ask();
    queue.sender().unwrap().try_send(b"full").unwrap();
    packs.sender().unwrap().try_send_packed([b"full"]).unwrap();
    ask();
    queue.close().unwrap();
    packs.close().unwrap();
    ask();
    queue.receiver().unwrap().try_recv().unwrap();
    ask();
}

#[test]
fn recv_many_from_a_closed_queue_gives_the_rest_before_the_end() {
    let queue = of_capacity(8);
    let mut receiver = queue.receiver().unwrap();
    queue.sender().unwrap().try_send_many([&b"a"[..], b"b"]).unwrap();
    queue.close().unwrap();
    let mut messages = Vec::new();
    assert_eq!(receiver.recv_many_blocking(&mut messages, 9), Ok(2));
    assert_eq!(receiver.recv_many_blocking(&mut messages, 9), Err(RecvError::Closed));
}

#[test]
fn a_reservation_is_sent_by_its_commit() {
    let queue = of_capacity(2);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut message = sender.try_reserve(11).unwrap();
    assert_eq!((message.len(), message.is_empty()), (11, false));
    message.write_all(b"hello").unwrap();
    message.write_at(5, b" ");
    message.write_at(6, b"world");
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "not yet");
    message.try_commit().unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"hello world");
}

#[test]
fn a_reservation_that_is_dropped_sends_nothing_and_costs_nothing() {
    let queue = of_capacity(1);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for _ in 0..10 {
        drop(sender.try_reserve(5).unwrap());
        assert_eq!(queue.len(), 0);
        sender.try_send(b"room").unwrap();
        assert_eq!(receiver.try_recv().unwrap(), b"room");
    }
}

#[test]
fn nobody_waits_for_a_reservation() {
    let queue = of_capacity(2);
    let (mut slow, mut quick) = (queue.sender().unwrap(), queue.sender().unwrap());
    let mut receiver = queue.receiver().unwrap();
    let mut message = slow.try_reserve(4).unwrap();
    for _ in 0..10 {
        quick.try_send(b"quick").unwrap();
        assert_eq!(receiver.try_recv().unwrap(), b"quick");
    }
    message.write_at(0, b"slow");
    message.try_commit().unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"slow");
}

#[test]
fn a_refused_commit_keeps_what_was_written() {
    let queue = of_capacity(1);
    let (mut slow, mut quick) = (queue.sender().unwrap(), queue.sender().unwrap());
    let mut receiver = queue.receiver().unwrap();
    let mut message = slow.try_reserve(4).unwrap();
    message.write_all(b"sl").unwrap();
    quick.try_send(b"quick").unwrap();
    let Err(TrySendError::Full(mut message)) = message.try_commit() else { panic!("not full") };
    message.write_all(b"ow").unwrap();
    receiver.try_recv().unwrap();
    message.try_commit().unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"slow");
}

#[test]
fn a_truncated_reservation_sends_its_start() {
    let queue = of_capacity(4);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for (len, sent) in [(0, &b""[..]), (2, b"he"), (5, b"hello"), (6, b"hello")] {
        let mut message = sender.try_reserve(5).unwrap();
        message.write_all(b"hello").unwrap();
        message.truncate(len);
        assert_eq!(message.len(), sent.len());
        message.try_commit().unwrap();
        assert_eq!(receiver.try_recv().unwrap(), sent);
    }
}

#[test]
fn writing_goes_on_where_truncation_left_it() {
    let queue = of_capacity(4);
    let mut sender = queue.sender().unwrap();
    let mut message = sender.try_reserve(8).unwrap();
    message.write_all(b"abcd").unwrap();
    message.truncate(6);
    message.write_all(b"ef").unwrap();
    message.truncate(3);
    assert_eq!(message.write(b"z").unwrap(), 0, "used up");
    message.try_commit().unwrap();
    assert_eq!(queue.receiver().unwrap().try_recv().unwrap(), b"abc");
}

/// A queue in which each block holds bytes that no later message may show.
fn of_secrets() -> Queue {
    let queue = Queue::builder().capacity(1).handles(2).leases(0).max_message(64).create().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for _ in 0..queue.capacity() + queue.handles() {
        sender.try_send(&[0xaa; 64]).unwrap();
        assert_eq!(receiver.try_recv().unwrap(), [0xaa; 64]);
    }
    queue
}

/// Fails if the tail, the head or a gap keeps what the block held before (each seen failing), or a byte
/// that was written is zeroed.
#[test]
fn what_is_not_written_of_a_reservation_is_zeros() {
    const LEN: usize = 13;
    let queue = of_secrets();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let parts = || (0..=LEN).flat_map(|from| (from..=LEN).map(move |to| from..to));
    for (first, second) in parts().flat_map(|first| parts().map(move |it| (first.clone(), it))) {
        let mut expected = [0; LEN];
        let mut message = sender.try_reserve(LEN).unwrap();
        for (part, byte) in [(first.clone(), 1), (second.clone(), 2)] {
            message.write_at(part.start, &[byte; LEN][..part.len()]);
            expected[part].fill(byte);
        }
        message.try_commit().unwrap();
        assert_eq!(receiver.try_recv().unwrap(), expected, "{first:?}, then {second:?}");
        // What comes next finds secrets again.
        sender.try_send(&[0xaa; 64]).unwrap();
        receiver.try_recv().unwrap();
    }
}

/// Fails if any of these ways to send leaves a byte as it was (each seen failing).
#[test]
fn nothing_of_an_earlier_message_is_in_a_later_one() {
    let queue = of_secrets();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_reserve(20).unwrap().try_commit().unwrap();
    assert_eq!(receiver.try_recv().unwrap(), [0; 20]);

    let mut message = sender.reserve_blocking(20).unwrap();
    message.write_all(b"hello").unwrap();
    assert_eq!(message.written(), 5);
    message.commit_blocking().unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"hello\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");

    // Refused, and written on after that.
    sender.try_send(b"full").unwrap();
    let mut message = sender.reserve_now(9).unwrap();
    message.write_all(b"ab").unwrap();
    let Err(TrySendError::Full(mut message)) = message.try_commit() else { panic!("not full") };
    message.write_all(b"cd").unwrap();
    message.truncate(6);
    receiver.try_recv().unwrap();
    message.try_commit().unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"abcd\0\0");
}

#[test]
fn a_lease_reads_its_message_whole_or_in_part() {
    let queue = of_capacity(4);
    queue.sender().unwrap().try_send(b"hello").unwrap();
    let lease = queue.receiver().unwrap().try_lease().unwrap();
    assert_eq!((lease.len(), lease.redelivered(), lease.attempts()), (5, false, 1));
    assert_eq!(lease.read().unwrap(), b"hello");
    let mut part = [0; 3];
    assert_eq!(lease.copy_to(&mut part), Ok(3));
    assert_eq!(&part, b"hel");
    let mut more = [b'.'; 7];
    assert_eq!(lease.copy_to(&mut more), Ok(5));
    assert_eq!(&more, b"hello..");
}

#[test]
fn an_acknowledged_message_does_not_come_again() {
    let queue = of_capacity(4);
    let mut receiver = queue.receiver().unwrap();
    let mut sender = queue.sender().unwrap();
    sender.try_send_many([&b"a"[..], b"b"]).unwrap();
    receiver.try_lease().unwrap().ack();
    assert_eq!(receiver.try_recv().unwrap(), b"b");
    assert_eq!(receiver.try_lease().unwrap_err(), TryRecvError::Empty);
}

#[test]
fn a_message_that_is_given_back_comes_again_after_the_others() {
    let queue = of_capacity(4);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send_many([&b"a"[..], b"b"]).unwrap();
    for attempts in 1..5 {
        let lease = receiver.try_lease().unwrap();
        assert_eq!(lease.read().unwrap(), b"a");
        assert_eq!((lease.attempts(), lease.redelivered()), (attempts, attempts > 1));
        lease.nack();
        assert_eq!(receiver.try_recv().unwrap(), b"b");
        sender.try_send(b"b").unwrap();
    }
}

/// Caught: a new message that keeps the flags of the block's last one.
#[test]
fn a_new_message_in_a_used_block_is_not_redelivered() {
    let queue = of_capacity(1);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for _ in 0..20 {
        sender.try_send(b"job").unwrap();
        let lease = receiver.try_lease().unwrap();
        assert!(!lease.redelivered() && lease.attempts() == 1);
        lease.nack();
        let again = receiver.try_lease().unwrap();
        assert!(again.redelivered() && again.attempts() == 2);
        again.ack();
    }
}

#[test]
fn a_message_that_finds_no_room_to_go_back_is_owed() {
    let queue = of_capacity(1);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(b"job").unwrap();
    let lease = receiver.try_lease().unwrap();
    sender.try_send(b"next").unwrap();
    lease.nack();
    assert_eq!((queue.stats().owed, queue.len()), (1, 1));
    assert_eq!(receiver.try_recv().unwrap(), b"next");
    assert_eq!((queue.stats().owed, queue.len()), (0, 1), "the receive made room");
    assert_eq!(receiver.try_lease().unwrap().attempts(), 2);
}

#[test]
fn nobody_waits_for_a_lease() {
    let queue = of_capacity(2);
    let (mut sender, mut slow) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut quick = queue.receiver().unwrap();
    sender.try_send_many([&b"first"[..], b"second"]).unwrap();
    let leases = [slow.try_lease().unwrap(), slow.try_lease().unwrap()];
    for n in 0..100u8 {
        sender.try_send(&[n]).unwrap();
        assert_eq!(quick.try_recv().unwrap(), [n]);
        sender.try_send(&[n]).unwrap();
        assert_eq!(slow.try_recv().unwrap(), [n], "nor does its own receiver");
    }
    assert_eq!(leases.each_ref().map(|lease| lease.read().unwrap()), [&b"first"[..], b"second"]);
}

#[test]
fn leases_are_acknowledged_in_any_order_on_any_thread() {
    let queue = Queue::builder().capacity(4).leases(4).create().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for _ in 0..100 {
        sender.try_send_many([&b"a"[..], b"b", b"c", b"d"]).unwrap();
        let mut leases: Vec<_> = (0..4).map(|_| receiver.try_lease().unwrap()).collect();
        leases.swap(0, 2);
        thread::scope(|scope| {
            for lease in leases {
                scope.spawn(move || lease.ack());
            }
        });
    }
}

#[test]
fn without_trust_there_are_no_views() {
    let queue = of_capacity(2);
    let mut sender = queue.sender().unwrap();
    let mut message = sender.try_reserve(5).unwrap();
    assert!(message.as_mut_slice().is_none());
    message.try_commit().unwrap();
    assert!(queue.receiver().unwrap().try_lease().unwrap().as_slice().is_none());
}

#[test]
#[expect(unsafe_code, reason = "says that all peers are trusted: they are this test")]
fn with_trust_messages_are_written_and_read_in_place() {
    // SAFETY: nobody but this test has the queue.
    let queue = unsafe { of_capacity(2).trust_peers() };
    let mut sender = queue.sender().unwrap();
    for (len, sent) in [(64, &[b'x'; 64][..]), (5, b"hello"), (0, b"")] {
        let mut message = sender.try_reserve(len).unwrap();
        message.as_mut_slice().unwrap().copy_from_slice(sent);
        message.try_commit().unwrap();
        let lease = queue.receiver().unwrap().try_lease().unwrap();
        assert_eq!(lease.as_slice(), Some(sent));
        assert_eq!(lease.read().unwrap(), sent);
        lease.ack();
    }
}

/// Fails if the view has what the block held before, or if what was written is zeroed by the view (each
/// seen failing).
#[test]
#[expect(unsafe_code, reason = "says that all peers are trusted: they are this test")]
fn a_view_of_a_new_message_is_zeros_but_for_what_was_written() {
    // SAFETY: only this test has the queue.
    let queue = unsafe { of_secrets().trust_peers() };
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut message = sender.try_reserve(13).unwrap();
    message.write_at(3, b"abc");
    assert_eq!(message.as_mut_slice().unwrap(), b"\0\0\0abc\0\0\0\0\0\0\0");
    message.as_mut_slice().unwrap()[12] = b'd';
    assert_eq!(message.as_mut_slice().unwrap(), b"\0\0\0abc\0\0\0\0\0\0d");
    message.try_commit().unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"\0\0\0abc\0\0\0\0\0\0d");
}

/// Fails if bytes are zeroed that the caller promised to write (seen failing).
#[test]
#[expect(unsafe_code, reason = "promises what it does")]
fn what_is_promised_to_be_written_is_left_alone() {
    // SAFETY: only this test has the queue.
    let queue = unsafe { of_secrets().trust_peers() };
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut message = sender.try_reserve(9).unwrap();
    // SAFETY: they are written below.
    unsafe { message.assume_written() };
    let view = message.as_mut_slice().unwrap();
    assert_eq!(view, [0xaa; 9], "nothing was done to them");
    view.fill(7);
    message.try_commit().unwrap();
    assert_eq!(receiver.try_recv().unwrap(), [7; 9]);
}

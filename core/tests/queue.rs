//! What a queue does, one fact a test.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parkline_core::driver::Side;
use parkline_core::{
    Queue, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Fails, rather than hangs, when `work` waits for a wake that does not come: in these tests no
/// watchdog heals it.
fn without_hanging(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let worker = thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    match is_done.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => worker.join().unwrap(),
    }
}

/// Returns once somebody has announced that it will sleep at `side`.
fn until_somebody_waits(side: &Side) {
    while side.gate().unwrap().word().load(Relaxed) & 1 == 0 {
        thread::yield_now();
    }
}

fn of_capacity(capacity: usize) -> Queue {
    Queue::builder().capacity(capacity).max_message(64).watchdog(HOUR).create().unwrap()
}

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
        assert!(receiver.try_lease().unwrap().is_empty());
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
    drop(receiver.try_lease().unwrap());
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
        receiver.nack(lease).unwrap();
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
        receiver.nack(lease).unwrap();
        let again = receiver.try_lease().unwrap();
        assert!(again.redelivered() && again.attempts() == 2);
    }
}

#[test]
fn a_message_that_finds_no_room_to_go_back_stays_leased() {
    let queue = of_capacity(1);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(b"job").unwrap();
    let lease = receiver.try_lease().unwrap();
    sender.try_send(b"next").unwrap();
    let Err(TrySendError::Full(lease)) = receiver.nack(lease) else { panic!("not full") };
    assert_eq!((lease.read().unwrap(), lease.attempts()), (b"job".to_vec(), 1));
    assert_eq!(receiver.try_recv().unwrap(), b"next");
    receiver.nack(lease).unwrap();
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
    }
}

#[test]
fn a_receive_gives_up_at_its_timeout_and_not_before() {
    without_hanging(|| {
        let mut receiver = of_capacity(1).receiver().unwrap();
        let timeout = Duration::from_millis(20);
        let begun = Instant::now();
        assert_eq!(receiver.recv_blocking_timeout(timeout), Err(RecvTimeoutError::Timeout));
        assert!(begun.elapsed() >= timeout);
        assert_eq!(
            receiver.lease_blocking_timeout(timeout).unwrap_err(),
            RecvTimeoutError::Timeout
        );
        assert!(begun.elapsed() >= 2 * timeout);
        let deadline = Instant::now() + timeout;
        assert_eq!(receiver.recv_blocking_deadline(deadline), Err(RecvTimeoutError::Timeout));
        assert!(Instant::now() >= deadline);
        let deadline = Instant::now() + timeout;
        assert_eq!(
            receiver.lease_blocking_deadline(deadline).unwrap_err(),
            RecvTimeoutError::Timeout
        );
        assert!(Instant::now() >= deadline);
    });
}

#[test]
fn a_send_gives_up_at_its_timeout_and_not_before() {
    without_hanging(|| {
        let queue = of_capacity(1);
        let mut sender = queue.sender().unwrap();
        sender.try_send(b"first").unwrap();
        let timeout = Duration::from_millis(20);
        let begun = Instant::now();
        let timed_out = Err(SendTimeoutError::Timeout(()));
        assert_eq!(sender.send_blocking_timeout(b"second", timeout), timed_out);
        assert!(begun.elapsed() >= timeout);
        let deadline = Instant::now() + timeout;
        assert_eq!(sender.send_blocking_deadline(b"second", deadline), timed_out);
        assert!(Instant::now() >= deadline);
        let mut receiver = queue.receiver().unwrap();
        assert_eq!(receiver.try_recv().unwrap(), b"first");
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "nothing else was sent");
    });
}

#[test]
fn what_can_be_done_at_once_needs_no_time() {
    let queue = of_capacity(1);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let past = Instant::now();
    sender.send_blocking_deadline(b"a", past).unwrap();
    assert_eq!(receiver.recv_blocking_deadline(past).unwrap(), b"a");
    sender.send_blocking_timeout(b"b", Duration::ZERO).unwrap();
    assert_eq!(receiver.recv_blocking_timeout(Duration::ZERO).unwrap(), b"b");
    sender.send_blocking_timeout(b"c", Duration::MAX).unwrap();
    assert_eq!(receiver.recv_blocking_timeout(Duration::MAX).unwrap(), b"c");
}

/// Caught: the timeout counted anew after every wake.
#[test]
fn a_timeout_bounds_the_whole_call_however_often_it_is_woken() {
    without_hanging(|| {
        let queue = of_capacity(1);
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let timeout = Duration::from_millis(50);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let (receiving, sending) = (receiver.side(), sender.side());
            scope.spawn(|| {
                let (receiving, sending) = (receiving, sending);
                while !over.load(Relaxed) {
                    receiving.mourn();
                    sending.mourn();
                }
            });
            assert_eq!(receiver.recv_blocking_timeout(timeout), Err(RecvTimeoutError::Timeout));
            sender.try_send(b"full").unwrap();
            let sent = sender.send_blocking_timeout(b"more", timeout);
            assert_eq!(sent, Err(SendTimeoutError::Timeout(())));
            over.store(true, Relaxed);
        });
    });
}

/// Caught: a receive that does not notify.
#[test]
fn a_receive_wakes_a_blocked_send() {
    without_hanging(|| {
        let queue = of_capacity(1);
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let side = sender.side();
        sender.try_send(b"first").unwrap();
        let blocked = thread::spawn(move || sender.send_blocking(b"second"));
        until_somebody_waits(&side);
        assert_eq!(receiver.try_recv().unwrap(), b"first");
        assert_eq!(blocked.join().unwrap(), Ok(()));
        assert_eq!(receiver.try_recv().unwrap(), b"second");
    });
}

/// Caught: a send that does not notify.
#[test]
fn a_send_wakes_a_blocked_receive() {
    without_hanging(|| {
        let queue = of_capacity(1);
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let side = receiver.side();
        let blocked = thread::spawn(move || receiver.recv_blocking());
        until_somebody_waits(&side);
        sender.try_send(b"hello").unwrap();
        assert_eq!(blocked.join().unwrap().unwrap(), b"hello");
    });
}

/// Caught: the notify after the loop over the iterator.
#[test]
fn a_batch_whose_iterator_panics_wakes_for_what_it_sent() {
    without_hanging(|| {
        let queue = of_capacity(4);
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let side = receiver.side();
        let blocked = thread::spawn(move || receiver.recv_blocking());
        until_somebody_waits(&side);
        let messages = [true, false].map(|fine| move || if fine { b"sent" } else { panic!() });
        let batch = || sender.try_send_many(messages.iter().map(|message| &message()[..]));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(batch)).is_err());
        assert_eq!(blocked.join().unwrap().unwrap(), b"sent");
    });
}

/// Caught: a commit that does not notify.
#[test]
fn a_commit_wakes_a_blocked_lease() {
    without_hanging(|| {
        let queue = of_capacity(1);
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let side = receiver.side();
        let blocked = thread::spawn(move || receiver.lease_blocking().unwrap().read().unwrap());
        until_somebody_waits(&side);
        let mut message = sender.try_reserve(5).unwrap();
        message.write_at(0, b"hello");
        message.try_commit().unwrap();
        assert_eq!(blocked.join().unwrap(), b"hello");
    });
}

/// Caught: a nack that does not notify.
#[test]
fn a_message_given_back_wakes_a_blocked_receive() {
    without_hanging(|| {
        let queue = of_capacity(1);
        let (mut holder, mut receiver) = (queue.receiver().unwrap(), queue.receiver().unwrap());
        queue.sender().unwrap().try_send(b"job").unwrap();
        let lease = holder.try_lease().unwrap();
        let side = receiver.side();
        let blocked = thread::spawn(move || receiver.recv_blocking());
        until_somebody_waits(&side);
        holder.nack(lease).unwrap();
        assert_eq!(blocked.join().unwrap().unwrap(), b"job");
    });
}

/// Caught: a lease that does not notify.
#[test]
fn a_lease_wakes_a_blocked_commit() {
    without_hanging(|| {
        let queue = of_capacity(1);
        let (mut slow, mut quick) = (queue.sender().unwrap(), queue.sender().unwrap());
        let mut receiver = queue.receiver().unwrap();
        let side = slow.side();
        let (reserved, is_reserved) = mpsc::channel();
        let (filled, is_filled) = mpsc::channel::<()>();
        let blocked = thread::spawn(move || {
            let mut message = slow.try_reserve(4).unwrap();
            message.write_at(0, b"slow");
            reserved.send(()).unwrap();
            is_filled.recv().unwrap();
            message.commit_blocking().map_err(drop).unwrap();
        });
        is_reserved.recv().unwrap();
        quick.try_send(b"quick").unwrap();
        filled.send(()).unwrap();
        until_somebody_waits(&side);
        let lease = receiver.try_lease().unwrap();
        blocked.join().unwrap();
        assert_eq!(lease.read().unwrap(), b"quick");
        assert_eq!(receiver.try_recv().unwrap(), b"slow");
    });
}

/// Caught: `send_many` that wakes one, without the baton that a woken receiver passes on.
#[test]
fn a_batch_wakes_as_many_as_it_has_messages() {
    without_hanging(|| {
        let queue = of_capacity(4);
        let receivers: Vec<_> = (0..4).map(|_| queue.receiver().unwrap()).collect();
        let side = receivers[0].side();
        let blocked: Vec<_> = receivers
            .into_iter()
            .map(|mut receiver| thread::spawn(move || receiver.recv_blocking()))
            .collect();
        until_somebody_waits(&side);
        let sent = queue.sender().unwrap().try_send_many([&b"x"[..]; 4]);
        assert_eq!(sent, Ok(4));
        for receiver in blocked {
            assert_eq!(receiver.join().unwrap().unwrap(), b"x");
        }
    });
}

/// Every handover makes one of the two wait: a lost wake would stop the game, for no watchdog heals
/// it.
#[test]
fn no_wake_is_lost_in_a_long_exchange() {
    without_hanging(|| {
        let (there, back) = (of_capacity(1), of_capacity(1));
        let (mut ask, mut hear) = (there.sender().unwrap(), there.receiver().unwrap());
        let (mut answer, mut learn) = (back.sender().unwrap(), back.receiver().unwrap());
        let echo = thread::spawn(move || {
            while let Ok(message) = hear.recv_blocking() {
                answer.send_blocking(&message).unwrap();
            }
        });
        for n in 0..5_000u32 {
            ask.send_blocking(&n.to_ne_bytes()).unwrap();
            assert_eq!(learn.recv_blocking().unwrap(), n.to_ne_bytes());
        }
        there.close().unwrap();
        echo.join().unwrap();
    });
}

/// Caught: close that wakes nobody; and one that tells senders of a full queue `Full`.
#[test]
fn close_reaches_every_blocked_sender_of_a_full_queue() {
    without_hanging(|| {
        let queue = of_capacity(1);
        queue.sender().unwrap().try_send(b"full").unwrap();
        let senders: Vec<_> = (0..3).map(|_| queue.sender().unwrap()).collect();
        let side = senders[0].side();
        let blocked: Vec<_> = senders
            .into_iter()
            .map(|mut sender| thread::spawn(move || sender.send_blocking(b"more")))
            .collect();
        until_somebody_waits(&side);
        queue.close().unwrap();
        for sender in blocked {
            assert_eq!(sender.join().unwrap(), Err(SendError::Closed(())));
        }
    });
}

/// Caught: close that wakes one.
#[test]
fn close_reaches_every_blocked_receiver() {
    without_hanging(|| {
        let queue = of_capacity(1);
        let receivers: Vec<_> = (0..3).map(|_| queue.receiver().unwrap()).collect();
        let side = receivers[0].side();
        let blocked: Vec<_> = receivers
            .into_iter()
            .map(|mut receiver| thread::spawn(move || receiver.recv_blocking()))
            .collect();
        until_somebody_waits(&side);
        queue.close().unwrap();
        for receiver in blocked {
            assert_eq!(receiver.join().unwrap(), Err(RecvError::Closed));
        }
    });
}

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

//! Calls that wait: their time, and whom they wake.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parkline_core::driver::Side;
use parkline_core::{RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError};

use crate::{of_capacity, without_hanging};

/// Returns once somebody has announced that it will sleep at `side`.
pub(crate) fn until_somebody_waits(side: &Side) {
    while side.gate().unwrap().word().load(Relaxed) & 1 == 0 {
        thread::yield_now();
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
                    receiving.report_death();
                    sending.report_death();
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
        lease.nack();
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
        // Arriving later it would wake all of them.
        let mut sender = queue.sender().unwrap();
        let receivers: Vec<_> = (0..4).map(|_| queue.receiver().unwrap()).collect();
        let blocked: Vec<_> = receivers
            .into_iter()
            .map(|mut receiver| thread::spawn(move || receiver.recv_blocking()))
            .collect();
        while queue.stats().parks < 4 {
            thread::yield_now();
        }
        let sent = sender.try_send_many([&b"x"[..]; 4]);
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

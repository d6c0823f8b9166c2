//! Senders, receivers and leases as they ship, over a queue on the heap and futexes that count exactly.
//!
//! No thread of a model wakes by itself, so a lost wake is a deadlock, which loom reports. A thread hands
//! back its handle, because only one model drops a handle. The models that wait only for a message or for
//! room are in `gate.rs`.
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod models {
    use loom::thread;
    use parkline_core::RecvError;
    use parkline_loom_tests::{Size, leased, model, queue, receiver, receives, sender};

    /// A receiver with all its leases out waits for one.
    ///
    /// Fails if an acknowledgement does not wake it (seen failing).
    #[test]
    fn a_lease_that_is_acknowledged_elsewhere_makes_one_free() {
        model(Size::Small, || {
            let queue = queue(2, 2);
            let (mut sender, mut receiver, lease) = leased(&queue);
            sender.try_send(&[2]).unwrap();
            let other = thread::spawn(move || lease.ack());
            let next = receiver.lease_blocking().unwrap();
            assert_eq!(next.read().unwrap(), [2]);
            next.ack();
            other.join().unwrap();
        });
    }

    /// Fails if a message that is returned does not wake a receiver that waits for a lease (seen failing).
    #[test]
    fn a_lease_that_is_dropped_elsewhere_makes_one_free() {
        model(Size::Small, || {
            let queue = queue(2, 2);
            let (_sender, mut receiver, lease) = leased(&queue);
            let other = thread::spawn(move || drop(lease));
            let again = receiver.lease_blocking().unwrap();
            assert_eq!((again.attempts(), again.read().unwrap()), (2, vec![1]));
            again.ack();
            other.join().unwrap();
        });
    }

    /// Fails if a message that is returned does not wake a receiver that waits for a message (seen failing).
    #[test]
    fn a_message_that_is_returned_wakes_another_receiver() {
        model(Size::Small, || {
            let queue = queue(1, 3);
            let (_sender, _receiver, lease) = leased(&queue);
            let receives = receives(receiver(&queue), 1);
            drop(lease);
            assert_eq!(receives.join().unwrap().1, [Ok(vec![1])]);
        });
    }

    /// One thread drops a lease, a second receives the message again, and a third joins.
    ///
    /// Fails if the thread that returns the message does not wake the joiner when its cell is free (seen
    /// failing): the second thread woke the joiner before that.
    #[test]
    fn a_join_waits_for_what_was_returned() {
        model(Size::Large, || {
            let queue = queue(1, 3);
            let (_sender, _receiver, lease) = leased(&queue);
            let second = receiver(&queue);
            let first = thread::spawn(move || drop(lease));
            let receives = receives(second, 1);
            queue.join_blocking().unwrap();
            assert!(queue.is_empty(), "it was received again");
            first.join().unwrap();
            assert_eq!(receives.join().unwrap().1, [Ok(vec![1])]);
        });
    }

    /// Fails if a receive wakes joiners before it acknowledges (seen failing).
    #[test]
    fn a_join_waits_for_a_receive() {
        model(Size::Small, || {
            let queue = queue(1, 2);
            let (mut sender, receiver) = (sender(&queue), receiver(&queue));
            sender.try_send(&[1]).unwrap();
            let receives = receives(receiver, 1);
            queue.join_blocking().unwrap();
            assert!(queue.is_empty());
            assert_eq!(receives.join().unwrap().1, [Ok(vec![1])]);
        });
    }

    /// A lease is dropped on a full ring while its receiver makes room, and then waits.
    ///
    /// Fails if the return does not search for room once more after the message is owed, or searches
    /// without the fence, or with one that is AcqRel (each seen failing): [owed].
    #[test]
    fn what_is_owed_comes_when_there_is_room() {
        model(Size::Small, || {
            let queue = queue(1, 2);
            let (mut sender, mut receiver, lease) = leased(&queue);
            sender.try_send(&[2]).unwrap();
            let other = thread::spawn(move || drop(lease));
            let mut received = [(); 2].map(|()| receiver.recv_blocking().unwrap());
            received.sort_unstable();
            assert_eq!(received, [[1], [2]]);
            other.join().unwrap();
        });
    }

    /// Fails if a wait does not return what its process owes (seen failing).
    #[test]
    fn what_is_owed_goes_before_a_sender_that_waits() {
        model(Size::Large, || {
            let queue = queue(1, 3);
            let (mut sender, _receiver, lease) = leased(&queue);
            let other = receiver(&queue);
            sender.try_send(&[2]).unwrap();
            drop(lease);
            assert_eq!(queue.stats().owed, 1);
            let receives = receives(other, 3);
            sender.send_blocking(&[3]).unwrap();
            let (_other, received) = receives.join().unwrap();
            let mut received: Vec<_> = received.into_iter().map(Result::unwrap).collect();
            received.sort_unstable();
            assert_eq!(received, [[1], [2], [3]]);
        });
    }

    /// Fails if an acknowledgement on a closing queue does not wake receivers (seen failing).
    #[test]
    fn a_closed_queue_ends_when_the_last_lease_is_acknowledged() {
        model(Size::Large, || {
            let queue = queue(1, 3);
            let (_sender, _receiver, lease) = leased(&queue);
            let receives = receives(receiver(&queue), 1);
            queue.close().unwrap();
            lease.ack();
            assert_eq!(receives.join().unwrap().1, [Err(RecvError::Closed)]);
        });
    }

    /// Fails if the receiver of the end does not ask whether a handle holds a message, or whether a message
    /// was returned meanwhile (each seen failing).
    #[test]
    fn a_closed_queue_does_not_end_before_a_message_that_is_returned() {
        model(Size::Large, || {
            let queue = queue(1, 3);
            let (_sender, _receiver, lease) = leased(&queue);
            let waiter = receiver(&queue);
            queue.close().unwrap();
            let receives = receives(waiter, 2);
            drop(lease);
            assert_eq!(receives.join().unwrap().1, [Ok(vec![1]), Err(RecvError::Closed)]);
        });
    }

    /// A receiver is dropped with a message for which the ring has no room, and another receiver makes room.
    ///
    /// Fails if the dropped handle returns nothing or wakes no receiver for it, if it does not search for
    /// room once more, or if that search does not go on when there is room for the message that it left
    /// (each seen failing): [owed].
    #[test]
    fn what_a_handle_owes_when_it_goes_is_received() {
        model(Size::Large, || {
            let queue = queue(1, 3);
            let (mut sender, leaves, lease) = leased(&queue);
            let waiter = receiver(&queue);
            sender.try_send(&[2]).unwrap();
            drop(lease);
            let receives = receives(waiter, 2);
            drop(leaves);
            let (_waiter, received) = receives.join().unwrap();
            let mut received: Vec<_> = received.into_iter().map(Result::unwrap).collect();
            received.sort_unstable();
            assert_eq!(received, [[1], [2]]);
        });
    }

    /// Fails if a wake that finds no sleeper clears the bit and does not wake all (seen failing). That wake
    /// is the one for the arrival of the sender's handle.
    #[test]
    fn a_handle_that_arrives_sends_to_a_receiver_that_waits() {
        model(Size::Small, || {
            let queue = queue(1, 2);
            let receives = receives(receiver(&queue), 1);
            let mut sender = sender(&queue);
            sender.try_send(&[1]).unwrap();
            assert_eq!(receives.join().unwrap().1, [Ok(vec![1])]);
        });
    }
}

//! Threads that park at the gates of a queue, through the calls that ship: no wake is lost.
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod models {
    use loom::thread;
    use parkline_core::{RecvError, SendError};
    use parkline_loom_tests::{Size, model, queue, receiver, receives, sender};

    /// Fails if the waiter does not attempt again after it announced (seen failing), if the fence of
    /// `announce` is missing (seen failing), or if `notify` loads without
    /// `order_commit_before_load` (seen failing): [announce].
    ///
    /// Fails if the exchange is Relaxed (seen failing: a block without a frame is received):
    /// [message]. The Acquire of the load before it is for [closed]; the exchange itself acquires the
    /// message.
    #[test]
    fn a_receiver_that_parks_is_woken_by_the_send_it_missed() {
        model(Size::Small, || {
            let queue = queue(1, 2);
            let receives = receives(receiver(&queue), 1);
            sender(&queue).send_blocking(&[7]).unwrap();
            assert_eq!(receives.join().unwrap().1, [Ok(vec![7])]);
        });
    }

    /// Fails if a receive wakes no sender (seen failing).
    #[test]
    fn a_sender_that_parks_while_full_is_woken_by_the_receive() {
        model(Size::Large, || {
            let queue = queue(1, 2);
            let receives = receives(receiver(&queue), 2);
            let mut sender = sender(&queue);
            sender.send_blocking(&[1]).unwrap();
            sender.send_blocking(&[2]).unwrap();
            assert_eq!(receives.join().unwrap().1, [Ok(vec![1]), Ok(vec![2])]);
        });
    }

    /// Fails if a wake that finds no sleeper clears the bit without changing the epoch and without waking
    /// all (seen failing): a waiter went to sleep, its bit set, between the two.
    #[test]
    fn two_receivers_park_and_both_are_served() {
        model(Size::Large, || {
            let queue = queue(2, 3);
            let both = [(); 2].map(|()| receives(receiver(&queue), 1));
            let mut sender = sender(&queue);
            sender.send_blocking(&[1]).unwrap();
            sender.send_blocking(&[2]).unwrap();
            let both = both.map(|it| it.join().unwrap());
            let got = both.into_iter().flat_map(|(_receiver, got)| got);
            let mut got: Vec<_> = got.map(Result::unwrap).collect();
            got.sort_unstable();
            assert_eq!(got, [[1], [2]]);
        });
    }

    /// Fails if a wake does not change the word (seen failing): a sleep that began meanwhile goes on.
    #[test]
    fn close_wakes_a_parked_receiver() {
        model(Size::Small, || {
            let queue = queue(1, 1);
            let receives = receives(receiver(&queue), 1);
            queue.close().unwrap();
            assert_eq!(receives.join().unwrap().1, [Err(RecvError::Closed)]);
        });
    }

    /// Fails if a send on a closed full queue returns full (seen failing: the sender sleeps for ever).
    #[test]
    fn close_wakes_a_sender_that_is_parked_at_a_full_queue() {
        model(Size::Small, || {
            let queue = queue(1, 1);
            let mut sender = sender(&queue);
            sender.try_send(&[1]).unwrap();
            let other = thread::spawn(move || {
                let sent = sender.send_blocking(&[2]);
                (sender, sent)
            });
            queue.close().unwrap();
            assert_eq!(other.join().unwrap().1, Err(SendError::Closed(())));
        });
    }
}

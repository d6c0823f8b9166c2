//! The ring alone: each message that is sent is received once, unaltered, and in order.
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod models {
    use std::sync::Arc;

    use loom::thread;
    use parkline_core::driver::HeapRing;
    use parkline_core::{TryRecvError, TrySendError};
    use parkline_loom_tests::{Size, model, ring};

    /// A thread that sends `messages` and returns those that the ring took.
    fn send(ring: &Arc<HeapRing>, id: u32, messages: &'static [u8]) -> thread::JoinHandle<Vec<u8>> {
        let ring = Arc::clone(ring);
        thread::spawn(move || {
            let mut port = ring.port(id).unwrap();
            let accepted = |message: &u8| match port.try_send(&[*message; 8]) {
                Ok(()) => true,
                Err(TrySendError::Full(()) | TrySendError::Closed(())) => false,
                Err(fault) => panic!("{fault}"),
            };
            messages.iter().copied().filter(accepted).collect()
        })
    }

    /// The messages that a port can take now.
    fn take(ring: &HeapRing, id: u32, tries: usize) -> Vec<u8> {
        let mut port = ring.port(id).unwrap();
        (0..tries).filter_map(|_| received(port.try_recv())).collect()
    }

    fn received(answer: Result<Vec<u8>, TryRecvError>) -> Option<u8> {
        match answer {
            Ok(message) => {
                assert_eq!(message, [message[0]; 8], "torn");
                Some(message[0])
            }
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
            Err(fault) => panic!("{fault}"),
        }
    }

    /// Fails if the search for the front stops one short (seen failing: found nowhere).
    #[test]
    fn what_is_received_is_what_was_sent() {
        model(Size::Small, || {
            let ring = ring(1);
            let sender = send(&ring, 0, &[1]);
            let early = take(&ring, 1, 1);
            assert_eq!(sender.join().unwrap(), [1]);
            let late = take(&ring, 1, 1);
            assert_eq!([early, late].concat(), [1]);
        });
    }

    /// Fails if the exchange is a plain store (seen failing: one message replaces the other).
    #[test]
    fn of_two_senders_one_gets_the_only_place() {
        model(Size::Small, || {
            let ring = ring(1);
            let other = send(&ring, 0, &[1]);
            let mine = send(&ring, 1, &[2]).join().unwrap();
            let accepted = [other.join().unwrap(), mine].concat();
            assert_eq!(accepted.len(), 1, "full for the other");
            assert_eq!(take(&ring, 2, 2), accepted);
        });
    }

    /// Fails if a sender does not attempt again after its exchange failed (seen failing: full with room
    /// left).
    #[test]
    fn two_senders_with_room_for_both_are_both_taken() {
        model(Size::Small, || {
            let ring = ring(2);
            let senders = [send(&ring, 0, &[1]), send(&ring, 1, &[2])];
            let early = take(&ring, 2, 1);
            for (sender, message) in senders.into_iter().zip(1..) {
                assert_eq!(sender.join().unwrap(), [message]);
            }
            let mut all = [early, take(&ring, 2, 2)].concat();
            all.sort_unstable();
            assert_eq!(all, [1, 2]);
        });
    }

    /// Fails if the exchange is a plain store (seen failing: both take the first).
    #[test]
    fn of_two_receivers_each_message_goes_to_one() {
        model(Size::Small, || {
            let ring = ring(2);
            let mut sender = ring.port(0).unwrap();
            sender.try_send(&[1; 8]).unwrap();
            sender.try_send(&[2; 8]).unwrap();
            let other = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || take(&ring, 1, 1))
            };
            let mine = take(&ring, 2, 1);
            let mut both = [other.join().unwrap(), mine].concat();
            both.sort_unstable();
            assert_eq!(both, [1, 2], "there was one for each");
        });
    }

    /// Three laps of a ring of one: a sender's messages arrive in order, however often the ring was full or
    /// empty.
    ///
    /// Fails if a send takes a slot of the wrong lap for full (seen failing), or if it does not advance the
    /// lap of its cursor.
    #[test]
    fn laps_keep_the_order() {
        model(Size::Small, || {
            let ring = ring(1);
            let sender = send(&ring, 0, &[1, 2, 3]);
            let early = take(&ring, 1, 2);
            let sent = sender.join().unwrap();
            let all = [early, take(&ring, 1, 2)].concat();
            assert_eq!(all, sent);
            assert!(!sent.is_empty(), "an empty ring takes a message");
        });
    }

    /// A handle that attaches late finds the front.
    ///
    /// Fails if the search for the front stops one short (seen failing).
    #[test]
    fn a_late_handle_finds_the_front() {
        model(Size::Small, || {
            let ring = ring(2);
            let sender = send(&ring, 0, &[1, 2]);
            let mut late = ring.port(1).unwrap();
            let got = received(late.try_recv());
            let sent = sender.join().unwrap();
            assert_eq!(sent, [1, 2]);
            let all: Vec<_> = got.into_iter().chain(take(&ring, 2, 2)).collect();
            assert_eq!(all, [1, 2]);
        });
    }

    /// Fails if a send is not refused where the slot is sealed (seen failing: sent after the end).
    #[test]
    fn close_against_send_the_accepted_are_received_and_then_it_is_closed() {
        model(Size::Small, || {
            let ring = ring(2);
            let sender = send(&ring, 0, &[1, 2]);
            ring.close();
            let mut late = ring.port(1).unwrap();
            assert_eq!(late.try_send(&[3; 8]), Err(TrySendError::Closed(())));
            let sent = sender.join().unwrap();
            let mut receiver = ring.port(2).unwrap();
            let all: Vec<_> =
                (0..sent.len()).filter_map(|_| received(receiver.try_recv())).collect();
            assert_eq!(all, sent);
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
        });
    }

    /// Fails if a receive returns closed when it finds the ring empty and the flag set (seen failing: a
    /// committed message is never received).
    #[test]
    fn closed_is_final_for_a_receiver() {
        model(Size::Small, || {
            let ring = ring(1);
            let sender = send(&ring, 0, &[1]);
            let closer = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || ring.close())
            };
            let mut receiver = ring.port(1).unwrap();
            let first = receiver.try_recv();
            let accepted = sender.join().unwrap();
            closer.join().unwrap();
            if first == Err(TryRecvError::Closed) {
                assert!(accepted.is_empty(), "accepted after the end");
                assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
            }
        });
    }
}

//! Threads that park at the gates: no wake is lost.
#![cfg_attr(not(loom), allow(missing_docs))]

#[cfg(not(loom))]
#[test]
#[ignore = "run with `cargo loom`"]
fn built_for_loom() {
    panic!("built without --cfg loom: an environment RUSTFLAGS replaces the flags of `cargo loom`");
}

#[cfg(loom)]
mod models {
    use std::sync::Arc;

    use loom::thread;
    use parkline_core::driver::HeapRing;
    use parkline_loom_tests::{Futexes, Size, model, recv, ring, send};

    /// A thread that receives `count` messages.
    fn receiver(
        ring: &Arc<HeapRing>,
        kernel: &Arc<Futexes>,
        id: u32,
        count: usize,
    ) -> thread::JoinHandle<Vec<u8>> {
        let (ring, kernel) = (Arc::clone(ring), Arc::clone(kernel));
        thread::spawn(move || {
            let mut port = ring.port(id).unwrap();
            (0..count).filter_map(|_| recv(&ring, &kernel, &mut port)).collect()
        })
    }

    /// Fails if the waiter does not look again after it announced (seen failing), if the fence of
    /// `announce` is missing (seen failing), or if `notify` loads without
    /// `order_commit_before_load` (seen failing): [announce].
    ///
    /// Fails if the exchange is Relaxed (seen failing: a block without a frame is received):
    /// [message]. The look's own Acquire is for [closed]; the exchange that follows it acquires by
    /// itself.
    #[test]
    fn a_receiver_that_parks_is_woken_by_the_send_it_missed() {
        model(Size::Small, || {
            let (ring, kernel) = (ring(1), Arc::new(Futexes::default()));
            let receiver = receiver(&ring, &kernel, 1, 1);
            assert!(send(&ring, &kernel, &mut ring.port(0).unwrap(), 7));
            assert_eq!(receiver.join().unwrap(), [7]);
        });
    }

    /// Fails if recv's exchange leaves the lap as it is (seen failing), or does not bring the next
    /// slot to its turn.
    #[test]
    fn a_sender_that_parks_while_full_is_woken_by_the_receive() {
        model(Size::Small, || {
            let (ring, kernel) = (ring(1), Arc::new(Futexes::default()));
            let receiver = receiver(&ring, &kernel, 1, 2);
            let mut port = ring.port(0).unwrap();
            assert!(send(&ring, &kernel, &mut port, 1));
            assert!(send(&ring, &kernel, &mut port, 2));
            assert_eq!(receiver.join().unwrap(), [1, 2]);
        });
    }

    /// Fails if a wake that finds nobody clears the bit without an epoch and without waking all
    /// (seen failing): a waiter went to sleep, its bit set, between the two.
    #[test]
    fn two_receivers_park_and_both_are_served() {
        model(Size::Large, || {
            let (ring, kernel) = (ring(2), Arc::new(Futexes::default()));
            let receivers = [1, 2].map(|id| receiver(&ring, &kernel, id, 1));
            let mut port = ring.port(0).unwrap();
            assert!(send(&ring, &kernel, &mut port, 1));
            assert!(send(&ring, &kernel, &mut port, 2));
            let mut got: Vec<_> = receivers.into_iter().flat_map(|it| it.join().unwrap()).collect();
            got.sort_unstable();
            assert_eq!(got, [1, 2]);
        });
    }

    /// Fails if a wake does not change the word (seen failing): the sleep that began meanwhile goes
    /// on.
    #[test]
    fn close_wakes_a_parked_receiver() {
        model(Size::Small, || {
            let (ring, kernel) = (ring(1), Arc::new(Futexes::default()));
            let receiver = receiver(&ring, &kernel, 1, 1);
            ring.close();
            ring.readable().notify_all().carry_out(&*kernel);
            assert_eq!(receiver.join().unwrap(), []);
        });
    }

    /// Fails if a full queue that is closed is still full to a sender (seen failing: it sleeps for
    /// ever).
    #[test]
    fn close_wakes_a_sender_that_is_parked_at_a_full_queue() {
        model(Size::Small, || {
            let (ring, kernel) = (ring(1), Arc::new(Futexes::default()));
            ring.port(0).unwrap().try_send(&[1; 8]).unwrap();
            let sender = {
                let (ring, kernel) = (Arc::clone(&ring), Arc::clone(&kernel));
                thread::spawn(move || send(&ring, &kernel, &mut ring.port(0).unwrap(), 2))
            };
            ring.close();
            ring.writable().notify_all().carry_out(&*kernel);
            assert!(!sender.join().unwrap(), "refused");
        });
    }
}

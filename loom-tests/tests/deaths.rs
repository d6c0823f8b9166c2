//! Threads that stop for ever between a commit and its wake: a sleeping thread attempts again within the
//! watchdog's period, and later wakes arrive.
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod models {
    use std::sync::Arc;

    use loom::thread;
    use parkline_core::driver::{HeapRing, stop_after};
    use parkline_loom_tests::{Futexes, Size, at_every_step, recv, ring, send};

    /// The last message.
    const LAST: u8 = 9;

    /// Settles the dead handle's record, and returns its messages to the ring.
    fn recover(ring: &HeapRing, id: u32) {
        while ring.recover(id).is_none() {
            thread::yield_now();
        }
    }

    /// The receiver sleeps again after the watchdog, and the gate's word is as the dead left it.
    ///
    /// Fails if a receiver that was not woken does not attempt (seen failing: it goes on sleeping beside the
    /// message).
    #[test]
    fn who_sleeps_learns_by_the_watchdog_of_a_send_whose_sender_died_before_its_wake() {
        at_every_step(Size::Large, |steps| {
            let (ring, kernel) = (ring(2), Arc::new(Futexes::default()));
            let receiver = {
                let (ring, kernel) = (Arc::clone(&ring), Arc::clone(&kernel));
                thread::spawn(move || {
                    let mut port = ring.port(1).unwrap();
                    let received = std::iter::from_fn(|| recv(&ring, &kernel, &mut port));
                    let mut messages = Vec::new();
                    for message in received {
                        messages.push(message);
                        if message == LAST {
                            break;
                        }
                    }
                    messages
                })
            };
            let end = stop_after(steps, || send(&ring, &kernel, &mut ring.port(0).unwrap(), 1));
            if end.is_err() {
                recover(&ring, 0);
                kernel.watch_until(|| !ring.is_readable());
            }
            // From here on the watchdog ends no sleep.
            assert!(send(&ring, &kernel, &mut ring.port(2).unwrap(), LAST));
            let received = receiver.join().unwrap();
            assert!(received == [1, LAST] || end.is_err() && received == [LAST], "{received:?}");
            end.is_err()
        });
    }
}

//! A thread that stops for ever at any access to a shared word: the others go on (promise P1).
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod models {
    use std::sync::Arc;

    use loom::thread;
    use parkline_core::driver::{HeapRing, Stopped, stop_after};
    use parkline_loom_tests::{Size, at_every_step, ring};

    fn received(ring: &HeapRing, id: u32, tries: usize) -> Vec<u8> {
        let mut port = ring.port(id).unwrap();
        (0..tries)
            .filter_map(|_| port.try_recv().ok())
            .inspect(|message| assert_eq!(*message, [message[0]; 8], "torn"))
            .map(|message| message[0])
            .collect()
    }

    /// Fails if the position is claimed before the message is written, as in a ring of tickets
    /// (seen failing with a slot that is marked before it is filled: the receiver never gets the
    /// messages after it).
    #[test]
    fn a_sender_that_stops_blocks_nobody() {
        at_every_step(Size::Small, |steps| {
            let ring = ring(2);
            let victim = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let mut port = ring.port(0).unwrap();
                    stop_after(steps, || port.try_send(&[1; 8]).unwrap())
                })
            };
            ring.port(1).unwrap().try_send(&[2; 8]).expect("there is room for two");
            let early = received(&ring, 2, 1);
            let end = victim.join().unwrap();
            let mut all = [early, received(&ring, 2, 2)].concat();
            // A committed message is there, also if the sender stopped right after the exchange.
            assert!(all.contains(&2));
            assert!(end == Err(Stopped) || all.contains(&1));
            all.sort_unstable();
            assert!(all == [2] || all == [1, 2], "{all:?}");
            // All the room is there, too.
            let mut port = ring.port(1).unwrap();
            port.try_send(&[3; 8]).unwrap();
            port.try_send(&[4; 8]).unwrap();
            assert_eq!(received(&ring, 2, 3), [3, 4]);
            end == Err(Stopped)
        });
    }

    /// Fails if a receiver empties the slot before the exchange is done (seen failing with a slot
    /// that is marked as being read: the other receiver finds nothing).
    #[test]
    fn a_receiver_that_stops_blocks_nobody() {
        at_every_step(Size::Small, |steps| {
            let ring = ring(2);
            let mut port = ring.port(0).unwrap();
            port.try_send(&[1; 8]).unwrap();
            port.try_send(&[2; 8]).unwrap();
            let victim = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let mut port = ring.port(1).unwrap();
                    stop_after(steps, || port.try_recv().unwrap()[0])
                })
            };
            let mine = received(&ring, 2, 1);
            assert_eq!(mine.len(), 1, "there was one for each");
            let end = victim.join().unwrap();
            let rest = received(&ring, 2, 2);
            let mut all = [mine, rest.clone(), end.iter().copied().collect()].concat();
            all.sort_unstable();
            // The message that the dead handle took is in its record, not in the ring. No other message
            // was lost or repeated.
            let whole = all == [1, 2];
            assert!(whole || end == Err(Stopped) && (all == [1] || all == [2]), "{all:?}");
            port.try_send(&[3; 8]).unwrap();
            port.try_send(&[4; 8]).unwrap();
            assert_eq!(received(&ring, 2, 3), [3, 4]);
            end == Err(Stopped)
        });
    }
}

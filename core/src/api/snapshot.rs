//! Copies of the messages that wait, without a receive.

use std::sync::Arc;

use crate::error::Fault;
use crate::process::segment::Segment;
use crate::ring::position::Position;
use crate::ring::slot::Verb;

/// The messages that waited when it was made, each copied when it is asked for, oldest first. A message
/// that was received meanwhile is left out. For drivers.
#[derive(Debug)]
pub struct Snapshot {
    segment: Arc<Segment>,
    at: Position,
    until: Position,
}

impl Snapshot {
    /// # Errors
    /// [`Fault::Forked`], [`Fault::Corrupt`].
    pub(crate) fn of(segment: &Arc<Segment>) -> Result<Self, Fault> {
        let segment = Arc::clone(segment);
        let (at, until) = {
            let ring = segment.ring().ok_or(Fault::Forked)?;
            ring.condition.check()?;
            (ring.start(Verb::Recv)?, ring.start(Verb::Send)?)
        };
        Ok(Self { segment, at, until })
    }
}

impl Iterator for Snapshot {
    type Item = Result<Vec<u8>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at.is_before(self.until) {
            let at = self.at;
            self.at = at.plus(1);
            let Some(ring) = self.segment.ring() else {
                self.at = self.until;
                return Some(Err(Fault::Forked));
            };
            match ring.copy_at(at) {
                Ok(Some(message)) => return Some(Ok(message)),
                Ok(None) => {}
                Err(corrupt) => {
                    self.at = self.until;
                    return Some(Err(ring.condition.keep(corrupt).into()));
                }
            }
        }
        None
    }
}

#[cfg(all(test, not(kill_points)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use crate::Queue;

    fn copies(queue: &Queue) -> Vec<Vec<u8>> {
        queue.snapshot().unwrap().map(Result::unwrap).collect()
    }

    /// In the second lap too. Fails if the copies begin one position later (seen failing).
    #[test]
    fn the_messages_that_wait_are_copied_in_order_and_stay() {
        let queue = Queue::builder().capacity(4).max_message(8).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        assert!(copies(&queue).is_empty());
        for number in 0..6u8 {
            if number >= 3 {
                receiver.try_recv().unwrap();
            }
            sender.try_send(&[number]).unwrap();
        }
        assert_eq!(copies(&queue), [[3], [4], [5]]);
        assert_eq!(copies(&queue), [[3], [4], [5]]);
        assert_eq!((queue.len(), receiver.try_recv().unwrap()), (3, vec![3]));
    }

    /// Fails if a message of a later lap is copied (seen failing).
    #[test]
    fn a_message_that_was_received_meanwhile_is_left_out() {
        let queue = Queue::builder().capacity(2).max_message(8).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.try_send(b"first").unwrap();
        sender.try_send(b"second").unwrap();
        let mut copies = queue.snapshot().unwrap();
        receiver.try_recv().unwrap();
        sender.try_send(b"third").unwrap();
        assert_eq!(copies.next().unwrap().unwrap(), b"second");
        assert!(copies.next().is_none());
    }

    /// Each message is one word many times over. Fails if the slot is not loaded after the copy (seen
    /// failing).
    #[test]
    fn no_copy_is_of_two_messages() {
        const LEN: usize = 1 << 16;
        let queue = Queue::builder().capacity(2).max_message(LEN).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let is_over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for number in (0..=u8::MAX).cycle() {
                    let _ = sender.try_send(&[number; LEN]);
                    if number % 2 == 0 {
                        let _ = receiver.try_recv();
                    }
                    if is_over.load(Relaxed) {
                        break;
                    }
                }
            });
            let (mut copied, mut are_whole) = (0, true);
            while copied < 2_000 && are_whole {
                for copy in copies(&queue) {
                    are_whole &= copy.iter().all(|byte| *byte == copy[0]);
                    copied += 1;
                }
            }
            is_over.store(true, Relaxed);
            assert!(are_whole, "of {copied} copies one is of two messages");
        });
    }
}

//! What a handle owes goes back though no task of its process waits for it: by the runtime, the
//! `block_on` or the helper thread around the dropped lease. One fact a test; the watchdog's period is
//! an hour.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parkline_core::driver::WaitsFor;
use parkline_uring::{AsyncSender, Queue, Receiver, TryRecvError, block_on};
use tokio::sync::oneshot;

use crate::cancel::{begin, until};
use crate::deaths::until_a_waiter_is_there;
use crate::endings::{EVERYWHERE, HOUR, TASKS, without_hanging};
use crate::leases::queue;
use crate::peer::{Peer, inherited};
use crate::runtimes::{current_thread, multi_thread};

const SOON: Duration = Duration::from_millis(20);

/// A peer that receives all of the first queue, when the third says so, until it has got message 1 a
/// second time. It says on the second when it is there.
pub(crate) fn receive_again() {
    let mut receiver = inherited::<u64>(0).receiver().unwrap();
    let mut go = inherited::<u64>(2).receiver().unwrap();
    inherited::<u64>(1).sender().unwrap().try_send(&0).unwrap();
    go.recv_blocking().unwrap();
    loop {
        let job = receiver.lease_blocking().unwrap();
        let seen = (job.read().unwrap(), job.attempts(), job.redelivered());
        job.ack();
        match seen {
            (1, 2, true) => return,
            (_, 1, false) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A process that is about to make room in a queue.
struct Receiving {
    peer: Peer,
    go: parkline_uring::Sender<u64>,
}

impl Receiving {
    fn start(queue: &Queue<u64>) -> Self {
        let news = Queue::builder().create_typed::<u64>().unwrap();
        let go = Queue::builder().create_typed::<u64>().unwrap();
        let peer = Peer::start("receive again", &[queue, &news, &go]);
        news.receiver().unwrap().recv_blocking().unwrap();
        Self { peer, go: go.sender().unwrap() }
    }

    /// Lets it go, and returns when it has got what it waits for.
    fn finish(mut self) {
        self.go.try_send(&0).unwrap();
        self.peer.assert_success();
    }

    /// The same for a task: it waits for nothing of ours.
    async fn finished(self) {
        let (done, is_done) = oneshot::channel();
        thread::spawn(move || {
            self.finish();
            done.send(()).unwrap();
        });
        is_done.await.unwrap();
    }
}

/// A handle whose message 1 finds no room, once it is dropped.
fn about_to_owe() -> (Queue<u64>, Receiver<u64>, parkline_uring::Lease<u64>) {
    let queue = queue(1, 1);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(&1).unwrap();
    let job = receiver.try_lease().unwrap();
    sender.try_send(&2).unwrap();
    (queue, receiver, job)
}

/// Fails if no driver waits for room on behalf of the handle (seen failing: hangs).
#[test]
fn another_process_makes_room_while_no_task_waits() {
    for within in EVERYWHERE {
        without_hanging(within, move || {
            let (queue, _receiver, job) = about_to_owe();
            let peer = Receiving::start(&queue);
            within.run(async {
                drop(job);
                assert_eq!((queue.stats().owed, queue.len()), (1, 1));
                peer.finished().await;
            });
            assert_eq!((queue.stats().owed, queue.len()), (0, 0));
        });
    }
}

/// Fails if the wait for room ends with the runtime in which it began (seen failing: hangs).
#[test]
fn another_process_makes_room_when_the_runtime_is_gone_in_which_the_lease_was_dropped() {
    for within in TASKS {
        without_hanging(within, move || {
            let (queue, _receiver, job) = about_to_owe();
            let peer = Receiving::start(&queue);
            within.run(async { drop(job) });
            assert_eq!((queue.stats().owed, queue.len()), (1, 1));
            peer.finish();
            assert_eq!((queue.stats().owed, queue.len()), (0, 0));
        });
    }
}

/// The handle goes first, and leaves the message as the dead do.
///
/// Fails if tasks that wait do not recover what such a handle left (seen failing: hangs).
#[test]
fn a_task_gets_what_a_handle_of_its_process_left() {
    for within in EVERYWHERE {
        without_hanging(within, move || {
            let (queue, receiver, job) = about_to_owe();
            let mut other = queue.receiver().unwrap();
            drop((job, receiver));
            assert_eq!((queue.stats().owed, queue.len()), (1, 1));
            let mut seen = Vec::new();
            within.work(&mut other, 2, |job| seen.push((job.read().unwrap(), job.attempts())));
            assert_eq!((seen, queue.stats().owed), (vec![(2, 1), (1, 2)], 0));
        });
    }
}

/// The driver is the first in line for room, and needs none when it is woken.
///
/// Fails if a wait that is over does not pass its wake on (seen failing: hangs).
#[test]
fn a_driver_that_needs_no_room_any_more_leaves_it_to_a_sender() {
    without_hanging("a driver", || {
        let (queue, mut receiver, job) = about_to_owe();
        let (mut sender, mut other) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let (driving, of_sender) = (multi_thread(), current_thread());
        driving.block_on(async { drop(job) });
        let mut sends = Box::pin(sender.send(&3));
        let told = of_sender.block_on(async { begin(&mut sends) });
        // All leases are out, and so the handle receives again what it owes.
        let again = receiver.try_lease().unwrap();
        assert_eq!((again.read(), queue.stats().owed), (Ok(1), 0));
        assert_eq!(other.try_recv(), Ok(2));
        of_sender.block_on(until(&told));
        assert_eq!(of_sender.block_on(sends), Ok(()));
        again.ack();
    });
}

/// Fails if the end of a handle leaves the driver in line (seen failing: hangs, since no thread drives
/// the runtime in which it waits).
#[test]
fn the_driver_of_a_handle_that_went_takes_no_wake() {
    without_hanging("a driver", || {
        let (queue, receiver, job) = about_to_owe();
        let (mut sender, mut other) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let idle = current_thread();
        idle.block_on(async { drop(job) });
        let side = sender.side();
        until_a_waiter_is_there(&side);
        drop(receiver);
        let waiter = thread::spawn(move || block_on(sender.send(&3)));
        // The first that makes room does it for what the handle left, or for the sender.
        let mut received = [(); 3].map(|()| other.recv_blocking().unwrap());
        received.sort_unstable();
        assert_eq!(received, [1, 2, 3]);
        assert_eq!(waiter.join().unwrap(), Ok(()));
    });
}

/// Whether the helper, a thread or a runtime keeps the time, another process gets the message, and not
/// before its time.
///
/// Fails if no driver keeps the time (seen failing: hangs), or if the time is not asked for (seen
/// failing).
#[test]
fn a_message_that_is_held_back_goes_to_another_process_at_its_time() {
    for (within, stays) in EVERYWHERE.into_iter().flat_map(|it| [(it, true), (it, false)]) {
        without_hanging((within, stays), move || {
            let queue = queue(2, 1);
            queue.sender().unwrap().try_send(&1).unwrap();
            let mut receiver = queue.receiver().unwrap();
            let job = receiver.try_lease().unwrap();
            let mut peer = Receiving::start(&queue);
            let side = receiver.side();
            peer.go.try_send(&0).unwrap();
            until_a_waiter_is_there(&side);
            let due = Instant::now() + SOON;
            let held_back = || {
                job.nack_after(SOON);
                assert_eq!((queue.stats().owed, queue.len()), (1, 0));
            };
            if stays {
                within.run(async {
                    held_back();
                    peer.finished().await;
                });
            } else {
                within.run(async { held_back() });
                peer.finish();
            }
            assert!(Instant::now() >= due);
            assert_eq!(queue.stats().owed, 0);
        });
    }
}

/// Fails if the time is not asked for (seen failing), or if nothing is returned at it (seen failing:
/// hangs).
#[test]
fn a_task_that_waits_gets_a_message_at_its_time() {
    for (within, is_same) in EVERYWHERE.into_iter().flat_map(|it| [(it, true), (it, false)]) {
        without_hanging((within, is_same), move || {
            let queue = queue(2, 1);
            queue.sender().unwrap().try_send(&1).unwrap();
            let (mut receiver, mut other) = (queue.receiver().unwrap(), queue.receiver().unwrap());
            let job = receiver.try_lease().unwrap();
            let side = if is_same { receiver.side_for(WaitsFor::Lease) } else { other.side() };
            let waiter = thread::spawn(move || {
                let waits = if is_same { &mut receiver } else { &mut other };
                within.work(waits, 1, |job| assert_eq!(job.attempts(), 2));
                // The handle that owes stays until then.
                drop(receiver);
            });
            until_a_waiter_is_there(&side);
            let due = Instant::now() + SOON;
            job.nack_after(SOON);
            waiter.join().unwrap();
            assert!(Instant::now() >= due);
        });
    }
}

/// A peer that leases the only message, holds it back for an hour, says so, and hangs.
pub(crate) fn hold_back() {
    let mut receiver = inherited::<u64>(0).receiver().unwrap();
    receiver.try_lease().unwrap().nack_after(HOUR);
    inherited::<u64>(1).sender().unwrap().try_send(&0).unwrap();
    loop {
        thread::park();
    }
}

/// Fails if what is held back is no message that the dead held (seen failing: hangs).
#[test]
fn a_message_that_is_held_back_goes_at_once_when_its_process_dies() {
    for within in EVERYWHERE {
        without_hanging(within, move || {
            let builder = Queue::builder().watchdog(within.watchdog_of_death());
            let queue = builder.create_typed::<u64>().unwrap();
            let news = Queue::builder().create_typed::<u64>().unwrap();
            queue.sender().unwrap().try_send(&1).unwrap();
            let mut receiver = queue.receiver().unwrap();
            let peer = Peer::start("hold back", &[&queue, &news]);
            news.receiver().unwrap().recv_blocking().unwrap();
            assert_eq!((receiver.try_recv(), queue.stats().owed), (Err(TryRecvError::Empty), 1));
            let side = receiver.side();
            let (told, tell) = mpsc::channel();
            thread::spawn(move || {
                within.work(&mut receiver, 1, |job| told.send(job.attempts()).unwrap());
            });
            until_a_waiter_is_there(&side);
            drop(peer);
            assert_eq!(tell.recv(), Ok(2));
        });
    }
}

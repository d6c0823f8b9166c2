//! The end of a closed queue, whose last message another handle has: it is told when nothing can come
//! back. One fact a test; the watchdog's period is an hour.

use std::thread;

use parkline_uring::{AsyncReceiver, Lease, Queue, RecvError};

use crate::deaths::until_a_waiter_is_there;
use crate::endings::{EVERYWHERE, Within, without_hanging};
use crate::leases::queue;
use crate::peer::{Peer, inherited};

const ACKNOWLEDGE: u64 = 1;
const RETURN: u64 = 2;

/// Leases a job of the first queue, says so on the second, and does with it what the third says. Then it
/// stays, so that its end is no news.
pub(crate) fn child() {
    let mut commands = inherited::<u64>(2).receiver().unwrap();
    let mut receiver = inherited::<u64>(0).receiver().unwrap();
    let job = receiver.try_lease().unwrap();
    inherited::<u64>(1).sender().unwrap().try_send(&0).unwrap();
    match commands.recv_blocking().unwrap() {
        ACKNOWLEDGE => job.ack(),
        RETURN => job.nack(),
        other => panic!("no such command: {other}"),
    }
    loop {
        thread::park();
    }
}

/// A process that has leased the only message of `queue`, and where it takes commands.
pub(crate) fn holder(queue: &Queue<u64>) -> (Peer, parkline_uring::Sender<u64>) {
    let news = Queue::builder().create_typed::<u64>().unwrap();
    let commands = Queue::builder().create_typed::<u64>().unwrap();
    let peer = Peer::start("lease and obey", &[queue, &news, &commands]);
    news.receiver().unwrap().recv_blocking().unwrap();
    (peer, commands.sender().unwrap())
}

/// A waiter at the end of `queue`, in `within`: what it gets after `act`.
fn wait_at_the_end(
    queue: &Queue<u64>,
    within: Within,
    act: impl FnOnce(),
) -> Result<u64, RecvError> {
    let mut receiver = queue.receiver().unwrap();
    queue.close().unwrap();
    let side = receiver.side();
    let waiter = thread::spawn(move || {
        let job = match within {
            Within::Thread => receiver.lease_blocking(),
            _ => within.run(receiver.lease()),
        };
        job.map(|job| {
            assert_eq!(job.attempts(), 2);
            let read = job.read().unwrap();
            job.ack();
            read
        })
    });
    until_a_waiter_is_there(&side);
    act();
    waiter.join().unwrap()
}

/// What a waiter gets after another handle of this process, or another process, did `end` or what the
/// `command` says with the last message.
fn each(end: fn(Lease<u64>), command: u64, expected: Result<u64, RecvError>) {
    for within in EVERYWHERE {
        without_hanging(within, move || {
            let queue = queue(2, 1);
            queue.sender().unwrap().try_send(&7).unwrap();
            let job = queue.receiver().unwrap().try_lease().unwrap();
            assert_eq!(wait_at_the_end(&queue, within, || end(job)), expected);
        });
        without_hanging((within, "a process"), move || {
            let queue = queue(2, 1);
            queue.sender().unwrap().try_send(&7).unwrap();
            let (_holder, mut commands) = holder(&queue);
            let act = || commands.try_send(&command).unwrap();
            assert_eq!(wait_at_the_end(&queue, within, act), expected);
        });
    }
}

/// Fails if an acknowledgement does not wake those at the end (seen failing: hangs).
#[test]
fn an_acknowledgement_of_the_last_message_ends_a_closed_queue() {
    each(Lease::ack, ACKNOWLEDGE, Err(RecvError::Closed));
}

/// Fails if the end is told while another handle has a lease (seen failing).
#[test]
fn a_message_that_comes_back_at_the_end_is_received() {
    each(drop, RETURN, Ok(7));
}

/// Fails if a waiter at the end does not recover what the dead held (seen failing).
#[test]
fn what_a_killed_process_held_at_the_end_is_received() {
    for within in EVERYWHERE {
        without_hanging(within, move || {
            let builder = Queue::builder().watchdog(within.watchdog_of_death());
            let queue = builder.create_typed().unwrap();
            queue.sender().unwrap().try_send(&7).unwrap();
            let (holder, _commands) = holder(&queue);
            assert_eq!(wait_at_the_end(&queue, within, || drop(holder)), Ok(7));
        });
    }
}

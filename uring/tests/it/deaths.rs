//! A peer is killed: what it held comes to a task that waits, at once where the ring polls for its end, and
//! by the watchdog everywhere.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parkline_uring::{AsyncJoin, AsyncReceiver, Backend, Queue, Receiver, backend, block_on};

use crate::cancel::{begin, until};
use crate::peer::{Peer, inherited};
use crate::runtimes::{current_thread, multi_thread};

/// Leases a job, says so, and hangs until it is killed.
pub(crate) fn child() {
    let _job = inherited::<u64>(0).receiver().unwrap().try_lease().unwrap();
    inherited::<u64>(1).sender().unwrap().try_send(&0).unwrap();
    loop {
        thread::park();
    }
}

/// An hour, so that the watchdog makes no test pass, unless there is nothing else.
pub(crate) fn watchdog() -> Duration {
    match backend() {
        Backend::IoUring => Duration::from_secs(3600),
        Backend::Futex(_) => Duration::from_millis(10),
    }
}

/// A queue with a job that a peer has leased, and the peer.
fn leased() -> (Queue<u64>, Peer) {
    let queue = Queue::builder().watchdog(watchdog()).create_typed().unwrap();
    queue.sender().unwrap().try_send(&7).unwrap();
    let peer = leaser(&queue);
    (queue, peer)
}

/// A peer that has leased a job.
pub(crate) fn leaser(queue: &Queue<u64>) -> Peer {
    let news = Queue::builder().create_typed::<u64>().unwrap();
    let peer = Peer::start("lease_and_hang", &[queue, &news]);
    news.receiver().unwrap().recv_blocking().unwrap();
    peer
}

/// Waits in `run`, and kills the peer when it does.
fn survive(run: impl FnOnce(Receiver<u64>) -> u64 + Send + 'static) {
    let (queue, peer) = leased();
    let receiver = queue.receiver().unwrap();
    let side = receiver.side();
    let survivor = thread::spawn(move || run(receiver));
    until_a_waiter_is_there(&side);
    drop(peer);
    assert_eq!(survivor.join().unwrap(), 7);
    assert_eq!((queue.stats().redelivered, queue.stats().recovered), (1, 1));
}

pub(crate) fn until_a_waiter_is_there(side: &parkline_core::driver::Side) {
    use std::sync::atomic::Ordering::Relaxed;
    while side.gate().unwrap().word().load(Relaxed) & 1 == 0 {
        thread::yield_now();
    }
}

async fn again(mut receiver: Receiver<u64>) -> u64 {
    let job = receiver.lease().await.unwrap();
    assert!(job.redelivered() && job.attempts() == 2);
    let read = job.read().unwrap();
    job.ack();
    read
}

/// Fails if the ring does not poll for the ends of peers (seen failing: sleeps for an hour).
#[test]
fn a_thread_in_block_on_gets_what_the_killed_had() {
    survive(|receiver| block_on(again(receiver)));
}

/// Fails if the ring does not poll for the ends of peers (seen failing: sleeps for an hour).
#[test]
fn tokio_tasks_get_what_the_killed_had() {
    survive(|receiver| current_thread().block_on(again(receiver)));
    survive(|receiver| multi_thread().block_on(again(receiver)));
}

/// The join waits before the peer is there: an arrival is news.
///
/// Fails if an arrival wakes no task, or if peers are searched for once only (each seen failing: sleeps
/// for an hour).
#[test]
fn a_peer_that_comes_later_is_polled_too() {
    let queue = Queue::builder().watchdog(watchdog()).create_typed().unwrap();
    queue.sender().unwrap().try_send(&7).unwrap();
    let side = queue.joining().side();
    let queue = Arc::new(queue);
    let joiner = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || block_on(queue.join()))
    };
    until_a_waiter_is_there(&side);
    // It has a record of its own, and so recovers none.
    let mut receiver = queue.receiver().unwrap();
    drop(leaser(&queue));
    let job = receiver.lease_blocking().unwrap();
    assert!(job.redelivered());
    job.ack();
    joiner.join().unwrap().unwrap();
}

/// The first that waits needs more than the second.
///
/// Fails if one wake is for one join only (seen failing: the second sleeps for an hour).
#[test]
fn each_acknowledgement_wakes_all_joins() {
    let queue = Queue::builder().watchdog(Duration::from_secs(3600)).create_typed().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(&1).unwrap();
    let first = receiver.try_lease().unwrap();
    let (mut patient, mut soon) = (Box::pin(queue.join()), Box::pin(queue.join()));
    let (idle, driven) = (current_thread(), current_thread());
    idle.block_on(async { begin(&mut soon) });
    sender.try_send(&2).unwrap();
    driven.block_on(async { begin(&mut patient) });
    let told = driven.block_on(async { begin(&mut soon) });
    first.ack();
    driven.block_on(until(&told));
    assert_eq!(driven.block_on(soon), Ok(()));
    assert_eq!(receiver.try_recv(), Ok(2));
    assert_eq!(driven.block_on(patient), Ok(()));
}

/// The kernel cancels what a thread submitted when that thread ends.
///
/// Fails if a cancelled poll is taken for the end of the peer, or is not submitted again (seen failing:
/// sleeps for an hour).
#[test]
fn a_peer_is_polled_though_the_thread_that_submitted_the_poll_has_ended() {
    let (queue, peer) = leased();
    let mut receiver = queue.receiver().unwrap();
    let side = receiver.side();
    let runtime = current_thread();
    let mut waiting = Box::pin(async move { receiver.recv().await });
    thread::scope(|scope| {
        scope.spawn(|| runtime.block_on(async { begin(&mut waiting) }));
    });
    let survivor = thread::spawn(move || runtime.block_on(waiting));
    until_a_waiter_is_there(&side);
    drop(peer);
    assert_eq!(survivor.join().unwrap(), Ok(7));
}

/// Fails if a poll that the end of its ring cancelled is taken for the end of its peer (seen failing): all
/// waiters of all processes would be woken.
#[test]
fn the_end_of_a_runtime_is_not_the_end_of_its_peers() {
    use std::sync::atomic::Ordering::Relaxed;
    let (queue, peer) = leased();
    let mut receiver = queue.receiver().unwrap();
    let writable = queue.sender().unwrap().side();
    let runtime = current_thread();
    let mut waiting = Box::pin(receiver.recv());
    runtime.block_on(async { begin(&mut waiting) });
    let word = || writable.gate().unwrap().word().load(Relaxed);
    let before = word();
    drop(runtime);
    assert_eq!(word(), before);
    drop((waiting, peer));
}

/// No task waits when the peer ends and the runtime reaps the poll.
///
/// Fails if a task that waits later does not search for peers that have ended (seen failing: sleeps for an
/// hour).
#[test]
fn a_peer_that_ends_while_no_task_waits_is_recovered_by_the_next_that_waits() {
    let (queue, peer) = leased();
    let mut receiver = queue.receiver().unwrap();
    let runtime = current_thread();
    runtime.block_on(async { begin(&mut Box::pin(receiver.recv())) });
    drop(peer);
    runtime.block_on(async {
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(runtime.block_on(receiver.recv()), Ok(7));
}

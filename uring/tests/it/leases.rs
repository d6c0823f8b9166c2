//! Tasks that wait for a lease, one fact a test. The watchdog's period is an hour: a wake that is lost
//! makes the test hang.

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use parkline_core::driver::WaitsFor;
use parkline_uring::{AsyncReceiver, Lease, Queue, Receiver, Sender, Shared, block_on};
use tokio::task::{JoinSet, yield_now};

use crate::deaths::until_a_waiter_is_there;
use crate::endings::{EVERYWHERE, HOUR, TASKS, Within, without_hanging};
use crate::runtimes::{current_thread, multi_thread};

pub(crate) fn queue(capacity: usize, leases: usize) -> Queue<u64> {
    let builder = Queue::builder().capacity(capacity).leases(leases).handles(8);
    builder.watchdog(HOUR).create_typed().unwrap()
}

/// Fails to compile if a shared handle keeps what can be used on one thread only (seen failing).
#[test]
fn shared_handles_go_to_other_threads_and_through_panics() {
    const fn goes_anywhere<T: Send + Sync + UnwindSafe + RefUnwindSafe>() {}
    const {
        goes_anywhere::<Shared<Receiver>>();
        goes_anywhere::<Shared<Receiver<u64>>>();
        goes_anywhere::<Shared<Sender>>();
    }
}

type End = (usize, fn(Lease<u64>), (u64, u16));

/// How a lease ends, of a ring of so many slots, and what a waiter for a lease gets then: which
/// message, the how manieth time.
const ENDS: [End; 3] = [
    (2, Lease::ack, (2, 1)),
    (2, drop, (2, 1)),
    // The ring is full, and so the message stays with the handle.
    (1, drop, (1, 2)),
];

/// A handle whose only lease is out, with the message that it is of, and another message in the ring.
fn out(capacity: usize) -> (Queue<u64>, Receiver<u64>, Lease<u64>) {
    let queue = queue(capacity, 1);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(&1).unwrap();
    let job = receiver.try_lease().unwrap();
    sender.try_send(&2).unwrap();
    (queue, receiver, job)
}

fn acknowledged(job: Lease<u64>) -> (u64, u16) {
    let seen = (job.read().unwrap(), job.attempts());
    job.ack();
    seen
}

/// Fails if the gate of leases is not woken by an acknowledgement, a return, or by what is owed (each
/// seen failing: hangs).
#[test]
fn a_lease_that_ends_on_another_thread_wakes_a_waiter() {
    for (within, (capacity, end, expected)) in
        EVERYWHERE.into_iter().flat_map(|it| ENDS.map(|end| (it, end)))
    {
        without_hanging((within, capacity, expected), move || {
            let (_queue, mut receiver, job) = out(capacity);
            let side = receiver.side_for(WaitsFor::Lease);
            let waiter = thread::spawn(move || match within {
                Within::Thread => acknowledged(receiver.lease_blocking().unwrap()),
                _ => acknowledged(within.run(receiver.lease()).unwrap()),
            });
            until_a_waiter_is_there(&side);
            end(job);
            assert_eq!(waiter.join().unwrap(), expected);
        });
    }
}

async fn until_a_task_waits(side: &parkline_core::driver::Side) {
    while side.gate().unwrap().word().load(std::sync::atomic::Ordering::Relaxed) & 1 == 0 {
        yield_now().await;
    }
}

/// Fails as the one before (seen failing: hangs).
#[test]
fn a_lease_that_ends_in_another_task_wakes_a_waiter_of_the_same_handle() {
    for (within, (capacity, end, expected)) in
        TASKS.into_iter().flat_map(|it| ENDS.map(|end| (it, end)))
    {
        without_hanging((within, capacity, expected), move || {
            let (_queue, receiver, job) = out(capacity);
            let side = receiver.side_for(WaitsFor::Lease);
            let mut shared = receiver.share();
            within.run(async {
                let (job, ()) = tokio::join!(shared.lease(), async {
                    until_a_task_waits(&side).await;
                    end(job);
                });
                assert_eq!(acknowledged(job.unwrap()), expected);
            });
        });
    }
}

/// Fails if a task whose handle has no lease left waits for a message (seen failing: hangs).
#[test]
fn a_task_without_a_lease_takes_no_wake_from_others() {
    for within in TASKS {
        without_hanging(within, move || {
            let queue = queue(2, 1);
            let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
            let mut other = queue.receiver().unwrap();
            sender.try_send(&1).unwrap();
            let job = receiver.try_lease().unwrap();
            let (of_leases, of_messages) = (receiver.side_for(WaitsFor::Lease), other.side());
            let shared = receiver.share();
            let (mut without, mut same_handle) = (shared.clone(), shared);
            within.run(async {
                let waits = async { acknowledged(without.lease().await.unwrap()) };
                let others = async {
                    until_a_task_waits(&of_leases).await;
                    // Another handle; then the same one by `recv`, for which it always has a place.
                    let received = tokio::join!(other.recv(), async {
                        until_a_task_waits(&of_messages).await;
                        sender.try_send(&2).unwrap();
                    });
                    assert_eq!(received.0, Ok(2));
                    let received = tokio::join!(same_handle.recv(), async {
                        yield_now().await;
                        sender.try_send(&3).unwrap();
                    });
                    assert_eq!(received.0, Ok(3));
                    sender.try_send(&4).unwrap();
                    job.ack();
                };
                assert_eq!(tokio::join!(waits, others).0, (4, 1));
            });
        });
    }
}

const JOBS: usize = 1_000;

/// Each job is done in a task of its own; every third task panics at its first attempt.
async fn spawn_for_each(mut receiver: impl AsyncReceiver<u64>) -> usize {
    let (done, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    while let Ok(job) = receiver.lease().await {
        let done = Arc::clone(&done);
        tasks.spawn(async move {
            yield_now().await;
            if job.read().unwrap() % 3 == 0 && !job.redelivered() {
                std::panic::resume_unwind(Box::new("as the test wants it"));
            }
            done.fetch_add(1, SeqCst);
            job.ack();
        });
        while tasks.try_join_next().is_some() {}
    }
    done.load(SeqCst)
}

/// Fails if a lease is refused while all are out (seen failing), or if the end is told while jobs
/// are in hand (seen failing).
#[test]
fn a_loop_that_spawns_a_task_for_each_lease_does_all_and_ends() {
    for (is_multi, is_shared) in [(false, false), (false, true), (true, false), (true, true)] {
        without_hanging((is_multi, is_shared), move || {
            let queue = queue(8, 2);
            let (mut sender, receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
            let sender = thread::spawn(move || {
                (0..JOBS as u64).for_each(|job| sender.send_blocking(&job).unwrap());
                queue.close().unwrap();
                queue
            });
            let runtime = if is_multi { multi_thread() } else { current_thread() };
            let done = runtime.block_on(async {
                if is_shared {
                    spawn_for_each(receiver.share()).await
                } else {
                    spawn_for_each(receiver).await
                }
            });
            assert_eq!(done, JOBS);
            let queue = sender.join().unwrap();
            queue.join_blocking().unwrap();
            let stats = queue.stats();
            assert_eq!((stats.owed, stats.received), (0, (JOBS + JOBS.div_ceil(3)) as u64));
        });
    }
}

/// Fails if a lease that is dropped in a panic stays out (seen failing).
#[test]
fn tasks_that_panic_or_are_cancelled_give_their_leases_back() {
    let queue = queue(4, 2);
    queue.sender().unwrap().try_send(&1).unwrap();
    let shared = queue.receiver().unwrap().share();
    multi_thread().block_on(async {
        for attempts in 1..=20 {
            let job = shared.lock().try_lease().unwrap();
            assert_eq!(job.attempts(), attempts, "it is never given up");
            let task = tokio::spawn(async move {
                let _job = job;
                if attempts % 2 == 0 {
                    std::panic::resume_unwind(Box::new("as the test wants it"));
                }
                std::future::pending::<()>().await;
            });
            if attempts % 2 != 0 {
                task.abort();
            }
            assert!(task.await.is_err());
        }
    });
    let last = shared.lock().try_lease().unwrap();
    assert_eq!((last.attempts(), queue.stats().dead_lettered), (21, 0));
    last.ack();
    block_on(async { assert!(shared.lock().try_recv().is_err()) });
}

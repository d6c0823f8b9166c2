//! Ten thousand tasks of one process wait on one queue: no thread more, no CPU, and each is served.

use std::fs;
use std::time::Duration;

use parkline_uring::{AsyncReceiver, AsyncSender, Queue, Receiver, Sender};

use crate::deaths::until_a_waiter_is_there;
use crate::endings::HOUR;
use crate::peer::{Peer, inherited};
use crate::runtimes::{current_thread, multi_thread};

const TASKS: u64 = 10_000;

/// How many threads process `pid` has, and how many clock ticks of CPU it has used.
fn threads_and_cpu(pid: u32) -> (usize, u64) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (threads, fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap())
}

/// Waits with all tasks on the first queue; says "waiting" on the second, then sends on what each
/// task got.
pub(crate) fn child() {
    let mut results = inherited::<u64>(1).sender().unwrap().share();
    let jobs = inherited::<u64>(0).receiver().unwrap().share();
    let runtime = current_thread();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (mut jobs, mut results) = (jobs.clone(), results.clone());
                tokio::spawn(async move {
                    let job = jobs.recv().await.unwrap();
                    results.send(&job).await.unwrap();
                })
            })
            .collect();
        // One thread runs the tasks in turn: when this one is polled, all others wait.
        tokio::spawn(async move { results.send(&u64::MAX).await.unwrap() }).await.unwrap();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// A process whose tasks all wait on the first queue, and the sender of that queue.
struct Waiting {
    jobs: Queue<u64>,
    sender: Sender<u64>,
    done: Receiver<u64>,
    peer: Peer,
}

impl Waiting {
    fn start(watchdog: Duration) -> Self {
        let queue = || {
            let builder = Queue::builder().capacity(1024).watchdog(watchdog);
            builder.create_typed::<u64>().unwrap()
        };
        let (jobs, results) = (queue(), queue());
        // Arriving later they would wake the tasks.
        let (sender, mut done) = (jobs.sender().unwrap(), results.receiver().unwrap());
        let peer = Peer::start("ten_thousand_tasks", &[&jobs, &results]);
        assert_eq!(done.recv_blocking().unwrap(), u64::MAX, "all tasks wait");
        Self { jobs, sender, done, peer }
    }
}

/// Fails if tokio's pump or the helper spins (seen failing: CPU).
#[test]
fn ten_thousand_waiting_tasks_cost_no_thread_and_no_cpu() {
    // The usual one: its rounds are part of what a wait costs.
    let Waiting { jobs: _jobs, peer, .. } = Waiting::start(Duration::from_millis(100));

    let (threads, before) = threads_and_cpu(peer.0.id());
    std::thread::sleep(Duration::from_secs(1)); // lets time pass, orders nothing
    let (_, after) = threads_and_cpu(peer.0.id());
    // libtest has a main thread and one for the test; the fallback adds its one helper.
    let helpers = match parkline_uring::backend() {
        parkline_uring::Backend::IoUring => 0,
        parkline_uring::Backend::Futex(_) => 1,
    };
    assert_eq!(threads, 2 + helpers);
    assert!(after - before <= 5, "{} ticks of CPU in a second of waiting", after - before);
}

/// Fails if `leave` does not hand on the duty (seen failing: hangs).
#[test]
fn each_of_ten_thousand_waiting_tasks_gets_one_message() {
    let Waiting { jobs, mut sender, mut done, peer } = Waiting::start(HOUR);
    let sender = std::thread::spawn(move || {
        (0..TASKS).for_each(|job| sender.send_blocking(&job).unwrap());
        jobs
    });
    let mut seen: Vec<_> = (0..TASKS).map(|_| done.recv_blocking().unwrap()).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..TASKS), "each message was received once");
    peer.assert_success();
    assert!(sender.join().unwrap().is_empty());
}

/// Fails if `completed` wakes no task (seen failing: hangs).
#[test]
fn close_reaches_every_waiting_task() {
    let queue = Queue::builder().capacity(2).watchdog(HOUR).create().unwrap();
    let receiver = queue.receiver().unwrap();
    let (side, receiver) = (receiver.side(), receiver.share());
    let runtime = multi_thread();
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let mut receiver = receiver.clone();
            runtime.spawn(async move { receiver.recv().await })
        })
        .collect();
    until_a_waiter_is_there(&side);
    queue.close().unwrap();
    for task in tasks {
        let closed = runtime.block_on(task).unwrap();
        assert_eq!(closed, Err(parkline_uring::RecvError::Closed));
    }
}

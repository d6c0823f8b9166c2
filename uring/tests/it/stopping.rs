//! The example of `docs/stopping-a-worker.md`, stopped by SIGTERM.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;

use parkline_uring::{AsyncJoin, AsyncReceiver, Queue, block_on};
use rustix::process::{Pid, Signal, kill_process};

use crate::deaths::until_a_waiter_is_there;
use crate::endings::{HOUR, without_hanging};
use crate::peer::Peer;

/// The example's program, beside the one of this test.
fn example() -> PathBuf {
    let test = env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples/worker");
    if !built.exists() {
        // As `cargo test` does, unless it is told which target to build.
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "-q", "-p", env!("CARGO_PKG_NAME"), "--example", "worker"]);
        assert!(cargo.status().unwrap().success());
    }
    built
}

const LONG: [u64; 2] = [3_600_000, 3_600_001];

/// Two of four jobs are done when SIGTERM comes, and two would take an hour.
///
/// Fails if a dropped lease acknowledges, or if the program does not wait for SIGTERM (each seen
/// failing).
#[test]
fn the_example_returns_what_it_cannot_finish() {
    without_hanging("the example", || {
        let builder = Queue::builder().capacity(4).leases(4).watchdog(HOUR);
        let queue = Arc::new(builder.create_typed::<u64>().unwrap());
        queue.sender().unwrap().try_send_many(&[1, LONG[0], 2, LONG[1]]).unwrap();
        let mut survivor = queue.receiver().unwrap();
        let mut worker = Command::new(example());
        worker.arg("worker").stdin(queue.try_clone_fd().unwrap()).stdout(Stdio::piped());
        let mut worker = Peer(worker.spawn().unwrap());
        let mut says = BufReader::new(worker.0.stdout.take().unwrap()).lines();
        let mut says = || says.next().unwrap().unwrap();
        let mut done = [says(), says()];
        done.sort_unstable();
        assert_eq!(done, ["1 is done", "2 is done"]);

        let (side, join) = (survivor.side(), queue.joining().side());
        let joining = Arc::clone(&queue);
        let joiner = thread::spawn(move || block_on(joining.join()));
        let (tell, came_back) = mpsc::channel();
        thread::spawn(move || {
            block_on(async {
                for _ in LONG {
                    let job = survivor.lease().await.unwrap();
                    tell.send((job.read().unwrap(), job.attempts())).unwrap();
                    job.ack();
                }
            });
        });
        until_a_waiter_is_there(&side);
        until_a_waiter_is_there(&join);
        kill_process(Pid::from_child(&worker.0), Signal::TERM).unwrap();
        let mut came_back: Vec<_> = came_back.into_iter().collect();
        came_back.sort_unstable();
        assert_eq!(came_back, LONG.map(|job| (job, 2)));
        assert_eq!(says(), "2 come back");
        worker.assert_success();
        joiner.join().unwrap().unwrap();
        assert_eq!(queue.stats().owed, 0);
    });
}

/// Fails if the example's loop does not end with the queue (seen failing: hangs).
#[test]
fn the_example_ends_with_its_queue() {
    without_hanging("the example", || {
        let queue = Queue::builder().create_typed::<u64>().unwrap();
        queue.sender().unwrap().try_send_many(&[1, 2, 3]).unwrap();
        queue.close().unwrap();
        let mut worker = Command::new(example());
        worker.arg("worker").stdin(queue.try_clone_fd().unwrap()).stdout(Stdio::null());
        Peer(worker.spawn().unwrap()).assert_success();
        queue.join_blocking().unwrap();
        assert_eq!(queue.stats().redelivered, 0);
    });
}

/// Fails if the example loses a job (seen failing).
#[test]
fn the_example_tells_its_story() {
    let told = Command::new(example()).output().unwrap();
    assert!(told.status.success());
    let expected = "the worker says: 10 is done\n\
                    the worker says: 20 is done\n\
                    the worker says: 2 come back\n\
                    the worker ended with exit status: 0\n\
                    60000 was received 2 times\n\
                    60001 was received 2 times\n";
    assert_eq!(String::from_utf8(told.stdout).unwrap(), expected);
}

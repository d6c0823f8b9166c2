//! What a queue does, one fact a test.

mod blocking;
mod calls;
mod crowds;
mod ids;
mod leases;
mod packs;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use parkline_core::Queue;

/// Fails, rather than hangs, when `work` waits for a wake that does not come: in these tests no
/// watchdog heals it.
fn without_hanging(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let worker = thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    match is_done.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => worker.join().unwrap(),
    }
}

fn of_capacity(capacity: usize) -> Queue {
    let an_hour = Duration::from_secs(3600);
    Queue::builder().capacity(capacity).max_message(64).watchdog(an_hour).create().unwrap()
}

//! What a blocking call does before its thread sleeps.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use parkline_core::{Queue, RecvTimeoutError, SendTimeoutError};

const HOUR: Duration = Duration::from_secs(3600);

/// Fails if `set_spin` does nothing (seen failing): by default it sleeps after 50 us, and here it
/// would spin for as long as the test may take.
#[test]
fn who_may_spin_for_long_does_not_sleep() {
    let queue = Queue::builder().capacity(1).create().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    receiver.set_spin(HOUR);
    sender.set_spin(HOUR);
    let soon = Duration::from_millis(5);
    assert_eq!(receiver.recv_blocking_timeout(soon), Err(RecvTimeoutError::Timeout));
    sender.send_blocking(b"first").unwrap();
    let full = sender.send_blocking_timeout(b"second", soon);
    assert_eq!(full, Err(SendTimeoutError::Timeout(())));
    assert_eq!(queue.stats().parks, 0);
}

/// Fails if a spinning thread does not search for dead handles (seen failing: not in time). If each
/// answer comes within the spin, no other code searches.
#[test]
fn a_spinning_thread_searches_for_the_dead() {
    let watchdog = Duration::from_millis(1);
    let builder = Queue::builder().capacity(1).handles(3).watchdog(watchdog);
    let queue = builder.create().unwrap();
    let mut sender = queue.sender().unwrap();
    let mut first = queue.receiver().unwrap();
    sender.try_send(b"job").unwrap();
    let job = first.try_lease().unwrap();
    sender.try_send(b"in its place").unwrap();
    let mut receiver = queue.receiver().unwrap();
    // Without room to go back, the record is left as if its process had died.
    drop(job);
    drop(first);
    receiver.set_spin(HOUR);
    assert_eq!(receiver.recv_blocking().unwrap(), b"in its place");
    let (found, is_found) = mpsc::channel();
    thread::spawn(move || {
        let again = receiver.lease_blocking().unwrap();
        found.send((again.redelivered(), again.read().unwrap())).unwrap();
    });
    let again = is_found.recv_timeout(Duration::from_secs(20));
    assert_eq!(again, Ok((true, b"job".to_vec())));
}

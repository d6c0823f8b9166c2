//! Handlers of dead letters on handles that tasks share, one fact a test: no lock is held while they
//! run.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use parkline_uring::{AsyncReceiver, DeadLetter, Queue, Receiver, RecvError, Shared, block_on};

use crate::endings::{HOUR, TASKS, without_hanging};
use crate::forked::in_a_child;

/// A queue whose messages are given up at their second attempt, with `messages` that had their first.
fn poisoned(messages: &[u64]) -> (Queue<u64>, Shared<Receiver<u64>>) {
    let builder = Queue::builder().capacity(8).leases(3).max_attempts(1);
    let queue = builder.watchdog(HOUR).create_typed().unwrap();
    queue.sender().unwrap().try_send_many(messages).unwrap();
    let mut receiver = queue.receiver().unwrap();
    let leases: Vec<_> = messages.iter().map(|_| receiver.try_lease().unwrap()).collect();
    drop(leases);
    (queue, receiver.share())
}

type Handler = Box<dyn FnMut(DeadLetter<u64>) + Send>;

/// A handler that gives `act` the handle that it is of, and tells what it was called for.
fn handler(
    shared: &Shared<Receiver<u64>>,
    mut act: impl FnMut(&mut Shared<Receiver<u64>>) + Send + 'static,
) -> (Handler, mpsc::Receiver<u64>) {
    let (letters, dead) = mpsc::channel();
    let mut shared = shared.clone();
    let handler = move |letter: DeadLetter<u64>| {
        act(&mut shared);
        letters.send(letter.message).unwrap();
    };
    (Box::new(handler), dead)
}

type Way = fn(&mut Shared<Receiver<u64>>) -> u64;

/// Each way to find a dead letter: the message that comes after it.
const WAYS: [Way; 4] = [
    |it| block_on(it.recv()).unwrap(),
    |it| {
        let job = block_on(it.lease()).unwrap();
        let read = job.read().unwrap();
        job.ack();
        read
    },
    |it| it.lock().try_recv().unwrap(),
    |it| {
        let mut all = Vec::new();
        block_on(it.recv_many(&mut all, 1)).unwrap();
        all[0]
    },
];

/// Fails if a handler runs while the handle is locked (seen failing: hangs).
#[test]
fn a_handler_uses_the_handle_that_it_is_of() {
    for (n, way) in WAYS.into_iter().enumerate() {
        without_hanging(n, move || {
            let (queue, mut shared) = poisoned(&[1]);
            queue.sender().unwrap().try_send_many(&[5, 6, 7, 8, 9]).unwrap();
            let (handler, dead) = handler(&shared, |it| {
                assert_eq!(it.lock().try_recv(), Ok(6));
                assert_eq!(block_on(it.recv()), Ok(7));
                let job = it.lock().try_lease().unwrap();
                assert_eq!(job.read(), Ok(8));
                job.ack();
                let job = block_on(it.lease()).unwrap();
                assert_eq!(job.read(), Ok(9));
                job.ack();
                // From the next letter on.
                it.lock().on_dead_letter(|letter| panic!("{letter:?}"));
            });
            shared.lock().on_dead_letter(handler);
            // The call has its own message before the handler runs.
            assert_eq!(way(&mut shared), 5);
            assert_eq!(dead.try_recv(), Ok(1));
            assert_eq!(queue.stats().dead_lettered, 1);
            queue.join_blocking().unwrap();
        });
    }
}

/// The handler is called with both, one after the other, and not within itself.
///
/// Fails if a letter that a handler finds is lost (seen failing: hangs), or calls it within itself
/// (seen failing: hangs).
#[test]
fn a_handler_that_finds_a_letter_gets_it_next() {
    for within in TASKS {
        without_hanging(within, move || {
            let (queue, mut shared) = poisoned(&[1, 2]);
            let depth = AtomicU64::new(0);
            let (handler, dead) = handler(&shared, move |it| {
                assert_eq!(depth.fetch_add(1, SeqCst), 0, "within itself");
                assert!(it.lock().try_recv().is_err());
                depth.fetch_sub(1, SeqCst);
            });
            shared.lock().on_dead_letter(handler);
            queue.close().unwrap();
            assert_eq!(within.run(shared.recv()), Err(RecvError::Closed));
            assert_eq!(dead.try_iter().collect::<Vec<_>>(), [1, 2]);
            assert_eq!(queue.stats().dead_lettered, 2);
        });
    }
}

/// Fails if a panic leaves the handle locked or the handler unusable (each seen failing).
#[test]
fn a_handler_that_panics_in_a_task_gets_its_letter_again() {
    for within in TASKS {
        without_hanging(within, move || {
            let (queue, mut shared) = poisoned(&[1]);
            let calls = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&calls);
            let (handler, dead) = handler(&shared, move |_| {
                if count.fetch_add(1, SeqCst) < 2 {
                    std::panic::resume_unwind(Box::new("as the test wants it"));
                }
            });
            shared.lock().on_dead_letter(handler);
            for calls in 1..=2 {
                let mut task = shared.clone();
                let thread = std::thread::spawn(move || within.run(task.recv()));
                assert!(thread.join().is_err());
                assert_eq!(queue.len(), 1, "after {calls} calls it is back");
            }
            queue.close().unwrap();
            assert_eq!(within.run(shared.recv()), Err(RecvError::Closed));
            assert_eq!((dead.try_recv(), calls.load(SeqCst)), (Ok(1), 3));
        });
    }
}

/// Fails if the handle is locked in the child (seen failing: the child hangs), or if the child
/// acknowledges (seen failing).
#[test]
fn a_handler_that_forks_leaves_the_child_a_handle_that_says_so() {
    for (n, way) in WAYS.into_iter().enumerate() {
        without_hanging(n, move || {
            let (queue, mut shared) = poisoned(&[1]);
            queue.sender().unwrap().try_send(&9).unwrap();
            let (handler, dead) = handler(&shared, |it| {
                assert!(in_a_child(|| {
                    let refused = it.lock().try_recv().unwrap_err();
                    assert_eq!(refused.to_string(), parkline_uring::Fault::Forked.to_string());
                }));
            });
            shared.lock().on_dead_letter(handler);
            assert_eq!(way(&mut shared), 9);
            assert_eq!(dead.try_recv(), Ok(1));
            assert_eq!((queue.stats().dead_lettered, queue.len()), (1, 0));
            queue.join_blocking().unwrap();
        });
    }
}

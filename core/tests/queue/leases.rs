//! Leases that come back, one fact a test: threads and calls alone, no driver.

use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use parkline_core::driver::WaitsFor;
use parkline_core::{
    Fault, JoinTimeoutError, Lease, Permit, Queue, Receiver, RecvError, Semaphore, Sender,
    TryRecvError,
};

use crate::blocking::until_somebody_waits;
use crate::without_hanging;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Without a watchdog that would heal a lost wake.
fn queue(capacity: usize, leases: usize) -> Queue<u64> {
    let builder = Queue::builder().capacity(capacity).leases(leases).handles(8);
    builder.watchdog(HOUR).create_typed().unwrap()
}

/// Fails to compile if one of them keeps what can be used on one thread only, as the box of a handler
/// does (seen failing).
#[test]
fn handles_and_leases_go_to_other_threads_and_through_panics() {
    const fn goes_anywhere<T: Send + Sync + UnwindSafe + RefUnwindSafe>() {}
    const {
        goes_anywhere::<Receiver>();
        goes_anywhere::<Receiver<u64>>();
        goes_anywhere::<Sender>();
        goes_anywhere::<Lease>();
        goes_anywhere::<Lease<u64>>();
        goes_anywhere::<Semaphore>();
        goes_anywhere::<Permit>();
    }
}

/// A thread waits for a lease while the only one is out; `end` ends that. What the thread gets then.
fn wakes_a_waiter(capacity: usize, end: fn(Lease<u64>)) -> (u64, u16) {
    let queue = queue(capacity, 1);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(&1).unwrap();
    let first = receiver.try_lease().unwrap();
    sender.try_send(&2).unwrap();
    let side = receiver.side_for(WaitsFor::Lease);
    let waiter = thread::spawn(move || {
        let job = receiver.lease_blocking().unwrap();
        let seen = (job.read().unwrap(), job.attempts());
        job.ack();
        seen
    });
    until_somebody_waits(&side);
    end(first);
    waiter.join().unwrap()
}

/// Fails if an acknowledgement does not wake at the gate of leases (seen failing: hangs).
#[test]
fn a_waiter_without_a_lease_is_woken_by_an_acknowledgement() {
    without_hanging(|| assert_eq!(wakes_a_waiter(2, Lease::ack), (2, 1)));
}

/// Fails if a return does not wake at the gate of leases (seen failing: hangs).
#[test]
fn a_waiter_without_a_lease_is_woken_by_a_return() {
    without_hanging(|| assert_eq!(wakes_a_waiter(2, drop), (2, 1)));
}

/// The ring is full, and so the message stays with the handle.
///
/// Fails if a message that is owed wakes nobody at the gate of leases (seen failing: hangs).
#[test]
fn a_waiter_without_a_lease_receives_what_the_handle_owes() {
    without_hanging(|| assert_eq!(wakes_a_waiter(1, drop), (1, 2)));
}

/// Fails if a waiter whose leases are all out waits for a message (seen failing: hangs).
#[test]
fn a_waiter_without_a_lease_takes_no_wake_from_another_handle() {
    without_hanging(|| {
        let queue = queue(2, 1);
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let mut other = queue.receiver().unwrap();
        sender.try_send(&1).unwrap();
        let first = receiver.try_lease().unwrap();
        let of_leases = receiver.side_for(WaitsFor::Lease);
        let waiter = thread::spawn(move || receiver.lease_blocking().map(Lease::ack));
        until_somebody_waits(&of_leases);
        let of_messages = other.side();
        let other = thread::spawn(move || other.recv_blocking());
        until_somebody_waits(&of_messages);
        sender.try_send(&2).unwrap();
        assert_eq!(other.join().unwrap(), Ok(2));
        sender.try_send(&3).unwrap();
        first.ack();
        waiter.join().unwrap().unwrap();
    });
}

/// Fails if a lease that is dropped while its thread panics stays out (seen failing).
#[test]
fn threads_that_panic_give_their_leases_back() {
    let queue = queue(4, 2);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(&1).unwrap();
    for attempts in 1..=20 {
        let job = receiver.try_lease().unwrap();
        assert_eq!(job.attempts(), attempts);
        let worker = thread::spawn(move || {
            let _job = job;
            std::panic::resume_unwind(Box::new("as the test wants it"));
        });
        assert!(worker.join().is_err());
    }
}

/// A waiter at the end of a closed queue, whose last message is in the hands of another handle: what
/// it gets after `end`.
fn at_the_end(end: fn(Lease<u64>)) -> Result<u64, RecvError> {
    let queue = queue(2, 1);
    queue.sender().unwrap().try_send(&1).unwrap();
    let (mut holder, mut waiter) = (queue.receiver().unwrap(), queue.receiver().unwrap());
    let job = holder.try_lease().unwrap();
    queue.close().unwrap();
    assert_eq!(waiter.try_recv(), Err(TryRecvError::Empty), "it may come back");
    let side = waiter.side();
    let waiter = thread::spawn(move || waiter.recv_blocking());
    until_somebody_waits(&side);
    end(job);
    waiter.join().unwrap()
}

/// Fails if an acknowledgement does not wake those at the end (seen failing: hangs).
#[test]
fn a_closed_queue_ends_with_the_acknowledgement_of_its_last_message() {
    without_hanging(|| assert_eq!(at_the_end(Lease::ack), Err(RecvError::Closed)));
}

/// Fails if the end is told while a handle has a lease (seen failing).
#[test]
fn a_message_that_comes_back_to_a_closed_queue_is_received() {
    without_hanging(|| assert_eq!(at_the_end(drop), Ok(1)));
}

/// Two receive until the end. The message is long, so one often looks twice while the other copies it.
///
/// Fails if the end of a receive does not wake those at the end (seen failing: hangs).
#[test]
fn a_receive_in_progress_wakes_those_at_the_end() {
    const LONG: usize = 1 << 20;
    without_hanging(|| {
        let message = vec![7; LONG];
        for _ in 0..200 {
            let builder = Queue::builder().capacity(1).leases(0).handles(2).max_message(LONG);
            let queue = builder.watchdog(HOUR).create().unwrap();
            queue.sender().unwrap().try_send(&message).unwrap();
            queue.close().unwrap();
            let both = [queue.receiver().unwrap(), queue.receiver().unwrap()];
            let start = Arc::new(Barrier::new(2));
            let threads = both.map(|mut receiver| {
                let start = Arc::clone(&start);
                thread::spawn(move || {
                    receiver.set_spin(Duration::ZERO);
                    start.wait();
                    std::iter::from_fn(|| receiver.recv_blocking().ok()).count()
                })
            });
            let received: usize = threads.into_iter().map(|it| it.join().unwrap()).sum();
            assert_eq!(received, 1);
        }
    });
}

/// A queue of one slot whose only message is another than the one that the handle owes.
fn owing() -> (Queue<u64>, Sender<u64>, Receiver<u64>) {
    let queue = queue(1, 2);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(&1).unwrap();
    let job = receiver.try_lease().unwrap();
    sender.try_send(&2).unwrap();
    drop(job);
    assert_eq!((queue.stats().owed, queue.len()), (1, 1));
    (queue, sender, receiver)
}

/// Fails if a receive does not return what its handle owes (seen failing).
#[test]
fn each_way_to_receive_returns_what_the_handle_owes() {
    let ways: [fn(&mut Receiver<u64>) -> u64; 3] = [
        |it| it.try_recv().unwrap(),
        |it| {
            let mut one = Vec::new();
            it.try_recv_many(&mut one, 1).unwrap();
            one[0]
        },
        |it| {
            let job = it.try_lease().unwrap();
            let read = job.read().unwrap();
            job.ack();
            read
        },
    ];
    for way in ways {
        let (queue, _sender, mut receiver) = owing();
        assert_eq!(way(&mut receiver), 2);
        assert_eq!((queue.stats().owed, queue.len()), (0, 1));
        let again = receiver.try_lease().unwrap();
        assert_eq!((again.read().unwrap(), again.attempts()), (1, 2));
    }
}

/// Fails if what is owed occupies no lease, or cannot be received again (each seen failing).
#[test]
fn a_message_that_is_owed_occupies_a_lease_and_is_received_again() {
    let queue = queue(1, 2);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(&1).unwrap();
    let first = receiver.try_lease().unwrap();
    sender.try_send(&2).unwrap();
    let second = receiver.try_lease().unwrap();
    sender.try_send(&3).unwrap();
    drop(first);
    let first = receiver.try_lease().unwrap();
    assert_eq!((first.read(), first.attempts(), queue.stats().owed), (Ok(1), 2, 0));
    let out = TryRecvError::Fault(Fault::LeasesOut { max: 2 });
    assert_eq!(receiver.try_lease().unwrap_err(), out);
    assert_eq!((receiver.try_recv(), second.read()), (Ok(3), Ok(2)));
}

/// Fails if a wait does not return what its process owes (seen failing: hangs).
#[test]
fn a_wait_of_another_handle_returns_what_is_owed() {
    without_hanging(|| {
        let (queue, _sender, _owing) = owing();
        let mut other = queue.receiver().unwrap();
        assert_eq!((other.recv_blocking(), other.recv_blocking()), (Ok(2), Ok(1)));
        assert_eq!(queue.stats().owed, 0);
    });
}

/// Fails if the end of a handle does not return what it owes (seen failing).
#[test]
fn the_end_of_a_handle_returns_what_it_owes() {
    let (queue, _sender, receiver) = owing();
    let mut other = queue.receiver().unwrap();
    assert_eq!(other.try_recv(), Ok(2));
    assert_eq!((other.try_recv(), queue.stats().owed), (Err(TryRecvError::Empty), 1));
    drop(receiver);
    assert_eq!((other.try_recv(), queue.stats().owed), (Ok(1), 0));
}

/// The waiter is as of another process: it does not return what this one owes.
///
/// Fails if a handle that goes tells nobody of what it gave back (seen failing: hangs).
#[test]
fn the_end_of_a_handle_wakes_a_receiver_for_what_it_returns() {
    without_hanging(|| {
        let (queue, _sender, receiver) = owing();
        let same = Queue::<u64>::open_typed(queue.try_clone_fd().unwrap()).unwrap();
        let mut other = same.receiver().unwrap();
        assert_eq!(other.try_recv(), Ok(2));
        let side = other.side();
        let waiter = thread::spawn(move || other.recv_blocking());
        until_somebody_waits(&side);
        drop(receiver);
        assert_eq!(waiter.join().unwrap(), Ok(1));
    });
}

/// Fails if those who wait do not look at what such a handle left (seen failing: hangs).
#[test]
fn a_wait_returns_what_a_handle_left_when_there_was_no_room() {
    without_hanging(|| {
        let (queue, _sender, receiver) = owing();
        let mut other = queue.receiver().unwrap();
        drop(receiver);
        assert_eq!(queue.stats().owed, 1);
        assert_eq!((other.recv_blocking(), other.recv_blocking()), (Ok(2), Ok(1)));
        assert_eq!(queue.stats().owed, 0);
    });
}

const SOON: Duration = Duration::from_millis(20);

/// A queue whose only message is held back until the time that is told.
fn held_back(delay: Duration) -> (Queue<u64>, Receiver<u64>, Instant) {
    let queue = queue(2, 1);
    queue.sender().unwrap().try_send(&1).unwrap();
    let mut receiver = queue.receiver().unwrap();
    let job = receiver.try_lease().unwrap();
    let due = Instant::now() + delay;
    job.nack_after(delay);
    assert_eq!((queue.stats().owed, queue.len()), (1, 0));
    (queue, receiver, due)
}

/// Fails if the time is not asked for (seen failing), or if a call does not return what is due (seen
/// failing: hangs).
#[test]
fn a_message_that_is_held_back_goes_with_the_first_call_after_its_time() {
    without_hanging(|| {
        let (queue, mut receiver, due) = held_back(SOON);
        loop {
            match receiver.try_recv() {
                Ok(message) => break assert_eq!(message, 1),
                Err(error) => assert_eq!(error, TryRecvError::Empty),
            }
        }
        assert!(Instant::now() >= due);
        assert_eq!(queue.stats().owed, 0);
    });
}

/// Fails if a sleep lasts beyond the time at which a message is due (seen failing: hangs).
#[test]
fn a_thread_that_waits_gets_a_message_at_its_time() {
    without_hanging(|| {
        // Of its own handle, which waits for a lease; for a message, with `recv`; and of another.
        let (_queue, mut receiver, due) = held_back(SOON);
        assert_eq!(receiver.lease_blocking().unwrap().attempts(), 2);
        assert!(Instant::now() >= due);
        let (_queue, mut receiver, due) = held_back(SOON);
        assert_eq!(receiver.recv_blocking(), Ok(1));
        assert!(Instant::now() >= due);
        let (queue, _receiver, due) = held_back(SOON);
        let mut other = queue.receiver().unwrap();
        assert_eq!(other.recv_blocking(), Ok(1));
        assert!(Instant::now() >= due);
    });
}

/// It waits already when the message is held back.
///
/// Fails if a return later wakes nobody who would have to sleep shorter (seen failing: hangs).
#[test]
fn a_thread_that_waits_already_gets_a_message_at_its_time() {
    without_hanging(|| {
        let queue = queue(2, 1);
        queue.sender().unwrap().try_send(&1).unwrap();
        let (mut holder, mut waiter) = (queue.receiver().unwrap(), queue.receiver().unwrap());
        let job = holder.try_lease().unwrap();
        let side = waiter.side();
        let waiter = thread::spawn(move || waiter.recv_blocking());
        until_somebody_waits(&side);
        job.nack_after(SOON);
        assert_eq!(waiter.join().unwrap(), Ok(1));
    });
}

/// Fails if the end of a handle leaves a message until its time (seen failing).
#[test]
fn a_message_that_is_held_back_goes_at_once_when_its_handle_goes() {
    let (queue, receiver, _) = held_back(HOUR);
    let mut other = queue.receiver().unwrap();
    assert_eq!(other.try_recv(), Err(TryRecvError::Empty));
    drop(receiver);
    assert_eq!((other.try_recv(), queue.stats().owed), (Ok(1), 0));
}

/// Fails if a time that no clock can tell is no time (seen failing).
#[test]
fn the_longest_delay_is_one() {
    let (queue, mut receiver, _) = held_back(HOUR);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    let mut sender = queue.sender().unwrap();
    sender.try_send(&2).unwrap();
    let mut other = queue.receiver().unwrap();
    other.try_lease().unwrap().nack_after(Duration::MAX);
    assert_eq!((other.try_recv(), queue.stats().owed), (Err(TryRecvError::Empty), 2));
}

/// Has a thread join; it asserts that `done` is set when the join ends.
fn join(queue: &Arc<Queue<u64>>, done: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let side = queue.joining().side();
    let (queue, done) = (Arc::clone(queue), Arc::clone(done));
    let joiner = thread::spawn(move || {
        queue.join_blocking().unwrap();
        assert!(done.load(SeqCst), "not all is done");
    });
    until_somebody_waits(&side);
    joiner
}

/// The join is as of another process: it does not return what this one owes.
///
/// Fails if a join does not wait for a cell that owes (seen failing).
#[test]
fn a_join_waits_for_what_is_owed() {
    without_hanging(|| {
        let (queue, _sender, mut receiver) = owing();
        let same = Arc::new(Queue::open_typed(queue.try_clone_fd().unwrap()).unwrap());
        assert_eq!(same.receiver().unwrap().try_recv(), Ok(2));
        assert_eq!((queue.stats().owed, queue.len()), (1, 0));
        let timeout = Err(JoinTimeoutError::Timeout);
        assert_eq!(same.join_blocking_timeout(Duration::ZERO), timeout);
        let done = Arc::new(AtomicBool::new(false));
        let joiner = join(&same, &done);
        let job = receiver.try_lease().unwrap();
        assert_eq!(job.read(), Ok(1));
        done.store(true, SeqCst);
        job.ack();
        joiner.join().unwrap();
    });
}

/// A joiner that finds a handle in the midst of a receive sleeps, though the message may be none that it
/// waits for.
///
/// Fails if the end of a receive that takes a lease tells no joiner (seen failing).
#[test]
fn a_lease_that_is_taken_has_joiners_look_again() {
    let queue = queue(2, 1);
    queue.sender().unwrap().try_send(&1).unwrap();
    let mut receiver = queue.receiver().unwrap();
    let side = queue.joining().side();
    let sleep = side.gate().unwrap().announce();
    let _job = receiver.try_lease().unwrap();
    assert_ne!(sleep.word().load(SeqCst), sleep.expected());
}

/// Leases and returns the first message that comes, until `is_over`.
fn bounce(receiver: &mut Receiver<u64>, mut is_over: impl FnMut() -> bool) {
    while !is_over() {
        receiver.lease_blocking().unwrap().nack();
    }
}

/// Fails if each return counts as one of what the join waits for (seen failing: hangs).
#[test]
fn a_join_does_not_wait_for_a_newer_message_that_comes_back_for_ever() {
    without_hanging(|| {
        let queue = Arc::new(queue(8, 1));
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let bouncers = [queue.receiver().unwrap(), queue.receiver().unwrap()];
        sender.try_send(&1).unwrap();
        let job = receiver.try_lease().unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let joiner = join(&queue, &done);
        let (is_joined, bounced) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            // More than one, and so one is in the ring or in hands at each instant.
            sender.try_send_many(&[2, 3]).unwrap();
            for mut receiver in bouncers {
                let (is_joined, bounced) = (&is_joined, &bounced);
                scope.spawn(move || {
                    bounce(&mut receiver, || {
                        bounced.fetch_add(1, SeqCst);
                        is_joined.load(SeqCst)
                    });
                });
            }
            while bounced.load(SeqCst) < 100 {
                thread::yield_now();
            }
            done.store(true, SeqCst);
            job.ack();
            joiner.join().unwrap();
            is_joined.store(true, SeqCst);
        });
    });
}

/// Fails if a return of what the join waits for is not counted (seen failing).
#[test]
fn a_join_waits_for_an_older_message_as_long_as_it_comes_back() {
    const BOUNCES: u32 = 30_000;
    without_hanging(|| {
        let queue = Arc::new(queue(8, 1));
        queue.sender().unwrap().try_send(&1).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let mut receiver = queue.receiver().unwrap();
        let patient = join(&queue, &done);
        let impatient = thread::spawn({
            let (queue, done) = (Arc::clone(&queue), Arc::clone(&done));
            // Each is a join of its own, and looks once.
            move || {
                while queue.join_blocking_timeout(Duration::ZERO).is_err() {}
                assert!(done.load(SeqCst), "not all is done");
            }
        });
        let mut bounces = 0;
        bounce(&mut receiver, || {
            bounces += 1;
            bounces > BOUNCES
        });
        let job = receiver.lease_blocking().unwrap();
        done.store(true, SeqCst);
        job.ack();
        patient.join().unwrap();
        impatient.join().unwrap();
    });
}

/// A queue with one message that may be received twice.
fn poisoned() -> (Queue<u64>, Receiver<u64>) {
    let builder = Queue::builder().capacity(4).leases(2).max_attempts(2);
    let queue = builder.watchdog(HOUR).create_typed().unwrap();
    queue.sender().unwrap().try_send(&1).unwrap();
    let receiver = queue.receiver().unwrap();
    (queue, receiver)
}

fn return_it(receiver: &mut Receiver<u64>, attempts: std::ops::RangeInclusive<u16>) {
    for attempts in attempts {
        let job = receiver.try_lease().unwrap();
        assert_eq!(job.attempts(), attempts);
    }
}

/// Fails if `max_attempts` acts without a place for what it gives up (seen failing).
#[test]
fn a_message_without_a_place_is_never_given_up() {
    let (queue, mut receiver) = poisoned();
    return_it(&mut receiver, 1..=100);
    assert_eq!(receiver.try_recv(), Ok(1));
    assert_eq!(queue.stats().dead_lettered, 0);
}

/// Fails if the attempts of returned leases are not counted (seen failing).
#[test]
fn a_handler_gets_a_message_after_its_attempts_and_not_before() {
    let (queue, mut receiver) = poisoned();
    let (letters, dead) = mpsc::channel();
    receiver.on_dead_letter(move |letter| letters.send(letter).unwrap());
    return_it(&mut receiver, 1..=2);
    assert!(dead.try_recv().is_err());
    assert_eq!(receiver.try_lease().unwrap_err(), TryRecvError::Empty);
    let letter = dead.try_recv().unwrap();
    assert_eq!((letter.message, letter.attempts), (1, 3));
    assert_eq!((queue.stats().dead_lettered, queue.stats().owed), (1, 0));
    queue.join_blocking().unwrap();
}

/// Fails if a second queue that is full loses the message (seen failing).
#[test]
fn a_second_queue_gets_a_message_if_it_has_room() {
    let (queue, mut receiver) = poisoned();
    let second = self::queue(1, 1);
    second.sender().unwrap().try_send(&9).unwrap();
    receiver.forward_dead_letters(second.sender().unwrap());
    return_it(&mut receiver, 1..=3);
    assert_eq!(queue.stats().dead_lettered, 0, "there was no room");
    let mut dead = second.receiver().unwrap();
    assert_eq!(dead.try_recv(), Ok(9));
    assert_eq!(receiver.try_lease().unwrap_err(), TryRecvError::Empty);
    let job = dead.try_lease().unwrap();
    assert_eq!((job.read().unwrap(), job.attempts(), job.redelivered()), (1, 1, true));
    assert_eq!(queue.stats().dead_lettered, 1);
    queue.join_blocking().unwrap();
}

/// Fails if a discard is not counted (seen failing).
#[test]
fn a_discard_drops_a_message_after_its_attempts() {
    let (queue, mut receiver) = poisoned();
    receiver.discard_dead_letters();
    return_it(&mut receiver, 1..=2);
    assert_eq!(receiver.try_lease().unwrap_err(), TryRecvError::Empty);
    assert_eq!(queue.stats().dead_lettered, 1);
    queue.join_blocking().unwrap();
}

/// Fails if a handler that panics acknowledges its letter, or is not called again (each seen failing).
#[test]
fn a_handler_that_panics_gets_its_letter_again() {
    let (queue, mut receiver) = poisoned();
    let (letters, dead) = mpsc::channel();
    receiver.on_dead_letter(move |letter| {
        letters.send(letter.attempts).unwrap();
        if letter.attempts < 5 {
            std::panic::resume_unwind(Box::new("as the test wants it"));
        }
    });
    return_it(&mut receiver, 1..=2);
    for attempts in 3..5 {
        assert!(catch_unwind(AssertUnwindSafe(|| receiver.try_lease())).is_err());
        assert_eq!((dead.try_recv(), queue.len()), (Ok(attempts), 1));
    }
    assert_eq!(receiver.try_lease().unwrap_err(), TryRecvError::Empty);
    assert_eq!((dead.try_recv(), queue.stats().dead_lettered), (Ok(5), 1));
}

/// A semaphore whose permits are all held by one handle.
fn held(permits: usize) -> (Arc<Semaphore>, Vec<Permit>) {
    let builder = Queue::builder().handles(4).watchdog(HOUR);
    let semaphore = builder.create_semaphore(permits).unwrap();
    let held = (0..permits).map(|_| semaphore.try_acquire().unwrap().unwrap()).collect();
    assert!(semaphore.try_acquire().unwrap().is_none());
    (Arc::new(semaphore), held)
}

/// Fails if a permit that is dropped acknowledges its token (seen failing).
#[test]
fn a_permit_is_released_however_it_ends() {
    let ends: [fn(Permit); 4] = [
        drop,
        Permit::release,
        |permit| {
            let panics = move || {
                let _permit = permit;
                std::panic::resume_unwind(Box::new("as the test wants it"));
            };
            assert!(catch_unwind(panics).is_err());
        },
        |permit| thread::spawn(move || drop(permit)).join().unwrap(),
    ];
    for end in ends {
        let (semaphore, mut held) = held(2);
        for available in 1..=2 {
            end(held.pop().unwrap());
            assert_eq!(semaphore.available_permits(), available);
        }
        assert!(semaphore.try_acquire().unwrap().is_some());
    }
}

/// Fails if an acquire is refused while its handle has all permits (seen failing), or a release
/// wakes nobody there (seen failing: hangs).
#[test]
fn an_acquire_waits_while_its_own_handle_has_all_permits() {
    without_hanging(|| {
        let (semaphore, mut held) = held(2);
        let side = semaphore.side();
        let waiter = thread::spawn({
            let semaphore = Arc::clone(&semaphore);
            move || semaphore.acquire_blocking().unwrap().release()
        });
        until_somebody_waits(&side);
        held.pop();
        waiter.join().unwrap();
        assert_eq!(semaphore.available_permits(), 1);
    });
}

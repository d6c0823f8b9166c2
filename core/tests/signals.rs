//! Events and semaphores: what threads of one process see of them.

use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use parkline_core::{CreateError, Event, OpenError, Queue, Semaphore, WaitTimeoutError};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const NOW: Duration = Duration::ZERO;
const AN_HOUR: Duration = Duration::from_secs(3600);

fn event() -> Event {
    Queue::builder().watchdog(AN_HOUR).create_event().unwrap()
}

fn semaphore(permits: usize) -> Semaphore {
    Queue::builder().watchdog(AN_HOUR).create_semaphore(permits).unwrap()
}

#[test]
fn an_event_stays_set_until_it_is_cleared() {
    let event = event();
    assert!(!event.is_set());
    assert_eq!(event.wait_blocking_timeout(NOW), Err(WaitTimeoutError::Timeout));
    for _ in 0..2 {
        event.set().unwrap();
        assert!(event.is_set());
        event.wait_blocking().unwrap();
    }
    for _ in 0..2 {
        event.clear().unwrap();
        assert!(!event.is_set());
        assert_eq!(event.wait_blocking_timeout(NOW), Err(WaitTimeoutError::Timeout));
    }
}

/// Fails if `Flag::set` notifies one (seen failing): the others wait for the watchdog.
#[test]
fn a_set_wakes_everybody() {
    const THREADS: usize = 8;
    // Several threads sleep in most of the rounds.
    for _ in 0..100 {
        let (event, start) = (event(), Barrier::new(THREADS + 1));
        let side = event.expecting().side();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                let same = Event::open(event.try_clone_fd().unwrap()).unwrap();
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    same.wait_blocking().unwrap();
                });
            }
            start.wait();
            while side.gate().unwrap().word().load(SeqCst) & 1 == 0 {
                thread::yield_now();
            }
            event.set().unwrap();
        });
    }
}

/// Fails if a clear leaves the word as it was before the set, or if a wait begins with its first look
/// (each seen failing).
#[test]
fn who_waited_before_a_set_is_done_though_it_was_cleared_at_once() {
    let event = event();
    let expecting = event.expecting();
    event.set().unwrap();
    event.clear().unwrap();
    assert_eq!(expecting.attempt(), Some(Ok(())));
    assert_eq!(event.expecting().attempt(), None, "who comes later waits");
}

#[test]
fn an_event_in_which_a_peer_writes_anything_goes_on() {
    let event = event();
    let file = std::fs::File::from(event.try_clone_fd().unwrap());
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2000 {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        // The gates and all that is beside them.
        file.write_all_at(&noise.to_ne_bytes(), 1024 + noise % 384 / 8 * 8).unwrap();
        let _ = (event.is_set(), event.wait_blocking_timeout(NOW));
        event.set().unwrap();
        event.wait_blocking().unwrap();
        event.clear().unwrap();
        assert!(!event.is_set());
    }
}

#[test]
fn permits_are_as_many_as_there_are() {
    let semaphore = semaphore(3);
    let permits: Vec<_> = (0..3).map(|_| semaphore.try_acquire().unwrap().unwrap()).collect();
    assert_eq!((semaphore.available_permits(), semaphore.permits()), (0, 3));
    assert!(semaphore.try_acquire().unwrap().is_none());
    let refused = semaphore.acquire_blocking_timeout(NOW);
    assert_eq!(refused.unwrap_err(), WaitTimeoutError::Timeout);
    drop(permits);
    assert_eq!(semaphore.available_permits(), 3);
}

/// Fails if a semaphore is created with the usual `max_attempts` (seen failing): the sixth acquire
/// finds none.
#[test]
fn a_permit_does_not_wear_out() {
    let semaphore = semaphore(1);
    for _ in 0..200_000 {
        semaphore.try_acquire().unwrap().unwrap().release();
    }
    assert_eq!(semaphore.available_permits(), 1);
}

/// Fails if `Permit` leaves its lease to be dropped (seen failing): that acknowledges, and the permit
/// is gone.
#[test]
fn no_more_than_the_permits_are_inside() {
    let (semaphore, inside) = (semaphore(2), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            let same = Semaphore::open(semaphore.try_clone_fd().unwrap()).unwrap();
            let inside = &inside;
            scope.spawn(move || {
                for _ in 0..2000 {
                    let permit = same.acquire_blocking().unwrap();
                    assert!(inside.fetch_add(1, SeqCst) < 2);
                    inside.fetch_sub(1, SeqCst);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!(semaphore.available_permits(), 2);
}

#[test]
fn another_thread_may_release_and_a_panic_does() {
    let semaphore = semaphore(1);
    let permit = semaphore.acquire_blocking().unwrap();
    thread::spawn(move || permit.release()).join().unwrap();
    let permit = semaphore.acquire_blocking().unwrap();
    let panicked = thread::spawn(move || {
        let _permit = permit;
        panic!("as planned");
    });
    assert!(panicked.join().is_err());
    assert_eq!(semaphore.available_permits(), 1);
}

#[test]
fn a_permit_outlives_its_handle() {
    let semaphore = semaphore(1);
    let same = Semaphore::open(semaphore.try_clone_fd().unwrap()).unwrap();
    let permit = same.acquire_blocking().unwrap();
    drop(same);
    assert!(semaphore.try_acquire().unwrap().is_none());
    drop(permit);
    assert!(semaphore.try_acquire().unwrap().is_some());
}

/// Fails if an event or a semaphore is known by the name of a type (seen failing): these are what ours
/// were called.
#[test]
fn no_type_of_a_user_is_taken_for_an_event_or_a_semaphore() {
    #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
    #[repr(C)]
    struct Flag {
        word: u64,
    }
    #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
    #[repr(C)]
    struct Token {}
    let flags = Queue::builder().create_typed::<Flag>().unwrap();
    let refused = Event::open(flags.try_clone_fd().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("carries `Flag` (8 bytes, align 8)"), "{refused}");
    assert!(refused.contains("asked for the flag of an event"), "{refused}");
    let tokens = Queue::builder().create_typed::<Token>().unwrap();
    assert!(Semaphore::open(tokens.try_clone_fd().unwrap()).is_err());
    let semaphore = semaphore(1);
    assert!(Queue::<Token>::open_typed(semaphore.try_clone_fd().unwrap()).is_err());
}

#[test]
fn what_is_something_else_is_refused() {
    let (event, semaphore) = (event(), semaphore(1));
    let queue = Queue::builder().create().unwrap();
    let wrong = |it: Result<(), OpenError>| matches!(it, Err(OpenError::WrongType { .. }));
    assert!(wrong(Event::open(semaphore.try_clone_fd().unwrap()).map(drop)));
    assert!(wrong(Event::open(queue.try_clone_fd().unwrap()).map(drop)));
    assert!(wrong(Semaphore::open(event.try_clone_fd().unwrap()).map(drop)));
    assert!(wrong(Semaphore::open(queue.try_clone_fd().unwrap()).map(drop)));
    assert!(wrong(Queue::open(event.try_clone_fd().unwrap()).map(drop)));
    assert!(wrong(Queue::open(semaphore.try_clone_fd().unwrap()).map(drop)));
    let none = Queue::builder().create_semaphore(0);
    assert!(matches!(none.unwrap_err(), CreateError::Zero { .. }));
    let many = Queue::builder().create_semaphore(1 << 19);
    assert!(matches!(many.unwrap_err(), CreateError::TooManyBlocks { .. }));
}

#[test]
fn a_semaphore_says_when_its_handles_are_out() {
    let semaphore = Queue::builder().handles(1).create_semaphore(1).unwrap();
    let refused = Semaphore::open(semaphore.try_clone_fd().unwrap());
    assert!(matches!(refused.unwrap_err(), OpenError::Attach(_)));
}

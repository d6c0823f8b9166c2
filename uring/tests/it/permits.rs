//! Permits that end: each is released, and the wait of a handle that has all others gets it. The
//! watchdog's period is an hour.

use std::sync::Arc;
use std::thread;

use parkline_uring::{AsyncSemaphore, Permit, Queue, Semaphore};

use crate::deaths::until_a_waiter_is_there;
use crate::endings::{EVERYWHERE, HOUR, TASKS, Within, without_hanging};
use crate::peer::{Peer, inherited, inherited_fd};

fn semaphore(permits: usize) -> Arc<Semaphore> {
    let builder = Queue::builder().handles(4).watchdog(HOUR);
    Arc::new(builder.create_semaphore(permits).unwrap())
}

fn acquire(within: Within, semaphore: &Semaphore) -> Permit {
    match within {
        Within::Thread => semaphore.acquire_blocking().unwrap(),
        _ => within.run(semaphore.acquire()).unwrap(),
    }
}

/// Acquires in a thread, and does `release` when it waits.
fn acquires_after(within: Within, semaphore: &Arc<Semaphore>, release: impl FnOnce()) {
    let side = semaphore.side();
    let same = Arc::clone(semaphore);
    let waiter = thread::spawn(move || acquire(within, &same).release());
    until_a_waiter_is_there(&side);
    release();
    waiter.join().unwrap();
}

/// Fails if an acquire is refused while its handle has all permits (seen failing), or if a release
/// wakes no task there (seen failing: hangs).
#[test]
fn an_acquire_gets_the_permit_that_its_own_handle_releases() {
    for within in EVERYWHERE {
        without_hanging(within, move || {
            let semaphore = semaphore(2);
            let both = [(); 2].map(|()| semaphore.try_acquire().unwrap().unwrap());
            let [first, second] = both;
            acquires_after(within, &semaphore, || drop(first));
            assert_eq!(semaphore.available_permits(), 1);
            drop(second);
            assert_eq!(semaphore.available_permits(), 2);
        });
    }
}

/// Acquires a permit of the first descriptor, says so on the second, releases it when the third says
/// so, and stays.
pub(crate) fn child() {
    let semaphore = Semaphore::open(inherited_fd(0)).unwrap();
    let mut commands = inherited::<u64>(2).receiver().unwrap();
    let permit = semaphore.try_acquire().unwrap().unwrap();
    inherited::<u64>(1).sender().unwrap().try_send(&0).unwrap();
    commands.recv_blocking().unwrap();
    permit.release();
    loop {
        thread::park();
    }
}

/// This handle has all permits but that one.
///
/// Fails if a release wakes no task (seen failing: hangs).
#[test]
fn an_acquire_gets_the_permit_that_another_process_releases() {
    for within in EVERYWHERE {
        without_hanging(within, move || {
            let semaphore = semaphore(2);
            let news = Queue::builder().create_typed::<u64>().unwrap();
            let commands = Queue::builder().create_typed::<u64>().unwrap();
            let _peer = Peer::start("acquire and obey", &[&*semaphore, &news, &commands]);
            news.receiver().unwrap().recv_blocking().unwrap();
            let own = semaphore.try_acquire().unwrap().unwrap();
            assert!(semaphore.try_acquire().unwrap().is_none());
            let mut commands = commands.sender().unwrap();
            acquires_after(within, &semaphore, || commands.try_send(&0).unwrap());
            drop(own);
            assert_eq!(semaphore.available_permits(), 2);
        });
    }
}

/// Fails if a permit that is dropped in a panic or by a cancelled task stays acquired (seen failing).
#[test]
fn tasks_that_panic_or_lose_release_their_permits() {
    for within in TASKS {
        without_hanging(within, move || {
            let semaphore = semaphore(1);
            for panics in [true, false] {
                let same = Arc::clone(&semaphore);
                let doomed = async move {
                    let _permit = same.acquire().await.unwrap();
                    assert_eq!(same.available_permits(), 0);
                    if panics {
                        std::panic::resume_unwind(Box::new("as the test wants it"));
                    }
                    std::future::pending::<()>().await;
                };
                let ended = thread::spawn(move || {
                    within.run(async {
                        tokio::select! {
                            biased;
                            () = doomed => {},
                            () = std::future::ready(()) => {},
                        }
                    });
                });
                assert_eq!(ended.join().is_err(), panics);
                assert_eq!(semaphore.available_permits(), 1);
            }
        });
    }
}

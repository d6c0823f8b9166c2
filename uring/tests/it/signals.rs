//! Events and semaphores in tasks.

use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use parkline_uring::{
    AsyncEvent, AsyncSemaphore, Event, Queue, Semaphore, WaitTimeoutError, block_on,
};

const AN_HOUR: Duration = Duration::from_secs(3600);
/// Where the flag lies in the segment.
const FLAG_AT: u64 = 1024 + 2 * 128 + 16;

/// Fails if one wake of a lane is for one task (seen failing with `is_for_all` of joins alone).
#[test]
fn a_set_wakes_all_tasks_of_all_threads() {
    let event = Queue::builder().watchdog(AN_HOUR).create_event().unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            let same = Event::open(event.try_clone_fd().unwrap()).unwrap();
            scope.spawn(move || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                let same = Arc::new(same);
                runtime.block_on(async {
                    let tasks: Vec<_> = (0..100)
                        .map(|_| {
                            let same = Arc::clone(&same);
                            tokio::spawn(async move { same.wait().await })
                        })
                        .collect();
                    for task in tasks {
                        task.await.unwrap().unwrap();
                    }
                });
            });
        }
        event.set().unwrap();
    });
}

/// Written as by a setter that is killed before its wake. Fails if the watchdog's look passes the
/// sides over that are for all (seen failing).
#[test]
fn a_set_whose_wake_has_died_is_seen_by_the_watchdog() {
    let event = Queue::builder().watchdog(Duration::from_millis(2)).create_event().unwrap();
    let file = std::fs::File::from(event.try_clone_fd().unwrap());
    block_on(async {
        let mut wait = pin!(event.wait());
        // It is asleep by then: nobody wakes it.
        assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        file.write_all_at(&1u64.to_ne_bytes(), FLAG_AT).unwrap();
        wait.await.unwrap();
    });
}

#[test]
fn a_wait_ends_with_its_time() {
    let event = Queue::builder().create_event().unwrap();
    let semaphore = Queue::builder().create_semaphore(1).unwrap();
    block_on(async {
        let soon = Duration::from_millis(1);
        assert_eq!(event.wait_timeout(soon).await, Err(WaitTimeoutError::Timeout));
        let _only = semaphore.acquire().await.unwrap();
        let refused = semaphore.acquire_timeout(soon).await;
        assert_eq!(refused.unwrap_err(), WaitTimeoutError::Timeout);
    });
}

/// Fails if `Permit` is dropped without a wake (seen failing).
#[test]
fn a_release_wakes_one_and_a_dropped_wait_passes_it_on() {
    let semaphore = Queue::builder().watchdog(AN_HOUR).create_semaphore(1).unwrap();
    let other = Semaphore::open(semaphore.try_clone_fd().unwrap()).unwrap();
    let permit = semaphore.try_acquire().unwrap().unwrap();
    block_on(async {
        let mut first = Box::pin(semaphore.acquire());
        let mut second = pin!(semaphore.acquire());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut cx).is_pending());
        assert!(second.as_mut().poll(&mut cx).is_pending());
        let releasing = thread::spawn(move || permit.release());
        releasing.join().unwrap();
        drop(first);
        second.await.unwrap().release();
        assert!(matches!(pin!(other.acquire()).poll(&mut cx), Poll::Ready(Ok(_))));
    });
}

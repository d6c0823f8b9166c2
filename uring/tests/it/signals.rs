//! Events and semaphores in tasks.

use std::future::poll_fn;
use std::os::unix::fs::FileExt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use parkline_uring::{
    AsyncEvent, AsyncSemaphore, Event, Queue, Semaphore, WaitTimeoutError, block_on,
};

use crate::deaths::{until_a_waiter_is_there, watchdog};
use crate::peer::{Peer, inherited, inherited_fd};
use crate::runtimes::current_thread;

const AN_HOUR: Duration = Duration::from_secs(3600);
/// Where the flag lies in the segment.
const FLAG_AT: u64 = 1024 + 2 * 128 + 16;

#[test]
fn a_set_wakes_all_tasks_of_all_threads() {
    const THREADS: usize = 3;
    let event = Queue::builder().watchdog(AN_HOUR).create_event().unwrap();
    let all_wait = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let all_wait = &all_wait;
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
                    // One thread runs the tasks in turn: after this one all others wait.
                    tokio::spawn(async {}).await.unwrap();
                    all_wait.wait();
                    for task in tasks {
                        task.await.unwrap().unwrap();
                    }
                });
            });
        }
        all_wait.wait();
        event.set().unwrap();
    });
}

/// A waker that tells when it was called.
struct Called {
    yes: AtomicBool,
    task: Waker,
}

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.yes.store(true, SeqCst);
        self.task.wake_by_ref();
    }
}

impl Called {
    /// Polls `wait`, which is not over, once.
    async fn begin<F: Future>(mut wait: Pin<&mut F>) -> Arc<Self> {
        poll_fn(|cx| {
            let called = Arc::new(Self { yes: AtomicBool::new(false), task: cx.waker().clone() });
            let waker = Waker::from(Arc::clone(&called));
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            Poll::Ready(called)
        })
        .await
    }

    async fn come(&self) {
        poll_fn(|_| if self.yes.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// Written as by a setter that is killed before its wake. Fails if the watchdog's round passes the
/// sides over that are for all (seen failing).
#[test]
fn a_set_whose_wake_has_died_is_seen_by_the_watchdog() {
    let event = Queue::builder().watchdog(Duration::from_millis(2)).create_event().unwrap();
    let file = std::fs::File::from(event.try_clone_fd().unwrap());
    block_on(async {
        let mut wait = pin!(event.wait());
        let called = Called::begin(wait.as_mut()).await;
        file.write_all_at(&1u64.to_ne_bytes(), FLAG_AT).unwrap();
        called.come().await;
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

/// Fails if `nack` wakes no task (seen failing with io_uring).
#[test]
fn a_release_wakes_one_and_a_dropped_wait_passes_it_on() {
    let semaphore = Queue::builder().watchdog(AN_HOUR).create_semaphore(1).unwrap();
    let other = Semaphore::open(semaphore.try_clone_fd().unwrap()).unwrap();
    let permit = semaphore.try_acquire().unwrap().unwrap();
    block_on(async {
        let mut first = Box::pin(semaphore.acquire());
        let mut second = pin!(semaphore.acquire());
        let _ = Called::begin(first.as_mut()).await;
        let called = Called::begin(second.as_mut()).await;
        let releasing = thread::spawn(move || permit.release());
        releasing.join().unwrap();
        drop(first);
        called.come().await;
        second.await.unwrap().release();
        assert!(other.try_acquire().unwrap().is_some());
    });
}

/// Acquires a permit, says so, and hangs until it is killed.
pub(crate) fn child() {
    let semaphore = Semaphore::open(inherited_fd(0)).unwrap();
    let _permit = semaphore.try_acquire().unwrap().unwrap();
    inherited::<u64>(1).sender().unwrap().try_send(&0).unwrap();
    loop {
        thread::park();
    }
}

/// Waits in `run`, and kills the process that has the only permit when it does.
fn survive(watchdog: Duration, run: impl FnOnce(&Semaphore) + Send + 'static) {
    let semaphore = Queue::builder().watchdog(watchdog).create_semaphore(1).unwrap();
    let news = Queue::builder().create_typed::<u64>().unwrap();
    let peer = Peer::start("acquire and hang", &[&semaphore, &news]);
    news.receiver().unwrap().recv_blocking().unwrap();
    let same = Semaphore::open(semaphore.try_clone_fd().unwrap()).unwrap();
    let side = same.side();
    let survivor = thread::spawn(move || run(&same));
    until_a_waiter_is_there(&side);
    drop(peer);
    survivor.join().unwrap();
    assert_eq!(semaphore.available_permits(), 1);
}

/// Fails if a waiter does not search for the dead (seen failing: hangs), or if the ring does not poll
/// for their ends (seen failing: sleeps for an hour).
#[test]
fn who_waits_gets_the_permit_of_the_killed() {
    survive(watchdog(), |semaphore| block_on(semaphore.acquire()).unwrap().release());
    survive(watchdog(), |semaphore| {
        current_thread().block_on(semaphore.acquire()).unwrap().release();
    });
    let short = Duration::from_millis(10);
    survive(short, |semaphore| semaphore.acquire_blocking().unwrap().release());
}

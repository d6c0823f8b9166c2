//! Cancelled waits: nothing is lost, nothing comes twice.

use std::hint::spin_loop;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use parkline_uring::{
    AsyncReceiver, AsyncSender, Backend, Queue, RecvError, RecvTimeoutError, backend,
};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

use crate::peer::{Peer, inherited};
use crate::runtimes::{current_thread, multi_thread};

const CANCELLED: u64 = 100_000;
const TASKS: u64 = 8;

/// A cheap, fixed sequence of numbers that look random.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

/// Receives, and gives up again and again, by timeout and by drop; reports each message received.
pub(crate) fn child() {
    let jobs = inherited::<u64>(0).receiver().unwrap().share();
    let reports = inherited::<u64>(1).sender().unwrap().share();
    let cancelled = Arc::new(AtomicU64::new(0));
    let runtime = multi_thread();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..TASKS)
            .map(|seed| {
                let (mut jobs, mut reports) = (jobs.clone(), reports.clone());
                let cancelled = Arc::clone(&cancelled);
                tokio::spawn(async move {
                    let mut dice = Dice(seed);
                    loop {
                        let got = if dice.roll(8) == 0 {
                            let timeout = Duration::from_micros(dice.roll(50));
                            jobs.recv_timeout(timeout).await
                        } else {
                            let patience = dice.roll(4);
                            tokio::select! {
                                biased;
                                got = jobs.recv() => got.map_err(RecvTimeoutError::from),
                                () = yields(patience) => Err(RecvTimeoutError::Timeout),
                            }
                        };
                        match got {
                            Ok(job) => reports.send(&job).await.unwrap(),
                            Err(RecvTimeoutError::Timeout) => {
                                if cancelled.fetch_add(1, Relaxed) + 1 == CANCELLED {
                                    reports.send(&u64::MAX).await.unwrap();
                                }
                            }
                            Err(RecvTimeoutError::Closed) => break,
                            Err(RecvTimeoutError::Fault(fault)) => panic!("{fault}"),
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert!(cancelled.load(Relaxed) >= CANCELLED);
}

async fn yields(times: u64) {
    for _ in 0..times {
        yield_now().await;
    }
}

/// Fails if `leave` does not hand on the duty (seen failing: hangs).
#[test]
fn a_hundred_thousand_cancelled_receives_lose_and_repeat_nothing() {
    // An hour: no wake is healed by the watchdog here.
    let watchdog = Duration::from_secs(3600);
    let builder = || Queue::builder().capacity(16).watchdog(watchdog);
    let jobs = builder().create_typed::<u64>().unwrap();
    let reports = builder().create_typed::<u64>().unwrap();
    let peer = Peer::start("cancelling", &[&jobs, &reports]);

    let collector = std::thread::spawn({
        let (jobs, mut reports) = (jobs.try_clone_fd().unwrap(), reports.receiver().unwrap());
        move || {
            let jobs = Queue::<u64>::open_typed(jobs).unwrap();
            let mut seen = Vec::new();
            loop {
                match reports.recv_blocking() {
                    Ok(u64::MAX) => jobs.close().unwrap(),
                    Ok(job) => seen.push(job),
                    Err(RecvError::Closed) => return seen,
                    Err(RecvError::Fault(fault)) => panic!("{fault}"),
                }
            }
        }
    });
    let mut sender = jobs.sender().unwrap();
    let mut dice = Dice(42);
    let mut sent = 0;
    while sender.send_blocking(&sent).is_ok() {
        sent += 1;
        (0..dice.roll(2000)).for_each(|_| spin_loop());
    }
    peer.assert_success();
    reports.close().unwrap();
    let mut seen = collector.join().unwrap();
    seen.sort_unstable();
    assert_eq!(seen.len() as u64, sent);
    assert!(seen.into_iter().eq(0..sent));
}

/// A waker that tells whether it was called.
#[derive(Default)]
pub(crate) struct Told(pub(crate) AtomicBool);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

pub(crate) type Recv<'a> = Pin<Box<dyn Future<Output = Result<u64, RecvError>> + 'a>>;

/// Polls once; the result tells whether the future was woken since.
pub(crate) fn begin<F: Future + ?Sized>(waits: &mut Pin<Box<F>>) -> Arc<Told> {
    let told = Arc::new(Told::default());
    let waker = Waker::from(Arc::clone(&told));
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    told
}

pub(crate) async fn until(told: &Told) {
    while !told.0.load(Relaxed) {
        yield_now().await;
    }
}

/// A queue whose watchdog heals nothing within the life of a test.
fn unhealed() -> Queue<u64> {
    let watchdog = Duration::from_secs(3600);
    Queue::builder().capacity(4).watchdog(watchdog).create_typed().unwrap()
}

/// Fails if `leave` does not hand on the duty (seen failing: hangs).
#[test]
fn the_wake_of_a_dropped_task_goes_to_another_of_the_same_handle() {
    let queue = unhealed();
    let mut first = queue.receiver().unwrap().share();
    let mut second = first.clone();
    // Arriving later it would wake all tasks.
    let mut sender = queue.sender().unwrap();
    current_thread().block_on(async {
        let (mut doomed, mut other): (Recv<'_>, Recv<'_>) =
            (Box::pin(first.recv()), Box::pin(second.recv()));
        let doomed_told = begin(&mut doomed);
        let other_told = begin(&mut other);
        sender.try_send(&7).unwrap();
        until(&doomed_told).await;
        // The helper serves all tests of this process, and searches all queues when the watchdog of one is
        // due.
        if let Backend::IoUring = backend() {
            assert!(!other_told.0.load(Relaxed), "one wake, one task");
        }
        drop(doomed);
        until(&other_told).await;
        assert_eq!(other.await, Ok(7));
    });
}

/// Two handles wait, each in a runtime of its own, and the kernel wakes the one that came first.
fn two_handles(dropped: impl FnOnce(&Runtime, Recv<'_>, &Told, &mut dyn FnMut())) {
    let queue = unhealed();
    // Arriving later it would wake both.
    let mut sender = queue.sender().unwrap();
    let (mut first, mut second) = (queue.receiver().unwrap(), queue.receiver().unwrap());
    let (one, two) = (current_thread(), current_thread());
    let mut doomed: Recv<'_> = Box::pin(first.recv());
    let mut other: Recv<'_> = Box::pin(second.recv());
    let told = one.block_on(async { begin(&mut doomed) });
    let other_told = two.block_on(async { begin(&mut other) });
    dropped(&one, doomed, &told, &mut || sender.try_send(&7).unwrap());
    two.block_on(until(&other_told));
    assert_eq!(two.block_on(other), Ok(7));
}

/// Fails if `Left::PassOn` does nothing (seen failing: hangs).
#[test]
fn a_wake_goes_to_another_handle_when_its_task_was_told_and_dropped() {
    two_handles(|runtime, doomed, told, send| {
        send();
        runtime.block_on(until(told));
        drop(doomed);
    });
}

/// Fails if `completed` passes nothing on (seen failing: hangs).
#[test]
fn a_wake_goes_to_another_handle_when_its_task_was_dropped_before_it_was_told() {
    two_handles(|_, doomed, _, send| {
        send();
        drop(doomed);
    });
}

/// Fails if `Left::Disarm` does nothing (seen failing: hangs, since no thread drives the first
/// runtime).
#[test]
fn a_dropped_wait_eats_no_wake() {
    two_handles(|_, doomed, _, send| {
        drop(doomed);
        send();
    });
}

/// Fails if the watchdog is not set (seen failing: hangs).
#[test]
fn a_wake_that_a_stopped_runtime_got_comes_by_the_watchdog() {
    let watchdog = Duration::from_millis(20);
    let queue = Queue::builder().capacity(4).watchdog(watchdog).create_typed::<u64>().unwrap();
    // Arriving later it would wake both.
    let mut sender = queue.sender().unwrap();
    let (mut first, mut second) = (queue.receiver().unwrap(), queue.receiver().unwrap());
    let (stopped, running) = (current_thread(), current_thread());
    let mut woken: Recv<'_> = Box::pin(first.recv());
    let mut other: Recv<'_> = Box::pin(second.recv());
    stopped.block_on(async { begin(&mut woken) });
    let told = running.block_on(async { begin(&mut other) });
    sender.try_send(&7).unwrap();
    running.block_on(until(&told));
    assert_eq!(running.block_on(other), Ok(7));
}

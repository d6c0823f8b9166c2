//! Cancelled waits: nothing is lost, nothing comes twice.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parkline_uring::{AsyncReceiver, AsyncSender, Queue, RecvError, RecvTimeoutError};
use tokio::task::yield_now;

use crate::peer::{Peer, inherited};
use crate::runtimes::{current_thread, multi_thread};

const CANCELLED: u64 = 100_000;
const TASKS: u64 = 8;

/// A cheap, fixed sequence of numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
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

/// Fails if a dropped task keeps the duty, or a disarmed wait that was woken is not passed on (seen failing: the
/// watchdog at an hour, the test hangs).
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

/// Fails if dropping a woken wait does not pass the wake on.
#[test]
fn a_wake_that_a_dropped_task_got_goes_to_another() {
    let runtime = current_thread();
    runtime.block_on(async {
        for _ in 0..200 {
            let queue = Queue::builder().capacity(4).watchdog(Duration::from_secs(3600));
            let queue = queue.create_typed::<u64>().unwrap();
            let mut first = queue.receiver().unwrap().share();
            let mut second = first.clone();
            let (mut doomed, mut other) = (Box::pin(first.recv()), Box::pin(second.recv()));
            assert!(futures_poll(&mut doomed).await.is_none());
            assert!(futures_poll(&mut other).await.is_none());
            // The kernel wait stands for both; whichever of them is told is dropped untold.
            queue.sender().unwrap().try_send(&7).unwrap();
            yield_now().await;
            drop(doomed);
            assert_eq!(other.await, Ok(7));
        }
    });
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

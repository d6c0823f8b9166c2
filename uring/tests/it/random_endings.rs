//! Ten thousand endings at random, in threads, `block_on` and tokio, on exclusive and shared handles,
//! beside senders that keep the ring full: the books are exact.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use parkline_uring::{AsyncReceiver, Lease, Queue, Receiver, Shared, block_on};
use tokio::task::yield_now;

use crate::cancel::Dice;
use crate::endings::{HOUR, without_hanging};
use crate::runtimes::multi_thread;

const ENDINGS: usize = 10_000;
const SENDERS: u64 = 2;
/// More than there can be: every third message ends by an acknowledgement at once.
const MESSAGES: usize = 4 * ENDINGS;
const TASKS: u64 = 4;

/// What the workers know of the messages, apart from the queue.
struct Books {
    queue: Queue<u64>,
    returns: Vec<AtomicU16>,
    acknowledged: Vec<AtomicBool>,
    /// How many endings are to come.
    left: AtomicUsize,
    deliveries: AtomicUsize,
}

impl Books {
    fn open() -> Self {
        let builder = Queue::builder().capacity(4).leases(3).handles(12);
        let (mut returns, mut acknowledged) = (Vec::new(), Vec::new());
        returns.resize_with(MESSAGES, AtomicU16::default);
        acknowledged.resize_with(MESSAGES, AtomicBool::default);
        Self {
            queue: builder.watchdog(HOUR).create_typed().unwrap(),
            returns,
            acknowledged,
            left: AtomicUsize::new(ENDINGS),
            deliveries: AtomicUsize::new(0),
        }
    }

    /// Sends as long as there are endings to come, and returns how many.
    fn send(&self, first: u64) -> usize {
        let mut sender = self.queue.sender().unwrap();
        let mut messages = (first..).step_by(SENDERS as usize);
        let is_wanted = |_: &u64| self.left.load(SeqCst) > 0;
        messages.by_ref().take_while(is_wanted).map(|n| sender.send_blocking(&n).unwrap()).count()
    }

    /// A delivery: its attempts are those that the books know of.
    fn check(&self, job: &Lease<u64>) -> usize {
        let n = job.read().unwrap() as usize;
        let returns = self.returns[n].load(SeqCst);
        assert_eq!((job.attempts(), job.redelivered()), (returns + 1, returns > 0), "message {n}");
        assert!(!self.acknowledged[n].load(SeqCst), "message {n} was done");
        self.deliveries.fetch_add(1, SeqCst);
        n
    }

    /// Acknowledges, or gives the job for one of so many `endings` to come to.
    fn draw(&self, dice: &mut Dice, endings: u64, job: Lease<u64>) -> Option<(u64, Lease<u64>)> {
        let n = self.check(&job);
        let is_left = |left: usize| left.checked_sub(1);
        if dice.roll(3) > 0 && self.left.fetch_update(SeqCst, SeqCst, is_left).is_ok() {
            self.returns[n].fetch_add(1, SeqCst);
            return Some((dice.roll(endings), job));
        }
        self.acknowledged[n].store(true, SeqCst);
        job.ack();
        None
    }

    /// A thread with a handle of its own, which it changes now and then.
    fn block(&self, seed: u64, graves: &mpsc::SyncSender<Lease<u64>>) {
        let mut dice = Dice(seed);
        let mut receiver = self.queue.receiver().unwrap();
        while let Ok(job) = receiver.lease_blocking() {
            let Some((ending, job)) = self.draw(&mut dice, 6, job) else { continue };
            match ending {
                0 => drop(job),
                1 => job.nack(),
                2 => job.nack_after(Duration::from_micros(dice.roll(300))),
                3 => graves.send(job).unwrap(),
                4 => panics(job),
                _ => {
                    drop(receiver);
                    receiver = self.queue.receiver().unwrap();
                    drop(job);
                }
            }
        }
    }

    /// The same in a task of its own.
    async fn wait(&self, seed: u64) {
        let mut dice = Dice(seed);
        let mut receiver = self.queue.receiver().unwrap();
        while let Ok(job) = receiver.lease().await {
            let Some((ending, job)) = self.draw(&mut dice, 5, job) else { continue };
            match ending {
                0 => drop(job),
                1 => job.nack_after(Duration::from_micros(dice.roll(300))),
                2 => panics(job),
                3 => {
                    let fails = async {
                        let _job = job;
                        Err::<(), _>(std::fmt::Error)?;
                        Ok::<(), std::fmt::Error>(())
                    };
                    assert!(fails.await.is_err());
                }
                _ => tokio::select! {
                    biased;
                    () = holds(job) => {},
                    () = yield_now() => {},
                },
            }
        }
    }

    /// Tasks that share a handle, in runtimes of which each ends after a while with what its tasks have.
    fn share(self: &Arc<Self>, seed: u64) {
        let receiver = self.queue.receiver().unwrap().share();
        let is_over = Arc::new(AtomicUsize::new(0));
        let mut dice = Dice(seed);
        while is_over.load(SeqCst) == 0 {
            let runtime = multi_thread();
            for _ in 0..TASKS {
                let task = Arc::clone(self).task(dice.roll(u64::MAX >> 33), receiver.clone());
                let is_over = Arc::clone(&is_over);
                runtime.spawn(async move {
                    task.await;
                    is_over.fetch_add(1, SeqCst);
                });
            }
            // It ends when some task has left its jobs to its end.
            runtime.block_on(async {
                while is_over.load(SeqCst) == 0 {
                    yield_now().await;
                }
            });
            if is_over.load(SeqCst) > 0 && self.left.load(SeqCst) > 0 {
                is_over.store(0, SeqCst);
            }
        }
    }

    async fn task(self: Arc<Self>, seed: u64, mut receiver: Shared<Receiver<u64>>) {
        let mut dice = Dice(seed);
        while let Ok(job) = receiver.lease().await {
            let Some((ending, job)) = self.draw(&mut dice, 40, job) else { continue };
            match ending {
                // Its runtime ends with it.
                0 => {
                    tokio::spawn(holds(job));
                    return;
                }
                1..10 => {
                    let task = tokio::spawn(holds(job));
                    task.abort();
                    assert!(task.await.unwrap_err().is_cancelled());
                }
                10..20 => {
                    let soon = Duration::from_micros(dice.roll(300));
                    assert!(tokio::time::timeout(soon, holds(job)).await.is_err());
                }
                20..30 => {
                    let task = tokio::spawn(async move { panics_here(job) });
                    assert!(task.await.unwrap_err().is_panic());
                }
                _ => tokio::select! {
                    () = holds(job) => {},
                    () = yield_now() => {},
                },
            }
        }
    }
}

async fn holds(job: Lease<u64>) {
    std::future::pending::<()>().await;
    job.ack();
}

fn panics_here(_job: Lease<u64>) {
    // No message of the hook: there are thousands.
    std::panic::resume_unwind(Box::new("as the test wants it"));
}

fn panics(job: Lease<u64>) {
    assert!(catch_unwind(AssertUnwindSafe(|| panics_here(job))).is_err());
}

/// Fails if a dropped lease acknowledges, if a return counts two attempts, or if a message that is owed
/// has two takers (each seen failing).
#[test]
fn ten_thousand_random_endings_leave_the_books_exact() {
    without_hanging("random endings", || {
        let books = Arc::new(Books::open());
        let (graves, dead) = mpsc::sync_channel::<Lease<u64>>(0);
        let sent: usize = thread::scope(|scope| {
            let books = &books;
            let senders: Vec<_> =
                (0..SENDERS).map(|first| scope.spawn(move || books.send(first))).collect();
            let blocking: Vec<_> = [1, 2].map(|seed| (seed, graves.clone())).into();
            drop(graves);
            for (seed, graves) in blocking {
                scope.spawn(move || books.block(seed, &graves));
            }
            scope.spawn(move || dead.into_iter().for_each(drop));
            scope.spawn(move || block_on(books.wait(3)));
            scope.spawn(move || books.share(4));
            let sent = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
            books.queue.close().unwrap();
            sent
        });
        let Books { queue, returns, acknowledged, deliveries, .. } = &*books;
        queue.join_blocking().unwrap();
        assert_eq!(acknowledged.iter().filter(|it| it.load(SeqCst)).count(), sent);
        let returned: usize = returns.iter().map(|it| usize::from(it.load(SeqCst))).sum();
        assert_eq!((returned, deliveries.load(SeqCst)), (ENDINGS, sent + ENDINGS));
        let stats = queue.stats();
        assert_eq!((stats.sent, stats.owed, queue.len()), (sent as u64, 0, 0));
        assert_eq!(stats.redelivered, ENDINGS as u64);
        assert_eq!(stats.received, stats.sent + stats.redelivered);
    });
}

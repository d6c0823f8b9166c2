//! However a worker ends, its jobs come back: each ending, with room in the ring and without, in each
//! way to wait.
//!
//! A case is always the same: a worker has three jobs in hand, a survivor with a handle of its own and
//! a join wait for them, and the worker ends without an acknowledgement. The watchdog's period is an
//! hour, and no process attaches meanwhile: a wake that is lost makes the test hang.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parkline_uring::{
    AsyncJoin, AsyncReceiver, Backend, Lease, Queue, Receiver, backend, block_on,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::deaths::until_a_waiter_is_there;
use crate::peer::{Peer, inherited};
use crate::runtimes::{current_thread, multi_thread, on_any_executor};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
const JOBS: [u64; 3] = [1, 2, 3];
const FILLERS: [u64; 4] = [11, 12, 13, 14];

/// What a worker and its survivor wait in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Within {
    CurrentThread,
    MultiThread,
    BlockOn,
    /// The calling thread, in the blocking calls.
    Thread,
}

use Within::{BlockOn, CurrentThread, MultiThread, Thread};

pub(crate) const EVERYWHERE: [Within; 4] = [CurrentThread, MultiThread, BlockOn, Thread];
const TOKIO: [Within; 2] = [CurrentThread, MultiThread];
pub(crate) const TASKS: [Within; 3] = [CurrentThread, MultiThread, BlockOn];

/// Whether the ring has room for what comes back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ring {
    HasRoom,
    IsFull,
}

type Jobs = [Lease<u64>; 3];

impl Within {
    /// Runs a future to its end here.
    pub(crate) fn run<F: Future>(self, future: F) -> F::Output {
        match self {
            CurrentThread => current_thread().block_on(future),
            MultiThread => multi_thread().block_on(future),
            BlockOn => block_on(future),
            Thread => on_any_executor(future),
        }
    }

    /// Leases `count` messages, tells each, and acknowledges it.
    pub(crate) fn work(
        self,
        receiver: &mut Receiver<u64>,
        count: usize,
        mut tell: impl FnMut(&Lease<u64>),
    ) {
        let mut done = |job: Lease<u64>| {
            tell(&job);
            job.ack();
        };
        match self {
            Thread => (0..count).for_each(|_| done(receiver.lease_blocking().unwrap())),
            _ => self.run(async {
                for _ in 0..count {
                    done(receiver.lease().await.unwrap());
                }
            }),
        }
    }

    pub(crate) fn join(self, queue: &Queue<u64>) {
        match self {
            Thread => queue.join_blocking().unwrap(),
            _ => self.run(queue.join()).unwrap(),
        }
    }

    fn three(self, receiver: &mut Receiver<u64>) -> Jobs {
        match self {
            Thread => JOBS.map(|_| receiver.lease_blocking().unwrap()),
            _ => self.run(three(receiver)),
        }
    }

    /// An hour, unless the watchdog is all that tells of a death here.
    pub(crate) fn watchdog_of_death(self) -> Duration {
        match backend() {
            Backend::IoUring if self != Thread => HOUR,
            _ => Duration::from_millis(10),
        }
    }
}

async fn three(receiver: &mut Receiver<u64>) -> Jobs {
    let [a, b, c] = [receiver.lease().await, receiver.lease().await, receiver.lease().await];
    [a.unwrap(), b.unwrap(), c.unwrap()]
}

/// Fails, rather than hangs, when `work` waits for a wake that does not come.
pub(crate) fn without_hanging(name: impl std::fmt::Debug, work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let worker = thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    match is_done.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs: {name:?}"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            assert!(worker.join().is_ok(), "fails: {name:?}");
        }
    }
}

/// One case, on its way.
struct Case {
    within: Within,
    ring: Ring,
    queue: Arc<Queue<u64>>,
    survivor: Option<Receiver<u64>>,
    /// The survivor's thread and the join's.
    waiting: Vec<thread::JoinHandle<()>>,
    acknowledged: Arc<AtomicUsize>,
}

impl Case {
    fn begin(within: Within, ring: Ring, watchdog: Duration) -> Self {
        let builder = Queue::builder().capacity(FILLERS.len()).leases(JOBS.len());
        let queue = Arc::new(builder.watchdog(watchdog).create_typed().unwrap());
        let survivor = Some(queue.receiver().unwrap());
        queue.sender().unwrap().try_send_many(&JOBS).unwrap();
        Self { within, ring, queue, survivor, waiting: Vec::new(), acknowledged: Arc::default() }
    }

    fn count(&self) -> usize {
        match self.ring {
            Ring::HasRoom => JOBS.len(),
            Ring::IsFull => JOBS.len() + FILLERS.len(),
        }
    }

    /// The worker has the jobs in hand.
    fn in_hand(&mut self) {
        if self.ring == Ring::IsFull {
            let sent = self.queue.sender().unwrap().try_send_many(&FILLERS);
            assert_eq!(sent, Ok(FILLERS.len()));
        }
        let (within, count) = (self.within, self.count());
        let (queue, acknowledged) = (Arc::clone(&self.queue), Arc::clone(&self.acknowledged));
        let join = self.queue.joining().side();
        self.waiting.push(thread::spawn(move || {
            within.join(&queue);
            assert_eq!(acknowledged.load(SeqCst), count, "the join ends when all is done");
        }));
        until_a_waiter_is_there(&join);
        if self.ring == Ring::HasRoom {
            let side = self.survivor.as_ref().unwrap().side();
            self.survive();
            until_a_waiter_is_there(&side);
        }
    }

    /// The worker has ended: what it had goes to the survivor.
    fn ended(&mut self) {
        if self.ring == Ring::IsFull {
            self.survive();
        }
    }

    fn survive(&mut self) {
        let (within, count) = (self.within, self.count());
        let mut survivor = self.survivor.take().unwrap();
        let acknowledged = Arc::clone(&self.acknowledged);
        self.waiting.push(thread::spawn(move || {
            let mut came_back = Vec::new();
            within.work(&mut survivor, count, |job| {
                let n = job.read().unwrap();
                let is_back = JOBS.contains(&n);
                assert_eq!((job.redelivered(), job.attempts()), (is_back, 1 + u16::from(is_back)));
                came_back.extend(is_back.then_some(n));
                acknowledged.fetch_add(1, SeqCst);
            });
            came_back.sort_unstable();
            assert_eq!(came_back, JOBS);
        }));
    }

    fn finish(&mut self) {
        for thread in self.waiting.drain(..) {
            thread.join().unwrap();
        }
        let stats = self.queue.stats();
        assert_eq!((stats.owed, stats.redelivered), (0, JOBS.len() as u64));
        assert!(self.queue.is_empty());
    }
}

/// How the jobs end that a worker of this process has in hand.
type Ending<T> = fn(Within, Jobs) -> T;

/// Each case of an ending in this process. The worker's handle stays, and its runtime runs on.
fn each<T: Future + 'static>(within: &[Within], ending: Ending<T>) {
    for &within in within {
        for ring in [Ring::HasRoom, Ring::IsFull] {
            without_hanging((within, ring), move || {
                let mut case = Case::begin(within, ring, HOUR);
                let mut worker = case.queue.receiver().unwrap();
                within.run(async {
                    let jobs = match within {
                        Thread => within.three(&mut worker),
                        _ => three(&mut worker).await,
                    };
                    case.in_hand();
                    ending(within, jobs).await;
                    if ring == Ring::IsFull {
                        assert_eq!(case.queue.stats().owed, JOBS.len() as u64);
                    }
                    let (tell, told) = oneshot::channel();
                    thread::spawn(move || {
                        case.ended();
                        case.finish();
                        tell.send(()).unwrap();
                    });
                    told.await.unwrap();
                });
            });
        }
    }
}

/// Fails if a dropped lease acknowledges (seen failing).
#[test]
fn a_plain_drop() {
    each(&EVERYWHERE, |_, jobs| async { drop(jobs) });
}

/// Fails if a dropped lease acknowledges (seen failing).
#[test]
fn a_question_mark() {
    fn fails(jobs: Jobs) -> Result<(), std::num::ParseIntError> {
        let _: u8 = "no number".parse()?;
        jobs.into_iter().for_each(Lease::ack);
        Ok(())
    }
    each(&EVERYWHERE, |_, jobs| async { assert!(fails(jobs).is_err()) });
}

/// Fails if a dropped lease acknowledges (seen failing).
#[test]
fn a_panic() {
    each(&EVERYWHERE, |within, jobs| async move {
        let panicked = match within {
            CurrentThread | MultiThread => {
                let task = tokio::spawn(async move {
                    let _jobs = jobs;
                    panic!("as the test wants it");
                });
                task.await.unwrap_err().is_panic()
            }
            BlockOn => {
                let call = AssertUnwindSafe(|| {
                    block_on(async {
                        let _jobs = jobs;
                        panic!("as the test wants it");
                    })
                });
                catch_unwind(call).is_err()
            }
            Thread => {
                let thread = thread::spawn(move || {
                    let _jobs = jobs;
                    panic!("as the test wants it");
                });
                thread.join().is_err()
            }
        };
        assert!(panicked);
    });
}

/// Has `jobs` in hand for ever, and says so once.
async fn work_for_ever(jobs: Jobs, begun: oneshot::Sender<()>) {
    begun.send(()).unwrap();
    std::future::pending::<()>().await;
    jobs.into_iter().for_each(Lease::ack);
}

/// Fails if a dropped lease acknowledges (seen failing).
#[test]
fn an_abort() {
    each(&TOKIO, |_, jobs| async {
        let (begun, has_begun) = oneshot::channel();
        let task = tokio::spawn(work_for_ever(jobs, begun));
        has_begun.await.unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    });
}

/// Fails if a dropped lease acknowledges (seen failing).
#[test]
fn a_timeout() {
    each(&TOKIO, |_, jobs| async {
        let (begun, has_begun) = oneshot::channel();
        let soon = Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, work_for_ever(jobs, begun)).await.is_err());
        has_begun.await.unwrap();
    });
}

/// Fails if a dropped lease acknowledges (seen failing).
#[test]
fn a_lost_branch_of_select() {
    each(&TASKS, |_, jobs| async {
        let (begun, has_begun) = oneshot::channel();
        tokio::select! {
            () = work_for_ever(jobs, begun) => panic!("it never ends"),
            won = has_begun => won.unwrap(),
        }
    });
}

/// The runtime of the tasks is another one than that of the worker, and ends.
///
/// Fails if a dropped lease acknowledges (seen failing).
#[test]
fn a_runtime_that_is_dropped() {
    each(&TASKS, |within, jobs| async move {
        let (begun, has_begun) = oneshot::channel();
        let dropping = thread::spawn(move || {
            let runtime = if within == CurrentThread { current_thread() } else { multi_thread() };
            runtime.spawn(work_for_ever(jobs, begun));
            runtime.block_on(has_begun).unwrap();
            drop(runtime);
        });
        dropping.join().unwrap();
    });
}

/// A worker in a process of its own: has three jobs in hand until SIGTERM comes, and returns then.
pub(crate) fn child(within: &str) {
    let within = EVERYWHERE.into_iter().find(|it| format!("{it:?}") == within).unwrap();
    let (queue, news) = (inherited::<u64>(0), inherited::<u64>(1));
    let (installed, is_installed) = mpsc::channel();
    let (terminated, is_terminated) = oneshot::channel();
    thread::spawn(move || {
        current_thread().block_on(async {
            let mut signal = signal(SignalKind::terminate()).unwrap();
            installed.send(()).unwrap();
            signal.recv().await.unwrap();
            terminated.send(()).unwrap();
        });
    });
    is_installed.recv().unwrap();
    let mut receiver = queue.receiver().unwrap();
    let tell = || news.sender().unwrap().try_send(&0).unwrap();
    match within {
        Thread => {
            let _jobs = within.three(&mut receiver);
            tell();
            is_terminated.blocking_recv().unwrap();
        }
        _ => within.run(async {
            let _jobs = three(&mut receiver).await;
            tell();
            is_terminated.await.unwrap();
        }),
    }
}

/// Each case of an ending of a process.
fn each_process(end: fn(Peer)) {
    for within in EVERYWHERE {
        for ring in [Ring::HasRoom, Ring::IsFull] {
            without_hanging((within, ring), move || {
                let mut case = Case::begin(within, ring, within.watchdog_of_death());
                let news = Queue::builder().create_typed::<u64>().unwrap();
                let role = format!("worker in {within:?}");
                let worker = Peer::start(&role, &[&*case.queue, &news]);
                news.receiver().unwrap().recv_blocking().unwrap();
                case.in_hand();
                end(worker);
                case.ended();
                case.finish();
            });
        }
    }
}

/// Fails if the audit of the dead acknowledges what they held (seen failing).
#[test]
fn a_kill() {
    each_process(drop);
}

/// Fails if a dropped lease acknowledges, or if the pid of a handle that leaves messages behind is
/// taken back, as if there were nothing to be recovered (each seen failing).
#[test]
fn a_sigterm_and_a_clean_return() {
    each_process(|worker| {
        kill_process(Pid::from_child(&worker.0), Signal::TERM).unwrap();
        worker.assert_success();
    });
}

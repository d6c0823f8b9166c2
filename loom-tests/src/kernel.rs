//! A kernel for models: futexes of a mutex and a condition variable, with exact counts.
//!
//! The mutex orders more than a futex promises. So no model may rely on the order that a wake gives:
//! each assertion is about values that the thread loads from the ring after the wake.
//!
//! Each model names the edit of the shipped code that it catches, and was seen to fail under it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed as StdRelaxed};
use std::task::{Wake, Waker};
use std::time::Duration;

use loom::sync::atomic::Ordering::Relaxed;
use loom::sync::{Condvar, Mutex, MutexGuard};
use loom::thread::{self, JoinHandle};
use parkline_core::driver::{
    AtomicU32, Gate, HeapPort, HeapRing, Kernel, Left, Patience, Place, Sleep, WaitQueue, wait_at,
};
use parkline_core::{Lease, Queue, Receiver, RecvError, Sender, TryRecvError, TrySendError};

/// The most preemptions that a model is run with, unless `LOOM_MAX_PREEMPTIONS` sets another number.
#[derive(Clone, Copy)]
pub enum Size {
    Small = 3,
    /// With three it takes minutes.
    Large = 2,
}

/// Runs `body` in every interleaving with at most that many preemptions.
pub fn model(size: Size, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(size as usize));
    // An audit of a record, and the marks at each load, take more steps than loom's thousand.
    builder.max_branches = 10_000;
    builder.check(body);
}

/// Runs the model of `body` with the victim stopped after 0, 1, 2... accesses, until the victim comes
/// to its end in every interleaving. `body` returns whether the victim was stopped.
pub fn at_every_step(size: Size, body: impl Fn(usize) -> bool + Sync + Send + Copy + 'static) {
    let mut steps = 0;
    loop {
        let stopped = Arc::new(AtomicBool::new(false));
        let any = Arc::clone(&stopped);
        model(size, move || {
            any.fetch_or(body(steps), StdRelaxed);
        });
        if !stopped.load(StdRelaxed) {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 10, "an operation has more accesses than {steps}");
}

/// A new queue of `capacity` messages of up to 8 bytes for three handles.
pub fn ring(capacity: usize) -> Arc<HeapRing> {
    Arc::new(HeapRing::new(capacity, 8, 3).expect("these numbers are fine"))
}

/// A queue of `capacity` messages of one byte, with one lease a handle.
pub fn queue(capacity: usize, handles: usize) -> Queue {
    let numbers = Queue::builder().capacity(capacity).max_message(1).handles(handles).leases(1);
    // No clock may decide anything in a model.
    numbers.watchdog(Duration::from_secs(3600)).create().unwrap()
}

/// Handles that sleep at once, because a spin would read the clock.
pub fn sender(queue: &Queue) -> Sender {
    let mut sender = queue.sender().unwrap();
    sender.set_spin(Duration::ZERO);
    sender
}

pub fn receiver(queue: &Queue) -> Receiver {
    let mut receiver = queue.receiver().unwrap();
    receiver.set_spin(Duration::ZERO);
    receiver
}

/// A message of a queue is leased: the handle that sent it, its receiver, and the lease.
pub fn leased(queue: &Queue) -> (Sender, Receiver, Lease) {
    let (mut sender, mut receiver) = (sender(queue), receiver(queue));
    sender.try_send(&[1]).unwrap();
    let lease = receiver.try_lease().unwrap();
    (sender, receiver, lease)
}

/// The messages that a thread received, with its receiver: only few models drop a handle.
pub type Receives = JoinHandle<(Receiver, Vec<Result<Vec<u8>, RecvError>>)>;

/// A thread that receives `count` times.
pub fn receives(mut receiver: Receiver, count: usize) -> Receives {
    thread::spawn(move || {
        let received = (0..count).map(|_| receiver.recv_blocking()).collect();
        (receiver, received)
    })
}

/// No deadline, and the watchdog never wakes a thread: a lost wake is a deadlock, which loom reports.
pub const FOR_EVER: Patience = Patience { until: None, watchdog: Duration::from_secs(3600) };

/// The futexes of a model.
#[derive(Default)]
pub struct Futexes {
    sleepers: Mutex<Vec<Sleeper>>,
    woken: Condvar,
    /// Whether each sleep ends as soon as it begins, as if the watchdog's period were over.
    is_watched: AtomicBool,
}

/// A thread, or the tasks of a process, that waits on the word at an address.
struct Sleeper {
    word: usize,
    who: Who,
}

enum Who {
    Thread(Arc<AtomicBool>),
    Lane(Arc<Lane>),
}

fn address(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word).addr()
}

impl Futexes {
    /// Ends all sleeps as the watchdog does, and each sleep that begins before `is_done` is true.
    pub fn watch_until(&self, is_done: impl Fn() -> bool) {
        self.is_watched.store(true, StdRelaxed);
        let sleepers = std::mem::take(&mut *self.locked());
        for sleeper in sleepers {
            let Who::Thread(woken) = sleeper.who else { continue };
            woken.store(true, StdRelaxed);
        }
        self.woken.notify_all();
        while !is_done() {
            thread::yield_now();
        }
        self.is_watched.store(false, StdRelaxed);
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Sleeper>> {
        self.sleepers.lock().unwrap()
    }
}

impl Kernel for Futexes {
    fn wait(&self, sleep: &Sleep<'_>, _: Option<Duration>) {
        let mut sleepers = self.locked();
        // Relaxed: the kernel compares under the lock that every wake takes after its change.
        let word = match catch_unwind(AssertUnwindSafe(|| sleep.word().load(Relaxed))) {
            Ok(word) => word,
            Err(stopped) => {
                // The lock is released before the thread unwinds, which would poison it.
                drop(sleepers);
                resume_unwind(stopped);
            }
        };
        if word != sleep.expected() {
            return;
        }
        if self.is_watched.load(StdRelaxed) {
            drop(sleepers);
            thread::yield_now();
            return;
        }
        let woken = Arc::new(AtomicBool::new(false));
        let who = Who::Thread(Arc::clone(&woken));
        sleepers.push(Sleeper { word: address(sleep.word()), who });
        while !woken.load(StdRelaxed) {
            sleepers = self.woken.wait(sleepers).unwrap();
        }
    }

    fn wake(&self, word: &AtomicU32, count: u32) -> u32 {
        let mut sleepers = self.locked();
        let mut woken = 0;
        let mut lanes = Vec::new();
        while woken < count
            && let Some(next) = sleepers.iter().position(|it| it.word == address(word))
        {
            match sleepers.remove(next).who {
                Who::Thread(flag) => flag.store(true, StdRelaxed),
                Who::Lane(lane) => lanes.push(lane),
            }
            woken += 1;
        }
        self.woken.notify_all();
        drop(sleepers);
        // A completion is handled some time later, by the thread that drains the ring. Here the thread
        // that wakes handles it.
        for lane in lanes {
            lane.completed(true);
        }
        woken
    }
}

/// Sends as a thread that can stop for ever, and sleeps while the ring is full; `false` if it is closed.
pub fn send(ring: &HeapRing, kernel: &Futexes, port: &mut HeapPort<'_>, message: u8) -> bool {
    let attempt = || match port.try_send(&[message; 8]) {
        Err(TrySendError::Full(())) => None,
        answer => Some(answer),
    };
    let more = || ring.is_writable();
    let sent = wait_at(kernel, ring.writable(), FOR_EVER, attempt, more).unwrap();
    if let Some(wake) = ring.readable().notify(1) {
        wake.carry_out(kernel);
    }
    sent.is_ok()
}

/// Receives as a thread that can stop for ever, and sleeps while the ring is empty; `None` if it is closed.
pub fn recv(ring: &HeapRing, kernel: &Futexes, port: &mut HeapPort<'_>) -> Option<u8> {
    let attempt = || match port.try_recv() {
        Err(TryRecvError::Empty) => None,
        answer => Some(answer),
    };
    let more = || ring.is_readable();
    let received = wait_at(kernel, ring.readable(), FOR_EVER, attempt, more).unwrap();
    if let Some(wake) = ring.writable().notify(1) {
        wake.carry_out(kernel);
    }
    received.ok().map(|message| message[0])
}

/// Tasks of one process that wait for messages through one kernel wait, as `parkline-uring` has
/// them.
pub struct Lane {
    pub queue: WaitQueue,
    ring: Arc<HeapRing>,
    kernel: Arc<Futexes>,
    /// One wake is for all waiting tasks.
    is_for_all: bool,
    /// The word had changed already: the completion is to report that.
    refused: Mutex<bool>,
}

impl Lane {
    pub fn new(ring: &Arc<HeapRing>, kernel: &Arc<Futexes>) -> Arc<Self> {
        Self::with(ring, kernel, false)
    }

    /// As for an event: one wake is for all waiting tasks.
    pub fn for_all(ring: &Arc<HeapRing>, kernel: &Arc<Futexes>) -> Arc<Self> {
        Self::with(ring, kernel, true)
    }

    fn with(ring: &Arc<HeapRing>, kernel: &Arc<Futexes>, is_for_all: bool) -> Arc<Self> {
        let (ring, kernel) = (Arc::clone(ring), Arc::clone(kernel));
        let (queue, refused) = (WaitQueue::new(), Mutex::new(false));
        Arc::new(Self { queue, ring, kernel, is_for_all, refused })
    }

    fn gate(&self) -> &Gate {
        self.ring.readable()
    }

    /// One poll of a task that waits for `attempt` to answer.
    pub fn poll<T>(
        self: &Arc<Self>,
        place: &mut Option<Place>,
        waker: &Waker,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let mut answer = attempt();
        if answer.is_none() {
            let arm = |sleep: &Sleep<'_>| {
                self.arm(sleep);
                Ok::<(), ()>(())
            };
            let polled = self.queue.poll(place, waker, self.gate(), attempt, arm).unwrap();
            answer = match polled {
                std::task::Poll::Ready(answer) => Some(answer),
                std::task::Poll::Pending => None,
            };
        }
        if answer.is_some() {
            self.leave(place.take());
        }
        let refused = std::mem::take(&mut *self.refused.lock().unwrap());
        if refused {
            self.completed(false);
        }
        answer
    }

    /// The kernel wait ended.
    fn completed(self: &Arc<Self>, woken: bool) {
        self.settle(self.queue.completed(woken));
        if self.is_for_all {
            self.queue.wake_all().into_iter().for_each(Waker::wake);
        }
    }

    /// A task stops waiting, served or dropped.
    pub fn leave(self: &Arc<Self>, place: Option<Place>) {
        if let Some(place) = place {
            self.settle(self.queue.leave(place));
        }
    }

    /// Called under the lock of the queue. If the word has changed already, the completion comes later,
    /// as in the kernel.
    fn arm(self: &Arc<Self>, sleep: &Sleep<'_>) {
        let mut sleepers = self.kernel.sleepers.lock().unwrap();
        if sleep.word().load(Relaxed) == sleep.expected() {
            let who = Who::Lane(Arc::clone(self));
            sleepers.push(Sleeper { word: address(sleep.word()), who });
        } else {
            drop(sleepers);
            *self.refused.lock().unwrap() = true;
        }
    }

    fn settle(self: &Arc<Self>, left: Left) {
        match left {
            Left::Done => {}
            Left::Wake(waker) => waker.wake(),
            Left::PassOn => {
                if self.ring.is_readable()
                    && let Some(wake) = self.gate().notify(1)
                {
                    wake.carry_out(&*self.kernel);
                }
            }
            Left::Disarm => {
                let mut sleepers = self.kernel.sleepers.lock().unwrap();
                let before = sleepers.len();
                sleepers
                    .retain(|it| !matches!(&it.who, Who::Lane(lane) if Arc::ptr_eq(lane, self)));
                let cancelled = sleepers.len() < before;
                drop(sleepers);
                // Otherwise a wake was first, and reports the completion.
                if cancelled {
                    self.completed(false);
                }
            }
        }
    }
}

/// A task's thread: sleeps until its waker is called.
pub struct Task {
    notified: Mutex<bool>,
    called: Condvar,
}

impl Task {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { notified: Mutex::new(false), called: Condvar::new() })
    }

    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Polls after each wake, until there is an answer.
    pub fn run<T>(self: &Arc<Self>, mut poll: impl FnMut(&Waker) -> Option<T>) -> T {
        loop {
            if let Some(answer) = poll(&self.waker()) {
                return answer;
            }
            let mut notified = self.notified.lock().unwrap();
            while !*notified {
                notified = self.called.wait(notified).unwrap();
            }
            *notified = false;
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        *self.notified.lock().unwrap() = true;
        self.called.notify_one();
    }
}

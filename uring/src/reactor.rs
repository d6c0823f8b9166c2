//! A reactor carries out the kernel waits of the tasks of one runtime, of one thread, or of the whole
//! process, by its [`Engine`]. It acts on its [`Waiters`], which do nothing themselves.
//!
//! No waker is called or dropped while a lock is held: completions are collected first.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use parkline_core::driver::{ForkGuard, Left, Place, Side, SideKey, Sleep};

use crate::engine::Engine;
use crate::engine::futex::FutexWait;
use crate::engine::helper::Helper;
use crate::engine::of_runtime::RuntimeRing;
use crate::engine::of_thread::ThreadRing;
use crate::engine::unpark::Unpark;
use crate::engine::uring::{Completion, Operation};
use crate::lock::lock;
use crate::peers::{Peers, have_arrived};
use crate::pidfds;
use crate::timers::{Timer, Timers};
use crate::waiters::Waiters;

/// When to search once more for what a process held that has ended.
const SECOND_SEARCH: Duration = Duration::from_millis(1);

/// Carries out kernel waits and keeps time for the tasks that wait through it.
#[derive(Debug)]
pub(crate) struct Reactor {
    engine: Engine,
    waiters: Mutex<HashMap<SideKey, Weak<Waiters>>>,
    peers: Peers,
    timers: Mutex<Timers>,
    /// No thread drives it any more: its tasks wait elsewhere.
    dead: AtomicBool,
    guard: ForkGuard,
}

impl Reactor {
    /// For tasks on several threads. The runtime calls [`drain`](Self::drain) when the ring's descriptor
    /// is readable.
    pub(crate) fn of_runtime() -> io::Result<Arc<Self>> {
        Self::new(Engine::OfRuntime(RuntimeRing::new()?))
    }

    /// For the calling thread, which drives it by [`park`](Self::park).
    pub(crate) fn of_thread() -> io::Result<Arc<Self>> {
        Self::new(Engine::OfThread(ThreadRing::new()?))
    }

    /// For all tasks of the process, driven for ever by a thread that this starts.
    pub(crate) fn helper() -> io::Result<Arc<Self>> {
        let reactor = Self::new(Engine::Helper(Helper::default()))?;
        let its = Arc::clone(&reactor);
        let serve = move || {
            while let Some(helper) = its.as_helper() {
                // A waker that panics ends its own task, and not the waits of all others.
                if catch_unwind(AssertUnwindSafe(|| its.serve(helper))).is_err() {
                    tracing::error!("a waker panicked in parkline's helper thread");
                }
            }
        };
        thread::Builder::new().name("parkline".into()).spawn(serve)?;
        Ok(reactor)
    }

    fn new(engine: Engine) -> io::Result<Arc<Self>> {
        let (waiters, peers, timers) = (Mutex::default(), Peers::default(), Mutex::default());
        let (dead, guard) = (AtomicBool::new(false), ForkGuard::new()?);
        Ok(Arc::new(Self { engine, waiters, peers, timers, dead, guard }))
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Acquire) || self.guard.is_forked()
    }

    /// Whether a forked child inherited this: there it must be forgotten, not dropped or used.
    pub(crate) fn is_forked(&self) -> bool {
        self.guard.is_forked()
    }

    /// The waiters at one side of one handle. Tasks that share a handle share them.
    pub(crate) fn waiters_at(&self, side: Side) -> Arc<Waiters> {
        let arrivals = self.peers.arrivals_of(&side);
        let mut all = lock(&self.waiters);
        let key = side.key();
        if let Some(waiters) = all.get(&key).and_then(Weak::upgrade) {
            return waiters;
        }
        if all.len() == all.capacity() {
            all.retain(|_, waiters| waiters.strong_count() > 0);
        }
        let waiters = Arc::new(Waiters::new(side, arrivals));
        all.insert(key, Arc::downgrade(&waiters));
        waiters
    }

    fn all_waiters(&self) -> Vec<Arc<Waiters>> {
        lock(&self.waiters).values().filter_map(Weak::upgrade).collect()
    }

    /// One poll of a task whose attempt had no answer. It waits among `waiters`, and attempts once more
    /// before that. `None` if it has to choose its waiters again: this is a forked child, which has no
    /// gate, or the reactor is dead.
    pub(crate) fn poll<T>(
        &self,
        waiters: &Arc<Waiters>,
        place: &mut Option<Place>,
        waker: &Waker,
        attempt: impl FnMut() -> Option<T>,
    ) -> Option<Poll<T>> {
        let gate = waiters.side.gate()?;
        let arm = |sleep: &Sleep<'_>| self.arm(waiters, sleep);
        match waiters.queue.poll(place, waker, gate, attempt, arm) {
            Ok(Poll::Pending) => {}
            Ok(answered) => return Some(answered),
            Err(error) => self.break_down(&error),
        }
        if self.is_dead() {
            return None;
        }
        self.set_watchdog(waiters.side.watchdog());
        self.search_peers_if_new(waiters);
        Some(Poll::Pending)
    }

    /// A task waits no longer among `waiters`.
    pub(crate) fn leave(&self, waiters: &Arc<Waiters>, place: Place) {
        self.settle(waiters, waiters.queue.leave(place));
    }

    /// Arms the kernel wait of `waiters`. Called with the lock of their queue held.
    fn arm(&self, waiters: &Arc<Waiters>, sleep: &Sleep<'_>) -> io::Result<()> {
        if self.is_dead() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        waiters.side.count_park();
        self.engine.arm(FutexWait::new(waiters, sleep.expected()))
    }

    /// Does what the queue of the waiters asked for. No lock is held here.
    fn settle(&self, waiters: &Arc<Waiters>, left: Left) {
        match left {
            Left::Done => {}
            Left::Wake(waker) => waker.wake(),
            Left::PassOn => waiters.side.pass_on(),
            Left::Disarm if self.is_forked() => {}
            Left::Disarm => match self.engine.disarm(waiters) {
                Ok(completions) => self.dispatch(completions),
                Err(error) => self.break_down(&error),
            },
        }
    }

    /// The kernel wait of `waiters` has ended.
    fn completed(&self, waiters: &Arc<Waiters>, woken: bool) {
        self.settle(waiters, waiters.queue.completed(woken));
        if waiters.side.is_for_all() {
            waiters.queue.wake_all().into_iter().for_each(Waker::wake);
        }
    }

    /// The watchdog's round: searches for the dead. If there is something to do although tasks wait, the
    /// next of them attempts again.
    fn check(waiters: &Waiters) {
        waiters.side.maintain();
        if !waiters.side.is_ready() {
            return;
        }
        if waiters.side.is_for_all() {
            waiters.queue.wake_all().into_iter().for_each(Waker::wake);
        } else if let Some(waker) = waiters.queue.tick() {
            waker.wake();
        }
    }

    /// Has the ring poll for the ends of the processes that share the queue of `waiters`, if handles have
    /// arrived since it last did.
    fn search_peers_if_new(&self, waiters: &Waiters) {
        if have_arrived(waiters) {
            self.search_peers(&waiters.side);
        }
    }

    fn search_peers(&self, side: &Side) {
        if let Engine::Helper(_) = self.engine {
            return;
        }
        if let Some(period) = self.peers.search(side, &self.engine) {
            self.set_watchdog(period);
        }
    }

    /// Searches for the peers of all queues at which tasks wait here. Tasks that wait later search for
    /// those of their queue.
    fn search_all_peers(&self) {
        self.peers.forget_arrivals();
        one_of_each_queue(&self.all_waiters())
            .for_each(|waiters| self.search_peers_if_new(waiters));
    }

    /// Has `waker` called at `at`.
    pub(crate) fn add_timer(&self, at: Instant, waker: Waker) -> Timer {
        let timer = lock(&self.timers).add(at, waker);
        self.keep_time();
        timer
    }

    /// Removes the timer that was added for `at`.
    pub(crate) fn remove_timer(&self, at: Instant, timer: Timer) {
        let waker = lock(&self.timers).remove(at, timer);
        drop(waker);
    }

    /// Has the watchdog come in `period`, unless it comes earlier anyway.
    fn set_watchdog(&self, period: Duration) {
        let at = Instant::now() + period;
        let mut timers = lock(&self.timers);
        if timers.watchdog.is_none_or(|set| at < set) {
            timers.watchdog = Some(at);
            drop(timers);
            self.keep_time();
        }
    }

    /// When something is due next.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        lock(&self.timers).next()
    }

    /// Wakes the tasks that are due at `now`, and makes the watchdog's round if that is due.
    pub(crate) fn fire_timers(&self, now: Instant) {
        let (due, is_round) = {
            let mut timers = lock(&self.timers);
            let is_round = timers.watchdog.take_if(|at| *at <= now).is_some();
            (timers.take_due(now), is_round)
        };
        due.into_iter().for_each(Waker::wake);
        if !is_round {
            return;
        }
        let mut waiting = self.all_waiters();
        waiting.retain(|waiters| !waiters.queue.is_empty());
        waiting.iter().for_each(|waiters| Self::check(waiters));
        for waiters in one_of_each_queue(&waiting) {
            // Also without arrivals, because a process that ended may have left a descriptor free.
            have_arrived(waiters);
            self.search_peers(&waiters.side);
        }
        if let Some(period) = waiting.iter().map(|waiters| waiters.side.watchdog()).min() {
            self.set_watchdog(period);
        }
    }

    /// Has the engine wake when the next timer is due.
    fn keep_time(&self) {
        if let Some(next) = self.next_timer()
            && !self.is_dead()
            && let Err(error) = self.engine.keep_time(next)
        {
            self.break_down(&error);
        }
    }

    /// Handles what has completed in a runtime's ring; whether there was anything.
    pub(crate) fn drain(&self) -> bool {
        let Engine::OfRuntime(ring) = &self.engine else { return false };
        let completions = ring.reap();
        let any = !completions.is_empty();
        self.dispatch(completions);
        any
    }

    pub(crate) fn ring_fd(&self) -> Option<RawFd> {
        if let Engine::OfRuntime(ring) = &self.engine { Some(ring.fd()) } else { None }
    }

    /// How to unpark the thread of a thread's ring.
    pub(crate) fn unpark(&self) -> Option<&Arc<Unpark>> {
        if let Engine::OfThread(ring) = &self.engine { Some(&ring.unpark) } else { None }
    }

    fn as_helper(&self) -> Option<&Helper> {
        if let Engine::Helper(helper) = &self.engine { Some(helper) } else { None }
    }

    /// One round of the helper thread.
    fn serve(&self, helper: &Helper) {
        let control = helper.control();
        self.fire_timers(Instant::now());
        for wait in helper.take_ended() {
            self.completed(&wait.waiters, wait.is_over());
        }
        if let Some(woken) = helper.sleep(control, self.next_timer()) {
            self.completed(&woken, true);
        }
    }

    /// Sleeps in a thread's ring until the thread is notified.
    ///
    /// # Errors
    /// When the kernel refuses: the reactor is dead then, and its tasks wait elsewhere.
    pub(crate) fn park(&self) -> io::Result<()> {
        let Engine::OfThread(ring) = &self.engine else { return Ok(()) };
        loop {
            let next = self.next_timer();
            let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
            let completions = ring.sleep(timeout).inspect_err(|error| self.break_down(error))?;
            let notified = ring.unpark.take_notice();
            self.dispatch(completions);
            if next.is_some() {
                self.fire_timers(Instant::now());
            }
            // What was dispatched may have notified the thread, too.
            if ring.unpark.take_notice() || notified {
                return Ok(());
            }
        }
    }

    /// Handles what has completed in a thread's ring, and what is due, without sleeping.
    pub(crate) fn turn(&self, now: Instant) {
        let Engine::OfThread(ring) = &self.engine else { return };
        match ring.turn() {
            Ok(completions) => self.dispatch(completions),
            Err(error) => self.break_down(&error),
        }
        self.fire_timers(now);
    }

    /// Ends the reactor: cancels what is under way, passes its wakes on, and has its tasks wait
    /// elsewhere.
    pub(crate) fn shut_down(&self) {
        if self.is_forked() {
            return;
        }
        self.dead.store(true, Release);
        self.dispatch(self.engine.shut_down());
        let waiters = self.all_waiters();
        let tasks = waiters.iter().flat_map(|waiters| waiters.queue.wake_all());
        tasks.for_each(Waker::wake);
        let tasks = lock(&self.timers).take_all();
        tasks.into_iter().for_each(Waker::wake);
    }

    /// Whether no task waits here: a thread's reactor can serve again then.
    pub(crate) fn is_idle(&self) -> bool {
        self.all_waiters().iter().all(|waiters| waiters.queue.is_idle())
            && !lock(&self.timers).has_tasks()
    }

    fn dispatch(&self, completions: Vec<Completion>) {
        let (mut failed, mut search) = (None, false);
        for Completion { operation, answer } in completions {
            match operation {
                Operation::Wait(waiters) => {
                    self.completed(&waiters, matches!(answer, Ok(true)));
                    failed = failed.or(answer.err());
                }
                // The thread that slept reads the notice itself.
                Operation::Unpark(_) => {}
                // Cancelled, because the ring ends.
                Operation::Poll(_) if self.is_dead() => {}
                Operation::Poll(peer) => search |= self.peers.completed(&peer, &answer),
                Operation::Timer(_) => {
                    self.fire_timers(Instant::now());
                    self.keep_time();
                }
            }
        }
        if search {
            self.search_all_peers();
            // Another reactor of this process may have searched at once. The kernel may still hold the
            // locks of the dead.
            self.set_watchdog(SECOND_SEARCH);
        }
        if let Some(error) = failed {
            self.break_down(&error);
        }
    }

    /// Gives up on a ring that failed, and has its tasks wait elsewhere.
    #[cold]
    pub(crate) fn break_down(&self, error: &io::Error) {
        if !self.is_dead() {
            tracing::warn!(%error, "io_uring failed: parkline's tasks wait on a helper thread now");
            self.shut_down();
        }
    }
}

/// One of the waiters of each queue.
fn one_of_each_queue(waiters: &[Arc<Waiters>]) -> impl Iterator<Item = &Arc<Waiters>> {
    let mut seen = HashSet::new();
    waiters.iter().filter(move |it| pidfds::number_of(&it.side).is_some_and(|it| seen.insert(it)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::pin::Pin;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::Ordering::Relaxed;
    use std::task::Context;

    use parkline_core::driver::Place;
    use parkline_core::{Queue, Receiver, RecvError};
    use rustix::thread::futex::{self, Flags, WakeOp, WakeOpCmp};

    use super::*;
    use crate::AsyncReceiver;
    use crate::backend::{Backend, backend};
    use crate::current::enter;
    use crate::required::not_tried;

    const HOUR: Duration = Duration::from_secs(3600);
    const PATIENCE: Duration = Duration::from_secs(20);

    type Recv<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, RecvError>> + Send + 'a>>;

    fn queue() -> Queue {
        Queue::builder().watchdog(HOUR).create().unwrap()
    }

    /// One reactor for a runtime and one for this thread; none where io_uring is refused.
    fn with_rings() -> Vec<Arc<Reactor>> {
        match backend() {
            Backend::IoUring => vec![Reactor::of_runtime().unwrap(), Reactor::of_thread().unwrap()],
            Backend::Futex(why) => {
                not_tried("io_uring", why);
                Vec::new()
            }
        }
    }

    fn of_a_runtime() -> Option<Arc<Reactor>> {
        Reactor::of_runtime().inspect_err(|error| not_tried("io_uring", error)).ok()
    }

    /// Has `waits` wait in `reactor`; the result is notified when the task is woken.
    fn begin(reactor: &Arc<Reactor>, waits: &mut Recv<'_>) -> Arc<Unpark> {
        let told = poll(reactor, waits);
        // A thread's ring submits when the thread goes to sleep, or here.
        reactor.turn(Instant::now());
        told
    }

    /// The same on a thread that may not be the owner of the ring.
    fn poll<F: Future + ?Sized>(reactor: &Arc<Reactor>, waits: &mut Pin<Box<F>>) -> Arc<Unpark> {
        let told = Arc::new(Unpark::default());
        let waker = Waker::from(Arc::clone(&told));
        let _entered = enter(Some(Arc::clone(reactor)), None, None);
        assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        told
    }

    /// How many kernel waits there are for a message of this handle. They end.
    fn kernel_waits(side: &Side) -> usize {
        let word = side.gate().unwrap().word();
        futex::wake(word, Flags::empty(), i32::MAX.cast_unsigned()).unwrap()
    }

    fn until(mut is_so: impl FnMut() -> bool) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if is_so() {
                return true;
            }
            thread::yield_now();
        }
        false
    }

    /// Fails if the waiters of a handle at which tasks wait are forgotten, or those of its queue are told
    /// of other arrivals than these; if those that are gone are kept (each seen failing).
    #[test]
    fn waiters_are_found_as_long_as_tasks_wait_and_no_longer() {
        let Some(reactor) = of_a_runtime() else { return };
        let queue = || Queue::builder().capacity(1).handles(1).create().unwrap();
        let (kept, others): (_, Vec<_>) = (queue(), (0..100).map(|_| queue()).collect());
        let side = kept.receiver().unwrap().side();
        let waiters = reactor.waiters_at(side.clone());
        for other in &others {
            drop(reactor.waiters_at(other.receiver().unwrap().side()));
        }
        assert!(Arc::ptr_eq(&waiters, &reactor.waiters_at(side.clone())));
        assert!(Arc::ptr_eq(&waiters.arrivals, &reactor.peers.arrivals_of(&side)));
        assert!(lock(&reactor.waiters).len() < others.len());
        assert!(reactor.peers.queues() < others.len());
        reactor.shut_down();
    }

    /// Fails if the deadline of a task that is dropped stays (seen failing): one of an hour keeps the
    /// task's waker for an hour.
    #[test]
    fn a_dropped_task_leaves_no_deadline() {
        for reactor in with_rings() {
            let queue = queue();
            let mut receiver: Receiver = queue.receiver().unwrap();
            let mut waits = Box::pin(receiver.recv_timeout(HOUR));
            poll(&reactor, &mut waits);
            assert!(lock(&reactor.timers).has_tasks(), "which this test would see");
            drop(waits);
            assert!(!lock(&reactor.timers).has_tasks());
            reactor.shut_down();
        }
    }

    /// Fails if a wait stays in the kernel when its task is dropped, in a runtime's ring or in a
    /// thread's (each seen failing): a wake that it takes comes late, or not at all.
    #[test]
    fn a_dropped_task_leaves_no_kernel_wait() {
        for reactor in with_rings() {
            let queue = queue();
            let mut receiver: Receiver = queue.receiver().unwrap();
            let side = receiver.side();
            let mut waits: Recv<'_> = Box::pin(receiver.recv());
            begin(&reactor, &mut waits);
            drop(waits);
            assert_eq!(kernel_waits(&side), 0);
            let mut waits: Recv<'_> = Box::pin(receiver.recv());
            begin(&reactor, &mut waits);
            assert_eq!(kernel_waits(&side), 1, "which this test would see");
            drop(waits);
            reactor.shut_down();
        }
    }

    /// Fails if another thread asks for the end of a wait and its owner does not end it (seen failing).
    #[test]
    fn a_task_that_another_thread_drops_leaves_no_kernel_wait_after_the_next_turn_of_the_owner() {
        let Some(reactor) = with_rings().pop() else { return };
        let queue = queue();
        let mut receiver: Receiver = queue.receiver().unwrap();
        let side = receiver.side();
        let mut waits: Recv<'_> = Box::pin(receiver.recv());
        begin(&reactor, &mut waits);
        thread::scope(|scope| scope.spawn(|| drop(waits)).join().unwrap());
        assert!(reactor.unpark().unwrap().is_notified());
        reactor.turn(Instant::now());
        assert_eq!(kernel_waits(&side), 0);
        reactor.shut_down();
    }

    /// A task waits among `waiters`, whatever is there.
    fn wait_among(
        waiters: Arc<Waiters>,
        waker: &Waker,
        arm: impl FnOnce(&Arc<Waiters>, &Sleep<'_>) -> io::Result<()>,
    ) -> (Arc<Waiters>, Place) {
        let (mut place, gate) = (None, waiters.side.gate().unwrap());
        let arm = |sleep: &Sleep<'_>| arm(&waiters, sleep);
        let polled = waiters.queue.poll(&mut place, waker, gate, || None::<()>, arm);
        assert!(polled.unwrap().is_pending());
        (waiters, place.unwrap())
    }

    /// Returns when the helper's thread is about to sleep at the gates of all others that wait.
    fn until_the_helper_sleeps(reactor: &Arc<Reactor>) -> impl Sized {
        let (news, told) = (queue(), Arc::new(Unpark::default()));
        let side = news.receiver().unwrap().side();
        let waker = Waker::from(Arc::clone(&told));
        // At a gate that has moved on since.
        let waiting = wait_among(reactor.waiters_at(side), &waker, |waiters, sleep| {
            reactor.engine.arm(FutexWait::new(waiters, sleep.expected().wrapping_sub(2)))
        });
        assert!(until(|| told.is_notified()));
        waiting
    }

    /// Two tasks are dropped when one call wakes their waits, and the helper learns of the wake alone.
    /// The kernel names one of the two.
    ///
    /// Fails if a wake is not passed on to the next handle: that of the wait which the kernel names, or
    /// that of the other one (each seen failing).
    #[test]
    fn the_helper_passes_on_the_wakes_of_dropped_tasks() {
        let Some(ring) = with_rings().into_iter().next() else { return };
        let reactor = Reactor::helper().unwrap();
        for _ in 0..50 {
            let queues = [queue(), queue()];
            queues.iter().for_each(|it| it.sender().unwrap().try_send(b"message").unwrap());
            // Arriving later, a handle would wake all that wait.
            let sides = queues.each_ref().map(|it| it.receiver().unwrap().side());
            let wait = |reactor: &Arc<Reactor>, n: usize, waker: &Waker| {
                let waiters = reactor.waiters_at(sides[n].clone());
                wait_among(waiters, waker, |waiters, sleep| reactor.arm(waiters, sleep))
            };
            let dropped = [0, 1].map(|n| wait(&reactor, n, Waker::noop()));
            let _news = until_the_helper_sleeps(&reactor);
            let told = [(); 2].map(|()| Arc::new(Unpark::default()));
            let others = [0, 1].map(|n| wait(&ring, n, &Waker::from(Arc::clone(&told[n]))));
            for (waiters, place) in dropped {
                assert!(matches!(waiters.queue.leave(place), Left::Disarm));
            }
            wake_both(&sides);
            let are_told = || {
                ring.drain();
                told.iter().all(|told| told.is_notified())
            };
            assert!(until(are_told));
            for (waiters, place) in others {
                ring.leave(&waiters, place);
            }
        }
        ring.shut_down();
    }

    /// Wakes the first waiter at the gate of each by one call, as two sends would.
    fn wake_both(sides: &[Side; 2]) {
        let [first, second] = sides.each_ref().map(|side| side.gate().unwrap().word());
        first.fetch_add(2, Relaxed);
        let (add, always) = (WakeOp::Add, WakeOpCmp::Ge);
        futex::wake_op(first, Flags::empty(), 1, 1, second, add, always, 2, 0).unwrap();
    }

    /// Fails if the helper does not learn that a task was dropped (seen failing): it keeps the queue mapped
    /// until something else wakes it.
    #[test]
    fn the_helper_lets_go_of_waiters_without_a_task() {
        let (reactor, queue) = (Reactor::helper().unwrap(), queue());
        let waker = Waker::noop();
        let waiters = reactor.waiters_at(queue.receiver().unwrap().side());
        let arm = |waiters: &Arc<Waiters>, sleep: &Sleep<'_>| reactor.arm(waiters, sleep);
        let (waiters, place) = wait_among(waiters, waker, arm);
        let _news = until_the_helper_sleeps(&reactor);
        reactor.leave(&waiters, place);
        let weak = Arc::downgrade(&waiters);
        drop(waiters);
        assert!(until(|| weak.strong_count() == 0));
    }

    /// Fails if a reactor that breaks down goes on, or wakes no task (each seen failing).
    #[test]
    fn a_reactor_that_breaks_down_sends_its_tasks_elsewhere() {
        for reactor in with_rings() {
            let queue = queue();
            let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
            let mut waits: Recv<'_> = Box::pin(receiver.recv());
            let told = begin(&reactor, &mut waits);
            reactor.break_down(&io::Error::other("as the test wants it"));
            assert!(reactor.is_dead() && told.take_notice());
            // By the helper: a dead reactor serves no task.
            let told = begin(&reactor, &mut waits);
            sender.try_send(b"message").unwrap();
            assert!(until(|| told.is_notified()));
        }
    }

    /// Such a wait has no completion.
    ///
    /// Fails if a reactor that ends wakes only tasks of completed waits (seen failing).
    #[test]
    fn a_task_whose_wait_is_not_armed_yet_is_woken_when_the_reactor_ends() {
        let Some(reactor) = with_rings().pop() else { return };
        let queue = queue();
        let mut receiver: Receiver = queue.receiver().unwrap();
        let mut waits: Recv<'_> = Box::pin(receiver.recv());
        let on_another = || poll(&reactor, &mut waits);
        let told = thread::scope(|scope| scope.spawn(on_another).join().unwrap());
        reactor.shut_down();
        assert!(told.is_notified());
    }

    /// Fails if the watchdog is not set again after a round (seen failing: a wake that is lost after that
    /// is never healed), or is set although no task waits.
    #[test]
    fn the_watchdog_comes_again_and_again_while_a_task_waits() {
        for reactor in with_rings() {
            let queue = queue();
            let mut receiver: Receiver = queue.receiver().unwrap();
            let mut waits: Recv<'_> = Box::pin(receiver.recv());
            begin(&reactor, &mut waits);
            for _ in 0..3 {
                let next = reactor.next_timer().expect("a round to come");
                assert!(next > Instant::now() + HOUR / 2);
                reactor.fire_timers(next);
            }
            drop(waits);
            reactor.fire_timers(reactor.next_timer().unwrap());
            assert_eq!(reactor.next_timer(), None);
            reactor.shut_down();
        }
    }

    /// Fails if nothing is set, if a later time replaces an earlier one, if an earlier one does not replace
    /// a later one, or if the engine does not wake then (each seen failing).
    #[test]
    fn the_watchdog_comes_at_the_earliest_time_that_was_set() {
        let Some(reactor) = with_rings().into_iter().next() else { return };
        let soon = Duration::from_millis(1);
        reactor.set_watchdog(HOUR);
        assert!(reactor.next_timer().unwrap() > Instant::now() + HOUR / 2);
        reactor.set_watchdog(soon);
        let next = reactor.next_timer().unwrap();
        assert!(next <= Instant::now() + soon);
        reactor.set_watchdog(HOUR);
        assert_eq!(reactor.next_timer(), Some(next));
        assert!(until(|| reactor.drain()), "the ring keeps time");
        assert_eq!(reactor.next_timer(), None);
        reactor.shut_down();
    }

    /// The one handle of `queue`, and what has it name another process.
    fn named(queue: &Queue) -> (Receiver, impl Fn(u32)) {
        let segment = File::from(queue.try_clone_fd().unwrap());
        let own = std::process::id().to_ne_bytes();
        let mut word = [0; 4];
        let mut words_of_our_number = || {
            let mut is_it =
                |at: &u64| segment.read_exact_at(&mut word, 4 * at).is_ok() && word == own;
            (0..4096).filter(|at| is_it(at)).collect::<Vec<u64>>()
        };
        // Another word may be the same number.
        let before = words_of_our_number();
        let handle = queue.receiver().unwrap();
        let at = words_of_our_number().into_iter().find(|at| !before.contains(at)).unwrap();
        let name = move |pid: u32| segment.write_all_at(&pid.to_ne_bytes(), 4 * at).unwrap();
        (handle, name)
    }

    /// A process that shares nothing with this one, and ends with this.
    struct Stranger(Child);

    impl Stranger {
        fn start() -> Self {
            let mut sleep = Command::new("sleep");
            Self(sleep.arg("1000").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        }

        fn id(&self) -> u32 {
            self.0.id()
        }
    }

    impl Drop for Stranger {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Fails if a poll stays when no queue names its process any more (seen failing): each queue that a
    /// runtime outlives would leave some.
    #[test]
    fn queues_that_are_gone_leave_no_polls_behind() {
        let Some(reactor) = of_a_runtime() else { return };
        let stranger = Stranger::start();
        for _ in 0..20 {
            let queue = Queue::builder().handles(1).create().unwrap();
            let (handle, name) = named(&queue);
            name(stranger.id());
            let waiters = reactor.waiters_at(handle.side());
            reactor.search_peers_if_new(&waiters);
            while reactor.drain() {}
            assert_eq!(reactor.peers.polled(), 1);
            let ring = format!("{:?}", reactor.engine);
            assert!(ring.contains("operations: 1"), "{ring}");
        }
        reactor.shut_down();
    }

    fn is_soon(timer: Option<Instant>) -> bool {
        timer.is_some_and(|at| at <= Instant::now() + SECOND_SEARCH)
    }

    /// The kernel may still hold the locks of a process when its pidfd is readable. The first reactor that
    /// reaps the poll searches, and finds it; what the second finds is known.
    ///
    /// Fails if either does not search once more (each seen failing).
    #[test]
    fn each_reactor_that_learns_of_an_end_searches_twice() {
        let (Some(first), Some(second)) = (of_a_runtime(), of_a_runtime()) else { return };
        let queue = Queue::builder().handles(1).watchdog(HOUR).create().unwrap();
        let (handle, name) = named(&queue);
        let stranger = Stranger::start();
        name(stranger.id());
        let waiters = [&first, &second].map(|reactor| {
            let waiters = reactor.waiters_at(handle.side());
            reactor.search_peers(&waiters.side);
            waiters
        });
        drop(stranger);
        for reactor in [&first, &second] {
            assert_eq!(reactor.next_timer(), None);
            assert!(until(|| reactor.drain()));
            assert!(is_soon(reactor.next_timer()));
            assert_eq!(reactor.peers.polled(), 0);
        }
        drop(waiters);
        first.shut_down();
        second.shut_down();
    }

    /// Fails if no second search follows one that finds a process that has ended (seen failing).
    #[test]
    fn a_search_that_finds_the_dead_is_followed_by_another() {
        let Some(reactor) = of_a_runtime() else { return };
        let queue = Queue::builder().handles(1).watchdog(HOUR).create().unwrap();
        let (handle, name) = named(&queue);
        // No process has this number.
        name(i32::MAX.cast_unsigned());
        reactor.search_peers(&handle.side());
        assert!(is_soon(reactor.next_timer()));
        reactor.shut_down();
    }

    /// The peer is another one at each search.
    ///
    /// Fails if a search that had to wait is not made up for (seen failing): the process would be found by
    /// the watchdog alone.
    #[test]
    fn a_search_for_peers_that_had_no_time_is_made_up_for() {
        let Some(reactor) = of_a_runtime() else { return };
        let queue = Queue::builder().handles(1).watchdog(HOUR).create().unwrap();
        let (handle, name) = named(&queue);
        let strangers = [Stranger::start(), Stranger::start()];
        let in_turn = strangers.iter().cycle().take(1000);
        let waits = in_turn.into_iter().find_map(|stranger| {
            name(stranger.id());
            reactor.search_peers(&handle.side());
            reactor.next_timer()
        });
        assert!(waits.is_some_and(|at| at <= Instant::now() + Duration::from_secs(1)));
        reactor.shut_down();
    }
}

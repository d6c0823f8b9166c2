//! A reactor: who carries out the kernel waits of the tasks of one runtime, of one thread, or of
//! the whole process.
//!
//! | engine | whose tasks | who waits in the kernel |
//! |---|---|---|
//! | shared ring | a tokio runtime's | the runtime: the ring's descriptor is in its poller, one task drains it |
//! | owned ring | a thread's in [`block_on`](crate::block_on) | the thread, in one `io_uring_enter` |
//! | helper | all others', and everybody's without io_uring | one thread of the process, in `futex_waitv` |
//!
//! No waker is called or dropped while a lock is held: what landed is collected first.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{
    AtomicBool, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use parkline_core::driver::{ForkGuard, Side, SideKey, Sleep};

use crate::helper::Helper;
use crate::lane::Lane;
use crate::owned::OwnedRing;
use crate::peer::{self, Peer};
use crate::ring::{Flight, Landed};
use crate::shared::SharedRing;
use crate::timers::{Timer, Timers};
use crate::unpark::Unpark;

/// After the end of a process: when to look once more for what it left.
const SECOND_LOOK: Duration = Duration::from_millis(1);

/// Carries out kernel waits and keeps time for the tasks that wait through it.
#[derive(Debug)]
pub(crate) struct Reactor {
    engine: Engine,
    lanes: Mutex<HashMap<SideKey, Weak<Lane>>>,
    /// By queue, how many handles had arrived when this reactor last looked for its peers.
    looked: Mutex<HashMap<u64, Arc<AtomicU32>>>,
    timers: Mutex<Timers>,
    /// The processes whose end the ring tells.
    watched: Mutex<HashMap<u32, Watched>>,
    /// Nobody drives it any more: those who wait here look for another.
    dead: AtomicBool,
    guard: ForkGuard,
}

/// A process whose end the ring tells.
#[derive(Debug)]
struct Watched {
    peer: Weak<Peer>,
    flight: u64,
}

#[derive(Debug)]
enum Engine {
    Shared(SharedRing),
    Owned(OwnedRing),
    Helper(Helper),
}

impl Reactor {
    /// For tasks on several threads. Whoever makes it calls [`drain`](Self::drain) when
    /// the ring's descriptor is readable.
    pub(crate) fn shared() -> io::Result<Arc<Self>> {
        Self::new(Engine::Shared(SharedRing::new()?))
    }

    /// For the calling thread, which drives it by [`park`](Self::park).
    pub(crate) fn owned() -> io::Result<Arc<Self>> {
        Self::new(Engine::Owned(OwnedRing::new()?))
    }

    /// For everybody, driven by a thread of its own.
    pub(crate) fn helper() -> io::Result<Arc<Self>> {
        let reactor = Self::new(Engine::Helper(Helper::default()))?;
        Helper::start(Arc::clone(&reactor))?;
        Ok(reactor)
    }

    fn new(engine: Engine) -> io::Result<Arc<Self>> {
        let (lanes, looked) = (Mutex::default(), Mutex::default());
        let (timers, watched) = (Mutex::default(), Mutex::default());
        let (dead, guard) = (AtomicBool::new(false), ForkGuard::new()?);
        Ok(Arc::new(Self { engine, lanes, looked, timers, watched, dead, guard }))
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Acquire) || self.guard.is_forked()
    }

    /// Whether a forked child inherited this: there it must be forgotten, not dropped or used.
    pub(crate) fn is_forked(&self) -> bool {
        self.guard.is_forked()
    }

    /// The lane of one handle's side. Tasks that share a handle share its lane.
    pub(crate) fn lane(self: &Arc<Self>, side: Side) -> Arc<Lane> {
        let arrivals = self.arrivals_of(&side);
        let mut lanes = lock(&self.lanes);
        let key = side.key();
        if let Some(lane) = lanes.get(&key).and_then(Weak::upgrade) {
            return lane;
        }
        if lanes.len() == lanes.capacity() {
            lanes.retain(|_, lane| lane.strong_count() > 0);
        }
        let lane = Arc::new(Lane::new(side, Arc::clone(self), arrivals));
        lanes.insert(key, Arc::downgrade(&lane));
        lane
    }

    /// How many handles of the queue had arrived when this reactor last looked for peers; shared by all
    /// lanes of the queue.
    fn arrivals_of(&self, side: &Side) -> Arc<AtomicU32> {
        let not_yet = || Arc::new(AtomicU32::new(side.arrivals().wrapping_sub(1)));
        let Some(queue) = peer::number_of(side) else { return not_yet() };
        let mut looked = lock(&self.looked);
        if let Some(arrivals) = looked.get(&queue) {
            return Arc::clone(arrivals);
        }
        if looked.len() == looked.capacity() {
            // To look once more where no task waits costs little.
            looked.retain(|_, arrivals| Arc::strong_count(arrivals) > 1);
        }
        Arc::clone(looked.entry(queue).or_insert_with(not_yet))
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        lock(&self.lanes).values().filter_map(Weak::upgrade).collect()
    }

    /// Arms the kernel wait of a lane. Called under the lock of its queue of waiters.
    pub(crate) fn arm(&self, lane: &Arc<Lane>, sleep: &Sleep<'_>) -> io::Result<()> {
        if self.is_dead() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        lane.side.count_park();
        match &self.engine {
            Engine::Shared(ring) => ring.arm(lane, sleep),
            Engine::Owned(ring) => ring.arm(lane, sleep),
            Engine::Helper(helper) => {
                helper.arm(lane, sleep.expected());
                Ok(())
            }
        }
    }

    /// Ends the kernel wait of a lane in which nobody waits any more.
    pub(crate) fn disarm(&self, lane: &Arc<Lane>) {
        if self.is_forked() {
            return;
        }
        match &self.engine {
            Engine::Shared(ring) => self.dispatch(ring.disarm(lane)),
            Engine::Owned(ring) => match ring.disarm(lane) {
                Ok(landed) => self.dispatch(landed),
                Err(error) => self.break_down(&error),
            },
            // The thread drops lanes in which nobody waits.
            Engine::Helper(helper) => helper.interrupt(),
        }
    }

    /// Has the ring tell when a process ends that shares the queue of `lane`, so that what died with
    /// it is recovered at once. Where that cannot be had there is the watchdog: another process may
    /// be out of sight in another pid namespace, or its handle has told a lie.
    pub(crate) fn watch_peers(&self, lane: &Lane) {
        if lane.has_new_peers() {
            self.look_at_peers(&lane.side);
        }
    }

    fn look_at_peers(&self, side: &Side) {
        if matches!(self.engine, Engine::Helper(_)) {
            return;
        }
        let Some(found) = peer::find(side) else { return };
        {
            let mut watched = lock(&self.watched);
            watched.retain(|_, it| it.peer.strong_count() > 0 || !self.unwatch(it.flight));
            for peer in &found.watched {
                let is_watched =
                    watched.get(&peer.pid).is_some_and(|it| is_same(&it.peer, Arc::as_ptr(peer)));
                // The watchdog asks again for one that is refused.
                if !is_watched && let Ok(flight) = self.watch(peer) {
                    let peer_of = Watched { peer: Arc::downgrade(peer), flight };
                    watched.insert(peer.pid, peer_of);
                }
            }
        }
        if found.some_ended {
            self.set_watchdog(side.mourn());
        }
        if let Some(again) = found.again {
            self.set_watchdog(again);
        }
    }

    fn watch(&self, peer: &Arc<Peer>) -> io::Result<u64> {
        match &self.engine {
            Engine::Shared(ring) => ring.watch(peer),
            Engine::Owned(ring) => ring.watch(peer),
            Engine::Helper(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether the flight is ended: another thread than its owner leaves it to the owner.
    fn unwatch(&self, flight: u64) -> bool {
        match &self.engine {
            Engine::Shared(ring) => {
                ring.unwatch(flight);
                true
            }
            Engine::Owned(ring) => ring.unwatch(flight),
            Engine::Helper(_) => true,
        }
    }

    /// The poll of a process ended; whether to look for peers because of that: the process has ended,
    /// or is not watched any more, because the thread that asked for it has ended.
    fn peer_landed(&self, peer: &Weak<Peer>, answer: &io::Result<bool>) -> bool {
        let mut watched = lock(&self.watched);
        let before = watched.len();
        watched.retain(|_, it| !Weak::ptr_eq(&it.peer, peer));
        let was_watched = watched.len() < before;
        drop(watched);
        match answer {
            Ok(true) => {
                if let Some(peer) = peer.upgrade() {
                    peer::let_go(&peer);
                }
                true
            }
            // Otherwise it was cancelled because no queue names it any more.
            Ok(false) => was_watched,
            Err(_) => false,
        }
    }

    /// Looks at the peers of all queues that are waited at here, and has the tasks that wait later do
    /// the same.
    fn look_at_all_peers(&self) {
        for arrivals in lock(&self.looked).values() {
            arrivals.fetch_sub(1, Relaxed);
        }
        one_of_each_queue(&self.lanes()).for_each(|lane| self.watch_peers(lane));
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

    /// Has the watchdog look in `period`, unless it looks earlier anyway.
    pub(crate) fn set_watchdog(&self, period: Duration) {
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

    /// Wakes whom a timer stands for, and looks for the watchdog.
    pub(crate) fn fire_timers(&self, now: Instant) {
        let (due, look) = {
            let mut timers = lock(&self.timers);
            let look = timers.watchdog.take_if(|at| *at <= now).is_some();
            (timers.take_due(now), look)
        };
        for waker in due {
            waker.wake();
        }
        if look {
            let mut waiting = self.lanes();
            waiting.retain(|lane| !lane.queue.is_empty());
            waiting.iter().for_each(|lane| lane.look());
            for lane in one_of_each_queue(&waiting) {
                // Also without arrivals: a handle may have gone, and there may be a place now.
                lane.has_new_peers();
                self.look_at_peers(&lane.side);
            }
            if let Some(period) = waiting.iter().map(|lane| lane.side.watchdog()).min() {
                self.set_watchdog(period);
            }
        }
    }

    /// Sees to it that the engine wakes when the next timer is due.
    fn keep_time(&self) {
        match &self.engine {
            Engine::Shared(ring) => {
                if let Some(next) = self.next_timer()
                    && !self.is_dead()
                    && let Err(error) = ring.keep_time(next)
                {
                    self.break_down(&error);
                }
            }
            Engine::Owned(ring) => ring.keep_time(),
            Engine::Helper(helper) => helper.interrupt(),
        }
    }

    /// Handles what has landed in a shared ring; whether there was anything.
    pub(crate) fn drain(&self) -> bool {
        let Engine::Shared(ring) = &self.engine else { return false };
        let landed = ring.landed();
        let any = !landed.is_empty();
        self.dispatch(landed);
        any
    }

    pub(crate) fn ring_fd(&self) -> Option<RawFd> {
        match &self.engine {
            Engine::Shared(ring) => Some(ring.fd()),
            Engine::Owned(_) | Engine::Helper(_) => None,
        }
    }

    /// How to unpark the thread of an owned ring.
    pub(crate) fn unpark(&self) -> Option<&Arc<Unpark>> {
        match &self.engine {
            Engine::Owned(ring) => Some(&ring.unpark),
            Engine::Shared(_) | Engine::Helper(_) => None,
        }
    }

    pub(crate) fn as_helper(&self) -> Option<&Helper> {
        match &self.engine {
            Engine::Helper(helper) => Some(helper),
            Engine::Shared(_) | Engine::Owned(_) => None,
        }
    }

    /// Sleeps in an owned ring until its thread is notified.
    ///
    /// # Errors
    /// When the kernel refuses: the reactor is dead then, and those who wait are sent elsewhere.
    pub(crate) fn park(&self) -> io::Result<()> {
        let Engine::Owned(ring) = &self.engine else { return Ok(()) };
        loop {
            let next = self.next_timer();
            let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
            let landed = ring.sleep(timeout).inspect_err(|error| self.break_down(error))?;
            let notified = ring.unpark.take_notice();
            self.dispatch(landed);
            if next.is_some() {
                self.fire_timers(Instant::now());
            }
            // What was dispatched may have notified us, too.
            if ring.unpark.take_notice() || notified {
                return Ok(());
            }
        }
    }

    /// Sees to what has landed in an owned ring, and to what is due, without a sleep.
    pub(crate) fn glance(&self, now: Instant) {
        let Engine::Owned(ring) = &self.engine else { return };
        match ring.glance() {
            Ok(landed) => self.dispatch(landed),
            Err(error) => self.break_down(&error),
        }
        self.fire_timers(now);
    }

    /// Ends the reactor: cancels what flies, hands its wakes on, and sends those who wait
    /// elsewhere.
    pub(crate) fn shut_down(&self) {
        if self.is_forked() {
            return;
        }
        self.dead.store(true, Release);
        let landed = match &self.engine {
            Engine::Shared(ring) => ring.shut_down(),
            Engine::Owned(ring) => ring.shut_down(),
            Engine::Helper(_) => Vec::new(),
        };
        self.dispatch(landed);
        for lane in self.lanes() {
            for waker in lane.queue.wake_all() {
                waker.wake();
            }
        }
        let tasks = lock(&self.timers).take_all();
        for waker in tasks {
            waker.wake();
        }
    }

    /// Whether nobody waits here: an owned reactor can serve again then.
    pub(crate) fn is_idle(&self) -> bool {
        self.lanes().iter().all(|lane| lane.queue.is_idle()) && !lock(&self.timers).has_tasks()
    }

    fn dispatch(&self, landed: Vec<Landed>) {
        let (mut odd, mut look) = (None, false);
        for Landed { flight, answer } in landed {
            match flight {
                Flight::Gate(lane) => {
                    lane.completed(matches!(answer, Ok(true)));
                    odd = odd.or(answer.err());
                }
                // Whoever slept looks at the notice itself.
                Flight::Unpark(_) => {}
                // The ring ends, and nothing else has.
                Flight::Peer(_) if self.is_dead() => {}
                Flight::Peer(peer) => look |= self.peer_landed(&peer, &answer),
                Flight::Timer(_) => {
                    if let Engine::Shared(ring) = &self.engine {
                        ring.forget_timer();
                    }
                    self.fire_timers(Instant::now());
                    self.keep_time();
                }
            }
        }
        if look {
            self.look_at_all_peers();
            // Another reactor of this process may have looked at once. The kernel may not be done
            // with the dead.
            self.set_watchdog(SECOND_LOOK);
        }
        if let Some(error) = odd {
            self.break_down(&error);
        }
    }

    /// Gives up on a ring that failed, and sends those who wait elsewhere.
    #[cold]
    pub(crate) fn break_down(&self, error: &io::Error) {
        if !self.is_dead() {
            tracing::warn!(%error, "io_uring failed: parkline's tasks wait on a helper thread now");
            self.shut_down();
        }
    }
}

/// One of the lanes of each queue.
fn one_of_each_queue(lanes: &[Arc<Lane>]) -> impl Iterator<Item = &Arc<Lane>> {
    let mut seen = HashSet::new();
    lanes.iter().filter(move |lane| peer::number_of(&lane.side).is_some_and(|it| seen.insert(it)))
}

fn is_same(weak: &Weak<Peer>, peer: *const Peer) -> bool {
    core::ptr::eq(weak.as_ptr(), peer)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No waker is called under these locks; what a panic there could leave is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::pin::Pin;
    use std::process::{Child, Command, Stdio};
    use std::task::Context;
    use std::thread;

    use parkline_core::driver::{Left, Place};
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
            Backend::IoUring => vec![Reactor::shared().unwrap(), Reactor::owned().unwrap()],
            Backend::Futex(why) => {
                not_tried("io_uring", why);
                Vec::new()
            }
        }
    }

    fn of_a_runtime() -> Option<Arc<Reactor>> {
        Reactor::shared().inspect_err(|error| not_tried("io_uring", error)).ok()
    }

    /// Has `waits` wait in `reactor`; the result is notified when the task is woken.
    fn begin(reactor: &Arc<Reactor>, waits: &mut Recv<'_>) -> Arc<Unpark> {
        let told = poll(reactor, waits);
        // An owned ring tells the kernel on its way to sleep.
        reactor.glance(Instant::now());
        told
    }

    /// The same on a thread that may not be the owner of the ring.
    fn poll(reactor: &Arc<Reactor>, waits: &mut Recv<'_>) -> Arc<Unpark> {
        let told = Arc::new(Unpark::default());
        let waker = Waker::from(Arc::clone(&told));
        let _entered = enter(Some(Arc::clone(reactor)), None);
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
    fn a_task_that_another_thread_drops_leaves_no_kernel_wait_after_the_next_look_of_the_owner() {
        let Some(reactor) = with_rings().pop() else { return };
        let queue = queue();
        let mut receiver: Receiver = queue.receiver().unwrap();
        let side = receiver.side();
        let mut waits: Recv<'_> = Box::pin(receiver.recv());
        begin(&reactor, &mut waits);
        thread::scope(|scope| scope.spawn(|| drop(waits)).join().unwrap());
        assert!(reactor.unpark().unwrap().is_notified());
        reactor.glance(Instant::now());
        assert_eq!(kernel_waits(&side), 0);
        reactor.shut_down();
    }

    /// A task waits in `lane`, whatever is there.
    fn wait_in(
        lane: Arc<Lane>,
        waker: &Waker,
        arm: impl FnOnce(&Arc<Lane>, &Sleep<'_>) -> io::Result<()>,
    ) -> (Arc<Lane>, Place) {
        let (mut place, gate) = (None, lane.side.gate().unwrap());
        let arm = |sleep: &Sleep<'_>| arm(&lane, sleep);
        let polled = lane.queue.poll(&mut place, waker, gate, || None::<()>, arm);
        assert!(polled.unwrap().is_pending());
        (lane, place.unwrap())
    }

    /// Returns when the helper's thread is about to sleep at the gates of all others that wait.
    fn until_the_helper_sleeps(reactor: &Arc<Reactor>) -> impl Sized {
        let (news, told) = (queue(), Arc::new(Unpark::default()));
        let side = news.receiver().unwrap().side();
        let waker = Waker::from(Arc::clone(&told));
        // At a gate that has moved on since.
        let waiting = wait_in(reactor.lane(side), &waker, |lane, sleep| {
            reactor.as_helper().unwrap().arm(lane, sleep.expected().wrapping_sub(2));
            Ok(())
        });
        assert!(until(|| told.is_notified()));
        waiting
    }

    /// Two tasks are dropped at the moment at which one call wakes their waits, and the helper hears of
    /// the wake alone. The kernel names one of the two.
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
                let lane = reactor.lane(sides[n].clone());
                wait_in(lane, waker, |lane, sleep| lane.reactor.arm(lane, sleep))
            };
            let dropped = [0, 1].map(|n| wait(&reactor, n, Waker::noop()));
            let _news = until_the_helper_sleeps(&reactor);
            let told = [(); 2].map(|()| Arc::new(Unpark::default()));
            let others = [0, 1].map(|n| wait(&ring, n, &Waker::from(Arc::clone(&told[n]))));
            for (lane, place) in dropped {
                assert!(matches!(lane.queue.leave(place), Left::Disarm));
            }
            wake_both(&sides);
            let are_told = || {
                ring.drain();
                told.iter().all(|told| told.is_notified())
            };
            assert!(until(are_told));
            for (lane, place) in others {
                lane.settle(lane.queue.leave(place));
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

    /// Fails if the helper is not told that a task was dropped (seen failing): it keeps the queue mapped
    /// until something else wakes it.
    #[test]
    fn the_helper_lets_go_of_a_lane_in_which_no_task_waits() {
        let (reactor, queue) = (Reactor::helper().unwrap(), queue());
        let waker = Waker::noop();
        let lane = reactor.lane(queue.receiver().unwrap().side());
        let (lane, place) = wait_in(lane, waker, |lane, sleep| reactor.arm(lane, sleep));
        let _news = until_the_helper_sleeps(&reactor);
        lane.settle(lane.queue.leave(place));
        let weak = Arc::downgrade(&lane);
        drop(lane);
        assert!(until(|| weak.strong_count() == 0));
    }

    /// Fails if a reactor that breaks down goes on, or wakes nobody (each seen failing).
    #[test]
    fn a_reactor_that_breaks_down_sends_its_tasks_elsewhere() {
        for reactor in with_rings() {
            let queue = queue();
            let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
            let mut waits: Recv<'_> = Box::pin(receiver.recv());
            let told = begin(&reactor, &mut waits);
            reactor.break_down(&io::Error::other("as the test wants it"));
            assert!(reactor.is_dead() && told.take_notice());
            // By the helper: a dead reactor serves nobody.
            let told = begin(&reactor, &mut waits);
            sender.try_send(b"message").unwrap();
            assert!(until(|| told.is_notified()));
        }
    }

    /// No completion tells of such a wait.
    ///
    /// Fails if a reactor that ends wakes only tasks whose waits land (seen failing).
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

    /// Fails if the watchdog is not set again after a look (seen failing: a wake that is lost after that
    /// is never healed), or is set although no task waits.
    #[test]
    fn the_watchdog_looks_again_and_again_while_a_task_waits() {
        for reactor in with_rings() {
            let queue = queue();
            let mut receiver: Receiver = queue.receiver().unwrap();
            let mut waits: Recv<'_> = Box::pin(receiver.recv());
            begin(&reactor, &mut waits);
            for _ in 0..3 {
                let next = reactor.next_timer().expect("a look to come");
                assert!(next > Instant::now() + HOUR / 2);
                reactor.fire_timers(next);
            }
            drop(waits);
            reactor.fire_timers(reactor.next_timer().unwrap());
            assert_eq!(reactor.next_timer(), None);
            reactor.shut_down();
        }
    }

    /// Fails if nothing is set, if a later time takes the place of an earlier one, if an earlier one does
    /// not take that of a later one, or if the engine does not wake then (each seen failing).
    #[test]
    fn the_watchdog_looks_at_the_earliest_time_that_was_set() {
        let Some(reactor) = with_rings().into_iter().next() else { return };
        let soon = Duration::from_millis(1);
        reactor.set_watchdog(HOUR);
        assert!(reactor.next_timer().unwrap() > Instant::now() + HOUR / 2);
        reactor.set_watchdog(soon);
        let next = reactor.next_timer().unwrap();
        assert!(next <= Instant::now() + soon);
        reactor.set_watchdog(HOUR);
        assert_eq!(reactor.next_timer(), Some(next));
        assert!(until(|| reactor.drain()), "the ring tells the time");
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
            let lane = reactor.lane(handle.side());
            reactor.watch_peers(&lane);
            while reactor.drain() {}
            assert_eq!(lock(&reactor.watched).len(), 1);
            let Engine::Shared(ring) = &reactor.engine else { unreachable!() };
            assert!(format!("{ring:?}").contains("flights: 1"), "{ring:?}");
        }
        reactor.shut_down();
    }

    fn is_soon(timer: Option<Instant>) -> bool {
        timer.is_some_and(|at| at <= Instant::now() + SECOND_LOOK)
    }

    /// The kernel may not be done with the dead when their end is news. The first reactor that hears of
    /// it looks, and finds it; what the second finds is known.
    ///
    /// Fails if either does not look once more (each seen failing).
    #[test]
    fn each_reactor_that_hears_of_an_end_looks_twice() {
        let (Some(first), Some(second)) = (of_a_runtime(), of_a_runtime()) else { return };
        let queue = Queue::builder().handles(1).watchdog(HOUR).create().unwrap();
        let (handle, name) = named(&queue);
        let stranger = Stranger::start();
        name(stranger.id());
        let lanes = [&first, &second].map(|reactor| {
            let lane = reactor.lane(handle.side());
            reactor.look_at_peers(&lane.side);
            lane
        });
        drop(stranger);
        for reactor in [&first, &second] {
            assert_eq!(reactor.next_timer(), None);
            assert!(until(|| reactor.drain()));
            assert!(is_soon(reactor.next_timer()));
            assert!(lock(&reactor.watched).is_empty());
        }
        drop(lanes);
        first.shut_down();
        second.shut_down();
    }

    /// Fails if the news of a look is not looked at once more (seen failing).
    #[test]
    fn a_look_that_finds_the_dead_is_followed_by_another() {
        let Some(reactor) = of_a_runtime() else { return };
        let queue = Queue::builder().handles(1).watchdog(HOUR).create().unwrap();
        let (handle, name) = named(&queue);
        // No process has this number.
        name(i32::MAX.cast_unsigned());
        reactor.look_at_peers(&handle.side());
        assert!(is_soon(reactor.next_timer()));
        reactor.shut_down();
    }

    /// The peer is another one at each look.
    ///
    /// Fails if a look that had to wait is not made up for (seen failing): the process would be found by
    /// the watchdog alone.
    #[test]
    fn a_look_at_peers_that_had_no_time_is_made_up_for() {
        let Some(reactor) = of_a_runtime() else { return };
        let queue = Queue::builder().handles(1).watchdog(HOUR).create().unwrap();
        let (handle, name) = named(&queue);
        let strangers = [Stranger::start(), Stranger::start()];
        let looks = strangers.iter().cycle().take(1000);
        let waits = looks.into_iter().find_map(|stranger| {
            name(stranger.id());
            reactor.look_at_peers(&handle.side());
            reactor.next_timer()
        });
        assert!(waits.is_some_and(|at| at <= Instant::now() + Duration::from_secs(1)));
        reactor.shut_down();
    }
}

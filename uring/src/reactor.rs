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
use crate::peer::Peer;
use crate::ring::{Flight, Landed};
use crate::shared::SharedRing;
use crate::timers::{Timer, Timers};
use crate::unpark::Unpark;

/// Carries out kernel waits and keeps time for the tasks that wait through it.
#[derive(Debug)]
pub(crate) struct Reactor {
    engine: Engine,
    lanes: Mutex<HashMap<SideKey, Seat>>,
    timers: Mutex<Timers>,
    /// The processes whose end the ring tells.
    watched: Mutex<HashSet<u32>>,
    /// There was no place for some: the watchdog asks again.
    missed: AtomicBool,
    /// Nobody drives it any more: those who wait here look for another.
    dead: AtomicBool,
    guard: ForkGuard,
}

/// A lane, and what is known of its side while no task waits there.
#[derive(Debug)]
struct Seat {
    lane: Weak<Lane>,
    arrivals: Arc<AtomicU32>,
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
        let (lanes, timers, watched) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (missed, dead) = (AtomicBool::new(false), AtomicBool::new(false));
        let guard = ForkGuard::new()?;
        Ok(Arc::new(Self { engine, lanes, timers, watched, missed, dead, guard }))
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
        let mut lanes = lock(&self.lanes);
        let key = side.key();
        let known = lanes.get(&key);
        if let Some(lane) = known.and_then(|seat| seat.lane.upgrade()) {
            return lane;
        }
        let arrivals = known.map(|seat| Arc::clone(&seat.arrivals));
        let unlike = || Arc::new(AtomicU32::new(side.arrivals().wrapping_sub(1)));
        let arrivals = arrivals.unwrap_or_else(unlike);
        if lanes.len() == lanes.capacity() {
            lanes.retain(|_, seat| seat.lane.strong_count() > 0);
        }
        let lane = Arc::new(Lane::new(side, Arc::clone(self), Arc::clone(&arrivals)));
        lanes.insert(key, Seat { lane: Arc::downgrade(&lane), arrivals });
        lane
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        lock(&self.lanes).values().filter_map(|seat| seat.lane.upgrade()).collect()
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
        if matches!(self.engine, Engine::Helper(_)) || !lane.has_new_peers() {
            return;
        }
        let mut watched = lock(&self.watched);
        let mut some_ended = false;
        for pid in lane.side.peers() {
            if watched.contains(&pid) {
                continue;
            }
            match Peer::find(pid).and_then(|peer| self.watch(peer)) {
                Ok(()) => _ = watched.insert(pid),
                // It was too quick for us, or is out of sight.
                Err(error) if error.kind() == io::ErrorKind::NotFound => some_ended = true,
                Err(_) => self.missed.store(true, Relaxed),
            }
        }
        drop(watched);
        if some_ended {
            self.set_watchdog(lane.side.mourn());
        }
    }

    fn watch(&self, peer: Peer) -> io::Result<()> {
        match &self.engine {
            Engine::Shared(ring) => ring.watch(peer),
            Engine::Owned(ring) => ring.watch(peer),
            Engine::Helper(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A process has ended. What it had of the queues that are waited at here is recovered.
    fn peer_ended(&self, pid: u32) {
        lock(&self.watched).remove(&pid);
        self.look_for_peers_again();
        let mut mourners: Vec<Arc<Lane>> = Vec::new();
        for lane in self.lanes() {
            let is_told = |it: &Arc<Lane>| it.side.is_of_same_queue(&lane.side);
            if !mourners.iter().any(is_told) && lane.side.peers().contains(&pid) {
                self.set_watchdog(lane.side.mourn());
                mourners.push(lane);
            }
        }
    }

    /// A process is not watched any more, though it lives: the thread that asked for it has ended.
    fn peer_got_lost(&self, pid: u32) {
        lock(&self.watched).remove(&pid);
        self.look_for_peers_again();
        for lane in self.lanes() {
            self.watch_peers(&lane);
        }
    }

    /// Has whoever waits next look for peers, also at a side where nobody waits now.
    fn look_for_peers_again(&self) {
        for seat in lock(&self.lanes).values() {
            seat.arrivals.fetch_sub(1, Relaxed);
        }
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
            if self.missed.swap(false, Relaxed) {
                self.look_for_peers_again();
            }
            for lane in &waiting {
                lane.look();
                self.watch_peers(lane);
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
        let mut odd = None;
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
                Flight::Peer(peer) => match answer {
                    Ok(true) => self.peer_ended(peer.pid),
                    Ok(false) => self.peer_got_lost(peer.pid),
                    Err(_) => _ = lock(&self.watched).remove(&peer.pid),
                },
                Flight::Timer(_) => {
                    if let Engine::Shared(ring) = &self.engine {
                        ring.forget_timer();
                    }
                    self.fire_timers(Instant::now());
                    self.keep_time();
                }
            }
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No waker is called under these locks; what a panic there could leave is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A lane: the tasks of one reactor that wait at one side of one handle's queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use parkline_core::driver::{Left, Side, WaitQueue};

use crate::reactor::Reactor;

/// Where tasks wait: the queue of waiters, and what its kernel wait needs.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) queue: WaitQueue,
    pub(crate) side: Side,
    pub(crate) reactor: Arc<Reactor>,
    /// The name of the flight that is armed, for the cancel; written by whoever may touch the ring.
    pub(crate) flight: AtomicU64,
    /// The handles that had arrived when the reactor last looked for peers; outlives this lane.
    arrivals: Arc<AtomicU32>,
}

impl Lane {
    pub(crate) fn new(side: Side, reactor: Arc<Reactor>, arrivals: Arc<AtomicU32>) -> Self {
        Self { queue: WaitQueue::new(), side, reactor, flight: AtomicU64::new(0), arrivals }
    }

    /// Whether handles have arrived since the last call.
    pub(crate) fn has_new_peers(&self) -> bool {
        let arrivals = self.side.arrivals();
        self.arrivals.swap(arrivals, Relaxed) != arrivals
    }

    /// The kernel wait of this lane ended.
    pub(crate) fn completed(self: &Arc<Self>, woken: bool) {
        self.settle(self.queue.completed(woken));
        if self.side.is_for_all() {
            self.wake_all();
        }
    }

    pub(crate) fn wake_all(&self) {
        for waker in self.queue.wake_all() {
            waker.wake();
        }
    }

    /// Does what the queue of waiters asked for. No lock is held here.
    pub(crate) fn settle(self: &Arc<Self>, left: Left) {
        match left {
            Left::Done => {}
            Left::Wake(waker) => waker.wake(),
            Left::PassOn => self.side.pass_on(),
            Left::Disarm => self.reactor.disarm(self),
        }
    }

    /// The watchdog's look: for dead handles, and, if there is something to do although tasks wait,
    /// the next of them does it.
    pub(crate) fn look(&self) {
        if self.queue.is_empty() {
            return;
        }
        self.side.keep_watch();
        if !self.side.is_ready() {
            return;
        }
        if self.side.is_for_all() {
            self.wake_all();
        } else if let Some(waker) = self.queue.tick() {
            waker.wake();
        }
    }
}

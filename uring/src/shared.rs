//! The ring of a runtime: its tasks arm and cancel from any thread, and the runtime's poller watches
//! the descriptor.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use parkline_core::driver::Sleep;

use crate::lane::Lane;
use crate::reactor::lock;
use crate::ring::{FutexWait, Landed, Ring};

#[derive(Debug)]
pub(crate) struct SharedRing {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    /// The earliest timer that the kernel knows of.
    timer: Option<Instant>,
}

impl SharedRing {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { state: Mutex::new(State { ring: Ring::shared()?, timer: None }) })
    }

    pub(crate) fn arm(&self, lane: &Arc<Lane>, sleep: &Sleep<'_>) -> io::Result<()> {
        let wait = FutexWait { word: sleep.word(), expected: sleep.expected() };
        let ring = &mut lock(&self.state).ring;
        lane.flight.store(ring.push_gate(lane, wait)?, Relaxed);
        ring.submit()
    }

    pub(crate) fn disarm(&self, lane: &Arc<Lane>) -> Vec<Landed> {
        let ring = &mut lock(&self.state).ring;
        ring.cancel(lane.flight.load(Relaxed));
        ring.landed()
    }

    /// Has the ring land a timer at `next`, or earlier.
    pub(crate) fn keep_time(&self, next: Instant) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.timer.is_none_or(|set| next < set) {
            state.ring.start_timer(next.saturating_duration_since(Instant::now()))?;
            state.timer = Some(next);
        }
        Ok(())
    }

    /// A timer landed.
    pub(crate) fn forget_timer(&self) {
        lock(&self.state).timer = None;
    }

    pub(crate) fn landed(&self) -> Vec<Landed> {
        lock(&self.state).ring.landed()
    }

    pub(crate) fn shut_down(&self) -> Vec<Landed> {
        let ring = &mut lock(&self.state).ring;
        ring.cancel_all();
        ring.landed()
    }

    pub(crate) fn fd(&self) -> RawFd {
        lock(&self.state).ring.as_raw_fd()
    }
}

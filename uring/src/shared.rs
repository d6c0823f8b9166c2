//! The ring of a runtime: its tasks arm and cancel from any thread, and the runtime's poller
//! watches the descriptor.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use parkline_core::driver::Sleep;

use crate::lane::Lane;
use crate::peer::Peer;
use crate::reactor::lock;
use crate::ring::{FutexWait, Landed, Ring};

#[derive(Debug)]
pub(crate) struct SharedRing {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    /// When the timers land that fly.
    timers: BTreeSet<Instant>,
}

impl SharedRing {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { state: Mutex::new(State { ring: Ring::shared()?, timers: BTreeSet::new() }) })
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

    /// Has the ring tell of the end of a process; returns the name of the flight.
    pub(crate) fn watch(&self, peer: &Arc<Peer>) -> io::Result<u64> {
        let ring = &mut lock(&self.state).ring;
        let flight = ring.push_peer(peer)?;
        // It flies. What fails here shows at the next submit.
        let _ = ring.submit();
        Ok(flight)
    }

    /// Ends such a flight.
    pub(crate) fn unwatch(&self, flight: u64) {
        lock(&self.state).ring.cancel(flight);
    }

    /// Has the ring land a timer at `next`, or earlier.
    pub(crate) fn keep_time(&self, next: Instant) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.timers.first().is_none_or(|first| next < *first) {
            state.ring.start_timer(next.saturating_duration_since(Instant::now()))?;
            state.timers.insert(next);
        }
        Ok(())
    }

    /// A timer landed: the first.
    pub(crate) fn forget_timer(&self) {
        lock(&self.state).timers.pop_first();
    }

    pub(crate) fn landed(&self) -> Vec<Landed> {
        lock(&self.state).ring.landed()
    }

    pub(crate) fn shut_down(&self) -> Vec<Landed> {
        lock(&self.state).ring.end()
    }

    pub(crate) fn fd(&self) -> RawFd {
        lock(&self.state).ring.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::required::not_tried;

    /// Fails if a timer that landed forgets the others (seen failing): they would multiply with
    /// every deadline.
    #[test]
    fn a_timer_that_flies_already_is_not_started_again() {
        let ring = match SharedRing::new() {
            Ok(ring) => ring,
            Err(error) => return not_tried("io_uring", error),
        };
        let late = Instant::now() + Duration::from_secs(3600);
        for _ in 0..10 {
            ring.keep_time(late).unwrap();
            ring.keep_time(Instant::now()).unwrap();
            lock(&ring.state).ring.submit_and_sleep(None).unwrap();
            assert_eq!(ring.landed().len(), 1);
            ring.forget_timer();
        }
        ring.keep_time(late).unwrap();
        assert_eq!(ring.shut_down().len(), 1, "the late one");
    }
}

//! The ring of one thread, which arms its waits and sleeps in one `io_uring_enter`.
//!
//! Only its owner may touch the ring. A task that is polled or dropped on another thread leaves a
//! request and unparks the owner.

use std::io;
use std::mem;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use parkline_core::driver::Sleep;

use crate::lane::Lane;
use crate::peer::Peer;
use crate::reactor::lock;
use crate::ring::{Flight, FutexWait, Landed, Ring};
use crate::unpark::Unpark;

#[derive(Debug)]
pub(crate) struct OwnedRing {
    owner: ThreadId,
    pub(crate) unpark: Arc<Unpark>,
    /// Locked by the owner alone, also while it sleeps.
    state: Mutex<State>,
    /// `None` once the ring has ended.
    requests: Mutex<Option<Vec<Request>>>,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    /// Whether the wait for `unpark` flies.
    unpark_armed: bool,
}

/// What another thread wants of the owner.
#[derive(Debug)]
enum Request {
    Arm { lane: Arc<Lane>, expected: u32 },
    Disarm(Arc<Lane>),
}

impl OwnedRing {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            owner: thread::current().id(),
            unpark: Arc::default(),
            state: Mutex::new(State { ring: Ring::owned()?, unpark_armed: false }),
            requests: Mutex::new(Some(Vec::new())),
        })
    }

    fn is_owner(&self) -> bool {
        self.owner == thread::current().id()
    }

    pub(crate) fn arm(&self, lane: &Arc<Lane>, sleep: &Sleep<'_>) -> io::Result<()> {
        let expected = sleep.expected();
        if self.is_owner() {
            // Submitted on the way to sleep.
            return lock(&self.state).arm(lane, FutexWait { word: sleep.word(), expected });
        }
        self.request(Request::Arm { lane: Arc::clone(lane), expected })
    }

    pub(crate) fn disarm(&self, lane: &Arc<Lane>) -> io::Result<Vec<Landed>> {
        if self.is_owner() {
            let mut state = lock(&self.state);
            // The wait may still be a request.
            state.serve(&self.requests)?;
            state.ring.cancel(lane.flight.load(Relaxed));
            return Ok(state.landed());
        }
        // An ended ring has nothing armed.
        let _ = self.request(Request::Disarm(Arc::clone(lane)));
        Ok(Vec::new())
    }

    /// Has the ring tell of the end of a process; returns the name of the flight. Its owner only:
    /// another thread is refused.
    pub(crate) fn watch(&self, peer: &Arc<Peer>) -> io::Result<u64> {
        if !self.is_owner() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let ring = &mut lock(&self.state).ring;
        let flight = ring.push_peer(peer)?;
        // Not on the way to sleep: another thread may close the descriptor before that. What fails
        // here shows at the next submit.
        let _ = ring.submit();
        Ok(flight)
    }

    /// Ends such a flight; `false` for a thread that is not the owner, which leaves it.
    pub(crate) fn unwatch(&self, flight: u64) -> bool {
        let is_owner = self.is_owner();
        if is_owner {
            lock(&self.state).ring.cancel(flight);
        }
        is_owner
    }

    fn request(&self, request: Request) -> io::Result<()> {
        let mut requests = lock(&self.requests);
        requests.as_mut().ok_or(io::ErrorKind::NotConnected)?.push(request);
        drop(requests);
        self.unpark.notify();
        Ok(())
    }

    /// Has the owner look at its timers before it sleeps again.
    pub(crate) fn keep_time(&self) {
        if !self.is_owner() {
            self.unpark.notify();
        }
    }

    /// What has landed, without sleeping: no system call unless there is something to be told to the
    /// kernel or by it.
    pub(crate) fn glance(&self) -> io::Result<Vec<Landed>> {
        let mut state = lock(&self.state);
        state.serve(&self.requests)?;
        state.ring.submit_queued()?;
        Ok(state.landed())
    }

    /// Sleeps until something lands or the thread is notified, at most for `timeout`.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> io::Result<Vec<Landed>> {
        let mut state = lock(&self.state);
        state.serve(&self.requests)?;
        if !state.unpark_armed {
            state.ring.push_unpark(&self.unpark)?;
            state.unpark_armed = true;
        }
        if self.unpark.park() {
            state.ring.submit_and_sleep(timeout)?;
        } else {
            state.ring.submit()?;
        }
        Ok(state.landed())
    }

    pub(crate) fn shut_down(&self) -> Vec<Landed> {
        // What was requested and not yet armed is not armed at all.
        let requests = lock(&self.requests).take();
        drop(requests);
        lock(&self.state).ring.end()
    }
}

impl State {
    fn arm(&mut self, lane: &Arc<Lane>, wait: FutexWait<'_>) -> io::Result<()> {
        lane.flight.store(self.ring.push_gate(lane, wait)?, Relaxed);
        Ok(())
    }

    fn serve(&mut self, requests: &Mutex<Option<Vec<Request>>>) -> io::Result<()> {
        let requests = lock(requests).as_mut().map(mem::take);
        for request in requests.unwrap_or_default() {
            match request {
                Request::Arm { lane, expected } => {
                    if let Some(gate) = lane.side.gate() {
                        self.arm(&lane, FutexWait { word: gate.word(), expected })?;
                    }
                }
                Request::Disarm(lane) => self.ring.cancel(lane.flight.load(Relaxed)),
            }
        }
        Ok(())
    }

    fn landed(&mut self) -> Vec<Landed> {
        let landed = self.ring.landed();
        if landed.iter().any(|it| matches!(it.flight, Flight::Unpark(_))) {
            self.unpark_armed = false;
        }
        landed
    }
}

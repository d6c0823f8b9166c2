//! The ring of a runtime: its tasks arm and cancel on any thread, and the runtime polls the ring's
//! descriptor.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::engine::futex::FutexWait;
use crate::engine::uring::{Completion, Operation, Uring};
use crate::lock::lock;
use crate::pidfds::Peer;
use crate::waiters::Waiters;

#[derive(Debug)]
pub(crate) struct RuntimeRing(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    ring: Uring,
    /// When the timers expire that are under way in the ring.
    timers: BTreeSet<Instant>,
}

impl RuntimeRing {
    pub(crate) fn new() -> io::Result<Self> {
        let (ring, timers) = (Uring::of_runtime()?, BTreeSet::new());
        Ok(Self(Mutex::new(Inner { ring, timers })))
    }

    pub(crate) fn arm(&self, wait: FutexWait) -> io::Result<()> {
        let ring = &mut lock(&self.0).ring;
        ring.push_wait(wait)?;
        ring.submit()
    }

    pub(crate) fn disarm(&self, waiters: &Waiters) -> Vec<Completion> {
        let mut inner = lock(&self.0);
        inner.ring.cancel_wait(waiters);
        inner.reap()
    }

    pub(crate) fn poll_peer(&self, peer: &Arc<Peer>) -> io::Result<u64> {
        lock(&self.0).ring.poll_peer(peer)
    }

    pub(crate) fn cancel_poll(&self, id: u64) -> bool {
        lock(&self.0).ring.cancel(id);
        true
    }

    /// Has a timer of the ring expire at `next`, or earlier.
    pub(crate) fn keep_time(&self, next: Instant) -> io::Result<()> {
        let mut inner = lock(&self.0);
        if inner.timers.first().is_none_or(|first| next < *first) {
            inner.ring.start_timer(next.saturating_duration_since(Instant::now()))?;
            inner.timers.insert(next);
        }
        Ok(())
    }

    pub(crate) fn reap(&self) -> Vec<Completion> {
        lock(&self.0).reap()
    }

    pub(crate) fn shut_down(&self) -> Vec<Completion> {
        lock(&self.0).ring.end()
    }

    pub(crate) fn fd(&self) -> RawFd {
        lock(&self.0).ring.as_raw_fd()
    }
}

impl Inner {
    fn reap(&mut self) -> Vec<Completion> {
        let completions = self.ring.reap();
        for completion in &completions {
            if let Operation::Timer(_) = completion.operation {
                self.timers.pop_first();
            }
        }
        completions
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::required::not_tried;

    /// Fails if a timer that expired forgets the others (seen failing): each deadline would start more
    /// timers.
    #[test]
    fn a_timer_that_is_under_way_is_not_started_again() {
        let ring = match RuntimeRing::new() {
            Ok(ring) => ring,
            Err(error) => return not_tried("io_uring", error),
        };
        let late = Instant::now() + Duration::from_secs(3600);
        for _ in 0..10 {
            ring.keep_time(late).unwrap();
            ring.keep_time(Instant::now()).unwrap();
            lock(&ring.0).ring.submit_and_sleep(None).unwrap();
            assert_eq!(ring.reap().len(), 1);
        }
        ring.keep_time(late).unwrap();
        assert_eq!(ring.shut_down().len(), 1, "the late one");
    }
}

//! The ring of one thread, which arms its waits and sleeps in one `io_uring_enter`.
//!
//! Only its owner may touch the ring. A task that is polled or dropped on another thread leaves a
//! request and unparks the owner.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::engine::futex::FutexWait;
use crate::engine::unpark::Unpark;
use crate::engine::uring::{Completion, Operation, Uring};
use crate::lock::lock;
use crate::pidfds::Peer;
use crate::waiters::Waiters;

#[derive(Debug)]
pub(crate) struct ThreadRing {
    owner: ThreadId,
    pub(crate) unpark: Arc<Unpark>,
    /// Locked by the owner alone, also while it sleeps.
    inner: Mutex<Inner>,
    /// `None` once the ring has ended.
    requests: Mutex<Option<Vec<Request>>>,
}

#[derive(Debug)]
struct Inner {
    ring: Uring,
    /// Whether the wait for `unpark` is under way.
    unpark_armed: bool,
}

/// What another thread asks of the owner.
#[derive(Debug)]
enum Request {
    Arm(FutexWait),
    Disarm(Arc<Waiters>),
}

impl ThreadRing {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            owner: thread::current().id(),
            unpark: Arc::default(),
            inner: Mutex::new(Inner { ring: Uring::of_thread()?, unpark_armed: false }),
            requests: Mutex::new(Some(Vec::new())),
        })
    }

    fn is_owner(&self) -> bool {
        self.owner == thread::current().id()
    }

    pub(crate) fn arm(&self, wait: FutexWait) -> io::Result<()> {
        if self.is_owner() {
            // Submitted when the thread goes to sleep.
            return lock(&self.inner).ring.push_wait(wait);
        }
        self.request(Request::Arm(wait))
    }

    pub(crate) fn disarm(&self, waiters: &Arc<Waiters>) -> io::Result<Vec<Completion>> {
        if self.is_owner() {
            let mut inner = lock(&self.inner);
            // The wait may still be a request.
            inner.serve(&self.requests)?;
            inner.ring.cancel_wait(waiters);
            return Ok(inner.reap());
        }
        // An ended ring has nothing armed.
        let _ = self.request(Request::Disarm(Arc::clone(waiters)));
        Ok(Vec::new())
    }

    /// Refused on other threads than the owner.
    pub(crate) fn poll_peer(&self, peer: &Arc<Peer>) -> io::Result<u64> {
        if !self.is_owner() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        lock(&self.inner).ring.poll_peer(peer)
    }

    pub(crate) fn cancel_poll(&self, id: u64) -> bool {
        let is_owner = self.is_owner();
        if is_owner {
            lock(&self.inner).ring.cancel(id);
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

    /// Has the owner read its timers before it sleeps again.
    pub(crate) fn keep_time(&self) {
        if !self.is_owner() {
            self.unpark.notify();
        }
    }

    /// Submits what is queued and reaps what is complete, without sleeping. No system call if there is
    /// nothing to submit and nothing to reap.
    pub(crate) fn turn(&self) -> io::Result<Vec<Completion>> {
        let mut inner = lock(&self.inner);
        inner.serve(&self.requests)?;
        inner.ring.submit_queued()?;
        Ok(inner.reap())
    }

    /// Sleeps until something completes or the thread is notified, at most for `timeout`.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> io::Result<Vec<Completion>> {
        let mut inner = lock(&self.inner);
        inner.serve(&self.requests)?;
        if !inner.unpark_armed {
            inner.ring.push_unpark(&self.unpark)?;
            inner.unpark_armed = true;
        }
        if self.unpark.park() {
            inner.ring.submit_and_sleep(timeout)?;
        } else {
            inner.ring.submit()?;
        }
        Ok(inner.reap())
    }

    pub(crate) fn shut_down(&self) -> Vec<Completion> {
        // What was requested and not yet armed is not armed at all.
        let requests = lock(&self.requests).take();
        drop(requests);
        lock(&self.inner).ring.end()
    }
}

impl Inner {
    fn serve(&mut self, requests: &Mutex<Option<Vec<Request>>>) -> io::Result<()> {
        let requests = lock(requests).as_mut().map(mem::take);
        for request in requests.unwrap_or_default() {
            match request {
                Request::Arm(wait) => self.ring.push_wait(wait)?,
                Request::Disarm(waiters) => self.ring.cancel_wait(&waiters),
            }
        }
        Ok(())
    }

    fn reap(&mut self) -> Vec<Completion> {
        let completions = self.ring.reap();
        if completions.iter().any(|it| matches!(it.operation, Operation::Unpark(_))) {
            self.unpark_armed = false;
        }
        completions
    }
}

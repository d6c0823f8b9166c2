//! A ring for an event loop that this crate does not know: asyncio's, libuv's, any that polls a
//! descriptor.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use crate::backend::{Backend, backend};
use crate::current::enter;
use crate::reactor::Reactor;
use crate::timers::LoopTimer;

/// How often one call of [`LoopRing::drive`] drains the ring at most, because the loop has other work, too.
const ROUNDS: u32 = 16;

/// The io_uring of one event loop, for bindings: its tasks wait in it, and the loop polls its
/// descriptor.
///
/// The loop calls [`drive`](Self::drive) whenever the descriptor is readable, and polls futures
/// [`within`](Self::within). Drop it when the loop ends: tasks that still wait are woken and wait by
/// the helper thread, and wakes that were meant for the ring are passed on.
///
/// ```
/// use parkline_uring::driver::LoopRing;
/// use parkline_uring::{AsyncReceiver, Queue};
/// use std::pin::pin;
/// use std::task::{Context, Poll, Waker};
///
/// let queue = Queue::builder().create()?;
/// let (mut receiver, mut sender) = (queue.receiver()?, queue.sender()?);
/// let Ok(ring) = LoopRing::new() else { return Ok(()) }; // io_uring is refused here
/// let (mut receive, mut cx) = (pin!(receiver.recv()), Context::from_waker(Waker::noop()));
/// assert!(ring.within(|| receive.as_mut().poll(&mut cx)).is_pending());
/// sender.try_send(b"hello")?;
/// ring.drive(); // what the loop does when the descriptor is readable: calls the waker
/// let Poll::Ready(got) = ring.within(|| receive.as_mut().poll(&mut cx)) else { panic!() };
/// assert_eq!(got?, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LoopRing {
    reactor: Arc<Reactor>,
}

impl LoopRing {
    /// A new ring.
    ///
    /// # Errors
    /// When [`backend`] is the helper thread, and when the kernel refuses one more ring. Futures
    /// that are polled outside of a ring wait by the helper thread, which calls their wakers.
    pub fn new() -> io::Result<Self> {
        if let Backend::Futex(why) = backend() {
            return Err(io::Error::other(*why));
        }
        Ok(Self { reactor: Reactor::of_runtime()? })
    }

    /// Calls the wakers of the tasks that may go on, and keeps their deadlines. To be called when
    /// the descriptor is readable; does nothing else otherwise.
    pub fn drive(&self) {
        for _ in 0..ROUNDS {
            // In a forked child the ring's memory is not there.
            if self.reactor.is_forked() || !self.reactor.drain() {
                return;
            }
        }
    }

    /// Calls `poll`: futures that are polled in it wait in this ring.
    pub fn within<R>(&self, poll: impl FnOnce() -> R) -> R {
        let _entered = enter(Some(Arc::clone(&self.reactor)), None, None);
        poll()
    }
}

/// Calls `poll`: futures that are polled in it wait by the helper thread, and by `timer` where that is
/// not to be had.
pub fn within_timer<R>(timer: Arc<dyn LoopTimer>, poll: impl FnOnce() -> R) -> R {
    let _entered = enter(None, None, Some(timer));
    poll()
}

impl AsRawFd for LoopRing {
    fn as_raw_fd(&self) -> RawFd {
        self.reactor.ring_fd().unwrap_or(-1)
    }
}

impl Drop for LoopRing {
    fn drop(&mut self) {
        if !self.reactor.is_forked() {
            self.reactor.shut_down();
        }
    }
}

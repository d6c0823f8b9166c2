//! tokio: the ring's descriptor in the runtime's own poller, and one task a runtime that drains it.
//!
//! One, because each waiting task that polled the descriptor itself would be woken by every
//! message. It serves any flavour, and so the runtime of tokio-uring.
#![expect(unsafe_code, reason = "AsyncFd::register asks that the descriptor stay open")]

use std::collections::HashMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, Weak};

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::runtime::{Handle, Id};
use parkline_core::driver::hold_forks;

use crate::reactor::{Reactor, lock};

/// The runtime around the caller.
pub(crate) fn runtime_id() -> Option<Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

/// The reactor of the tokio runtime around the caller; `None` outside one, or when it cannot be
/// had.
///
/// # Panics
/// As all of tokio's I/O does, on a runtime without `enable_io`.
pub(crate) fn current() -> Option<Arc<Reactor>> {
    /// By runtime; an empty one for a runtime that cannot have one.
    static REACTORS: Mutex<Option<HashMap<Id, Weak<Reactor>>>> = Mutex::new(None);
    let handle = Handle::try_current().ok()?;
    let known = {
        // A child must not find it locked.
        let _forks = hold_forks();
        lock(&REACTORS).get_or_insert_default().get(&handle.id()).cloned()
    };
    if let Some(known) = known {
        // Dead: the runtime is shutting down, or its ring broke.
        return known.upgrade().filter(|reactor| !reactor.is_dead());
    }
    let made = start(&handle);
    let reactor = made.as_ref().map_or_else(Weak::new, Arc::downgrade);
    let _forks = hold_forks();
    let mut reactors = lock(&REACTORS);
    let reactors = reactors.get_or_insert_default();
    // Two threads may have made one each: both are driven, and the first is found from now on.
    reactors.retain(|_, reactor| reactor.strong_count() > 0);
    reactors.entry(handle.id()).or_insert(reactor);
    made
}

/// Makes a reactor that `handle`'s runtime drives.
fn start(handle: &Handle) -> Option<Arc<Reactor>> {
    let reactor = Reactor::shared()
        .inspect_err(|error| tracing::warn!(%error, "no io_uring for this tokio runtime"))
        .ok()?;
    let fd = RingFd { fd: reactor.ring_fd()?, pump: Pump(Arc::clone(&reactor)) };
    // SAFETY: `fd` owns the reactor and so the ring, whose descriptor never changes; it lives in
    // the AsyncFd.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .inspect_err(|error| tracing::warn!(%error, "tokio does not poll an io_uring"))
        .ok()?;
    // A runtime that is shutting down drops the task at once.
    handle.spawn(pump(fd));
    (!reactor.is_dead()).then_some(reactor)
}

/// Drains the ring whenever it is readable, until the runtime drops this task.
async fn pump(fd: AsyncFd<RingFd>) {
    while let Ok(mut ready) = fd.readable().await {
        // Level by level: only an empty ring is not readable.
        if !fd.get_ref().pump.0.drain() {
            ready.clear_ready();
        }
    }
}

/// The ring's descriptor, and with it the reactor.
#[derive(Debug)]
struct RingFd {
    fd: RawFd,
    pump: Pump,
}

impl AsRawFd for RingFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

/// Ends the reactor with the task that drives it.
#[derive(Debug)]
struct Pump(Arc<Reactor>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

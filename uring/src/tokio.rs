//! tokio: the ring's descriptor in the runtime's own poller, and one task a runtime that drains it.
//!
//! One, because each waiting task that polled the descriptor itself would be woken by every
//! message. It serves any flavour, and so the runtime of tokio-uring. tokio's timers are of use where
//! there is neither a ring nor a thread, and not needed. The tasks of a runtime without I/O wait on the helper thread.
#![expect(unsafe_code, reason = "AsyncFd::register asks that the descriptor stay open")]

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::runtime::{Handle, Id};
use ::tokio::task::coop::{RestoreOnPending, poll_proceed};
use parkline_core::driver::hold_forks;

use crate::lock::lock;
use crate::reactor::Reactor;

/// The runtime around the caller.
pub(crate) fn runtime_id() -> Option<Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

/// Has a task that always finds a message let others run now and then: takes one operation from
/// tokio's budget, or, where none is left, has the task polled again, once a call. `Ready(None)` for a
/// call that has yielded and still has no budget.
///
/// tokio gets no waker: it would keep the wake until the thread comes back to it. A thread that runs
/// another executor within a task does not come back, and that executor cannot renew the budget. So a
/// call yields by its own waker, and only once.
pub(crate) fn take_budget(
    cx: &Context<'_>,
    has_yielded: &mut bool,
) -> Poll<Option<RestoreOnPending>> {
    match poll_proceed(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(budget) => Poll::Ready(Some(budget)),
        Poll::Pending if *has_yielded => Poll::Ready(None),
        Poll::Pending => {
            *has_yielded = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }
}

/// Runtimes that cannot have a reactor are remembered up to this number; after that all of them are
/// asked once more.
const MOST_REFUSED: usize = 1024;

/// The reactor of the tokio runtime around the caller; `None` outside one, or when it cannot be
/// had, which a `tracing` warning says once a runtime.
pub(crate) fn current() -> Option<Arc<Reactor>> {
    /// By runtime; `None` for a runtime that cannot have one.
    static REACTORS: Mutex<Option<HashMap<Id, Option<Weak<Reactor>>>>> = Mutex::new(None);
    let handle = Handle::try_current().ok()?;
    let known = {
        // A child must not find it locked.
        let _forks = hold_forks();
        lock(&REACTORS).get_or_insert_default().get(&handle.id()).cloned()
    };
    if let Some(known) = known {
        // Dead: the runtime is shutting down, or its ring broke.
        return known?.upgrade().filter(|reactor| !reactor.is_dead());
    }
    let made = start(&handle)
        .inspect_err(|error| {
            tracing::warn!(%error, "tasks of this tokio runtime wait on parkline's helper thread");
        })
        .ok();
    let _forks = hold_forks();
    let mut reactors = lock(&REACTORS);
    let reactors = reactors.get_or_insert_default();
    let may_stay = reactors.len() < MOST_REFUSED;
    reactors.retain(|_, known| match known {
        Some(reactor) => reactor.strong_count() > 0,
        None => may_stay,
    });
    // Two threads may have made one each: both are driven, and the first is found from now on.
    reactors.entry(handle.id()).or_insert(made.as_ref().map(Arc::downgrade));
    made
}

/// Makes a reactor that `handle`'s runtime drives.
fn start(handle: &Handle) -> io::Result<Arc<Reactor>> {
    if !may_have_io() {
        return Err(without_io());
    }
    let reactor = Reactor::of_runtime()?;
    let fd = reactor.ring_fd().ok_or(io::ErrorKind::Unsupported)?;
    let fd = RingFd { fd, pump: Pump(Arc::clone(&reactor)) };
    // tokio has no question whether a runtime has I/O, only a panic where it has none. What unwinds
    // ends the reactor with its `Pump`, and leaves nothing half done.
    let registered = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `fd` owns the reactor and so the ring, and the ring's descriptor never changes; it lives
        // in the AsyncFd.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
    }));
    let fd = registered.map_err(|_| without_io())??;
    // A runtime that is shutting down drops the task at once.
    handle.spawn(pump(fd));
    // Only this worker finds the task that was spawned last, and it may go on in another executor. One
    // more task pushes the pump to where another worker takes it.
    handle.spawn(async {});
    if reactor.is_dead() { Err(io::ErrorKind::NotConnected.into()) } else { Ok(reactor) }
}

fn without_io() -> io::Error {
    io::Error::other("this tokio runtime has no I/O; call `enable_io` on its builder")
}

/// Whether any runtime of this process may have I/O: each that has owns an epoll descriptor. `false`
/// saves a panic, which prints a message, or ends the process where the program made it so. `true`
/// also where /proc is not to be had.
fn may_have_io() -> bool {
    let Ok(descriptors) = fs::read_dir("/proc/thread-self/fd") else { return true };
    descriptors.filter_map(Result::ok).any(|descriptor| {
        fs::read_link(descriptor.path())
            .is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]")
    })
}

/// Has a timer of the runtime around the caller call `waker` at `until`, or when the runtime ends;
/// `false` where there is no such timer.
pub(crate) fn wake_at(waker: &Waker, until: Instant) -> bool {
    /// Runtimes without timers.
    static WITHOUT: Mutex<Vec<Id>> = Mutex::new(Vec::new());
    let Ok(handle) = Handle::try_current() else { return false };
    let is_without = {
        // A child must not find it locked.
        let _forks = hold_forks();
        lock(&WITHOUT).contains(&handle.id())
    };
    if cfg!(panic = "abort") || is_without {
        return false;
    }
    // tokio has no question whether a runtime has timers, only a panic where it has none.
    let Ok(sleep) = catch_unwind(|| ::tokio::time::sleep_until(until.into())) else {
        let _forks = hold_forks();
        lock(&WITHOUT).push(handle.id());
        return false;
    };
    let wake = WakeAtEnd(waker.clone());
    handle.spawn(async move {
        let _wake = wake;
        sleep.await;
    });
    true
}

/// Also if the runtime ends before the timer.
struct WakeAtEnd(Waker);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
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

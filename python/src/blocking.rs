//! Blocking calls: the thread sleeps in the kernel without the GIL, and comes back for signals.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use parkline_core::driver::{Kernel, Patience, Side, Sleep, Spin, wait_at};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustix::thread::futex::{self, Flags, Timespec};

use crate::errors;

/// The longest sleep. A signal to this thread interrupts the sleep; a signal that came just before the
/// sleep, or to another thread, is handled after it.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// The calls and tasks of this process that wait for one thing.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// How many there are. It is shown to people, and no wait depends on it.
    count: AtomicUsize,
    /// How calls spin before they sleep. When the other side answers while they spin, neither side makes
    /// a system call.
    spin: Mutex<Spin>,
}

impl Waiters {
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    fn spin_at(&self, side: &Side, until: Option<Instant>) {
        let locked = || self.spin.lock().unwrap_or_else(PoisonError::into_inner);
        // Threads that share the handle spin at the same time, each with a copy.
        let mut spin = *locked();
        if spin.is_due() {
            let is_ready = |side: &mut &Side| side.is_ready().then_some(());
            spin.run(&mut &*side, until, |side, now| side.maintain_at(now), is_ready);
        }
        *locked() = spin;
    }
}

/// One of the waiters, counted as long as it lives.
pub(crate) struct Counted(Arc<Waiters>);

impl Counted {
    pub(crate) fn new(waiters: &Arc<Waiters>) -> Self {
        waiters.count.fetch_add(1, Relaxed);
        Self(Arc::clone(waiters))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
    }
}

/// The interpreter exits: no thread may block any more, because the interpreter waits for all threads.
static EXITING: AtomicBool = AtomicBool::new(false);

/// Ends all blocking calls of this process.
#[pyfunction]
pub(crate) fn _end_blocking_calls() {
    EXITING.store(true, Relaxed);
}

/// How a wait without the GIL ended.
pub(crate) enum Waited<T> {
    Answer(T),
    /// The thread must check for signals, or the wait goes on at another side.
    Interrupted,
    TimedOut,
}

/// Waits at `side` without the GIL until `attempt` answers. `None` when the time is over.
///
/// # Errors
/// What a signal handler raises; `ShutDown` when the interpreter exits.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    side: &Side,
    waiters: Option<&Arc<Waiters>>,
    until: Option<Instant>,
    mut attempt: impl FnMut() -> Option<T> + Send,
) -> PyResult<Option<T>> {
    let attempt = || attempt().map_or(ControlFlow::Continue(()), ControlFlow::Break);
    wait_where(py, |()| side.clone(), waiters, until, attempt)
}

/// The same, but an attempt without an answer says what it waits for, and the thread waits at the
/// `side` of that.
///
/// # Errors
/// As [`wait`].
pub(crate) fn wait_where<T: Send, W: Copy + PartialEq + Send>(
    py: Python<'_>,
    side: impl Fn(W) -> Side + Sync,
    waiters: Option<&Arc<Waiters>>,
    until: Option<Instant>,
    mut attempt: impl FnMut() -> ControlFlow<T, W> + Send,
) -> PyResult<Option<T>> {
    let _counted = waiters.map(Counted::new);
    let mut waiters = waiters;
    let mut waits_for = None;
    loop {
        let waited = py.detach(|| {
            let here = match waits_for {
                Some(here) => here,
                None => match attempt() {
                    ControlFlow::Break(answer) => return Waited::Answer(answer),
                    ControlFlow::Continue(here) => here,
                },
            };
            waits_for = Some(here);
            let side = side(here);
            if let Some(waiters) = waiters.take() {
                waiters.spin_at(&side, until);
            }
            sleep_at(&side, until, || match attempt() {
                ControlFlow::Break(answer) => Some(Waited::Answer(answer)),
                ControlFlow::Continue(now) if now == here => None,
                // As if it had its answer here, so that its wake-up goes to another waiter.
                ControlFlow::Continue(now) => {
                    waits_for = Some(now);
                    Some(Waited::Interrupted)
                }
            })
        });
        match waited {
            Waited::Answer(answer) => return Ok(Some(answer)),
            Waited::TimedOut => return Ok(None),
            Waited::Interrupted => check(py)?,
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            // One more attempt, because an answer may be there when the time is over.
            return Ok(py.detach(attempt).break_value());
        }
    }
}

/// Runs the handlers of signals that have come.
pub(crate) fn check(py: Python<'_>) -> PyResult<()> {
    py.check_signals()?;
    if EXITING.load(Relaxed) {
        return Err(errors::shut_down(py, ("the interpreter is exiting",)));
    }
    Ok(())
}

fn sleep_at<T>(
    side: &Side,
    until: Option<Instant>,
    mut attempt: impl FnMut() -> Option<Waited<T>>,
) -> Waited<T> {
    // A signal handler has forked, and this is the child, which has no gate to wait at.
    let Some(gate) = side.gate() else { return attempt().unwrap_or(Waited::TimedOut) };
    let thread = Thread { side, interrupted: Cell::new(false) };
    let patience = Patience { until, watchdog: side.watchdog().min(LONGEST_SLEEP) };
    let attempt = || {
        side.maintain();
        side.order();
        attempt().or_else(|| thread.interrupted.get().then_some(Waited::Interrupted))
    };
    wait_at(&thread, gate, patience, attempt, || side.is_ready()).unwrap_or(Waited::TimedOut)
}

/// The calling thread, sleeping in `futex(2)`.
struct Thread<'a> {
    side: &'a Side,
    interrupted: Cell<bool>,
}

impl Kernel for Thread<'_> {
    fn wait(&self, sleep: &Sleep<'_>, timeout: Option<Duration>) {
        self.side.count_park();
        let timeout = timeout.and_then(|it| Timespec::try_from(it).ok());
        let slept = futex::wait(sleep.word(), Flags::empty(), sleep.expected(), timeout.as_ref());
        // After a wake-up or a changed word, an attempt comes before the check for signals.
        if slept.is_err_and(|errno| errno != rustix::io::Errno::AGAIN) {
            self.interrupted.set(true);
        }
    }

    fn wake(&self, word: &std::sync::atomic::AtomicU32, count: u32) -> u32 {
        let count = count.min(i32::MAX.cast_unsigned());
        let woken = futex::wake(word, Flags::empty(), count).unwrap_or(0);
        u32::try_from(woken).unwrap_or(u32::MAX)
    }
}

/// When a call with this `timeout` gives up.
///
/// # Errors
/// `ValueError` for a negative one.
pub(crate) fn deadline(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(timeout) = timeout else { return Ok(None) };
    if timeout < 0.0 || timeout.is_nan() {
        return Err(PyValueError::new_err("'timeout' must be a non-negative number"));
    }
    // A time that the clock cannot represent has no end.
    let timeout = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::MAX);
    Ok(Instant::now().checked_add(timeout))
}

//! Blocking calls: the thread sleeps in the kernel without the GIL, and comes back for signals.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use parkline_core::driver::{Kernel, Patience, Side, Sleep, Spin, wait_at};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustix::thread::futex::{self, Flags, Timespec};

use crate::errors;

/// A signal interrupts the sleep at once; one that came just before it, or to another thread, is
/// seen by then.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks before one handle's calls sleep: who answers at once is met awake, and neither side makes a
/// system call.
#[derive(Debug, Default)]
pub(crate) struct Eyes(Mutex<Spin>);

impl Eyes {
    fn look(&self, side: &Side, until: Option<Instant>) {
        let locked = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Threads that share the handle look at once, each for itself.
        let mut spin = *locked();
        if spin.is_due() {
            let is_ready = |side: &mut &Side| side.is_ready().then_some(());
            spin.look(&mut &*side, until, |side, now| side.keep_watch_at(now), is_ready);
        }
        *locked() = spin;
    }
}

/// The interpreter exits: nobody may block any more, for it waits for all threads.
static EXITING: AtomicBool = AtomicBool::new(false);

/// Ends all blocking calls of this process.
#[pyfunction]
pub(crate) fn _end_blocking_calls() {
    EXITING.store(true, Relaxed);
}

/// How a wait without the GIL ended.
pub(crate) enum Waited<T> {
    Answer(T),
    /// Signals are to be looked for, or the wait goes on elsewhere.
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
    eyes: Option<&Eyes>,
    until: Option<Instant>,
    mut attempt: impl FnMut() -> Option<T> + Send,
) -> PyResult<Option<T>> {
    let attempt = || attempt().map_or(ControlFlow::Continue(()), ControlFlow::Break);
    wait_where(py, |()| side.clone(), eyes, until, attempt)
}

/// The same at the `side` of what an attempt without an answer says that it waits for.
///
/// # Errors
/// As [`wait`].
pub(crate) fn wait_where<T: Send, W: Copy + PartialEq + Send>(
    py: Python<'_>,
    side: impl Fn(W) -> Side + Sync,
    eyes: Option<&Eyes>,
    until: Option<Instant>,
    mut attempt: impl FnMut() -> ControlFlow<T, W> + Send,
) -> PyResult<Option<T>> {
    let mut eyes = eyes;
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
            if let Some(eyes) = eyes.take() {
                eyes.look(&side, until);
            }
            sleep_at(&side, until, || match attempt() {
                ControlFlow::Break(answer) => Some(Waited::Answer(answer)),
                ControlFlow::Continue(now) if now == here => None,
                // As if it had its answer here, so that a wake that it got goes to another.
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
            // What is there at the end of the time is got, as before it.
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
    // A signal handler has forked, and this is the child: there is nowhere to wait.
    let Some(gate) = side.gate() else { return attempt().unwrap_or(Waited::TimedOut) };
    let thread = Thread { side, interrupted: Cell::new(false) };
    let patience = Patience { until, watchdog: side.watchdog().min(LOOK_EVERY) };
    let attempt = || {
        side.keep_watch();
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
        // Woken or changed: look at the queue first.
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
    // Longer than the clock can tell is for ever.
    let timeout = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::MAX);
    Ok(Instant::now().checked_add(timeout))
}

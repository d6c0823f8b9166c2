//! Blocking calls: the thread sleeps in the kernel without the GIL, and comes back for signals.

use std::cell::Cell;
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
    /// Look for signals, and go on.
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
    let mut eyes = eyes;
    loop {
        let waited = py.detach(|| {
            if let Some(eyes) = eyes.take() {
                eyes.look(side, until);
            }
            sleep_at(side, until, &mut attempt)
        });
        match waited {
            Waited::Answer(answer) => return Ok(Some(answer)),
            Waited::TimedOut => return Ok(None),
            Waited::Interrupted => check(py)?,
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
    attempt: &mut impl FnMut() -> Option<T>,
) -> Waited<T> {
    // A signal handler has forked, and this is the child: there is nowhere to wait.
    let Some(gate) = side.gate() else {
        return attempt().map_or(Waited::TimedOut, Waited::Answer);
    };
    let thread = Thread { side, interrupted: Cell::new(false) };
    let patience = Patience { until, watchdog: side.watchdog().min(LOOK_EVERY) };
    let attempt = || {
        side.keep_watch();
        match attempt() {
            Some(answer) => Some(Waited::Answer(answer)),
            None => thread.interrupted.get().then_some(Waited::Interrupted),
        }
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

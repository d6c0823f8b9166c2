//! An event loop's fairness: how long the tasks of this thread go on before their loop runs again.
//!
//! A call that finds what it asks for does not suspend its task. While another process keeps a queue
//! non-empty, a loop of such calls would take the whole thread: no timer, no signal handler and no
//! other task would run. So the tasks of a thread have turns. A call that begins after the end of a
//! turn suspends its task once, *before* it takes, sends or acquires anything. So a task that is
//! cancelled there has lost nothing.
//!
//! A turn ends when the loop runs, and only the loop knows that. After [`TURN`] the next call schedules
//! a callback in the loop (`parkline/_turn.py`), and goes on. If the callback has not run after another
//! [`TURN`], the loop has not run. A task that waits now and then schedules one callback in a [`TURN`]
//! at most.

use std::cell::Cell;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use rustix::time::{ClockId, clock_gettime};

/// In nanoseconds. One run of a loop costs 2 to 7 us.
const TURN: u64 = 1_000_000;
/// How many calls pass between two readings of the clock, as long as they all pass within [`SHORT`].
const CALLS: u32 = 8;
/// In nanoseconds.
const SHORT: u64 = TURN / 16;

struct Turn {
    /// When the first call after the loop's last run read the clock, in nanoseconds: [`NOT_YET`]
    /// before that call, 0 if the turn is over.
    began: Cell<u64>,
    /// The last reading of the clock.
    read: Cell<u64>,
    /// How many calls pass without a reading.
    calls: Cell<u32>,
}

const NOT_YET: u64 = u64::MAX;

thread_local! {
    static THIS: Turn =
        const { Turn { began: Cell::new(NOT_YET), read: Cell::new(0), calls: Cell::new(0) } };
}

/// Whether the calling task has to let its loop run before it goes on.
///
/// # Errors
/// What a signal handler raises.
#[inline]
pub(crate) fn is_over(py: Python<'_>) -> PyResult<bool> {
    let is_long = THIS.with(|turn| match turn.calls.get() {
        0 => turn.is_long(),
        calls => {
            turn.calls.set(calls - 1);
            false
        }
    });
    if is_long { must_pause(py) } else { Ok(false) }
}

/// The loop of this thread has run.
pub(crate) fn begin() {
    THIS.with(|turn| turn.begin_at(NOT_YET));
}

impl Turn {
    fn begin_at(&self, time: u64) {
        self.began.set(time);
        self.calls.set(0);
    }

    fn is_long(&self) -> bool {
        let now = clock_gettime(ClockId::Monotonic);
        // Neither is negative: the time since the machine started.
        let now = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        let is_short = now - self.read.replace(now) < SHORT;
        self.calls.set(if is_short { CALLS - 1 } else { 0 });
        let began = self.began.get().min(now);
        self.began.set(began);
        now - began >= TURN
    }
}

#[cold]
fn must_pause(py: Python<'_>) -> PyResult<bool> {
    static MUST_PAUSE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let must_pause = MUST_PAUSE.import(py, "parkline._turn", "must_pause")?.call0()?.is_truthy()?;
    // If not, the callback was scheduled just now, or there is no loop.
    let began = if must_pause { 0 } else { NOT_YET };
    THIS.with(|turn| turn.begin_at(began));
    Ok(must_pause)
}

/// [`is_over`], for Python.
#[pyfunction]
pub(crate) fn _turn_is_over(py: Python<'_>) -> PyResult<bool> {
    is_over(py)
}

/// [`begin`], for Python.
#[pyfunction]
pub(crate) fn _begin_turn() {
    begin();
}

//! Spinning in [`block_on`](crate::block_on): before the thread sleeps, it spins for all of its tasks
//! that have not announced at their gate that they wait.
//!
//! It does not spin in their polls, because a task that spins there keeps the other tasks of the same
//! future waiting. Each is polled again after the spin, whatever came of it, and announces then if it
//! must.

use std::cell::Cell;
use std::task::Waker;
use std::time::{Duration, Instant};

use parkline_core::driver::{Side, Spin};

/// For how many tasks a thread spins at most. With more tasks, it soon has other work.
const MOST: usize = 16;

/// How long the tasks that do wait in the kernel may wait for the spinning thread: about as long as a wake
/// takes.
const TURN: Duration = Duration::from_micros(20);

thread_local! {
    /// What the spins of the thread have brought.
    static SPIN: Cell<Spin> = Cell::default();
    /// When the next turn for the other tasks is due.
    static NEXT_TURN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A task for which the thread spins.
#[derive(Debug)]
pub(crate) struct SpinTask {
    pub(crate) side: Side,
    /// For how long at most the thread spins for it.
    pub(crate) limit: Duration,
    pub(crate) deadline: Option<Instant>,
    /// `None` if it is polled anyway after the spin.
    pub(crate) waker: Option<Waker>,
}

/// Whether the thread spins for one more task, beside as many `others`.
pub(crate) fn is_due(others: usize) -> bool {
    if others > 0 {
        return others < MOST;
    }
    let mut spin = SPIN.get();
    let is_due = spin.is_due();
    SPIN.set(spin);
    is_due
}

/// Spins until one of the `tasks` can go on or `is_notified`, and calls `turn` for the other tasks at
/// times.
pub(crate) fn spin(tasks: &mut [SpinTask], is_notified: impl Fn() -> bool, turn: impl Fn(Instant)) {
    let Some(limit) = tasks.iter().map(|it| it.limit).min() else { return };
    let until = tasks.iter().filter_map(|it| it.deadline).min();
    let meanwhile = |tasks: &mut &mut [SpinTask], now| {
        tasks.iter().for_each(|it| it.side.maintain_at(now));
        if NEXT_TURN.get().is_none_or(|at| now >= at) {
            NEXT_TURN.set(Some(now + TURN));
            turn(now);
        }
    };
    let is_over = |tasks: &mut &mut [SpinTask]| {
        (is_notified() || tasks.iter().any(|it| it.side.is_ready())).then_some(())
    };
    let mut spin = SPIN.get();
    spin.limit = limit;
    spin.run(&mut { tasks }, until, meanwhile, is_over);
    SPIN.set(spin);
}

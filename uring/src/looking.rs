//! The tasks of a thread in [`block_on`](crate::block_on) that have not announced that they wait:
//! before it sleeps, the thread looks for all of them for a while.
//!
//! Not in their polls: a task that spins there keeps those beside it in the same future waiting.
//! Each polls again after the look, whatever came of it, and announces then if it must.

use std::cell::Cell;
use std::task::Waker;
use std::time::{Duration, Instant};

use parkline_core::driver::{Side, Spin};

/// As many as are looked for; more tasks than that have other work for the thread soon enough.
const MOST: usize = 16;

/// How long others may wait for what the kernel and the clock have for them: about as long as a wake
/// takes.
const GLANCE: Duration = Duration::from_micros(20);

thread_local! {
    /// What the thread's looks brought.
    static SPIN: Cell<Spin> = Cell::default();
    /// When to see next to what others wait for.
    static NEXT_GLANCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// What one task waits for.
#[derive(Debug)]
pub(crate) struct Looker {
    pub(crate) side: Side,
    /// For how long at most somebody looks for it.
    pub(crate) limit: Duration,
    pub(crate) deadline: Option<Instant>,
    /// `None` if it is polled anyway after the look.
    pub(crate) waker: Option<Waker>,
}

/// Whether one more task is to be looked for, beside as many `others`.
pub(crate) fn is_due(others: usize) -> bool {
    if others > 0 {
        return others < MOST;
    }
    let mut spin = SPIN.get();
    let is_due = spin.is_due();
    SPIN.set(spin);
    is_due
}

/// Looks until there is something for one of the `tasks` or `is_notified`, and sees to others by
/// `glance` now and then.
pub(crate) fn look(tasks: &mut [Looker], is_notified: impl Fn() -> bool, glance: impl Fn(Instant)) {
    let Some(limit) = tasks.iter().map(|it| it.limit).min() else { return };
    let until = tasks.iter().filter_map(|it| it.deadline).min();
    let meanwhile = |tasks: &mut &mut [Looker], now| {
        tasks.iter().for_each(|it| it.side.keep_watch_at(now));
        if NEXT_GLANCE.get().is_none_or(|at| now >= at) {
            NEXT_GLANCE.set(Some(now + GLANCE));
            glance(now);
        }
    };
    let is_over = |tasks: &mut &mut [Looker]| {
        (is_notified() || tasks.iter().any(|it| it.side.is_ready())).then_some(())
    };
    let mut spin = SPIN.get();
    spin.limit = limit;
    spin.look(&mut { tasks }, until, meanwhile, is_over);
    SPIN.set(spin);
}

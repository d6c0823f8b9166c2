//! The blocking wait: the loop in which a thread tries, announces itself, tries again, and sleeps.
//!
//! It is the loop that loom runs, with a model of the futex for [`Kernel`].

use std::time::{Duration, Instant};

use crate::wait::gate::{Gate, Kernel};

/// How long a call may wait, and how often it looks without having been woken.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// When to give up.
    pub until: Option<Instant>,
    /// The watchdog: nobody sleeps longer than this without looking.
    pub watchdog: Duration,
}

impl Patience {
    /// Whether the time is over.
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn next_sleep(&self) -> Duration {
        match self.until {
            None => self.watchdog,
            Some(until) => self.watchdog.min(until.saturating_duration_since(Instant::now())),
        }
    }
}

/// Calls `attempt` until it answers, sleeping at `gate` in between; `None` when the time is over.
///
/// `more` says whether another waiter would find something to do: whoever slept and got what it
/// waited for passes the wake on then, since one wake may have stood for several changes.
pub fn wait_at<T>(
    kernel: &impl Kernel,
    gate: &Gate,
    patience: Patience,
    mut attempt: impl FnMut() -> Option<T>,
    more: impl FnOnce() -> bool,
) -> Option<T> {
    if let Some(answer) = attempt() {
        return Some(answer);
    }
    let mut slept = false;
    // Ends with an answer or with the time: a peer that keeps changing the word keeps us awake, at one
    // system call a round, and no more.
    let answer = loop {
        let sleep = gate.announce();
        if let Some(answer) = attempt() {
            break answer;
        }
        if patience.is_over() {
            return None;
        }
        kernel.wait(&sleep, Some(patience.next_sleep()));
        slept = true;
    };
    if slept
        && more()
        && let Some(wake) = gate.notify(1)
    {
        wake.carry_out(kernel);
    }
    Some(answer)
}

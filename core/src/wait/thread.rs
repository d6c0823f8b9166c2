//! The blocking wait: the loop in which a thread attempts, announces itself, attempts again, and
//! sleeps.
//!
//! loom runs this loop with a model of the futex for [`Kernel`].

use std::time::{Duration, Instant};

use crate::wait::gate::{Gate, Kernel};

/// How long a call can wait, and how often it attempts without a wake-up.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// When to give up.
    pub until: Option<Instant>,
    /// The watchdog: the longest sleep between two attempts.
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

/// Calls `attempt` until it answers, and sleeps at `gate` in between; `None` when the time is over.
///
/// `more` returns whether another waiter could be served. A thread that slept and got its answer
/// then wakes the next waiter, because one wake-up can stand for several changes.
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
    // Ends with an answer or when the time is over. A peer that keeps changing the word costs this
    // thread one system call a round, and no more.
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Fails if a sleep has no length (seen failing: the thread never sleeps), or goes beyond the
    /// deadline (seen failing).
    #[test]
    fn a_sleep_is_as_long_as_the_watchdog_and_the_deadline_allow() {
        const HOUR: Duration = Duration::from_secs(3600);
        let within = |until: Option<Duration>| {
            let until = until.map(|it| Instant::now() + it);
            Patience { until, watchdog: HOUR }.next_sleep()
        };
        assert_eq!(within(None), HOUR);
        assert_eq!(within(Some(HOUR * 2)), HOUR);
        assert!((HOUR / 4..=HOUR / 2).contains(&within(Some(HOUR / 2))));
    }
}

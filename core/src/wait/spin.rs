//! Spinning for a while before the thread sleeps, if spinning has paid off lately.
//!
//! To wake a thread on another core takes tens of microseconds, and an answer from a running thread
//! comes within one. But a spin only wastes time if the peer needs this core, or if the answer
//! comes much later. A thread cannot know this in advance, so it decides by its last spins. An
//! answered spin earns one credit, up to 64. A failed spin costs 16 credits. If there are fewer, it
//! costs none, but the next 16 waits sleep at once. Each further such failure doubles that number,
//! up to 4,096, and an answer resets it.

use core::hint::spin_loop;
use std::time::{Duration, Instant};

/// A little more than twice the time of a wake-up across cores: long enough for a peer that is just
/// being woken.
const LIMIT: Duration = Duration::from_micros(50);
/// Attempts between two readings of the clock.
const ATTEMPTS: u32 = 16;

const MOST_CREDIT: u16 = 64;
const PRICE: u16 = 16;

/// Waits without a spin after a failure without credit: at first, and at most.
const FIRST_GAP: u16 = 16;
const LAST_GAP: u16 = 4096;

/// Decides whether a thread spins, by the results of its last spins.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    /// The longest time of one spin.
    pub limit: Duration,
    credit: u16,
    /// How many waits to pass before the next spin.
    pass: u16,
    gap: u16,
}

impl Default for Spin {
    fn default() -> Self {
        Self { limit: LIMIT, credit: 0, pass: 0, gap: FIRST_GAP }
    }
}

impl Spin {
    /// Whether this wait is to spin. Call once for each wait.
    pub fn is_due(&mut self) -> bool {
        let is_due = self.pass == 0;
        self.pass = self.pass.saturating_sub(1);
        is_due && !self.limit.is_zero()
    }

    /// Calls `attempt` until it answers, at most for the limit and not after `until`. Calls
    /// `meanwhile` after each reading of the clock.
    pub fn run<H, T>(
        &mut self,
        handle: &mut H,
        until: Option<Instant>,
        mut meanwhile: impl FnMut(&mut H, Instant),
        mut attempt: impl FnMut(&mut H) -> Option<T>,
    ) -> Option<T> {
        let begin = Instant::now();
        let mut now = begin;
        loop {
            meanwhile(handle, now);
            for _ in 0..ATTEMPTS {
                spin_loop();
                if let Some(answer) = attempt(handle) {
                    self.credit = MOST_CREDIT.min(self.credit.saturating_add(1));
                    self.gap = FIRST_GAP;
                    return Some(answer);
                }
            }
            now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                // Cut short by the caller: neither a success nor a failure.
                return None;
            }
            if now.saturating_duration_since(begin) >= self.limit {
                self.spun_in_vain();
                return None;
            }
        }
    }

    fn spun_in_vain(&mut self) {
        match self.credit.checked_sub(PRICE) {
            Some(left) => self.credit = left,
            None => {
                self.pass = self.gap;
                self.gap = LAST_GAP.min(self.gap.saturating_mul(2));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// How many of `waits` spin, if none is answered.
    fn count(spin: &mut Spin, waits: u32) -> u32 {
        let mut spins = 0;
        for _ in 0..waits {
            if spin.is_due() {
                spins += 1;
                spin.limit = Duration::from_nanos(1);
                assert_eq!(spin.run(&mut (), None, |(), _| (), |()| None::<()>), None);
            }
        }
        spins
    }

    /// Fails if a failed spin does not put off the next, or if the gaps do not grow (each seen
    /// failing).
    #[test]
    fn what_is_in_vain_is_tried_seldom() {
        let mut spin = Spin::default();
        assert_eq!(count(&mut spin, 1 + 16 + 1 + 32 + 1), 3);
        count(&mut spin, 1 << 14);
        assert!(count(&mut spin, 1 << 14) <= 4);
    }

    /// Fails if an answer earns no credit (seen failing).
    #[test]
    fn what_pays_off_goes_on_after_one_in_vain() {
        let mut spin = Spin::default();
        for _ in 0..PRICE {
            assert!(spin.is_due());
            assert_eq!(spin.run(&mut (), None, |(), _| (), |()| Some(1)), Some(1));
        }
        assert_eq!(count(&mut spin, 3), 2, "the first has been paid for");
    }

    /// Fails if a spin goes on after `until`, or then counts as a failure (each seen failing).
    #[test]
    fn a_time_that_is_over_is_kept_and_teaches_nothing() {
        let mut spin = Spin { limit: HOUR, ..Spin::default() };
        assert_eq!(spin.run(&mut (), Some(Instant::now()), |(), _| (), |()| None::<()>), None);
        assert_eq!(count(&mut spin, 1), 1);
    }

    /// Fails if a long spin does not call `meanwhile` (seen failing).
    #[test]
    fn who_spins_for_long_sees_to_other_things_now_and_then() {
        let rounds = Cell::new(0);
        let third = |_: &mut _| (rounds.get() == 3).then_some(());
        let mut spin = Spin { limit: HOUR, ..Spin::default() };
        let seen = spin.run(&mut (), None, |(), _| rounds.set(rounds.get() + 1), third);
        assert_eq!(seen, Some(()));
    }
}

//! Looking for a while before the thread sleeps, where that has paid off lately.
//!
//! To wake a thread on another core takes tens of microseconds, and an answer from there comes within
//! one. But who spins on the core that the peer needs, or for what comes much later, has only wasted
//! time. Nobody can tell before, so everybody goes by what the last spins brought: one in vain costs
//! as much credit as many that were answered have earned, and without credit the thread sleeps at
//! once, but for a try now and then: more and more seldom while all are in vain.

use core::hint::spin_loop;
use std::time::{Duration, Instant};

/// A little more than a wake across cores takes, twice: so a peer that is being woken right now is
/// waited for, too.
const LIMIT: Duration = Duration::from_micros(50);
/// Looks between two at the clock.
const LOOKS: u32 = 16;

const MOST_CREDIT: u16 = 64;
const PRICE: u16 = 16;

/// Waits without a spin after one in vain: at first, and at most.
const FIRST_GAP: u16 = 16;
const LAST_GAP: u16 = 4096;

/// Whether a thread spins now, by what its last spins brought.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    /// For how long at most it spins.
    pub limit: Duration,
    credit: u16,
    /// How many waits to pass before the next try.
    pass: u16,
    gap: u16,
}

impl Default for Spin {
    fn default() -> Self {
        Self { limit: LIMIT, credit: 0, pass: 0, gap: FIRST_GAP }
    }
}

impl Spin {
    /// Whether the next wait is one to look in: asked once a wait.
    pub fn is_due(&mut self) -> bool {
        let is_due = self.pass == 0;
        self.pass = self.pass.saturating_sub(1);
        is_due && !self.limit.is_zero()
    }

    /// Calls `attempt` until it answers, for at most the limit and not after `until`; and `meanwhile`
    /// whenever it has looked at the clock.
    pub fn look<H, T>(
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
            for _ in 0..LOOKS {
                spin_loop();
                if let Some(answer) = attempt(handle) {
                    self.credit = MOST_CREDIT.min(self.credit.saturating_add(1));
                    self.gap = FIRST_GAP;
                    return Some(answer);
                }
            }
            now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                // Cut short: that tells nothing.
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

    /// How many of `waits` spin, of which none is answered.
    fn count(spin: &mut Spin, waits: u32) -> u32 {
        let mut spins = 0;
        for _ in 0..waits {
            if spin.is_due() {
                spins += 1;
                spin.limit = Duration::from_nanos(1);
                assert_eq!(spin.look(&mut (), None, |(), _| (), |()| None::<()>), None);
            }
        }
        spins
    }

    /// Fails if one in vain does not put off the next, or if the gaps do not grow (each seen
    /// failing).
    #[test]
    fn what_is_in_vain_is_tried_seldom() {
        let mut spin = Spin::default();
        assert_eq!(count(&mut spin, 1 + 16 + 1 + 32 + 1), 3);
        count(&mut spin, 1 << 14);
        assert!(count(&mut spin, 1 << 14) <= 4);
    }

    /// Fails if an answer earns nothing (seen failing).
    #[test]
    fn what_pays_off_goes_on_after_one_in_vain() {
        let mut spin = Spin::default();
        for _ in 0..PRICE {
            assert!(spin.is_due());
            assert_eq!(spin.look(&mut (), None, |(), _| (), |()| Some(1)), Some(1));
        }
        assert_eq!(count(&mut spin, 3), 2, "the first has been paid for");
    }

    /// Fails if a spin goes on after `until`, or counts as one in vain then (each seen failing).
    #[test]
    fn a_time_that_is_over_is_kept_and_teaches_nothing() {
        let mut spin = Spin { limit: HOUR, ..Spin::default() };
        assert_eq!(spin.look(&mut (), Some(Instant::now()), |(), _| (), |()| None::<()>), None);
        assert_eq!(count(&mut spin, 1), 1);
    }

    /// Fails if who spins for long does nothing else (seen failing).
    #[test]
    fn who_spins_for_long_sees_to_other_things_now_and_then() {
        let rounds = Cell::new(0);
        let third = |_: &mut _| (rounds.get() == 3).then_some(());
        let mut spin = Spin { limit: HOUR, ..Spin::default() };
        let seen = spin.look(&mut (), None, |(), _| rounds.set(rounds.get() + 1), third);
        assert_eq!(seen, Some(()));
    }
}

//! Looking for a while before the thread sleeps, where that has paid off lately.
//!
//! To wake a thread on another core takes tens of microseconds, and an answer from there comes within
//! one. But who spins on the core that the peer needs, or for what comes much later, has only wasted
//! time. Nobody can tell before, so each handle goes by what its last spins brought: one in vain costs
//! as much credit as many that were answered have earned, and without credit the handle sleeps at
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

/// How long one handle spins, and whether it does now.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    limit: Duration,
    credit: u16,
    /// How many waits to pass before the next try.
    pass: u16,
    gap: u16,
}

impl Default for Spin {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

impl Spin {
    /// For at most `limit` at a time; not at all if that is zero.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, credit: 0, pass: 0, gap: FIRST_GAP }
    }

    /// Calls `attempt` until it answers, or for as long as it is worth it; not after `until`.
    pub fn look<T>(
        &mut self,
        until: Option<Instant>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if self.limit.is_zero() || self.passes() {
            return None;
        }
        let begin = Instant::now();
        loop {
            for _ in 0..LOOKS {
                spin_loop();
                if let Some(answer) = attempt() {
                    self.credit = MOST_CREDIT.min(self.credit.saturating_add(1));
                    self.gap = FIRST_GAP;
                    return Some(answer);
                }
            }
            let now = Instant::now();
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

    fn passes(&mut self) -> bool {
        let passes = self.pass > 0;
        self.pass = self.pass.saturating_sub(1);
        passes
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
    use super::*;

    const SHORT: Duration = Duration::from_nanos(1);

    /// How many of `waits` spin, of which none is answered.
    fn count(spin: &mut Spin, waits: u32) -> u32 {
        let mut spins = 0;
        for _ in 0..waits {
            let mut looked = false;
            assert_eq!(
                spin.look(None, || {
                    looked = true;
                    None::<()>
                }),
                None
            );
            spins += u32::from(looked);
        }
        spins
    }

    /// Fails if one in vain does not put off the next, or if the gaps do not grow (each seen
    /// failing).
    #[test]
    fn what_is_in_vain_is_tried_seldom() {
        let mut spin = Spin::new(SHORT);
        assert_eq!(count(&mut spin, 1 + 16 + 1 + 32 + 1), 3);
        count(&mut spin, 1 << 14);
        assert!(count(&mut spin, 1 << 14) <= 4);
    }

    /// Fails if an answer earns nothing (seen failing).
    #[test]
    fn what_pays_off_goes_on_after_one_in_vain() {
        let mut spin = Spin::new(SHORT);
        for _ in 0..PRICE {
            assert_eq!(spin.look(None, || Some(1)), Some(1));
        }
        assert_eq!(count(&mut spin, 3), 2, "the first has been paid for");
    }

    #[test]
    fn a_limit_of_zero_and_a_time_that_is_over_are_kept() {
        assert_eq!(Spin::new(Duration::ZERO).look(None, || Some(1)), None);
        let mut spin = Spin::new(Duration::from_secs(3600));
        assert_eq!(spin.look(Some(Instant::now()), || None::<()>), None);
        assert_eq!(count(&mut Spin { limit: SHORT, ..spin }, 1), 1, "nothing was learnt of that");
    }
}

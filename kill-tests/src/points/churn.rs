//! What the other processes do while one is stopped: they receive messages and send them again, round
//! and round.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use parkline_core::TryRecvError;

use crate::message::{self, Id};
use crate::scene::Scene;

/// The message that goes round if the ring was empty.
const ROUND: Id = 7;
/// The rate is measured in slices at least this long.
const SLICE: Duration = Duration::from_millis(5);
/// Rounds between two looks at the clock.
const ROUNDS: u32 = 256;

/// Whether a message may come flagged as redelivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flagged {
    /// No: it would have been taken from the stopped peer.
    Wrong,
    /// Yes: the stopped peer itself returned it, or recovered it from a dead process.
    Fine,
}

impl Scene {
    /// Sends messages round for `time`, and returns the rate in rounds a second. It is the rate of the
    /// slice that is faster than nine tenths of all slices, because other work of the machine slows
    /// some of them. In the end the ring holds the same messages, in another order.
    ///
    /// # Errors
    /// If a message comes flagged that should not: it was taken from the stopped peer.
    pub(crate) fn churn(&mut self, time: Duration, flagged: Flagged) -> Result<f64> {
        // Each message that goes round is acknowledged and sent anew, so a join ends early.
        self.joining = None;
        let is_empty = self.queue.is_empty();
        if is_empty {
            self.sender.try_send(&message::of(ROUND, self.len))?;
        }
        let (begin, mut rates) = (Instant::now(), Vec::new());
        while begin.elapsed() < time {
            let (slice, mut rounds) = (Instant::now(), 0);
            while slice.elapsed() < SLICE {
                for _ in 0..ROUNDS {
                    self.round(flagged)?;
                }
                rounds += ROUNDS;
            }
            rates.push(f64::from(rounds) / slice.elapsed().as_secs_f64());
        }
        if is_empty {
            let last = self.receiver.try_recv()?;
            ensure!(last == message::of(ROUND, self.len), "{last:?} came of nothing");
        }
        rates.sort_by(f64::total_cmp);
        Ok(rates.get(rates.len() * 9 / 10).copied().unwrap_or(0.0))
    }

    fn round(&mut self, flagged: Flagged) -> Result<()> {
        let lease = match self.receiver.try_lease() {
            Ok(lease) => lease,
            Err(TryRecvError::Empty) => bail!("what went round is gone"),
            Err(refused) => bail!(refused),
        };
        let is_fine = flagged == Flagged::Fine || !lease.redelivered();
        ensure!(is_fine, "a message of the stopped peer came again");
        let message = lease.read()?;
        lease.ack();
        Ok(self.sender.try_send(&message)?)
    }
}

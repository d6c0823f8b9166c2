//! What the others do while one is stopped: receive and send, round and round.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use parkline_core::TryRecvError;

use crate::message::{self, Id};
use crate::scene::Scene;

/// Of a message put in where there is none to send round.
const ROUND: Id = 7;
/// Rounds in a slice whose rate is measured.
const SLICE: Duration = Duration::from_millis(5);
const ROUNDS: u32 = 256;

/// What to think of a message that comes flagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flagged {
    /// It was taken from the stopped peer.
    Wrong,
    /// The stopped peer itself gave it back, or recovered it of one who died.
    Fine,
}

impl Scene {
    /// The rate, in rounds a second, at which messages go round for so long: that of the slice that
    /// nine tenths are slower than, for a machine that does other things takes away most of some.
    /// The messages that were there are there again at the end, though in another order.
    ///
    /// # Errors
    /// If one comes flagged that should not: the stopped peer's was taken from it.
    pub(crate) fn churn(&mut self, time: Duration, flagged: Flagged) -> Result<f64> {
        // What goes round is acknowledged, and sent anew.
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

//! A receiver that sleeps on a thread of its own until there is something.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use parkline_core::Queue;

use crate::asleep::Sleeper;
use crate::message;
use crate::scene::WATCHDOG;
use crate::states::{AFTER, Arrival};

/// How much later than the watchdog says a survivor may come to its message.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

/// Receives until [`AFTER`] comes.
#[derive(Debug)]
pub(crate) struct Waiter(JoinHandle<Result<Vec<Arrival>>>);

impl Waiter {
    /// Asleep when this returns.
    pub(crate) fn start(queue: &Queue, len: usize) -> Result<Self> {
        let mut receiver = queue.receiver()?;
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            tell.send(Sleeper::this_thread())?;
            let mut arrivals = Vec::new();
            loop {
                let lease = receiver.lease_blocking()?;
                let redelivered = lease.redelivered();
                let id = message::id(&lease.read()?, len).context("a message arrived garbled")?;
                lease.ack();
                arrivals.push(Arrival { id, redelivered });
                if id == AFTER || len == 0 && arrivals.len() == 2 {
                    return Ok(arrivals);
                }
            }
        });
        told.recv()?.until_asleep()?;
        Ok(Self(thread))
    }

    /// All that arrived.
    pub(crate) fn seen(self) -> Result<Vec<Arrival>> {
        self.0.join().map_err(|_| anyhow!("the waiter panicked"))?
    }

    /// # Errors
    /// If a message stays longer than the watchdog allows.
    pub(crate) fn wait_until_drained(queue: &Queue) -> Result<()> {
        let begin = Instant::now();
        while !queue.is_empty() {
            let late = begin.elapsed();
            ensure!(late < WATCHDOG + GRACE, "a receiver sleeps beside a message for {late:?}");
            thread::yield_now();
        }
        Ok(())
    }
}

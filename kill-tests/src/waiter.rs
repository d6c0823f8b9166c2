//! A receiver that sleeps on a thread of its own until there is a message.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use parkline_core::{Queue, RecvTimeoutError};

use crate::asleep::{Late, Sleeper};
use crate::message;
use crate::states::{AFTER, Arrival};

/// The watchdog of a queue whose test waits for it. It is short.
pub(crate) const WATCHDOG: Duration = Duration::from_millis(10);
/// How much later than the watchdog's period a survivor may receive its message.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

/// Receives until [`AFTER`] comes. If messages have no bytes to tell them apart, receives until all
/// are sent and no more comes.
#[derive(Debug)]
pub(crate) struct Waiter {
    thread: JoinHandle<Result<Vec<Arrival>>>,
    sleeper: Sleeper,
    all_sent: Arc<AtomicBool>,
}

impl Waiter {
    /// The receiver is asleep when this returns.
    pub(crate) fn start(queue: &Queue, len: usize) -> Result<Self> {
        let mut receiver = queue.receiver()?;
        let (tell, told) = mpsc::channel();
        let all_sent = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&all_sent);
        let thread = thread::spawn(move || {
            tell.send(Sleeper::this_thread())?;
            let mut arrivals = Vec::new();
            loop {
                let was_over = is_over.load(Relaxed);
                let lease = match len {
                    0 => receiver.lease_blocking_timeout(WATCHDOG),
                    _ => receiver.lease_blocking().map_err(RecvTimeoutError::from),
                };
                let lease = match lease {
                    Err(RecvTimeoutError::Timeout) if was_over => return Ok(arrivals),
                    Err(RecvTimeoutError::Timeout) => continue,
                    lease => lease?,
                };
                let (redelivered, attempts) = (lease.redelivered(), lease.attempts());
                let id = message::id(&lease.read()?, len).context("a message arrived garbled")?;
                lease.ack();
                arrivals.push(Arrival { id, redelivered, attempts });
                if len > 0 && id == AFTER {
                    return Ok(arrivals);
                }
            }
        });
        let sleeper = told.recv()?;
        sleeper.until_asleep()?;
        Ok(Self { thread, sleeper, all_sent })
    }

    /// All messages that arrived.
    pub(crate) fn seen(self) -> Result<Vec<Arrival>> {
        self.all_sent.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow!("the waiter panicked"))?
    }

    /// Waits until the receiver has taken all messages.
    ///
    /// # Errors
    /// If a message stays for longer than the watchdog allows.
    pub(crate) fn wait_until_drained(&self, queue: &Queue) -> Result<()> {
        let late = Late::begin(&self.sleeper);
        while !queue.is_empty() {
            late.check(WATCHDOG + GRACE).context("a receiver beside a message")?;
            thread::yield_now();
        }
        Ok(())
    }
}

//! Statistics: counters of what happened at a queue. They decide nothing.
//!
//! Each record has its own counters, which only its owner writes, so that counting needs no locked
//! instruction. The next owner of a record goes on from the counts of the last.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Statistics of a queue since it was created, in all processes together. Exact while no handle
/// does an operation. The last operation before a process was killed may be missing, and a send that
/// it began may be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages sent. A message that came back is not counted again.
    pub sent: u64,
    /// Messages received. A message is counted for each time that it was received.
    pub received: u64,
    /// Messages that came back to be received again.
    pub redelivered: u64,
    /// Messages given up after `max_attempts`, whether they were handled, forwarded, or discarded.
    pub dead_lettered: u64,
    /// Messages on their way back into the queue, which was full, or held back until a time. The
    /// number at this moment, not a sum.
    pub owed: u64,
    /// Handles that died with their process and were recovered.
    pub recovered: u64,
    /// Waits that reached the kernel, of threads or of a reactor for its tasks.
    pub parks: u64,
    /// Wake-ups that reached the kernel, including those that found no waiter.
    pub wakes: u64,
}

/// A counter of one handle.
///
/// Also under loom an atomic of the standard library: no model depends on it.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn increment(&self) {
        // One thread writes the counter, so no locked instruction is needed.
        self.0.store(self.0.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// The same for events of any thread.
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Takes the last [`increment`](Self::increment) back.
    #[inline]
    pub(crate) fn decrement(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }
}

/// What the owners of one record did.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Tally {
    /// Also the number of the next message: see "ids" in `swap.rs`.
    pub(crate) sent: Counter,
    pub(crate) received: Counter,
    pub(crate) redelivered: Counter,
    pub(crate) dead_lettered: Counter,
    pub(crate) recovered: Counter,
    pub(crate) parks: Counter,
    pub(crate) wakes: Counter,
}

impl Stats {
    pub(crate) fn add(&mut self, tally: &Tally) {
        for (sum, counter) in [
            (&mut self.sent, &tally.sent),
            (&mut self.received, &tally.received),
            (&mut self.redelivered, &tally.redelivered),
            (&mut self.dead_lettered, &tally.dead_lettered),
            (&mut self.recovered, &tally.recovered),
            (&mut self.parks, &tally.parks),
            (&mut self.wakes, &tally.wakes),
        ] {
            // Wraps, because a peer can have stored any number.
            *sum = sum.wrapping_add(counter.get());
        }
    }
}

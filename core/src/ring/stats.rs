//! Counters for people: what happened at a queue. Nothing is ever decided by them.
//!
//! Each record has its own, which only its owner writes, so that counting costs no locked
//! instruction. They outlive their owners: whoever takes the record over goes on counting.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What happened at a queue since it was created, in all processes together. For people: right when
/// nobody moves, and what a process did just before it was killed may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages sent. One that came back is not counted again.
    pub sent: u64,
    /// Messages received, each time that they were.
    pub received: u64,
    /// Messages that came back to be received again.
    pub redelivered: u64,
    /// Messages given up after `max_attempts`: handled, forwarded, or discarded as was asked for.
    pub dead_lettered: u64,
    /// Messages on their way back into the queue, which was full, or that are held back for a time.
    /// A number of now, not a sum.
    pub owed: u64,
    /// Handles whose process died with them, and that were recovered.
    pub recovered: u64,
    /// Waits that reached the kernel, of threads or for the tasks of a reactor.
    pub parks: u64,
    /// Wakes that reached the kernel, those that found nobody included.
    pub wakes: u64,
}

/// A counter of one handle.
///
/// An atomic of the standard library also under loom: a model has no use for it.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn increment(&self) {
        // Not one locked instruction: there is one writer.
        self.0.store(self.0.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// For what happens on any thread.
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What the owners of one record did.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Tally {
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
            // What a peer scribbled there may be anything.
            *sum = sum.wrapping_add(counter.get());
        }
    }
}

//! A flag: a word that stays set until it is cleared, for any number of waiters.
//!
//! The word is `times cleared << 1 | SET`. One `fetch_or` sets it and at most one exchange clears
//! it, so neither can be made to wait. A wait that began before a set ends even if the flag was
//! cleared at once, because the word has changed. Whatever a peer stores is a valid state.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [set] | set: fetch_or, also if it was set | was_set_since, is_set: load; clear: load, exchange | all that happened before the set |
//!
//! Waiters wait at a gate: the `fetch_or` is the commit of its [announce]. Each set and each clear
//! notifies the gate, even if it changed nothing, because another process may have been killed
//! between its change and its wake-up.

use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::SeqCst};
use crate::wait::gate::{Gate, Wake};

const SET: u64 = 1;

/// A word that stays set until it is cleared.
#[derive(Debug)]
#[repr(transparent)]
pub struct Flag {
    word: AtomicU64,
}

/// The state of the flag when a wait began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(u64);

impl Flag {
    /// A flag that is not set.
    #[expect(clippy::new_without_default, reason = "loom's atomics are made inside a model only")]
    pub fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Sets the flag, and notifies all waiters at `gate`.
    pub fn set<'a>(&self, gate: &'a Gate) -> Option<Wake<'a>> {
        self.word.fetch_or(SET, SeqCst); // [set], [announce]
        gate.notify(u32::MAX)
    }

    /// Clears the flag, and notifies all waiters at `gate`. A waiter may have been there since
    /// before the set, because its wake-up was lost with a killed process.
    pub fn clear<'a>(&self, gate: &'a Gate) -> Option<Wake<'a>> {
        // If there is nothing to clear, this load is the commit.
        let seen = self.word.load(SeqCst); // [set], [announce]
        if seen & SET != 0 {
            // If the exchange fails, another thread has cleared the flag meanwhile. This clear then
            // counts as done at the same moment, before any later set. Acquire: two sets can leave
            // the same word, and the exchange can find the later one. [set]
            let _ = self.word.compare_exchange(seen, seen.wrapping_add(1), Acquire, Relaxed);
        }
        gate.notify(u32::MAX)
    }

    /// Whether it is set now.
    pub fn is_set(&self) -> bool {
        self.word.load(Acquire) & SET != 0 // [set]
    }

    /// The current state, for [`was_set_since`](Self::was_set_since).
    pub fn since(&self) -> Since {
        // Relaxed: an older word only makes an earlier set count, too.
        Since(self.word.load(Relaxed))
    }

    /// Whether the flag is set, or was set at any time since `since`.
    pub fn was_set_since(&self, since: Since) -> bool {
        // The fence of [announce] orders this load after the announcement.
        let now = self.word.load(Acquire); // [set]
        now & SET != 0 || now != since.0
    }
}

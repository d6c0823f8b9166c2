//! A flag: a word that stays set, for everybody who waits until it is.
//!
//! The word is `times cleared << 1 | SET`. It is set by one `fetch_or` and cleared by at most one
//! exchange, so neither can be made to wait; and whoever began to wait before a set is done even if
//! it was cleared at once, for the word is not what it was. Whatever a peer writes is a state of it.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [set] | set: fetch_or, also where it was set | was_set_since, is_set: load | all that happened before the set |
//!
//! Who waits does so at a gate: the `fetch_or` is the commit of its [announce]. Everybody who sets or
//! clears tells the gate, changed or not: another may have been killed between its change and its
//! wake.

use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::SeqCst};
use crate::wait::gate::{Gate, Wake};

const SET: u64 = 1;

/// A word that stays set until it is cleared.
#[derive(Debug)]
#[repr(transparent)]
pub struct Flag {
    word: AtomicU64,
}

/// When somebody began to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(u64);

impl Flag {
    /// A flag that is not set.
    #[expect(clippy::new_without_default, reason = "loom's atomics are made inside a model only")]
    pub fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Sets it, and has everybody look who waits at `gate`.
    pub fn set<'a>(&self, gate: &'a Gate) -> Option<Wake<'a>> {
        self.word.fetch_or(SET, SeqCst); // [set], [announce]
        gate.notify(u32::MAX)
    }

    /// Clears it. Has everybody look who waits at `gate` since before it was set: his wake may have
    /// died with who set it, or with who cleared it first.
    pub fn clear<'a>(&self, gate: &'a Gate) -> Option<Wake<'a>> {
        // Of a clear that finds nothing to change this load is the commit.
        let seen = self.word.load(SeqCst); // [set], [announce]
        if seen & SET != 0 {
            // Refused, another has cleared it meanwhile: so have we, just before whoever set it again.
            // Acquire: of two sets that left the same word, it may find the later. [set]
            let _ = self.word.compare_exchange(seen, seen.wrapping_add(1), Acquire, Relaxed);
        }
        gate.notify(u32::MAX)
    }

    /// Whether it is set now.
    pub fn is_set(&self) -> bool {
        self.word.load(Acquire) & SET != 0 // [set]
    }

    /// Now: for [`was_set_since`](Self::was_set_since).
    pub fn since(&self) -> Since {
        // Relaxed: from an older word on, it was set too.
        Since(self.word.load(Relaxed))
    }

    /// Whether it was set at any time since then, `since` included.
    pub fn was_set_since(&self, since: Since) -> bool {
        // The fence of [announce] orders it.
        let now = self.word.load(Acquire); // [set]
        now & SET != 0 || now != since.0
    }
}

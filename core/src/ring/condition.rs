//! The condition of a queue in this process: what a call has to know before it loads a shared word.
//!
//! | bits of the word | meaning |
//! |---|---|
//! | 0 | [`ALIVE`]: set, except in a forked child |
//! | 1 | [`CORRUPT`]: a call of this process has found the queue corrupt |
//! | 2.. | how many messages the handles of this process owe |
//!
//! So one comparison with [`ALIVE`] tells that a call may take the short path. The word lies on a page
//! that the kernel wipes in a forked child: see `process/fork.rs`.
//!
//! A queue with invalid slots or messages is of no more use. So after one call has found it
//! corrupt, all later calls of the process return that fault before they load a shared word. This
//! also bounds a call that does many operations: only the first of them uses up its attempts
//! (`MAX_ATTEMPTS`).
//!
//! A fault in the record of a dead handle is not kept: only that record is lost, and the queue
//! still works.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::OnceLock;

use crate::error::Corrupt;

const ALIVE: u64 = 1;
const CORRUPT: u64 = 2;
const ONE_OWED: u64 = 4;

/// Private memory of the process, one for each segment that it has opened.
///
/// Also under loom an atomic of the standard library: it decides only which path a call takes.
#[derive(Debug)]
pub(crate) struct Condition {
    word: Word,
    fault: OnceLock<Corrupt>,
}

#[derive(Debug)]
enum Word {
    /// Of a ring on the heap.
    #[cfg(loom)]
    Own(AtomicU64),
    Wiped(&'static AtomicU64),
}

impl Condition {
    /// The condition of a queue that was just opened, in `word`, which a fork wipes in the child.
    pub(crate) fn new(word: &'static AtomicU64) -> Self {
        word.store(ALIVE, Relaxed);
        Self { word: Word::Wiped(word), fault: OnceLock::new() }
    }

    #[cfg(loom)]
    pub(crate) fn on_heap() -> Self {
        Self { word: Word::Own(AtomicU64::new(ALIVE)), fault: OnceLock::new() }
    }

    /// The word, to be tested by [`is_usual`].
    pub(crate) fn word(&self) -> &AtomicU64 {
        match &self.word {
            #[cfg(loom)]
            Word::Own(word) => word,
            Word::Wiped(word) => word,
        }
    }

    /// Whether this is a forked child of the process that opened the queue.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.word().load(Relaxed) & ALIVE == 0
    }

    /// An error if a call of this process has found the queue corrupt.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Corrupt> {
        self.fault.get().map_or(Ok(()), |found| Err(*found))
    }

    /// Keeps the first fault, and returns it.
    #[cold]
    pub(crate) fn keep(&self, corrupt: Corrupt) -> Corrupt {
        let fault = *self.fault.get_or_init(|| corrupt);
        // Relaxed: a call that does not see it yet finds the fault itself, or nothing wrong.
        self.word().fetch_or(CORRUPT, Relaxed);
        fault
    }

    /// Counts one more message that a handle of this process owes.
    pub(crate) fn add_owed(&self) {
        // Relaxed: the thread that acts on it takes the lock of returns first.
        self.word().fetch_add(ONE_OWED, Relaxed);
    }

    /// Counts one message less.
    pub(crate) fn remove_owed(&self) {
        self.word().fetch_sub(ONE_OWED, Relaxed);
    }
}

/// Whether a call may take the short path: this is no forked child, the queue is not known to be
/// corrupt, and no handle of this process owes a message of it.
#[inline(always)]
pub(crate) fn is_usual(word: &AtomicU64) -> bool {
    word.load(Relaxed) == ALIVE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if a fault, an owed message or a wiped word leaves the condition usual, or a message that is
    /// owed no more does not make it usual again (each seen failing).
    #[test]
    fn only_the_usual_condition_opens_the_short_path() {
        static WORD: AtomicU64 = AtomicU64::new(0);
        let condition = Condition::new(&WORD);
        let is_usual = || is_usual(condition.word());
        assert!(is_usual() && !condition.is_forked());
        for _ in 0..2 {
            condition.add_owed();
            assert!(!is_usual() && !condition.is_forked());
        }
        condition.remove_owed();
        assert!(!is_usual());
        condition.remove_owed();
        assert!(is_usual());
        let (first, second) = (Corrupt { what: "first" }, Corrupt { what: "second" });
        assert_eq!(condition.check(), Ok(()));
        assert_eq!(condition.keep(first), first);
        assert!(!is_usual());
        assert_eq!((condition.keep(second), condition.check()), (first, Err(first)));
        // As in a forked child, also while a thread of the parent owed.
        for word in [0, ONE_OWED] {
            WORD.store(word, Relaxed);
            assert!(!is_usual() && condition.is_forked());
        }
    }
}

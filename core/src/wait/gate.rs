//! A gate: where those who must wait announce themselves, and where those who made a change look.
//!
//! The word is `epoch << 1 | WAITERS`, and nobody counts: a counter would leak with its owner.
//!
//! ```text
//! park:    k = word.fetch_or(WAITERS) | WAITERS;  look again;  nothing: sleep while word == k
//! notify:  (after the change)  WAITERS not set: done, no system call
//!          k = word.fetch_add(one epoch);  r = wake n
//!          r == 0: clear WAITERS *with* an epoch;  if that won: wake all
//! woken:   take;  if more is there: notify 1 (the baton)
//! ```
//!
//! The second wake is not to be spared: a waiter may have gone to sleep, its bit still set, between
//! the two steps, and a plain clear would leave it asleep for ever.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [announce] | announce: fetch_or, then a SeqCst fence | notify: SeqCst load after a SeqCst commit; or any load after a fence, or after a store that `membarrier` orders | "I sleep unless I see your commit": one of the two sees the other |
//! | [bump] | notify: fetch_add | announce: fetch_or, then a fence; the kernel's compare | a sleep that began before the bump does not begin, and one that begins after it sees what the wake is for |
//!
//! The gate makes no system call. [`Gate::announce`] returns a [`Sleep`] and [`Gate::notify`] a
//! [`Wake`] for a [`Kernel`] to carry out: the futex, io_uring, or a model.

use core::time::Duration;

use crate::sync::{AtomicU32, fence};
use crate::sync::{Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

const WAITERS: u32 = 1;
const EPOCH: u32 = 2;

/// Who carries out what a gate asks for.
pub trait Kernel {
    /// Sleeps while the word has the expected value, at most for `timeout`. May return at any time.
    fn wait(&self, sleep: &Sleep<'_>, timeout: Option<Duration>);

    /// Wakes up to `count` of those who wait on `word`; returns how many it woke.
    fn wake(&self, word: &AtomicU32, count: u32) -> u32;
}

/// A futex word that parks one side of a queue.
#[derive(Debug)]
#[repr(transparent)]
pub struct Gate {
    word: AtomicU32,
}

/// Permission to sleep: valid only if the caller looked again after [`Gate::announce`].
#[derive(Debug)]
#[must_use = "look again, then hand this to a kernel; dropping it costs the next notify a system call"]
pub struct Sleep<'a> {
    word: &'a AtomicU32,
    expected: u32,
}

/// Somebody may be asleep.
#[derive(Debug)]
#[must_use = "a peer sleeps until this reaches the kernel"]
pub struct Wake<'a> {
    word: &'a AtomicU32,
    epoch: u32,
    count: u32,
}

impl Gate {
    /// A gate at which nobody waits.
    #[expect(clippy::new_without_default, reason = "loom's atomics are made inside a model only")]
    pub fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// The word that waiters of this gate wait on.
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// Announces a waiter. Look again before sleeping.
    pub fn announce(&self) -> Sleep<'_> {
        // Relaxed: the fence acquires what it finds, too ([bump]).
        let expected = self.word.fetch_or(WAITERS, Relaxed) | WAITERS;
        fence(SeqCst); // [announce]
        Sleep { word: &self.word, expected }
    }

    /// Call after the change that up to `count` waiters wait for; the change was committed with
    /// SeqCst.
    #[inline]
    pub fn notify(&self, count: u32) -> Option<Wake<'_>> {
        crate::sync::order_commit_before_load();
        // [announce]
        if self.word.load(SeqCst) & WAITERS == 0 {
            return None;
        }
        Some(self.bump(count))
    }

    /// Call after a plain store that up to `count` waiters wait for. Exact only for waiters that,
    /// after they announced, had the kernel put a barrier into every thread of every process
    /// (`membarrier`): then the store came before that barrier and is seen, or this load comes after
    /// it and sees the announcement. So the store needs no fence of its own.
    #[inline]
    pub fn notify_of_store(&self, count: u32) -> Option<Wake<'_>> {
        crate::sync::order_store_before_load();
        // Relaxed: the barrier orders it. [announce]
        if self.word.load(Relaxed) & WAITERS == 0 {
            return None;
        }
        Some(self.bump(count))
    }

    /// Call after stores of any kind that up to `count` waiters wait for.
    pub fn notify_of_stores(&self, count: u32) -> Option<Wake<'_>> {
        fence(SeqCst); // [announce]
        // Relaxed: the fence orders it.
        if self.word.load(Relaxed) & WAITERS == 0 {
            return None;
        }
        Some(self.bump(count))
    }

    /// Wakes everybody, announced or not: for close and for recovery.
    pub fn notify_all(&self) -> Wake<'_> {
        self.bump(u32::MAX)
    }

    #[cold]
    fn bump(&self, count: u32) -> Wake<'_> {
        let epoch = self.word.fetch_add(EPOCH, Release).wrapping_add(EPOCH); // [bump]
        Wake { word: &self.word, epoch, count }
    }
}

impl<'a> Sleep<'a> {
    /// The word to wait on. Lives as long as the mapping of its segment.
    pub fn word(&self) -> &'a AtomicU32 {
        self.word
    }

    /// The value at which to sleep.
    pub fn expected(&self) -> u32 {
        self.expected
    }
}

impl Wake<'_> {
    /// Wakes the waiters, and heals the WAITERS bit when it finds that there are none.
    pub fn carry_out(self, kernel: &impl Kernel) {
        if kernel.wake(self.word, self.count) > 0 {
            return;
        }
        let cleared = (self.epoch & !WAITERS).wrapping_add(EPOCH);
        // Relaxed: a waiter finds the word moved and looks again, and [bump] goes on through the
        // exchange. If it fails, another notify moved the word, and heals it in turn.
        if self.word.compare_exchange(self.epoch, cleared, Relaxed, Relaxed).is_ok() {
            kernel.wake(self.word, u32::MAX);
        }
    }
}

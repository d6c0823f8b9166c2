//! A gate: a word at which waiters announce themselves. A thread that made a change loads it to see
//! whether any are there.
//!
//! The word is `epoch << 1 | WAITERS`. Waiters are not counted, because a count would leak when a
//! waiter dies.
//!
//! ```text
//! park:    k = word.fetch_or(WAITERS) | WAITERS;  attempt again;  no answer: sleep while word == k
//! notify:  (after the change)  WAITERS not set: done, no system call
//!          k = word.fetch_add(one epoch);  r = wake n
//!          r == 0: clear WAITERS *with* an epoch;  if that won: wake all
//! woken:   take;  if more is there: notify 1 (the baton)
//! ```
//!
//! The second wake is necessary: a waiter can go to sleep between the two steps, with its bit still
//! set, and after a plain clear it would sleep for ever.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [announce] | announce: fetch_or, then a SeqCst fence | notify: SeqCst load after a SeqCst commit; or any load after a fence, or after a store that `membarrier` orders | "I sleep unless I see your commit": one of the two sees the other |
//! | [bump] | notify: fetch_add | announce: fetch_or, then a fence; the kernel's compare | the change: a sleep announced before the bump does not start after it, and a waiter that announces after it sees the change |
//!
//! The gate makes no system call. [`Gate::announce`] returns a [`Sleep`] and [`Gate::notify`] a
//! [`Wake`] for a [`Kernel`] to carry out: the futex, io_uring, or a model.

use core::time::Duration;

use crate::sync::{AtomicU32, fence};
use crate::sync::{Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

const WAITERS: u32 = 1;
const EPOCH: u32 = 2;

/// Carries out the system calls that a gate asks for.
pub trait Kernel {
    /// Sleeps while the word has the expected value, at most for `timeout`. Can return at any time.
    fn wait(&self, sleep: &Sleep<'_>, timeout: Option<Duration>);

    /// Wakes up to `count` waiters on `word`; returns how many it woke.
    fn wake(&self, word: &AtomicU32, count: u32) -> u32;
}

/// A futex word that parks one side of a queue.
#[derive(Debug)]
#[repr(transparent)]
pub struct Gate {
    word: AtomicU32,
}

/// Permission to sleep: valid only if the caller attempted again after [`Gate::announce`].
#[derive(Debug)]
#[must_use = "attempt again, then hand this to a kernel; dropping it costs the next notify a system call"]
pub struct Sleep<'a> {
    word: &'a AtomicU32,
    expected: u32,
}

/// A wake-up to be carried out: a waiter may be asleep.
#[derive(Debug)]
#[must_use = "a peer sleeps until this reaches the kernel"]
pub struct Wake<'a> {
    word: &'a AtomicU32,
    epoch: u32,
    count: u32,
}

impl Gate {
    /// A gate without waiters.
    #[expect(clippy::new_without_default, reason = "loom's atomics are made inside a model only")]
    pub fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// The futex word of this gate.
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// Announces a waiter. Attempt again before sleeping.
    pub fn announce(&self) -> Sleep<'_> {
        // Relaxed: the fence makes this load acquire, too ([bump]).
        let expected = self.word.fetch_or(WAITERS, Relaxed) | WAITERS;
        fence(SeqCst); // [announce]
        Sleep { word: &self.word, expected }
    }

    /// Call after a change that up to `count` waiters wait for. The change must be committed with
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

    /// Call after a plain store that up to `count` waiters wait for. Exact only for waiters that
    /// had the kernel put a barrier into every thread of every process (`membarrier`) after their
    /// announcement. Then the store came before that barrier and the waiter sees it, or this load
    /// comes after it and sees the announcement. So the store needs no fence of its own.
    #[inline]
    pub fn notify_of_store(&self, count: u32) -> Option<Wake<'_>> {
        crate::sync::order_store_before_load();
        // Relaxed: the barrier orders it. [announce]
        if self.word.load(Relaxed) & WAITERS == 0 {
            return None;
        }
        Some(self.bump(count))
    }

    /// Call after stores of any ordering that up to `count` waiters wait for.
    pub fn notify_of_stores(&self, count: u32) -> Option<Wake<'_>> {
        fence(SeqCst); // [announce]
        // Relaxed: the fence orders it. [announce]
        if self.word.load(Relaxed) & WAITERS == 0 {
            return None;
        }
        Some(self.bump(count))
    }

    /// Wakes all waiters, also if the word shows none: for close and for recovery.
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
    /// The futex word. It lives as long as the mapping of its segment.
    pub fn word(&self) -> &'a AtomicU32 {
        self.word
    }

    /// The value with which the word lets the waiter sleep.
    pub fn expected(&self) -> u32 {
        self.expected
    }
}

impl Wake<'_> {
    /// Wakes the waiters, and clears the WAITERS bit if there are none.
    pub fn carry_out(self, kernel: &impl Kernel) {
        if kernel.wake(self.word, self.count) > 0 {
            return;
        }
        let cleared = (self.epoch & !WAITERS).wrapping_add(EPOCH);
        // Relaxed: a waiter finds the word changed and attempts again, and the exchange continues
        // the release of [bump]. If the exchange fails, another notify changed the word, and clears
        // the bit itself.
        if self.word.compare_exchange(self.epoch, cleared, Relaxed, Relaxed).is_ok() {
            kernel.wake(self.word, u32::MAX);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Fails if a way to notify wakes without a waiter, or does not wake the first one of a gate (each seen
    /// failing, by `&` replaced with `^` and with `|`).
    #[test]
    fn a_gate_asks_for_a_wake_if_it_shows_a_waiter() {
        let ways: [fn(&Gate) -> Option<Wake<'_>>; 3] =
            [|it| it.notify(1), |it| it.notify_of_store(1), |it| it.notify_of_stores(1)];
        for notify in ways {
            let gate = Gate::new();
            assert!(notify(&gate).is_none());
            let sleep = gate.announce();
            assert_eq!(sleep.expected(), gate.word().load(Relaxed));
            assert!(notify(&gate).is_some());
            // The epoch changed: a sleep that was announced before does not begin.
            assert_ne!(sleep.expected(), gate.word().load(Relaxed));
        }
    }
}

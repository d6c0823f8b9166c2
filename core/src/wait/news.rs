//! News of a death, and the one thread of a process that looks for the dead.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [news] | `bring`: has_news, fence, then the lock is tried | `look`: unlock, fence, has_news | the bringer finds the lock free, or the thread that has it sees the news: a fence on both sides |
//! | [death] | `bring`: has_news | `take` | all that the dead stored, as far as the bringer knows of it |

use crate::sync::{AtomicU32, Mutex, fence};
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

/// Whether a peer has died, and who looks.
#[derive(Debug)]
pub struct News {
    /// 1 if there is news.
    has_news: AtomicU32,
    /// Of the thread that looks.
    looking: Mutex<()>,
}

impl News {
    /// None, and no thread looks.
    #[expect(clippy::new_without_default, reason = "loom's atomics are made inside a model only")]
    pub fn new() -> Self {
        Self { has_news: AtomicU32::new(0), looking: Mutex::new(()) }
    }

    /// A peer has died. The caller looks then: see [`look`](Self::look).
    pub fn bring(&self) {
        // No plain store: that would hide what another thread brought from the thread that takes it.
        self.has_news.swap(1, Release); // [death]
        fence(SeqCst); // [news]
    }

    /// Whether there is some. Another thread may take it before the caller acts on it.
    pub fn is_any(&self) -> bool {
        // Relaxed: a hint, or [news] orders it.
        self.has_news.load(Relaxed) != 0
    }

    /// Takes the news, if there is some: the caller looks for the dead now.
    pub fn take(&self) -> bool {
        self.has_news.swap(0, Acquire) != 0 // [death]
    }

    /// Calls `look`, unless another thread does so now: that one looks again for news that this one
    /// brought, unless its `is_resting` answers.
    pub fn look(&self, mut look: impl FnMut(), is_resting: impl Fn() -> bool) {
        loop {
            {
                let Ok(_looking) = self.looking.try_lock() else { return };
                look();
            }
            fence(SeqCst); // [news]
            if !self.is_any() || is_resting() {
                return;
            }
        }
    }

    /// As a thread that looks and is not done.
    #[cfg(test)]
    pub(crate) fn keep_looking(&self) -> impl Drop + '_ {
        self.looking.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

//! News of a death, and the one thread of a process that searches for the dead.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [news] | `bring`: has_news, fence, then the lock is tried | `search`: unlock, fence, has_news | the thread that brings news finds the lock free, or the thread that holds it sees the news: a fence on both sides |
//! | [death] | `bring`: has_news | `take` | all stores of the dead process that the thread in `bring` has seen |

use crate::sync::{AtomicU32, Mutex, fence};
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

/// Whether a peer has died, and the lock of the thread that searches.
#[derive(Debug)]
pub struct News {
    /// 1 if there is news.
    has_news: AtomicU32,
    /// Held by the thread that searches.
    searching: Mutex<()>,
}

impl News {
    /// No news, and no thread searches.
    #[expect(clippy::new_without_default, reason = "loom's atomics are made inside a model only")]
    pub fn new() -> Self {
        Self { has_news: AtomicU32::new(0), searching: Mutex::new(()) }
    }

    /// Brings the news that a peer has died. The caller then calls [`search`](Self::search).
    pub fn bring(&self) {
        // Not a plain store: it would break the release sequence of another thread's news.
        self.has_news.swap(1, Release); // [death]
        fence(SeqCst); // [news]
    }

    /// Whether there is news. Another thread can take it before the caller acts on it.
    pub fn is_any(&self) -> bool {
        // Relaxed: a hint, or [news] orders it.
        self.has_news.load(Relaxed) != 0
    }

    /// Takes the news; whether there was any. The caller searches for the dead then.
    pub fn take(&self) -> bool {
        self.has_news.swap(0, Acquire) != 0 // [death]
    }

    /// Calls `search` unless another thread searches now. That thread then calls its own `search`
    /// once more, for the news that this one brought, unless its `is_resting` returns true.
    pub fn search(&self, mut search: impl FnMut(), is_resting: impl Fn() -> bool) {
        loop {
            {
                let Ok(_searching) = self.searching.try_lock() else { return };
                search();
            }
            fence(SeqCst); // [news]
            if !self.is_any() || is_resting() {
                return;
            }
        }
    }

    /// Acts as a thread whose search goes on.
    #[cfg(test)]
    pub(crate) fn keep_searching(&self) -> impl Drop + '_ {
        self.searching.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

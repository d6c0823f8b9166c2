//! Whether a driver waits for room on behalf of a handle that owes messages.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [driven] | `begin`, also if a driver is at work | `end` | what the caller of `begin` owes: the driver sees it before it stops |

use crate::sync::{AtomicU32, Ordering::Acquire, Ordering::Release};

/// Set while a driver is at work.
#[derive(Debug)]
pub struct Driven(AtomicU32);

impl Driven {
    /// No driver is at work.
    #[expect(clippy::new_without_default, reason = "loom's atomics are made inside a model only")]
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Call after a message became owed. Returns whether no driver was at work: the caller starts
    /// one then.
    pub fn begin(&self) -> bool {
        self.0.swap(1, Release) == 0 // [driven]
    }

    /// Whether the calling driver can stop: no message is owed, or another driver has begun
    /// meanwhile.
    pub fn end(&self, owes: impl Fn() -> bool) -> bool {
        if owes() {
            return false;
        }
        // A handle that began to owe meanwhile may have found this driver at work.
        self.0.swap(0, Acquire); // [driven]
        !owes() || !self.begin()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Fails if a second driver begins beside the first, or if none ever stops (each seen failing).
    #[test]
    fn one_driver_is_at_work_until_nothing_is_owed() {
        let driven = Driven::new();
        assert!(driven.begin() && !driven.begin());
        assert!(!driven.end(|| true) && !driven.begin());
        assert!(driven.end(|| false) && driven.begin());
    }
}

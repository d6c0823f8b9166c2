//! A driver's own value for a queue as this process opened it. The queue drops it.

use std::any::Any;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::OnceLock;

use crate::process::fork::hold_forks;

/// Empty until a driver first asks for it.
#[derive(Default)]
pub(crate) struct Companion(OnceLock<Box<Kept>>);

/// The bounds keep the auto traits of handles the same with a companion as without one.
type Kept = dyn Any + Send + Sync + UnwindSafe + RefUnwindSafe;

impl Companion {
    /// The companion; the first call makes it by `make`. `None` if there is one of another
    /// type.
    pub(crate) fn get_or_make<T: Any + Send + Sync + UnwindSafe + RefUnwindSafe>(
        &self,
        make: impl FnOnce() -> T,
    ) -> Option<&T> {
        if self.0.get().is_none() {
            let made: Box<Kept> = Box::new(make());
            // A forked child must not find it half set.
            let forks = hold_forks();
            let made_in_vain = self.0.set(made).err();
            // The value's drop may call `hold_forks` itself.
            drop(forks);
            drop(made_in_vain);
        }
        let companion: &dyn Any = &**self.0.get()?;
        companion.downcast_ref()
    }
}

impl core::fmt::Debug for Companion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Companion").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use super::*;

    struct HoldsForks;

    impl Drop for HoldsForks {
        fn drop(&mut self) {
            drop(hold_forks());
        }
    }

    /// Two tasks that wait at a queue for the first time make one companion each.
    ///
    /// Fails if the second is dropped while forks are held: that thread waits for itself (seen
    /// failing).
    #[test]
    fn what_was_made_in_vain_is_dropped_when_forks_go_on() {
        let companion = Arc::new(Companion::default());
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let quicker = || companion.get_or_make(|| HoldsForks);
            let found = companion.get_or_make(|| {
                assert!(quicker().is_some());
                HoldsForks
            });
            done.send(found.is_some()).unwrap();
        });
        assert_eq!(is_done.recv_timeout(Duration::from_secs(60)), Ok(true));
    }
}

//! What a driver keeps for a queue as this process opened it: it is dropped with the queue.

use std::any::Any;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::OnceLock;

use crate::process::fork::hold_forks;

/// Empty until a driver asks for it.
#[derive(Default)]
pub(crate) struct Companion(OnceLock<Box<Kept>>);

/// So that handles stay what they are without it.
type Kept = dyn Any + Send + Sync + UnwindSafe + RefUnwindSafe;

impl Companion {
    /// The companion, made by `make` if there is none; `None` if the one that is there has another
    /// type.
    pub(crate) fn get_or_make<T: Any + Send + Sync + UnwindSafe + RefUnwindSafe>(
        &self,
        make: impl FnOnce() -> T,
    ) -> Option<&T> {
        let companion = self.0.get().unwrap_or_else(|| {
            let made: Box<Kept> = Box::new(make());
            // A forked child must not find it half set.
            let _forks = hold_forks();
            self.0.get_or_init(|| made)
        });
        let companion: &dyn Any = &**companion;
        companion.downcast_ref()
    }
}

impl core::fmt::Debug for Companion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Companion").finish_non_exhaustive()
    }
}

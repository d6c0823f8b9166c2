//! What a driver keeps for a queue as this process opened it: it is dropped with the queue.

use std::any::Any;
use std::sync::OnceLock;

use crate::fork::hold_forks;

/// Empty until a driver asks for it.
#[derive(Debug, Default)]
pub(crate) struct Companion(OnceLock<Box<dyn Any + Send + Sync>>);

impl Companion {
    /// The companion, made by `make` if there is none; `None` if the one that is there has another
    /// type.
    pub(crate) fn get_or_make<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        let companion = self.0.get().unwrap_or_else(|| {
            let made = Box::new(make());
            // A forked child must not find it half set.
            let _forks = hold_forks();
            self.0.get_or_init(|| made)
        });
        companion.downcast_ref()
    }
}

//! Kill points: places where the kill tests make a process die or stop.
//!
//! In a build with `--cfg kill_points` every access to a shared word goes through the atomics
//! below, which call a handler before the access; system calls call it by [`kill_point`]. In a
//! process without a handler nothing changes.

use core::ops::Deref;
use core::panic::Location;
use core::sync::atomic::{self, AtomicBool, Ordering, Ordering::Relaxed};
use std::sync::OnceLock;

/// A place in the code, and what is about to happen there.
#[derive(Clone, Copy, Debug)]
pub struct KillPoint {
    /// The line that makes the access or the call.
    pub at: &'static Location<'static>,
    /// The access or the system call.
    pub what: &'static str,
    /// The address of the word that is accessed.
    pub word: Option<usize>,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static HANDLER: OnceLock<fn(KillPoint)> = OnceLock::new();

/// Calls `handler` from here on before each point, on the thread that reaches it. Only the first
/// handler of a process is ever called.
pub fn arm(handler: fn(KillPoint)) {
    HANDLER.get_or_init(|| handler);
    ARMED.store(true, Relaxed);
}

/// Ends the calls of the handler.
pub fn disarm() {
    ARMED.store(false, Relaxed);
}

/// The calling line is about to do `what`, a system call.
#[track_caller]
#[inline]
pub fn kill_point(what: &'static str) {
    if ARMED.load(Relaxed) {
        reached(KillPoint { at: Location::caller(), what, word: None });
    }
}

/// The calling line is about to access `word`.
#[track_caller]
#[inline]
fn access<T>(what: &'static str, word: &T) {
    if ARMED.load(Relaxed) {
        let word = Some(core::ptr::from_ref(word).addr());
        reached(KillPoint { at: Location::caller(), what, word });
    }
}

#[cold]
fn reached(point: KillPoint) {
    if let Some(handler) = HANDLER.get() {
        handler(point);
    }
}

macro_rules! killable {
    ($name:ident, $word:ty) => {
        /// The standard library's atomic with a kill point before each access.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        #[allow(unreachable_pub, reason = "of two made alike, drivers name one")]
        pub struct $name(atomic::$name);

        #[allow(
            missing_docs,
            dead_code,
            unreachable_pub,
            reason = "two of the standard made alike"
        )]
        impl $name {
            #[inline]
            pub const fn new(word: $word) -> Self {
                Self(atomic::$name::new(word))
            }

            #[track_caller]
            #[inline]
            pub fn load(&self, order: Ordering) -> $word {
                access("load", self);
                self.0.load(order)
            }

            #[track_caller]
            #[inline]
            pub fn store(&self, word: $word, order: Ordering) {
                access("store", self);
                self.0.store(word, order);
            }

            #[track_caller]
            #[inline]
            pub fn compare_exchange(
                &self,
                current: $word,
                new: $word,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$word, $word> {
                access("compare_exchange", self);
                self.0.compare_exchange(current, new, success, failure)
            }

            #[track_caller]
            #[inline]
            pub fn fetch_add(&self, more: $word, order: Ordering) -> $word {
                access("fetch_add", self);
                self.0.fetch_add(more, order)
            }

            #[track_caller]
            #[inline]
            pub fn swap(&self, word: $word, order: Ordering) -> $word {
                access("swap", self);
                self.0.swap(word, order)
            }

            #[track_caller]
            #[inline]
            pub fn fetch_or(&self, bits: $word, order: Ordering) -> $word {
                access("fetch_or", self);
                self.0.fetch_or(bits, order)
            }
        }

        /// For calls that pass the word to the kernel.
        impl Deref for $name {
            type Target = atomic::$name;

            #[inline]
            fn deref(&self) -> &atomic::$name {
                &self.0
            }
        }
    };
}

killable!(AtomicU32, u32);
killable!(AtomicU64, u64);

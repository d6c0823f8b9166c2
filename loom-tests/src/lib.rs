//! The code that the models share. A build without `--cfg loom` has only the guard.
#![forbid(unsafe_code)]

#[cfg(loom)]
mod kernel;
#[cfg(loom)]
#[allow(missing_docs, missing_debug_implementations, reason = "parts of models, read with them")]
pub mod litmus;

#[cfg(loom)]
pub use kernel::*;

/// A test that fails in a build without loom, because the file then has no model. Each file of models
/// has it.
#[macro_export]
macro_rules! guard {
    () => {
        #[cfg(not(loom))]
        #[test]
        #[ignore = "run with `cargo loom`"]
        fn built_for_loom() {
            panic!(
                "built without --cfg loom: an environment RUSTFLAGS replaces the flags of `cargo loom`"
            );
        }
    };
}

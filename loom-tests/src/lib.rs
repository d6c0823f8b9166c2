//! What the models share. In a build without `--cfg loom` there is the guard alone.
#![forbid(unsafe_code)]

#[cfg(loom)]
mod kernel;
#[cfg(loom)]
#[allow(missing_docs, missing_debug_implementations, reason = "parts of models, read with them")]
pub mod litmus;

#[cfg(loom)]
pub use kernel::*;

/// A test that fails in a build without loom, where the file has no model. For each file of models.
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

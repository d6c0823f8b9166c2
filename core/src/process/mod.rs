//! A process's part of a queue: its mappings, its locks, its handles, and its search for dead
//! handles.
//!
//! Models have a stand-in for what needs a kernel: `model.rs`.

pub(crate) mod attachment;
#[cfg(not(loom))]
pub(crate) mod barriers;
#[cfg(not(loom))]
pub(crate) mod claim;
pub(crate) mod companion;
#[cfg(not(loom))]
pub(crate) mod descriptor;
#[cfg(not(loom))]
pub(crate) mod fork;
#[cfg(not(loom))]
pub(crate) mod futex;
#[cfg(not(loom))]
pub(crate) mod gone;
#[cfg(not(loom))]
pub(crate) mod locks;
#[cfg(not(loom))]
pub(crate) mod memory;
#[cfg(loom)]
mod model;
pub(crate) mod owed_wait;
pub(crate) mod owing_handles;
#[cfg(not(loom))]
pub(crate) mod recovery;
#[cfg(not(loom))]
pub(crate) mod segment;
pub(crate) mod side;
pub(crate) mod watch;

#[cfg(loom)]
pub(crate) use model::{barriers, claim, fork, futex, segment};

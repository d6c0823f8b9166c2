//! The public types and their calls.
//!
//! Models have those of a queue that they created.

#[cfg(all(feature = "census", not(loom)))]
pub(crate) mod census;
pub(crate) mod dead_letters;
#[cfg(not(loom))]
pub(crate) mod event;
pub(crate) mod lease;
pub(crate) mod message;
#[cfg(not(loom))]
pub(crate) mod open_options;
pub(crate) mod pack;
pub(crate) mod queue;
pub(crate) mod received;
pub(crate) mod receiver;
#[cfg(not(loom))]
pub(crate) mod semaphore;
pub(crate) mod sender;
#[cfg(not(loom))]
pub(crate) mod snapshot;

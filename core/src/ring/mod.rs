//! The words that handles share, and the algorithm on them. This folder makes no system call.
//!
//! `swap.rs` is the algorithm; `slots.rs` classifies a slot for a position.

pub(crate) mod arrays;
pub(crate) mod audit;
#[cfg(any(loom, feature = "census"))]
pub(crate) mod census;
pub(crate) mod condition;
pub(crate) mod control;
pub(crate) mod copy;
pub(crate) mod frame;
pub(crate) mod geometry;
#[cfg(loom)]
pub(crate) mod heap;
pub(crate) mod join;
pub(crate) mod port;
pub(crate) mod position;
pub(crate) mod prefetch;
pub(crate) mod returns;
pub(crate) mod slot;
pub(crate) mod slots;
#[cfg(not(loom))]
pub(crate) mod snapshot;
pub(crate) mod stats;
pub(crate) mod swap;

//! The public types and their calls.

pub(crate) mod census;
pub(crate) mod dead_letters;
pub(crate) mod event;
pub(crate) mod lease;
pub(crate) mod message;
pub(crate) mod open_options;
pub(crate) mod pack;
pub(crate) mod queue;
pub(crate) mod receiver;
pub(crate) mod semaphore;
pub(crate) mod sender;

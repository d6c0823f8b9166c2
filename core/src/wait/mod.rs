//! Waiting: gates, and the threads and tasks that wait at them. A driver makes the system calls.

pub(crate) mod driven;
pub(crate) mod flag;
pub(crate) mod gate;
pub(crate) mod line;
pub(crate) mod news;
pub(crate) mod spin;
pub(crate) mod tasks;
pub(crate) mod thread;

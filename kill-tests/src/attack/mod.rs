//! A peer that writes anything anywhere into a queue, and the processes that use the queue meanwhile.
//!
//! | file | idea |
//! |---|---|
//! | `scribble` | the hostile peer is a process of its own |
//! | `survivor` | a process that makes every call while the queue is overwritten |
//! | `peer` | what a hostile peer writes, for all attacks: also for the fuzz targets and `points/twin.rs` |

pub(crate) mod peer;
pub(crate) mod scribble;
pub(crate) mod survivor;

//! What a hostile peer does to a segment. All attacks use it: the scribbler, the twin, and the fuzz
//! targets `open` and `segment`, which include this file by its path.
//!
//! | file | idea |
//! |---|---|
//! | `words` | where the words of a segment lie, and values that look like words of the protocol |
//! | `world` | a queue, the handles and leases that one process has of it, and the steps of an attack |
//! | `ambush` | a word that changes during an operation |
//! | `drawn` | an attack that is drawn from bytes |

#[cfg(kill_points)]
pub(crate) mod ambush;
#[cfg(kill_points)]
pub(crate) mod drawn;
pub(crate) mod words;
#[cfg_attr(
    not(any(fuzzing, kill_points)),
    allow(dead_code, reason = "the scribbler's survivors are processes of their own")
)]
pub(crate) mod world;

//! What a hostile peer does to a segment, for all who attack: the fuzz targets `open` and `segment`,
//! which take this file by its path, the twin, and the scribbler.
//!
//! | file | idea |
//! |---|---|
//! | `words` | where the words of a segment lie, and values that look like words of the protocol |
//! | `world` | a queue, all that one process can hold of it, and the steps of an attack |
//! | `ambush` | a word that changes in the midst of an operation |

#[cfg(kill_points)]
pub(crate) mod ambush;
pub(crate) mod words;
#[cfg_attr(
    not(any(fuzzing, kill_points)),
    allow(dead_code, reason = "the scribbler's survivors are processes of their own")
)]
pub(crate) mod world;

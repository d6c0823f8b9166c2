//! A queue between real processes: each is this very test binary, run anew for the part that its
//! environment names, with the memfd as its standard input.

mod deprived;
mod descriptors;
mod exchange;
mod forks;
mod kernel_objects;
mod player;
mod recovery;
#[path = "../required/mod.rs"]
mod required;

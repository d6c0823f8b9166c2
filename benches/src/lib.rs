//! Parkline measured beside its alternatives, in the same run on the same machine.
//!
//! Numbers from one run are compared with each other and with nothing else.

pub mod compare;
pub mod instructions;
pub mod machine;
#[path = "../../kill-tests/src/shared.rs"]
mod shared;
pub mod vyukov;

/// What is sent where no length is named: 64 bytes, copied in and copied out by every peer.
pub type Message = [u64; 8];

/// Messages in flight, for every queue alike.
pub const CAPACITY: usize = 1024;

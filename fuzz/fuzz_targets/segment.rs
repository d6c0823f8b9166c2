//! A segment with a hostile peer, which writes any words between operations and in the midst of one. Each
//! operation ends within bounds, in an answer, and a new queue works afterwards.
//!
//! It found these planted bugs: a block's number not checked (17 s); a message's length loaded a second
//! time and not checked (by AddressSanitizer, in the first 1,024 inputs of a corpus; not in 90 s before
//! some steps were made noise).
#![no_main]

#[cfg(not(kill_points))]
compile_error!("a word changes at a kill point: RUSTFLAGS='--cfg kill_points' cargo +nightly fuzz run segment");

#[path = "../../kill-tests/src/attack/peer/mod.rs"]
mod attack;

use libfuzzer_sys::fuzz_target;

use self::attack::drawn::Attack;

fuzz_target!(|attack: Attack| {
    attack.run();
});

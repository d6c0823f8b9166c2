//! A segment with a hostile peer: whatever is written between operations, and in the midst of one, each
//! ends within bounds, in an answer, and a new queue works afterwards.
//!
//! Found: a block's number not checked (17 s); a message's length read a second time and believed (by
//! AddressSanitizer, in the first 1,024 inputs of a corpus; before some steps were noise, not in 90 s).
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

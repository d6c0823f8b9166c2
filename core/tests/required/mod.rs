//! What a machine may refuse, so that a test cannot be tried there. The tests of all crates share
//! this file; Python's have `python/tests/required.py`.

use std::io::Write;
use std::sync::Mutex;

/// Says that a test is not tried, because the machine has no `what`. `PARKLINE_REQUIRE` in the
/// environment names what the machine has, separated by commas.
///
/// # Panics
/// If the environment says that the machine has it.
pub(crate) fn not_tried(what: &str, why: impl core::fmt::Display) {
    let required = std::env::var("PARKLINE_REQUIRE").unwrap_or_default();
    assert!(required.split(',').all(|it| it != what), "PARKLINE_REQUIRE has {what}, but {why}");
    let test = std::thread::current();
    let says = format!("not tried: {}: {why}\n", test.name().unwrap_or_default());
    // Once a test. Not by `println`, which shows only what failed.
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().unwrap();
    if !said.contains(&says) {
        let _ = std::io::stderr().write_all(says.as_bytes());
        said.push(says);
    }
}

//! What a machine may refuse, so that a test cannot be tried there. The tests of all crates share
//! this file.

/// Says that a test is not tried, because the machine has no `what`. `PARKLINE_REQUIRE` in the
/// environment names what the machine has, separated by commas.
///
/// # Panics
/// If the environment says that the machine has it.
pub(crate) fn not_tried(what: &str, why: impl core::fmt::Display) {
    let required = std::env::var("PARKLINE_REQUIRE").unwrap_or_default();
    assert!(required.split(',').all(|it| it != what), "PARKLINE_REQUIRE has {what}, but {why}");
    println!("not tried: {why}");
}

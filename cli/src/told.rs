//! The text that is printed to stderr.

use std::fmt::Display;
use std::io::{Write, stderr};

/// An error with its causes, without those that its text contains already.
pub(crate) fn tell(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |mut told, cause| {
        if !told.contains(&cause) {
            told.push_str(if told.is_empty() { "" } else { ": " });
            told.push_str(&cause);
        }
        told
    })
}

/// Prints to stderr. Ignores an error, because there is no reader if stderr is closed.
pub(crate) fn say(text: impl Display) {
    let _ = write!(stderr(), "{text}");
}

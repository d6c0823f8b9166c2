//! The lines that `sha256sum -c` reads: digest in hex, two spaces, name.
//!
//! A name with a backslash, newline or carriage return is escaped, and its line begins with a
//! backslash, as coreutils 9 does it. Every other byte is written as it is, UTF-8 or not.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Appends the line of one file.
pub(crate) fn push_line(lines: &mut Vec<u8>, digest: &[u8; 32], name: &Path) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let name = name.as_os_str().as_bytes();
    if name.iter().any(|byte| escape(*byte).is_some()) {
        lines.push(b'\\');
    }
    for byte in digest {
        lines.push(HEX[usize::from(byte >> 4)]);
        lines.push(HEX[usize::from(byte & 15)]);
    }
    lines.extend(b"  ");
    for byte in name {
        match escape(*byte) {
            Some(escaped) => lines.extend(escaped),
            None => lines.push(*byte),
        }
    }
    lines.push(b'\n');
}

fn escape(byte: u8) -> Option<&'static [u8; 2]> {
    match byte {
        b'\\' => Some(br"\\"),
        b'\n' => Some(br"\n"),
        b'\r' => Some(br"\r"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn line(name: &[u8]) -> Vec<u8> {
        let mut lines = Vec::new();
        let mut digest = [0; 32];
        digest[0] = 0x0f;
        digest[31] = 0xa1;
        push_line(&mut lines, &digest, Path::new(OsStr::from_bytes(name)));
        lines
    }

    fn with(prefix: &str, name: &[u8]) -> Vec<u8> {
        [format!("{prefix}0f{}a1  ", "00".repeat(30)).as_bytes(), name, b"\n"].concat()
    }

    #[test]
    fn a_plain_name_stands_for_itself() {
        assert_eq!(line(b"./a file *"), with("", b"./a file *"));
        assert_eq!(line(b"\xff\xfe\t"), with("", b"\xff\xfe\t"));
    }

    #[test]
    fn a_name_that_would_break_the_line_is_escaped_and_says_so() {
        assert_eq!(line(b"a\nb"), with("\\", br"a\nb"));
        assert_eq!(line(b"a\r"), with("\\", br"a\r"));
        assert_eq!(line(br"a\nb"), with("\\", br"a\\nb"));
    }
}

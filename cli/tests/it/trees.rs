//! Trees of files to hash.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const NAMES: &[&[u8]] = &[
    b"plain",
    b" a name with spaces ",
    b"-c",
    b"*binary",
    b"back\\slash",
    b"\\n",
    b"new\nline",
    b"carriage\rreturn",
    b"at the end\r",
    b"\xff\xfe not UTF-8",
    "é".as_bytes(),
    b"\x1b[31mred",
    b".hidden",
];

/// Odd names, odd lengths, and things that are no regular files. Returns how many regular files
/// there are.
pub(crate) fn odd() -> (TempDir, usize) {
    let tree = tempfile::tempdir().unwrap();
    let at = |name: &str| tree.path().join(name);
    for name in NAMES {
        fs::write(tree.path().join(OsStr::from_bytes(name)), name).unwrap();
    }
    // None, one chunk, one byte more, many chunks.
    let lens = [0, 65_536, 65_537, 1_000_000];
    fs::create_dir_all(at("some/where\nbelow")).unwrap();
    for len in lens {
        fs::write(at("some/where\nbelow").join(len.to_string()), vec![b'x'; len]).unwrap();
    }
    fs::create_dir(at("empty")).unwrap();
    symlink("plain", at("to a file")).unwrap();
    symlink("some", at("to a directory")).unwrap();
    symlink("nowhere", at("to nothing")).unwrap();
    drop(UnixListener::bind(at("socket")).unwrap());
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    (tree, NAMES.len() + lens.len())
}

/// One empty file under that many names, which are quicker to make than files.
pub(crate) fn empty_files(count: usize) -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    let first = tree.path().join("0");
    fs::write(&first, b"").unwrap();
    for n in 1..count {
        fs::hard_link(&first, tree.path().join(n.to_string())).unwrap();
    }
    tree
}

/// Zeros, which take longer to hash than to read.
pub(crate) fn add_big(tree: &Path, name: &str, len: u64) {
    fs::File::create(tree.join(name)).unwrap().set_len(len).unwrap();
}

/// Adds a file with a path, from `tree`, that is longer than `PATH_MAX`. No process, not even
/// root's, can open it from there.
pub(crate) fn add_out_of_reach(tree: &Path) {
    let name = "x".repeat(200);
    // 19 directories are in reach, the file in the last is not, but by its last component.
    let make = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do
            mkdir \"$0\" && cd -P \"$0\" || exit 1
        done
        mkdir \"$1\" && cd -P \"$1\" && : > \"$0\"";
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(make).arg(&name).arg("x".repeat(100)).current_dir(tree);
    assert!(shell.status().unwrap().success());
}

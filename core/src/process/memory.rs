//! How much memory is left: the least of what the kernel reports for the machine and for each
//! control group of this process.
//!
//! This is a reading, not a reservation: other processes allocate before its answer is used. A
//! file that cannot be read sets no limit. So a system without `/proc` is not checked, and one
//! with control groups of version 1 is checked by `MemAvailable` alone. `memory.high` is not read:
//! beyond it the kernel slows the processes of a group down, but kills none.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::error::Shortage;

/// How much of a file is read at most: enough for 20,000 mounts.
const LONGEST_FILE: u64 = 4 << 20;
// Of the thread, because the files of a process are empty after its first thread has ended.
const GROUPS: &str = "/proc/thread-self/cgroup";
const MOUNTS: &str = "/proc/thread-self/mountinfo";
const MACHINE: &str = "/proc/meminfo";

/// Checks that `bytes` more are left, by a reading.
pub(crate) fn check(bytes: u64) -> Result<(), Shortage> {
    match least(read) {
        Some(left) if left.bytes < bytes => {
            Err(Shortage { bytes, available: left.bytes, limit: left.limit })
        }
        _ => Ok(()),
    }
}

struct Left {
    bytes: u64,
    limit: String,
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(8192);
    File::open(path).ok()?.take(LONGEST_FILE).read_to_end(&mut text).ok()?;
    Some(text)
}

fn least(read: impl Fn(&Path) -> Option<Vec<u8>>) -> Option<Left> {
    let machine = read(Path::new(MACHINE)).and_then(|text| of_machine(&text));
    let groups = groups(&read).unwrap_or_default();
    let limited = groups.iter().filter_map(|group| of_group(group, &read));
    limited.chain(machine).min_by_key(|left| left.bytes)
}

fn of_machine(meminfo: &[u8]) -> Option<Left> {
    let kibibytes = field(meminfo, b"MemAvailable:")?;
    let limit = format!("MemAvailable in {MACHINE}");
    Some(Left { bytes: kibibytes.saturating_mul(1024), limit })
}

fn of_group(group: &Path, read: impl Fn(&Path) -> Option<Vec<u8>>) -> Option<Left> {
    let number = |name| read(&group.join(name)).and_then(|text| parse(&text));
    // "max" is not a number: no limit.
    let max = number("memory.max")?;
    let current = number("memory.current")?;
    // `memory.current` also counts cached pages of files. A group that reads files reaches its
    // limit soon, and the kernel drops these pages first when it needs room.
    let stat = read(&group.join("memory.stat")).unwrap_or_default();
    let cache = field(&stat, b"inactive_file").unwrap_or(0);
    let bytes = max.saturating_sub(current.saturating_sub(cache));
    let group = group.display();
    let limit = format!(
        "memory.max {max} - memory.current {current} + inactive_file {cache} of the control group {group}"
    );
    Some(Left { bytes, limit })
}

/// The directories of the control group of this process and of its ancestors, as far as they are
/// mounted here.
fn groups(read: impl Fn(&Path) -> Option<Vec<u8>>) -> Option<Vec<PathBuf>> {
    let text = read(Path::new(GROUPS))?;
    let own = lines(&text).find_map(|line| line.strip_prefix(b"0::"))?;
    let own = Path::new(OsStr::from_bytes(own));
    let text = read(Path::new(MOUNTS))?;
    let mut groups = Vec::new();
    for (root, mount) in lines(&text).filter_map(cgroup2_mount) {
        let Ok(below) = own.strip_prefix(&root) else { continue };
        // `/..` is a group outside of this process's cgroup namespace, and is not mounted here.
        if below.components().any(|it| it == Component::ParentDir) {
            continue;
        }
        let own = mount.join(below);
        groups.extend(own.ancestors().take_while(|it| it.starts_with(&mount)).map(PathBuf::from));
    }
    Some(groups)
}

/// The root and the mount point of a cgroup2, if `line` of mountinfo is of one:
/// `31 23 0:28 ROOT MOUNT options [optional ..] - cgroup2 ..`.
fn cgroup2_mount(line: &[u8]) -> Option<(PathBuf, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (root, mount) = (fields.nth(3)?, fields.next()?);
    fields.find(|it| *it == b"-")?;
    (fields.next()? == b"cgroup2").then(|| (unescape(root), unescape(mount)))
}

/// Decodes a path of mountinfo, which writes a space as `\040`.
fn unescape(path: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.first_chunk::<3>().filter(|_| first == b'\\');
        let code = code.and_then(|code| u8::from_str_radix(str::from_utf8(code).ok()?, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

/// The number after `name`, in the first line that begins with `name`.
fn field(text: &[u8], name: &[u8]) -> Option<u64> {
    let line = lines(text).find_map(|line| line.strip_prefix(name))?;
    line.split(u8::is_ascii_whitespace).find_map(parse)
}

fn parse(text: &[u8]) -> Option<u64> {
    str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) =
        (MACHINE, "MemTotal: 24684092 kB\nMemFree: 1 kB\nMemAvailable:   1000 kB\n");
    const MOUNT: (&str, &str) = (MOUNTS, "41 31 0:38 / /cg rw,relatime shared:9 - cgroup2 none rw");

    fn least_of(files: &[(&str, &str)]) -> Option<(u64, String)> {
        let read = |path: &Path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(file.1.as_bytes().to_vec())
        };
        least(read).map(|left| (left.bytes, left.limit))
    }

    #[test]
    fn without_control_groups_the_machine_limits() {
        assert_eq!(least_of(&[]), None, "nothing to be read limits nothing");
        let (bytes, limit) = least_of(&[MEMINFO]).unwrap();
        assert_eq!(bytes, 1000 << 10);
        assert!(limit.contains("MemAvailable"), "{limit}");
        // Version 1, which has a controller's name in each line, and a hybrid without the
        // controller.
        let old = (GROUPS, "4:memory:/a\n1:cpu:/\n0::/\n");
        assert_eq!(least_of(&[MEMINFO, MOUNT, old]).unwrap().0, 1000 << 10);
    }

    /// Fails if only the process's own group is read (seen failing), or if the file cache counts as
    /// used (seen failing).
    #[test]
    fn the_tightest_ancestor_limits() {
        let files = [
            MEMINFO,
            MOUNT,
            (GROUPS, "0::/tight/own\n"),
            ("/cg/tight/own/memory.max", "max\n"),
            ("/cg/tight/own/memory.current", "10\n"),
            ("/cg/tight/memory.max", "5000\n"),
            ("/cg/tight/memory.current", "4000\n"),
            ("/cg/tight/memory.stat", "anon 3000\ninactive_file 700\n"),
        ];
        let (bytes, limit) = least_of(&files).unwrap();
        assert_eq!(bytes, 1700);
        for part in ["memory.max 5000", "memory.current 4000", "inactive_file 700", "/cg/tight"] {
            assert!(limit.contains(part), "{limit}");
        }
    }

    #[test]
    fn a_group_beyond_its_limit_has_nothing_left() {
        let files = [
            MOUNT,
            (GROUPS, "0::/a"),
            ("/cg/a/memory.max", "5000"),
            ("/cg/a/memory.current", "5001"),
        ];
        assert_eq!(least_of(&files).unwrap().0, 0);
    }

    /// Fails if the root of the mount is not stripped (seen failing).
    #[test]
    fn a_container_that_sees_a_part_of_the_hierarchy_reads_that_part() {
        let files = [
            (MOUNTS, r"41 31 0:38 /pods/a\040b /sys/fs\134x rw - cgroup2 none rw"),
            (GROUPS, "0::/pods/a b/own"),
            ("/sys/fs\\x/memory.max", "77"),
            ("/sys/fs\\x/memory.current", "7"),
        ];
        assert_eq!(least_of(&files).unwrap().0, 70);
    }

    /// Fails if `..` is followed (seen failing): the files of another group are read.
    #[test]
    fn a_group_outside_of_the_namespace_is_not_guessed() {
        let files = [
            MOUNT,
            (GROUPS, "0::/../other"),
            ("/cg/../other/memory.max", "77"),
            ("/cg/../other/memory.current", "7"),
            ("/cg/memory.max", "77"),
            ("/cg/memory.current", "7"),
        ];
        assert_eq!(least_of(&files), None);
    }

    #[test]
    fn files_of_any_bytes_are_read_without_a_panic() {
        let mut dice = 42_u64;
        let alphabet = b"0::/. \\\n-9cgroup2max:MemAvailable:\xff\0";
        for _ in 0..if cfg!(miri) { 30 } else { 30_000 } {
            let read = |_: &Path| {
                let mut next = || {
                    dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1);
                    (dice >> 33) as usize
                };
                let len = next() % 60;
                Some((0..len).map(|_| alphabet[next() % alphabet.len()]).collect())
            };
            let read = core::cell::RefCell::new(read);
            let _ = least(|path| (read.borrow_mut())(path));
        }
    }
}

//! The messages of the two queues of the demo.
//!
//! Numbers are little-endian. A path or an error goes last, as long as the message.
//!
//! | message | bytes |
//! |---|---|
//! | [`Job`] | index `u64`, path |
//! | [`Report::Ready`] | `0`, threads `u32`, waits in io_uring `u8` |
//! | [`Report::Hashed`] | `1`, index `u64`, redelivered `u8`, bytes `u64`, SHA-256 `[u8; 32]` |
//! | [`Report::Failed`] | `2`, index `u64`, redelivered `u8`, error in UTF-8 |
//! | [`Report::Done`] | `3`, threads `u32` |
//!
//! A result names its job by the index, so the parent knows which jobs are unanswered. A job can be
//! answered twice: if a worker is killed after it answered and before it acknowledged, the job is
//! delivered to another worker, which answers again. The second answer is flagged as redelivered.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `PATH_MAX`: no system call takes a longer path.
const LONGEST_PATH: usize = 4096;
const LONGEST_ERROR: usize = 256;

/// A file to hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) index: u64,
    pub(crate) path: PathBuf,
}

impl Job {
    pub(crate) const LONGEST: usize = 8 + LONGEST_PATH;

    pub(crate) fn encode(index: u64, path: &Path) -> Vec<u8> {
        [&index.to_le_bytes(), path.as_os_str().as_bytes()].concat()
    }

    /// `None` if this is no job.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let index = u64::from_le_bytes(take(&mut bytes)?);
        Some(Self { index, path: OsStr::from_bytes(bytes).into() })
    }
}

/// A message from a worker. A killed worker may have sent none, or only some of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// All tasks of this worker wait for a job. No job is sent before all workers have sent this.
    Ready {
        threads: u32,
        in_io_uring: bool,
    },
    Hashed {
        index: u64,
        redelivered: bool,
        len: u64,
        digest: [u8; 32],
    },
    /// The file could not be read.
    Failed {
        index: u64,
        redelivered: bool,
        why: String,
    },
    /// No job is left. This is the last message of a worker.
    Done {
        threads: u32,
    },
}

impl Report {
    pub(crate) const LONGEST: usize = 10 + LONGEST_ERROR;

    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready { threads, in_io_uring } => {
                [&[0][..], &threads.to_le_bytes(), &[u8::from(*in_io_uring)]].concat()
            }
            Self::Hashed { index, redelivered, len, digest } => {
                let redelivered = [u8::from(*redelivered)];
                [&[1][..], &index.to_le_bytes(), &redelivered, &len.to_le_bytes(), digest].concat()
            }
            Self::Failed { index, redelivered, why } => {
                // A character that is cut in two is shown as U+FFFD.
                let why = why.as_bytes();
                let why = why.get(..LONGEST_ERROR).unwrap_or(why);
                [&[2][..], &index.to_le_bytes(), &[u8::from(*redelivered)], why].concat()
            }
            Self::Done { threads } => [&[3][..], &threads.to_le_bytes()].concat(),
        }
    }

    /// `None` if this is no report.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let [kind] = take(bytes)?;
        let report = match kind {
            0 => {
                let (threads, in_io_uring) = (u32::from_le_bytes(take(bytes)?), flag(bytes)?);
                Self::Ready { threads, in_io_uring }
            }
            1 => {
                let (index, redelivered) = (u64::from_le_bytes(take(bytes)?), flag(bytes)?);
                let (len, digest) = (u64::from_le_bytes(take(bytes)?), take(bytes)?);
                Self::Hashed { index, redelivered, len, digest }
            }
            2 => {
                let (index, redelivered) = (u64::from_le_bytes(take(bytes)?), flag(bytes)?);
                let why = String::from_utf8_lossy(std::mem::take(bytes)).into_owned();
                Self::Failed { index, redelivered, why }
            }
            3 => Self::Done { threads: u32::from_le_bytes(take(bytes)?) },
            _ => return None,
        };
        bytes.is_empty().then_some(report)
    }
}

fn flag(bytes: &mut &[u8]) -> Option<bool> {
    take(bytes).map(|[flag]| flag != 0)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports() -> [Report; 4] {
        [
            Report::Ready { threads: 1, in_io_uring: true },
            Report::Hashed { index: 1 << 63, redelivered: true, len: 1 << 50, digest: [0xab; 32] },
            Report::Failed { index: 3, redelivered: false, why: "no".into() },
            Report::Done { threads: 70_000 },
        ]
    }

    #[test]
    fn what_was_sent_is_what_arrives() {
        for report in reports() {
            let bytes = report.encode();
            assert!(bytes.len() <= Report::LONGEST);
            assert_eq!(Report::decode(&bytes), Some(report));
        }
        let job = Job { index: 1 << 33, path: OsStr::from_bytes(b"a\xff\n\\b").into() };
        assert_eq!(Job::decode(&Job::encode(job.index, &job.path)), Some(job));
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        assert_eq!(Job::decode(&[0; 7]), None);
        for report in reports().iter().filter(|it| !matches!(it, Report::Failed { .. })) {
            let bytes = report.encode();
            for len in 0..bytes.len() {
                assert_eq!(Report::decode(&bytes[..len]), None, "{len} bytes of {report:?}");
            }
            assert_eq!(Report::decode(&[bytes, vec![0]].concat()), None, "too long");
        }
        assert_eq!(Report::decode(&[4; 9]), None, "unknown");
    }

    #[test]
    fn a_long_error_is_cut() {
        let why = "x".to_owned() + &"é".repeat(300);
        let bytes = Report::Failed { index: 0, redelivered: true, why }.encode();
        assert_eq!(bytes.len(), Report::LONGEST);
        let Some(Report::Failed { why, .. }) = Report::decode(&bytes) else { panic!() };
        assert_eq!(why, format!("x{}\u{fffd}", "é".repeat(127)));
    }
}

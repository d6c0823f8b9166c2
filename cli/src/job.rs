//! What travels through the two queues of the demo.
//!
//! Numbers are little-endian. A path or an error goes last, as long as the message.
//!
//! | message | bytes |
//! |---|---|
//! | [`Job`] | index `u64`, path |
//! | [`Report::Ready`] | `0`, worker `u32`, threads `u32`, waits in io_uring `u8` |
//! | [`Report::Hashed`] | `1`, index `u64`, bytes `u64`, SHA-256 `[u8; 32]` |
//! | [`Report::Failed`] | `2`, index `u64`, error in UTF-8 |
//! | [`Report::Done`] | `3`, worker `u32`, threads `u32`, parks `u64`, wakes `u64` |
//!
//! A result names its job by the index: the parent knows which are unanswered, and that none is
//! answered twice.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use parkline_uring::KernelCalls;

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

/// What a worker has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// All tasks of this worker wait for a job. No job is sent before all workers have said so.
    Ready {
        worker: u32,
        threads: u32,
        in_io_uring: bool,
    },
    Hashed {
        index: u64,
        len: u64,
        digest: [u8; 32],
    },
    /// The file could not be read.
    Failed {
        index: u64,
        why: String,
    },
    /// No job is left; the last word of this worker.
    Done {
        worker: u32,
        threads: u32,
        calls: KernelCalls,
    },
}

impl Report {
    pub(crate) const LONGEST: usize = 9 + LONGEST_ERROR;

    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready { worker, threads, in_io_uring } => {
                let in_io_uring = u8::from(*in_io_uring);
                [&[0][..], &worker.to_le_bytes(), &threads.to_le_bytes(), &[in_io_uring]].concat()
            }
            Self::Hashed { index, len, digest } => {
                [&[1][..], &index.to_le_bytes(), &len.to_le_bytes(), digest].concat()
            }
            Self::Failed { index, why } => {
                // A character that is cut in two is shown as one that is unknown.
                let why = why.as_bytes();
                let why = why.get(..LONGEST_ERROR).unwrap_or(why);
                [&[2][..], &index.to_le_bytes(), why].concat()
            }
            Self::Done { worker, threads, calls: KernelCalls { parks, wakes, .. } } => [
                &[3][..],
                &worker.to_le_bytes(),
                &threads.to_le_bytes(),
                &parks.to_le_bytes(),
                &wakes.to_le_bytes(),
            ]
            .concat(),
        }
    }

    /// `None` if this is no report.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let [kind] = take(bytes)?;
        let report = match kind {
            0 => {
                let (worker, threads) = (take(bytes)?, take(bytes)?);
                let [in_io_uring] = take(bytes)?;
                Self::Ready {
                    worker: u32::from_le_bytes(worker),
                    threads: u32::from_le_bytes(threads),
                    in_io_uring: in_io_uring != 0,
                }
            }
            1 => {
                let (index, len) = (take(bytes)?, take(bytes)?);
                let (index, len) = (u64::from_le_bytes(index), u64::from_le_bytes(len));
                Self::Hashed { index, len, digest: take(bytes)? }
            }
            2 => {
                let index = u64::from_le_bytes(take(bytes)?);
                let why = String::from_utf8_lossy(std::mem::take(bytes)).into_owned();
                Self::Failed { index, why }
            }
            3 => {
                let (worker, threads) = (take(bytes)?, take(bytes)?);
                let (parks, wakes) = (take(bytes)?, take(bytes)?);
                Self::Done {
                    worker: u32::from_le_bytes(worker),
                    threads: u32::from_le_bytes(threads),
                    calls: KernelCalls {
                        parks: u64::from_le_bytes(parks),
                        wakes: u64::from_le_bytes(wakes),
                    },
                }
            }
            _ => return None,
        };
        bytes.is_empty().then_some(report)
    }
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
        let calls = KernelCalls { parks: 1 << 40, wakes: 7 };
        [
            Report::Ready { worker: 70_000, threads: 1, in_io_uring: true },
            Report::Hashed { index: u64::MAX, len: 1 << 50, digest: [0xab; 32] },
            Report::Failed { index: 3, why: "no".into() },
            Report::Done { worker: 1, threads: 2, calls },
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
        let bytes = Report::Failed { index: 0, why: "x".to_owned() + &"é".repeat(300) }.encode();
        assert_eq!(bytes.len(), Report::LONGEST);
        let Some(Report::Failed { why, .. }) = Report::decode(&bytes) else { panic!() };
        assert_eq!(why, format!("x{}\u{fffd}", "é".repeat(127)));
    }
}

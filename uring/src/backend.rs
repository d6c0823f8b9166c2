//! Which way tasks wait in this process: through io_uring, or by the fallback; decided once, and said aloud.

use std::env;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;

use io_uring::{IoUring, Probe, opcode};
use thiserror::Error;

use crate::ring::{FutexWait, RING_ENTRIES};

/// Names the backend to use: `io_uring` or `futex`.
const VARIABLE: &str = "PARKLINE_BACKEND";

/// How tasks of this process wait.
#[derive(Clone, Debug)]
pub enum Backend {
    /// In an io_uring of each runtime or thread: no helper thread.
    IoUring,
    /// On one helper thread of this process, which sleeps in the kernel while they wait.
    Futex(Unavailable),
}

/// Why io_uring is not used.
#[derive(Clone, Debug, Error)]
pub enum Unavailable {
    /// The environment says so.
    #[error("{VARIABLE}=futex asks for the fallback")]
    Asked,
    /// No ring could be had.
    #[error("io_uring_setup failed: {kind} (os error {errno}); {remedy}")]
    Setup {
        /// The kernel's answer.
        errno: i32,
        /// The kernel's answer in words.
        kind: io::ErrorKind,
        /// What to change.
        remedy: &'static str,
    },
    /// The kernel has io_uring, but not its futex operations.
    #[error("this kernel's io_uring has no FUTEX_WAIT; Linux 6.7 or newer has")]
    NoFutexWait,
    /// The operation is there, and does not work.
    #[error("a trial FUTEX_WAIT answered {answer} instead of EAGAIN; `parkline doctor` tells more")]
    Trial {
        /// The completion's result.
        answer: i32,
    },
}

impl Unavailable {
    fn setup(error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "allow it in the container's seccomp profile, or by sysctl kernel.io_uring_disabled"
            }
            io::ErrorKind::OutOfMemory => "raise RLIMIT_MEMLOCK (ulimit -l)",
            io::ErrorKind::Unsupported => "use a kernel with io_uring (Linux 6.7 or newer)",
            _ if errno == ENFILE || errno == EMFILE => "raise the limit of open files (ulimit -n)",
            _ => "`parkline doctor` tells more",
        };
        Self::Setup { errno, kind: error.kind(), remedy }
    }
}

const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// How tasks of this process wait. The first call decides, by a trial; the answer stays the same.
///
/// When it is the fallback, that is said once by a `tracing` warning too.
///
/// ```
/// match parkline_uring::backend() {
///     parkline_uring::Backend::IoUring => println!("io_uring"),
///     parkline_uring::Backend::Futex(why) => println!("fallback: {why}"),
///     _ => unreachable!("there is no third"),
/// }
/// ```
pub fn backend() -> &'static Backend {
    static BACKEND: OnceLock<Backend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        let asked = env::var_os(VARIABLE);
        let chosen = match asked.as_deref().and_then(|it| it.to_str()) {
            Some("futex") => Err(Unavailable::Asked),
            Some("io_uring") | None => try_io_uring(),
            Some(other) => {
                tracing::warn!("{VARIABLE}={other} is not known; it can be io_uring or futex");
                try_io_uring()
            }
        };
        match chosen {
            Ok(()) => Backend::IoUring,
            Err(why) => {
                tracing::warn!(%why, "parkline waits on a helper thread, not in io_uring");
                Backend::Futex(why)
            }
        }
    })
}

/// Whether io_uring can be used here: sets up a ring, asks for the operation, and tries it once. Any
/// failure is an answer.
///
/// # Errors
/// The first thing that is missing, and what to change.
pub fn try_io_uring() -> Result<(), Unavailable> {
    let mut ring = IoUring::new(RING_ENTRIES).map_err(|error| Unavailable::setup(&error))?;
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe);
    if probed.is_err() || !probe.is_supported(opcode::FutexWait::CODE) {
        return Err(Unavailable::NoFutexWait);
    }
    static WORD: AtomicU32 = AtomicU32::new(0);
    let answer = FutexWait { word: &WORD, expected: 1 }.run_alone(&mut ring);
    match answer.map_err(|error| Unavailable::setup(&error))? {
        EAGAIN => Ok(()),
        answer => Err(Unavailable::Trial { answer }),
    }
}

const EAGAIN: i32 = -11;

//! Which way tasks wait in this process: through io_uring, or by the fallback; decided once, and
//! said aloud.

use std::env;
use std::fs;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parkline_core::driver::hold_forks;
use rustix::io::Errno;
use thiserror::Error;

use crate::engine::uring::{EAGAIN, Uring};

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

/// Why io_uring is not used, and what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The environment says so.
    #[error("{VARIABLE}=futex asks for the fallback; unset it to use io_uring")]
    Asked,
    /// The system forbids it: 1 to processes without CAP_SYS_ADMIN or the group's membership, 2 to
    /// all.
    #[error(
        "sysctl kernel.io_uring_disabled is {value}; \
         `sysctl -w kernel.io_uring_disabled=0` allows it, or with 1 `kernel.io_uring_group`"
    )]
    Sysctl {
        /// The setting.
        value: u8,
    },
    /// Something else forbids it: a container's seccomp profile, or a security module.
    #[error(
        "io_uring is refused with errno {errno}, though the sysctl allows it; allow \
         io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
    )]
    Forbidden {
        /// The kernel's answer.
        errno: i32,
    },
    /// No memory for a ring.
    #[error("no memory for an io_uring; raise RLIMIT_MEMLOCK (`ulimit -l`)")]
    Memory,
    /// No descriptor for a ring.
    #[error("no file descriptor for an io_uring; raise RLIMIT_NOFILE (`ulimit -n`)")]
    Descriptors,
    /// The kernel has none.
    #[error("this kernel has no io_uring, or a seccomp profile says so; use Linux 6.7 or newer")]
    NoIoUring,
    /// The kernel has io_uring, but not its futex operations.
    #[error("this kernel's io_uring has no FUTEX_WAIT; use Linux 6.7 or newer")]
    NoFutexWait,
    /// The operation is there, and does not work.
    #[error("a trial FUTEX_WAIT ended with {answer} instead of EAGAIN (-11); use another kernel")]
    Trial {
        /// The completion's result.
        answer: i32,
    },
}

impl Unavailable {
    fn setup(error: &io::Error) -> Self {
        let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        let disabled = sysctl.ok().and_then(|value| value.trim().parse().ok()).unwrap_or(0);
        Self::of(error, disabled)
    }

    /// Why `error` came, where the sysctl is `disabled`.
    fn of(error: &io::Error, disabled: u8) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::PERM) if disabled > 0 => Self::Sysctl { value: disabled },
            Some(Errno::NOMEM) => Self::Memory,
            Some(Errno::MFILE | Errno::NFILE) => Self::Descriptors,
            Some(Errno::NOSYS) => Self::NoIoUring,
            _ => Self::Forbidden { errno: error.raw_os_error().unwrap_or(0) },
        }
    }
}

/// How tasks of this process wait. The first call decides, by a trial; the answer stays the same.
///
/// When it is the fallback, that is said once by a `tracing` warning too.
///
/// ```
/// use parkline_uring::{Backend, Unavailable, backend, try_io_uring};
///
/// match backend() {
///     Backend::IoUring => assert_eq!(try_io_uring(), Ok(())),
///     Backend::Futex(Unavailable::Asked) => assert!(std::env::var("PARKLINE_BACKEND").is_ok()),
///     Backend::Futex(why) => assert_eq!(try_io_uring(), Err(*why)),
/// }
/// ```
pub fn backend() -> &'static Backend {
    static BACKEND: OnceLock<Backend> = OnceLock::new();
    if let Some(backend) = BACKEND.get() {
        return backend;
    }
    // Other threads may try meanwhile. The first result counts.
    let chosen = choose();
    let mut is_first = false;
    let backend = {
        // A child must not find it half set.
        let _forks = hold_forks();
        BACKEND.get_or_init(|| {
            is_first = true;
            chosen
        })
    };
    if let (true, Backend::Futex(why)) = (is_first, backend) {
        tracing::warn!(%why, "parkline waits on a helper thread, not in io_uring");
    }
    backend
}

fn choose() -> Backend {
    let asked = env::var_os(VARIABLE);
    let tried = match asked.as_deref().and_then(|it| it.to_str()) {
        Some("futex") => Err(Unavailable::Asked),
        Some("io_uring") | None => try_io_uring(),
        Some(other) => {
            tracing::warn!("{VARIABLE}={other} is not known; it can be io_uring or futex");
            try_io_uring()
        }
    };
    tried.map_or_else(Backend::Futex, |()| Backend::IoUring)
}

/// Whether io_uring can be used here: sets up a ring, asks for the operation, and tries it once.
/// Any failure is an answer.
///
/// # Errors
/// The first thing that is missing, and what to change.
///
/// ```
/// use parkline_uring::{Backend, Unavailable, backend, try_io_uring};
///
/// match (try_io_uring(), backend()) {
///     (Ok(()), Backend::IoUring) => {}
///     // The environment has PARKLINE_BACKEND=futex.
///     (_, Backend::Futex(Unavailable::Asked)) => {}
///     (Err(why), Backend::Futex(same)) => assert_eq!(why, *same),
///     (tried, backend) => panic!("{tried:?}, but {backend:?}"),
/// }
/// ```
pub fn try_io_uring() -> Result<(), Unavailable> {
    let refused = |error| Unavailable::setup(&error);
    let mut ring = Uring::of_runtime().map_err(refused)?;
    if !ring.has_futex_wait().map_err(refused)? {
        return Err(Unavailable::NoFutexWait);
    }
    match ring.try_wait().map_err(refused)? {
        EAGAIN => Ok(()),
        answer => Err(Unavailable::Trial { answer }),
    }
}

/// Whether this is the first call in this process, of all that name the `last` process that called: a
/// forked child says what its parent has said.
pub(crate) fn is_first(last: &AtomicU32) -> bool {
    let process = std::process::id();
    last.swap(process, Relaxed) != process
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if the sysctl is not named where it is set, or is where it is not (each seen failing).
    #[test]
    fn the_sysctl_is_named_where_it_forbids() {
        let of = |errno: Errno, disabled| Unavailable::of(&io::Error::from(errno), disabled);
        for value in [1, 2] {
            assert_eq!(of(Errno::PERM, value), Unavailable::Sysctl { value });
        }
        assert_eq!(of(Errno::PERM, 0), Unavailable::Forbidden { errno: 1 });
        assert_eq!(of(Errno::ACCESS, 2), Unavailable::Forbidden { errno: 13 });
        assert_eq!(of(Errno::NOMEM, 1), Unavailable::Memory);
        assert_eq!(of(Errno::NFILE, 1), Unavailable::Descriptors);
        assert_eq!(of(Errno::NOSYS, 1), Unavailable::NoIoUring);
    }
}

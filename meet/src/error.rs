//! Why two programs do not meet, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use parkline_core::{CreateError, OpenError};
use thiserror::Error;

/// Why a queue, an event or a semaphore did not get from one program into another.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MeetError {
    /// The name cannot be a name.
    #[error("{name:?} is no name: {why}")]
    Name {
        /// What was asked for.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// There is no directory for names.
    #[error(
        "there is no run directory for {name:?}: set PARKLINE_RUN_DIR or XDG_RUNTIME_DIR, or make /run/parkline (`RuntimeDirectory=parkline` in a systemd unit)"
    )]
    NoRunDirectory {
        /// The name.
        name: String,
    },
    /// No process serves the name, and none has since the machine or the directory was made.
    #[error(
        "{name:?} is not served: there is no {}; start the program that serves it, or wait for it with `Connect::wait`",
        display(looked)
    )]
    NotServed {
        /// The name.
        name: String,
        /// The sockets that were looked for.
        looked: Vec<PathBuf>,
    },
    /// The socket is there, but the process that served it is gone and has no heir.
    #[error(
        "the server of {} is gone ({last}) and has no heir; start it again: the next `serve` replaces the socket",
        path.display()
    )]
    Gone {
        /// The socket.
        path: PathBuf,
        /// What is known of the last server.
        last: String,
    },
    /// The server is gone, its heirs live, and none of them serves within the time that was
    /// allowed.
    #[error(
        "the server of {} is gone, and its heirs hold the name without serving it; are they stopped (SIGSTOP)? continue or end them",
        path.display()
    )]
    HeirsSilent {
        /// The socket.
        path: PathBuf,
    },
    /// Another process serves the name, or heirs of another queue hold it.
    #[error("{} is served already by {by}; connect to it, or take another name", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
        /// What is known of the server.
        by: String,
    },
    /// The directory, or the server, belongs to another user, or others may write to the directory.
    #[error("{}: {what}; {remedy}", path.display())]
    Stranger {
        /// The directory or the socket.
        path: PathBuf,
        /// What was found.
        what: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The server does not admit this user.
    #[error(
        "{}: the server does not admit uid {uid}; it has to serve with `Serve::mode(0o660)` and `Serve::group`",
        path.display()
    )]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The uid of this process.
        uid: u32,
    },
    /// The server has the socket open and does not answer.
    #[error(
        "{}: the server ({server}) did not answer within {waited:?}; is it stopped (SIGSTOP) or in a debugger? continue or end it",
        path.display()
    )]
    Silent {
        /// The socket.
        path: PathBuf,
        /// What is known of the server.
        server: String,
        /// How long this waited.
        waited: Duration,
    },
    /// The answer is not that of a server of Parkline, or of another version.
    #[error("{from}: {what}")]
    Foreign {
        /// What answered.
        from: String,
        /// What was found, and which side to change.
        what: String,
    },
    /// The environment variable does not lead to a descriptor.
    #[error("the environment variable {name}: {what}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The descriptor is no queue, event or semaphore of this version and type.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// [`connect_or_serve`](crate::connect_or_serve) found no server, and could not create the
    /// queue.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// A system call failed.
    #[error("{call} {at} failed: {cause}{}", remedy(call, cause))]
    Os {
        /// Which call.
        call: &'static str,
        /// On what.
        at: String,
        /// The kernel's answer.
        cause: io::Error,
    },
}

impl MeetError {
    /// Makes the error of a system call.
    pub(crate) fn os<E: Into<io::Error>>(
        call: &'static str,
        at: impl ToString,
    ) -> impl FnOnce(E) -> Self {
        move |cause| Self::Os { call, at: at.to_string(), cause: cause.into() }
    }
}

fn display(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|it| it.display().to_string()).collect();
    paths.join(" and no ")
}

fn remedy(call: &str, cause: &io::Error) -> &'static str {
    use rustix::io::Errno;
    match Errno::from_io_error(cause) {
        Some(Errno::MFILE) => {
            "; this process has no descriptor left: close some, or raise RLIMIT_NOFILE (`ulimit -n`)"
        }
        Some(Errno::NFILE) => "; the machine has no descriptor left: raise the sysctl fs.file-max",
        Some(Errno::ACCESS) if call == "connect" => {
            "; only the user of the server may connect, unless it serves with `Serve::mode(0o660)` and `Serve::group`"
        }
        Some(Errno::ACCESS | Errno::ROFS) => {
            "; the directory belongs to another user: take one of your own with PARKLINE_RUN_DIR"
        }
        Some(Errno::PERM) if call == "chown" => {
            "; only a member of the group can give it the socket"
        }
        Some(Errno::WOULDBLOCK) => {
            "; the stream does not block: use the calls with `_async`, or a blocking stream"
        }
        _ => "",
    }
}

//! Keeping a queue over restarts of a service, in the descriptor store of systemd.
//!
//! With `FileDescriptorStoreMax=1` in its unit a service gives systemd a copy of the queue's
//! descriptor. After a crash or a restart the service finds it there, with all messages.
//!
//! ```no_run
//! use parkline_core::Queue;
//! use parkline_meet::{serve, systemd};
//!
//! let jobs = match systemd::stored::<Queue>("jobs")? {
//!     Some(jobs) => jobs, // after a restart
//!     None => {
//!         let jobs = Queue::builder().create()?;
//!         systemd::store("jobs", &jobs)?;
//!         jobs
//!     }
//! };
//! let _keeper = serve("jobs", &jobs)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::env;
use std::os::fd::AsFd;

use parkline_core::{OpenOptions, Queue};
use rustix::io::Errno;
use sd_notify::NotifyState;

use crate::error::MeetError;
use crate::object::Object;
use crate::pass::reopen;

/// Gives systemd a copy of the descriptor, under a name. Once for each queue: what
/// [`stored`] returned is still in the store.
///
/// # Errors
/// [`MeetError::Environment`] without `NOTIFY_SOCKET`: systemd did not start this process as a
/// service that notifies (`NotifyAccess=` and `FileDescriptorStoreMax=` in its unit).
/// [`MeetError::Name`] for a name with `:` or a control character. [`MeetError::Os`]. systemd does
/// not say if its store is full.
///
/// # If a peer dies
/// If this process dies in the call, systemd has the descriptor or not.
///
/// ```
/// use parkline_core::Queue;
/// use parkline_meet::{MeetError, systemd};
/// use std::os::unix::net::UnixDatagram;
///
/// # if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
/// # let systemd = UnixDatagram::bind(socket)?;
/// # let queue = Queue::builder().create()?;
/// systemd::store("jobs", &queue)?;
/// # let mut text = [0; 64];
/// # let len = systemd.recv(&mut text)?;
/// # assert_eq!(&text[..len], b"FDSTORE=1\nFDNAME=jobs\n");
/// # return Ok(());
/// # }
/// let outside = systemd::store("jobs", &Queue::builder().create()?);
/// assert!(matches!(outside, Err(MeetError::Environment { .. })), "no systemd started this");
/// # let directory = tempfile::tempdir()?;
/// # let mut child = std::process::Command::new(std::env::current_exe()?);
/// # child.env("NOTIFY_SOCKET", directory.path().join("notify"));
/// # assert!(child.args(std::env::args_os().skip(1)).status()?.success());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn store(name: &str, object: &impl Object) -> Result<(), MeetError> {
    if !(1..=255).contains(&name.len()) || name.contains(|it: char| it == ':' || it.is_control()) {
        let why =
            "systemd stores descriptors under 1 to 255 bytes, without `:` and control characters";
        return Err(MeetError::Name { name: name.to_owned(), why });
    }
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else {
        return Err(MeetError::Environment {
            name: "NOTIFY_SOCKET".to_owned(),
            what: "it is not set: systemd did not start this process with `FileDescriptorStoreMax=` and `NotifyAccess=main`".to_owned(),
        });
    };
    let fd = object.descriptor().map_err(MeetError::os("dup", name))?;
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    sd_notify::notify_with_fds(&state, &[fd.as_fd()])
        .map_err(MeetError::os("sendmsg", socket.display()))
}

/// What systemd keeps under a name: from [`store`] by an earlier process of this service, or from
/// another unit. `None` if there is no such name, or systemd did not start this process.
///
/// # Errors
/// [`MeetError::Open`] if it is something else, [`MeetError::Os`].
///
/// # If a peer dies
/// systemd keeps the descriptor as long as the unit runs or restarts.
///
/// ```
/// use parkline_core::Queue;
/// use parkline_meet::systemd;
///
/// assert!(systemd::stored::<Queue>("jobs")?.is_none(), "no systemd started this");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn stored<T: Object>(name: &str) -> Result<Option<T>, MeetError> {
    stored_with_options(name, Queue::open_options())
}

/// As [`stored`], with the options of a queue that has a schema.
///
/// # Errors
/// As [`stored`].
///
/// # If a peer dies
/// As [`stored`].
///
/// ```
/// use parkline_core::Queue;
/// use parkline_meet::systemd;
///
/// let options = Queue::open_options().schema("orders", 3);
/// assert!(systemd::stored_with_options::<Queue>("jobs", options)?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn stored_with_options<T: Object>(
    name: &str,
    options: OpenOptions,
) -> Result<Option<T>, MeetError> {
    // It makes them close-on-exec.
    let mut all = sd_notify::listen_fds_with_names().map_err(MeetError::os("LISTEN_FDS", name))?;
    let Some((number, _)) = all.find(|(_, its)| its == name) else { return Ok(None) };
    let none = || MeetError::os("the descriptor is no memfd, open", name)(Errno::BADF);
    Ok(Some(T::open_with(reopen(number)?.ok_or_else(none)?, options)?))
}

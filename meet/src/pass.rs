//! Handing a queue on to a child process, by an environment variable and a descriptor that it
//! inherits.
//!
//! In the parent the descriptor is close-on-exec and stays so. Only the child for which it is meant
//! clears that flag, between its fork and its exec. So no other child gets it, whichever thread
//! starts one.
//!
//! The variable is `NUMBER:INODE`. The child opens the memfd anew through `/proc`, which takes
//! nothing from other owners of descriptors. Then it closes the inherited one, so that its own
//! children do not get it. Three checks tell that no code of this process owns that number: it is a
//! memfd with the inode that the parent named, and it is not close-on-exec. What Rust opens is
//! close-on-exec; what a process was started with is not. A second call finds the number closed, or
//! another file there, and is refused.

use std::env;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use command_fds::CommandFdExt as _;
use parkline_core::OpenOptions;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::MeetError;
use crate::object::Object;

/// Gives the child of `command` a descriptor and the variable `name`.
pub(crate) fn pass(
    object: &impl Object,
    command: &mut Command,
    name: &str,
) -> Result<(), MeetError> {
    if name.is_empty() || name.contains(['=', '\0']) {
        let what = "a variable has a name, without `=` and NUL".to_owned();
        return Err(MeetError::Environment { name: name.to_owned(), what });
    }
    let fd = object.descriptor().map_err(MeetError::os("dup", name))?;
    // Never the number of a standard stream, which `Command` replaces in the child.
    let fd = rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(MeetError::os("dup", name))?;
    let inode = rustix::fs::fstat(&fd).map_err(MeetError::os("fstat", name))?.st_ino;
    command.env(name, format!("{}:{inode}", fd.as_raw_fd()));
    // The command keeps it open, for each child that it starts.
    command.preserved_fds(vec![fd]);
    Ok(())
}

/// Opens what the parent handed on, and closes the inherited descriptor.
pub(crate) fn take<T: Object>(name: &str, options: OpenOptions) -> Result<T, MeetError> {
    /// Two threads that take the same one: the second must not close what has that number by then.
    static TAKING: Mutex<()> = Mutex::new(());
    let fail = |what: &str| MeetError::Environment { name: name.to_owned(), what: what.to_owned() };
    let value = env::var(name)
        .map_err(|_| fail("it is not set; the parent has to call `pass_to` with this name"))?;
    let parsed = value.split_once(':').and_then(|(number, inode)| {
        let number = number.parse::<RawFd>().ok().filter(|it| *it >= 0)?;
        Some((number, inode.parse::<u64>().ok()?))
    });
    let (number, inode) = parsed
        .ok_or_else(|| fail("it was not set by `pass_to`; choose a name that has no other use"))?;
    let _turn = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = || {
        fail(
            "its descriptor is not here: it was taken before, or a program between the parent and this one closed it",
        )
    };
    let fd = reopen(number)?.ok_or_else(gone)?;
    let found = rustix::fs::fstat(&fd).map_err(MeetError::os("fstat", name))?.st_ino;
    if found != inode || is_close_on_exec(number) {
        return Err(gone());
    }
    let object = T::open_with(fd, options)?;
    // See the top of this file.
    let _ = nix::unistd::close(number);
    Ok(object)
}

/// Opens the memfd of a descriptor anew; `None` if the number is not open or not that of a memfd.
pub(crate) fn reopen(number: RawFd) -> Result<Option<OwnedFd>, MeetError> {
    let path = format!("/proc/thread-self/fd/{number}");
    match rustix::fs::readlink(&*path, Vec::new()) {
        // Opening another file could have an effect, as that of a FIFO.
        Ok(target) if target.as_bytes().starts_with(b"/memfd:") => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(MeetError::os("readlink", path)(error)),
    }
    // Does not wait for the end of a lease (F_SETLEASE) that a peer may have taken.
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(&*path, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        fd => fd.map(Some).map_err(MeetError::os("open", path)),
    }
}

fn is_close_on_exec(number: RawFd) -> bool {
    let info = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{number}"));
    let flags = info.ok().and_then(|info| {
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        u32::from_str_radix(flags.trim(), 8).ok()
    });
    // If that cannot be read, the number is left alone.
    flags.is_none_or(|flags| flags & OFlags::CLOEXEC.bits() != 0)
}

/// What errors call the other side of a stream.
pub(crate) fn name_stream(stream: &impl AsFd) -> String {
    format!("the peer of descriptor {}", stream.as_fd().as_raw_fd())
}

//! Where a name is: a directory that only its owner can change, and the names in it.
//!
//! | file | what |
//! |---|---|
//! | `jobs` | the socket |
//! | `jobs.lock` | the serving process holds it exclusively; its text is the process's pid |
//! | `jobs.heirs` | the server and all heirs hold it together; its text is the number of their queue |
//! | `jobs.new` | a socket that is about to become `jobs` |
//!
//! Each call goes through the open directory, so that no other directory can take its place between
//! two calls, and so that a socket's path is never too long for its address.

use std::env;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use crate::error::MeetError;

/// What the kernel shows for a user who has no number in this user namespace.
const UNMAPPED: u32 = 65_534;

/// The users that this process takes a queue from, and gives it to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trusted {
    /// One more than root and the user of this process.
    pub(crate) also: Option<u32>,
}

impl Trusted {
    pub(crate) fn has(self, uid: u32) -> bool {
        uid == 0 || uid == own_uid() || self.also == Some(uid)
    }
}

pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// `uid 1000`, and what it means if it is the number for unknown users.
pub(crate) fn name_uid(uid: u32) -> String {
    if uid == UNMAPPED {
        format!("uid {uid}, which stands for a user that this user namespace does not map")
    } else {
        format!("uid {uid}")
    }
}

/// The directories in which a name can be, in the order in which to search.
pub(crate) fn candidates(name: &str) -> Result<Vec<(PathBuf, OsString)>, MeetError> {
    let refuse = |why| Err(MeetError::Name { name: name.to_owned(), why });
    let path = Path::new(name);
    let last = if name.contains('/') {
        let Some(last) = path.file_name().filter(|_| !name.ends_with('/')) else {
            return refuse("a path has to end with the name of the socket");
        };
        last.to_owned()
    } else {
        if !name.bytes().all(|it| it.is_ascii_alphanumeric() || b"._-".contains(&it)) {
            return refuse("use letters, digits, `.`, `_` and `-`, or a path with `/`");
        }
        OsString::from(name)
    };
    if !(1..=64).contains(&last.len()) {
        return refuse("a name has 1 to 64 bytes");
    }
    if last.as_bytes()[0] == b'.' {
        return refuse("a name cannot begin with a dot");
    }
    if [".lock", ".heirs", ".new"].iter().any(|it| last.as_bytes().ends_with(it.as_bytes())) {
        return refuse("files that end with `.lock`, `.heirs` and `.new` belong to other names");
    }
    if name.contains('/') {
        let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
        return Ok(vec![(parent.unwrap_or(Path::new(".")).to_owned(), last)]);
    }
    let directory = |variable| {
        let value = PathBuf::from(env::var_os(variable)?);
        // The rule of XDG: a path that is not absolute is to be ignored.
        value.is_absolute().then_some(value)
    };
    if let Some(own) = directory("PARKLINE_RUN_DIR") {
        return Ok(vec![(own, last)]);
    }
    let of_user = directory("XDG_RUNTIME_DIR").map(|it| it.join("parkline"));
    let of_system = Some(PathBuf::from("/run/parkline")).filter(|it| it.is_dir());
    let all: Vec<_> =
        [of_user, of_system].into_iter().flatten().map(|it| (it, last.clone())).collect();
    if all.is_empty() {
        return Err(MeetError::NoRunDirectory { name: name.to_owned() });
    }
    Ok(all)
}

/// An open run directory, and a name in it.
#[derive(Debug)]
pub(crate) struct Place {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Place {
    /// Opens the directory; `None` if there is none.
    pub(crate) fn open(
        (directory, name): &(PathBuf, OsString),
        trusted: Trusted,
    ) -> Result<Option<Self>, MeetError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(directory, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            fd => fd.map_err(MeetError::os("open", directory.display()))?,
        };
        let about = rustix::fs::fstat(&fd).map_err(MeetError::os("fstat", directory.display()))?;
        let stranger =
            |what, remedy| Err(MeetError::Stranger { path: directory.clone(), what, remedy });
        if about.st_mode & 0o022 != 0 {
            return stranger(
                format!(
                    "the directory's mode is {:04o}, others can replace the sockets in it",
                    about.st_mode & 0o7777
                ),
                "use a directory that only its owner can write to (`chmod go-w`)",
            );
        }
        if !trusted.has(about.st_uid) {
            return stranger(
                format!("the directory belongs to {}", name_uid(about.st_uid)),
                "use a directory of your own, or say that you trust this user with `Connect::trust_uid`",
            );
        }
        Ok(Some(Self { directory: fd, name: name.clone(), path: directory.join(name) }))
    }

    /// Opens the directory in which to serve a name, and creates it for this user alone if there is
    /// none.
    pub(crate) fn create(name: &str) -> Result<Self, MeetError> {
        let all = candidates(name)?;
        // There is at least one.
        let place = &all[0];
        if let Some(place) = Self::open(place, Trusted::default())? {
            return Ok(place);
        }
        match rustix::fs::mkdir(&place.0, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(MeetError::os("mkdir", place.0.display())(error)),
        }
        let none = || MeetError::os("open", place.0.display())(Errno::NOENT);
        Self::open(place, Trusted::default())?.ok_or_else(none)
    }

    /// The socket's path, for people.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// The file of the name with this ending.
    pub(crate) fn file(&self, ending: &str) -> OsString {
        let mut file = self.name.clone();
        file.push(ending);
        file
    }

    /// The address of the socket with this ending.
    pub(crate) fn address(&self, ending: &str) -> Result<SocketAddrUnix, MeetError> {
        // Not /proc/self: the first thread of the process may have ended.
        let directory = format!("/proc/thread-self/fd/{}/", self.directory.as_raw_fd());
        let path = [directory.as_bytes(), self.file(ending).as_bytes()].concat();
        SocketAddrUnix::new(OsString::from_vec(path))
            .map_err(MeetError::os("connect", self.path.display()))
    }

    /// Whether this process may make files in the directory.
    pub(crate) fn is_writable(&self) -> bool {
        use rustix::fs::{Access, AtFlags};
        let access = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(&self.directory, ".", access, AtFlags::EACCESS).is_ok()
    }
}

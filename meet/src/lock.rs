//! The two locks of a name.
//!
//! * `jobs.lock`, exclusive: its holder serves the name. So no two processes serve it.
//! * `jobs.heirs`, shared: its holders have one queue, the number of which is the file's text. A
//!   process changes the text only while it is the only holder. So while one process that promised
//!   to serve the queue lives, no other queue gets its name.
//!
//! They are locks of open files (`flock`): they end with the process, however it ends, and no time
//! limit decides anything. Nothing ever waits for them, because a process that is stopped would
//! hold up the others; a caller tries again. The files stay when all are gone, because a file that
//! one process removes while another opens it gives two locks.

use std::time::SystemTime;

use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags};
use rustix::io::Errno;

use crate::error::MeetError;
use crate::place::{Place, name_uid};
use crate::private::Private;

#[derive(Debug)]
pub(crate) struct Lock(Private);

impl Lock {
    /// Opens the lock to serve the name.
    pub(crate) fn of_server(place: &Place) -> Result<Self, MeetError> {
        Self::open(place, ".lock", OFlags::RDWR | OFlags::CREATE)
    }

    /// Opens the lock of all that hold the name, to change its text.
    pub(crate) fn of_holders(place: &Place) -> Result<Self, MeetError> {
        Self::open(place, ".heirs", OFlags::RDWR | OFlags::CREATE)
    }

    /// Opens the lock of all that hold the name, to ask about it.
    pub(crate) fn to_ask(place: &Place) -> Result<Self, MeetError> {
        Self::open(place, ".heirs", OFlags::RDONLY)
    }

    fn open(place: &Place, ending: &str, flags: OFlags) -> Result<Self, MeetError> {
        let file = place.file(ending);
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let open =
            || Ok(rustix::fs::openat(place.directory(), &file, flags, Mode::RUSR | Mode::WUSR)?);
        let at = place.path().with_file_name(&file);
        Ok(Self(Private::make(open).map_err(MeetError::os("open", at.display()))?))
    }

    /// Whether this is the only holder now.
    pub(crate) fn try_exclusive(&self) -> Result<bool, MeetError> {
        self.attempt(FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether this is a holder now, with others.
    pub(crate) fn try_shared(&self) -> Result<bool, MeetError> {
        self.attempt(FlockOperation::NonBlockingLockShared)
    }

    fn attempt(&self, operation: FlockOperation) -> Result<bool, MeetError> {
        match rustix::fs::flock(&self.0, operation) {
            Err(Errno::WOULDBLOCK) => Ok(false),
            taken => taken.map(|()| true).map_err(MeetError::os("flock", "the lock of a name")),
        }
    }

    /// What the last exclusive holder wrote.
    pub(crate) fn text(&self) -> String {
        let mut text = [0; 64];
        let len = rustix::io::pread(&self.0, &mut text[..], 0).unwrap_or(0);
        String::from_utf8_lossy(&text[..len]).trim_end().to_owned()
    }

    /// Replaces the text. All texts of a file have the same length.
    pub(crate) fn write(&self, text: &str) -> Result<(), MeetError> {
        let text = format!("{text}\n");
        rustix::io::pwrite(&self.0, text.as_bytes(), 0)
            .map(drop)
            .map_err(MeetError::os("write", "the lock of a name"))
    }

    /// Lets the users to whom the server gives the queue ask about the holders. Only this lock:
    /// with that of the server they could keep the heirs from serving.
    pub(crate) fn admit(&self, mode: u32, group: Option<Gid>) {
        // If this is refused, they learn less of a server that is gone.
        let _ = rustix::fs::fchmod(&self.0, Mode::from_raw_mode(0o600 | (mode & 0o044)));
        let _ = rustix::fs::fchown(&self.0, None, group);
    }
}

/// What is known of the process that serves the name, or served it last.
pub(crate) fn last_server(place: &Place) -> String {
    let known = || -> Result<String, MeetError> {
        let lock = Lock::open(place, ".lock", OFlags::RDONLY)?;
        let about = rustix::fs::fstat(&lock.0).map_err(MeetError::os("fstat", ""))?;
        let pid = lock.text().trim_start_matches('0').to_owned();
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let command = command.trim_end();
        let command = if command.is_empty() { String::new() } else { format!(" ({command})") };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since =
            now.map_or(0, |now| now.as_secs().saturating_sub(about.st_mtime.unsigned_abs()));
        let uid = name_uid(about.st_uid);
        Ok(format!("process {pid}{command}, {uid}, which began to serve {since} s ago"))
    };
    known().unwrap_or_else(|_| "a process of which nothing is known".to_owned())
}

/// Whether a process lives that promised to serve the name on. `false` if that cannot be asked.
pub(crate) fn has_holders(place: &Place) -> bool {
    Lock::to_ask(place).and_then(|it| it.try_exclusive()).is_ok_and(|alone| !alone)
}

/// The mode and the group of the socket that is there.
pub(crate) fn manners(place: &Place) -> Option<(u32, Gid)> {
    let about = rustix::fs::statat(place.directory(), place.file(""), AtFlags::SYMLINK_NOFOLLOW);
    let about = about.ok()?;
    Some((about.st_mode & 0o777, Gid::from_raw(about.st_gid)))
}

//! Serving a name.

use nix::unistd::Group;
use rustix::fs::Gid;

use crate::error::MeetError;
use crate::keeper::Keeper;
use crate::keeping::Keeping;
use crate::object::Object;
use crate::patience::{Failed, Patience};

/// Serves `object` under `name`, to processes of the same user and of root, until the [`Keeper`] is
/// dropped. For other users see [`Serve`].
///
/// A name is 1 to 64 letters, digits, `.`, `_` and `-`; a name with `/` is the path of the socket.
/// The socket is in `$PARKLINE_RUN_DIR`, or else in `$XDG_RUNTIME_DIR/parkline`, or else in
/// `/run/parkline` if that exists. The directory is created with mode 0700 if its parent is there.
///
/// # Errors
/// [`MeetError::InUse`] if another process, or another [`Keeper`] of this one, serves the name.
/// [`MeetError::HeirsSilent`] if the heirs of a dead server do not take over within 5 s: no other
/// queue may have the name while they live. [`MeetError::Stranger`] if the directory belongs to
/// another user or others may write to it. [`MeetError::Name`], [`MeetError::NoRunDirectory`],
/// [`MeetError::Foreign`], [`MeetError::Os`].
///
/// # If a peer dies
/// A server that was killed leaves its socket, which the next `serve` replaces. If this process
/// dies, an heir serves on; without heirs the name is not served until another process calls this.
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let name = directory.path().join("jobs").display().to_string();
/// use parkline_core::Queue;
/// use parkline_meet::{MeetError, connect, serve};
///
/// let queue = Queue::builder().create()?;
/// let _keeper = serve(&name, &queue)?;
/// assert_eq!(connect::<Queue>(&name)?.id(), queue.id());
/// let twice = serve(&name, &Queue::builder().create()?);
/// assert!(matches!(twice, Err(MeetError::InUse { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn serve<T: Object>(name: &str, object: &T) -> Result<Keeper, MeetError> {
    Serve::name(name).start(object)
}

/// How to serve a name.
#[derive(Clone, Debug)]
#[must_use = "nothing is served until `start`"]
pub struct Serve {
    name: String,
    mode: u32,
    group: Option<String>,
}

impl Serve {
    /// Begins to serve a name: see [`serve`].
    pub fn name(name: &str) -> Self {
        Self { name: name.to_owned(), mode: 0o600, group: None }
    }

    /// The mode of the socket, 0600 by default. A user to whom the mode gives the right to write is
    /// admitted, and can read, garble and drop all messages.
    ///
    /// The directory has to let these users through as well: give it the mode 0750 and the group.
    /// Only its owner may have the right to write to it.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("jobs").display().to_string();
    /// use parkline_core::Queue;
    /// use parkline_meet::Serve;
    /// use std::os::unix::fs::PermissionsExt;
    ///
    /// let queue = Queue::builder().create()?;
    /// let _keeper = Serve::name(&name).mode(0o660).start(&queue)?;
    /// assert_eq!(std::fs::metadata(&name)?.permissions().mode() & 0o777, 0o660);
    /// assert!(Serve::name("a b").mode(0o660).start(&queue).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o777;
        self
    }

    /// The group of the socket: a name or a number. This process has to be a member of it.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("jobs").display().to_string();
    /// use parkline_core::Queue;
    /// use parkline_meet::{MeetError, Serve};
    ///
    /// let queue = Queue::builder().create()?;
    /// let unknown = Serve::name(&name).mode(0o660).group("no such group").start(&queue);
    /// assert!(matches!(unknown, Err(MeetError::Os { call: "getgrnam", .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn group(mut self, group: &str) -> Self {
        self.group = Some(group.to_owned());
        self
    }

    /// Serves `object` from a thread of its own.
    ///
    /// # Errors
    /// As [`serve`]. [`MeetError::Os`] if there is no such group, or this process is no member of
    /// it.
    ///
    /// # If a peer dies
    /// As [`serve`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("stop").display().to_string();
    /// use parkline_core::{Event, Queue};
    /// use parkline_meet::{MeetError, Serve, connect};
    ///
    /// let stop = Queue::builder().create_event()?;
    /// let _keeper = Serve::name(&name).start(&stop)?;
    /// connect::<Event>(&name)?.set()?;
    /// assert!(stop.is_set());
    /// let twice = Serve::name(&name).start(&stop);
    /// assert!(matches!(twice, Err(MeetError::InUse { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start<T: Object>(self, object: &T) -> Result<Keeper, MeetError> {
        let mut patience = Patience::new(None);
        loop {
            match self.attempt(object) {
                Ok(keeping) => return Keeper::on_thread(keeping),
                Err(failed) => std::thread::sleep(patience.after(failed)?),
            }
        }
    }

    /// As [`start`](Self::start), from a task of the current tokio runtime instead of a thread. The
    /// runtime needs `enable_io` and `enable_time`. Dropping the [`Keeper`] ends the task soon, not
    /// at once.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the name is not served.
    ///
    /// # If a peer dies
    /// As [`serve`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("jobs").display().to_string();
    /// use parkline_core::Queue;
    /// use parkline_meet::{Connect, MeetError, Serve};
    ///
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// let queue = Queue::builder().create()?;
    /// let _keeper = Serve::name(&name).start_async(&queue).await?;
    /// assert_eq!(Connect::to(&name).open_async::<Queue>().await?.id(), queue.id());
    /// let twice = Serve::name(&name).start_async(&queue).await;
    /// assert!(matches!(twice, Err(MeetError::InUse { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tokio")]
    pub async fn start_async<T: Object + Sync>(self, object: &T) -> Result<Keeper, MeetError> {
        let mut patience = Patience::new(None);
        loop {
            match self.attempt(object) {
                Ok(keeping) => return Keeper::on_tokio(keeping),
                Err(failed) => tokio::time::sleep(patience.after(failed)?).await,
            }
        }
    }

    fn attempt<T: Object>(&self, object: &T) -> Result<Keeping, Failed> {
        Keeping::serve(&self.name, object, self.mode, self.gid()?)
    }

    fn gid(&self) -> Result<Option<Gid>, MeetError> {
        let Some(group) = &self.group else { return Ok(None) };
        if let Ok(number) = group.parse() {
            return Ok(Some(Gid::from_raw(number)));
        }
        let found = Group::from_name(group).map_err(MeetError::os("getgrnam", group))?;
        let none = || MeetError::os("getgrnam", group)(rustix::io::Errno::NOENT);
        Ok(Some(Gid::from_raw(found.ok_or_else(none)?.gid.as_raw())))
    }
}

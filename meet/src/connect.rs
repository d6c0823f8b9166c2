//! Getting what another process serves.

use std::time::Duration;

use parkline_core::{CreateError, OpenOptions, Queue};
use rustix::event::{PollFd, PollFlags, poll};

use crate::call::Call;
use crate::error::MeetError;
use crate::keeper::Keeper;
use crate::keeping::Keeping;
use crate::object::Object;
use crate::patience::{Failed, Patience};
use crate::place::Trusted;
#[cfg(feature = "tokio")]
use crate::private::register;
use crate::serve::Serve;

/// Opens what a process serves under `name`: a [`Queue`], an [`Event`](parkline_core::Event) or a
/// [`Semaphore`](parkline_core::Semaphore). No connection stays open.
///
/// The name is searched for in `$PARKLINE_RUN_DIR` if that is set, or else in
/// `$XDG_RUNTIME_DIR/parkline`, then in `/run/parkline`. A name with `/` is the path of the socket.
///
/// # Errors
/// [`MeetError::NotServed`] if there is no such name, [`MeetError::Gone`] if its server is dead and
/// has no heir. [`MeetError::Stranger`] if the directory or the server belongs to a user who is
/// neither root nor the user of this process; [`MeetError::Refused`] if the server does not admit
/// this user. [`MeetError::Open`] if it serves something else, another type, or another version.
/// While the server is busy, stopped, or being replaced by an heir, this tries again for 5 s; then
/// it returns [`MeetError::Silent`] or [`MeetError::HeirsSilent`].
///
/// # If a peer dies
/// If the server dies in the call, this gets the same queue from an heir, or [`MeetError::Gone`].
/// After the call the queue does not need the server: it lives as long as one process has it.
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let name = directory.path().join("numbers").display().to_string();
/// use parkline_core::Queue;
/// use parkline_meet::{MeetError, connect, serve};
///
/// let none = connect::<Queue>(&name);
/// assert!(matches!(none, Err(MeetError::NotServed { .. })));
/// let queue = Queue::builder().create_typed::<u64>()?;
/// let _keeper = serve(&name, &queue)?;
/// let same: Queue<u64> = connect(&name)?;
/// queue.sender()?.try_send(&42)?;
/// assert_eq!(same.receiver()?.try_recv()?, 42);
/// assert!(matches!(connect::<Queue<i64>>(&name), Err(MeetError::Open(_))), "another type");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn connect<T: Object>(name: &str) -> Result<T, MeetError> {
    Connect::to(name).open()
}

/// How to connect to a name.
#[derive(Clone, Debug)]
#[must_use = "nothing is opened until `open`"]
pub struct Connect {
    name: String,
    wait: Option<Duration>,
    trusted: Trusted,
    options: OpenOptions,
}

impl Connect {
    /// Begins to connect to a name: see [`connect`].
    pub fn to(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            wait: None,
            trusted: Trusted::default(),
            options: Queue::open_options(),
        }
    }

    /// Waits until the name is served, for at most `timeout`: before its server has begun, and
    /// after one has died. The whole call takes no longer. The error after that time says what was
    /// missing at the last attempt.
    ///
    /// It tries again after 1 ms, and then after twice as long each time, up to 50 ms.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("jobs").display().to_string();
    /// use parkline_core::Queue;
    /// use parkline_meet::{Connect, MeetError, serve};
    /// use std::time::Duration;
    ///
    /// let soon = Connect::to(&name).wait(Duration::from_millis(5)).open::<Queue>();
    /// assert!(matches!(soon, Err(MeetError::NotServed { .. })));
    /// let waits = Connect::to(&name).wait(Duration::from_secs(60));
    /// let client = std::thread::spawn(move || waits.open::<Queue>().map(|it| it.id()));
    /// let queue = Queue::builder().create()?;
    /// let _keeper = serve(&name, &queue)?;
    /// assert_eq!(client.join().unwrap()?, queue.id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(mut self, timeout: Duration) -> Self {
        self.wait = Some(timeout);
        self
    }

    /// Trusts one more user than root and the own one to own the run directory and to serve: for
    /// the queue of a service that has a user of its own.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("jobs").display().to_string();
    /// use parkline_core::Queue;
    /// use parkline_meet::{Connect, serve};
    ///
    /// let _keeper = serve(&name, &Queue::builder().create()?)?;
    /// assert!(Connect::to(&name).trust_uid(1000).open::<Queue>().is_ok(), "the own user still counts");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn trust_uid(mut self, uid: u32) -> Self {
        self.trusted.also = Some(uid);
        self
    }

    /// Opens a queue with these options, for one that has a schema. Events and semaphores have
    /// none.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("orders").display().to_string();
    /// use parkline_core::Queue;
    /// use parkline_meet::{Connect, MeetError, connect, serve};
    ///
    /// let _keeper = serve(&name, &Queue::builder().schema("orders", 3).create()?)?;
    /// let options = Queue::open_options().schema("orders", 3);
    /// assert!(Connect::to(&name).options(options).open::<Queue>().is_ok());
    /// assert!(matches!(connect::<Queue>(&name), Err(MeetError::Open(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn options(mut self, options: OpenOptions) -> Self {
        self.options = options;
        self
    }

    /// Connects, opens, and ends the connection.
    ///
    /// # Errors
    /// As [`connect`].
    ///
    /// # If a peer dies
    /// As [`connect`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("slots").display().to_string();
    /// use parkline_core::{Queue, Semaphore};
    /// use parkline_meet::{Connect, MeetError, serve};
    ///
    /// let slots = Queue::builder().create_semaphore(2)?;
    /// let _keeper = serve(&name, &slots)?;
    /// let same: Semaphore = Connect::to(&name).open()?;
    /// let _permit = same.try_acquire()?;
    /// assert_eq!(slots.available_permits(), 1);
    /// assert!(matches!(Connect::to(&name).open::<Queue>(), Err(MeetError::Open(_))), "no queue");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open<T: Object>(self) -> Result<T, MeetError> {
        self.meet(|_, object| Ok(object))
    }

    /// Connects, opens, and stands by as an heir: if the server dies or gives up the name, one of
    /// its heirs serves the same queue on. The heir keeps the connection.
    ///
    /// While one heir lives, no other queue gets the name.
    ///
    /// # Errors
    /// As [`connect`]. [`MeetError::Os`] with `EACCES` if this process may not make the socket: an
    /// heir has the user of the run directory, or is root.
    ///
    /// # If a peer dies
    /// The heir finds out at once. If several do, the first to get the lock serves.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("jobs").display().to_string();
    /// use parkline_core::Queue;
    /// use parkline_meet::{Connect, MeetError, serve};
    ///
    /// let none = Connect::to(&name).open_as_heir::<Queue>();
    /// assert!(matches!(none, Err(MeetError::NotServed { .. })));
    /// let queue = Queue::builder().create()?;
    /// let server = serve(&name, &queue)?;
    /// let (same, heir) = Connect::to(&name).open_as_heir::<Queue>()?;
    /// assert_eq!(same.id(), queue.id());
    /// assert!(!heir.is_serving());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_as_heir<T: Object>(self) -> Result<(T, Keeper), MeetError> {
        let (object, keeping) = self.meet(inherit)?;
        Ok((object, Keeper::on_thread(keeping)?))
    }

    /// As [`open`](Self::open), in a tokio runtime with `enable_io` and `enable_time`.
    ///
    /// # Errors
    /// As [`connect`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future ends the connection. Nothing else has happened.
    ///
    /// # If a peer dies
    /// As [`connect`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("jobs").display().to_string();
    /// use parkline_core::Queue;
    /// use parkline_meet::{Connect, MeetError, serve};
    ///
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// let none = Connect::to(&name).open_async::<Queue>().await;
    /// assert!(matches!(none, Err(MeetError::NotServed { .. })));
    /// let queue = Queue::builder().create()?;
    /// let _keeper = serve(&name, &queue)?;
    /// assert_eq!(Connect::to(&name).open_async::<Queue>().await?.id(), queue.id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tokio")]
    pub async fn open_async<T: Object>(self) -> Result<T, MeetError> {
        self.meet_async(|_, object| Ok(object)).await
    }

    /// As [`open_as_heir`](Self::open_as_heir), in a tokio runtime with `enable_io` and
    /// `enable_time`: a task of it is the heir.
    ///
    /// # Errors
    /// As [`open_as_heir`](Self::open_as_heir).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future ends the connection. This process is no heir then.
    ///
    /// # If a peer dies
    /// As [`open_as_heir`](Self::open_as_heir).
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("jobs").display().to_string();
    /// use parkline_core::Queue;
    /// use parkline_meet::{Connect, MeetError, serve};
    ///
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// let none = Connect::to(&name).open_as_heir_async::<Queue>().await;
    /// assert!(matches!(none, Err(MeetError::NotServed { .. })));
    /// let queue = Queue::builder().create()?;
    /// let server = serve(&name, &queue)?;
    /// let (_same, _heir) = Connect::to(&name).open_as_heir_async::<Queue>().await?;
    /// drop(server);
    /// assert_eq!(Connect::to(&name).open_async::<Queue>().await?.id(), queue.id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tokio")]
    pub async fn open_as_heir_async<T: Object>(self) -> Result<(T, Keeper), MeetError> {
        let (object, keeping) = self.meet_async(inherit).await?;
        Ok((object, Keeper::on_tokio(keeping)?))
    }

    /// Calls until a server answers, and finishes with the connection and what it sent.
    fn meet<T: Object, R>(
        &self,
        finish: impl Fn(Call, T) -> Result<R, Failed>,
    ) -> Result<R, MeetError> {
        let mut patience = Patience::new(self.wait);
        loop {
            let attempt = Call::begin(&self.name, self.trusted).and_then(|call| {
                loop {
                    let is_readable = wait_readable(&call, patience.left())?;
                    if let Some(object) = call.answer()? {
                        return finish(call, self.open_descriptor(object)?);
                    }
                    if !is_readable {
                        return Err(self.silent(&call, &patience));
                    }
                }
            });
            match attempt {
                Ok(met) => return Ok(met),
                Err(failed) => std::thread::sleep(patience.after(failed)?),
            }
        }
    }

    #[cfg(feature = "tokio")]
    async fn meet_async<T: Object, R>(
        &self,
        finish: impl Fn(Call, T) -> Result<R, Failed>,
    ) -> Result<R, MeetError> {
        let mut patience = Patience::new(self.wait);
        loop {
            let attempt = match Call::begin(&self.name, self.trusted) {
                Ok(call) => match self.answer_async(&call, &patience).await {
                    Ok(object) => self
                        .open_descriptor(object)
                        .map_err(Failed::from)
                        .and_then(|object| finish(call, object)),
                    Err(failed) => Err(failed),
                },
                Err(failed) => Err(failed),
            };
            match attempt {
                Ok(met) => return Ok(met),
                Err(failed) => tokio::time::sleep(patience.after(failed)?).await,
            }
        }
    }

    #[cfg(feature = "tokio")]
    async fn answer_async(
        &self,
        call: &Call,
        patience: &Patience,
    ) -> Result<std::os::fd::OwnedFd, Failed> {
        let os = || MeetError::os::<std::io::Error>("epoll_ctl", "the runtime's");
        let socket = register(&call.socket).map_err(os())?;
        loop {
            let readable = tokio::time::timeout(patience.left(), socket.readable()).await;
            if let Some(object) = call.answer()? {
                return Ok(object);
            }
            match readable {
                Ok(ready) => ready.map_err(os())?.clear_ready(),
                Err(_) => return Err(self.silent(call, patience)),
            }
        }
    }

    fn open_descriptor<T: Object>(&self, object: std::os::fd::OwnedFd) -> Result<T, MeetError> {
        Ok(T::open_with(object, self.options)?)
    }

    fn silent(&self, call: &Call, patience: &Patience) -> Failed {
        Failed::ForGood(MeetError::Silent {
            path: call.place.path().to_owned(),
            server: call.server.clone(),
            waited: patience.waited(),
        })
    }
}

fn inherit<T: Object>(call: Call, object: T) -> Result<(T, Keeping), Failed> {
    let keeping = Keeping::inherit(call, &object)?;
    Ok((object, keeping))
}

/// Whether the server answered in time.
fn wait_readable(call: &Call, timeout: Duration) -> Result<bool, MeetError> {
    let timeout = timeout.try_into().ok();
    let mut polled = [PollFd::new(&*call.socket, PollFlags::IN)];
    match poll(&mut polled, timeout.as_ref()) {
        // As if it was readable: the caller tries, and waits again.
        Err(rustix::io::Errno::INTR) => Ok(true),
        ready => Ok(ready.map_err(MeetError::os("poll", call.place.path().display()))? > 0),
    }
}

/// Connects to a name as an heir, or creates the queue and serves it if no process does.
///
/// Each process that calls this keeps the name, so any of them may end. When all have ended, the
/// queue is gone, and the next call creates a new one. The processes should all create it with the
/// same settings, because any of them may be the first.
///
/// # Errors
/// As [`Connect::open_as_heir`] and [`serve`](crate::serve()), [`MeetError::Create`].
///
/// # If a peer dies
/// As [`Connect::open_as_heir`].
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let name = directory.path().join("jobs").display().to_string();
/// use parkline_core::Queue;
/// use parkline_meet::{MeetError, connect_or_serve};
///
/// let refused = connect_or_serve(&name, || Queue::builder().capacity(0).create());
/// assert!(matches!(refused, Err(MeetError::Create(_))));
/// let (first, keeper) = connect_or_serve(&name, || Queue::builder().create())?;
/// let (second, heir) = connect_or_serve(&name, || Queue::builder().create())?;
/// assert_eq!(first.id(), second.id());
/// assert!(keeper.is_serving() && !heir.is_serving());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn connect_or_serve<T: Object>(
    name: &str,
    create: impl FnOnce() -> Result<T, CreateError>,
) -> Result<(T, Keeper), MeetError> {
    let mut patience = Patience::new(None);
    let mut source = Source::ToCreate(create);
    loop {
        if let Some(met) = absent(Connect::to(name).open_as_heir())? {
            return Ok(met);
        }
        let object = source.get()?;
        match Serve::name(name).start(&object) {
            Ok(keeper) => return Ok((object, keeper)),
            Err(error) => std::thread::sleep(patience.after(overtaken(error))?),
        }
        source = Source::Made(object);
    }
}

/// As [`connect_or_serve`], in a tokio runtime with `enable_io` and `enable_time`.
///
/// # Errors
/// As [`connect_or_serve`].
///
/// # Panics
/// Outside a tokio runtime.
///
/// # Cancel safety
/// If the future is dropped before it is ready, this process does not keep the name.
///
/// # If a peer dies
/// As [`connect_or_serve`].
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let name = directory.path().join("jobs").display().to_string();
/// use parkline_core::Queue;
/// use parkline_meet::{MeetError, connect_or_serve_async};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let refused = connect_or_serve_async(&name, || Queue::builder().capacity(0).create()).await;
/// assert!(matches!(refused, Err(MeetError::Create(_))));
/// let (first, _keeper) = connect_or_serve_async(&name, || Queue::builder().create()).await?;
/// let (second, _heir) = connect_or_serve_async(&name, || Queue::builder().create()).await?;
/// assert_eq!(first.id(), second.id());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "tokio")]
pub async fn connect_or_serve_async<T: Object + Sync>(
    name: &str,
    create: impl FnOnce() -> Result<T, CreateError>,
) -> Result<(T, Keeper), MeetError> {
    let mut patience = Patience::new(None);
    let mut source = Source::ToCreate(create);
    loop {
        if let Some(met) = absent(Connect::to(name).open_as_heir_async().await)? {
            return Ok(met);
        }
        let object = source.get()?;
        match Serve::name(name).start_async(&object).await {
            Ok(keeper) => return Ok((object, keeper)),
            Err(error) => tokio::time::sleep(patience.after(overtaken(error))?).await,
        }
        source = Source::Made(object);
    }
}

/// The queue that a process serves if it is the first.
enum Source<T, F> {
    ToCreate(F),
    Made(T),
}

impl<T, F: FnOnce() -> Result<T, CreateError>> Source<T, F> {
    fn get(self) -> Result<T, CreateError> {
        match self {
            Self::ToCreate(create) => create(),
            Self::Made(object) => Ok(object),
        }
    }
}

/// `None` if no process serves the name.
fn absent<T>(met: Result<T, MeetError>) -> Result<Option<T>, MeetError> {
    match met {
        Err(MeetError::NotServed { .. } | MeetError::Gone { .. }) => Ok(None),
        met => met.map(Some),
    }
}

/// Another process was faster to serve the name: connect to that one.
fn overtaken(error: MeetError) -> Failed {
    match error {
        MeetError::InUse { .. } => Failed::under_way(error),
        error => Failed::ForGood(error),
    }
}

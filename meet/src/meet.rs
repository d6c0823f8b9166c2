//! The calls on a queue, an event or a semaphore that bring it into another process without a name.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use parkline_core::{OpenOptions, Queue};
use rustix::net::SendFlags;

use crate::error::MeetError;
use crate::keeper::Keeper;
use crate::object::Object;
use crate::pass::{name_stream, pass, take};
use crate::record::{self, Received};
use crate::serve::Serve;

/// Calls on [`Queue`], [`Event`](parkline_core::Event) and [`Semaphore`](parkline_core::Semaphore).
pub trait Meet: Object {
    /// Serves this under a name: [`serve`](crate::serve()) as a method.
    ///
    /// # Errors
    /// As [`serve`](crate::serve()).
    ///
    /// # If a peer dies
    /// As [`serve`](crate::serve()).
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let name = directory.path().join("jobs").display().to_string();
    /// use parkline_core::Queue;
    /// use parkline_meet::prelude::*;
    ///
    /// let queue = Queue::builder().create()?;
    /// let _keeper = queue.serve(&name)?;
    /// assert!(matches!(queue.serve(&name), Err(MeetError::InUse { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn serve(&self, name: &str) -> Result<Keeper, MeetError> {
        Serve::name(name).start(self)
    }

    /// Sends this over a connected Unix socket: 16 bytes, with the descriptor. The other side calls
    /// [`receive_over`](Self::receive_over). What else goes over the socket stays as it was.
    ///
    /// # Errors
    /// [`MeetError::Os`], with `EPIPE` when the other side has closed it.
    ///
    /// # If a peer dies
    /// If the other side dies before it receives this, nothing is lost but its copy of the
    /// descriptor.
    ///
    /// ```
    /// use parkline_core::Queue;
    /// use parkline_meet::prelude::*;
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (here, there) = UnixStream::pair()?;
    /// let queue = Queue::builder().create()?;
    /// queue.send_over(&here)?;
    /// let same: Queue = Queue::receive_over(&there)?;
    /// assert_eq!(same.id(), queue.id());
    /// drop(there);
    /// assert!(matches!(queue.send_over(&here), Err(MeetError::Os { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn send_over(&self, stream: &impl AsFd) -> Result<(), MeetError> {
        let object = self.descriptor().map_err(MeetError::os("dup", "the queue"))?;
        record::send(stream, Some(object.as_fd()), SendFlags::empty())
            .map_err(MeetError::os("sendmsg", name_stream(stream)))
    }

    /// Receives what the other side sent with [`send_over`](Self::send_over). Waits for it, unless
    /// the socket has a timeout. For a queue with a schema see
    /// [`receive_with_options`](Self::receive_with_options).
    ///
    /// # Errors
    /// [`MeetError::Foreign`] if something else comes, or the end; what came is consumed then.
    /// [`MeetError::Open`] if it is another type. [`MeetError::Os`].
    ///
    /// # If a peer dies
    /// If it sent this before it died, this is received.
    ///
    /// ```
    /// use parkline_core::{Event, Queue};
    /// use parkline_meet::prelude::*;
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (here, there) = UnixStream::pair()?;
    /// let event = Queue::builder().create_event()?;
    /// event.send_over(&here)?;
    /// event.send_over(&here)?;
    /// assert_eq!(Event::receive_over(&there)?.id(), event.id());
    /// assert!(matches!(<Queue>::receive_over(&there), Err(MeetError::Open(_))), "it is an event");
    /// drop(here);
    /// assert!(matches!(Event::receive_over(&there), Err(MeetError::Foreign { .. })), "the end");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn receive_over(stream: &impl AsFd) -> Result<Self, MeetError> {
        Self::receive_with_options(stream, Queue::open_options())
    }

    /// As [`receive_over`](Self::receive_over), with the options of a queue that has a schema.
    ///
    /// # Errors
    /// As [`receive_over`](Self::receive_over).
    ///
    /// # If a peer dies
    /// As [`receive_over`](Self::receive_over).
    ///
    /// ```
    /// use parkline_core::Queue;
    /// use parkline_meet::prelude::*;
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (here, there) = UnixStream::pair()?;
    /// let queue = Queue::builder().schema("orders", 3).create()?;
    /// let mut options = Queue::open_options().schema("orders", 3);
    /// queue.send_over(&here)?;
    /// assert_eq!(<Queue>::receive_with_options(&there, options)?.id(), queue.id());
    /// queue.send_over(&here)?;
    /// options = Queue::open_options().schema("orders", 4);
    /// assert!(<Queue>::receive_with_options(&there, options).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn receive_with_options(stream: &impl AsFd, options: OpenOptions) -> Result<Self, MeetError> {
        let from = name_stream(stream);
        Ok(Self::open_with(receive_descriptor(stream, &from)?, options)?)
    }

    /// As [`send_over`](Self::send_over), over a stream of tokio.
    ///
    /// # Errors
    /// As [`send_over`](Self::send_over).
    ///
    /// # Cancel safety
    /// If the future is dropped, this was sent as a whole or not at all.
    ///
    /// # If a peer dies
    /// As [`send_over`](Self::send_over).
    ///
    /// ```
    /// use parkline_core::Queue;
    /// use parkline_meet::prelude::*;
    /// use tokio::net::UnixStream;
    ///
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// let (here, there) = UnixStream::pair()?;
    /// let queue = Queue::builder().create()?;
    /// queue.send_over_async(&here).await?;
    /// assert_eq!(<Queue>::receive_over_async(&there).await?.id(), queue.id());
    /// drop(there);
    /// assert!(queue.send_over_async(&here).await.is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tokio")]
    fn send_over_async(
        &self,
        stream: &tokio::net::UnixStream,
    ) -> impl Future<Output = Result<(), MeetError>> + Send {
        let object = self.descriptor();
        async move {
            let object = object.map_err(MeetError::os("dup", "the queue"))?;
            let send = || {
                let sent = record::send(stream, Some(object.as_fd()), SendFlags::DONTWAIT);
                sent.map_err(std::io::Error::from)
            };
            stream
                .async_io(tokio::io::Interest::WRITABLE, send)
                .await
                .map_err(MeetError::os("sendmsg", name_stream(stream)))
        }
    }

    /// As [`receive_over`](Self::receive_over), over a stream of tokio.
    ///
    /// # Errors
    /// As [`receive_over`](Self::receive_over).
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing was received.
    ///
    /// # If a peer dies
    /// As [`receive_over`](Self::receive_over).
    ///
    /// ```
    /// use parkline_core::Queue;
    /// use parkline_meet::prelude::*;
    /// use tokio::net::UnixStream;
    ///
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// let (here, there) = UnixStream::pair()?;
    /// let queue = Queue::builder().create()?;
    /// queue.send_over_async(&here).await?;
    /// assert_eq!(<Queue>::receive_over_async(&there).await?.id(), queue.id());
    /// drop(here);
    /// assert!(<Queue>::receive_over_async(&there).await.is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tokio")]
    fn receive_over_async(
        stream: &tokio::net::UnixStream,
    ) -> impl Future<Output = Result<Self, MeetError>> + Send {
        async move {
            let from = name_stream(stream);
            let receive = || match receive_descriptor(stream, &from) {
                // tokio waits and tries again.
                Err(MeetError::Os { cause, .. })
                    if cause.kind() == std::io::ErrorKind::WouldBlock =>
                {
                    Err(cause)
                }
                received => Ok(received),
            };
            let received = stream
                .async_io(tokio::io::Interest::READABLE, receive)
                .await
                .map_err(MeetError::os("recvmsg", &from))?;
            Ok(Self::open_with(received?, Queue::open_options())?)
        }
    }

    /// Hands this on to the processes that `command` starts: each has it in the environment
    /// variable `name`, for [`from_env`](Self::from_env). No other child of this process gets it.
    ///
    /// Call it after `env_clear`, if at all. tokio's command has `as_std_mut()`.
    ///
    /// # Errors
    /// [`MeetError::Os`] if this process has no descriptor left. [`MeetError::Environment`] if
    /// `name` cannot be a variable.
    ///
    /// # If a peer dies
    /// If the child dies, the queue and the other processes go on.
    ///
    /// ```
    /// use parkline_core::Queue;
    /// use parkline_meet::prelude::*;
    /// use std::process::Command;
    ///
    /// let queue = Queue::builder().create()?;
    /// let mut command = Command::new("sh");
    /// queue.pass_to(&mut command, "JOBS")?;
    /// let status = command.args(["-c", "test -e /proc/self/fd/${JOBS%:*}"]).status()?;
    /// assert!(status.success(), "the child has the descriptor that the variable names");
    /// assert!(queue.pass_to(&mut command, "A=B").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn pass_to(&self, command: &mut Command, name: &str) -> Result<(), MeetError> {
        pass(self, command, name)
    }

    /// Takes what the parent handed on with [`pass_to`](Self::pass_to), and closes the descriptor
    /// that this process inherited. So it works once. If it fails because of the type or the
    /// schema, the descriptor stays, and a call with the right one works.
    ///
    /// # Errors
    /// [`MeetError::Environment`] if the variable is not set, or its descriptor is not here because
    /// it was taken before. [`MeetError::Open`], [`MeetError::Os`].
    ///
    /// # If a peer dies
    /// The queue does not need the parent.
    ///
    /// ```
    /// use parkline_core::Queue;
    /// use parkline_meet::prelude::*;
    /// use std::process::Command;
    ///
    /// if std::env::var_os("JOBS").is_some() {
    ///     // The child.
    ///     let jobs: Queue = Queue::from_env("JOBS")?;
    ///     jobs.sender()?.try_send(b"hello from the child")?;
    ///     assert!(<Queue>::from_env("JOBS").is_err(), "it works once");
    ///     return Ok(());
    /// }
    /// let queue = Queue::builder().create()?;
    /// let mut child = Command::new(std::env::current_exe()?);
    /// queue.pass_to(&mut child, "JOBS")?;
    /// assert!(child.args(std::env::args_os().skip(1)).status()?.success());
    /// assert_eq!(queue.receiver()?.try_recv()?, b"hello from the child");
    /// assert!(<Queue>::from_env("JOBS").is_err(), "the parent has no such variable");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn from_env(name: &str) -> Result<Self, MeetError> {
        take(name, Queue::open_options())
    }

    /// As [`from_env`](Self::from_env), with the options of a queue that has a schema.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    ///
    /// # If a peer dies
    /// As [`from_env`](Self::from_env).
    ///
    /// ```
    /// use parkline_core::Queue;
    /// use parkline_meet::prelude::*;
    /// use std::process::Command;
    ///
    /// if std::env::var_os("ORDERS").is_some() {
    ///     assert!(<Queue>::from_env("ORDERS").is_err(), "it has a schema");
    ///     let options = Queue::open_options().schema("orders", 3);
    ///     <Queue>::from_env_with_options("ORDERS", options)?;
    ///     return Ok(());
    /// }
    /// let queue = Queue::builder().schema("orders", 3).create()?;
    /// let mut child = Command::new(std::env::current_exe()?);
    /// queue.pass_to(&mut child, "ORDERS")?;
    /// assert!(child.args(std::env::args_os().skip(1)).status()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn from_env_with_options(name: &str, options: OpenOptions) -> Result<Self, MeetError> {
        take(name, options)
    }
}

impl<T: Object> Meet for T {}

/// Calls on [`Command`].
pub trait CommandExt {
    /// Hands `object` on to the processes that this command starts: [`Meet::pass_to`], for a chain
    /// of calls.
    ///
    /// # Errors
    /// As [`Meet::pass_to`].
    ///
    /// # If a peer dies
    /// As [`Meet::pass_to`].
    ///
    /// ```
    /// use parkline_core::Queue;
    /// use parkline_meet::prelude::*;
    /// use std::process::Command;
    ///
    /// let jobs = Queue::builder().create()?;
    /// let stop = Queue::builder().create_event()?;
    /// let mut command = Command::new("true");
    /// assert!(command.pass("JOBS", &jobs)?.pass("STOP", &stop)?.status()?.success());
    /// assert!(command.pass("", &jobs).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn pass(&mut self, name: &str, object: &impl Object) -> Result<&mut Self, MeetError>;
}

impl CommandExt for Command {
    fn pass(&mut self, name: &str, object: &impl Object) -> Result<&mut Self, MeetError> {
        pass(object, self, name)?;
        Ok(self)
    }
}

fn receive_descriptor(stream: &impl AsFd, from: &str) -> Result<OwnedFd, MeetError> {
    let what = match record::receive(stream, from)? {
        Received::Object(object) => return Ok(object),
        Received::Refused => "it refused",
        Received::End => "it closed the connection and sent nothing",
    };
    Err(MeetError::Foreign { from: from.to_owned(), what: what.to_owned() })
}

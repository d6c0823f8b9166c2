//! The thread or task that runs a [`Keeping`], and the handle that ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::EventfdFlags;

use crate::error::MeetError;
use crate::keeping::{Keeping, Next};
use crate::private::Private;
#[cfg(feature = "tokio")]
use crate::private::register;

/// Keeps a queue, an event or a semaphore under its name until it is dropped: serves it, or stands
/// by as an heir of the process that does.
///
/// Made by [`serve`](crate::serve), [`Serve`](crate::Serve),
/// [`Connect::open_as_heir`](crate::Connect::open_as_heir) and
/// [`connect_or_serve`](crate::connect_or_serve). It is one thread that sleeps, or a task of tokio.
///
/// Dropping it leaves the queue to the heirs, if there are any, or else removes the name. Processes
/// that connected before keep the queue either way. A forked child has no part in it: there,
/// dropping does nothing.
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let name = directory.path().join("jobs").display().to_string();
/// use parkline_core::Queue;
/// use parkline_meet::{Connect, MeetError, connect, serve};
///
/// let queue = Queue::builder().create()?;
/// let server = serve(&name, &queue)?;
/// let (same, heir) = Connect::to(&name).open_as_heir::<Queue>()?;
/// assert!(server.is_serving() && !heir.is_serving());
/// drop(server); // or its process dies
/// assert_eq!(connect::<Queue>(&name)?.id(), queue.id(), "the heir serves it on");
/// drop(heir);
/// assert!(matches!(connect::<Queue>(&name), Err(MeetError::NotServed { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "the name is not served on when this is dropped"]
pub struct Keeper {
    runs: Runs,
    is_serving: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Runs {
    Thread {
        stop: Private,
        thread: Option<JoinHandle<()>>,
    },
    #[cfg(feature = "tokio")]
    Task(tokio::task::AbortHandle),
}

impl Keeper {
    pub(crate) fn on_thread(mut keeping: Keeping) -> Result<Self, MeetError> {
        let make =
            || Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let stop = Private::make(make).map_err(MeetError::os("eventfd", ""))?;
        keeping.stop_at(&stop)?;
        let is_serving = Arc::clone(&keeping.is_serving);
        let run = move || {
            let mut next = keeping.turn(Some(Duration::ZERO));
            loop {
                next = match next {
                    Next::Stop => break,
                    Next::Wait => keeping.turn(None),
                    Next::WaitFor(pause) => keeping.turn(Some(pause)),
                }
            }
        };
        let thread = thread::Builder::new()
            .name("parkline-meet".to_owned())
            .spawn(run)
            .map_err(MeetError::os("clone", "a thread to serve"))?;
        Ok(Self { runs: Runs::Thread { stop, thread: Some(thread) }, is_serving })
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn on_tokio(mut keeping: Keeping) -> Result<Self, MeetError> {
        let is_serving = Arc::clone(&keeping.is_serving);
        let epoll =
            register(&keeping.epoll).map_err(MeetError::os("epoll_ctl", "the runtime's"))?;
        let run = async move {
            loop {
                // A failure means that the runtime ends.
                let pause = match keeping.turn(Some(Duration::ZERO)) {
                    Next::Stop => return,
                    Next::Wait => None,
                    Next::WaitFor(pause) => Some(pause),
                };
                if keeping.was_busy {
                    tokio::task::yield_now().await;
                    continue;
                }
                let readable = async {
                    let mut ready = epoll.readable().await?;
                    // The next turn finds what came before this; what comes after it makes the
                    // epoll readable anew.
                    ready.clear_ready();
                    std::io::Result::Ok(())
                };
                let ended = match pause {
                    None => readable.await.is_err(),
                    Some(pause) => {
                        matches!(tokio::time::timeout(pause, readable).await, Ok(Err(_)))
                    }
                };
                if ended {
                    return;
                }
            }
        };
        Ok(Self { runs: Runs::Task(tokio::spawn(run).abort_handle()), is_serving })
    }

    /// Whether this process serves the name now; `false` for an heir that waits. An heir may take
    /// over before you act on it; a server stays one.
    pub fn is_serving(&self) -> bool {
        self.is_serving.load(Relaxed)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        match &mut self.runs {
            Runs::Thread { stop, thread } => {
                // A forked child has neither the thread nor the descriptor.
                if stop.is_forked() {
                    return;
                }
                // The counter is far from its limit.
                let _ = rustix::io::write(&*stop, &1_u64.to_ne_bytes());
                // It cannot panic, and if it did, the name is given up all the same.
                let _ = thread.take().map(JoinHandle::join);
            }
            #[cfg(feature = "tokio")]
            Runs::Task(task) => task.abort(),
        }
    }
}

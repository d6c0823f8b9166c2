//! An event loop of this process: the ring that it polls, and the tasks that it has to wake.
//!
//! A waker does not touch Python. It leaves the name of its task with the loop and rings a bell, an
//! eventfd that the loop polls beside the ring. The loop then resolves the futures of the named tasks.
//! So no thread of this package ever asks for the GIL, and an interpreter that exits waits for none of
//! them. Within a call of the loop itself a waker does not ring the bell, because the loop reads the
//! names after the call.
//!
//! A loop that is closed runs no task any more, and its waits give up: a wake-up that a task got, and
//! did not use, goes to another waiter.

use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Wake;
use std::thread::{self, ThreadId};

use parkline_uring::driver::{LoopRing, within_timer};
use pyo3::prelude::*;

use crate::bell::Bell;
use crate::pauses::Pauses;
use crate::waiter::Waiter;

thread_local! {
    /// The loop that this thread is attending to.
    static ATTENDED: Cell<*const Mail> = const { Cell::new(ptr::null()) };
}

/// One event loop's ring and bell. Without io_uring its tasks wait by the process's helper thread,
/// and the loop has only the bell.
#[pyclass(frozen, weakref, module = "parkline._parkline")]
pub(crate) struct EventLoop {
    ring: Option<LoopRing>,
    /// Where there is no ring.
    pauses: Option<Arc<Pauses>>,
    mail: Arc<Mail>,
    waits: Mutex<HashMap<u64, Expected>>,
    thread: ThreadId,
}

/// A wait of one of the loop's tasks.
struct Expected {
    waiter: Weak<Waiter>,
    /// `None` once it is resolved, and the task runs next.
    future: Option<Py<PyAny>>,
}

/// The names of the tasks to wake.
struct Mail {
    names: Mutex<Vec<u64>>,
    bell: Bell,
}

/// The waker of one waiting task.
pub(crate) struct Alarm {
    name: u64,
    mail: Arc<Mail>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        locked(&self.mail.names).push(self.name);
        if ATTENDED.get() != Arc::as_ptr(&self.mail) {
            self.mail.bell.ring();
        }
    }
}

#[pymethods]
impl EventLoop {
    #[new]
    fn new() -> PyResult<Self> {
        let mail = Arc::new(Mail { names: Mutex::default(), bell: Bell::new()? });
        let (ring, waits) = (LoopRing::new().ok(), Mutex::default());
        let pauses = if ring.is_none() { Pauses::new().ok().map(Arc::new) } else { None };
        Ok(Self { ring, pauses, mail, waits, thread: thread::current().id() })
    }

    /// The descriptors that the loop polls, each with what to call when it is readable.
    fn sources(this: &Bound<'_, Self>) -> PyResult<Vec<(RawFd, Py<PyAny>)>> {
        let py = this.py();
        let mut sources = Vec::new();
        if let Some(bell) = this.get().mail.bell.fd() {
            let answer = this.getattr(pyo3::intern!(py, "answer"))?.unbind();
            sources.push((bell.as_raw_fd(), answer));
        }
        if let Some(ring) = &this.get().ring {
            sources.push((ring.as_raw_fd(), this.getattr(pyo3::intern!(py, "drive"))?.unbind()));
        }
        if let Some(fd) = this.get().pauses.as_ref().and_then(|pauses| pauses.bell.fd()) {
            sources.push((fd.as_raw_fd(), this.getattr(pyo3::intern!(py, "go_on"))?.unbind()));
        }
        Ok(sources)
    }

    /// Wakes the tasks with a pause that is over, so that they attempt again.
    fn go_on(&self, py: Python<'_>) -> PyResult<()> {
        let pass = || {
            if let Some(pauses) = &self.pauses {
                pauses.pass();
            }
        };
        self.attend(py, pass).1?;
        static SAID: AtomicBool = AtomicBool::new(false);
        if !SAID.swap(true, Relaxed) {
            let logger = py.import("logging")?.call_method1("getLogger", ("parkline",))?;
            let says =
                "neither an io_uring nor a helper thread is to be had: tasks look every 16 ms";
            logger.call_method1("warning", (says,))?;
        }
        Ok(())
    }

    /// Drains the ring, and resolves the futures of the tasks with a wait that is over.
    fn drive(&self, py: Python<'_>) -> PyResult<()> {
        let drive = || {
            if let Some(ring) = &self.ring {
                ring.drive();
            }
        };
        self.attend(py, drive).1
    }

    /// Answers the bell: resolves the futures of the tasks that other threads woke.
    fn answer(&self, py: Python<'_>) -> PyResult<()> {
        self.mail.bell.answer();
        self.deliver(py)
    }
}

impl EventLoop {
    /// Calls `poll`: futures that are polled in it wait here.
    pub(crate) fn within<R>(&self, poll: impl FnOnce() -> R) -> R {
        match &self.ring {
            Some(ring) => ring.within(poll),
            None => match &self.pauses {
                Some(pauses) => within_timer(Arc::<Pauses>::clone(pauses), poll),
                None => poll(),
            },
        }
    }

    /// Makes a call that may wake tasks of this loop, and then resolves their futures. Returns the result
    /// of the call, and the exception that a future raised.
    pub(crate) fn attend<R>(&self, py: Python<'_>, call: impl FnOnce() -> R) -> (R, PyResult<()>) {
        if thread::current().id() != self.thread {
            return (call(), Ok(()));
        }
        let before = ATTENDED.replace(Arc::as_ptr(&self.mail));
        let result = call();
        ATTENDED.set(before);
        let is_silent = locked(&self.mail.names).is_empty();
        (result, if is_silent { Ok(()) } else { self.deliver(py) })
    }

    /// The waker of the task `name`.
    pub(crate) fn alarm(&self, name: u64) -> Arc<Alarm> {
        Arc::new(Alarm { name, mail: Arc::clone(&self.mail) })
    }

    /// From now on the alarm of task `name` resolves `future`.
    pub(crate) fn expect(&self, name: u64, future: Py<PyAny>, waiter: &Arc<Waiter>) {
        let expected = Expected { waiter: Arc::downgrade(waiter), future: Some(future) };
        let replaced = locked(&self.waits).insert(name, expected);
        drop(replaced);
    }

    pub(crate) fn forget(&self, name: u64) {
        let forgotten = locked(&self.waits).remove(&name);
        drop(forgotten);
    }

    /// Resolves the futures of all named tasks.
    ///
    /// # Errors
    /// The exception of the first future that raises, because a signal handler can run in the Python code
    /// of a future. All others are resolved.
    fn deliver(&self, py: Python<'_>) -> PyResult<()> {
        let names = std::mem::take(&mut *locked(&self.mail.names));
        let mut delivered = Ok(());
        for name in names {
            let future = locked(&self.waits).get_mut(&name).and_then(|it| it.future.take());
            let Some(future) = future else { continue };
            let resolved = resolve(future.bind(py));
            delivered = delivered.and(resolved);
        }
        delivered
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        let waits = std::mem::take(self.waits.get_mut().unwrap_or_else(PoisonError::into_inner));
        for waiter in waits.into_values().filter_map(|it| it.waiter.upgrade()) {
            waiter.give_up();
        }
    }
}

fn resolve(future: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    if !future.call_method0(pyo3::intern!(py, "done"))?.is_truthy()? {
        future.call_method1(pyo3::intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

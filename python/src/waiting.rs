//! One await: the wait of a task, which a coroutine in Python polls.
//!
//! The coroutine polls. While the wait is not over, it awaits a future of its loop. The loop resolves
//! the future when the wait may be over, and the coroutine polls again. A poll takes what the task waits
//! for, and the coroutine returns it without another await. So a task that is cancelled has taken
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Poll, Waker};

use parkline_core::driver::ForkGuard;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::blocking::Waiters;
use crate::event_loop::EventLoop;
use crate::waiter::{Outcome, Waiter};

/// How tasks of this process wait: `io_uring`, or `futex` and why.
#[pyfunction]
pub(crate) fn backend() -> (&'static str, Option<String>) {
    match parkline_uring::backend() {
        parkline_uring::Backend::IoUring => ("io_uring", None),
        parkline_uring::Backend::Futex(why) => ("futex", Some(why.to_string())),
    }
}

/// The one value that says "not yet".
pub(crate) fn pending(py: Python<'_>) -> Py<PyAny> {
    static PENDING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let made = PENDING.get_or_init(py, || py.get_type::<Wait>().into_any().unbind());
    made.clone_ref(py)
}

/// The one value that says that a get took a dead letter, which its handler has: the task gets again.
pub(crate) fn again(py: Python<'_>) -> Py<PyAny> {
    static AGAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let made = AGAIN.get_or_init(py, || py.get_type::<EventLoop>().into_any().unbind());
    made.clone_ref(py)
}

#[pyclass(frozen, module = "parkline._parkline")]
pub(crate) struct Wait {
    /// The name by which its loop knows it.
    name: u64,
    waiter: Arc<Waiter>,
}

impl Wait {
    /// The wait for `future`, counted `among` others while it lasts.
    pub(crate) fn new(
        guard: ForkGuard,
        among: Option<&Arc<Waiters>>,
        future: impl Future<Output = Outcome> + Send + 'static,
    ) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let waiter = Arc::new(Waiter::new(guard, among, future));
        Self { name: LAST.fetch_add(1, Relaxed), waiter }
    }
}

#[pymethods]
impl Wait {
    /// What the task waited for, or `PENDING`. In the second case the loop resolves `future` when the
    /// wait may be over.
    fn poll(
        &self,
        py: Python<'_>,
        event_loop: Option<&EventLoop>,
        future: Py<PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let gone = || PyRuntimeError::new_err("the event loop is closed");
        let event_loop = event_loop.ok_or_else(gone)?;
        // Before the poll, because another thread may wake the task while it is polled.
        event_loop.expect(self.name, future, &self.waiter);
        let (outcome, delivered) = event_loop.attend(py, || {
            let waker = Waker::from(event_loop.alarm(self.name));
            event_loop.within(|| self.waiter.poll(&waker))
        });
        let Poll::Ready(outcome) = outcome else { return delivered.map(|()| pending(py)) };
        event_loop.forget(self.name);
        // After an error the outcome is dropped, because the task cannot get both.
        delivered.and_then(|()| outcome(py))
    }

    /// Gives up: nothing was taken and nothing sent.
    fn close(&self, py: Python<'_>, event_loop: Option<&EventLoop>) -> PyResult<()> {
        let Some(event_loop) = event_loop else {
            self.waiter.give_up();
            return Ok(());
        };
        event_loop.forget(self.name);
        event_loop.attend(py, || self.waiter.give_up()).1
    }
}

//! One wait of a task: its future, until it is ready or the task gives up.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use parkline_core::driver::ForkGuard;
use parkline_uring::Fault;
use pyo3::prelude::*;

use crate::blocking::{Counted, Waiters};
use crate::errors;

type Future = Pin<Box<dyn core::future::Future<Output = Outcome> + Send>>;

/// The result of the wait, as a closure that makes the task's Python value of it. If it is dropped
/// instead, the message or the permit that it owns is returned. It keeps the queue or semaphore open, so
/// that the last handle is not closed within a poll.
pub(crate) type Outcome = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// The result of a wait without a value.
pub(crate) fn nothing(py: Python<'_>, ended: Result<(), Fault>) -> PyResult<Py<PyAny>> {
    ended.map(|()| py.None()).map_err(|fault| errors::fault(py, fault))
}

pub(crate) struct Waiter {
    guard: ForkGuard,
    /// Where the waiting task is counted.
    among: Option<Arc<Waiters>>,
    state: Mutex<State>,
}

struct State {
    /// `None` once the wait is over.
    future: Option<Future>,
    counted: Option<Counted>,
}

impl Waiter {
    pub(crate) fn new(
        guard: ForkGuard,
        among: Option<&Arc<Waiters>>,
        future: impl core::future::Future<Output = Outcome> + Send + 'static,
    ) -> Self {
        let state = State { future: Some(Box::pin(future)), counted: None };
        Self { guard, among: among.cloned(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the future. After `give_up` it stays pending.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Outcome> {
        let mut state = self.state();
        let polled = match &mut state.future {
            Some(future) => future.as_mut().poll(&mut Context::from_waker(waker)),
            None => return Poll::Pending,
        };
        if polled.is_pending() {
            let count = || self.among.as_ref().map(Counted::new);
            state.counted = state.counted.take().or_else(count);
            return Poll::Pending;
        }
        // Dropped without the lock, because that can run code of Python.
        let over = (state.counted.take(), state.future.take());
        drop(state);
        drop(over);
        polled
    }

    /// Gives up, if the wait is not over. A wake that the task got is passed on to another waiter.
    pub(crate) fn give_up(&self) {
        let (counted, future) = {
            let mut state = self.state();
            (state.counted.take(), state.future.take())
        };
        drop(counted);
        if self.guard.is_forked() {
            // The parent's task waits, in a ring that this forked child does not have.
            std::mem::forget(future);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.give_up();
    }
}

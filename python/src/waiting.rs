//! One await: the wait of a task at a queue, polled by a coroutine in Python.
//!
//! The coroutine polls; when that is not the end of it, it awaits a future of its loop, which the
//! loop resolves when the wait may be over, and polls again. What is waited for is taken in a poll,
//! and the coroutine returns it without another await: so whoever is cancelled has taken nothing.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use parkline_core::driver::{Joining, Side};
use parkline_uring::driver::wait;
use parkline_uring::{Fault, Lease, Receiver, RecvError, SendError, Sender, Shared, TryRecvError};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::encoded::SettledItem;
use crate::event_loop::EventLoop;
use crate::opened::Opened;
use crate::queue::Queue;
use crate::starved::Seat;
use crate::{errors, queue};

type Future<T> = Pin<Box<dyn core::future::Future<Output = T> + Send>>;

/// What a task waits for.
enum Task {
    Get(Future<Result<Lease, RecvError>>, Option<Seat>),
    Put(Future<Result<(), SendError>>),
    Join(Future<Result<(), Fault>>),
}

/// What it got.
enum Outcome {
    Got(Lease),
    Done,
    Closed,
    Fault(Fault),
}

/// The one value that says "not yet".
pub(crate) fn pending(py: Python<'_>) -> Py<PyAny> {
    static PENDING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let made = PENDING.get_or_init(py, || py.get_type::<Wait>().into_any().unbind());
    made.clone_ref(py)
}

#[pyclass(frozen, module = "parkline._parkline")]
pub(crate) struct Wait {
    /// By which its loop knows it.
    name: u64,
    queue: Py<Queue>,
    waiter: Arc<Waiter>,
}

/// What waits. Its loop gives it up when it is closed.
pub(crate) struct Waiter {
    opened: Arc<Opened>,
    state: Mutex<State>,
}

struct State {
    /// `None` once it is over.
    task: Option<Task>,
    counted: bool,
}

impl Wait {
    fn new(opened: &Arc<Opened>, queue: &Bound<'_, Queue>, task: Task) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let state = State { task: Some(task), counted: false };
        let waiter = Waiter { opened: Arc::clone(opened), state: Mutex::new(state) };
        Self {
            name: LAST.fetch_add(1, Relaxed),
            queue: queue.clone().unbind(),
            waiter: Arc::new(waiter),
        }
    }

    pub(crate) fn get(
        opened: &Arc<Opened>,
        queue: &Bound<'_, Queue>,
        receiver: &Shared<Receiver>,
    ) -> Self {
        Self::new(opened, queue, Task::Get(lease(receiver.clone()), None))
    }

    pub(crate) fn put(
        opened: &Arc<Opened>,
        queue: &Bound<'_, Queue>,
        sender: &Shared<Sender>,
        item: SettledItem,
    ) -> Self {
        Self::new(opened, queue, Task::Put(send(sender.clone(), item)))
    }

    pub(crate) fn join(opened: &Arc<Opened>, queue: &Bound<'_, Queue>) -> Self {
        Self::new(opened, queue, Task::Join(join(opened.queue.joining())))
    }
}

impl Waiter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up, if it is not over; a wake that it got goes to another.
    pub(crate) fn give_up(&self) {
        let task = {
            let mut state = self.state();
            self.count(&mut state, false);
            state.task.take()
        };
        if self.opened.is_forked() {
            // It waits in the parent, by what does not exist here.
            std::mem::forget(task);
            return;
        }
        if let Some(Task::Get(future, seat)) = task {
            drop(future);
            if let Some(seat) = seat {
                self.opened.starved.leave(seat, true);
            }
        }
    }

    /// Counts this among those that wait, or no more.
    fn count(&self, state: &mut State, waits: bool) {
        let counter: &AtomicUsize = match &state.task {
            Some(Task::Get(..)) => &self.opened.getters,
            Some(Task::Put(_)) => &self.opened.putters,
            Some(Task::Join(_)) | None => return,
        };
        if waits && !state.counted {
            counter.fetch_add(1, Relaxed);
        } else if !waits && state.counted {
            counter.fetch_sub(1, Relaxed);
        }
        state.counted = waits;
    }

    fn poll_once(&self, state: &mut State, waker: &Waker) -> Poll<Outcome> {
        let Some(task) = &mut state.task else { return Poll::Pending };
        let cx = &mut Context::from_waker(waker);
        match task {
            Task::Get(future, seat) => {
                let was_starved = seat.take().map(|seat| self.opened.starved.leave(seat, false));
                let polled = match future.as_mut().poll(cx) {
                    Poll::Ready(Err(RecvError::Fault(Fault::LeasesOut { .. }))) => {
                        *seat = Some(self.opened.starved.wait(waker.clone()));
                        if let Some(receiver) = self.opened.known_receiver() {
                            *future = lease(receiver.clone());
                        }
                        Poll::Pending
                    }
                    got => got.map(|got| match got {
                        Ok(lease) => Outcome::Got(lease),
                        Err(RecvError::Closed) => Outcome::Closed,
                        Err(RecvError::Fault(fault)) => Outcome::Fault(fault),
                    }),
                };
                // It waits for an item now, or for nothing any more: so can the next.
                let is_fed = seat.is_none() && !matches!(polled, Poll::Ready(Outcome::Got(_)));
                if was_starved.is_some() && is_fed {
                    self.opened.starved.wake_task();
                }
                polled
            }
            Task::Put(future) => future.as_mut().poll(cx).map(|put| match put {
                Ok(()) => Outcome::Done,
                Err(SendError::Closed(())) => Outcome::Closed,
                Err(SendError::Fault((), fault)) => Outcome::Fault(fault),
            }),
            Task::Join(future) => future
                .as_mut()
                .poll(cx)
                .map(|it| it.map_or_else(Outcome::Fault, |()| Outcome::Done)),
        }
    }
}

#[pymethods]
impl Wait {
    /// What was waited for, or `PENDING`: `future` is resolved then when it may be over.
    fn poll(
        &self,
        py: Python<'_>,
        event_loop: Option<&EventLoop>,
        future: Py<PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let gone = || PyRuntimeError::new_err("the event loop is closed");
        let event_loop = event_loop.ok_or_else(gone)?;
        // Before the poll: the alarm may go off within it, on another thread.
        event_loop.expect(self.name, future, &self.waiter);
        let outcome = event_loop.attend(py, || {
            let waker = Waker::from(event_loop.alarm(self.name));
            let mut state = self.waiter.state();
            let polled = event_loop.within(|| self.waiter.poll_once(&mut state, &waker));
            self.waiter.count(&mut state, polled.is_pending());
            let over = if polled.is_ready() { state.task.take() } else { None };
            drop(state);
            drop(over);
            polled
        })?;
        if outcome.is_ready() {
            event_loop.forget(self.name);
        }
        match outcome {
            Poll::Pending => Ok(pending(py)),
            Poll::Ready(Outcome::Got(lease)) => {
                self.queue.get().hand_over(py, &self.waiter.opened, lease)
            }
            Poll::Ready(Outcome::Done) => Ok(py.None()),
            Poll::Ready(Outcome::Closed) => Err(queue::shut_down(py)),
            Poll::Ready(Outcome::Fault(fault)) => Err(errors::fault(py, fault)),
        }
    }

    /// Gives up: nothing was taken and nothing sent.
    fn close(&self, py: Python<'_>, event_loop: Option<&EventLoop>) -> PyResult<()> {
        let Some(event_loop) = event_loop else {
            self.waiter.give_up();
            return Ok(());
        };
        event_loop.forget(self.name);
        event_loop.attend(py, || self.waiter.give_up())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn lease(mut receiver: Shared<Receiver>) -> Future<Result<Lease, RecvError>> {
    Box::pin(async move {
        let attempt = |it: &mut Shared<Receiver>| match it.lock().try_lease() {
            Ok(lease) => Some(Ok(lease)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Err(RecvError::Closed)),
            Err(TryRecvError::Fault(fault)) => Some(Err(RecvError::Fault(fault))),
        };
        let side = |it: &Shared<Receiver>| it.lock().side();
        wait(&mut receiver, None, side, attempt).await.unwrap_or(Err(RecvError::Closed))
    })
}

fn send(mut sender: Shared<Sender>, item: SettledItem) -> Future<Result<(), SendError>> {
    Box::pin(async move {
        let attempt = |it: &mut Shared<Sender>| match item.try_send(&mut it.lock()) {
            Ok(()) => Some(Ok(())),
            Err(refused) => refused.settled().ok().map(Err),
        };
        let side = |it: &Shared<Sender>| it.lock().side();
        wait(&mut sender, None, side, attempt).await.unwrap_or(Err(SendError::Closed(())))
    })
}

fn join(mut joining: Joining) -> Future<Result<(), Fault>> {
    Box::pin(async move {
        let side = |it: &Joining| -> Side { it.side() };
        wait(&mut joining, None, side, Joining::attempt).await.unwrap_or(Ok(()))
    })
}

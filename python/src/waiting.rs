//! One await: the wait of a task at a queue, polled by a coroutine in Python.
//!
//! The coroutine polls; when that is not the end of it, it awaits a future of its loop, which the
//! loop resolves when the wait may be over, and polls again. What is waited for is taken in a poll,
//! and the coroutine returns it without another await: so whoever is cancelled has taken nothing.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use parkline_core::driver::{Expecting, ForkGuard, Joining, Side, WaitsFor};
use parkline_uring::driver::{Waits, wait, wait_where};
use parkline_uring::{Event, Fault, Permit, Receiver, RecvError, SendError, Sender, Shared};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::encoded::SettledItem;
use crate::event_loop::EventLoop;
use crate::message::Message;
use crate::opened::{Left, Opened};
use crate::queue::Queue;
use crate::signals::{Held, Signal};
use crate::{errors, queue};

type Future<T> = Pin<Box<dyn core::future::Future<Output = T> + Send>>;

/// What a task waits for, and of whom.
enum Task {
    Get(Future<Result<Message, RecvError>>, Arc<Opened>),
    Put(Future<Result<(), SendError>>, Arc<Opened>),
    Join(Future<Result<(), Fault>>),
    Event(Future<Result<(), Fault>>, Arc<Signal<Event>>),
    Acquire(Future<Result<Permit, Fault>>, Arc<Signal<Held>>),
}

/// What it got.
enum Outcome {
    Got(Message),
    Acquired(Permit, Arc<Signal<Held>>),
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
    /// Of a get: who hands the item over.
    getter: Option<(Py<Queue>, Arc<Opened>)>,
    waiter: Arc<Waiter>,
}

/// What waits. Its loop gives it up when it is closed.
pub(crate) struct Waiter {
    guard: ForkGuard,
    state: Mutex<State>,
}

struct State {
    /// `None` once it is over.
    task: Option<Task>,
    counted: bool,
}

impl Wait {
    fn new(guard: ForkGuard, task: Task) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let state = Mutex::new(State { task: Some(task), counted: false });
        let waiter = Arc::new(Waiter { guard, state });
        Self { name: LAST.fetch_add(1, Relaxed), getter: None, waiter }
    }

    pub(crate) fn get(
        opened: &Arc<Opened>,
        queue: &Bound<'_, Queue>,
        receiver: &Shared<Receiver>,
    ) -> Self {
        let getter = Getter { opened: Arc::clone(opened), receiver: receiver.clone() };
        let task = Task::Get(get(getter), Arc::clone(opened));
        let getter = Some((queue.clone().unbind(), Arc::clone(opened)));
        Self { getter, ..Self::new(opened.guard, task) }
    }

    pub(crate) fn put(opened: &Arc<Opened>, sender: &Shared<Sender>, item: SettledItem) -> Self {
        let task = Task::Put(send(sender.clone(), item), Arc::clone(opened));
        Self::new(opened.guard, task)
    }

    pub(crate) fn join(opened: &Opened) -> Self {
        Self::new(opened.guard, Task::Join(join(opened.queue.joining())))
    }

    pub(crate) fn event(opened: Arc<Signal<Event>>) -> Self {
        let expecting = opened.it.expecting();
        Self::new(opened.guard(), Task::Event(expect(expecting), opened))
    }

    pub(crate) fn acquire(opened: Arc<Signal<Held>>) -> Self {
        Self::new(opened.guard(), Task::Acquire(acquire(Arc::clone(&opened)), opened))
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
            Self::count(&mut state, false);
            state.task.take()
        };
        if self.guard.is_forked() {
            // It waits in the parent, by what does not exist here.
            std::mem::forget(task);
        }
    }

    /// Counts this among those that wait, or no more.
    fn count(state: &mut State, waits: bool) {
        let counter: &AtomicUsize = match &state.task {
            Some(Task::Get(_, opened)) => &opened.getters,
            Some(Task::Put(_, opened)) => &opened.putters,
            Some(Task::Event(_, opened)) => &opened.waiting,
            Some(Task::Acquire(_, opened)) => &opened.waiting,
            Some(Task::Join(_)) | None => return,
        };
        if waits && !state.counted {
            counter.fetch_add(1, Relaxed);
        } else if !waits && state.counted {
            counter.fetch_sub(1, Relaxed);
        }
        state.counted = waits;
    }

    fn poll_once(state: &mut State, waker: &Waker) -> Poll<Outcome> {
        let Some(task) = &mut state.task else { return Poll::Pending };
        let cx = &mut Context::from_waker(waker);
        match task {
            Task::Get(future, _) => future.as_mut().poll(cx).map(|got| match got {
                Ok(message) => Outcome::Got(message),
                Err(RecvError::Closed) => Outcome::Closed,
                Err(RecvError::Fault(fault)) => Outcome::Fault(fault),
            }),
            Task::Put(future, _) => future.as_mut().poll(cx).map(|put| match put {
                Ok(()) => Outcome::Done,
                Err(SendError::Closed(())) => Outcome::Closed,
                Err(SendError::Fault((), fault)) => Outcome::Fault(fault),
            }),
            Task::Join(future) | Task::Event(future, _) => future
                .as_mut()
                .poll(cx)
                .map(|it| it.map_or_else(Outcome::Fault, |()| Outcome::Done)),
            Task::Acquire(future, opened) => future.as_mut().poll(cx).map(|it| {
                let acquired = |permit| Outcome::Acquired(permit, Arc::clone(opened));
                it.map_or_else(Outcome::Fault, acquired)
            }),
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
        let (outcome, delivered) = event_loop.attend(py, || {
            let waker = Waker::from(event_loop.alarm(self.name));
            let mut state = self.waiter.state();
            let polled = event_loop.within(|| Waiter::poll_once(&mut state, &waker));
            Waiter::count(&mut state, polled.is_pending());
            let over = if polled.is_ready() { state.task.take() } else { None };
            drop(state);
            drop(over);
            polled
        });
        let Poll::Ready(outcome) = outcome else { return delivered.map(|()| pending(py)) };
        event_loop.forget(self.name);
        if let Err(error) = delivered {
            // The caller has nothing. A lease goes back, and a permit.
            if let (Outcome::Got(Message::Copied(bytes)), Some((_, opened))) =
                (outcome, &self.getter)
            {
                opened.late.put([Left::Message(bytes)]);
            }
            return Err(error);
        }
        match outcome {
            Outcome::Got(message) => match &self.getter {
                Some((queue, opened)) => queue.get().hand_over(py, opened, message),
                None => Ok(py.None()),
            },
            Outcome::Acquired(permit, opened) => opened.it.keep(permit).map(|()| py.None()),
            Outcome::Done => Ok(py.None()),
            Outcome::Closed => Err(queue::shut_down(py)),
            Outcome::Fault(fault) => Err(errors::fault(py, fault)),
        }
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

impl Drop for Waiter {
    fn drop(&mut self) {
        self.give_up();
    }
}

struct Getter {
    opened: Arc<Opened>,
    receiver: Shared<Receiver>,
}

impl Waits<WaitsFor> for Getter {
    fn side(&self, waits_for: WaitsFor) -> Side {
        self.receiver.side(waits_for)
    }
}

fn get(mut getter: Getter) -> Future<Result<Message, RecvError>> {
    Box::pin(async move {
        let attempt = |it: &mut Getter| it.opened.answer(&it.receiver);
        wait_where(&mut getter, None, attempt).await.unwrap_or(Err(RecvError::Closed))
    })
}

fn send(mut sender: Shared<Sender>, item: SettledItem) -> Future<Result<(), SendError>> {
    Box::pin(async move {
        let attempt = |it: &mut Shared<Sender>| match item.try_send(&mut it.lock()) {
            Ok(()) => Some(Ok(())),
            Err(refused) => refused.settled().ok().map(Err),
        };
        wait(&mut sender, None, attempt).await.unwrap_or(Err(SendError::Closed(())))
    })
}

fn join(mut joining: Joining) -> Future<Result<(), Fault>> {
    Box::pin(async move { wait(&mut joining, None, Joining::attempt).await.unwrap_or(Ok(())) })
}

fn expect(mut expecting: Expecting) -> Future<Result<(), Fault>> {
    Box::pin(async move { wait(&mut expecting, None, |it| it.attempt()).await.unwrap_or(Ok(())) })
}

fn acquire(signal: Arc<Signal<Held>>) -> Future<Result<Permit, Fault>> {
    Box::pin(async move {
        let mut semaphore = &signal.it.semaphore;
        wait(&mut semaphore, None, |it| it.attempt()).await.unwrap_or(Err(Fault::Forked))
    })
}

//! The tasks of one process that wait at one gate, and the one kernel wait that stands for all of
//! them.
//!
//! The kernel knows one waiter per process and gate. This module decides which task of the process
//! gets a wake-up. So a dropped task is a list operation, and ten thousand tasks cost one futex
//! wait.
//!
//! A waiting task is either resting or *on duty*. On duty means that a wake-up was meant for it, or
//! that it is about to arm the kernel wait: so it must attempt its operation. The invariant:
//!
//! > While a task rests, the kernel wait is armed or another task is on duty.
//!
//! | armed | resting | on duty | what happens |
//! |---|---|---|---|
//! | no | none | none | idle |
//! | no | none | some | each task on duty attempts; the first without an answer arms and rests |
//! | no | some | none | impossible by the invariant: no wake-up would reach a task |
//! | no | some | some | the kernel wait has ended; a task on duty arms again, or leaves and hands its duty on |
//! | yes | none | none | the last task has left; the kernel wait is being cancelled |
//! | yes | some | none | the usual wait; when it ends, the first resting task goes on duty |
//! | yes | any | some | the watchdog or [`wake_all`] put tasks on duty, or another task armed first; each of them rests again or leaves |
//!
//! A task that leaves while on duty hands its duty on: to the first resting task, or, if no task is
//! left, back to the gate. So no wake-up is lost when a task is cancelled. A task on duty can be
//! left unpolled, in a `select!` that polls another branch. It delays the others until the next
//! [`tick`], or until another task begins to wait and arms.
//!
//! Each answer of this module names what the caller has to do after the lock is released. No waker
//! is called or dropped under the lock, because a waker can call this module again.
//!
//! [`tick`]: WaitQueue::tick
//! [`wake_all`]: WaitQueue::wake_all

use std::task::{Poll, Waker};

use crate::sync::{Mutex, MutexGuard};
use crate::wait::gate::{Gate, Sleep};
use crate::wait::line::Line;

/// The tasks of this process that wait at one gate.
#[derive(Debug)]
pub struct WaitQueue {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    line: Line,
    armed: bool,
}

/// A place in a [`WaitQueue`]. Return it by [`WaitQueue::leave`].
#[derive(Debug)]
#[must_use = "a place that nobody leaves keeps the wakes of others"]
pub struct Place(u32);

/// What the caller has to do after a task left or the kernel wait ended.
#[derive(Debug)]
#[must_use = "a wake is lost otherwise"]
pub enum Left {
    /// Nothing.
    Done,
    /// Call this waker: its task is on duty now.
    Wake(Waker),
    /// No task of this process is left to attempt: if the queue is ready, notify the gate.
    PassOn,
    /// No task waits any more: cancel the kernel wait. Its completion still comes to
    /// [`WaitQueue::completed`].
    Disarm,
}

impl WaitQueue {
    /// A queue without tasks.
    #[expect(clippy::new_without_default, reason = "loom's mutexes are made inside a model only")]
    pub fn new() -> Self {
        let inner = Inner { line: Line::default(), armed: false };
        Self { inner: Mutex::new(inner) }
    }

    /// One poll of a task whose attempt had no answer. It takes a place, announces at the gate,
    /// attempts again, and rests while the kernel wait that `arm` starts is under way.
    ///
    /// The attempt comes after the task has its place and after the announcement that the kernel
    /// wait is armed with. So a change after the attempt ends the kernel wait, and that finds the
    /// task in the queue. Each task has to make this attempt itself, because two tasks can wait for
    /// different things: an event that was set since *this* task began to wait.
    ///
    /// The task keeps its place also if the attempt is answered, until it calls
    /// [`leave`](Self::leave).
    ///
    /// # Errors
    /// Those of `arm`; the task is still on duty then.
    pub fn poll<T, E>(
        &self,
        place: &mut Option<Place>,
        waker: &Waker,
        gate: &Gate,
        mut attempt: impl FnMut() -> Option<T>,
        arm: impl FnOnce(&Sleep<'_>) -> Result<(), E>,
    ) -> Result<Poll<T>, E> {
        if !self.enter(place, waker) {
            let sleep = gate.announce();
            if let Some(answer) = attempt() {
                return Ok(Poll::Ready(answer));
            }
            if let Some(place) = place
                && self.arm(place, || arm(&sleep))?
            {
                return Ok(Poll::Pending);
            }
        }
        Ok(attempt().map_or(Poll::Pending, Poll::Ready))
    }

    /// Takes a place at the end, or keeps an earlier `place` and renews its waker. The task rests
    /// if the kernel wait is armed, and is on duty if not. Returns whether it is armed.
    fn enter(&self, place: &mut Option<Place>, waker: &Waker) -> bool {
        let mut inner = self.lock();
        let armed = inner.armed;
        let (seat, replaced) = match place {
            Some(Place(seat)) => (*seat, inner.line.renew(*seat, waker)),
            None => {
                let seat = inner.line.join(waker.clone());
                *place = Some(Place(seat));
                (seat, None)
            }
        };
        if armed {
            inner.line.rest(seat);
        } else {
            inner.line.rouse(seat);
        }
        drop(inner);
        drop(replaced);
        armed
    }

    /// Arms the kernel wait by `start`, unless another task has armed it meanwhile. The task rests
    /// then. Returns whether this task armed.
    ///
    /// # Errors
    /// Those of `start`; the task is still on duty then.
    fn arm<E>(&self, place: &Place, start: impl FnOnce() -> Result<(), E>) -> Result<bool, E> {
        let mut inner = self.lock();
        let is_first = !inner.armed;
        if is_first {
            start()?;
            inner.armed = true;
        }
        inner.line.rest(place.0);
        Ok(is_first)
    }

    /// Returns a place: the task got its answer, gave up, or was dropped.
    pub fn leave(&self, place: Place) -> Left {
        let mut inner = self.lock();
        let rested = inner.line.rouse(place.0);
        let left = inner.line.leave(place.0);
        let answer = if inner.line.is_empty() && inner.armed {
            Left::Disarm
        } else if !rested {
            // Also while armed: the watchdog may have put the task on duty because the queue is
            // ready, and there can be enough for other tasks, too.
            match inner.line.rouse_first() {
                Some(waker) => Left::Wake(waker),
                None if inner.line.is_empty() => Left::PassOn,
                // All other tasks are on duty already, and attempt.
                None => Left::Done,
            }
        } else {
            Left::Done
        };
        drop(inner);
        drop(left);
        answer
    }

    /// The kernel wait ended, for any reason. [`Left::PassOn`] only if `woken`.
    pub fn completed(&self, woken: bool) -> Left {
        let mut inner = self.lock();
        inner.armed = false;
        match inner.line.rouse_first() {
            Some(waker) => Left::Wake(waker),
            None if woken && inner.line.is_empty() => Left::PassOn,
            None => Left::Done,
        }
    }

    /// The watchdog: puts the first resting task on duty, armed or not. Call it if the queue is
    /// ready although tasks wait: a wake-up was lost with a killed process, or its task is not
    /// polled.
    pub fn tick(&self) -> Option<Waker> {
        self.lock().line.rouse_first()
    }

    /// Whether no task waits and no kernel wait is under way.
    pub fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.line.is_empty() && !inner.armed
    }

    /// How many tasks wait.
    pub fn len(&self) -> usize {
        self.lock().line.len()
    }

    /// Whether no task waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts all tasks on duty, because the driver is gone or the queue was closed. Call the wakers.
    pub fn wake_all(&self) -> Vec<Waker> {
        self.lock().line.rouse_all()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Under the lock only a waker's clone or an allocation can panic, and the list is whole
        // then.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn wait(queue: &WaitQueue, gate: &Gate) -> Place {
        let mut place = None;
        let arm = |_: &Sleep<'_>| Ok::<(), ()>(());
        let polled = queue.poll(&mut place, Waker::noop(), gate, || None::<()>, arm);
        assert_eq!(polled, Ok(Poll::Pending));
        place.unwrap()
    }

    /// Fails if `leave` hands nothing on while armed (seen failing): the watchdog would serve one
    /// task a period.
    #[test]
    fn whom_the_watchdog_told_tells_the_next() {
        let (queue, gate) = (WaitQueue::new(), Gate::new());
        let (first, second) = (wait(&queue, &gate), wait(&queue, &gate));
        assert!(queue.tick().is_some());
        assert!(matches!(queue.leave(first), Left::Wake(_)));
        assert!(matches!(queue.leave(second), Left::Disarm));
        assert!(matches!(queue.completed(false), Left::Done));
        assert!(queue.is_idle());
    }

    #[test]
    fn an_arm_that_fails_leaves_the_duty_where_it_was() {
        let (queue, gate) = (WaitQueue::new(), Gate::new());
        let mut place = None;
        let refused = |_: &Sleep<'_>| Err("no ring");
        let polled = queue.poll(&mut place, Waker::noop(), &gate, || None::<()>, refused);
        assert_eq!(polled, Err("no ring"));
        assert!(matches!(queue.leave(place.unwrap()), Left::PassOn));
    }
}

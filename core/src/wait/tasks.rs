//! The tasks of one process that wait at one gate, and the one kernel wait that stands for them
//! all.
//!
//! The kernel knows one waiter per process and gate; who of the process's tasks gets a wake is
//! decided here. So a dropped task is a list operation, and ten thousand tasks cost one futex wait.
//!
//! A waiter is either resting or *on duty*. On duty means: a wake was meant for it, or it is about
//! to arm the kernel wait, and so it must look at the queue. The invariant:
//!
//! > While anybody rests, the kernel wait is armed or somebody is on duty.
//!
//! Whoever leaves while on duty hands it on: to the next that rests, or, when nobody is left, back
//! to the gate. So a message and its wake cannot part company, however a task is cancelled. A task
//! that is on duty and never polled again (it sits in a `select!` that looks elsewhere) delays the
//! others until the next [`tick`] or the next task that begins to wait, which arms anew by itself.
//!
//! Every answer of this module says what the caller has to do after the lock is released: a waker
//! is never called or dropped under it, for a waker may re-enter.
//!
//! [`tick`]: WaitQueue::tick

use std::task::{Poll, Waker};

use crate::sync::{Mutex, MutexGuard};
use crate::wait::gate::{Gate, Sleep};
use crate::wait::line::Line;

/// Where tasks of this process wait for one gate.
#[derive(Debug)]
pub struct WaitQueue {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    line: Line,
    armed: bool,
}

/// A place in a [`WaitQueue`]. To be given back by [`WaitQueue::leave`].
#[derive(Debug)]
#[must_use = "a place that nobody leaves keeps the wakes of others"]
pub struct Place(u32);

/// What remains to be done for somebody who left.
#[derive(Debug)]
#[must_use = "a wake is lost otherwise"]
pub enum Left {
    /// Nothing.
    Done,
    /// Call this waker: its task has the duty now.
    Wake(Waker),
    /// Nobody of this process is left to look: if there is more, notify the gate.
    PassOn,
    /// Nobody waits any more: cancel the kernel wait. Its completion still comes to
    /// [`WaitQueue::completed`].
    Disarm,
}

impl WaitQueue {
    /// A queue that nobody waits in.
    #[expect(clippy::new_without_default, reason = "loom's mutexes are made inside a model only")]
    pub fn new() -> Self {
        let inner = Inner { line: Line::default(), armed: false };
        Self { inner: Mutex::new(inner) }
    }

    /// One poll of a task that tried and found nothing: takes a place, announces at the gate, tries
    /// again, and rests while the kernel wait that `arm` starts is under way.
    ///
    /// Each tries with its place taken and a wait armed: what comes after that look ends the wait, and
    /// so finds the task in line. The look of whoever armed does not do for another task, that may
    /// wait for something else: an event that was set since *it* began.
    ///
    /// The place is kept also when the answer is there: the task leaves by [`leave`](Self::leave).
    ///
    /// # Errors
    /// Those of `arm`; the task still has its duty then.
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

    /// Takes a place at the end, or with a `place` from before keeps it, and renews the waker; whether
    /// the kernel wait is armed, and it rests.
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

    /// Arms the kernel wait by `start`, unless another task has done so meanwhile, and rests; whether
    /// it was this one.
    ///
    /// # Errors
    /// Those of `start`; the waiter is still on duty then.
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

    /// Gives a place back: the task got what it waited for, gave up, or was dropped.
    pub fn leave(&self, place: Place) -> Left {
        let mut inner = self.lock();
        let rested = inner.line.rouse(place.0);
        let left = inner.line.leave(place.0);
        let answer = if inner.line.is_empty() && inner.armed {
            Left::Disarm
        } else if !rested {
            // Also while armed: the watchdog puts one on duty then, for what others may find, too.
            match inner.line.rouse_first() {
                Some(waker) => Left::Wake(waker),
                None if inner.line.is_empty() => Left::PassOn,
                // All others are on duty already, and look.
                None => Left::Done,
            }
        } else {
            Left::Done
        };
        drop(inner);
        drop(left);
        answer
    }

    /// The kernel wait ended, for whatever reason. [`Left::PassOn`] only if `woken`.
    pub fn completed(&self, woken: bool) -> Left {
        let mut inner = self.lock();
        inner.armed = false;
        match inner.line.rouse_first() {
            Some(waker) => Left::Wake(waker),
            None if woken && inner.line.is_empty() => Left::PassOn,
            None => Left::Done,
        }
    }

    /// The watchdog: puts the first that rests on duty, armed or not. Call when the queue is ready
    /// although somebody waits, which means that a wake was lost with a killed process or sits with
    /// a task that is not polled.
    pub fn tick(&self) -> Option<Waker> {
        self.lock().line.rouse_first()
    }

    /// Whether nobody waits and no kernel wait is under way.
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

    /// Everybody looks again: the driver is gone, or the queue was closed.
    pub fn wake_all(&self) -> Vec<Waker> {
        self.lock().line.rouse_all()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in this file panics with the lock held but for a waker's clone or an allocation;
        // the list is whole then too.
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

    /// Fails if `leave` hands nothing on while armed (seen failing): one task a period would be
    /// served.
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

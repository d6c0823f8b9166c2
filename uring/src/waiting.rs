//! The wait of one task: try, then wait in the lane of its handle, by [`WaitQueue::poll`].
//!
//! [`WaitQueue::poll`]: parkline_core::driver::WaitQueue::poll

use std::mem;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parkline_core::driver::{Place, Side, Sleep};

use crate::current::{current, look_for};
use crate::lane::Lane;
use crate::looking::Looker;
use crate::owed::drive_owed;
use crate::pause::Pause;
use crate::reactor::Reactor;
use crate::timers::Timer;

/// How often one poll begins anew: for a reactor that ended, or because the task waits for something
/// else now.
const MOVES: u32 = 16;

/// A task's place among those that wait. Dropping it gives up: what was meant for this task goes to
/// another.
#[derive(Debug)]
pub(crate) struct Waiting<W> {
    lane: Option<Arc<Lane>>,
    /// What it waits for in the lane.
    waits_for: Option<W>,
    place: Option<Place>,
    deadline: Option<Instant>,
    clock: Clock,
    /// Somebody has looked for it, or will not.
    has_looked: bool,
    #[cfg(feature = "tokio")]
    has_yielded: bool,
}

/// What wakes the task though no message comes.
#[derive(Debug, Default)]
enum Clock {
    #[default]
    None,
    /// Of the lane's reactor, for the deadline.
    Timer(Timer),
    /// It has no lane, for no reactor is to be had.
    Pause(Box<Pause>),
}

/// As [`wait_where`], for a call that waits at one side only.
pub fn wait<H, T>(
    handle: &mut H,
    deadline: Option<Instant>,
    side: impl Fn(&H) -> Side,
    spin_limit: impl Fn(&H) -> Duration,
    mut attempt: impl FnMut(&mut H) -> Option<T>,
) -> impl Future<Output = Option<T>> {
    wait_where(
        handle,
        deadline,
        move |it, ()| side(it),
        spin_limit,
        move |it| attempt(it).map_or(ControlFlow::Continue(()), ControlFlow::Break),
    )
}

/// Calls `attempt` until it answers, and waits at a `side` of the handle in between: the one of what the
/// attempt says that it waits for. `None` when the deadline has passed. Cancel-safe if `attempt` does
/// nothing unless it answers.
///
/// Before it waits, the thread spins for as long as the handle's `spin_limit`, where the thread would
/// sleep.
///
/// No `async fn`: that would keep its arguments twice, and ten thousand tasks may wait.
pub fn wait_where<H, T, W: Copy + PartialEq>(
    handle: &mut H,
    deadline: Option<Instant>,
    side: impl Fn(&H, W) -> Side,
    spin_limit: impl Fn(&H) -> Duration,
    mut attempt: impl FnMut(&mut H) -> ControlFlow<T, W>,
) -> impl Future<Output = Option<T>> {
    drive_owed();
    let mut waiting = Waiting::new(deadline);
    std::future::poll_fn(move |cx| {
        #[cfg(feature = "tokio")]
        let budget = std::task::ready!(crate::tokio::take_budget(cx, &mut waiting.has_yielded));
        let polled = waiting.poll(cx, handle, &side, &spin_limit, &mut attempt);
        #[cfg(feature = "tokio")]
        if let Some(budget) = budget.filter(|_| polled.is_ready()) {
            budget.made_progress();
        }
        polled
    })
}

impl<W> Waiting<W> {
    pub(crate) fn new(deadline: Option<Instant>) -> Self {
        let (lane, waits_for, place, clock) = (None, None, None, Clock::None);
        Self {
            lane,
            waits_for,
            place,
            deadline,
            clock,
            has_looked: false,
            #[cfg(feature = "tokio")]
            has_yielded: false,
        }
    }
}

impl<W: Copy + PartialEq> Waiting<W> {
    pub(crate) fn poll<H, T>(
        &mut self,
        cx: &mut Context<'_>,
        handle: &mut H,
        side: &impl Fn(&H, W) -> Side,
        spin_limit: &impl Fn(&H) -> Duration,
        attempt: &mut impl FnMut(&mut H) -> ControlFlow<T, W>,
    ) -> Poll<Option<T>> {
        for _ in 0..MOVES {
            // Before its own, a task that has waited sees to what the dead left.
            if let Some(lane) = &self.lane {
                lane.side.keep_watch();
            }
            let waits_for = match attempt(handle) {
                ControlFlow::Break(answer) => {
                    self.leave();
                    return Poll::Ready(Some(answer));
                }
                ControlFlow::Continue(waits_for) => waits_for,
            };
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.leave();
                return Poll::Ready(None);
            }
            if !self.has_looked {
                self.has_looked = true;
                let task = |thread: &Waker| Looker {
                    side: side(handle, waits_for),
                    limit: spin_limit(handle),
                    deadline: self.deadline,
                    waker: (!cx.waker().will_wake(thread)).then(|| cx.waker().clone()),
                };
                if look_for(task) {
                    return Poll::Pending;
                }
            }
            let reactor = match current() {
                Ok(reactor) => reactor,
                Err(_) => match self.pause(cx) {
                    Poll::Ready(()) => continue,
                    Poll::Pending => return Poll::Pending,
                },
            };
            if let Clock::Pause(_) = self.clock {
                self.clock = Clock::None;
            }
            let lane = self.lane_of(reactor, waits_for, || side(handle, waits_for));
            // A forked child has no gate, and the next attempt says so.
            let Some(gate) = lane.side.gate() else { continue };
            let arm = |sleep: &Sleep<'_>| lane.reactor.arm(&lane, sleep);
            // An attempt that waits for something else leaves this lane, as if it had its answer.
            let attempt = || {
                lane.side.keep_watch();
                lane.side.order();
                match attempt(handle) {
                    ControlFlow::Break(answer) => Some(Some(answer)),
                    ControlFlow::Continue(now) => (now != waits_for).then_some(None),
                }
            };
            match lane.queue.poll(&mut self.place, cx.waker(), gate, attempt, arm) {
                Ok(Poll::Ready(Some(answer))) => {
                    self.leave();
                    return Poll::Ready(Some(answer));
                }
                Ok(Poll::Ready(None)) => {
                    self.leave();
                    continue;
                }
                Ok(Poll::Pending) => {}
                Err(error) => lane.reactor.break_down(&error),
            }
            if lane.reactor.is_dead() {
                continue;
            }
            lane.reactor.set_watchdog(lane.side.watchdog());
            lane.reactor.watch_peers(&lane);
            if let Some(deadline) = self.deadline {
                if let Clock::Timer(timer) = mem::take(&mut self.clock) {
                    lane.reactor.remove_timer(deadline, timer);
                }
                self.clock = Clock::Timer(lane.reactor.add_timer(deadline, cx.waker().clone()));
            }
            return Poll::Pending;
        }
        // Other tasks of the handle kept changing what it waits for: they go on first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The lane of the reactor that serves the task now, for what it waits for now. It leaves the one
    /// where it waited before, if that is another.
    fn lane_of(
        &mut self,
        reactor: Arc<Reactor>,
        waits_for: W,
        side: impl FnOnce() -> Side,
    ) -> Arc<Lane> {
        let is_same = self.waits_for == Some(waits_for);
        let lane = self.lane.as_ref().filter(|lane| Arc::ptr_eq(&lane.reactor, &reactor));
        if let Some(lane) = lane.filter(|_| is_same) {
            return Arc::clone(lane);
        }
        self.leave();
        let lane = reactor.lane(side());
        (self.lane, self.waits_for) = (Some(Arc::clone(&lane)), Some(waits_for));
        lane
    }
}

impl<W> Waiting<W> {
    fn pause(&mut self, cx: &Context<'_>) -> Poll<()> {
        // A reactor by which it waited has ended.
        self.leave();
        let mut pause = match mem::take(&mut self.clock) {
            Clock::Pause(pause) => pause,
            _ => Box::new(Pause::new()),
        };
        let polled = pause.poll(cx, self.deadline);
        self.clock = Clock::Pause(pause);
        polled
    }

    fn leave(&mut self) {
        let Some(lane) = self.lane.take() else { return };
        if lane.reactor.is_forked() {
            // All of it is the parent's, and perhaps locked by a thread that does not exist here.
            mem::forget((lane, self.place.take()));
            return;
        }
        if let (Some(deadline), Clock::Timer(timer)) = (self.deadline, mem::take(&mut self.clock)) {
            lane.reactor.remove_timer(deadline, timer);
        }
        if let Some(place) = self.place.take() {
            lane.settle(lane.queue.leave(place));
        }
    }
}

impl<W> Drop for Waiting<W> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use parkline_core::Queue;

    use crate::{AsyncReceiver, AsyncSender};

    /// Fails if a call keeps its arguments more than once, as an `async fn` does (seen failing): ten
    /// thousand tasks may wait.
    #[test]
    fn a_task_that_waits_is_small() {
        let queue = Queue::builder().create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        assert!(size_of_val(&receiver.recv()) <= 96);
        assert!(size_of_val(&sender.send(b"message")) <= 112);
    }
}

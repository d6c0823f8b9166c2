//! The wait of one task: try, then wait in the lane of its handle, by [`WaitQueue::poll`].
//!
//! [`WaitQueue::poll`]: parkline_core::driver::WaitQueue::poll

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parkline_core::driver::{Place, Side, Sleep};

use crate::current::{current, look_for};
use crate::lane::Lane;
use crate::looking::Looker;
use crate::reactor::Reactor;
use crate::timers::Timer;

/// A task's place among those that wait. Dropping it gives up: what was meant for this task goes to
/// another.
#[derive(Debug)]
pub(crate) struct Waiting {
    lane: Option<Arc<Lane>>,
    place: Option<Place>,
    deadline: Option<Instant>,
    timer: Option<Timer>,
    /// Somebody has looked for it, or will not.
    has_looked: bool,
}

/// Calls `attempt` until it answers, and waits at the `side` of the handle in between; `None` when
/// the deadline has passed. Cancel-safe if `attempt` does nothing unless it answers.
///
/// Before it waits somebody looks for it for as long as the handle's `spin_limit`, where the thread
/// would sleep.
///
/// No `async fn`: that would keep its arguments twice, and ten thousand tasks may wait.
pub fn wait<H, T>(
    handle: &mut H,
    deadline: Option<Instant>,
    side: impl Fn(&H) -> Side,
    spin_limit: impl Fn(&H) -> Duration,
    mut attempt: impl FnMut(&mut H) -> Option<T>,
) -> impl Future<Output = Option<T>> {
    let mut waiting = Waiting { lane: None, place: None, deadline, timer: None, has_looked: false };
    std::future::poll_fn(move |cx| {
        // A good citizen: a task that always finds a message lets others run now and then.
        #[cfg(feature = "tokio")]
        let budget = std::task::ready!(::tokio::task::coop::poll_proceed(cx));
        let polled = waiting.poll(cx, handle, &side, &spin_limit, &mut attempt);
        #[cfg(feature = "tokio")]
        if polled.is_ready() {
            budget.made_progress();
        }
        polled
    })
}

impl Waiting {
    fn poll<H, T>(
        &mut self,
        cx: &mut Context<'_>,
        handle: &mut H,
        side: &impl Fn(&H) -> Side,
        spin_limit: &impl Fn(&H) -> Duration,
        attempt: &mut impl FnMut(&mut H) -> Option<T>,
    ) -> Poll<Option<T>> {
        loop {
            // Before its own, a task that has waited sees to what the dead left.
            if let Some(lane) = &self.lane {
                lane.side.keep_watch();
            }
            if let Some(answer) = attempt(handle) {
                self.leave();
                return Poll::Ready(Some(answer));
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.leave();
                return Poll::Ready(None);
            }
            if !self.has_looked {
                self.has_looked = true;
                let task = |thread: &Waker| Looker {
                    side: side(handle),
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
                // Neither a ring nor a thread to be had: all that is left is to look again.
                Err(error) => {
                    tracing::error!(%error, "parkline polls: it cannot wait here");
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            };
            let lane = self.lane_of(reactor, handle, side);
            // A forked child has no gate, and the next attempt says so.
            let Some(gate) = lane.side.gate() else { continue };
            let arm = |sleep: &Sleep<'_>| lane.reactor.arm(&lane, sleep);
            let attempt = || attempt(handle);
            match lane.queue.poll(&mut self.place, cx.waker(), gate, attempt, arm) {
                Ok(Poll::Ready(answer)) => {
                    self.leave();
                    return Poll::Ready(Some(answer));
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
                if let Some(timer) = self.timer.take() {
                    lane.reactor.remove_timer(deadline, timer);
                }
                self.timer = Some(lane.reactor.add_timer(deadline, cx.waker().clone()));
            }
            return Poll::Pending;
        }
    }

    /// The lane of the reactor that serves the task now: not where it waited before, if it has
    /// moved.
    fn lane_of<H>(
        &mut self,
        reactor: Arc<Reactor>,
        handle: &H,
        side: &impl Fn(&H) -> Side,
    ) -> Arc<Lane> {
        if let Some(lane) = self.lane.as_ref().filter(|lane| Arc::ptr_eq(&lane.reactor, &reactor)) {
            return Arc::clone(lane);
        }
        self.leave();
        let lane = reactor.lane(side(handle));
        self.lane = Some(Arc::clone(&lane));
        lane
    }

    fn leave(&mut self) {
        let Some(lane) = self.lane.take() else { return };
        if lane.reactor.is_forked() {
            // All of it is the parent's, and perhaps locked by a thread that does not exist here.
            std::mem::forget((lane, self.place.take()));
            return;
        }
        if let (Some(deadline), Some(timer)) = (self.deadline, self.timer.take()) {
            lane.reactor.remove_timer(deadline, timer);
        }
        if let Some(place) = self.place.take() {
            lane.settle(lane.queue.leave(place));
        }
    }
}

impl Drop for Waiting {
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

//! The wait of one task: it attempts, then waits among the [`Waiters`] of its handle, by
//! [`Reactor::poll`].

use std::mem;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parkline_core::driver::{Place, Side};

use crate::current::{current, spin_for};
use crate::pause::Pause;
use crate::reactor::Reactor;
use crate::spin::SpinTask;
use crate::timers::Timer;
use crate::waiters::Waiters;

/// How often one poll begins anew: for a reactor that ended, or because the task waits for something
/// else now.
const MOVES: u32 = 16;

/// A handle by which tasks wait, or a call that has begun. It says once for all calls where they wait.
///
/// `W` is what a call can wait for: `()` if all calls wait for the same.
pub trait Waits<W: Copy + PartialEq = ()> {
    /// Where a call waits.
    fn side(&self, waits_for: W) -> Side;

    /// For how long at most the thread spins before it sleeps, where it would sleep.
    fn spin_limit(&self) -> Duration {
        Duration::ZERO
    }
}

/// The wait of a task. Dropping it gives up: a wake that was meant for this task goes to another.
#[derive(Debug)]
pub(crate) struct Waiting<W> {
    /// The waiters that it is one of, and the reactor that acts on them.
    among: Option<(Arc<Reactor>, Arc<Waiters>)>,
    /// What it waits for there.
    waits_for: Option<W>,
    place: Option<Place>,
    deadline: Option<Instant>,
    clock: Clock,
    /// The thread has spun for it, or does not spin.
    has_spun: bool,
    #[cfg(feature = "tokio")]
    pub(crate) has_yielded: bool,
}

/// What wakes the task when the time is over.
#[derive(Debug, Default)]
enum Clock {
    #[default]
    None,
    /// The reactor's, for the deadline.
    Timer(Timer),
    /// No reactor is to be had.
    Pause(Box<Pause>),
}

impl<W: Copy + PartialEq> Waiting<W> {
    /// Polls a call that answers by `attempt`. `None` if the time is over.
    pub(crate) fn poll<H: Waits<W>, T>(
        &mut self,
        cx: &mut Context<'_>,
        handle: &mut H,
        attempt: &mut impl FnMut(&mut H) -> ControlFlow<T, W>,
    ) -> Poll<Option<T>> {
        for _ in 0..MOVES {
            // A task that has waited searches for the dead before it attempts.
            if let Some((_, waiters)) = &self.among {
                waiters.side.maintain();
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
            if !self.has_spun {
                self.has_spun = true;
                let task = |thread: &Waker| SpinTask {
                    side: handle.side(waits_for),
                    limit: handle.spin_limit(),
                    deadline: self.deadline,
                    waker: (!cx.waker().will_wake(thread)).then(|| cx.waker().clone()),
                };
                if spin_for(task) {
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
            let waiters = self.waiters_of(&reactor, waits_for, || handle.side(waits_for));
            // An attempt that waits for something else ends the wait here, as if it had its answer.
            let attempt = || {
                waiters.side.maintain();
                waiters.side.order();
                match attempt(handle) {
                    ControlFlow::Break(answer) => Some(Some(answer)),
                    ControlFlow::Continue(now) => (now != waits_for).then_some(None),
                }
            };
            match reactor.poll(&waiters, &mut self.place, cx.waker(), attempt) {
                Some(Poll::Ready(Some(answer))) => {
                    self.leave();
                    return Poll::Ready(Some(answer));
                }
                Some(Poll::Ready(None)) => {
                    self.leave();
                    continue;
                }
                Some(Poll::Pending) => {}
                // In a forked child the next attempt says so.
                None => continue,
            }
            if let Some(deadline) = self.deadline {
                if let Clock::Timer(timer) = mem::take(&mut self.clock) {
                    reactor.remove_timer(deadline, timer);
                }
                self.clock = Clock::Timer(reactor.add_timer(deadline, cx.waker().clone()));
            }
            return Poll::Pending;
        }
        // Other tasks of the handle kept changing what it waits for. They are polled first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The waiters of the reactor that serves the task now, for what it waits for now. If it waited with
    /// others before, it leaves them.
    fn waiters_of(
        &mut self,
        reactor: &Arc<Reactor>,
        waits_for: W,
        side: impl FnOnce() -> Side,
    ) -> Arc<Waiters> {
        if let Some((its, waiters)) = &self.among
            && self.waits_for == Some(waits_for)
            && Arc::ptr_eq(its, reactor)
        {
            return Arc::clone(waiters);
        }
        self.leave();
        let waiters = reactor.waiters_at(side());
        self.among = Some((Arc::clone(reactor), Arc::clone(&waiters)));
        self.waits_for = Some(waits_for);
        waiters
    }
}

impl<W> Waiting<W> {
    pub(crate) fn new(deadline: Option<Instant>) -> Self {
        Self {
            among: None,
            waits_for: None,
            place: None,
            deadline,
            clock: Clock::None,
            has_spun: false,
            #[cfg(feature = "tokio")]
            has_yielded: false,
        }
    }

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
        let Some((reactor, waiters)) = self.among.take() else { return };
        if reactor.is_forked() {
            // All of it is the parent's, and perhaps locked by a thread that does not exist here.
            mem::forget((reactor, waiters, self.place.take()));
            return;
        }
        if let (Some(deadline), Clock::Timer(timer)) = (self.deadline, mem::take(&mut self.clock)) {
            reactor.remove_timer(deadline, timer);
        }
        if let Some(place) = self.place.take() {
            reactor.leave(&waiters, place);
        }
    }
}

impl<W> Drop for Waiting<W> {
    fn drop(&mut self) {
        self.leave();
    }
}

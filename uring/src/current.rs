//! Which runtime serves the task that is being polled: by its reactor, and by a spin before its thread
//! sleeps.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use parkline_core::driver::hold_forks;

use crate::backend::{Backend, backend, is_first};
use crate::engine::unpark::Unpark;
use crate::lock::lock;
use crate::reactor::Reactor;
use crate::spin::{self, SpinTask};
use crate::timers::LoopTimer;

/// How long a task pauses at most between two attempts, where it can wait nowhere. The kernel is asked for
/// a helper thread no more often.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(16);

thread_local! {
    /// The `block_on` calls and event loops that this thread is in, innermost last.
    static ENTERED: RefCell<Vec<Runtime>> = const { RefCell::new(Vec::new()) };
}

struct Runtime {
    /// `None` if there is no io_uring for this thread.
    reactor: Option<Arc<Reactor>>,
    /// What wakes the thread, if it sleeps when none of its tasks can go on.
    thread: Option<Waker>,
    /// The event loop's, where no reactor is to be had.
    timer: Option<Arc<dyn LoopTimer>>,
    /// The tasks for which the thread spins before it sleeps.
    spin_tasks: Vec<SpinTask>,
    /// The tokio runtime around the call: a runtime entered inside it is another one, and serves
    /// first.
    #[cfg(feature = "tokio")]
    around: Option<tokio::runtime::Id>,
}

/// The reactor of the innermost runtime around the caller: [`block_on`](crate::block_on)'s own,
/// tokio's, or, for everything else and without io_uring, the process's helper thread.
///
/// # Errors
/// When not even a thread can be had, which is said once.
pub(crate) fn current() -> io::Result<Arc<Reactor>> {
    if let Backend::Futex(_) = backend() {
        return helper();
    }
    let innermost = in_innermost(|runtime| runtime.reactor.clone()).flatten();
    if let Some(reactor) = innermost.filter(|reactor| !reactor.is_dead()) {
        return Ok(reactor);
    }
    #[cfg(feature = "tokio")]
    if let Some(reactor) = crate::tokio::current() {
        return Ok(reactor);
    }
    helper()
}

/// Has the innermost [`block_on`](crate::block_on) spin for a task before the thread sleeps, and poll
/// it again after that; whether it will. `task` gets the waker of the thread.
pub(crate) fn spin_for(task: impl FnOnce(&Waker) -> SpinTask) -> bool {
    in_innermost(|runtime| {
        let Some(thread) = &runtime.thread else { return false };
        if !spin::is_due(runtime.spin_tasks.len()) {
            return false;
        }
        let task = task(thread);
        let may_spin = !task.limit.is_zero();
        if may_spin {
            runtime.spin_tasks.push(task);
        }
        may_spin
    })
    .unwrap_or(false)
}

/// `None` if the innermost runtime around the caller is not one of these.
fn in_innermost<R>(call: impl FnOnce(&mut Runtime) -> R) -> Option<R> {
    ENTERED.with_borrow_mut(|entered| entered.last_mut().filter(|it| it.serves()).map(call))
}

impl Runtime {
    /// Whether no tokio runtime was entered inside this one.
    fn serves(&self) -> bool {
        #[cfg(feature = "tokio")]
        if self.around != crate::tokio::runtime_id() {
            return false;
        }
        true
    }
}

/// Whether the innermost runtime around the caller is a [`block_on`](crate::block_on).
#[cfg(feature = "tokio")]
pub(crate) fn is_served_by_its_thread() -> bool {
    in_innermost(|runtime| runtime.thread.is_some()).unwrap_or(false)
}

/// The timer of the innermost runtime around the caller, if that is an event loop.
pub(crate) fn loop_timer() -> Option<Arc<dyn LoopTimer>> {
    in_innermost(|runtime| runtime.timer.clone()).flatten()
}

/// Makes `reactor` the innermost on this thread until the result is dropped. `thread` wakes this one, if
/// it sleeps when none of its tasks can go on. Tasks that can wait nowhere wait by `timer`.
pub(crate) fn enter(
    reactor: Option<Arc<Reactor>>,
    thread: Option<Waker>,
    timer: Option<Arc<dyn LoopTimer>>,
) -> Entered {
    let runtime = Runtime {
        reactor,
        thread,
        timer,
        spin_tasks: Vec::new(),
        #[cfg(feature = "tokio")]
        around: crate::tokio::runtime_id(),
    };
    ENTERED.with_borrow_mut(|entered| entered.push(runtime));
    Entered(())
}

pub(crate) struct Entered(());

impl Entered {
    /// Spins for the tasks that have not announced that they wait, unless the thread is notified; whether
    /// there were some: they are to be polled again.
    pub(crate) fn spin(&self, unpark: &Unpark, reactor: Option<&Arc<Reactor>>) -> bool {
        let take = |runtime: &mut Runtime| mem::take(&mut runtime.spin_tasks);
        let innermost = || ENTERED.with_borrow_mut(|entered| entered.last_mut().map(take));
        let mut tasks = innermost().unwrap_or_default();
        if tasks.is_empty() {
            return false;
        }
        let is_notified = || unpark.is_notified();
        if !is_notified() {
            let reactor = reactor.filter(|reactor| !reactor.is_dead());
            let turn = |now| reactor.into_iter().for_each(|reactor| reactor.turn(now));
            spin::spin(&mut tasks, is_notified, turn);
        }
        tasks.drain(..).filter_map(|task| task.waker).for_each(Waker::wake);
        if is_notified() {
            unpark.take_notice();
        }
        ENTERED.with_borrow_mut(|entered| {
            // The memory serves again, unless a waker has polled its task at once, which waits anew.
            let runtime = entered.last_mut().filter(|runtime| runtime.spin_tasks.is_empty());
            runtime.into_iter().for_each(|runtime| runtime.spin_tasks = mem::take(&mut tasks));
        });
        true
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let left = ENTERED.with_borrow_mut(Vec::pop);
        // Tasks that live on elsewhere announce there.
        let tasks = left.into_iter().flat_map(|runtime| runtime.spin_tasks);
        tasks.filter_map(|task| task.waker).for_each(Waker::wake);
    }
}

/// The reactor of the process's helper thread, which is started by the first call.
fn helper() -> io::Result<Arc<Reactor>> {
    static HELPER: Mutex<Option<Arc<Reactor>>> = Mutex::new(None);
    /// When it was refused, and why.
    static REFUSED: Mutex<Option<(Instant, Option<i32>)>> = Mutex::new(None);
    static SAID: AtomicU32 = AtomicU32::new(0);
    let error = {
        // A child must not find them locked.
        let _forks = hold_forks();
        let mut helper = lock(&HELPER);
        // A forked child has no such thread, and starts its own.
        if let Some(reactor) = helper.as_ref().filter(|reactor| !reactor.is_forked()) {
            return Ok(Arc::clone(reactor));
        }
        let mut refused = lock(&REFUSED);
        if let Some((at, errno)) = *refused
            && at.elapsed() < LONGEST_PAUSE
        {
            let other = || io::ErrorKind::WouldBlock.into();
            return Err(errno.map_or_else(other, io::Error::from_raw_os_error));
        }
        match Reactor::helper() {
            Ok(reactor) => {
                *refused = None;
                mem::forget(helper.replace(Arc::clone(&reactor)));
                return Ok(reactor);
            }
            Err(error) => {
                *refused = Some((Instant::now(), error.raw_os_error()));
                error
            }
        }
    };
    if is_first(&SAID) {
        tracing::error!(
            %error,
            "neither an io_uring nor a helper thread is to be had: tasks that wait in parkline attempt again \
             every {LONGEST_PAUSE:?}; allow io_uring, or one thread more (`ulimit -u`, the control \
             group's pids.max)"
        );
    }
    Err(error)
}

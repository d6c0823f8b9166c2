//! Which call around the task that is being polled serves it: by its reactor, and by a look before its
//! thread sleeps.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Instant;

use parkline_core::driver::hold_forks;

use crate::backend::{Backend, backend};
use crate::event_loop::LoopTimer;
use crate::looking::{self, Looker};
use crate::pause::{self, is_first};
use crate::reactor::{Reactor, lock};
use crate::unpark::Unpark;

thread_local! {
    /// The `block_on` calls that this thread is in, innermost last.
    static STACK: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

struct Frame {
    /// `None` if there is no io_uring for this thread.
    reactor: Option<Arc<Reactor>>,
    /// What wakes the thread, if it sleeps when none of its tasks can go on.
    thread: Option<Waker>,
    /// The event loop's, where no reactor is to be had.
    timer: Option<Arc<dyn LoopTimer>>,
    /// Whom the thread looks for before it sleeps.
    lookers: Vec<Looker>,
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
    if let Some(reactor) = innermost() {
        return Ok(reactor);
    }
    #[cfg(feature = "tokio")]
    if let Some(reactor) = crate::tokio::current() {
        return Ok(reactor);
    }
    helper()
}

fn innermost() -> Option<Arc<Reactor>> {
    STACK.with_borrow(|stack| {
        let frame = stack.last().filter(|frame| frame.serves())?;
        frame.reactor.as_ref().filter(|reactor| !reactor.is_dead()).cloned()
    })
}

/// Has the innermost [`block_on`](crate::block_on) look for a task before the thread sleeps, and poll
/// it again after that; whether it will. The `task` is told what wakes the thread.
pub(crate) fn look_for(task: impl FnOnce(&Waker) -> Looker) -> bool {
    STACK.with_borrow_mut(|stack| {
        let Some(frame) = stack.last_mut().filter(|frame| frame.serves()) else { return false };
        let Some(thread) = &frame.thread else { return false };
        if !looking::is_due(frame.lookers.len()) {
            return false;
        }
        let task = task(thread);
        let has_time = !task.limit.is_zero();
        if has_time {
            frame.lookers.push(task);
        }
        has_time
    })
}

impl Frame {
    /// Whether this is the innermost runtime around the caller.
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
    let is_block_on = |frame: &Frame| frame.serves() && frame.thread.is_some();
    STACK.with_borrow(|stack| stack.last().is_some_and(is_block_on))
}

/// Makes `reactor` the innermost on this thread until the result is dropped. `thread` wakes this one, if
/// it sleeps when none of its tasks can go on.
pub(crate) fn enter(reactor: Option<Arc<Reactor>>, thread: Option<Waker>) -> Entered {
    let frame = Frame {
        reactor,
        thread,
        timer: None,
        lookers: Vec::new(),
        #[cfg(feature = "tokio")]
        around: crate::tokio::runtime_id(),
    };
    STACK.with_borrow_mut(|stack| stack.push(frame));
    Entered(())
}

/// Has tasks that can wait nowhere wait by `timer`, until the result is dropped.
pub(crate) fn enter_timer(timer: Arc<dyn LoopTimer>) -> Entered {
    let entered = enter(None, None);
    STACK.with_borrow_mut(|stack| stack.last_mut().map(|frame| frame.timer = Some(timer)));
    entered
}

/// The timer of the innermost runtime around the caller, if that is an event loop.
pub(crate) fn loop_timer() -> Option<Arc<dyn LoopTimer>> {
    STACK.with_borrow(|stack| stack.last().filter(|frame| frame.serves())?.timer.clone())
}

pub(crate) struct Entered(());

impl Entered {
    /// Looks for those who have not announced, unless the thread is notified; whether there were
    /// some: they are to be polled again.
    pub(crate) fn look(&self, unpark: &Unpark, reactor: Option<&Arc<Reactor>>) -> bool {
        let take = |frame: &mut Frame| mem::take(&mut frame.lookers);
        let innermost = || STACK.with_borrow_mut(|stack| stack.last_mut().map(take));
        let mut lookers = innermost().unwrap_or_default();
        if lookers.is_empty() {
            return false;
        }
        let is_notified = || unpark.is_notified();
        if !is_notified() {
            let reactor = reactor.filter(|reactor| !reactor.is_dead());
            let glance = |now| reactor.into_iter().for_each(|reactor| reactor.glance(now));
            looking::look(&mut lookers, is_notified, glance);
        }
        lookers.drain(..).filter_map(|task| task.waker).for_each(Waker::wake);
        if is_notified() {
            unpark.take_notice();
        }
        STACK.with_borrow_mut(|stack| {
            // The memory serves again, unless a waker has polled its task at once, and that waits anew.
            let frame = stack.last_mut().filter(|frame| frame.lookers.is_empty());
            frame.into_iter().for_each(|frame| frame.lookers = mem::take(&mut lookers));
        });
        true
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let left = STACK.with_borrow_mut(Vec::pop);
        // Those that live on elsewhere announce there.
        let lookers = left.into_iter().flat_map(|frame| frame.lookers);
        lookers.filter_map(|task| task.waker).for_each(Waker::wake);
    }
}

/// The reactor of the process's helper thread, which is started by the first call.
pub(crate) fn helper() -> io::Result<Arc<Reactor>> {
    static HELPER: Mutex<Option<Arc<Reactor>>> = Mutex::new(None);
    /// When it was refused, and why: it is not asked for by each of those who wait.
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
            && at.elapsed() < pause::MOST
        {
            let other = || io::ErrorKind::WouldBlock.into();
            return Err(errno.map_or_else(other, io::Error::from_raw_os_error));
        }
        match Reactor::helper() {
            Ok(reactor) => {
                *refused = None;
                std::mem::forget(helper.replace(Arc::clone(&reactor)));
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
            "neither an io_uring nor a helper thread is to be had: tasks that wait in parkline look \
             every {:?}; allow io_uring, or one thread more (`ulimit -u`, the control group's pids.max)",
            pause::MOST
        );
    }
    Err(error)
}

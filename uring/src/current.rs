//! Which reactor serves the task that is being polled.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex};

use parkline_core::driver::hold_forks;

use crate::backend::{Backend, backend};
use crate::reactor::{Reactor, lock};

thread_local! {
    /// The `block_on` calls that this thread is in, innermost last.
    static STACK: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

struct Frame {
    reactor: Arc<Reactor>,
    /// The tokio runtime around the call: a runtime entered inside it is another one, and serves
    /// first.
    #[cfg(feature = "tokio")]
    around: Option<tokio::runtime::Id>,
}

/// The reactor of the innermost runtime around the caller: [`block_on`](crate::block_on)'s own,
/// tokio's, or, for everything else and without io_uring, the process's helper thread.
///
/// # Errors
/// When not even a thread can be had.
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
        let frame = stack.last()?;
        #[cfg(feature = "tokio")]
        if frame.around != crate::tokio::runtime_id() {
            return None;
        }
        (!frame.reactor.is_dead()).then(|| Arc::clone(&frame.reactor))
    })
}

/// Makes `reactor` the innermost on this thread until the result is dropped.
pub(crate) fn enter(reactor: Arc<Reactor>) -> Entered {
    let frame = Frame {
        reactor,
        #[cfg(feature = "tokio")]
        around: crate::tokio::runtime_id(),
    };
    STACK.with_borrow_mut(|stack| stack.push(frame));
    Entered(())
}

pub(crate) struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        let left = STACK.with_borrow_mut(Vec::pop);
        drop(left);
    }
}

/// The reactor of the process's helper thread, which is started by the first call.
pub(crate) fn helper() -> io::Result<Arc<Reactor>> {
    static HELPER: Mutex<Option<Arc<Reactor>>> = Mutex::new(None);
    // A child must not find it locked.
    let _forks = hold_forks();
    let mut helper = lock(&HELPER);
    // A forked child has no such thread, and starts its own.
    if let Some(reactor) = helper.as_ref().filter(|reactor| !reactor.is_forked()) {
        return Ok(Arc::clone(reactor));
    }
    let reactor = Reactor::helper()?;
    std::mem::forget(helper.replace(Arc::clone(&reactor)));
    Ok(reactor)
}

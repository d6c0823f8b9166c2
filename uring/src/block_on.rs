//! Running one future on the calling thread, which sleeps in its own ring.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::{Context, Poll, Waker};

use crate::backend::{Backend, backend, is_first};
use crate::current;
use crate::engine::unpark::Unpark;
use crate::reactor::Reactor;

thread_local! {
    /// The ring of this thread's last call, to be used again.
    static SPARE: RefCell<Option<Arc<Reactor>>> = const { RefCell::new(None) };
}

/// Runs a future to its end on the calling thread. While it waits for a queue, the thread sleeps in
/// an io_uring of its own: arming the wait and falling asleep is one system call, and no other
/// thread is involved.
///
/// Any future will do; one that waits for something else wakes the thread by its waker as usual.
/// Without io_uring the thread sleeps on a futex, and the process's helper thread waits for the
/// queues. Inside another `block_on`, or in a task of a runtime, it keeps that thread from its other
/// tasks until it returns.
///
/// ```
/// use parkline_uring::{AsyncReceiver, AsyncSender, Queue, block_on};
///
/// let queue = Queue::builder().capacity(4).create()?;
/// let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
/// block_on(async {
///     sender.send(b"hello").await?;
///     assert_eq!(receiver.recv().await?, b"hello");
///     queue.close()?;
///     assert!(sender.send(b"too late").await.is_err());
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn block_on<F: Future>(future: F) -> F::Output {
    match RingGuard::take() {
        // The future is dropped in there, before the ring is given back.
        Some(ring) => run(future, &ring.unpark, Some(&ring.reactor)),
        None => run(future, &Arc::default(), None),
    }
}

fn run<F: Future>(future: F, unpark: &Arc<Unpark>, reactor: Option<&Arc<Reactor>>) -> F::Output {
    let waker = Waker::from(Arc::clone(unpark));
    let entered = current::enter(reactor.cloned(), Some(waker.clone()), None);
    // A tokio task around the call has a budget that nothing renews before the call returns: tokio's
    // own futures would wait for it for ever.
    #[cfg(feature = "tokio")]
    let future = ::tokio::task::coop::unconstrained(future);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        if entered.spin(unpark, reactor) {
            continue;
        }
        // If the reactor breaks down, its tasks wait elsewhere, and this thread on the plain futex.
        let slept = reactor.filter(|it| !it.is_dead()).is_some_and(|it| it.park().is_ok());
        if !slept {
            unpark.sleep();
        }
    }
}

/// The use of this thread's ring for one call.
struct RingGuard {
    reactor: Arc<Reactor>,
    unpark: Arc<Unpark>,
}

impl RingGuard {
    /// `None` when there is no io_uring for this thread.
    fn take() -> Option<Self> {
        static SAID: AtomicU32 = AtomicU32::new(0);
        if let Backend::Futex(_) = backend() {
            return None;
        }
        let spare = SPARE.with_borrow_mut(Option::take).and_then(|spare| {
            if spare.is_forked() {
                std::mem::forget(spare);
                return None;
            }
            Some(spare)
        });
        let reactor = spare.or_else(|| {
            let refused = |error: &io::Error| {
                if is_first(&SAID) {
                    tracing::warn!(%error, "no io_uring for this thread");
                }
            };
            Reactor::of_thread().inspect_err(refused).ok()
        })?;
        let unpark = Arc::clone(reactor.unpark()?);
        Some(Self { reactor, unpark })
    }
}

impl Drop for RingGuard {
    fn drop(&mut self) {
        if !self.reactor.is_dead() && self.reactor.is_idle() {
            let reactor = Arc::clone(&self.reactor);
            // A nested call may have left one already. That one ends here, outside the borrow.
            let extra = SPARE.try_with(|spare| spare.replace(Some(reactor)));
            if let Ok(Some(extra)) = extra {
                extra.shut_down();
            }
        } else {
            // A task that began here lives on elsewhere.
            self.reactor.shut_down();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::required::not_tried;

    /// The ring of a call in which `act` is done.
    fn ring_of(act: impl FnOnce(&Arc<Reactor>)) -> Option<Arc<Reactor>> {
        if let Backend::Futex(why) = backend() {
            not_tried("io_uring", why);
            return None;
        }
        let ring = block_on(async { current::current() }).unwrap();
        drop(ring);
        block_on(async {
            let ring = current::current().unwrap();
            act(&ring);
            Some(ring)
        })
    }

    /// Fails if each call makes a ring (seen failing): that takes several system calls.
    #[test]
    fn a_call_has_the_ring_of_the_last() {
        let Some(first) = ring_of(|_| ()) else { return };
        let second = ring_of(|_| ()).unwrap();
        assert!(Arc::ptr_eq(&first, &second) && !first.is_dead());
    }

    /// Fails if a ring is used again after it broke down (seen failing).
    #[test]
    fn a_ring_that_broke_down_is_not_used_again() {
        let broken = ring_of(|ring| ring.break_down(&io::Error::other("as the test wants it")));
        let Some(broken) = broken else { return };
        assert!(broken.is_dead());
        let next = ring_of(|_| ()).unwrap();
        assert!(next.unpark().is_some() && !next.is_dead(), "it has one of its own again");
    }

    /// Fails if the ring stays in which a task waits on (seen failing): no thread drives it.
    #[test]
    fn a_ring_whose_task_outlives_the_call_ends_with_it() {
        let timed = ring_of(|ring| {
            ring.add_timer(Instant::now() + Duration::from_secs(3600), Waker::noop().clone());
        });
        let Some(timed) = timed else { return };
        assert!(timed.is_dead());
    }

    /// Fails if the second of two rings that a thread has does not end (seen failing).
    #[test]
    fn a_thread_keeps_one_ring() {
        let mut inner = None;
        let Some(outer) = ring_of(|_| inner = ring_of(|_| ())) else { return };
        let inner = inner.unwrap();
        assert!(!Arc::ptr_eq(&inner, &outer));
        assert_eq!((inner.is_dead(), outer.is_dead()), (true, false));
    }
}

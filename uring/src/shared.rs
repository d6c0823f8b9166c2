//! One handle for many tasks.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use parkline_core::driver::{DeferredLetters, Side};
use parkline_core::{Message, Receiver, Sender};

use crate::lock::lock;
use crate::owed_driver::drive_owed;
use crate::waiting::Waits;

/// What can be shared: a [`Sender`] or a [`Receiver`], by [`Shared::new`].
pub trait Handle: sealed::Handle {}

impl<H: sealed::Handle> Handle for H {}

mod sealed {
    use super::{DeferredLetters, Message, Receiver, Sender};

    pub trait Handle {
        /// What is done after the lock is released.
        type After: After;

        /// Called once, when it is put behind a lock.
        fn begin_to_share(&mut self) {}

        fn after(&self) -> Option<Self::After> {
            None
        }
    }

    pub trait After {
        fn run(self);
    }

    impl After for std::convert::Infallible {
        fn run(self) {}
    }

    impl<M: Message + ?Sized> After for DeferredLetters<M> {
        fn run(self) {
            let _ = self.handle();
        }
    }

    impl<M: Message + ?Sized> Handle for Sender<M> {
        type After = std::convert::Infallible;
    }

    impl<M: Message + ?Sized> Handle for Receiver<M> {
        type After = DeferredLetters<M>;

        fn begin_to_share(&mut self) {
            self.defer_dead_letters();
        }

        fn after(&self) -> Option<DeferredLetters<M>> {
            self.deferred_letters()
        }
    }
}

/// A sender or receiver that any number of tasks and threads of this process use together: one
/// record of the queue, one kernel wait, however many wait.
///
/// Clones are the same handle. Each operation takes a short lock, which is never held while
/// waiting, nor while a [handler of dead letters](Receiver::on_dead_letter) runs.
///
/// A forked child must leave it alone: as every inherited handle it is of no use there, and if another
/// thread of the parent was in an operation at the fork, the lock stays taken for ever.
#[derive(Debug)]
pub struct Shared<H>(Arc<Mutex<H>>);

impl<H: Handle> Shared<H> {
    /// Shares a handle; the same as `handle.share()`.
    ///
    /// ```
    /// use parkline_uring::{AsyncReceiver, Queue, Shared, block_on};
    ///
    /// let queue = Queue::builder().create()?;
    /// queue.sender()?.try_send_many([&b"one"[..], b"two"])?;
    /// let receiver = Shared::new(queue.receiver()?);
    /// let (mut first, mut second) = (receiver.clone(), receiver);
    /// assert_eq!(block_on(first.recv())?, b"one");
    /// assert_eq!(block_on(second.recv())?, b"two");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(mut handle: H) -> Self {
        drive_owed();
        handle.begin_to_share();
        Self(Arc::new(Mutex::new(handle)))
    }

    /// The handle itself, for calls that do not wait. Other tasks wait for the lock meanwhile, and a
    /// thread that locks twice waits for itself: do not keep it over an await. Dead letters that such
    /// a call finds are handled when the lock is released.
    ///
    /// ```
    /// use parkline_uring::{AsyncSender, Queue, TrySendError};
    ///
    /// let sender = Queue::builder().capacity(1).create()?.sender()?.share();
    /// assert_eq!(sender.lock().try_send(b"first"), Ok(()));
    /// assert_eq!(sender.clone().lock().try_send(b"second"), Err(TrySendError::Full(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock(&self) -> Locked<'_, H> {
        Locked { guard: self.lock_alone(), after: AfterUnlock(None) }
    }

    /// The same, for a caller that handles the dead letters itself.
    pub(crate) fn lock_alone(&self) -> MutexGuard<'_, H> {
        lock(&self.0)
    }
}

impl<H> Clone for Shared<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Copy + PartialEq, H: Handle + Waits<W>> Waits<W> for Shared<H> {
    fn side(&self, waits_for: W) -> Side {
        self.lock().side(waits_for)
    }

    fn spin_limit(&self) -> Duration {
        self.lock().spin_limit()
    }
}

/// A [`Shared`] handle, locked.
#[derive(Debug)]
pub struct Locked<'a, H: Handle> {
    // Dropped in this order.
    guard: MutexGuard<'a, H>,
    after: AfterUnlock<H>,
}

/// What runs once the lock is released.
struct AfterUnlock<H: Handle>(Option<H::After>);

impl<H: Handle> Deref for Locked<'_, H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.guard
    }
}

impl<H: Handle> DerefMut for Locked<'_, H> {
    fn deref_mut(&mut self) -> &mut H {
        &mut self.guard
    }
}

impl<H: Handle> Drop for Locked<'_, H> {
    fn drop(&mut self) {
        self.after.0 = self.guard.after();
    }
}

impl<H: Handle> Drop for AfterUnlock<H> {
    fn drop(&mut self) {
        // A second panic, in a handler, would end the process. The next call handles these letters.
        if let Some(after) = self.0.take().filter(|_| !std::thread::panicking()) {
            sealed::After::run(after);
        }
    }
}

impl<H: Handle> core::fmt::Debug for AfterUnlock<H> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AfterUnlock").finish_non_exhaustive()
    }
}

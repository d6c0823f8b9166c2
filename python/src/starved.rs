//! Waiting for a lease to come back: of threads and tasks of this process that would get a message,
//! and have no cell for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};

#[derive(Default)]
pub(crate) struct Starved {
    /// Moves when a lease has come back.
    fed: AtomicU32,
    threads: AtomicUsize,
    /// How many tasks wait: a look at it spares the lock.
    seats: AtomicUsize,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    waiting: BTreeMap<u64, Waker>,
    last: u64,
}

/// A task's place among those that wait. To be given back by [`Starved::leave`].
pub(crate) struct Seat(u64);

impl Starved {
    /// What to sleep at: read it before the look that finds no lease.
    pub(crate) fn now(&self) -> u32 {
        self.fed.load(SeqCst)
    }

    /// Sleeps until a lease has come back since `then`, a signal comes, or `at_most` is over.
    pub(crate) fn sleep(&self, then: u32, at_most: Duration) {
        self.threads.fetch_add(1, SeqCst);
        let timeout = Timespec::try_from(at_most).ok();
        // Woken, changed, interrupted, time over: all mean "look again".
        let _ = futex::wait(&self.fed, Flags::PRIVATE, then, timeout.as_ref());
        self.threads.fetch_sub(1, SeqCst);
    }

    /// Takes a seat for a task that found no lease.
    pub(crate) fn wait(&self, waker: Waker) -> Seat {
        let mut tasks = self.tasks();
        tasks.last += 1;
        let seat = tasks.last;
        tasks.waiting.insert(seat, waker);
        self.seats.store(tasks.waiting.len(), SeqCst);
        Seat(seat)
    }

    /// A task looks again, or gives up; in the latter case a wake that it got goes to another.
    pub(crate) fn leave(&self, Seat(seat): Seat, gives_up: bool) {
        let waker = {
            let mut tasks = self.tasks();
            let waker = tasks.waiting.remove(&seat);
            self.seats.store(tasks.waiting.len(), SeqCst);
            waker
        };
        if waker.is_none() && gives_up {
            self.wake_task();
        }
        drop(waker);
    }

    /// A lease has come back.
    pub(crate) fn feed(&self) {
        self.fed.fetch_add(1, SeqCst);
        if self.threads.load(SeqCst) > 0 {
            let _ = futex::wake(&self.fed, Flags::PRIVATE, 1);
        }
        if self.seats.load(SeqCst) > 0 {
            self.wake_task();
        }
    }

    /// Has the first of those tasks look again.
    pub(crate) fn wake_task(&self) {
        let first = {
            let mut tasks = self.tasks();
            let first = tasks.waiting.pop_first();
            self.seats.store(tasks.waiting.len(), SeqCst);
            first
        };
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

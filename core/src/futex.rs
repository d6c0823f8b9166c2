//! The plain futex: [`Kernel`] for threads that may block, and the wake of every driver.
//!
//! Shared futexes throughout: a private one is keyed to one process's memory and wakes nobody else.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};

use crate::gate::{Kernel, Sleep};
use crate::stats::Tally;
use crate::sync::{AtomicU32, kill_point};

/// How often this process went to the kernel on behalf of its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCalls {
    /// Waits begun, by a thread or for the tasks of a reactor.
    pub parks: u64,
    /// Wakes, those that found nobody included.
    pub wakes: u64,
}

static PARKS: AtomicU64 = AtomicU64::new(0);
static WAKES: AtomicU64 = AtomicU64::new(0);

/// How often this process went to the kernel on behalf of its queues. For people; may lag a little.
pub fn kernel_calls() -> KernelCalls {
    KernelCalls { parks: PARKS.load(Relaxed), wakes: WAKES.load(Relaxed) }
}

/// The calling thread sleeps in `futex(2)`, and wakes by it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Futex<'a> {
    /// Where the calls are counted.
    tally: Option<&'a Tally>,
}

impl<'a> Futex<'a> {
    pub(crate) fn counted(tally: &'a Tally) -> Self {
        Self { tally: Some(tally) }
    }

    /// For who has no record.
    pub(crate) fn uncounted() -> Self {
        Self { tally: None }
    }

    /// Counts a wait that begins, by this or by other means.
    pub(crate) fn count_park(&self) {
        PARKS.fetch_add(1, Relaxed);
        if let Some(tally) = self.tally {
            tally.parks.add_one();
        }
    }
}

impl Kernel for Futex<'_> {
    fn wait(&self, sleep: &Sleep<'_>, timeout: Option<Duration>) {
        self.count_park();
        let timeout = timeout.and_then(|it| Timespec::try_from(it).ok());
        kill_point("futex wait");
        // Woken, value changed, time over, interrupted: all mean "look again".
        let _ = futex::wait(sleep.word(), Flags::empty(), sleep.expected(), timeout.as_ref());
        kill_point("futex wait is over");
    }

    fn wake(&self, word: &AtomicU32, count: u32) -> u32 {
        WAKES.fetch_add(1, Relaxed);
        if let Some(tally) = self.tally {
            tally.wakes.add_one();
        }
        // The kernel reads the count as a signed number. An error (an unmapped word) wakes nobody.
        let count = count.min(i32::MAX.cast_unsigned());
        kill_point("futex wake");
        let woken = futex::wake(word, Flags::empty(), count).unwrap_or(0);
        kill_point("futex wake is done");
        u32::try_from(woken).unwrap_or(u32::MAX)
    }
}

//! The futex system calls: the [`Kernel`] of threads that block, and the wake of every driver.
//!
//! All futexes are shared ones: a private futex wakes threads of its own process only.

use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};

use crate::ring::stats::Tally;
use crate::sync::{AtomicU32, kill_point};
use crate::wait::gate::{Kernel, Sleep};

/// Sleeps and wakes by `futex(2)`, on the calling thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Futex<'a> {
    /// Where the calls are counted, if they are.
    tally: Option<&'a Tally>,
}

impl<'a> Futex<'a> {
    pub(crate) fn counted(tally: &'a Tally) -> Self {
        Self { tally: Some(tally) }
    }

    /// For callers without a record.
    pub(crate) fn uncounted() -> Self {
        Self { tally: None }
    }

    /// Counts one wait that begins, in this futex or in another way.
    pub(crate) fn count_park(&self) {
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
        // Woken, value changed, time over, interrupted: after each of them the caller attempts
        // again.
        let _ = futex::wait(sleep.word(), Flags::empty(), sleep.expected(), timeout.as_ref());
        kill_point("futex wait is over");
    }

    fn wake(&self, word: &AtomicU32, count: u32) -> u32 {
        if let Some(tally) = self.tally {
            tally.wakes.add_one();
        }
        // The kernel reads the count as a signed number. An error (an unmapped word) wakes no
        // thread.
        let count = count.min(i32::MAX.cast_unsigned());
        kill_point("futex wake");
        let woken = futex::wake(word, Flags::empty(), count).unwrap_or(0);
        kill_point("futex wake is done");
        u32::try_from(woken).unwrap_or(u32::MAX)
    }
}

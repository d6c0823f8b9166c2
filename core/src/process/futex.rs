//! The plain futex: [`Kernel`] for threads that may block, and the wake of every driver.
//!
//! Shared futexes throughout: a private one is keyed to one process's memory and wakes nobody else.

use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};

use crate::ring::stats::Tally;
use crate::sync::{AtomicU32, kill_point};
use crate::wait::gate::{Kernel, Sleep};

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

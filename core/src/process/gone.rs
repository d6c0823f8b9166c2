//! Which processes seem not to exist: a hint that saves lock calls.
//!
//! A record names its owner's process, and any peer can write any number there. The pid may come
//! from another pid namespace, belong to a zombie, or belong to another process by now. So the
//! answer only orders the records about which the kernel is asked.

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::sync::kill_point;

/// After this many living owners that seemed not to exist, the pids count as those of another pid
/// namespace, and no process seems gone.
const WRONG: u32 = 4;

/// The answers so far.
#[derive(Debug)]
pub(crate) struct Gone {
    /// How many more processes it may ask about.
    left: usize,
    known: BTreeMap<u32, bool>,
    wrong: u32,
}

impl Gone {
    /// Asks about at most `most` processes, and takes all others as existing.
    pub(crate) fn of(most: usize) -> Self {
        Self { left: most, known: BTreeMap::new(), wrong: 0 }
    }

    /// Whether `pid` seems not to exist.
    pub(crate) fn has(&mut self, pid: u32) -> bool {
        if self.wrong >= WRONG {
            return false;
        }
        if let Some(is_gone) = self.known.get(&pid) {
            return *is_gone;
        }
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        let is_gone = seems_gone(pid);
        self.known.insert(pid, is_gone);
        is_gone
    }

    /// Records that an owner that named `pid` lives.
    pub(crate) fn refute(&mut self, pid: u32) {
        if self.known.insert(pid, false) == Some(true) {
            self.wrong = self.wrong.saturating_add(1);
        }
    }
}

/// Whether no process of this pid namespace has the number.
fn seems_gone(pid: u32) -> bool {
    kill_point("kill");
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

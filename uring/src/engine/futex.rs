//! Kernel waits for a futex word: as an operation of io_uring, and as one of those of `futex_waitv`.
//!
//! All words are 32 bits wide and shared between processes: the keys are never private.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Acquire};

use io_uring::{opcode, squeue};
use rustix::thread::futex::{Wait, WaitFlags, WaitPtr};

use crate::waiters::Waiters;

/// Neither libc nor io-uring has it.
const FUTEX2_SIZE_U32: u32 = 2;
/// Match any wake. More than 32 bits are invalid.
const MATCH_ANY: u64 = 0xffff_ffff;

/// A wait at the gate of `waiters`, while its word is `expected`. The word is theirs, and they keep it
/// mapped: it cannot be the word of another segment.
#[derive(Clone, Debug)]
pub(crate) struct FutexWait {
    pub(crate) waiters: Arc<Waiters>,
    expected: u32,
}

impl FutexWait {
    pub(crate) fn new(waiters: &Arc<Waiters>, expected: u32) -> Self {
        Self { waiters: Arc::clone(waiters), expected }
    }

    /// `None` in a forked child, which has not mapped it.
    fn word(&self) -> Option<&AtomicU32> {
        Some(self.waiters.side.gate()?.word())
    }

    /// Whether the wait is over: every wake changes the word.
    pub(crate) fn is_over(&self) -> bool {
        self.word().is_none_or(|word| word.load(Acquire) != self.expected)
    }

    /// For io_uring.
    pub(crate) fn entry(&self) -> io::Result<squeue::Entry> {
        Ok(entry(self.word().ok_or(io::ErrorKind::NotConnected)?, self.expected))
    }

    /// For `futex_waitv`.
    pub(crate) fn waitv_entry(&self) -> Option<Wait> {
        Some(waitv_entry(self.word()?, self.expected))
    }
}

/// A wait for `word`, for io_uring.
pub(crate) fn entry(word: &AtomicU32, expected: u32) -> squeue::Entry {
    let word = word.as_ptr().cast_const();
    opcode::FutexWait::new(word, expected.into(), MATCH_ANY, FUTEX2_SIZE_U32).build()
}

/// A wait for `word`, for `futex_waitv`.
pub(crate) fn waitv_entry(word: &AtomicU32, expected: u32) -> Wait {
    let mut wait = Wait::new();
    wait.val = expected.into();
    wait.uaddr = WaitPtr::new(word.as_ptr().cast());
    wait.flags = WaitFlags::SIZE_U32;
    wait
}

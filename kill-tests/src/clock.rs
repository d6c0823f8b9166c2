//! The clock of a victim that is stepped: each look at it takes a microsecond.
//!
//! A step takes as long as a thousand instructions, so that by the kernel's clock every budget of time
//! would be over, sooner or later by chance, and the victims would part there. Whatever in this program
//! asks libc for the time asks here.
#![expect(unsafe_code, reason = "stands in for a function of libc")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::libc::{self, c_int, clockid_t, timespec};
use rustix::time::{ClockId, clock_gettime};

use crate::ledger::now;

/// The nanoseconds at the next look; 0 in a process whose clock is the kernel's.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// From here on time passes by looks.
pub(crate) fn by_looks() {
    NEXT.store(now(), Relaxed);
}

/// What libc's function does, for this whole program.
///
/// # Safety
///
/// `time` can be written.
// libc's function of this name has the same arguments and the same result.
#[unsafe(export_name = "clock_gettime")]
unsafe extern "C" fn steady_clock_gettime(id: clockid_t, time: *mut timespec) -> c_int {
    let known = match id {
        libc::CLOCK_REALTIME => ClockId::Realtime,
        libc::CLOCK_MONOTONIC => ClockId::Monotonic,
        // Nobody in this program asks for another.
        _ => return -1,
    };
    let found = if known == ClockId::Monotonic && NEXT.load(Relaxed) > 0 {
        let nanos = NEXT.fetch_add(1_000, Relaxed).cast_signed();
        timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 }
    } else {
        let found = clock_gettime(known);
        timespec { tv_sec: found.tv_sec, tv_nsec: found.tv_nsec }
    };
    // SAFETY: the caller's word that `time` can be written.
    unsafe { time.write(found) };
    0
}

//! The clock of this program, and that of a victim that is single-stepped: for the victim one
//! microsecond passes with each call that reads the clock.
//!
//! One step takes as long as a thousand instructions. By the kernel's clock each time limit would pass
//! at a random instruction, and the victims would take different ways from there. So every call in this
//! program to libc's `clock_gettime` comes here.
#![expect(unsafe_code, reason = "stands in for a function of libc")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::libc::{self, c_int, clockid_t, timespec};
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of a clock that all processes share.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The nanoseconds that the next call reads; 0 in a process that has the kernel's clock.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// From now on time passes with the calls that read the clock.
pub(crate) fn by_reads() {
    NEXT.store(now(), Relaxed);
}

/// Replaces libc's function in this whole program.
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
        // No code in this program reads another clock.
        _ => return -1,
    };
    let found = if known == ClockId::Monotonic && NEXT.load(Relaxed) > 0 {
        let nanos = NEXT.fetch_add(1_000, Relaxed).cast_signed();
        timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 }
    } else {
        let found = clock_gettime(known);
        timespec { tv_sec: found.tv_sec, tv_nsec: found.tv_nsec }
    };
    // SAFETY: the caller promises that `time` can be written.
    unsafe { time.write(found) };
    0
}

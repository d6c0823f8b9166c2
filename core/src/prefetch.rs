//! Asks for the lines that are written soon, so that they are on their way meanwhile.
#![cfg_attr(
    all(target_arch = "x86_64", not(loom)),
    expect(unsafe_code, reason = "a hint to the processor has no safe name")
)]

use crate::sync::AtomicU64;

/// The line that `words` have at `at`, or would have.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
pub(crate) fn to_write(words: &[AtomicU64], at: usize) {
    let line = words.as_ptr().wrapping_add(at);
    // SAFETY: a prefetch changes no memory, no register and no flag, and cannot fault, wherever it
    // points. It is written out since the compiler makes a prefetch to read of one to write, but for
    // processors that it is told of; those that do not know it do nothing.
    unsafe {
        core::arch::asm!("prefetchw [{line}]", line = in(reg) line, options(nostack, preserves_flags));
    }
}

#[cfg(not(all(target_arch = "x86_64", not(loom))))]
#[inline(always)]
pub(crate) fn to_write(_: &[AtomicU64], _: usize) {}

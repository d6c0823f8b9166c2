//! Copies between private memory and shared memory, and zeroes shared memory. Other processes can
//! write the shared memory during the copy.
//!
//! Short copies into shared memory store one word at a time, as relaxed atomics. Short copies out
//! load two words at a time, because those words were stored long before. A copy in does not: its
//! source was often stored just now, and a load of two words waits for such stores.
//!
//! Long copies are one instruction of the processor, which takes at most two thirds of the time.
//! `memcpy` would be as fast, but on memory that other processes write meanwhile it is undefined
//! behaviour.
#![cfg_attr(
    all(target_arch = "x86_64", not(loom)),
    expect(unsafe_code, reason = "a copy of memory that others may write has no safe name")
)]

use crate::sync::{AtomicU64, Ordering::Relaxed};

/// From this many words on, one instruction for the whole copy is quicker.
#[cfg(all(target_arch = "x86_64", not(loom)))]
const LONG: usize = 128;

/// Copies into shared memory, as many words as the shorter side has.
#[inline]
pub(crate) fn to_shared(from: &[[u8; 8]], to: &[AtomicU64]) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    if let count @ LONG.. = from.len().min(to.len()) {
        let to = to.as_ptr().cast::<u8>().cast_mut();
        // SAFETY: both have `count` words. `to` is a slice of atomics, which may be written through
        // a shared reference. It does not overlap `from`, because the reference to `from` rules out
        // other writes.
        unsafe { movsb(from.as_ptr().cast(), to, count.saturating_mul(8)) };
        return;
    }
    for (from, to) in from.iter().zip(to) {
        to.store(u64::from_ne_bytes(*from), Relaxed);
    }
}

/// Zeroes the words.
pub(crate) fn zero_shared(words: &[AtomicU64]) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    if let count @ LONG.. = words.len() {
        let to = words.as_ptr().cast::<u8>().cast_mut();
        // SAFETY: there are `count` words, all atomics, which may be written through a shared
        // reference.
        unsafe { stosb(to, count.saturating_mul(8)) };
        return;
    }
    for word in words {
        word.store(0, Relaxed);
    }
}

/// Copies out of shared memory, as many words as the shorter side has.
#[inline]
pub(crate) fn from_shared(from: &[AtomicU64], to: &mut [[u8; 8]]) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    if let count @ LONG.. = from.len().min(to.len()) {
        // SAFETY: both have `count` words. `to` is borrowed exclusively, and any bytes are a valid
        // `[u8; 8]`.
        unsafe { movsb(from.as_ptr().cast(), to.as_mut_ptr().cast(), count.saturating_mul(8)) };
        return;
    }
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    let (from, to) = {
        let count = from.len().min(to.len());
        let (pairs, from) = from.split_at(count).0.as_chunks::<2>();
        let (to_pairs, to) = to.split_at_mut(count).0.as_chunks_mut::<2>();
        for (from, to) in pairs.iter().zip(to_pairs) {
            // SAFETY: both have two words; as above.
            unsafe { pair(from.as_ptr().cast(), to.as_mut_ptr().cast()) };
        }
        (from, to)
    };
    for (from, to) in from.iter().zip(to) {
        *to = from.load(Relaxed).to_ne_bytes();
    }
}

/// # Safety
/// As `movsb`, of 16 bytes.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
unsafe fn pair(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "movups {both}, [{from}]",
            "movups [{to}], {both}",
            both = out(xmm_reg) _,
            from = in(reg) from,
            to = in(reg) to,
            options(nostack, preserves_flags)
        );
    }
}

/// # Safety
/// `from` can be read and `to` written for `len` bytes, and they do not overlap. Other processes
/// may write either during the copy: the compiler does not see into the assembly, so this is no
/// data race of Rust.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline]
unsafe fn movsb(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise. The direction flag is clear wherever Rust runs.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// # Safety
/// `to` can be written for `len` bytes. Other processes may write it meanwhile: see `movsb`.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline]
unsafe fn stosb(to: *mut u8, len: usize) {
    // SAFETY: the caller's promise. The direction flag is clear wherever Rust runs.
    unsafe {
        core::arch::asm!(
            "rep stosb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            in("al") 0_u8,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Fails if a long row of zeroes is one word short or one word too long (each seen failing).
    #[test]
    fn all_words_are_zeroed_and_no_other() {
        for count in [0, 1, 127, 128, 1001] {
            let words: Vec<_> = (0..count + 2).map(|_| AtomicU64::new(u64::MAX)).collect();
            zero_shared(&words[1..=count]);
            let expected = |n| if (1..=count).contains(&n) { 0 } else { u64::MAX };
            let zeroed = words.iter().map(|it| it.load(Relaxed));
            assert!(zeroed.eq((0..count + 2).map(expected)), "{count}");
        }
    }

    /// Fails if a long copy is one word short, or one word longer than the shorter side. Fails if a
    /// short copy out leaves out the odd word, or copies a pair as one word (each seen failing).
    #[test]
    fn a_copy_is_as_long_as_the_shorter_of_the_two() {
        let word = |n: usize| (n as u64 + 1).to_ne_bytes();
        for (from, to) in
            [(0, 3), (7, 7), (127, 127), (128, 128), (128, 200), (200, 128), (1001, 999)]
        {
            // One word more than the copy may touch.
            let ours: Vec<_> = (0..=from).map(word).collect();
            let shared: Vec<_> = (0..=to).map(|_| AtomicU64::new(0)).collect();
            to_shared(&ours[..from], &shared[..to]);
            let expected = |n| if n < from.min(to) { word(n) } else { [0; 8] };
            let copied = shared.iter().map(|it| it.load(Relaxed).to_ne_bytes());
            assert!(copied.eq((0..=to).map(expected)), "{from} to {to}");
            let shared: Vec<_> = (0..=from).map(|n| AtomicU64::new(n as u64 + 1)).collect();
            let mut ours = vec![[0; 8]; to + 1];
            from_shared(&shared[..from], &mut ours[..to]);
            assert!(ours.into_iter().eq((0..=to).map(expected)), "{from} to {to}");
        }
    }
}

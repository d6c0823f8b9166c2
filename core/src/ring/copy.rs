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
#![expect(unsafe_code, reason = "a copy of memory that others may write has no safe name")]

#[cfg(all(target_arch = "x86_64", not(loom)))]
use core::arch::x86_64::__m128i;
use core::mem::MaybeUninit;

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

/// Copies the start of shared memory to `to`, and returns it; `None` if there are fewer words.
#[inline(always)]
pub(crate) fn from_shared<'t>(
    from: &[AtomicU64],
    to: &'t mut [MaybeUninit<u8>],
) -> Option<&'t mut [u8]> {
    let (bytes, len) = (to.as_mut_ptr().cast::<u8>(), to.len());
    let (words, tail) = to.as_chunks_mut::<{ size_of::<u64>() }>();
    let (from, rest) = from.split_at_checked(words.len())?;
    words_from_shared(from, words);
    if !tail.is_empty() {
        let last = rest.first()?.load(Relaxed).to_ne_bytes();
        for (to, from) in tail.iter_mut().zip(last) {
            to.write(from);
        }
    }
    // SAFETY: these are the bytes of `to`, which is borrowed for `'t`. All were written: whole words
    // above, of which `from` has as many, and the tail, which is shorter than a word.
    Some(unsafe { core::slice::from_raw_parts_mut(bytes, len) })
}

/// The same over old bytes, which stay if there are fewer words.
pub(crate) fn from_shared_over(from: &[AtomicU64], to: &mut [u8]) {
    let (bytes, len) = (to.as_mut_ptr().cast(), to.len());
    // SAFETY: the same bytes, borrowed as long. `from_shared` makes none of them uninitialized.
    let _ = from_shared(from, unsafe { core::slice::from_raw_parts_mut(bytes, len) });
}

type Word = [MaybeUninit<u8>; size_of::<u64>()];

/// Copies as many words as the shorter side has.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
fn words_from_shared(from: &[AtomicU64], to: &mut [Word]) {
    let count = from.len().min(to.len());
    let (from, to) = (from.as_ptr().cast::<u8>(), to.as_mut_ptr().cast::<u8>());
    if count >= LONG {
        // SAFETY: both have `count` words. `to` is borrowed exclusively.
        unsafe { movsb(from, to, count.saturating_mul(8)) };
        return;
    }
    // By address: with one counter the compiler unrolls the loop where it knows the count.
    let (pairs, all) = ((count / 2).saturating_mul(16), count.saturating_mul(8));
    let mut at = 0;
    while at < pairs {
        // SAFETY: two words follow, because `at` is a multiple of 16 below `pairs`.
        let both = unsafe { load_two(from.wrapping_add(at)) };
        // SAFETY: as many words as `from` has, borrowed exclusively.
        unsafe { to.wrapping_add(at).cast::<__m128i>().write_unaligned(both) };
        at = at.wrapping_add(16);
    }
    if at < all {
        // SAFETY: one more word, which is aligned as all in `from`.
        let word = unsafe { &*from.wrapping_add(at).cast::<AtomicU64>() }.load(Relaxed);
        // SAFETY: as above.
        unsafe { to.wrapping_add(at).cast::<u64>().write_unaligned(word) };
    }
}

/// Copies as many words as the shorter side has.
#[cfg(not(all(target_arch = "x86_64", not(loom))))]
fn words_from_shared(from: &[AtomicU64], to: &mut [Word]) {
    for (from, to) in from.iter().zip(to) {
        *to = from.load(Relaxed).to_ne_bytes().map(MaybeUninit::new);
    }
}

/// Loads two words into a register, where the compiler keeps them until it knows their place.
///
/// # Safety
/// `from` can be read for 16 bytes. Other processes may write them meanwhile: see `movsb`.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
unsafe fn load_two(from: *const u8) -> __m128i {
    let both;
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "movups {both}, [{from}]",
            both = out(xmm_reg) both,
            from = in(reg) from,
            options(nostack, preserves_flags, readonly)
        );
    }
    both
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

    /// Fails if a long copy is one word short, or one word longer than the shorter side (each seen
    /// failing).
    #[test]
    fn a_copy_in_is_as_long_as_the_shorter_of_the_two() {
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
        }
    }

    /// Fails if a copy out is a byte short or long, leaves out the odd word, copies a pair as one
    /// word, or goes on although there are too few words (each seen failing).
    #[test]
    fn a_copy_out_has_all_bytes_or_none() {
        for len in (0..=40_usize).chain([1016, 1023, 1024, 1031, 4099]) {
            let byte = |n: usize| (n ^ n >> 8) as u8;
            let word = |n: usize| u64::from_ne_bytes(core::array::from_fn(|at| byte(8 * n + at)));
            let shared: Vec<_> = (0..len.div_ceil(8)).map(|n| AtomicU64::new(word(n))).collect();
            let mut to = vec![MaybeUninit::new(0xee); len + 1];
            let copied = from_shared(&shared, &mut to[..len]).unwrap();
            assert!(copied.iter().copied().eq((0..len).map(byte)), "{len}");
            let mut over = vec![0xee; len + 1];
            from_shared_over(&shared, &mut over[..len]);
            assert!(over.iter().copied().eq((0..len).map(byte).chain([0xee])), "{len}");
            if let [_, short @ ..] = &*shared {
                assert!(from_shared(short, &mut to[..len]).is_none(), "{len}");
            }
        }
    }
}

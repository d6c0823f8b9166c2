//! Prefetches cache lines that the handle writes soon.
#![cfg_attr(
    all(target_arch = "x86_64", not(loom)),
    expect(unsafe_code, reason = "a hint to the processor has no safe name")
)]

use crate::ring::arrays::Blocks;
use crate::ring::port::Port;
use crate::ring::position::Position;
use crate::ring::slot::{BlockId, SlotWord};
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// How many positions ahead a handle prefetches while that finds slots ready.
const FAR_AHEAD: u64 = 3;

impl Port<'_> {
    /// Prefetches a later slot and the block that is gained there, but only if the slot is already
    /// in the state in which that of `here` was `seen`. Until then the other side writes the slot
    /// and its block, and a prefetch would steal their cache lines. The next look is [`FAR_AHEAD`]
    /// after a hit, and one position ahead after a miss.
    #[inline(always)]
    pub(super) fn prefetch_ahead(&self, seen: SlotWord, here: Position) {
        let (slot, _) = self.ring.slots.at(here.plus(self.ahead.load(Relaxed)));
        // Relaxed: only a hint.
        let word = SlotWord::from_bits(slot.load(Relaxed));
        let next = if word.is_as(seen) {
            to_write(slot);
            self.ring.blocks.prefetch(word.block());
            FAR_AHEAD
        } else {
            1
        };
        self.ahead.store(next, Relaxed);
    }
}

impl Blocks<'_> {
    /// Prefetches the cache lines of a short message in block `id`.
    #[inline(always)]
    pub(super) fn prefetch(self, id: BlockId) {
        let (first, second) = self.lines(id);
        to_write(first);
        to_write_after(first, second);
    }
}

/// Prefetches the cache line of `word` for a write, if there is memory at that address.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
pub(crate) fn to_write(word: *const AtomicU64) {
    // SAFETY: a prefetch changes no memory, register or flag, and cannot fault at any address. It
    // is assembly, because the compiler replaces a prefetch for a write by one for a read unless
    // its target has the instruction. A processor without the instruction ignores it.
    unsafe {
        core::arch::asm!(
            "prefetchw [{word}]",
            word = in(reg) word.addr(),
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// The same of the line `bytes` after `word`, for which the processor adds up the address.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
fn to_write_after(word: *const AtomicU64, bytes: usize) {
    // SAFETY: as in `to_write`.
    unsafe {
        core::arch::asm!(
            "prefetchw [{word} + {bytes}]",
            word = in(reg) word.addr(),
            bytes = in(reg) bytes,
            options(nomem, nostack, preserves_flags)
        );
    }
}

#[cfg(not(all(target_arch = "x86_64", not(loom))))]
#[inline(always)]
pub(crate) fn to_write(_: *const AtomicU64) {}

#[cfg(not(all(target_arch = "x86_64", not(loom))))]
#[inline(always)]
fn to_write_after(_: *const AtomicU64, _: usize) {}

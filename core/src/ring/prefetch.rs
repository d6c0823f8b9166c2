//! Prefetches cache lines that the handle writes soon.
#![cfg_attr(
    all(target_arch = "x86_64", not(loom)),
    expect(unsafe_code, reason = "a hint to the processor has no safe name")
)]

use crate::ring::port::Port;
use crate::ring::position::Position;
use crate::ring::slot::{BlockId, SlotWord};
use crate::ring::slots::Ring;
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// How many positions ahead a handle prefetches at most.
const MOST_AHEAD: u64 = 3;

impl Ring<'_> {
    /// Prefetches a later slot and the block that is gained there, but only if the slot is already
    /// in the state in which that of `here` was `seen`. Until then the other side writes the slot
    /// and its block, and a prefetch would steal their cache lines. The distance grows by one after
    /// each hit, up to [`MOST_AHEAD`], and falls back to 1 after a miss.
    #[inline(always)]
    pub(super) fn prefetch_ahead(&self, port: &Port<'_>, seen: SlotWord, here: Position) {
        let ahead = port.ahead.load(Relaxed);
        let at = here.plus(ahead);
        let next = match self.load_at(at) {
            Ok((_, word)) if word.is_as(seen) => {
                self.prefetch_slot(at);
                self.prefetch_block(word.block());
                MOST_AHEAD.min(ahead.wrapping_add(1))
            }
            _ => 1,
        };
        port.ahead.store(next, Relaxed);
    }

    /// Prefetches the cache line of the slot of `at`.
    #[inline(always)]
    pub(crate) fn prefetch_slot(&self, at: Position) {
        to_write(self.slots, self.laps().index(at));
    }

    /// Prefetches the cache lines of a short message in block `id`.
    #[inline(always)]
    pub(super) fn prefetch_block(&self, id: BlockId) {
        const LINE: usize = 64 / size_of::<u64>();
        let stride = self.geometry.block_words();
        let from = id.index().wrapping_mul(stride);
        to_write(self.blocks, from);
        if stride > LINE {
            to_write(self.blocks, from.wrapping_add(LINE));
        }
    }
}

/// Prefetches the cache line of `words[at]` for a write. `at` may lie beyond the end.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
fn to_write(words: &[AtomicU64], at: usize) {
    let line = words.as_ptr().wrapping_add(at);
    // SAFETY: a prefetch changes no memory, register or flag, and cannot fault at any address. It
    // is assembly, because the compiler replaces a prefetch for a write by one for a read unless
    // its target has the instruction. A processor without the instruction ignores it.
    unsafe {
        core::arch::asm!("prefetchw [{line}]", line = in(reg) line, options(nostack, preserves_flags));
    }
}

#[cfg(not(all(target_arch = "x86_64", not(loom))))]
#[inline(always)]
fn to_write(_: &[AtomicU64], _: usize) {}

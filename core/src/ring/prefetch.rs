//! Asks for the lines that are written soon, so that they are on their way meanwhile.
#![cfg_attr(
    all(target_arch = "x86_64", not(loom)),
    expect(unsafe_code, reason = "a hint to the processor has no safe name")
)]

use crate::ring::port::Port;
use crate::ring::position::Position;
use crate::ring::slot::{BlockId, SlotWord};
use crate::ring::slots::Ring;
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// How many positions ahead, at most, a handle asks for the slot, and for the block that it will gain
/// there.
const MOST_AHEAD: u64 = 3;

impl Ring<'_> {
    /// Asks for the slot of a position after `here`, and for the block that is gained there, if the
    /// slot is by now as the one of `here` was when it was `seen`. One whose turn is not come yet is
    /// another's, who writes it, and its block: so who comes close to those it follows looks no farther
    /// than it looks next anyway, and who does not, farther each time.
    #[inline(always)]
    pub(super) fn look_ahead(&self, port: &Port<'_>, seen: SlotWord, here: Position) {
        let ahead = port.ahead.load(Relaxed);
        let at = here.plus(ahead);
        let next = match self.look_at(at) {
            Ok((_, word)) if word.is_as(seen) => {
                self.prefetch_slot(at);
                self.prefetch_block(word.block());
                MOST_AHEAD.min(ahead.wrapping_add(1))
            }
            _ => 1,
        };
        port.ahead.store(next, Relaxed);
    }

    /// Has the line fetched that the slot of `at` lies in.
    #[inline(always)]
    pub(crate) fn prefetch_slot(&self, at: Position) {
        to_write(self.slots, self.laps().index(at));
    }

    /// Has the lines fetched that a short message lies in.
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

/// The line that `words` have at `at`, or would have.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
fn to_write(words: &[AtomicU64], at: usize) {
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
fn to_write(_: &[AtomicU64], _: usize) {}

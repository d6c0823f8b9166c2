//! The limits: a cache line between two cores, memcpy, and the plain ring in its forms.
#![expect(unsafe_code, reason = "a ring of bytes in shared memory, and messages read as bytes")]

use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, fence};

use anyhow::Result;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::FromZeros;

use super::super::ends::{BATCH, Bytes, End, Many, Memfds, retry};
use super::super::peer::{Peer, names};
use super::super::spec::Workload::{Batch, Copy, Crowd, Oneway, Roundtrip};
use super::super::spec::{Shape, Spec};
use super::super::{crowd, pairs};
use crate::vyukov::Vyukov;
use crate::{Message, shared};

pub(crate) const PEERS: &[Peer] = &[
    Peer {
        name: names::CACHE_LINE,
        package: "rustix",
        does: &[(&[Roundtrip], pairs::processes::<CacheLine>)],
    },
    Peer {
        name: names::PLAIN_RING,
        package: "rustix",
        does: &[
            (&[Oneway, Roundtrip], pairs::processes::<Ring<true>>),
            (&[Batch], pairs::many_between::<Ring<true>>),
            (&[Crowd], crowd::processes::<Ring<true>>),
            (&[Copy], pairs::bytes_between::<BytesRing>),
        ],
    },
    Peer {
        name: names::PLAIN_RING_NO_FENCE,
        package: "rustix",
        does: &[
            (&[Oneway, Roundtrip], pairs::processes::<Ring<false>>),
            (&[Batch], pairs::many_between::<Ring<false>>),
            (&[Crowd], crowd::processes::<Ring<false>>),
        ],
    },
    Peer {
        name: "memcpy in and out, one thread",
        package: "rustix",
        does: &[(&[Copy], pairs::copies)],
    },
];

/// Two plain rings, with the fence that waking needs or without.
#[derive(Debug)]
struct Ring<const FENCE: bool> {
    there: &'static Vyukov<FENCE>,
    back: &'static Vyukov<FENCE>,
}

impl<const FENCE: bool> Memfds for Ring<FENCE> {
    fn memfd(_: &Spec) -> Result<OwnedFd> {
        Ok(shared::create::<Vyukov<FENCE>>()?)
    }

    fn over(there: OwnedFd, back: OwnedFd, _: &Spec) -> Result<Self> {
        Ok(Self { there: shared::map(there)?, back: shared::map(back)? })
    }
}

impl<const FENCE: bool> End for Ring<FENCE> {
    fn send(&mut self, message: &Message) {
        retry(|| self.there.try_push(message).then_some(()));
    }

    fn recv(&mut self) -> Message {
        retry(|| self.back.try_pop())
    }
}

/// It has no calls for many.
impl<const FENCE: bool> Many for Ring<FENCE> {
    fn send_many(&mut self, messages: &[Message]) {
        messages.iter().for_each(|message| self.send(message));
    }

    fn recv_many(&mut self, into: &mut Vec<Message>) {
        into.push(self.recv());
        into.extend(std::iter::from_fn(|| self.back.try_pop()).take(BATCH - 1));
    }
}

/// A message in one line and its turn in the next: what a round trip costs at the least.
#[derive(Debug, FromZeros)]
#[repr(C, align(128))]
struct Line {
    /// Seven words of the message, and how many there have been.
    words: [AtomicU64; 8],
}

/// One end of two lines. For round trips alone.
#[derive(Debug)]
struct CacheLine {
    there: &'static Line,
    back: &'static Line,
    sent: u64,
    received: u64,
}

impl Memfds for CacheLine {
    fn memfd(_: &Spec) -> Result<OwnedFd> {
        Ok(shared::create::<Line>()?)
    }

    fn over(there: OwnedFd, back: OwnedFd, _: &Spec) -> Result<Self> {
        Ok(Self { there: shared::map(there)?, back: shared::map(back)?, sent: 0, received: 0 })
    }
}

impl End for CacheLine {
    fn send(&mut self, message: &Message) {
        self.sent += 1;
        for (to, from) in self.there.words[..7].iter().zip(message) {
            to.store(*from, Relaxed);
        }
        self.there.words[7].store(self.sent, Release);
    }

    fn recv(&mut self) -> Message {
        self.received += 1;
        retry(|| (self.back.words[7].load(Acquire) == self.received).then_some(()));
        let words = &self.back.words;
        std::array::from_fn(|word| words[word.min(6)].load(Relaxed))
    }
}

/// The plain ring for messages of any one length: [`Vyukov`] with its numbers known at run time.
#[derive(Debug)]
struct BytesRing {
    there: Half,
    back: Half,
}

#[derive(Debug)]
struct Half {
    base: *mut u8,
    shape: Shape,
}

/// Positions at 0 and 128, the words of the sleepers at 256 and 384, slots from here.
const SLOTS: usize = 512;

impl Half {
    const PUSH: usize = 0;
    const POP: usize = 128;

    fn stride(shape: Shape) -> usize {
        (8 + shape.len).next_multiple_of(64)
    }

    fn size(shape: Shape) -> usize {
        SLOTS + shape.capacity * Self::stride(shape)
    }

    fn create(shape: Shape) -> Result<OwnedFd> {
        let fd = rustix::fs::memfd_create("parkline-bytes", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, Self::size(shape) as u64)?;
        Ok(fd)
    }

    fn open(fd: &OwnedFd, shape: Shape) -> Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a shared mapping at a place of the kernel's choice overlaps nothing.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), Self::size(shape), prot, MapFlags::SHARED, fd, 0)
        }?;
        Ok(Self { base: base.cast(), shape })
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: callers name offsets below `size`, where the mapping, never unmapped, has room.
        let word = unsafe { self.base.add(offset) }.cast::<AtomicU64>();
        // SAFETY: it is aligned to 64 bytes, and only ever accessed as an atomic.
        unsafe { &*word }
    }

    /// Claims the next slot if its turn has come; `full` is 1 for a pop. Returns the offset of the slot and
    /// the lap of the turn.
    fn claim(&self, counter: usize, full: u64) -> Option<(usize, u64)> {
        let mask = self.shape.capacity as u64 - 1;
        let counter = self.word(counter);
        let mut at = counter.load(Relaxed);
        loop {
            let (index, lap) = ((at & mask) as usize, at & !mask);
            let slot = SLOTS + index * Self::stride(self.shape);
            let turn = self.word(slot).load(Acquire);
            match turn.wrapping_sub(lap + full).cast_signed() {
                0 => match counter.compare_exchange_weak(at, at + 1, Relaxed, Relaxed) {
                    Ok(_) => return Some((slot, lap)),
                    Err(moved) => at = moved,
                },
                ..0 => return None,
                _ => at = counter.load(Relaxed),
            }
        }
    }

    fn pass(&self, slot: usize, turn: u64) {
        self.word(slot).store(turn, Release);
        fence(SeqCst);
        assert_eq!(self.word(256).load(Relaxed), 0, "no thread sleeps here");
    }

    fn payload(&self, slot: usize) -> *mut u8 {
        // SAFETY: behind the slot's turn there are `len` bytes.
        unsafe { self.base.add(slot + 8) }
    }

    fn try_push(&self, bytes: &[u8]) -> bool {
        assert_eq!(bytes.len(), self.shape.len);
        let Some((slot, lap)) = self.claim(Self::PUSH, 0) else { return false };
        // SAFETY: the slot is ours until we pass it on, and `bytes` is as long as its payload.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.payload(slot), bytes.len()) };
        self.pass(slot, lap + 1);
        true
    }

    fn try_pop(&self, bytes: &mut [u8]) -> bool {
        assert_eq!(bytes.len(), self.shape.len);
        let Some((slot, lap)) = self.claim(Self::POP, 1) else { return false };
        // SAFETY: the slot is ours until we pass it on, and `bytes` is as long as its payload.
        unsafe { ptr::copy_nonoverlapping(self.payload(slot), bytes.as_mut_ptr(), bytes.len()) };
        self.pass(slot, lap + self.shape.capacity as u64);
        true
    }
}

impl Memfds for BytesRing {
    fn memfd(spec: &Spec) -> Result<OwnedFd> {
        Half::create(spec.shape())
    }

    fn over(there: OwnedFd, back: OwnedFd, spec: &Spec) -> Result<Self> {
        let shape = spec.shape();
        Ok(Self { there: Half::open(&there, shape)?, back: Half::open(&back, shape)? })
    }
}

impl Bytes for BytesRing {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        retry(|| self.there.try_push(bytes).then_some(()));
        Ok(())
    }

    fn recv(&mut self, bytes: &mut [u8]) -> Result<()> {
        retry(|| self.back.try_pop(bytes).then_some(()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if a pop passes its slot on for the same lap (seen failing).
    #[test]
    fn a_full_ring_of_bytes_refuses_and_keeps_the_order() {
        let shape = Shape { capacity: 4, len: 24 };
        let ring = Half::open(&Half::create(shape).unwrap(), shape).unwrap();
        for lap in 0..3 {
            for n in 0..4 {
                assert!(ring.try_push(&[lap * 4 + n; 24]));
            }
            assert!(!ring.try_push(&[99; 24]), "full");
            let mut bytes = [0; 24];
            for n in 0..4 {
                assert!(ring.try_pop(&mut bytes));
                assert_eq!(bytes, [lap * 4 + n; 24]);
            }
            assert!(!ring.try_pop(&mut bytes), "empty");
        }
    }
}

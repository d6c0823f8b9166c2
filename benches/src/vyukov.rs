//! The yardstick: Dmitry Vyukov's bounded queue, plain, in shared memory.
//!
//! It is a queue without Parkline's promises: a process that is killed between claim and publish stops
//! all processes behind it, and a peer's memory is believed. It pays for one thing that the textbook's
//! queue does not have: after a push and a pop it loads the number of sleepers, behind a full fence.
//! Every queue that can park needs that; without `FENCE` it is the textbook's.
//!
//! A turn counts from the slot's own index, so that a ring of zeros is an empty ring.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [publish] | push: turn = full | pop: reads turn | the message |
//! | [recycle] | pop: turn = next lap | push: reads turn | the empty slot |
#![allow(rustdoc::broken_intra_doc_links, reason = "the tags of edges look like links")]
#![expect(unsafe_code, reason = "plain reads and writes of messages, as in the textbook")]

use std::cell::UnsafeCell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

use zerocopy::FromZeros;

use crate::{CAPACITY, Message};

const _: () = assert!(CAPACITY.is_power_of_two());
const MASK: u64 = CAPACITY as u64 - 1;

/// A bounded queue of many producers and many consumers.
#[derive(Debug, FromZeros)]
#[repr(C)]
pub struct Vyukov<const FENCE: bool = true> {
    push_at: Line<AtomicU64>,
    pop_at: Line<AtomicU64>,
    pop_sleepers: Line<AtomicU32>,
    push_sleepers: Line<AtomicU32>,
    slots: [Slot; CAPACITY],
}

#[derive(Debug, FromZeros)]
#[repr(C, align(128))]
struct Line<T>(T);

#[derive(Debug, FromZeros)]
#[repr(C, align(64))]
struct Slot {
    /// `lap * CAPACITY` when it waits for the push of that lap, one more when it waits for the pop.
    turn: AtomicU64,
    message: UnsafeCell<Message>,
}

// SAFETY: a message is touched only by the thread that won the claim of its slot's turn, until the
// thread passes the turn on.
unsafe impl<const FENCE: bool> Sync for Vyukov<FENCE> {}

impl<const FENCE: bool> Vyukov<FENCE> {
    /// Whether there was room for `message`.
    #[inline]
    pub fn try_push(&self, message: &Message) -> bool {
        let Some(at) = claim(&self.push_at.0, |at| (self.turn(at), lap(at))) else { return false };
        let slot = self.slot(at);
        // SAFETY: we won the claim while it was this position's turn to be pushed: no other thread
        // touches the message until [publish].
        unsafe { slot.message.get().write(*message) };
        slot.turn.store(lap(at) + 1, Release); // [publish]
        if FENCE {
            wake(&self.pop_sleepers.0);
        }
        true
    }

    /// The oldest message, if there is one.
    #[inline]
    pub fn try_pop(&self) -> Option<Message> {
        let at = claim(&self.pop_at.0, |at| (self.turn(at), lap(at) + 1))?;
        let slot = self.slot(at);
        // SAFETY: we won the claim while it was this position's turn to be popped: no other thread
        // touches the message until [recycle].
        let message = unsafe { slot.message.get().read() };
        slot.turn.store(lap(at) + CAPACITY as u64, Release); // [recycle]
        if FENCE {
            wake(&self.push_sleepers.0);
        }
        Some(message)
    }

    #[inline]
    fn turn(&self, at: u64) -> u64 {
        self.slot(at).turn.load(Acquire) // [publish], [recycle]
    }

    #[inline]
    fn slot(&self, at: u64) -> &Slot {
        &self.slots[(at & MASK) as usize]
    }
}

/// Claims the next position of `counter`, if it is its turn. `turns` gives a slot's turn and the
/// one to wait for.
#[inline]
fn claim(counter: &AtomicU64, turns: impl Fn(u64) -> (u64, u64)) -> Option<u64> {
    let mut at = counter.load(Relaxed);
    loop {
        let (found, wanted) = turns(at);
        match found.wrapping_sub(wanted).cast_signed() {
            // Relaxed: the turns carry everything.
            0 => match counter.compare_exchange_weak(at, at + 1, Relaxed, Relaxed) {
                Ok(_) => return Some(at),
                Err(moved) => at = moved,
            },
            ..0 => return None,
            _ => at = counter.load(Relaxed),
        }
    }
}

#[inline]
fn lap(at: u64) -> u64 {
    at & !MASK
}

/// What every queue with sleepers pays after a change. This one has no sleepers.
#[inline]
fn wake(sleepers: &AtomicU32) {
    fence(SeqCst);
    if sleepers.load(Relaxed) != 0 {
        no_sleepers_here();
    }
}

#[cold]
fn no_sleepers_here() {
    unreachable!("nobody announces itself at the yardstick");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared;
    use std::sync::atomic::AtomicUsize;

    fn ring() -> &'static Vyukov {
        shared::map(shared::create::<Vyukov>().unwrap()).unwrap()
    }

    #[test]
    fn a_full_ring_refuses_and_keeps_the_order() {
        let ring = ring();
        for lap in 0..3 {
            for n in 0..CAPACITY as u64 {
                assert!(ring.try_push(&[lap + n; 8]));
            }
            assert!(!ring.try_push(&[0; 8]), "full");
            for n in 0..CAPACITY as u64 {
                assert_eq!(ring.try_pop(), Some([lap + n; 8]));
            }
            assert_eq!(ring.try_pop(), None);
        }
    }

    #[test]
    fn many_threads_get_each_message_once_and_whole() {
        const EACH: u64 = 20_000;
        const SENDERS: u64 = 2;
        let ring = ring();
        let (taken, sum) = (AtomicUsize::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for sender in 0..SENDERS {
                scope.spawn(move || {
                    for n in 0..EACH {
                        while !ring.try_push(&[sender * EACH + n; 8]) {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = [None; SENDERS as usize];
                    while taken.load(Relaxed) < (SENDERS * EACH) as usize {
                        let Some(message) = ring.try_pop() else {
                            std::thread::yield_now();
                            continue;
                        };
                        assert_eq!(message, [message[0]; 8], "torn");
                        let last = &mut last[(message[0] / EACH) as usize];
                        assert!(*last < Some(message[0]), "out of order");
                        *last = Some(message[0]);
                        sum.fetch_add(message[0], Relaxed);
                        taken.fetch_add(1, Relaxed);
                    }
                });
            }
        });
        let all = SENDERS * EACH;
        assert_eq!(sum.into_inner(), all * (all - 1) / 2);
    }
}

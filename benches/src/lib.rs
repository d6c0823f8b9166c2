//! Parkline measured beside its alternatives, in the same run on the same machine.
//!
//! Everything measured is an [`End`]: it sends and receives 64-byte messages. The far end is
//! another process (for `ArrayQueue` another thread) that runs [`answer`]: it takes messages and
//! sends back the ones that ask for it. So one far end serves both measurements:
//!
//! * [`round_trips`]: every message asks, and we wait for each answer;
//! * [`stream`]: only the last one asks, so the clock stops when all have arrived.
//!
//! Numbers from one run are compared with each other and with nothing else.

pub mod async_ends;
pub mod compare;
pub mod ends;
pub mod futex;
pub mod machine;
pub mod peer;
pub mod shared;
pub mod vyukov;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// What is sent: 64 bytes, copied in and copied out by everyone. Word 0 tells the far end what to
/// do.
pub type Message = [u64; 8];

/// Messages in flight, for every queue alike.
pub const CAPACITY: usize = 1024;

/// What went wrong before anything was measured.
pub type Error = Box<dyn std::error::Error>;

const PLAIN: Message = [0; 8];
const ASK: Message = [1; 8];
const END: Message = [2; 8];

/// One end of a pair of queues: there and back.
pub trait End {
    /// Sends, waiting in its own way while there is no room.
    fn send(&mut self, message: &Message);
    /// Receives, waiting in its own way while there is nothing.
    fn recv(&mut self) -> Message;
}

/// An end with a far end that can be in another process.
pub trait Between: End + Sized {
    /// What a table calls it. The far end knows itself by this name.
    const NAME: &str;

    /// One direction, as a descriptor for both processes.
    ///
    /// # Errors
    /// When the kernel refuses the memory.
    fn create() -> Result<OwnedFd, Error>;

    /// The end that sends `there` and receives what comes `back`.
    ///
    /// # Errors
    /// When a descriptor is not one of [`create`](Self::create)'s.
    fn open(there: OwnedFd, back: OwnedFd) -> Result<Self, Error>;
}

/// The far end: sends back what asks for it, until it is told to end.
pub fn answer(end: &mut impl End) {
    loop {
        match end.recv() {
            END => return,
            ASK => end.send(&ASK),
            _ => {}
        }
    }
}

/// Tells the far end to end.
pub fn finish(end: &mut impl End) {
    end.send(&END);
}

/// The time of `count` messages there and back, one at a time.
pub fn round_trips(end: &mut impl End, count: u64) -> Duration {
    warm_up(end);
    let start = Instant::now();
    for _ in 0..count {
        end.send(&ASK);
        end.recv();
    }
    start.elapsed()
}

/// The time until `count` messages in a row have arrived.
pub fn stream(end: &mut impl End, count: u64) -> Duration {
    warm_up(end);
    let start = Instant::now();
    for _ in 1..count {
        end.send(&PLAIN);
    }
    end.send(&ASK);
    end.recv();
    start.elapsed()
}

/// Until both sides run.
fn warm_up(end: &mut impl End) {
    for _ in 0..64 {
        end.send(&ASK);
        end.recv();
    }
}

//! A bounded multi-producer multi-consumer queue between the processes of one Linux host, that no
//! killed or stopped process can block. This crate is the queue with calls that try and calls that
//! block a thread; `parkline-uring` adds async.
//!
//! ```
//! use parkline_core::Queue;
//!
//! let queue = Queue::builder().capacity(16).max_message(64).create()?;
//! // The descriptor goes to another process by inheritance or over a Unix socket; here it stays.
//! let fd = queue.try_clone_fd()?;
//! let worker = std::thread::spawn(move || {
//!     let mut jobs = Queue::open(fd).unwrap().receiver().unwrap();
//!     while let Ok(job) = jobs.recv_blocking() {
//!         println!("{}", String::from_utf8_lossy(&job));
//!     }
//! });
//! queue.sender()?.send_blocking(b"hello")?;
//! queue.close()?;
//! worker.join().unwrap();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Limits
//! Linux on 64-bit machines, with `/proc` mounted. A message is at most 1 GiB, a queue at most
//! 524,288 messages. One shared segment gives no integrity between its writers: a peer that
//! scribbles over it can garble, drop or repeat messages, though it cannot make safe code here do
//! anything undefined. Whoever opens a queue trusts its peers with the messages; where that is too
//! much, give each peer a queue of its own.

// What another process wrote cannot make us panic: nothing here panics by itself.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]
#![cfg_attr(loom, allow(dead_code, reason = "a model has no segment, and so no header, no types"))]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("Parkline needs 64-bit atomics and addresses");

mod audit;
mod census;
mod control;
mod copy;
mod driven;
mod error;
mod finding;
mod flag;
mod frame;
mod gate;
mod geometry;
mod heap;
mod join;
mod line;
mod news;
mod port;
mod position;
mod prefetch;
mod remedy;
mod ring;
mod slot;
mod stats;
mod sync;
mod wait;
mod waitqueue;

#[cfg(not(loom))]
mod attachment;
#[cfg(not(loom))]
mod claim;
#[cfg(not(loom))]
mod companion;
#[cfg(not(loom))]
mod dead_letters;
#[cfg(not(loom))]
mod descriptor;
#[cfg(not(loom))]
mod event;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod futex;
#[cfg(not(loom))]
mod gone;
#[cfg(kill_points)]
mod kill_points;
#[cfg(not(loom))]
mod lease;
#[cfg(not(loom))]
mod locks;
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
mod message;
#[cfg(not(loom))]
mod open_options;
#[cfg(not(loom))]
mod owed;
#[cfg(not(loom))]
mod pack;
#[cfg(not(loom))]
mod queue;
#[cfg(not(loom))]
mod receiver;
#[cfg(not(loom))]
mod recovery;
#[cfg(not(loom))]
mod segment;
#[cfg(not(loom))]
mod semaphore;
#[cfg(not(loom))]
mod sender;
#[cfg(not(loom))]
mod side;
#[cfg(not(loom))]
mod spin;

pub use error::*;
pub use frame::Frame;

/// The seams for those who drive the wait: reactors, models, fuzzers.
pub mod driver {
    pub use crate::census::Census;
    #[cfg(not(loom))]
    pub use crate::census::census;
    #[cfg(not(loom))]
    pub use crate::dead_letters::DeferredLetters;
    pub use crate::driven::Driven;
    #[cfg(not(loom))]
    pub use crate::event::Expecting;
    pub use crate::flag::{Flag, Since};
    #[cfg(not(loom))]
    pub use crate::fork::{ForkGuard, ForksHeld, hold_forks};
    pub use crate::gate::{Gate, Kernel, Sleep, Wake};
    pub use crate::geometry::VERSION;
    pub use crate::heap::{HeapJoin, HeapPort, HeapReturns, HeapRing, decode_block};
    #[cfg(kill_points)]
    pub use crate::kill_points::{KillPoint, arm, disarm};
    pub use crate::news::News;
    #[cfg(not(loom))]
    pub use crate::owed::{Owed, Until, on_owed};
    #[cfg(not(loom))]
    pub use crate::queue::Joining;
    #[cfg(not(loom))]
    pub use crate::side::{Side, SideKey, WaitsFor};
    #[cfg(not(loom))]
    pub use crate::spin::Spin;
    #[cfg(not(loom))]
    pub use crate::sync::kill_point;
    #[cfg(loom)]
    pub use crate::sync::{Act, AtomicU32, Step, Stopped, steps_of, stop_after};
    pub use crate::wait::{Patience, wait_at};
    pub use crate::waitqueue::{Left, Place, WaitQueue};
}

#[cfg(not(loom))]
pub use self::{
    dead_letters::DeadLetter,
    event::Event,
    lease::Lease,
    message::Message,
    open_options::OpenOptions,
    pack::{Messages, Pack},
    queue::{Builder, Queue},
    receiver::Receiver,
    recovery::Recovered,
    semaphore::{Permit, Semaphore},
    sender::{Reservation, Sender},
    stats::Stats,
};

//! A bounded multi-producer multi-consumer queue between the processes of one Linux host, which no
//! killed or stopped process can block. This crate has the queue with non-blocking calls, and calls
//! that block a thread; `parkline-uring` adds async.
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
//!         assert_eq!(job, b"hello");
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
//! overwrites it can garble, drop or repeat messages, but cannot make safe code here do anything
//! undefined. A process that opens a queue trusts its peers with the messages. If that is too much,
//! give each peer a queue of its own.

// Nothing that another process writes can make us panic, so nothing here may panic.
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

mod api;
mod error;
#[cfg(kill_points)]
mod kill_points;
mod process;
mod remedy;
mod ring;
mod sync;
mod wait;

pub use error::*;
pub use ring::{frame::Frame, stats::Stats};

/// The interfaces for code that drives waits: `parkline-uring`, bindings, models and tests.
///
/// It is no promise: any release may change it.
#[doc(hidden)]
pub mod driver {
    #[cfg(all(feature = "census", not(loom)))]
    pub use crate::api::census::census;
    #[cfg(kill_points)]
    pub use crate::kill_points::{KillPoint, arm, disarm};
    #[cfg(any(loom, feature = "census"))]
    pub use crate::ring::census::Census;
    #[cfg(fuzzing)]
    pub use crate::ring::frame::decode_block;
    pub use crate::ring::geometry::VERSION;
    #[cfg(loom)]
    pub use crate::ring::heap::{HeapJoin, HeapPort, HeapReturns, HeapRing};
    #[cfg(loom)]
    pub use crate::sync::{Act, AtomicU32, Step, Stopped, steps_of, stop_after};
    pub use crate::wait::{
        driven::Driven,
        flag::{Flag, Since},
        gate::{Gate, Kernel, Sleep, Wake},
        news::News,
        spin::Spin,
        tasks::{Left, Place, WaitQueue},
        thread::{Patience, wait_at},
    };
    #[cfg(not(loom))]
    pub use crate::{
        api::event::Expecting,
        api::snapshot::Snapshot,
        process::fork::{ForkGuard, ForksHeld, hold_forks},
        sync::kill_point,
    };
    pub use crate::{
        api::{dead_letters::DeferredLetters, queue::Joining},
        process::{
            owed_wait::{OwedWait, Until, on_owed},
            side::{Side, SideKey, WaitsFor},
        },
    };
}

pub use self::api::{
    dead_letters::DeadLetter,
    lease::Lease,
    message::Message,
    pack::{Messages, Pack},
    queue::{Builder, Queue},
    received::Received,
    receiver::Receiver,
    sender::{Reservation, Sender},
};
#[cfg(not(loom))]
pub use self::{
    api::{
        event::Event,
        open_options::OpenOptions,
        semaphore::{Permit, Semaphore},
    },
    process::recovery::Recovered,
};

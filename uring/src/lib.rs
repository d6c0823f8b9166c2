//! Parkline for async programs: tasks of any process wait on a shared queue, and while they wait
//! they cost no thread and no polling. They park on a futex through io_uring; the calls themselves
//! are `parkline-core`'s, re-exported here.
//!
//! ```
//! use parkline_uring::{AsyncReceiver, AsyncSender, Queue, block_on};
//!
//! let queue = Queue::builder().capacity(16).create()?;
//! let fd = queue.try_clone_fd()?; // to another process, or as here to a thread
//! let worker = std::thread::spawn(move || {
//!     let mut jobs = Queue::open(fd).unwrap().receiver().unwrap();
//!     block_on(async { while let Ok(job) = jobs.recv().await { assert_eq!(job, b"hello") } });
//! });
//! block_on(queue.sender()?.send(b"hello"))?;
//! queue.close()?;
//! worker.join().unwrap();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where tasks wait
//! | polled in | waits in |
//! |---|---|
//! | a tokio runtime of any flavour (feature `tokio`), tokio-uring's too | an io_uring that the runtime polls |
//! | [`block_on`] | the calling thread's own io_uring |
//! | an event loop that drives a `driver::LoopRing`, as that of the Python package | that ring |
//! | any other executor | one helper thread of the process |
//! | a tokio runtime without `enable_io` | the same helper thread; a `tracing` warning says so |
//! | anything, where io_uring is refused | the same helper thread; [`backend`] and a `tracing` warning say so |
//! | anything, where no thread is to be had either | nowhere: the task attempts again every 16 ms; a `tracing` error says so once |
//!
//! No runtime needs `enable_time`: it keeps the thread free between the attempts of the last row. tokio
//! reports by a panic alone that a runtime lacks I/O. This crate catches that panic, the message of which
//! is printed, and provokes none in a process without any epoll descriptor. A program that aborts on panics and has a runtime with I/O needs `enable_io` in
//! each runtime that waits here.
//!
//! `PARKLINE_BACKEND=futex` in the environment asks for the helper thread.
//!
//! # Requirements
//! Linux 6.7 for the futex operations of io_uring. Everything works without them, by the helper
//! thread.

mod backend;
mod block_on;
mod current;
mod engine;
mod event;
mod event_loop;
mod join;
mod lock;
mod owed_driver;
mod pause;
mod peers;
mod pidfds;
mod reactor;
mod receiver;
#[cfg(test)]
#[path = "../../core/tests/required/mod.rs"]
mod required;
mod semaphore;
mod sender;
mod shared;
mod spin;
mod timers;
#[cfg(feature = "tokio")]
mod tokio;
mod wait;
mod waiters;
mod waiting;

/// The interfaces for bindings: foreign event loops, and waits of calls that this crate does not have.
///
/// It is no promise: any release may change it.
#[doc(hidden)]
pub mod driver {
    pub use crate::event_loop::{LoopRing, within_timer};
    pub use crate::timers::LoopTimer;
    pub use crate::wait::{wait, wait_where};
    pub use crate::waiting::Waits;
}

pub use backend::{Backend, Unavailable, backend, try_io_uring};
pub use block_on::block_on;
pub use event::AsyncEvent;
pub use join::AsyncJoin;
pub use parkline_core::{
    AttachError, Builder, Corrupt, CreateError, DeadLetter, Event, Fault, JoinTimeoutError, Lease,
    Message, Messages, OpenError, OpenOptions, Pack, Permit, Queue, Received, Receiver, Recovered,
    RecvError, RecvTimeoutError, Reservation, Semaphore, SendError, SendTimeoutError, Sender,
    Stats, TryRecvError, TrySendError, WaitTimeoutError,
};
pub use receiver::AsyncReceiver;
pub use semaphore::AsyncSemaphore;
pub use sender::{AsyncCommit, AsyncPackSender, AsyncReserve, AsyncSender};
pub use shared::{Handle, Locked, Shared};

/// Runs the programs of a page.
#[cfg(doctest)]
#[doc = include_str!("../../docs/stopping-a-worker.md")]
struct StoppingAWorker;

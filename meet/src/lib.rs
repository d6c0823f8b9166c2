//! Parkline by name: how a queue, an event or a semaphore gets into programs that did not start
//! each other, without `unsafe` and without descriptor passing of their own.
//!
//! One program serves a queue, the other connects to it:
//!
//! ```
//! # let directory = tempfile::tempdir()?;
//! # let jobs_name = directory.path().join("jobs").display().to_string();
//! use parkline_core::Queue;
//! use parkline_meet::{connect, serve};
//!
//! # let in_the_docs = r#"
//! let jobs_name = "jobs"; // $XDG_RUNTIME_DIR/parkline/jobs
//! # "#;
//! // The one program:
//! let queue = Queue::builder().capacity(64).create()?;
//! let keeper = serve(&jobs_name, &queue)?; // until it is dropped
//! queue.sender()?.send_blocking(b"hello")?;
//!
//! // The other program:
//! # std::thread::spawn(move || {
//! let jobs: Queue = connect(&jobs_name)?;
//! assert_eq!(jobs.receiver()?.recv_blocking()?, b"hello");
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! # }).join().unwrap().unwrap();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | you have | use |
//! |---|---|
//! | two programs and a name | [`serve`] and [`connect`]; [`Connect::wait`] if the client may be first |
//! | several equal programs, any of which may be first and may end | [`connect_or_serve`] |
//! | a client that serves on if the server dies | [`Connect::open_as_heir`] |
//! | a Unix socket between the two | [`Meet::send_over`] and [`Meet::receive_over`] |
//! | a program that starts the other | [`Meet::pass_to`] and [`Meet::from_env`] |
//! | a systemd service whose queue outlives its restarts | [`systemd::store`] and [`systemd::stored`] |
//!
//! The server does not take part in the queue: its thread or task sleeps until a client connects.
//! The queue lives as long as one process has it. All calls work for
//! [`Queue`](parkline_core::Queue), [`Event`](parkline_core::Event) and
//! [`Semaphore`](parkline_core::Semaphore) alike.
//!
//! With the feature `tokio` the calls that wait have variants that end with `_async`.
//!
//! `docs/meeting.md` in the repository says how it works, what it needs in containers, and what a
//! stranger can do.

#![forbid(unsafe_code)]

mod call;
mod connect;
mod error;
mod keeper;
mod keeping;
mod lock;
mod meet;
mod object;
mod pass;
mod patience;
mod place;
mod private;
mod record;
mod serve;
pub mod systemd;

/// What most programs use: `use parkline_meet::prelude::*`.
pub mod prelude {
    pub use crate::{CommandExt, Connect, Keeper, Meet, MeetError, Serve};
}

#[cfg(feature = "tokio")]
pub use connect::connect_or_serve_async;
pub use connect::{Connect, connect, connect_or_serve};
pub use error::MeetError;
pub use keeper::Keeper;
pub use meet::{CommandExt, Meet};
pub use object::Object;
pub use serve::{Serve, serve};

/// Compiles the program of a page.
#[cfg(doctest)]
#[doc = include_str!("../../docs/meeting.md")]
struct MeetingByName;

//! The engines, which wait in the kernel. A reactor has one of them.
//!
//! | engine | tasks | what waits in the kernel |
//! |---|---|---|
//! | [`RuntimeRing`] | of a tokio runtime or an event loop | the runtime: the ring's descriptor is in its poller, one task drains it |
//! | [`ThreadRing`] | of a thread in [`block_on`](crate::block_on) | the thread, in one `io_uring_enter` |
//! | [`Helper`] | all others, and all tasks without io_uring | one thread of the process, in `futex_waitv` |

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::engine::futex::FutexWait;
use crate::engine::helper::Helper;
use crate::engine::of_runtime::RuntimeRing;
use crate::engine::of_thread::ThreadRing;
use crate::engine::uring::Completion;
use crate::pidfds::Peer;
use crate::waiters::Waiters;

pub(crate) mod futex;
pub(crate) mod helper;
pub(crate) mod of_runtime;
pub(crate) mod of_thread;
pub(crate) mod unpark;
pub(crate) mod uring;

#[derive(Debug)]
pub(crate) enum Engine {
    OfRuntime(RuntimeRing),
    OfThread(ThreadRing),
    Helper(Helper),
}

impl Engine {
    pub(crate) fn arm(&self, wait: FutexWait) -> io::Result<()> {
        match self {
            Self::OfRuntime(ring) => ring.arm(wait),
            Self::OfThread(ring) => ring.arm(wait),
            Self::Helper(helper) => {
                helper.arm(wait);
                Ok(())
            }
        }
    }

    /// Ends the kernel wait of `waiters`, of which none is left.
    pub(crate) fn disarm(&self, waiters: &Arc<Waiters>) -> io::Result<Vec<Completion>> {
        match self {
            Self::OfRuntime(ring) => Ok(ring.disarm(waiters)),
            Self::OfThread(ring) => ring.disarm(waiters),
            // Its thread ends the waits of those that have no task.
            Self::Helper(helper) => {
                helper.interrupt();
                Ok(Vec::new())
            }
        }
    }

    /// Begins to poll for the end of a process. Returns the id of the poll.
    pub(crate) fn poll_peer(&self, peer: &Arc<Peer>) -> io::Result<u64> {
        match self {
            Self::OfRuntime(ring) => ring.poll_peer(peer),
            Self::OfThread(ring) => ring.poll_peer(peer),
            Self::Helper(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Cancels a poll. `false` on a thread that is not the owner of the ring: the owner cancels it later.
    pub(crate) fn cancel_poll(&self, id: u64) -> bool {
        match self {
            Self::OfRuntime(ring) => ring.cancel_poll(id),
            Self::OfThread(ring) => ring.cancel_poll(id),
            Self::Helper(_) => true,
        }
    }

    /// Has the engine wake at `next`, or earlier.
    pub(crate) fn keep_time(&self, next: Instant) -> io::Result<()> {
        match self {
            Self::OfRuntime(ring) => return ring.keep_time(next),
            Self::OfThread(ring) => ring.keep_time(),
            Self::Helper(helper) => helper.interrupt(),
        }
        Ok(())
    }

    pub(crate) fn shut_down(&self) -> Vec<Completion> {
        match self {
            Self::OfRuntime(ring) => ring.shut_down(),
            Self::OfThread(ring) => ring.shut_down(),
            Self::Helper(_) => Vec::new(),
        }
    }
}

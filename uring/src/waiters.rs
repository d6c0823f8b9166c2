//! The tasks of one reactor that wait at one side of one handle, and the kernel wait that they share.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use parkline_core::driver::{Side, WaitQueue};

/// Where tasks wait: their queue, and what their kernel wait needs. The reactor acts on it.
#[derive(Debug)]
pub(crate) struct Waiters {
    pub(crate) queue: WaitQueue,
    pub(crate) side: Side,
    /// The id of the kernel wait in its ring, for the cancel. Only a thread that may submit to the ring
    /// stores it.
    pub(crate) wait: AtomicU64,
    /// How many handles had arrived when the reactor last searched for peers of the queue. `None` if it
    /// has to search even if none arrives. All waiters of the queue share it, and it outlives them.
    pub(crate) arrivals: Arc<Mutex<Option<u32>>>,
}

impl Waiters {
    pub(crate) fn new(side: Side, arrivals: Arc<Mutex<Option<u32>>>) -> Self {
        Self { queue: WaitQueue::new(), side, wait: AtomicU64::new(0), arrivals }
    }
}

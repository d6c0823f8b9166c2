//! Barriers (`membarrier`) that replace a fence in each acknowledgement: see `ring/join.rs`.

use rustix::thread::{MembarrierCommand, membarrier};

#[cfg(test)]
thread_local! {
    /// How many calls the thread made.
    static CALLS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Registers this process for the barriers of waiters. One call would do; it is cheap.
pub(crate) fn let_joiners_order_us() {
    #[cfg(test)]
    CALLS.set(CALLS.get() + 1);
    // If it is refused, waiters still have their watchdog.
    let _ = membarrier(MembarrierCommand::RegisterGlobalExpedited);
}

/// Puts a barrier into every thread of every attached process. An acknowledgement is either visible
/// after this call, or its thread loads the gate after the barrier, and sees the waiter.
pub(crate) fn order_acknowledgements() {
    #[cfg(test)]
    CALLS.set(CALLS.get() + 1);
    // If it is refused, waiters still have their watchdog.
    let _ = membarrier(MembarrierCommand::GlobalExpedited);
}

#[cfg(all(test, not(any(loom, kill_points))))]
mod tests {
    use std::ops::ControlFlow;

    use super::CALLS;
    use crate::driver::WaitsFor;
    use crate::{Queue, Receiver};

    /// How many calls `act` makes.
    fn calls(act: impl FnOnce()) -> u32 {
        let before = CALLS.get();
        act();
        CALLS.get() - before
    }

    /// Fails if a new handle does not register its process for the barriers of others (seen
    /// failing).
    #[test]
    fn a_new_handle_lets_joiners_order_its_process() {
        let queue = Queue::builder().create().unwrap();
        assert_eq!(calls(|| drop(queue.sender().unwrap())), 1);
        assert_eq!(calls(|| drop(queue.receiver().unwrap())), 1);
    }

    /// On x86 a missing barrier mostly stays hidden: a store is mostly visible before a later load
    /// of another thread. So this counts the calls.
    ///
    /// Fails if a join, a wait for a lease, or a wait at the end of a closed queue attempts without
    /// a barrier (each seen failing).
    #[test]
    fn each_look_for_an_acknowledgement_has_a_barrier() {
        let queue = Queue::builder().leases(1).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.try_send(b"job").unwrap();
        let mut joining = queue.joining();
        assert_eq!(calls(|| assert!(joining.attempt().is_none())), 1);
        let job = receiver.try_lease().unwrap();
        let side = receiver.side_for(WaitsFor::Lease);
        assert_eq!(calls(|| side.order()), 1);
        queue.close().unwrap();
        let mut other = queue.receiver().unwrap();
        let waits = || {
            let waits = other.answer(Receiver::try_recv);
            assert_eq!(waits, ControlFlow::Continue(WaitsFor::Message));
        };
        assert_eq!(calls(waits), 1);
        job.ack();
    }
}

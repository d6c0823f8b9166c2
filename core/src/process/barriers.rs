//! The barriers that stand in for a fence of each acknowledgement: see `ring/join.rs`.

use rustix::thread::{MembarrierCommand, membarrier};

#[cfg(test)]
thread_local! {
    /// The calls that the thread made.
    static CALLS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Has the barriers of joiners reach this process. Once would do; it is quick.
pub(crate) fn let_joiners_order_us() {
    #[cfg(test)]
    CALLS.set(CALLS.get() + 1);
    // Where it is refused, joiners have their watchdog.
    let _ = membarrier(MembarrierCommand::RegisterGlobalExpedited);
}

/// Orders every acknowledgement of every attached process before this call, or its look at the
/// gate after.
pub(crate) fn order_acknowledgements() {
    #[cfg(test)]
    CALLS.set(CALLS.get() + 1);
    // As above.
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

    /// Fails if a handle does not have the barriers of others reach its process (seen failing).
    #[test]
    fn a_new_handle_lets_joiners_order_its_process() {
        let queue = Queue::builder().create().unwrap();
        assert_eq!(calls(|| drop(queue.sender().unwrap())), 1);
        assert_eq!(calls(|| drop(queue.receiver().unwrap())), 1);
    }

    /// x86 orders a store before a later load of another thread often enough to hide a barrier that is
    /// missing.
    ///
    /// Fails if a join, a wait for a lease, or a wait at the end of a closed queue looks without a
    /// barrier (each seen failing).
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

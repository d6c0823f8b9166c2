//! The futures of the waiting calls.

use std::ops::ControlFlow;
use std::time::Instant;

use crate::owed_driver::drive_owed;
use crate::waiting::{Waiting, Waits};

/// As [`wait_where`], for a call that always waits for the same.
pub fn wait<H: Waits, T>(
    handle: &mut H,
    deadline: Option<Instant>,
    mut attempt: impl FnMut(&mut H) -> Option<T>,
) -> impl Future<Output = Option<T>> {
    wait_where(handle, deadline, move |it| {
        attempt(it).map_or(ControlFlow::Continue(()), ControlFlow::Break)
    })
}

/// Calls `attempt` until it answers. In between it waits for what the attempt says that it waits for.
/// `None` when the deadline has passed. Cancel-safe if `attempt` does nothing unless it answers.
///
/// No `async fn`: that would keep its arguments twice, and ten thousand tasks may wait.
pub fn wait_where<W: Copy + PartialEq, H: Waits<W>, T>(
    handle: &mut H,
    deadline: Option<Instant>,
    mut attempt: impl FnMut(&mut H) -> ControlFlow<T, W>,
) -> impl Future<Output = Option<T>> {
    drive_owed();
    let mut waiting = Waiting::new(deadline);
    std::future::poll_fn(move |cx| {
        #[cfg(feature = "tokio")]
        let budget = std::task::ready!(crate::tokio::take_budget(cx, &mut waiting.has_yielded));
        let polled = waiting.poll(cx, handle, &mut attempt);
        #[cfg(feature = "tokio")]
        if let Some(budget) = budget.filter(|_| polled.is_ready()) {
            budget.made_progress();
        }
        polled
    })
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use parkline_core::Queue;

    use crate::{AsyncReceiver, AsyncSender};

    /// Fails if a call keeps its arguments more than once, as an `async fn` does (seen failing): ten
    /// thousand tasks may wait.
    #[test]
    fn a_task_that_waits_is_small() {
        let queue = Queue::builder().create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        assert!(size_of_val(&receiver.recv()) <= 96);
        assert!(size_of_val(&sender.send(b"message")) <= 112);
    }
}

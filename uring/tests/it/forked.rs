//! A forked child waits by itself, not in what it inherited.
#![expect(unsafe_code, reason = "forks")]

use std::time::Duration;

use parkline_uring::{AsyncReceiver, Queue, RecvTimeoutError, block_on};

use crate::runtimes::current_thread;

/// Runs `body` in a forked child; whether it came to its end.
fn in_a_child(body: impl FnOnce()) -> bool {
    // SAFETY: the child calls nothing that another thread of the parent may have left locked but
    // the allocator, which glibc makes usable, and leaves by _exit.
    match unsafe { libc::fork() } {
        0 => {
            let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(if end.is_ok() { 0 } else { 1 }) }
        }
        child => {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the answer.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            waited == child && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

async fn times_out(queue: &Queue<u64>) {
    let mut receiver = queue.receiver().unwrap();
    let got = receiver.recv_timeout(Duration::from_millis(2)).await;
    assert_eq!(got, Err(RecvTimeoutError::Timeout));
}

/// Fails if the child uses the ring of its parent's thread (seen failing: SIGSEGV).
#[test]
fn a_forked_child_waits_in_a_ring_of_its_own() {
    let queue = Queue::builder().create_typed::<u64>().unwrap();
    block_on(times_out(&queue));
    let fd = queue.try_clone_fd().unwrap();
    assert!(in_a_child(|| {
        let queue = Queue::<u64>::open_typed(fd).unwrap();
        block_on(times_out(&queue));
        current_thread().block_on(times_out(&queue));
    }));
    block_on(times_out(&queue));
}

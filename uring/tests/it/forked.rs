//! A forked child waits by itself, not in what it inherited.
#![expect(unsafe_code, reason = "forks")]

use std::fs;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use parkline_uring::{
    AsyncCommit, AsyncJoin, AsyncReceiver, AsyncReserve, AsyncSender, Fault, Queue, RecvError,
    RecvTimeoutError, SendError, TryRecvError, block_on,
};
use tokio::runtime::Runtime;

use crate::cancel::{Recv, begin, until};
use crate::peer::Peer;
use crate::runtimes::{current_thread, multi_thread};

/// Runs `body` in a forked child; whether it came to its end.
pub(crate) fn in_a_child(body: impl FnOnce()) -> bool {
    // SAFETY: the child calls nothing that another thread of the parent may have left locked but
    // the allocator, which glibc makes usable, and leaves by _exit.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: no memory is passed. A child that hangs is killed.
            unsafe { libc::alarm(20) };
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

/// An hour: what is not woken hangs.
fn queue() -> Queue<u64> {
    let watchdog = Duration::from_secs(3600);
    Queue::builder().capacity(1).watchdog(watchdog).create_typed().unwrap()
}

fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits in `runtime`; forks; `in_child` has the waiting future; the parent's is woken all the same.
fn pending(runtime: &Runtime, in_child: impl FnOnce(Recv<'_>)) {
    let queue = queue();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut waits: Option<Recv<'_>> = Some(Box::pin(receiver.recv()));
    let told = runtime.block_on(async { begin(waits.as_mut().unwrap()) });
    assert!(in_a_child(|| in_child(waits.take().unwrap())));
    sender.try_send(&7).unwrap();
    runtime.block_on(until(&told));
    assert_eq!(runtime.block_on(waits.unwrap()), Ok(7));
}

const FORKED: RecvError = RecvError::Fault(Fault::Forked);

/// Fails if a wait that is left cancels the wait in the parent's ring (seen failing: SIGSEGV).
#[test]
fn a_future_that_waits_is_refused_in_a_child_and_woken_in_the_parent() {
    for runtime in [current_thread(), multi_thread()] {
        pending(&runtime, |mut waits| {
            assert_eq!(poll(&mut waits), Poll::Ready(Err(FORKED)));
            drop(waits);
        });
        // Inside the runtime that the child inherited, too.
        pending(&runtime, |mut waits| {
            let _inherited = runtime.enter();
            assert_eq!(poll(&mut waits), Poll::Ready(Err(FORKED)));
        });
    }
}

/// Fails if a wait that is dropped cancels the wait in the parent's ring (seen failing: SIGSEGV).
#[test]
fn a_future_that_waits_can_be_dropped_in_a_child_and_is_woken_in_the_parent() {
    pending(&current_thread(), |waits| drop(waits));
    pending(&multi_thread(), |waits| drop(waits));
}

/// Fails if a runtime that is dropped in a child ends its parent's ring (seen failing: SIGSEGV), and
/// if the child has a copy of the ring's descriptor (seen failing: it takes the ring out of the poller
/// that it shares with its parent, which hangs).
#[test]
fn a_runtime_can_be_dropped_in_a_child_and_goes_on_in_the_parent() {
    let queue = queue();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut runtime = Some(current_thread());
    let task = runtime.as_ref().unwrap().spawn(async move { receiver.recv().await });
    runtime.as_ref().unwrap().block_on(times_out(&queue));
    assert!(in_a_child(|| drop(runtime.take())));
    sender.try_send(&7).unwrap();
    assert_eq!(runtime.unwrap().block_on(task).unwrap(), Ok(7));
}

/// The helper's futures, whose thread the child does not have.
///
/// Fails if the child leaves its request with the helper of its parent (seen failing: hangs).
#[test]
fn a_future_that_waits_by_the_helper_is_refused_in_a_child_which_has_a_helper_of_its_own() {
    let queue = queue();
    let mut receiver = queue.receiver().unwrap();
    let mut waits: Option<Recv<'_>> = Some(Box::pin(receiver.recv()));
    let told = begin(waits.as_mut().unwrap());
    assert!(in_a_child(|| {
        let mut waits = waits.take().unwrap();
        assert_eq!(poll(&mut waits), Poll::Ready(Err(FORKED)));
        drop(waits);
        let anew = Queue::<u64>::open_typed(queue.try_clone_fd().unwrap()).unwrap();
        let mut own = anew.receiver().unwrap();
        let mut waits: Recv<'_> = Box::pin(own.recv());
        let told = begin(&mut waits);
        anew.close().unwrap();
        block_on(until(&told));
        assert_eq!(poll(&mut waits), Poll::Ready(Err(RecvError::Closed)));
    }));
    block_on(until(&told));
    assert_eq!(block_on(waits.unwrap()), Err(RecvError::Closed));
}

/// Fails if the child goes on in the ring of the `block_on` around it, or ends that ring when it
/// leaves (each seen failing: SIGSEGV).
#[test]
fn a_child_that_is_forked_in_block_on_goes_on_there() {
    let queue = queue();
    let child = block_on(async {
        times_out(&queue).await;
        in_a_child(|| {
            let anew = Queue::<u64>::open_typed(queue.try_clone_fd().unwrap()).unwrap();
            block_on(times_out(&anew));
        })
    });
    assert!(child);
    // The child leaves the call, too.
    let parent = std::process::id();
    assert!(in_a_child(|| {
        let anew = queue_of(&queue);
        let grandchild = block_on(async {
            times_out(&anew).await;
            // SAFETY: as in `in_a_child`; both sides go on.
            let forked = unsafe { libc::fork() };
            if forked == 0 {
                times_out(&queue_of(&queue)).await;
            }
            forked
        });
        if grandchild == 0 {
            let anew = queue_of(&queue);
            block_on(times_out(&anew));
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: `status` is a valid place for the answer.
        unsafe { libc::waitpid(grandchild, &raw mut status, 0) };
        assert_eq!(status, 0);
        block_on(times_out(&anew));
    }));
    assert_eq!(parent, std::process::id());
    block_on(times_out(&queue));
}

fn queue_of(queue: &Queue<u64>) -> Queue<u64> {
    Queue::open_typed(queue.try_clone_fd().unwrap()).unwrap()
}

/// Fails if a handle does not ask whose it is (seen failing: SIGSEGV).
#[test]
fn each_async_call_of_an_inherited_handle_is_refused_in_a_child() {
    let queue = queue();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let (mut shared, join) = (queue.sender().unwrap().share(), Box::pin(queue.join()));
    let mut join = Some(join);
    let of_bytes = Queue::builder().capacity(1).create().unwrap();
    let (mut bytes, mut reserving) = (of_bytes.sender().unwrap(), of_bytes.sender().unwrap());
    let mut reserved = Some(reserving.try_reserve(1).unwrap());
    queue.sender().unwrap().try_send(&7).unwrap();
    assert!(in_a_child(|| block_on(async {
        let refused = Err(SendError::Fault((), Fault::Forked));
        assert_eq!(sender.send(&8).await, refused);
        assert_eq!(sender.send_many(&[8, 9]).await, Err(SendError::Fault((), Fault::Forked)));
        assert_eq!(shared.send(&8).await, refused);
        assert_eq!(receiver.recv().await, Err(FORKED));
        assert_eq!(receiver.lease().await.unwrap_err(), FORKED);
        assert_eq!(join.take().unwrap().await, Err(Fault::Forked));
        assert_eq!(bytes.reserve(1).await.unwrap_err(), SendError::Fault((), Fault::Forked));
        let committed = reserved.take().unwrap().commit().await;
        assert!(matches!(committed, Err(SendError::Fault(_, Fault::Forked))));
    })));
    assert_eq!(receiver.try_recv(), Ok(7));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(block_on(join.unwrap()), Ok(()));
    block_on(reserved.unwrap().commit()).unwrap();
}

/// How many rings this process has, by descriptors and by mappings.
fn rings() -> usize {
    let is_ring = |path: &fs::DirEntry| {
        fs::read_link(path.path()).is_ok_and(|it| it.to_string_lossy().contains("io_uring"))
    };
    let fds = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok).filter(is_ring).count();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    fds + maps.lines().filter(|line| line.contains("io_uring")).count()
}

/// In a process of its own: in this one others make rings, too.
///
/// Fails if a child does not close its copies, and if rings are made while forks go on (each seen
/// failing).
#[test]
fn a_child_has_no_copy_of_a_ring_whenever_it_is_forked() {
    Peer::start("fork with rings", &[]).assert_success();
}

pub(crate) fn child() {
    let (queue, done) = (queue(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                // Each thread has a ring of its own, and ends it.
                let own = thread::spawn({
                    let queue = queue_of(&queue);
                    move || block_on(times_out(&queue))
                });
                own.join().unwrap();
            }
        });
        let clean = (0..200).all(|_| in_a_child(|| assert_eq!(rings(), 0)));
        done.store(true, Relaxed);
        assert!(clean);
    });
}

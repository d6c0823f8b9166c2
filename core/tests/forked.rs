//! A forked child must not use its parent's handles: each says so, and the parent's go on
//! undisturbed. What the child opens anew works.
//!
//! In a file of its own: a fork copies every descriptor of the moment, also those that other tests
//! are about to close.
#![expect(unsafe_code, reason = "forks")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::Duration;

use parkline_core::{
    AttachError, Event, Fault, Queue, RecvError, Semaphore, SendError, SendTimeoutError,
    TryRecvError, TrySendError,
};

/// Forks; whether `check` came to its end in the child, neither panicking nor killed by a signal.
fn passes_in_child(check: impl FnOnce()) -> bool {
    // SAFETY: glibc keeps its allocator usable in the child of a process with many threads; the
    // child takes no other lock of its parent's and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: no memory is passed. A child that hangs is killed.
        unsafe { libc::alarm(60) };
        let passed = catch_unwind(AssertUnwindSafe(check)).is_ok();
        // SAFETY: no memory is passed.
        unsafe { libc::_exit(if passed { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[test]
fn the_parents_sender_is_refused_in_a_child_and_goes_on_in_the_parent() {
    let queue = Queue::builder().capacity(4).create().unwrap();
    let mut sender = queue.sender().unwrap();
    sender.try_send(b"before").unwrap();
    let refused = TrySendError::Fault((), Fault::Forked);
    let mut forked = queue.sender().unwrap();
    assert!(passes_in_child(move || {
        assert_eq!(forked.try_send(b"child"), Err(refused));
        assert_eq!(forked.try_send(&[7; 1000]), Err(refused));
        assert_eq!(forked.send_blocking(b"child"), Err(SendError::Fault((), Fault::Forked)));
        let timed = forked.send_blocking_timeout(b"child", Duration::MAX);
        assert_eq!(timed, Err(SendTimeoutError::Fault((), Fault::Forked)));
        assert_eq!(forked.try_send_many([&b"child"[..]]), Err(refused));
        assert_eq!(forked.try_reserve(5).unwrap_err(), refused);
        assert!(forked.side().gate().is_none());
        drop(forked);
    }));
    sender.try_send(b"after").unwrap();
    let mut receiver = queue.receiver().unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"before");
    assert_eq!(receiver.try_recv().unwrap(), b"after");
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn the_parents_receiver_is_refused_in_a_child_and_goes_on_in_the_parent() {
    let queue = Queue::builder().capacity(4).create().unwrap();
    queue.sender().unwrap().try_send(b"for the parent").unwrap();
    let mut receiver = queue.receiver().unwrap();
    assert!(passes_in_child(|| {
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Fault(Fault::Forked)));
        assert_eq!(receiver.recv_blocking(), Err(RecvError::Fault(Fault::Forked)));
        let many = receiver.try_recv_many(&mut Vec::new(), 9);
        assert_eq!(many, Err(TryRecvError::Fault(Fault::Forked)));
        assert_eq!(receiver.try_lease().unwrap_err(), TryRecvError::Fault(Fault::Forked));
        assert_eq!(receiver.lease_blocking().unwrap_err(), RecvError::Fault(Fault::Forked));
    }));
    assert_eq!(receiver.try_recv().unwrap(), b"for the parent");
}

/// Caught: a guard page that the kernel does not wipe.
#[test]
fn the_parents_lease_is_refused_in_a_child_and_stays_with_the_parent() {
    let queue = Queue::builder().capacity(4).create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let mut receiver = queue.receiver().unwrap();
    let mut lease = Some(receiver.try_lease().unwrap());
    assert!(passes_in_child(|| {
        let lease = lease.take().unwrap();
        assert_eq!(lease.read(), Err(Fault::Forked));
        assert_eq!(lease.copy_to(&mut [0; 9]), Err(Fault::Forked));
        lease.ack();
    }));
    // Fails if a drop in a child returns the message (seen failing: it dies).
    assert!(passes_in_child(|| drop(lease.take())));
    let lease = lease.unwrap();
    assert_eq!(lease.read().unwrap(), b"job");
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    lease.nack();
    assert!(receiver.try_lease().unwrap().redelivered());
}

/// All bytes of a queue's segment.
fn bytes(queue: &Queue) -> Vec<u8> {
    let file = File::from(queue.try_clone_fd().unwrap());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Fails if any way to end a lease stores to the segment in a child (seen failing: it dies).
#[test]
fn a_child_that_ends_leases_of_its_parent_touches_nothing() {
    for has_room in [true, false] {
        let queue = Queue::builder().capacity(4).leases(4).create().unwrap();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.try_send_many([&b"a"[..], b"b", b"c", b"d"]).unwrap();
        let leases = [(); 4].map(|()| receiver.try_lease().unwrap());
        if !has_room {
            sender.try_send_many([&b"e"[..], b"f", b"g", b"h"]).unwrap();
        }
        let before = bytes(&queue);
        let mut all = Some((leases, receiver));
        assert!(passes_in_child(|| {
            let ([acknowledged, dropped, returned, held_back], receiver) = all.take().unwrap();
            acknowledged.ack();
            drop(dropped);
            returned.nack();
            held_back.nack_after(Duration::ZERO);
            drop(receiver);
        }));
        assert!(bytes(&queue) == before);
    }
}

/// The child goes on with the receive, too, and returns from it.
///
/// Fails if a receive does not ask after its handler whose handle it is (seen failing: it dies).
#[test]
fn a_handler_that_forks_returns_in_the_child_to_a_receive_that_is_refused() {
    let queue = Queue::builder().capacity(4).max_attempts(1).create().unwrap();
    queue.sender().unwrap().try_send(b"poison").unwrap();
    let mut receiver = queue.receiver().unwrap();
    receiver.try_lease().unwrap().nack();
    let child = Arc::new(AtomicI32::new(0));
    let forked = Arc::clone(&child);
    receiver.on_dead_letter(move |_| {
        // SAFETY: as in `passes_in_child`.
        forked.store(unsafe { libc::fork() }, Relaxed);
    });
    let received = receiver.try_recv();
    let child = child.load(Relaxed);
    if child == 0 {
        let is_refused = received == Err(TryRecvError::Fault(Fault::Forked));
        // SAFETY: no memory is passed.
        unsafe { libc::_exit(if is_refused { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!((status, received), (0, Err(TryRecvError::Empty)));
    assert_eq!((queue.stats().dead_lettered, queue.len()), (1, 0));
}

#[test]
fn a_reservation_of_the_parent_is_refused_in_a_child_and_commits_in_the_parent() {
    let queue = Queue::builder().capacity(4).create().unwrap();
    let mut sender = queue.sender().unwrap();
    let mut reservation = Some(sender.try_reserve(5).unwrap());
    assert!(passes_in_child(|| {
        let mut reservation = reservation.take().unwrap();
        reservation.write_at(0, b"child");
        assert!(matches!(reservation.try_commit(), Err(TrySendError::Fault(_, Fault::Forked))));
    }));
    let mut reservation = reservation.unwrap();
    reservation.write_at(0, b"hello");
    reservation.try_commit().unwrap();
    assert_eq!(queue.receiver().unwrap().try_recv().unwrap(), b"hello");
}

#[test]
fn the_parents_queue_is_refused_in_a_child_and_goes_on_in_the_parent() {
    let queue = Queue::builder().capacity(4).create().unwrap();
    queue.sender().unwrap().try_send(b"hello").unwrap();
    assert!(passes_in_child(|| {
        let error = queue.sender().unwrap_err();
        assert!(matches!(error, AttachError::Forked));
        assert!(error.to_string().contains("open its fd anew"), "{error}");
        assert!(matches!(queue.receiver(), Err(AttachError::Forked)));
        assert_eq!(queue.close(), Err(Fault::Forked));
        assert!(Fault::Forked.to_string().contains("open the queue's fd anew"));
        assert_eq!(queue.len(), 0);
        assert!(!queue.is_closed());
        assert!(format!("{queue:?}").contains("Queue"));
    }));
    assert!(!queue.is_closed());
    assert_eq!(queue.len(), 1);
}

#[test]
fn what_a_child_drops_stays_taken_in_the_parent() {
    let queue = Queue::builder().capacity(4).handles(1).create().unwrap();
    let mut sender = Some(queue.sender().unwrap());
    assert!(passes_in_child(|| drop(sender.take())));
    assert!(matches!(queue.sender(), Err(AttachError::NoFreeHandle { .. })));
    sender.as_mut().unwrap().try_send(b"still mine").unwrap();
}

#[test]
fn a_child_that_opens_the_fd_anew_takes_part() {
    let queue = Queue::builder().capacity(4).create().unwrap();
    queue.sender().unwrap().try_send(b"to the child").unwrap();
    assert!(passes_in_child(|| {
        let anew = Queue::open(queue.try_clone_fd().unwrap()).unwrap();
        assert_eq!(anew.receiver().unwrap().try_recv().unwrap(), b"to the child");
        anew.sender().unwrap().try_send(b"to the parent").unwrap();
    }));
    assert_eq!(queue.receiver().unwrap().try_recv().unwrap(), b"to the parent");
}

/// Caught: a guard that only asks whether its page was wiped.
#[test]
fn the_parents_handles_stay_refused_after_a_child_made_its_own() {
    let queue = Queue::builder().capacity(4).create().unwrap();
    let mut sender = queue.sender().unwrap();
    assert!(passes_in_child(|| {
        let anew = Queue::open(queue.try_clone_fd().unwrap()).unwrap();
        anew.sender().unwrap().try_send(b"mine").unwrap();
        let refused = TrySendError::Fault((), Fault::Forked);
        assert_eq!(sender.try_send(b"my parent's"), Err(refused));
        assert!(matches!(queue.sender(), Err(AttachError::Forked)));
    }));
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_childs_handles_are_refused_in_its_own_child() {
    let queue = Queue::builder().capacity(4).create().unwrap();
    assert!(passes_in_child(|| {
        let anew = Queue::open(queue.try_clone_fd().unwrap()).unwrap();
        let mut sender = anew.sender().unwrap();
        assert!(passes_in_child(|| {
            let refused = TrySendError::Fault((), Fault::Forked);
            assert_eq!(sender.try_send(b"grandchild"), Err(refused));
            let anew = Queue::open(queue.try_clone_fd().unwrap()).unwrap();
            anew.sender().unwrap().try_send(b"grandchild").unwrap();
            assert_eq!(sender.try_send(b"grandchild"), Err(refused));
        }));
        sender.try_send(b"child").unwrap();
    }));
    let mut receiver = queue.receiver().unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"grandchild");
    assert_eq!(receiver.try_recv().unwrap(), b"child");
}

/// Fails if a dropped `Permit` acknowledges its lease (seen failing).
#[test]
fn a_child_has_no_part_in_an_event_and_a_semaphore() {
    let event = Queue::builder().create_event().unwrap();
    let semaphore = Queue::builder().create_semaphore(2).unwrap();
    let permit = semaphore.acquire_blocking().unwrap();
    event.set().unwrap();
    let mut permit = Some(permit);
    assert!(passes_in_child(|| {
        assert_eq!(event.set(), Err(Fault::Forked));
        assert_eq!(event.clear(), Err(Fault::Forked));
        assert_eq!(event.wait_blocking(), Err(Fault::Forked));
        assert!(!event.is_set());
        assert_eq!(semaphore.acquire_blocking().unwrap_err(), Fault::Forked);
        assert_eq!(semaphore.available_permits(), 0);
        permit.take();
        let event = Event::open(event.try_clone_fd().unwrap()).unwrap();
        assert!(event.is_set());
        let semaphore = Semaphore::open(semaphore.try_clone_fd().unwrap()).unwrap();
        assert_eq!(semaphore.available_permits(), 1, "the other is the parent's");
        semaphore.acquire_blocking().unwrap().release();
    }));
    assert_eq!(semaphore.available_permits(), 1);
    permit.take();
    assert_eq!(semaphore.available_permits(), 2);
}

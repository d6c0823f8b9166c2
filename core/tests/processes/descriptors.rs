//! A process that closes descriptors which are not its own to close, as daemons do, and one that
//! executes another program.
#![expect(unsafe_code, reason = "closes descriptors behind the back of their owners")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use parkline_core::{AttachError, Queue};

use crate::player::{Player, say};

fn close_all_descriptors() {
    // SAFETY: no memory is passed, and what is dropped later leaves closed numbers alone: that is what
    // is tried.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    assert_eq!(closed, 0);
}

/// The handles go on, for they live by their mappings; there can be no new ones.
pub(crate) fn close_all(queue: Queue) {
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let event = Queue::builder().create_event().unwrap();
    let semaphore = Queue::builder().create_semaphore(1).unwrap();
    close_all_descriptors();
    assert_is_gone(&queue);
    sender.try_send(b"on").unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"on");
    // The numbers are other files' now: one shorter than a queue, where an access would be a
    // signal, and a queue whose locks are somebody else's.
    let executable = File::open("/proc/self/exe").unwrap();
    assert_is_gone(&queue);
    drop(executable);
    let other = Queue::builder().capacity(1).create().unwrap();
    assert_is_gone(&queue);
    let files: Vec<_> = (0..8).map(|_| File::open("/dev/null").unwrap()).collect();
    assert!(in_a_child(|| files.iter().all(|file| rustix::fs::fstat(file).is_ok())));
    drop((queue, event, semaphore, sender, receiver));
    for file in &files {
        rustix::fs::fstat(file).expect("a drop closed a file that is not its own");
    }
    let mut sender_there = other.sender().unwrap();
    sender_there.try_send(b"new").unwrap();
    assert_eq!(other.len(), 1);
    say("went on");
}

/// Whether `body` says so in a forked child.
fn in_a_child(body: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child calls what is safe after a fork only.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: the child ends.
        unsafe { libc::_exit(i32::from(!body())) };
    }
    let mut status = -1;
    // SAFETY: `status` is a valid place for the answer.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status == 0
}

/// All that needs the descriptor says that this process has closed it.
fn assert_is_gone(queue: &Queue) {
    for refused in
        [queue.sender().unwrap_err(), queue.receiver().unwrap_err(), queue.recover().unwrap_err()]
    {
        assert!(matches!(refused, AttachError::DescriptorClosed), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains("this process has closed the queue's descriptor"), "{text}");
        assert!(text.contains("open the queue anew"), "{text}");
    }
    let refused = queue.try_clone_fd().unwrap_err().to_string();
    assert!(refused.contains("this process has closed the queue's descriptor"), "{refused}");
}

/// Gives the number of `queue`'s descriptor to `file`, as closing it and opening that does.
fn replace(queue: &Queue, file: impl AsFd) -> OwnedFd {
    let number = queue.as_fd().as_raw_fd();
    // SAFETY: no memory is passed. That the queue has lost its descriptor is what is tried.
    let replaced = unsafe { libc::dup2(file.as_fd().as_raw_fd(), number) };
    assert_eq!(replaced, number);
    // SAFETY: the number is ours now, and the queue must leave it alone.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Fails if a drop closes whatever has the number (seen failing), or all that is of the same file (seen
/// failing).
#[test]
fn a_drop_closes_no_file_that_has_the_number_now() {
    let queue = Queue::builder().capacity(1).create().unwrap();
    let file = replace(&queue, File::open("/dev/null").unwrap());
    assert_is_gone(&queue);
    drop(queue);
    rustix::fs::fstat(file).unwrap();
    // The same queue, opened anew after its descriptor was closed.
    let queue = Queue::builder().capacity(1).create().unwrap();
    let other = queue.try_clone_fd().unwrap();
    let anew = Queue::open(replace(&queue, &other)).unwrap();
    drop(queue);
    anew.sender().unwrap().try_send(b"on").unwrap();
    drop(anew);
}

/// Caught: an attach that takes whatever file has the number.
///
/// Fails if a drop closes descriptors that are closed, or other files', or if a forked child does (each
/// seen failing).
#[test]
fn handles_outlive_the_descriptors_of_their_process() {
    let queue = Queue::builder().capacity(1).handles(2).create().unwrap();
    let mut player = Player::start(&queue, "close all descriptors", 0);
    assert_eq!(player.says().as_deref(), Some("went on"));
    assert!(player.process.wait().unwrap().success());
    assert!(queue.sender().is_ok() && queue.receiver().is_ok());
}

pub(crate) fn execute(queue: &Queue) {
    let _lease = queue.receiver().unwrap().try_lease().unwrap();
    let error = Command::new("sh").args(["-c", "echo; echo '> executed'; exec sleep 60"]).exec();
    panic!("{error}");
}

/// Caught: a descriptor of the lock that stays open and is not close-on-exec.
#[test]
fn a_process_that_executes_another_program_has_left() {
    let queue = Queue::builder().capacity(1).create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let mut player = Player::start(&queue, "execute another program", 0);
    assert_eq!(player.says().as_deref(), Some("executed"));
    let found = queue.recover().unwrap();
    assert_eq!((found.handles, found.messages), (1, 1));
    assert!(queue.receiver().unwrap().try_lease().unwrap().redelivered());
}

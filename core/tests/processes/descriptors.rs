//! A process that closes descriptors which are not its own to close, as daemons do, and one that
//! executes another program.
#![expect(unsafe_code, reason = "closes descriptors behind the back of their owners")]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{self, Command};

use parkline_core::{AttachError, Queue};

use crate::player::{Player, say};

fn close_all_descriptors() {
    // SAFETY: the process ends without anybody closing them again.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    assert_eq!(closed, 0);
}

/// The handles go on, for they live by their mappings; there can be no new ones.
pub(crate) fn close_all(queue: &Queue) {
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    close_all_descriptors();
    assert!(matches!(queue.sender(), Err(AttachError::Proc { .. })));
    sender.try_send(b"on").unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"on");
    // The numbers are other files' now: one shorter than a queue, where an access would be a
    // signal, and a queue whose locks are somebody else's.
    let null = File::open("/proc/self/exe").unwrap();
    assert!(matches!(queue.receiver(), Err(AttachError::Proc { .. })));
    drop(null);
    let other = Queue::builder().capacity(1).create().unwrap();
    assert!(matches!(queue.receiver(), Err(AttachError::Proc { .. })));
    let mut sender_there = other.sender().unwrap();
    sender_there.try_send(b"new").unwrap();
    assert_eq!(other.len(), 1);
    say("went on");
    // Dropping `queue` would close the descriptor of `other`.
    process::exit(0);
}

/// Caught: an attach that takes whatever file has the number.
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

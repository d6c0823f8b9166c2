//! Queues that are handed on to children.

use std::fs;
use std::os::fd::AsRawFd;
use std::process::Command;

use parkline_core::{Event, Queue};
use parkline_meet::prelude::*;

use crate::player::{Player, command, create, say};

/// How many memfds this process was started with.
pub(crate) fn inherited() -> usize {
    let links =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|it| it.unwrap().path().read_link().ok());
    links.filter(|it| it.to_string_lossy().starts_with("/memfd:")).count()
}

fn start(command: &mut Command) -> Player {
    Player::start_as(command)
}

/// Fails if another child than the one meant has the queue (seen failing with the flag
/// close-on-exec cleared in the parent, with the inherited descriptor left open, so that the
/// child's own child has it, and with the check of the flag left out, so that the child closes a
/// descriptor of its own).
#[test]
fn what_is_passed_on_reaches_that_child_alone() {
    let (queue, stop) = (create().unwrap(), Queue::builder().create_event().unwrap());
    let mut meant = command("take", "");
    meant.pass("JOBS", &queue).unwrap().pass("STOP", &stop).unwrap();
    assert_eq!(
        start(&mut command("look", "")).says().unwrap(),
        "0",
        "started before the one meant"
    );
    // A command may start several children.
    for _ in 0..2 {
        let mut child = start(&mut meant);
        assert_eq!(start(&mut command("look", "")).says().unwrap(), "0", "started beside it");
        assert_eq!(child.says().unwrap(), "2");
        assert_eq!(child.says().unwrap(), format!("{:032x} {:032x}", queue.id(), stop.id()));
        assert_eq!(child.says().unwrap(), "its child: 0");
        assert_eq!(child.says().unwrap(), "twice: refused");
    }
}

/// The child. Its descriptors are closed once, and never those that have their numbers later.
pub(crate) fn take() {
    say(inherited());
    let wrong = Queue::<u64>::from_env("JOBS");
    assert!(matches!(wrong, Err(MeetError::Open(_))), "{wrong:?}");
    let number: i32 = std::env::var("JOBS").unwrap().split_once(':').unwrap().0.parse().unwrap();
    let queue: Queue = Queue::from_env("JOBS").expect("it is still there after the wrong type");
    let stop = Event::from_env("STOP").unwrap();
    say(format_args!("{:032x} {:032x}", queue.id(), stop.id()));
    let its_child = start(&mut command("look", "")).says().unwrap();
    say(format_args!("its child: {its_child}"));
    let again = <Queue>::from_env("JOBS");
    assert!(matches!(again, Err(MeetError::Environment { .. })), "{again:?}");
    // The same memfd under the same number, but a descriptor of this process.
    let own = rustix::io::fcntl_dupfd_cloexec(&queue, number).unwrap();
    assert_eq!(own.as_raw_fd(), number);
    let again = <Queue>::from_env("JOBS");
    assert!(matches!(again, Err(MeetError::Environment { .. })), "{again:?}");
    rustix::fs::fstat(&own).expect("it is not closed");
    say("twice: refused");
}

/// Fails if a variable with another meaning is followed (seen failing with a missing number taken
/// for 0, and with the inode left unchecked).
#[test]
fn a_variable_that_no_parent_set_is_refused() {
    let take = |value: &str, says: &str| {
        let mut command = command("take alone", "");
        let mut child = start(command.env("JOBS", value));
        let said = child.says().unwrap();
        assert!(said.starts_with("Environment") && said.contains(says), "{value:?}: {said}");
    };
    for value in ["", "3", "x:1", "-1:5", "99999999999:1"] {
        take(value, "was not set by `pass_to`");
    }
    // Its standard input, and a number that is not open.
    take("0:1", "not here");
    take("900:1", "not here");
    // A queue, but not the one that the variable names.
    let mut other = command("take alone", "");
    other.pass("JOBS", &create().unwrap()).unwrap();
    let jobs = other.get_envs().find(|it| it.0 == "JOBS").unwrap().1.unwrap();
    let number = jobs.to_str().unwrap().split_once(':').unwrap().0.to_owned();
    let said = start(other.env("JOBS", format!("{number}:1"))).says().unwrap();
    assert!(said.starts_with("Environment") && said.contains("not here"), "{said}");
}

pub(crate) fn take_alone() {
    say(crate::player::outcome(Queue::from_env("JOBS")));
}

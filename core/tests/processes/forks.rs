//! A process forks while its other threads attach, and is killed: its children live on, and hold
//! nothing that says that it does.
#![expect(unsafe_code, reason = "forks")]

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use parkline_core::{AttachError, Queue};

use crate::player::{Player, hang, say};
use crate::recovery::lease_and_die;

const HANDLES: usize = 8;
/// What comes to a child by chance comes to one of so many.
const FORKED: u32 = 500;
const STARTED: u32 = 50;
const ATTACHED: u32 = 5000;

fn queue() -> Queue {
    Queue::builder().capacity(2).max_message(8).handles(HANDLES).create().unwrap()
}

/// Attaches and lets go on three threads, and meanwhile makes children that do nothing.
pub(crate) fn while_attaching(queue: &Queue, how: u32) {
    let attach = || -> ! {
        loop {
            drop(queue.sender());
            drop(queue.receiver());
        }
    };
    thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(attach)));
        let children = if how == FORK { FORKED } else { STARTED };
        (0..children).for_each(|_| make_child(how));
        say("ready");
        hang();
    });
}

#[expect(clippy::zombie_processes, reason = "they outlive us")]
fn make_child(how: u32) {
    match how {
        FORK => {
            // SAFETY: the child calls what is safe after a fork only.
            let child = unsafe { libc::fork() };
            assert!(child >= 0, "fork: {}", io::Error::last_os_error());
            if child == 0 {
                // SAFETY: no memory is passed. Whatever becomes of the test, the child ends.
                unsafe { libc::alarm(60) };
                loop {
                    // SAFETY: no memory is passed.
                    unsafe { libc::pause() };
                }
            }
        }
        _ => {
            // Without a hook to run in the child this is `posix_spawn`, which is a `vfork`.
            let mut sleeper = Command::new("sh");
            sleeper.args(["-c", "echo; exec sleep 60"]).stdin(Stdio::null()).stdout(Stdio::piped());
            let sleeper = sleeper.spawn().unwrap();
            // Until it runs a program of its own it has its parent's descriptors.
            sleeper.stdout.unwrap().read_exact(&mut [0]).unwrap();
        }
    }
}

const FORK: u32 = 0;
const SPAWN: u32 = 1;

/// All handles of the killed are free at once, although its children live.
fn survive(how: u32) {
    let queue = queue();
    let mut player = Player::start(&queue, "fork while attaching", how);
    assert_eq!(player.says().as_deref(), Some("ready"));
    player.kill();
    let all: Result<Vec<_>, _> = (0..HANDLES).map(|_| queue.sender()).collect();
    all.expect("a child holds the lock of a handle that is gone");
}

/// Caught: descriptors that a fork copies and a child keeps; a mapping made while forks go on, which
/// a child inherits.
#[test]
fn the_handles_of_the_killed_are_free_although_its_forked_children_live() {
    survive(FORK);
}

/// Caught: a descriptor of the lock that is not close-on-exec.
#[test]
fn the_handles_of_the_killed_are_free_although_the_programs_that_it_started_live() {
    survive(SPAWN);
}

/// How long a new handle waits for a record that is being let go.
const PATIENCE: Duration = Duration::from_millis(100);

/// Caught: a record that nobody has anymore, taken for a living handle's because a program that is
/// being started has a copy of the descriptor still; the same of a handle that left messages.
#[test]
fn a_handle_that_was_let_go_is_free_although_programs_are_started_meanwhile() {
    let queue = Queue::builder().handles(1).create().unwrap();
    let inherited = Queue::builder().capacity(1).handles(2).create().unwrap();
    let mut sender = inherited.sender().unwrap();
    sender.try_send(b"first").unwrap();
    lease_and_die(&inherited);
    sender.try_send(b"second").unwrap();
    let is_over = AtomicBool::new(false);
    let refused = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                assert!(Command::new("true").status().unwrap().success());
            }
        });
        // A program that is being started keeps the lock until it is run, on a loaded machine for longer
        // than a new handle waits.
        let too_early = |attach: &dyn Fn() -> Option<AttachError>| {
            let begin = Instant::now();
            attach().filter(|_| begin.elapsed() < PATIENCE)
        };
        let refused = (0..ATTACHED).find_map(|_| {
            let new = too_early(&|| queue.sender().err());
            new.or_else(|| too_early(&|| inherited.receiver().err()))
        });
        is_over.store(true, Relaxed);
        refused
    });
    assert!(refused.is_none(), "{refused:?}");
}

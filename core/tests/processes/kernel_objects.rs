//! A process that does to the memfd what the kernel lets anyone who has it do: it takes a lease on it,
//! or lays thousands of locks.
#![expect(unsafe_code, reason = "speaks F_SETLEASE and F_OFD_SETLK, which no crate we use wraps")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use memfd::{FileSeal, MemfdOptions};
use parkline_core::{AttachError, Queue, RecvTimeoutError, SendTimeoutError};

use crate::player::{HOUR, Player, hang, say};
use crate::required::not_tried;

/// The kernel ends a lease after 45 s. What takes less than this did not wait for that.
const AT_ONCE: Duration = Duration::from_secs(5);
const LOCKS: i64 = 10_000;
const RECORDS: usize = 1000;

/// Opens the queue anew, and leases that; `how` is 0 for a lease that keeps all others out, 1 for one
/// that keeps those out who write, 2 for the first by a process that does not mind its end.
pub(crate) fn lease(how: u32) {
    // SAFETY: no memory is passed.
    unsafe { libc::signal(libc::SIGIO, if how == 2 { libc::SIG_DFL } else { libc::SIG_IGN }) };
    let file = OpenOptions::new().read(true).write(how != 1).open("/proc/self/fd/0").unwrap();
    let kind = if how == 1 { libc::F_RDLCK } else { libc::F_WRLCK };
    // SAFETY: no memory is passed.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        0 => say("leased"),
        _ => say(io::Error::last_os_error()),
    }
    hang();
}

/// A copy of `queue` as its creator has it who has not opened it: no process has a description of it.
fn unopened(queue: &Queue) -> OwnedFd {
    let queue = File::from(queue.try_clone_fd().unwrap());
    let mut bytes = vec![0; queue.metadata().unwrap().len() as usize];
    queue.read_exact_at(&mut bytes, 0).unwrap();
    let copy = MemfdOptions::new().allow_sealing(true).create("test").unwrap();
    copy.as_file().write_all_at(&bytes, 0).unwrap();
    copy.add_seals(&[FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal]).unwrap();
    copy.into_file().into()
}

/// A queue with a lease on its memfd, that is opened after that, and who has the lease. `None` where
/// the kernel gives no leases.
fn leased(queue: &Queue, how: u32) -> Option<(Queue, Player)> {
    let fd = unopened(queue);
    let mut player = Player::start(&fd, "lease the memfd", how);
    let said = player.says().unwrap();
    if said == "leased" {
        return Some((Queue::open(fd).unwrap(), player));
    }
    not_tried("F_SETLEASE", said);
    None
}

/// Fails if no description is open while a process has the queue but no handle (seen failing).
#[test]
fn there_are_no_leases_on_a_queue_that_a_process_has_opened() {
    for how in [0, 1] {
        let queue = Queue::builder().capacity(1).create().unwrap();
        let mut player = Player::start(&queue, "lease the memfd", how);
        let said = player.says().unwrap();
        assert_ne!(said, "leased");
    }
}

fn timed<R>(act: impl FnOnce() -> R) -> R {
    let begin = Instant::now();
    let done = act();
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    done
}

/// Forks a child that ends at once.
fn fork() {
    // SAFETY: the child calls what is safe after a fork only.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", io::Error::last_os_error());
    if child == 0 {
        // SAFETY: the child ends.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: a null pointer for the status that nobody asks for.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
}

/// Fails if the memfd is opened without `O_NONBLOCK` (seen failing: 45 s, for all of them).
#[test]
fn a_lease_on_the_memfd_of_one_queue_is_an_error_there_and_nothing_elsewhere() {
    for how in [0, 1] {
        let other = Queue::builder().capacity(1).create().unwrap();
        let Some((queue, mut player)) = leased(&other, how) else { return };
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let _ = queue.sender();
                }
            });
            let refused = timed(|| queue.receiver().unwrap_err());
            assert!(matches!(refused, AttachError::Leased { .. }), "{refused:?}");
            let text = refused.to_string();
            for part in ["F_SETLEASE", "os error 11", "lease-break-time", "try again"] {
                assert!(text.contains(part), "{text}");
            }
            let mut receiver = timed(|| other.receiver().unwrap());
            timed(fork);
            let soon = Duration::from_millis(20);
            let nothing = timed(|| receiver.recv_blocking_timeout(soon));
            assert_eq!(nothing, Err(RecvTimeoutError::Timeout));
            is_over.store(true, Relaxed);
        });
        timed(|| queue.recover().unwrap());
        player.kill();
        queue.receiver().unwrap();
    }
}

/// Fails if the memfd is opened without `O_NONBLOCK` (seen failing: 45 s).
#[test]
fn a_process_that_waits_although_there_is_a_lease_keeps_its_time() {
    let queue = Queue::builder().capacity(1).watchdog(Duration::from_millis(1)).create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let mut dead = Player::start(&queue, "lease and hang", 0);
    assert_eq!(dead.says().as_deref(), Some("ready"));
    dead.kill();
    let Some((queue, mut player)) = leased(&queue, 0) else { return };
    let soon = Duration::from_millis(50);
    timed(|| queue.join_blocking_timeout(soon).unwrap_err());
    assert!(matches!(timed(|| queue.recover()), Err(AttachError::Leased { .. })));
    player.kill();
    assert_eq!(queue.recover().unwrap().messages, 1);
}

/// Fails if an open does not begin to break the lease: with `O_PATH`, say.
#[test]
fn a_lease_whose_holder_gives_way_is_no_obstacle() {
    let queue = Queue::builder().capacity(1).create().unwrap();
    let Some((queue, _player)) = leased(&queue, 2) else { return };
    timed(|| {
        let begin = Instant::now();
        while let Err(refused) = queue.sender() {
            assert!(matches!(refused, AttachError::Leased { .. }), "{refused:?}");
            assert!(begin.elapsed() < AT_ONCE);
        }
    });
}

pub(crate) fn lay_locks() {
    let file = File::options().read(true).write(true).open("/proc/self/fd/0").unwrap();
    for n in 0..LOCKS {
        let mut lock = libc::flock {
            l_type: libc::F_RDLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 2 * n,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: `lock` is a valid flock that lives over the call.
        let laid = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
        assert_eq!(laid, 0, "{}", io::Error::last_os_error());
    }
    say("laid");
    hang();
}

/// As many handles as `count`, each with a message.
pub(crate) fn lease_many(queue: &Queue, count: u32) {
    let mut sender = queue.sender().unwrap();
    let receivers: Vec<_> = (0..count)
        .map(|_| {
            sender.try_send(b"job").unwrap();
            let mut receiver = queue.receiver().unwrap();
            std::mem::forget(receiver.try_lease().unwrap());
            receiver
        })
        .collect();
    say("ready");
    std::hint::black_box(&receivers);
    hang();
}

/// A thousand of the dead have a message each for which there is no room, and the kernel walks ten
/// thousand locks for each answer.
///
/// Fails if a look asks about all of them (seen failing: 0.7 s a look, and one after the other).
#[test]
fn a_wait_keeps_its_time_whatever_locks_a_peer_has_laid() {
    let queue = Queue::builder().capacity(1).max_message(8).handles(RECORDS + 8).leases(2);
    let queue = queue.watchdog(HOUR).create().unwrap();
    let mut dead = Player::start(&queue, "lease many and hang", RECORDS as u32);
    assert_eq!(dead.says().as_deref(), Some("ready"));
    let mut sender = queue.sender().unwrap();
    sender.try_send(b"full").unwrap();
    dead.kill();
    let mut vandal = Player::start(&queue, "lay locks", 0);
    assert_eq!(vandal.says().as_deref(), Some("laid"));
    let waited = Duration::from_millis(50);
    let begin = Instant::now();
    assert!(queue.recover().unwrap().unseen > 0);
    for _ in 0..4 {
        let full = sender.send_blocking_timeout(b"more", waited).unwrap_err();
        assert!(matches!(full, SendTimeoutError::Timeout(())));
    }
    drop(queue.receiver().unwrap());
    println!("{:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

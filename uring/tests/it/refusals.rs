//! Kernels and containers that refuse io_uring: each refusal has its own words, and all goes on.

use std::collections::BTreeMap;
use std::hint::spin_loop;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use parkline_uring::{
    AsyncReceiver, AsyncSender, Backend, Queue, Unavailable, backend, block_on, try_io_uring,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::endings::HOUR;
use crate::peer::Peer;
use crate::required::not_tried;
use crate::runtimes::current_thread;

/// Has the kernel answer these system calls of this process with `errno`.
fn refuse(calls: &[i64], errno: i32) {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let refused = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).unwrap();
    let program = BpfProgram::try_from(filter).unwrap();
    seccompiler::apply_filter_all_threads(&program).unwrap();
}

/// In a process of its own: refuse, then see what the library says, and that it works.
pub(crate) fn child(role: &str) {
    let (calls, errno): (&[i64], i32) = match role {
        "EPERM" => (&[SYS_IO_URING_SETUP], 1),
        "ENOSYS" => (&[SYS_IO_URING_SETUP], 38),
        "ENOMEM" => (&[SYS_IO_URING_SETUP], 12),
        "EMFILE" => (&[SYS_IO_URING_SETUP], 24),
        "no enter" => (&[SYS_IO_URING_ENTER], 1),
        "no register" => (&[SYS_IO_URING_REGISTER], 1),
        "no waitv" => (&[SYS_IO_URING_SETUP, SYS_FUTEX_WAITV], 1),
        other => panic!("no such role: {other}"),
    };
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).init();
    refuse(calls, errno);
    let Backend::Futex(why) = backend() else { panic!("io_uring was refused") };
    let (expected, advice) = match role {
        "EPERM" | "no enter" | "no register" | "no waitv" => match sysctl() {
            0 => (Unavailable::Forbidden { errno: 1 }, "seccomp"),
            value => (Unavailable::Sysctl { value }, "io_uring_disabled=0"),
        },
        "ENOSYS" => (Unavailable::NoIoUring, "6.7"),
        "ENOMEM" => (Unavailable::Memory, "ulimit -l"),
        "EMFILE" => (Unavailable::Descriptors, "ulimit -n"),
        other => panic!("no such role: {other}"),
    };
    assert_eq!(*why, expected);
    assert!(why.to_string().contains(advice), "{why}");
    assert_eq!(parkline_uring::try_io_uring(), Err(expected));

    // An hour: a wake that is lost is not healed, and the test hangs.
    let queue = Queue::builder().capacity(1).watchdog(HOUR).create().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let other = thread::spawn(move || {
        block_on(async {
            for n in 0..1000_u32 {
                sender.send(&n.to_ne_bytes()).await.unwrap();
            }
        });
    });
    current_thread().block_on(async {
        for n in 0..1000_u32 {
            assert_eq!(receiver.recv().await.unwrap(), n.to_ne_bytes());
        }
    });
    other.join().unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("waits on a helper thread").count(), 1, "{log}");
}

/// Which processes may use io_uring, for the system: with 2 none may.
fn sysctl() -> u8 {
    let value = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    value.map_or(0, |value| value.trim().parse().unwrap())
}

/// What was logged.
#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const SYS_IO_URING_SETUP: i64 = 425;
const SYS_IO_URING_ENTER: i64 = 426;
const SYS_IO_URING_REGISTER: i64 = 427;
const SYS_FUTEX_WAITV: i64 = 449;

/// Fails if a call that is ready at its first poll waits for anything, or has the thread set anything up
/// again (seen failing with a gate that is always woken: SIGSYS).
#[test]
fn what_is_ready_at_once_makes_no_system_call() {
    Peer::start("no calls", &[]).assert_success();
}

/// In a process of its own, of which one thread may make no system call.
pub(crate) fn no_calls() {
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    let queue = Queue::builder().capacity(1).leases(1).create_typed::<u64>().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    thread::spawn(move || {
        let mut exchange = |n| {
            block_on(async {
                sender.send(&n).await.unwrap();
                assert_eq!(receiver.recv().await, Ok(n));
                sender.send(&n).await.unwrap();
                receiver.lease().await.unwrap().ack();
            });
        };
        // The first call makes the thread's ring.
        exchange(0);
        let (none, killed) = (BTreeMap::new(), SeccompAction::KillProcess);
        let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        let filter = SeccompFilter::new(none, killed, SeccompAction::Allow, arch).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        (1..1000).for_each(exchange);
        IS_DONE.store(true, SeqCst);
        // It cannot even end.
        loop {
            spin_loop();
        }
    });
    while !IS_DONE.load(SeqCst) {
        thread::yield_now();
    }
}

fn refused(role: &str) {
    if let Backend::Futex(why @ Unavailable::Asked) = backend() {
        // No kernel is asked.
        return not_tried("io_uring", why);
    }
    // Where the first call is refused already, the later ones are not reached.
    let is_first = !matches!(role, "no enter" | "no register");
    match try_io_uring() {
        Err(why) if !is_first => not_tried("io_uring", why),
        _ => Peer::start(role, &[]).assert_success(),
    }
}

#[test]
fn a_seccomp_profile_that_says_eperm() {
    refused("EPERM");
    refused("no enter");
    refused("no register");
}

#[test]
fn a_kernel_without_io_uring() {
    refused("ENOSYS");
}

#[test]
fn no_locked_memory_left() {
    refused("ENOMEM");
}

#[test]
fn no_descriptor_left() {
    refused("EMFILE");
}

#[test]
fn without_futex_waitv_too() {
    refused("no waitv");
}

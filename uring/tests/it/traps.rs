//! What the kernel does that a program may not expect: waits end unasked, calls are interrupted,
//! rings live on after their end, completions find no room.
#![expect(unsafe_code, reason = "signals threads, and cancels behind the back of a ring")]

use std::fs;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use parkline_uring::{AsyncReceiver, Queue, RecvError, RecvTimeoutError, block_on};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

use crate::cancel::{Recv, begin, until};
use crate::peer::Peer;
use crate::refusals::Log;
use crate::runtimes::{Talk, converse, current_thread, echo, multi_thread, on_any_executor};

type SendRecv<'a> = Pin<Box<dyn Future<Output = Result<u64, RecvError>> + Send + 'a>>;

/// An hour: what is not woken hangs.
fn queue(handles: usize) -> Queue<u64> {
    let watchdog = Duration::from_secs(3600);
    let builder = Queue::builder().capacity(4).handles(handles).watchdog(watchdog);
    builder.create_typed().unwrap()
}

/// Lets a runtime see what the kernel has for it.
fn turn(runtime: &Runtime) {
    runtime.block_on(async {
        for _ in 0..1000 {
            yield_now().await;
        }
    });
}

/// A kernel may cancel what a thread has submitted when it exits, or not.
///
/// Fails if a wait that ended and was not woken is forgotten (seen failing: hangs).
#[test]
fn a_wait_outlives_the_thread_that_submitted_it() {
    for runtime in [current_thread(), multi_thread()] {
        let queue = queue(2);
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let mut waits: SendRecv<'_> = Box::pin(receiver.recv());
        let begin_elsewhere = || {
            let _entered = runtime.enter();
            begin(&mut waits)
        };
        let told = thread::scope(|scope| scope.spawn(begin_elsewhere).join().unwrap());
        turn(&runtime);
        let told = if told.0.load(Relaxed) {
            // Cancelled unasked. It waits again, by a thread that lives.
            runtime.block_on(async { begin(&mut waits) })
        } else {
            told
        };
        sender.try_send(&7).unwrap();
        runtime.block_on(until(&told));
        assert_eq!(runtime.block_on(waits), Ok(7));
    }
}

/// Fails if a wait that ended and was not woken is forgotten (seen failing: hangs).
#[test]
fn waits_that_are_cancelled_unasked_wait_again() {
    Peer::start("cancelled unasked", &[]).assert_success();
}

/// In a process of its own, whose rings are all to be cancelled.
pub(crate) fn cancelled_unasked() {
    let queue = queue(3);
    let mut sender = queue.sender().unwrap();
    let (mut first, mut second) = (queue.receiver().unwrap(), queue.receiver().unwrap());
    let runtime = current_thread();
    let tasks = [
        runtime.spawn(async move { first.recv().await }),
        runtime.spawn(async move { second.recv().await }),
    ];
    for _ in 0..100 {
        turn(&runtime);
        cancel_everything();
    }
    turn(&runtime);
    for message in [7, 7] {
        sender.try_send(&message).unwrap();
        turn(&runtime);
    }
    for task in tasks {
        assert_eq!(runtime.block_on(task).unwrap(), Ok(7));
    }
}

/// Cancels everything in all rings of this process.
fn cancel_everything() {
    const REGISTER_SYNC_CANCEL: u32 = 24;
    const ALL_AND_ANY: u32 = 1 << 0 | 1 << 2;
    #[repr(C)]
    #[derive(Default)]
    struct SyncCancel {
        address: u64,
        fd: i32,
        flags: u32,
        timeout: [i64; 2],
        padding: [u64; 4],
    }
    for entry in fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok) {
        let is_ring =
            fs::read_link(entry.path()).is_ok_and(|it| it.to_string_lossy().contains("io_uring"));
        if !is_ring {
            continue;
        }
        let fd: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let all = SyncCancel { flags: ALL_AND_ANY, timeout: [-1, -1], ..SyncCancel::default() };
        // SAFETY: `all` is what the kernel expects, and outlives the call. A ring of another thread
        // refuses.
        unsafe {
            libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_SYNC_CANCEL, &raw const all, 1)
        };
    }
}

/// Fails if an interrupted call is a failed ring (seen failing: it says so in the log).
#[test]
fn signals_all_the_time_disturb_nobody() {
    Peer::start("interrupted", &[]).assert_success();
}

/// In a process of its own, for the signals' sake.
pub(crate) fn interrupted() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeros are a sigaction: no flags, and so no restarts.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: `action` is valid, and its handler does nothing.
    let set = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).init();

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                signal_all_threads();
            }
        });
        let runs: [fn(Talk); 3] =
            [|talk| block_on(talk), |talk| current_thread().block_on(talk), on_any_executor];
        runs.into_iter().for_each(two_threads_talk);
        done.store(true, Relaxed);
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!log.contains("failed"), "{log}");
}

fn signal_all_threads() {
    for task in fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok) {
        let id: i64 = task.file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: no memory is passed. A thread that has ended gets none.
        unsafe {
            libc::syscall(libc::SYS_tgkill, i64::from(std::process::id()), id, libc::SIGUSR1)
        };
    }
}

fn two_threads_talk(run: fn(Talk)) {
    let (there, back) = (queue(2), queue(2));
    let (from, to) = (there.receiver().unwrap(), back.sender().unwrap());
    let other = thread::spawn(move || run(Box::pin(echo(from, to))));
    run(Box::pin(converse(there.sender().unwrap(), back.receiver().unwrap())));
    there.close().unwrap();
    other.join().unwrap();
}

/// Waits for a message of the first of two handles in `one`, whose wait the kernel would serve first,
/// and has `end` end that; the other gets the message all the same.
fn the_other_gets_it(end: impl Fn(Runtime, &mut Recv<'_>)) {
    let two = current_thread();
    for _ in 0..50 {
        // Arriving later it would wake all tasks.
        let queue = queue(3);
        let mut sender = queue.sender().unwrap();
        let (mut first, mut second) = (queue.receiver().unwrap(), queue.receiver().unwrap());
        // It waits in the ring at once, in `block_on` too.
        first.set_spin(Duration::ZERO);
        let (mut waits, mut other): (Recv<'_>, Recv<'_>) =
            (Box::pin(first.recv()), Box::pin(second.recv()));
        end(current_thread(), &mut waits);
        let told = two.block_on(async { begin(&mut other) });
        sender.try_send(&7).unwrap();
        two.block_on(until(&told));
        assert_eq!(two.block_on(other), Ok(7));
    }
}

/// Fails if a ring is closed without cancelling what flies, or if a thread keeps one in which a task
/// waits (each seen failing: hangs).
#[test]
fn a_ring_that_ends_with_waits_eats_no_wake() {
    the_other_gets_it(|one, waits| {
        one.block_on(async { begin(waits) });
        drop(one);
    });
    // The ring of `block_on` that a task leaves waiting.
    the_other_gets_it(|_, waits| {
        block_on(async {
            begin(waits);
            // The thread sleeps, and so tells the kernel of the wait.
            let mut idle = queue(1).receiver().unwrap();
            idle.set_spin(Duration::ZERO);
            let slept = idle.recv_timeout(Duration::from_millis(1)).await;
            assert_eq!(slept, Err(RecvTimeoutError::Timeout));
        });
    });
}

/// Fails if what had no room is not fetched (seen failing: hangs).
#[test]
fn more_waits_end_at_once_than_there_is_room_for() {
    const HANDLES: usize = 300;
    for run in [|waits| block_on(waits), |waits| current_thread().block_on(waits)]
        as [fn(Pin<Box<dyn Future<Output = ()>>>); 2]
    {
        let queue = queue(HANDLES);
        run(Box::pin(async move {
            let mut receivers: Vec<_> = (0..HANDLES).map(|_| queue.receiver().unwrap()).collect();
            let mut all: Vec<Recv<'_>> = Vec::new();
            for receiver in &mut receivers {
                all.push(Box::pin(receiver.recv()));
            }
            let told: Vec<_> = all.iter_mut().map(begin).collect();
            queue.close().unwrap();
            for (waits, told) in all.into_iter().zip(told) {
                until(&told).await;
                assert_eq!(waits.await, Err(RecvError::Closed));
            }
        }));
    }
}

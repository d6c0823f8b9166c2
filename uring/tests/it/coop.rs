//! Executors within a tokio task, whose budget only tokio renews, and runtimes without tokio's drivers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use parkline_uring::{AsyncReceiver, AsyncSender, Queue, RecvTimeoutError, block_on};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::peer::Peer;
use crate::refusals::Log;
use crate::runtimes::{Talk, current_thread, multi_thread, on_any_executor, with_a_process};

/// Several times what tokio lets a task do before the task must yield.
const OPERATIONS: u64 = 1_000;

/// An hour: what is not woken hangs.
fn queue() -> Queue<u64> {
    let watchdog = Duration::from_secs(3600);
    Queue::builder().capacity(2).watchdog(watchdog).create_typed().unwrap()
}

/// Each call finds what it needs.
async fn operations() {
    let queue = queue();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for n in 0..OPERATIONS {
        sender.send(&n).await.unwrap();
        assert_eq!(receiver.recv().await, Ok(n));
    }
}

/// Calls `within` in a task of each flavour of runtime.
fn in_a_task(within: fn()) {
    for runtime in [current_thread(), multi_thread()] {
        runtime.block_on(async move { tokio::spawn(async move { within() }).await.unwrap() });
    }
}

/// Fails if `block_on` leaves its future to the budget of the task around it (seen failing: hangs).
#[test]
fn block_on_within_a_tokio_task_goes_on_for_ever() {
    in_a_task(|| block_on(operations()));
}

/// Fails if `block_on` leaves its future to the budget of the task around it (seen failing: hangs).
#[test]
fn block_on_within_a_tokio_task_polls_what_is_of_tokio() {
    in_a_task(|| {
        block_on(async {
            let (there, mut here) = tokio::sync::mpsc::channel(1);
            for n in 0..OPERATIONS {
                there.send(n).await.unwrap();
                assert_eq!(here.recv().await, Some(n));
            }
        });
    });
}

/// Fails if a call without budget leaves its wake to tokio, which does not run meanwhile (seen
/// failing: hangs).
#[test]
fn any_executor_within_a_tokio_task_goes_on_for_ever() {
    in_a_task(|| on_any_executor(Box::pin(operations())));
    in_a_task(|| {
        block_on(async {
            on_any_executor(Box::pin(operations()));
        });
    });
}

/// The runtime drives the waits on its other thread.
///
/// Fails if a call without budget leaves its wake to tokio, or if the task that drives the ring lies
/// where only the thread in the other executor finds it (each seen failing: hangs).
#[test]
fn any_executor_within_a_tokio_task_waits() {
    let runtime = multi_thread();
    runtime.block_on(async {
        let talk = || with_a_process(on_any_executor);
        tokio::spawn(async move { talk() }).await.unwrap();
    });
}

#[test]
fn the_tasks_of_a_local_set_take_turns() {
    current_thread().block_on(LocalSet::new().run_until(async {
        let other = tokio::task::spawn_local(async {});
        let busy = tokio::task::spawn_local(async move {
            while !other.is_finished() {
                operations().await;
            }
        });
        busy.await.unwrap();
    }));
}

/// Counts how often it is called.
#[derive(Default)]
struct Calls(AtomicU32);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Fails if a call without budget goes on at once, because its task would keep others from running, or
/// if it never goes on (each seen failing).
#[test]
fn a_call_without_budget_yields_once() {
    current_thread().block_on(async {
        let queue = queue();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        sender.send(&7).await.unwrap();
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::coop::consume_budget().await;
        }
        let mut recv = Box::pin(receiver.recv());
        let calls = Arc::new(Calls::default());
        let waker = Waker::from(Arc::clone(&calls));
        let mut cx = Context::from_waker(&waker);
        assert!(recv.as_mut().poll(&mut cx).is_pending());
        assert_eq!(calls.0.load(Relaxed), 1);
        assert!(recv.as_mut().poll(&mut cx).is_ready());
    });
}

/// Without I/O and without timers.
fn bare() -> [Runtime; 2] {
    [
        Builder::new_current_thread().build().unwrap(),
        Builder::new_multi_thread().worker_threads(2).build().unwrap(),
    ]
}

async fn times_out() {
    let mut never = queue().receiver().unwrap();
    let timeout = never.recv_timeout(Duration::from_millis(3)).await;
    assert_eq!(timeout, Err(RecvTimeoutError::Timeout));
}

/// Fails if the panic of tokio is not caught (seen failing).
#[test]
fn a_runtime_without_io_waits_by_the_helper_thread() {
    for runtime in bare() {
        runtime.block_on(times_out());
        with_a_process(|talk: Talk| runtime.block_on(runtime.spawn(talk)).unwrap());
    }
}

/// Fails if it panics where no runtime has I/O, or says it at each wait (each seen failing).
#[test]
fn a_process_without_io_panics_nowhere_and_is_told_once_a_runtime() {
    Peer::start("bare runtimes", &[]).assert_success();
}

/// In a process of its own, where no runtime has I/O.
pub(crate) fn bare_runtimes() {
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).init();
    let runtimes = bare();
    for _ in 0..2 {
        runtimes.iter().for_each(|it| it.block_on(times_out()));
    }
    Builder::new_current_thread().build().unwrap().block_on(times_out());
    runtimes.iter().for_each(|it| it.block_on(times_out()));
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let told = match parkline_uring::backend() {
        parkline_uring::Backend::IoUring => 3,
        parkline_uring::Backend::Futex(_) => 0,
    };
    assert_eq!(log.matches("enable_io").count(), told, "{log}");
}

//! Processes that have no means left: they can open nothing, or have neither a ring nor a helper
//! thread. Each runs in a process of its own.

use std::fs::{self, File};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use parkline_uring::{
    AsyncReceiver, Backend, Queue, Receiver, RecvTimeoutError, backend, block_on,
};
use rustix::process::{Resource, Rlimit, chroot, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use crate::cancel::begin;
use crate::deaths::{leaser, until_a_waiter_is_there, watchdog};
use crate::peer::{Peer, inherited};
use crate::refusals::Log;
use crate::required::not_tried;
use crate::runtimes::{current_thread, multi_thread, on_any_executor};

const HOUR: Duration = Duration::from_secs(3600);

fn limit(resource: Resource, to: Option<u64>) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: to.or(maximum), maximum }).unwrap();
}

/// Waits, and can open nothing any more; then the holder of the job is killed.
fn survive(how: &str) {
    let queue = Queue::builder().watchdog(watchdog()).create_typed().unwrap();
    let news = Queue::builder().create_typed::<u64>().unwrap();
    let mut said = news.receiver().unwrap();
    // Arriving later it would wake the waiter.
    let side = queue.receiver().unwrap().side();
    queue.sender().unwrap().try_send(&7).unwrap();
    for runtime in ["block_on", "tokio"] {
        let holder = leaser(&queue);
        let waiter = Peer::start(&format!("deprived of {how} in {runtime}"), &[&queue, &news]);
        if said.recv_blocking().unwrap() == 0 {
            return not_tried("chroot", "no right to do so");
        }
        until_a_waiter_is_there(&side);
        drop(holder);
        waiter.assert_success();
    }
}

/// Fails if no description is kept for this (seen failing: it waits for ever).
#[test]
fn a_task_that_left_proc_by_chroot_gets_what_the_killed_had() {
    survive("proc");
}

/// Fails if no description is kept for this (seen failing: it waits for ever).
#[test]
fn a_task_that_used_up_its_descriptors_gets_what_the_killed_had() {
    survive("descriptors");
}

/// The waiter.
pub(crate) fn child(role: &str) {
    let (queue, mut news) = (inherited::<u64>(0), inherited::<u64>(1).sender().unwrap());
    let receiver = queue.receiver().unwrap();
    let side = receiver.side();
    let wait = |mut receiver: Receiver<u64>| async move {
        let mut again: Pin<Box<dyn Future<Output = u64> + Send + '_>> = Box::pin(async {
            let job = receiver.lease().await.unwrap();
            assert!(job.redelivered());
            // Not acknowledged: it comes back.
            job.read().unwrap()
        });
        // The pidfds are opened when it begins to wait: in `block_on`, after a spin.
        while side.gate().unwrap().word().load(Relaxed) & 1 == 0 {
            begin(&mut again);
            tokio::task::yield_now().await;
        }
        let deprived = match role.split_once(' ') {
            Some(("proc", _)) => chroot("/proc/self/fdinfo").map(|()| Vec::new()),
            _ => Ok(use_up_descriptors()),
        };
        news.try_send(&u64::from(deprived.is_ok())).unwrap();
        if deprived.is_ok() {
            assert_eq!(again.await, 7);
        }
    };
    if role.ends_with("tokio") {
        current_thread().block_on(wait(receiver));
    } else {
        block_on(wait(receiver));
    }
}

fn use_up_descriptors() -> Vec<File> {
    let mut all = vec![File::open("/dev/null").unwrap()];
    limit(Resource::Nofile, Some(64));
    while let Ok(more) = all[0].try_clone() {
        all.push(more);
    }
    all
}

/// Fails if it is said in each call (seen failing: 10 lines).
#[test]
fn threads_that_get_no_ring_say_it_once() {
    Peer::start("no rings", &[]).assert_success();
}

pub(crate) fn no_rings() {
    if let Backend::Futex(why) = backend() {
        return not_tried("io_uring", why);
    }
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).init();
    let _open = use_up_descriptors();
    for n in 0..10 {
        assert_eq!(block_on(async { n }), n);
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("no io_uring for this thread").count(), 1, "{log}");
}

/// Says it once and pauses, by whatever keeps time; waits in the kernel when it can.
///
/// Fails if a task polls without pause, and says so each time (seen failing: 30,000 lines).
#[test]
fn without_a_ring_and_a_thread_tasks_pause_and_say_it_once() {
    let mut command = Peer::prepare("no ring and no thread", &[]);
    // The helper's stack is beyond the limit on the address space, which is far from all else.
    command.env("PARKLINE_BACKEND", "futex").env("RUST_MIN_STACK", (1_u64 << 32).to_string());
    Peer(command.spawn().unwrap()).assert_success();
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) fn no_ring_and_no_thread() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).init();
    let queue = Queue::builder().handles(100).leases(1).watchdog(HOUR).create_typed().unwrap();
    let (sends, to_send) = mpsc::channel();
    let mut sender = queue.sender().unwrap();
    let small = || thread::Builder::new().stack_size(1 << 16);
    let send = move || to_send.into_iter().for_each(|message| sender.try_send(&message).unwrap());
    let sender = small().spawn(send).unwrap();
    // Its threads are there before the limit is.
    let many_threads = multi_thread();
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    limit(Resource::As, Some(pages * 4096 + (1 << 30)));
    assert!(thread::Builder::new().spawn(|| {}).is_err(), "no helper can be had");

    let without_timers = Builder::new_current_thread().build().unwrap();
    let runs: [&dyn Fn(Task); 5] = [
        &|task| block_on(task),
        &|task| on_any_executor(task),
        &|task| without_timers.block_on(task),
        &|task| current_thread().block_on(task),
        &|task| many_threads.block_on(task),
    ];
    for run in runs {
        let (mut receiver, sends) = (queue.receiver().unwrap(), sends.clone());
        run(Box::pin(async move {
            let waited = Duration::from_millis(200);
            let begin = Instant::now();
            let (timed_out, polls) = counted(receiver.recv_timeout(waited)).await;
            assert_eq!(timed_out, Err(RecvTimeoutError::Timeout));
            assert!(begin.elapsed() >= waited, "{:?}", begin.elapsed());
            // 1 + 2 + 4 + 8 ms, then 16 ms each; two polls a pause where the thread sleeps.
            assert!((2..=40).contains(&polls), "{polls} polls");
            sends.send(7).unwrap();
            assert_eq!(receiver.recv().await, Ok(7));
        }));
    }
    pauses_pass_at_the_same_time(&queue);
    a_runtime_with_timers_goes_on_meanwhile(&queue);
    let text = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text().matches("neither an io_uring nor a helper thread").count(), 1, "{}", text());
    assert!(text().lines().count() < 10, "{}", text());

    // There is a thread to be had again.
    limit(Resource::As, None);
    let mut receiver = queue.receiver().unwrap();
    block_on(async {
        let (timed_out, _) = counted(receiver.recv_timeout(Duration::from_millis(100))).await;
        assert_eq!(timed_out, Err(RecvTimeoutError::Timeout));
        sends.send(7).unwrap();
        let (received, polls) = counted(receiver.recv()).await;
        assert_eq!(received, Ok(7));
        assert!(polls <= 10, "{polls} polls");
    });
    let is_helper = |entry: fs::DirEntry| {
        fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name == "parkline\n")
    };
    let threads = fs::read_dir("/proc/self/task").unwrap();
    assert!(threads.filter_map(Result::ok).any(is_helper), "it waits in the helper thread");
    drop(sends);
    sender.join().unwrap();
}

/// What `future` comes to, and how often it was polled.
async fn counted<F: Future>(future: F) -> (F::Output, u32) {
    let mut future = pin!(future);
    let mut polls = 0;
    let output = poll_fn(|cx| {
        polls += 1;
        future.as_mut().poll(cx)
    });
    let output = output.await;
    (output, polls)
}

/// Fails if the thread sleeps in each poll, for each task anew (seen failing).
fn pauses_pass_at_the_same_time(queue: &Queue<u64>) {
    const TASKS: usize = 60;
    let mut receivers: Vec<_> = (0..TASKS).map(|_| queue.receiver().unwrap()).collect();
    let waited = Duration::from_millis(400);
    let mut tasks: Vec<_> =
        receivers.iter_mut().map(|it| Box::pin(counted(it.recv_timeout(waited)))).collect();
    let mut polls = Vec::new();
    block_on(poll_fn(|cx| {
        tasks.retain_mut(|task| match task.as_mut().poll(cx) {
            Poll::Ready((got, count)) => {
                assert_eq!(got, Err(RecvTimeoutError::Timeout));
                polls.push(count);
                false
            }
            Poll::Pending => true,
        });
        if tasks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }));
    assert_eq!(polls.len(), TASKS);
    // Some thirty pauses pass, fewer on a loaded machine; one if each task has the thread sleep.
    assert!(polls.iter().all(|count| *count > 4), "{polls:?}");
}

/// Fails if the runtime's thread sleeps although the runtime has timers (seen failing).
fn a_runtime_with_timers_goes_on_meanwhile(queue: &Queue<u64>) {
    let runtime: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let (is_over, turns) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut receiver = queue.receiver().unwrap();
    runtime.block_on(async {
        let waits = async {
            let waited = receiver.recv_timeout(Duration::from_millis(200)).await;
            assert_eq!(waited, Err(RecvTimeoutError::Timeout));
            is_over.store(true, Relaxed);
        };
        let works = async {
            while !is_over.load(Relaxed) {
                tokio::task::yield_now().await;
                turns.fetch_add(1, Relaxed);
            }
        };
        tokio::join!(waits, works);
    });
    assert!(turns.load(Relaxed) > 1000, "{} turns", turns.load(Relaxed));
}

//! One conversation, held in every runtime: with a task beside it, and with another process.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use parkline_uring::{
    AsyncCommit, AsyncPackSender, AsyncReceiver, AsyncReserve, AsyncSender, Pack, Queue, Receiver,
    RecvError, RecvTimeoutError, SendError, SendTimeoutError, Sender, block_on,
};

use crate::cancel::{Recv, begin, until};
use crate::endings::HOUR;
use crate::peer::{Peer, inherited};
use crate::required::not_tried;

const ROUNDS: u64 = 2_000;

fn queue() -> Queue<u64> {
    // An hour: a wake that is lost is not healed, and the test hangs.
    Queue::builder().capacity(2).watchdog(HOUR).create_typed().unwrap()
}

pub(crate) async fn echo(mut from: Receiver<u64>, mut to: Sender<u64>) {
    while let Ok(message) = from.recv().await {
        to.send(&message).await.unwrap();
    }
}

pub(crate) async fn converse(mut to: Sender<u64>, mut from: Receiver<u64>) {
    for n in 0..ROUNDS {
        to.send(&n).await.unwrap();
        assert_eq!(from.recv().await, Ok(n));
    }
}

/// Echoes from the first queue to the second until it is closed.
pub(crate) fn child() {
    let (from, to) =
        (inherited::<u64>(0).receiver().unwrap(), inherited::<u64>(1).sender().unwrap());
    block_on(echo(from, to));
}

pub(crate) type Talk = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The whole conversation with another process, run by `run`.
pub(crate) fn with_a_process(run: impl FnOnce(Talk)) {
    let (there, back) = (queue(), queue());
    let peer = Peer::start("echo", &[&there, &back]);
    let (to, from) = (there.sender().unwrap(), back.receiver().unwrap());
    run(Box::pin(async move {
        converse(to, from).await;
        there.close().unwrap();
    }));
    peer.assert_success();
}

pub(crate) fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn multi_thread() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Two tasks of one runtime talk through two queues.
async fn two_tasks() {
    let (there, back) = (queue(), queue());
    let (from, to) = (there.receiver().unwrap(), back.sender().unwrap());
    let echo = tokio::spawn(echo(from, to));
    let (to, from) = (there.sender().unwrap(), back.receiver().unwrap());
    tokio::spawn(converse(to, from)).await.unwrap();
    there.close().unwrap();
    echo.await.unwrap();
}

#[test]
fn block_on_talks_to_a_process() {
    with_a_process(block_on);
}

#[test]
fn tokio_current_thread_talks_to_a_process() {
    with_a_process(|talk| current_thread().block_on(talk));
}

#[test]
fn tokio_multi_thread_talks_to_a_process() {
    with_a_process(|talk| {
        let runtime = multi_thread();
        runtime.block_on(runtime.spawn(talk)).unwrap();
    });
}

#[test]
fn tokio_uring_talks_to_a_process() {
    match parkline_uring::backend() {
        parkline_uring::Backend::IoUring => with_a_process(tokio_uring::start),
        parkline_uring::Backend::Futex(why) => not_tried("io_uring", why),
    }
}

/// The simplest executor: one future, one thread.
struct Unparker(Thread);

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn any_other_executor_talks_to_a_process() {
    with_a_process(on_any_executor);
}

pub(crate) fn on_any_executor<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unparker(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

#[test]
fn tasks_of_one_runtime_talk() {
    current_thread().block_on(two_tasks());
    multi_thread().block_on(two_tasks());
}

#[test]
fn two_threads_in_block_on_talk() {
    let (there, back) = (queue(), queue());
    let (from, to) = (there.receiver().unwrap(), back.sender().unwrap());
    let other = thread::spawn(move || block_on(echo(from, to)));
    block_on(converse(there.sender().unwrap(), back.receiver().unwrap()));
    there.close().unwrap();
    other.join().unwrap();
}

/// Fails if the ring that `block_on` sleeps in does not wait for the unpark word (seen failing:
/// hangs).
#[test]
fn block_on_wakes_for_what_is_no_queue() {
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    async fn volley(to: UnboundedSender<u64>, mut from: UnboundedReceiver<u64>) {
        let queue = queue();
        let mut receiver = queue.receiver().unwrap();
        for n in 0..ROUNDS {
            to.send(n).unwrap();
            tokio::select! {
                got = from.recv() => assert_eq!(got, Some(n)),
                got = receiver.recv() => panic!("{got:?}"),
            }
        }
    }
    let (there, from_here) = unbounded_channel();
    let (back, from_there) = unbounded_channel();
    let other = thread::spawn(|| block_on(volley(back, from_here)));
    block_on(volley(there, from_there));
    other.join().unwrap();
}

/// Fails if the end of a runtime does not end its reactor (seen failing: hangs).
#[test]
fn a_runtime_that_ends_sends_those_who_wait_in_it_elsewhere() {
    let queue = queue();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let runtime = multi_thread();
    let handle = runtime.handle().clone();
    let (polled, was_polled) = std::sync::mpsc::channel();
    let other = thread::spawn(move || {
        let _entered = handle.enter();
        let mut recv = pin!(receiver.recv());
        let waker = Waker::from(Arc::new(Unparker(thread::current())));
        loop {
            if let Poll::Ready(got) = recv.as_mut().poll(&mut Context::from_waker(&waker)) {
                return got;
            }
            let _ = polled.send(());
            thread::park();
        }
    });
    was_polled.recv().unwrap();
    drop(runtime);
    sender.try_send(&7).unwrap();
    assert_eq!(other.join().unwrap(), Ok(7));
}

#[test]
fn block_on_within_block_on_and_tokio_within_it_are_served() {
    block_on(async {
        let (there, back) = (queue(), queue());
        let (from, to) = (there.receiver().unwrap(), back.sender().unwrap());
        let other = thread::spawn(move || block_on(async { block_on(echo(from, to)) }));
        let (to, from) = (there.sender().unwrap(), back.receiver().unwrap());
        current_thread().block_on(converse(to, from));
        there.close().unwrap();
        other.join().unwrap();
    });
}

/// Fails if a task goes on waiting where it was polled first (seen failing: hangs).
#[test]
fn a_wait_goes_where_its_task_is_polled() {
    let queue = queue();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    // It waits in the ring at once, in `block_on` too.
    receiver.set_spin(Duration::ZERO);
    let mut recv: Recv<'_> = Box::pin(receiver.recv());
    let (idle, driven) = (current_thread(), current_thread());
    idle.block_on(async { begin(&mut recv) });
    block_on(async { begin(&mut recv) });
    let told = driven.block_on(async { begin(&mut recv) });
    sender.try_send(&5).unwrap();
    driven.block_on(until(&told));
    assert_eq!(multi_thread().block_on(recv), Ok(5));
}

/// Fails if a runtime's end does not wait for what it cancelled (seen failing: no free handle is
/// left).
#[test]
fn runtimes_that_end_while_their_tasks_wait_leave_nothing_behind() {
    let queue: Queue<u64> = Queue::builder().handles(16).create_typed().unwrap();
    for _ in 0..50 {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(4).enable_all().build().unwrap();
        let (polled, was_polled) = std::sync::mpsc::channel();
        for _ in 0..8 {
            let (mut receiver, polled) = (queue.receiver().unwrap(), polled.clone());
            runtime.spawn(async move {
                tokio::join!(receiver.recv(), async { polled.send(()).unwrap() })
            });
        }
        (0..8).for_each(|_| was_polled.recv().unwrap());
        drop(runtime);
    }
    assert_eq!((0..16).filter_map(|_| queue.receiver().ok()).collect::<Vec<_>>().len(), 16);
}

/// Fails if waits that are always answered use no budget (seen failing: hangs).
#[test]
fn a_task_that_always_finds_a_message_lets_others_run() {
    current_thread().block_on(async {
        let queue = queue();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let other = tokio::spawn(async {});
        while !other.is_finished() {
            sender.send(&1).await.unwrap();
            receiver.recv().await.unwrap();
        }
    });
}

#[test]
fn deadlines_end_waits_in_every_runtime() {
    async fn waits() {
        let queue = queue();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        let soon = Duration::from_millis(3);
        let got = receiver.recv_timeout(soon).await;
        assert_eq!(got, Err(RecvTimeoutError::Timeout));
        let got = receiver.recv_deadline(std::time::Instant::now() + soon).await;
        assert_eq!(got, Err(RecvTimeoutError::Timeout));
        assert!(matches!(receiver.lease_timeout(soon).await, Err(RecvTimeoutError::Timeout)));
        assert_eq!(sender.send_many(&[1, 2, 3]).await, Ok(2));
        let got = sender.send_timeout(&3, soon).await;
        assert_eq!(got, Err(SendTimeoutError::Timeout(())));
        let mut all = Vec::new();
        assert_eq!(receiver.recv_many(&mut all, 10).await, Ok(2));
        assert_eq!(all, [1, 2]);
    }
    block_on(waits());
    current_thread().block_on(waits());
    multi_thread().block_on(async { tokio::spawn(waits()).await.unwrap() });
}

/// Fails if the call reads the queue first (seen failing).
#[test]
fn a_call_for_many_that_is_asked_for_none_is_ready_at_once() {
    let queue: Queue<u64> = Queue::builder().capacity(1).create_typed().unwrap();
    let packs = Queue::builder().capacity(1).create_typed::<Pack>().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut packer = packs.sender().unwrap();
    let mut ask = || {
        let mut messages = Vec::new();
        let mut once = Context::from_waker(Waker::noop());
        let received = pin!(receiver.recv_many(&mut messages, 0)).poll(&mut once);
        assert_eq!(received, Poll::Ready(Ok(0)));
        assert_eq!(pin!(sender.send_many(&[])).poll(&mut once), Poll::Ready(Ok(0)));
        assert_eq!(pin!(packer.send_packed([""; 0])).poll(&mut once), Poll::Ready(Ok(0)));
    };
    ask();
    queue.sender().unwrap().try_send(&1).unwrap();
    packs.sender().unwrap().try_send_packed(["full"]).unwrap();
    ask();
    queue.close().unwrap();
    packs.close().unwrap();
    ask();
}

#[test]
fn a_commit_waits_for_room_and_a_reservation_comes_back_from_a_closed_queue() {
    let queue = Queue::builder().capacity(1).max_message(8).watchdog(HOUR).create().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    block_on(async {
        let mut first = sender.reserve(5).await.unwrap();
        first.write_at(0, b"first");
        first.commit().await.unwrap();
        let soon = Duration::from_millis(1);
        let full = sender.reserve_timeout(1, soon).await;
        assert!(matches!(full, Err(SendTimeoutError::Timeout(()))));
        let mut second = sender.reserve_now(6).unwrap();
        second.write_at(0, b"second");
        let Err(SendTimeoutError::Timeout(second)) = second.commit_timeout(soon).await else {
            panic!("there is no room");
        };
        let room = thread::spawn(move || (receiver.recv_blocking().unwrap(), receiver));
        second.commit().await.unwrap();
        let (first, mut receiver) = room.join().unwrap();
        assert_eq!(first, b"first");
        assert_eq!(receiver.recv().await.unwrap(), b"second");
        queue.close().unwrap();
        let third = sender.reserve_now(1).unwrap().commit().await.unwrap_err();
        assert!(matches!(third, SendError::Closed(back) if back.len() == 1));
    });
}

/// Fails if a full queue is an answer (seen failing).
#[test]
fn a_pack_waits_for_room_and_is_sent_once() {
    let builder = Queue::builder().capacity(1).max_message(64).watchdog(HOUR);
    let queue = builder.create_typed::<Pack>().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    // It waits at the gate, and needs the wake.
    sender.set_spin(Duration::ZERO);
    let mut sender = sender.share();
    block_on(async {
        assert_eq!(sender.send_packed(["first"]).await.unwrap(), 1);
        let mut dropped = sender.clone();
        let mut dropped = Box::pin(dropped.send_packed(["dropped"]));
        begin(&mut dropped);
        drop(dropped);
        let mut waits = Box::pin(sender.send_packed(["second", "third"]));
        let told = begin(&mut waits);
        assert_eq!(receiver.recv().await.unwrap(), Pack::from_iter(["first"]));
        until(&told).await;
        assert_eq!(waits.await.unwrap(), 2);
        assert_eq!(receiver.recv().await.unwrap(), Pack::from_iter(["second", "third"]));
        queue.close().unwrap();
        assert_eq!(receiver.recv().await, Err(RecvError::Closed));
        assert_eq!(sender.send_packed(["late"]).await, Err(SendError::Closed(())));
    });
}

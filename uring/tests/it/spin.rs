//! A thread in `block_on` spins before it sleeps.

use std::future::poll_fn;
use std::hint::spin_loop;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use parkline_uring::{AsyncReceiver, AsyncSender, Queue, RecvTimeoutError, block_on};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use crate::cancel::{Recv, begin};
use crate::runtimes::{converse, echo};

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

fn queue() -> Queue<u64> {
    Queue::builder().capacity(2).watchdog(HOUR).create_typed().unwrap()
}

/// Fails if a task spins in its poll (seen failing: the message is sent when the time is over).
#[test]
fn a_spin_for_one_task_does_not_hold_up_the_tasks_beside_it() {
    let queue = queue();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    receiver.set_spin(HOUR);
    let send = async { sender.send(&1).await.unwrap() };
    let (received, ()) = block_on(async { tokio::join!(receiver.recv_timeout(PATIENCE), send) });
    assert_eq!(received, Ok(1));
}

/// Fails if the thread sleeps instead of spinning, or if it takes the notice of its own spin for that of
/// another thread (each seen failing).
#[test]
fn a_task_that_may_spin_for_long_does_not_wait_in_the_kernel() {
    let (there, back) = (queue(), queue());
    let (to, mut from) = (there.sender().unwrap(), back.receiver().unwrap());
    from.set_spin(HOUR);
    let echoes = {
        let (mut from, to) = (there.receiver().unwrap(), back.sender().unwrap());
        from.set_spin(HOUR);
        thread::spawn(move || block_on(echo(from, to)))
    };
    // A task of its own, so that it has to be woken.
    block_on(LocalSet::new().run_until(async {
        spawn_local(converse(to, from)).await.unwrap();
    }));
    there.close().unwrap();
    echoes.join().unwrap();
    assert_eq!((there.stats().parks, back.stats().parks), (0, 0));
}

/// Fails if the thread spins for a task of a handle that must not spin (seen failing).
#[test]
fn a_task_that_may_not_spin_announces_at_once() {
    let queue = queue();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    receiver.set_spin(Duration::ZERO);
    let side = receiver.side();
    let send = async {
        assert_eq!(side.gate().unwrap().word().load(Relaxed) & 1, 1, "it waits at the gate");
        sender.send(&1).await.unwrap();
    };
    let (received, ()) = block_on(async { tokio::join!(receiver.recv(), send) });
    assert_eq!(received, Ok(1));
}

/// Fails if a thread that always finds something while it spins does not submit the waits of its other
/// tasks, does not reap what is complete, or keeps no time (each seen failing: not in time).
#[test]
fn spins_that_always_succeed_do_not_hold_up_the_tasks_that_wait_in_the_kernel() {
    let (there, back, other) = (queue(), queue(), queue());
    let (mut to, mut from) = (there.sender().unwrap(), back.receiver().unwrap());
    let echoes = {
        let (from, to) = (there.receiver().unwrap(), back.sender().unwrap());
        thread::spawn(move || block_on(echo(from, to)))
    };
    let (idle, mut waits) = (queue(), other.receiver().unwrap());
    let mut times_out = idle.receiver().unwrap();
    times_out.set_spin(Duration::ZERO);
    let side = waits.side();
    let sends = {
        let mut sender = other.sender().unwrap();
        thread::spawn(move || {
            while side.gate().unwrap().word().load(Relaxed) & 1 == 0 {
                thread::yield_now();
            }
            sender.try_send(&7).unwrap();
        })
    };
    from.set_spin(HOUR);
    waits.set_spin(Duration::ZERO);
    let mut timing = Box::pin(times_out.recv_timeout(Duration::from_millis(5)));
    let mut waiting = Box::pin(waits.recv());
    block_on(async {
        let told = [begin(&mut timing), begin(&mut waiting)];
        let begun = Instant::now();
        while !told.iter().all(|told| told.0.load(Relaxed)) {
            to.send(&1).await.unwrap();
            from.recv().await.unwrap();
            assert!(begun.elapsed() < PATIENCE, "they were not woken");
        }
        assert_eq!(waiting.await, Ok(7));
        assert_eq!(timing.await, Err(RecvTimeoutError::Timeout));
    });
    there.close().unwrap();
    sends.join().unwrap();
    echoes.join().unwrap();
}

/// Fails if a call that ends forgets the tasks for which it would have spun (seen failing).
#[test]
fn a_task_for_which_no_thread_has_spun_is_woken_when_the_call_ends() {
    let queue = queue();
    let mut receiver = queue.receiver().unwrap();
    receiver.set_spin(HOUR);
    let mut recv: Recv<'_> = Box::pin(receiver.recv());
    let told = block_on(async { begin(&mut recv) });
    assert!(told.0.load(Relaxed), "and it can announce where it is polled next");
}

/// Fails if a thread that spins does not read the notices of other threads (seen failing: hangs).
#[test]
fn a_task_that_is_notified_while_the_thread_spins_runs_at_once() {
    let queue = queue();
    let mut receiver = queue.receiver().unwrap();
    receiver.set_spin(HOUR);
    let (polled, was_polled) = mpsc::channel::<oneshot::Sender<()>>();
    let other = thread::spawn(move || {
        // Later and later: some come while the thread spins.
        for (round, told) in was_polled.iter().enumerate() {
            (0..round * 100).for_each(|_| spin_loop());
            told.send(()).unwrap();
        }
    });
    for _ in 0..200 {
        let (told, is_told) = oneshot::channel();
        let notice = async {
            polled.send(told).unwrap();
            is_told.await.unwrap();
        };
        block_on(async {
            tokio::select! {
                biased;
                _ = receiver.recv() => panic!("there was nothing"),
                () = notice => {}
            }
        });
    }
    drop(polled);
    other.join().unwrap();
}

/// Fails if the thread does not search for the dead meanwhile (seen failing: not in time).
#[test]
fn a_thread_that_spins_searches_for_the_dead() {
    let builder = Queue::builder().capacity(1).watchdog(Duration::from_millis(1));
    let queue: Queue<u64> = builder.create_typed().unwrap();
    let mut sender = queue.sender().unwrap();
    let mut first = queue.receiver().unwrap();
    sender.try_send(&1).unwrap();
    let job = first.try_lease().unwrap();
    sender.try_send(&2).unwrap();
    let mut receiver = queue.receiver().unwrap();
    // Without room to go back, the record is left as if its process had died.
    drop(job);
    drop(first);
    receiver.set_spin(HOUR);
    block_on(async {
        assert_eq!(receiver.recv().await, Ok(2));
        assert_eq!(receiver.recv_timeout(PATIENCE).await, Ok(1));
    });
}

/// Receives, one after the other. The thread that wakes them polls them.
struct Inline {
    receives: Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>,
    is_over: AtomicBool,
    main: Waker,
}

impl Inline {
    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let mut receives = self.receives.lock().unwrap();
        if receives.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.is_over.store(true, Relaxed);
            self.main.wake_by_ref();
        }
    }
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

/// Fails if a task is forgotten that waits anew, polled by its waker within the spin (seen failing: hangs).
#[test]
fn the_thread_spins_again_for_a_task_that_its_waker_polls_at_once() {
    let queue = queue();
    let mut receiver = queue.receiver().unwrap();
    receiver.set_spin(HOUR);
    let mut sender = queue.sender().unwrap();
    let receives = Box::pin(async move {
        for n in 0..200 {
            assert_eq!(receiver.recv().await, Ok(n));
        }
    });
    let mut receives: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = Some(receives);
    let mut inline = None;
    let same = Queue::<u64>::open_typed(queue.try_clone_fd().unwrap()).unwrap();
    let sends = thread::spawn(move || {
        for n in 0..200 {
            sender.send_blocking(&n).unwrap();
            // Most are sent when the receiver waits again.
            while !same.is_empty() {
                thread::yield_now();
            }
        }
    });
    block_on(poll_fn(|cx| {
        if let Some(receives) = receives.take() {
            let (receives, main) = (Mutex::new(receives), cx.waker().clone());
            let made = Arc::new(Inline { receives, is_over: AtomicBool::new(false), main });
            made.poll();
            inline = Some(made);
        }
        let is_over = inline.as_ref().is_some_and(|it| it.is_over.load(Relaxed));
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    }));
    sends.join().unwrap();
}

//! What a thread in `block_on` does before it sleeps.

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
fn a_task_that_is_looked_for_does_not_keep_those_beside_it() {
    let queue = queue();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    receiver.set_spin(HOUR);
    let send = async { sender.send(&1).await.unwrap() };
    let (received, ()) = block_on(async { tokio::join!(receiver.recv_timeout(PATIENCE), send) });
    assert_eq!(received, Ok(1));
}

/// Fails if the thread does not look, but sleeps, or if it takes the notice of its own look for
/// somebody else's (each seen failing).
#[test]
fn who_may_spin_for_long_does_not_wait_in_the_kernel() {
    let (there, back) = (queue(), queue());
    let (to, mut from) = (there.sender().unwrap(), back.receiver().unwrap());
    from.set_spin(HOUR);
    let echoes = {
        let (mut from, to) = (there.receiver().unwrap(), back.sender().unwrap());
        from.set_spin(HOUR);
        thread::spawn(move || block_on(echo(from, to)))
    };
    // A task of its own, so that it has to be told.
    block_on(LocalSet::new().run_until(async {
        spawn_local(converse(to, from)).await.unwrap();
    }));
    there.close().unwrap();
    echoes.join().unwrap();
    assert_eq!((there.stats().parks, back.stats().parks), (0, 0));
}

/// Fails if somebody is looked for whose handle was told not to spin (seen failing).
#[test]
fn who_may_not_spin_announces_at_once() {
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

/// Fails if a thread that always finds something does not hand the waits of others over to the
/// kernel, does not fetch what has landed, or keeps no time (each seen failing: not in time).
#[test]
fn who_is_always_looked_for_in_time_does_not_keep_those_that_wait_in_the_kernel() {
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
            assert!(begun.elapsed() < PATIENCE, "nobody told them");
        }
        assert_eq!(waiting.await, Ok(7));
        assert_eq!(timing.await, Err(RecvTimeoutError::Timeout));
    });
    there.close().unwrap();
    sends.join().unwrap();
    echoes.join().unwrap();
}

/// Fails if a call that ends forgets whom it would have looked for (seen failing).
#[test]
fn whom_nobody_has_looked_for_is_told_when_the_call_ends() {
    let queue = queue();
    let mut receiver = queue.receiver().unwrap();
    receiver.set_spin(HOUR);
    let mut recv: Recv<'_> = Box::pin(receiver.recv());
    let told = block_on(async { begin(&mut recv) });
    assert!(told.0.load(Relaxed), "and it can announce where it is polled next");
}

/// Fails if a thread that looks does not see the notices of others (seen failing: hangs).
#[test]
fn who_is_notified_while_the_thread_looks_runs_at_once() {
    let queue = queue();
    let mut receiver = queue.receiver().unwrap();
    receiver.set_spin(HOUR);
    let (polled, was_polled) = mpsc::channel::<oneshot::Sender<()>>();
    let other = thread::spawn(move || {
        // Later and later: some come while the thread looks.
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

/// Fails if nobody looks for the dead meanwhile (seen failing: not in time).
#[test]
fn who_looks_looks_for_the_dead() {
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

/// Receives, one after the other, polled by whoever wakes them.
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

/// Fails if what waits anew, polled by its waker within the look, is forgotten (seen failing: hangs).
#[test]
fn a_waker_that_polls_its_task_at_once_is_looked_for_again() {
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

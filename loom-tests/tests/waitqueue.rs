//! Tasks of one process at one gate: a task that stops waiting hands on the wake that was meant for it.
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod models {
    use std::sync::Arc;

    use loom::sync::Mutex;
    use loom::thread;
    use parkline_core::driver::{Flag, HeapRing, Since, Wake};
    use parkline_loom_tests::{Futexes, Lane, Size, Task, model, ring};

    /// One handle that tasks share.
    struct Shared {
        ring: Arc<HeapRing>,
        turn: Mutex<()>,
    }

    fn try_recv(shared: &Shared) -> Option<u8> {
        let _turn = shared.turn.lock().unwrap();
        shared.ring.port(1).unwrap().try_recv().ok().map(|message| message[0])
    }

    fn send(ring: &HeapRing, kernel: &Futexes, messages: &[u8]) {
        let mut port = ring.port(0).unwrap();
        for message in messages {
            port.try_send(&[*message; 8]).unwrap();
            if let Some(wake) = ring.readable().notify(1) {
                wake.carry_out(kernel);
            }
        }
    }

    /// A task, on a thread of its own, that receives one message.
    fn task(lane: &Arc<Lane>, port: &Arc<Shared>) -> thread::JoinHandle<u8> {
        let (lane, port) = (Arc::clone(lane), Arc::clone(port));
        thread::spawn(move || {
            let mut place = None;
            Task::new().run(|waker| lane.poll(&mut place, waker, || try_recv(&port)))
        })
    }

    /// A queue, its kernel, and a process with one handle and one kernel wait.
    fn parts() -> (Arc<HeapRing>, Arc<Futexes>, Arc<Lane>, Arc<Shared>) {
        let (ring, kernel) = (ring(2), Arc::new(Futexes::default()));
        let lane = Lane::new(&ring, &kernel);
        let port = Arc::new(Shared { ring: Arc::clone(&ring), turn: Mutex::new(()) });
        (ring, kernel, lane, port)
    }

    /// Fails if `leave` does not hand on the duty (seen failing).
    #[test]
    fn two_tasks_of_one_handle_are_both_served() {
        model(Size::Large, || {
            let (ring, kernel, lane, port) = parts();
            let tasks = [task(&lane, &port), task(&lane, &port)];
            send(&ring, &kernel, &[1, 2]);
            let mut got = tasks.map(|task| task.join().unwrap());
            got.sort_unstable();
            assert_eq!(got, [1, 2]);
            assert!(lane.queue.is_idle(), "nothing stays armed");
        });
    }

    /// A task that is polled once and then dropped, as by `select!`.
    ///
    /// Fails if a dropped task keeps the duty (seen failing).
    #[test]
    fn a_cancelled_task_that_was_woken_passes_the_wake_on() {
        model(Size::Small, || {
            let (ring, kernel, lane, port) = parts();
            let doomed = {
                let (lane, port) = (Arc::clone(&lane), Arc::clone(&port));
                thread::spawn(move || {
                    let mut place = None;
                    let waker = Task::new().waker();
                    let got = lane.poll(&mut place, &waker, || try_recv(&port));
                    lane.leave(place);
                    got
                })
            };
            let other = task(&lane, &port);
            send(&ring, &kernel, &[1]);
            if doomed.join().unwrap().is_some() {
                // It was quicker than the cancel: the other task needs one more message.
                send(&ring, &kernel, &[1]);
            }
            assert_eq!(other.join().unwrap(), 1);
            assert!(lane.queue.is_idle(), "nothing stays armed");
        });
    }

    /// Two processes: the only task of the first is dropped. The second must not miss the message for which
    /// the first was woken.
    ///
    /// Fails if `leave` or `completed` passes nothing on, and if `leave` does not disarm (each seen
    /// failing).
    #[test]
    fn a_cancelled_task_passes_the_wake_on_to_another_process() {
        model(Size::Large, || {
            let (ring, kernel, lane, port) = parts();
            let doomed = {
                let (lane, port) = (Arc::clone(&lane), Arc::clone(&port));
                thread::spawn(move || {
                    let mut place = None;
                    let waker = Task::new().waker();
                    let got = lane.poll(&mut place, &waker, || try_recv(&port));
                    lane.leave(place);
                    got
                })
            };
            let elsewhere = Lane::new(&ring, &kernel);
            let other = {
                let (ring, lane) = (Arc::clone(&ring), Arc::clone(&elsewhere));
                thread::spawn(move || {
                    let mut port = ring.port(2).unwrap();
                    let mut place = None;
                    let mut attempt = || port.try_recv().ok().map(|message| message[0]);
                    Task::new().run(|waker| lane.poll(&mut place, waker, &mut attempt))
                })
            };
            send(&ring, &kernel, &[1]);
            if doomed.join().unwrap().is_some() {
                send(&ring, &kernel, &[1]);
            }
            assert_eq!(other.join().unwrap(), 1);
            assert!(lane.queue.is_idle() && elsewhere.queue.is_idle(), "nothing stays armed");
        });
    }

    /// A task that is woken and never polled again, as in a `select!` that polls another future.
    ///
    /// Fails if `tick` passes over those that rest (seen failing).
    #[test]
    fn a_task_that_is_never_polled_again_delays_the_others_until_the_watchdog() {
        model(Size::Small, || {
            let (ring, kernel, lane, port) = parts();
            let mut forgotten = None;
            let waker = Task::new().waker();
            let first = lane.poll(&mut forgotten, &waker, || try_recv(&port));
            assert_eq!(first, None);
            let other = task(&lane, &port);
            send(&ring, &kernel, &[1]);
            // The watchdog wakes a resting task. If the other task does not wait yet, no waker is there,
            // and the task attempts by itself.
            if let Some(waker) = lane.queue.tick() {
                waker.wake();
            }
            assert_eq!(other.join().unwrap(), 1);
            lane.leave(forgotten);
        });
    }

    /// Fails if a task that begins to wait rests although nothing is armed (seen failing).
    #[test]
    fn a_task_that_begins_to_wait_beside_one_that_is_never_polled_is_served() {
        model(Size::Small, || {
            let (ring, kernel, lane, port) = parts();
            let mut forgotten = None;
            let waker = Task::new().waker();
            assert_eq!(lane.poll(&mut forgotten, &waker, || try_recv(&port)), None);
            // The forgotten task gets the duty. Another process takes the message.
            send(&ring, &kernel, &[1]);
            assert_eq!(try_recv(&port), Some(1));
            let other = task(&lane, &port);
            send(&ring, &kernel, &[2]);
            assert_eq!(other.join().unwrap(), 2);
            lane.leave(forgotten);
        });
    }

    /// An event is set and cleared at once. A task that began to wait before must learn of the set, even if
    /// a task that began after it armed the kernel wait that they share.
    ///
    /// Fails if a task rests without an attempt when the kernel wait is armed already, or when another task
    /// armed it meanwhile, and if a completion rouses only the first task (each seen failing).
    #[test]
    fn each_task_learns_of_an_event_that_was_cleared_at_once() {
        model(Size::Small, || {
            let (ring, kernel) = (ring(2), Arc::new(Futexes::default()));
            let (lane, flag) = (Lane::for_all(&ring, &kernel), Arc::new(Flag::new()));
            let task = |began: Option<Since>| {
                let (lane, flag) = (Arc::clone(&lane), Arc::clone(&flag));
                thread::spawn(move || {
                    let since = began.unwrap_or_else(|| flag.since());
                    let mut place = None;
                    let look = || flag.was_set_since(since).then_some(());
                    Task::new().run(|waker| lane.poll(&mut place, waker, look));
                })
            };
            let (early, any_time) = (task(Some(flag.since())), task(None));
            let carry_out = |wake: Option<Wake<'_>>| {
                wake.into_iter().for_each(|wake| wake.carry_out(&*kernel));
            };
            carry_out(flag.set(ring.readable()));
            carry_out(flag.clear(ring.readable()));
            early.join().unwrap();
            carry_out(flag.set(ring.readable()));
            any_time.join().unwrap();
            assert!(lane.queue.is_idle(), "nothing stays armed");
        });
    }
}

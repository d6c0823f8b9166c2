//! An event's flag: a set wakes every waiter, also if the flag is cleared at once.
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod models {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use loom::thread;
    use parkline_core::driver::{Flag, Gate, Since, Wake, stop_after, wait_at};
    use parkline_loom_tests::{FOR_EVER, Futexes, Size, model};

    struct Event {
        flag: Flag,
        gate: Gate,
        kernel: Futexes,
    }

    impl Event {
        fn new() -> Arc<Self> {
            let (flag, gate, kernel) = (Flag::new(), Gate::new(), Futexes::default());
            Arc::new(Self { flag, gate, kernel })
        }

        fn carry_out(&self, wake: Option<Wake<'_>>) {
            if let Some(wake) = wake {
                wake.carry_out(&self.kernel);
            }
        }

        fn set(&self) {
            self.carry_out(self.flag.set(&self.gate));
        }

        fn clear(&self) {
            self.carry_out(self.flag.clear(&self.gate));
        }

        fn wait(&self, since: Since) {
            let attempt = || self.flag.was_set_since(since).then_some(());
            wait_at(&self.kernel, &self.gate, FOR_EVER, attempt, || false).unwrap();
        }
    }

    fn waiter(event: &Arc<Event>, since: Since) -> thread::JoinHandle<()> {
        let event = Arc::clone(event);
        thread::spawn(move || event.wait(since))
    }

    /// Fails if `set` notifies one (seen failing), if it notifies before the change (seen failing: the
    /// waiter announced in between), or if the waiter does not load the flag again after it announced:
    /// [announce].
    #[test]
    fn two_who_wait_are_woken_by_one_set() {
        model(Size::Small, || {
            let event = Event::new();
            let since = event.flag.since();
            let waiters = [waiter(&event, since), waiter(&event, since)];
            event.set();
            for waiter in waiters {
                waiter.join().unwrap();
            }
        });
    }

    /// Fails if `set` is Relaxed (seen failing): [set].
    #[test]
    fn who_finds_it_set_sees_what_came_before() {
        model(Size::Small, || {
            let (event, letter) = (Event::new(), Arc::new(AtomicU32::new(0)));
            let reader = {
                let (event, letter) = (Arc::clone(&event), Arc::clone(&letter));
                thread::spawn(move || {
                    event.wait(event.flag.since());
                    letter.load(Relaxed)
                })
            };
            letter.store(7, Relaxed);
            event.set();
            assert_eq!(reader.join().unwrap(), 7);
        });
    }

    /// Fails if a clear stores the word's old value again (seen failing): the waiter sleeps on.
    #[test]
    fn who_waits_is_woken_by_a_set_that_is_cleared_at_once() {
        model(Size::Small, || {
            let event = Event::new();
            let since = event.flag.since();
            let waiter = waiter(&event, since);
            event.set();
            event.clear();
            waiter.join().unwrap();
        });
    }

    /// The thread that set the flag died before its wake. In the second round so did a first thread that
    /// cleared it.
    ///
    /// Fails if a clear wakes no waiter, or only if it changes the flag (each seen failing).
    #[test]
    fn who_waits_is_woken_by_the_clear_where_others_died_before_their_wakes() {
        for clears in [0, 1] {
            model(Size::Small, move || {
                let event = Event::new();
                let since = event.flag.since();
                let waiter = waiter(&event, since);
                // A set is one access. A clear is two: a load and the exchange.
                let died = stop_after(1, || event.flag.set(&event.gate).is_some());
                assert!(died.is_err());
                for _ in 0..clears {
                    let died = stop_after(2, || event.flag.clear(&event.gate).is_some());
                    assert!(died.is_err());
                }
                event.clear();
                waiter.join().unwrap();
            });
        }
    }
}

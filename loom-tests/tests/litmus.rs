//! The orderings that loom does not tell apart: the SeqCst of the commit, of the gates and of the flag, the
//! barrier of joiners, and loads that can take effect late. Each program is recorded from the shipped code,
//! and names the orderings that it needs: with any one of them as weak as it says, the bad outcome is
//! possible.
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod programs {
    use loom::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};
    use parkline_core::driver::{Act, Flag, Gate, Sleep, Step, steps_of};
    use parkline_core::{TryRecvError, TrySendError};
    use parkline_loom_tests::litmus::{
        Event, Execution, Program, events, exchanged, load, membarrier, store,
    };
    use parkline_loom_tests::{Size, model, ring};

    const WAITERS: u64 = 1;

    fn address(gate: &Gate) -> usize {
        std::ptr::from_ref(gate.word()).addr()
    }

    /// The steps of a waiter that announces itself and then calls `look`.
    fn announced<R>(gate: &Gate, look: impl FnOnce() -> R) -> Vec<Step> {
        let ((_, _), steps) = steps_of(|| {
            let sleep: Sleep<'_> = gate.announce();
            (look(), drop(sleep))
        });
        steps
    }

    /// The steps up to the first load of `word`, that load included.
    fn to_load_of(word: usize, steps: &[Step]) -> Vec<Event> {
        let is_load = |step: &Step| step.word == word && matches!(step.act, Act::Load { .. });
        let last = steps.iter().position(is_load).expect("it loads");
        events(&steps[..=last])
    }

    /// The accesses to `word` alone.
    fn of_word(word: usize, steps: &[Step]) -> Vec<Event> {
        let steps: Vec<_> = steps.iter().copied().filter(|step| step.word == word).collect();
        events(&steps)
    }

    fn first_store(steps: &[Step]) -> (usize, u64) {
        let store = |step: &Step| match step.act {
            Act::Store { to } => Some((step.word, to)),
            _ => None,
        };
        steps.iter().find_map(store).expect("a store")
    }

    /// The fence orders the waiter's load of the slot. Only SeqCst orders the sender's load of the gate.
    ///
    /// Fails if the exchange is AcqRel, the gate's load Acquire, or the waiter's fence AcqRel or not there
    /// (each seen failing): [announce].
    #[test]
    fn a_receiver_that_parks_sees_the_message_or_the_sender_sees_the_receiver() {
        model(Size::Small, || {
            let ring = ring(1);
            let (mut sender, mut receiver) = (ring.port(0).unwrap(), ring.port(1).unwrap());
            let gate = ring.readable();
            let wait = announced(gate, || {
                assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
            });
            let ((), send) = steps_of(|| {
                sender.try_send(&[1; 8]).unwrap();
                drop(gate.notify(1));
            });
            let (slot, empty) = exchanged(&send);
            Program::default()
                .word("slot", slot, empty)
                .word("gate", address(gate), 0)
                .thread("send", to_load_of(address(gate), &send))
                .thread("wait", events(&wait))
                .forbids(
                    |run| {
                        run.first("send", "gate") & WAITERS == 0
                            && run.last("wait", "slot") == empty
                    },
                    &[
                        "send: change slot to AcqRel",
                        "send: load gate to Acquire",
                        "wait: fence to AcqRel",
                        "wait: fence to none",
                    ],
                );
        });
    }

    /// Fails as the test before (each seen failing).
    #[test]
    fn a_sender_that_parks_sees_the_room_or_the_receiver_sees_the_sender() {
        model(Size::Small, || {
            let ring = ring(1);
            let (mut sender, mut receiver) = (ring.port(0).unwrap(), ring.port(1).unwrap());
            sender.try_send(&[1; 8]).unwrap();
            let gate = ring.writable();
            let wait = announced(gate, || {
                assert_eq!(sender.try_send(&[2; 8]), Err(TrySendError::Full(())));
            });
            let ((), recv) = steps_of(|| {
                receiver.try_recv().unwrap();
                drop(gate.notify(1));
            });
            let (slot, full) = exchanged(&recv);
            Program::default()
                .word("slot", slot, full)
                .word("gate", address(gate), 0)
                .thread("recv", to_load_of(address(gate), &recv))
                .thread("wait", events(&wait))
                .forbids(
                    |run| {
                        run.first("recv", "gate") & WAITERS == 0 && run.last("wait", "slot") == full
                    },
                    &[
                        "recv: change slot to AcqRel",
                        "recv: load gate to Acquire",
                        "wait: fence to AcqRel",
                        "wait: fence to none",
                    ],
                );
        });
    }

    /// Fails if the exchange does not release (seen failing): [message]. The load of the slot before the
    /// receiver's exchange is enough to acquire.
    #[test]
    fn who_receives_a_message_sees_what_was_written() {
        model(Size::Small, || {
            let ring = ring(1);
            let (mut sender, mut receiver) = (ring.port(0).unwrap(), ring.port(1).unwrap());
            let ((), send) = steps_of(|| sender.try_send(&[1; 8]).unwrap());
            let (_, recv) = steps_of(|| receiver.try_hold().unwrap());
            let (slot, empty) = exchanged(&send);
            let payload = recv.last().unwrap().word;
            Program::default()
                .word("payload", payload, 0)
                .word("slot", slot, empty)
                .thread("send", events(&send))
                .thread("recv", events(&recv))
                .forbids(|run| run.last("recv", "payload") == 0, &["send: change slot to Acquire"]);
        });
    }

    /// A waiter that announces itself after the wake of a close sees that it is closed.
    ///
    /// Fails if the change of the epoch is Relaxed, or without the waiter's fence (each seen failing):
    /// [bump].
    #[test]
    fn who_announces_after_a_wake_sees_what_it_is_for() {
        model(Size::Small, || {
            let ring = ring(1);
            let mut receiver = ring.port(1).unwrap();
            let gate = ring.readable();
            let wait = announced(gate, || {
                assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
            });
            let ((), close) = steps_of(|| {
                ring.close();
                drop(gate.notify_all());
            });
            let (closing, _) = first_store(&close);
            Program::default()
                .word("closing", closing, 0)
                .word("gate", address(gate), 0)
                .thread("close", events(&close))
                .thread("wait", events(&wait))
                .forbids(
                    |run| run.last("wait", "gate") >= 2 && run.last("wait", "closing") == 0,
                    &["close: change gate to Relaxed", "wait: fence to none"],
                );
        });
    }

    struct Waitable {
        flag: Flag,
        gate: Gate,
    }

    /// The word of a flag, and the steps of a waiter that began when it was not set.
    fn flag() -> (Box<Waitable>, usize, Vec<Step>) {
        let event = Box::new(Waitable { flag: Flag::new(), gate: Gate::new() });
        let (since, steps) = steps_of(|| event.flag.since());
        let word = steps[0].word;
        let wait = announced(&event.gate, || assert!(!event.flag.was_set_since(since)));
        (event, word, wait)
    }

    fn set(event: &Waitable) -> Vec<Step> {
        steps_of(|| drop(event.flag.set(&event.gate))).1
    }

    fn clear(event: &Waitable) -> Vec<Step> {
        steps_of(|| drop(event.flag.clear(&event.gate))).1
    }

    /// Fails if the set is AcqRel or the gate's load Acquire (each seen failing): [announce].
    #[test]
    fn who_waits_for_a_flag_sees_it_or_is_seen() {
        model(Size::Small, || {
            let (event, word, wait) = flag();
            let gate = address(&event.gate);
            Program::default()
                .word("flag", word, 0)
                .word("gate", gate, 0)
                .thread("set", to_load_of(gate, &set(&event)))
                .thread("wait", events(&wait))
                .forbids(
                    |run| run.last("set", "gate") & WAITERS == 0 && run.last("wait", "flag") == 0,
                    &[
                        "set: change flag to AcqRel",
                        "set: load gate to Acquire",
                        "wait: fence to AcqRel",
                        "wait: fence to none",
                    ],
                );
        });
    }

    /// The threads that took the steps of `dead` died before their wakes. A clear that finds the flag as
    /// `found` sees the waiter and wakes it, or the waiter sees a change of the flag. With any one of
    /// `weaker`, neither may happen.
    fn a_clear_that_finds(found: u64, dead: fn(&Waitable) -> Vec<Step>, weaker: &[&str]) {
        let (event, word, wait) = flag();
        let gate = address(&event.gate);
        let (dead, clear) = (of_word(word, &dead(&event)), clear(&event));
        let missed = |run: &Execution<'_>| {
            run.first("clear", "flag") == found
                && run.last("clear", "gate") & WAITERS == 0
                && run.last("wait", "flag") == 0
        };
        Program::default()
            .word("flag", word, 0)
            .word("gate", gate, 0)
            .thread("dead", dead)
            .thread("clear", to_load_of(gate, &clear))
            .thread("wait", events(&wait))
            .forbids(missed, weaker);
    }

    /// The threads that set and cleared the flag died. A second clear changes nothing, and must wake the
    /// waiter all the same.
    ///
    /// Fails if the load of a clear is Acquire (seen failing): [announce].
    #[test]
    fn who_clears_what_is_cleared_sees_who_waits_since_before_it_was_set() {
        model(Size::Small, || {
            a_clear_that_finds(
                2,
                |event| [set(event), clear(event)].concat(),
                &[
                    "dead: change flag to AcqRel",
                    "dead: load flag to Acquire",
                    "clear: load gate to Acquire",
                    "wait: fence to AcqRel",
                    "wait: fence to none",
                ],
            );
        });
    }

    /// The same with a flag that is set, and that the clear clears.
    ///
    /// Fails if the load of a clear is Acquire (seen failing): [announce].
    #[test]
    fn who_clears_what_was_set_sees_who_waits_since_before() {
        model(Size::Small, || {
            a_clear_that_finds(
                1,
                set,
                &[
                    "clear: load flag to Acquire",
                    "clear: load gate to Acquire",
                    "dead: change flag to AcqRel",
                    "wait: fence to AcqRel",
                    "wait: fence to none",
                ],
            );
        });
    }

    /// A word that only the program uses: no address is 1.
    const LETTER: usize = 1;

    /// Fails if the load of `was_set_since`, or of `is_set`, is Relaxed (each seen failing): [set].
    #[test]
    fn who_finds_a_flag_set_sees_what_came_before() {
        model(Size::Small, || {
            let (event, word, _) = flag();
            let since = event.flag.since();
            let set = of_word(word, &set(&event));
            let (_, is_set) = steps_of(|| event.flag.is_set());
            let (_, was_set) = steps_of(|| event.flag.was_set_since(since));
            for look in [is_set, was_set] {
                Program::default()
                    .word("flag", word, 0)
                    .word("letter", LETTER, 0)
                    .thread("set", [vec![store(LETTER, 1)], set.clone()].concat())
                    .thread("look", [events(&look), vec![load(LETTER)]].concat())
                    .forbids(
                        |run| run.last("look", "flag") == 1 && run.last("look", "letter") == 0,
                        &["look: load flag to Relaxed"],
                    );
            }
        });
    }

    /// Two threads set the flag, and both leave the same word. A clear acquires the later set, too.
    ///
    /// Fails if the exchange is Relaxed (seen failing): [set].
    #[test]
    fn who_clears_a_flag_sees_what_came_before_the_set() {
        model(Size::Small, || {
            let (event, word, _) = flag();
            let first = of_word(word, &set(&event));
            let second = [vec![store(LETTER, 1)], of_word(word, &set(&event))].concat();
            let clear = [of_word(word, &clear(&event)), vec![load(LETTER)]].concat();
            Program::default()
                .word("flag", word, 0)
                .word("letter", LETTER, 0)
                .thread("first", first)
                .thread("second", second)
                .thread("clear", clear)
                .forbids(
                    |run| {
                        run.last_is_from("clear", "flag", "second")
                            && run.last("clear", "letter") == 0
                    },
                    &["clear: change flag to Relaxed"],
                );
        });
    }

    /// The change before this wake is no commit.
    ///
    /// Fails if the fence is AcqRel or not there, and if the arrival notifies as a commit does (each seen
    /// failing): [announce].
    #[test]
    fn who_waits_sees_that_a_handle_arrived_or_is_seen() {
        model(Size::Small, || {
            let ring = ring(1);
            let gate = ring.readable();
            let wait = announced(gate, || assert_eq!(ring.arrivals(), 0));
            let arrivals = wait.last().unwrap().word;
            let ((), arrive) = steps_of(|| drop(ring.arrive(0, 7)));
            Program::default()
                .word("arrivals", arrivals, 0)
                .word("gate", address(gate), 0)
                .thread("notify", to_load_of(address(gate), &arrive))
                .thread("wait", events(&wait))
                .forbids(
                    |run| {
                        run.last("notify", "gate") & WAITERS == 0
                            && run.last("wait", "arrivals") == 0
                    },
                    &[
                        "notify: fence to AcqRel",
                        "notify: fence to none",
                        "wait: fence to AcqRel",
                        "wait: fence to none",
                    ],
                );
        });
    }

    /// A lease is acknowledged on another thread than its receiver's. The receiver parks the block in a
    /// slot, and the next sender writes into it. The read of the lease must not take effect that late.
    ///
    /// Fails if the store to the cell, or the receiver's load of it, is Relaxed, and if the exchange does not
    /// release (each seen failing): [space]. The load of the slot before the exchange is enough to acquire.
    #[test]
    fn a_lease_that_another_thread_acknowledged_was_read_before() {
        model(Size::Small, || {
            let ring = ring(1);
            let mut sender = ring.port(1).unwrap();
            sender.try_send(&[1; 8]).unwrap();
            let (mut port, leases) = ring.port_for_two(0).unwrap();
            let ((held, _), first) = steps_of(|| port.try_hold().unwrap());
            sender.try_send(&[2; 8]).unwrap();
            let payload = first.last().unwrap().word;
            let ((), acknowledge) = steps_of(|| leases.acknowledge(held));
            let (second, recv) = steps_of(|| port.try_hold().unwrap());
            assert_eq!(second.0, held, "the cell is used again");
            let cell = recv[0].word;
            assert!(acknowledge.iter().any(|step| step.word == cell));
            let ((), send) = steps_of(|| {
                sender.try_send(&[3; 8]).unwrap();
                sender.try_send(&[4; 8]).unwrap_err();
            });
            let (slot, full) = exchanged(&recv);
            let freed = |step: &Step| match step.act {
                Act::Store { to } if step.word == cell => Some(to),
                _ => None,
            };
            let freed = acknowledge.iter().find_map(freed).unwrap();
            let is_written =
                |step: &Step| step.word == payload && matches!(step.act, Act::Store { .. });
            assert!(send.iter().any(is_written), "the sender has the block");
            let exchange = recv.iter().position(|it| matches!(it.act, Act::Exchange { .. }));
            Program::default()
                .word("payload", payload, u64::from_ne_bytes([1; 8]))
                .word("cell", cell, u64::MAX)
                .word("slot", slot, full)
                .thread("lease", [vec![load(payload)], events(&acknowledge)].concat())
                .thread("recv", events(&recv[..=exchange.unwrap()]))
                .thread("send", events(&send))
                .forbids(
                    |run| {
                        run.last("recv", "cell") == freed
                            && run.last("lease", "payload") == u64::from_ne_bytes([4; 8])
                    },
                    &[
                        "lease: store cell to Relaxed",
                        "lease: load cell to Relaxed",
                        "recv: change slot to Acquire",
                    ],
                );
        });
    }

    /// An acknowledgement is a plain store: the barrier of the joiner orders it.
    ///
    /// Fails if the compiler may move the load before the store (seen failing), and without the joiner's
    /// barrier: [announce].
    #[test]
    fn a_joiner_sees_the_acknowledgement_or_is_seen() {
        model(Size::Small, || {
            let ring = ring(1);
            ring.port(1).unwrap().try_send(&[1; 8]).unwrap();
            let (mut port, leases) = ring.port_for_two(0).unwrap();
            let (held, _) = port.try_hold().unwrap();
            let gate = ring.acknowledged();
            let announce = announced(gate, || {});
            let mut join = ring.join();
            let (is_done, look) = steps_of(|| join.is_done());
            assert!(!is_done);
            let ((), acknowledge) = steps_of(|| {
                leases.acknowledge(held);
                drop(gate.notify_of_store(u32::MAX));
            });
            let (cell, free) = first_store(&acknowledge);
            let wait = |barrier: &[Event]| [&*events(&announce), barrier, &*events(&look)].concat();
            let program = |barrier: &[Event]| {
                Program::default()
                    .word("cell", cell, !free)
                    .word("gate", address(gate), 0)
                    .thread("acknowledge", to_load_of(address(gate), &acknowledge))
                    .thread("join", wait(barrier))
            };
            let bad = |run: &Execution<'_>| {
                run.last("acknowledge", "gate") & WAITERS == 0 && run.last("join", "cell") != free
            };
            program(&[membarrier()])
                .forbids(bad, &["acknowledge: fence to AcqRel", "acknowledge: fence to none"]);
            assert!(program(&[]).allows(&bad));
        });
    }

    #[track_caller]
    fn step(word: usize, act: Act, order: Ordering) -> Event {
        Step { word, act, order, at: std::panic::Location::caller() }.into()
    }

    fn w(word: usize, order: Ordering) -> Event {
        step(word, Act::Store { to: 1 }, order)
    }

    fn r(word: usize, order: Ordering) -> Event {
        step(word, Act::Load { found: 0 }, order)
    }

    fn f(order: Ordering) -> Event {
        step(0, Act::Fence, order)
    }

    fn of<const N: usize>(threads: [Vec<Event>; N]) -> Program {
        let names = ["0", "1", "2", "3"];
        let program = Program::default().word("x", 1, 0).word("y", 2, 0);
        names.into_iter().zip(threads).fold(program, |it, (name, events)| it.thread(name, events))
    }

    /// The enumerator itself, on programs with well-known answers.
    #[test]
    fn well_known_programs_have_their_outcomes() {
        // Store buffering.
        let both_miss = |run: &Execution<'_>| run.last("0", "y") == 0 && run.last("1", "x") == 0;
        let buffered = |w1, r1| of([vec![w(1, w1), r(2, r1)], vec![w(2, w1), r(1, r1)]]);
        assert!(!buffered(SeqCst, SeqCst).allows(&both_miss));
        assert!(buffered(Release, SeqCst).allows(&both_miss));
        assert!(buffered(SeqCst, Acquire).allows(&both_miss));
        let fenced = |order| {
            let thread = |mine, other| vec![w(mine, Relaxed), f(order), r(other, Relaxed)];
            of([thread(1, 2), thread(2, 1)])
        };
        assert!(!fenced(SeqCst).allows(&both_miss));
        assert!(fenced(AcqRel).allows(&both_miss));
        // Message passing, by accesses and by fences.
        let missed = |run: &Execution<'_>| run.last("1", "y") == 1 && run.last("1", "x") == 0;
        let passed = |w2, r2| of([vec![w(1, Relaxed), w(2, w2)], vec![r(2, r2), r(1, Relaxed)]]);
        assert!(!passed(Release, Acquire).allows(&missed));
        assert!(passed(Relaxed, Acquire).allows(&missed));
        assert!(passed(Release, Relaxed).allows(&missed));
        let by_fences = of([
            vec![w(1, Relaxed), f(Release), w(2, Relaxed)],
            vec![r(2, Relaxed), f(Acquire), r(1, Relaxed)],
        ]);
        assert!(!by_fences.allows(&missed));
        // Through a Relaxed read-modify-write of a third thread.
        let add = step(2, Act::Add { found: 0, more: 1 }, Relaxed);
        let through = |other: Event| {
            of([
                vec![w(1, Relaxed), w(2, Release)],
                vec![other],
                vec![r(2, Acquire), r(1, Relaxed)],
            ])
        };
        let missed_two = |run: &Execution<'_>| run.last("2", "y") == 2 && run.last("2", "x") == 0;
        assert!(!through(add).allows(&missed_two));
        assert!(through(step(2, Act::Store { to: 2 }, Relaxed)).allows(&missed_two));
        // Load buffering: loads that take effect late.
        let both_see = |run: &Execution<'_>| run.last("0", "x") == 1 && run.last("1", "y") == 1;
        let late = |read, write| of([vec![r(1, read), w(2, write)], vec![r(2, read), w(1, write)]]);
        assert!(late(Relaxed, Relaxed).allows(&both_see));
        assert!(!late(Acquire, Release).allows(&both_see));
        // Independent reads of independent writes: two threads see two stores in different orders.
        let differ = |run: &Execution<'_>| {
            run.last("2", "x") == 1
                && run.last("2", "y") == 0
                && run.last("3", "y") == 1
                && run.last("3", "x") == 0
        };
        let independent = |write, read| {
            let reads = |first, second| vec![r(first, read), r(second, read)];
            of([vec![w(1, write)], vec![w(2, write)], reads(1, 2), reads(2, 1)])
        };
        assert!(!independent(SeqCst, SeqCst).allows(&differ));
        assert!(independent(Release, Acquire).allows(&differ));
        // Coherence: two loads of a word do not go back.
        let back = |run: &Execution<'_>| run.first("1", "x") == 1 && run.last("1", "x") == 0;
        let again = of([vec![w(1, Relaxed)], vec![r(1, Relaxed), r(1, Relaxed)]]);
        assert!(!again.allows(&back));
        // Two read-modify-writes do not find the same value.
        let same = |run: &Execution<'_>| run.last("0", "x") == run.last("1", "x");
        let add = |order| vec![step(1, Act::Add { found: 0, more: 1 }, order)];
        assert!(!of([add(Relaxed), add(Relaxed)]).allows(&same));
    }
}

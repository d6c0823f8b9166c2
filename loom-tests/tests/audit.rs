//! The audit of a dead handle, and the returns and joins after it: the shipped code, with a thread that
//! stops for ever at any access, and an auditor that also stops. `recovery.rs` checks the same protocol
//! with more handles and more deaths, as a model.
#![cfg_attr(not(loom), allow(missing_docs))]

parkline_loom_tests::guard!();

#[cfg(loom)]
mod models {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use loom::thread;
    use parkline_core::TryRecvError;
    use parkline_core::driver::{HeapPort, HeapRing, Stopped, stop_after, wait_at};
    use parkline_loom_tests::{FOR_EVER, Futexes, Size, at_every_step, model, ring};

    /// More accesses than a return has.
    const STEPS_OF_A_RETURN: usize = 24;

    /// A thread that runs `operation` as handle 0 and stops for ever after so many accesses.
    fn victim<R: Send + 'static>(
        ring: &Arc<HeapRing>,
        steps: usize,
        operation: impl FnOnce(&HeapRing) -> R + Send + 'static,
    ) -> thread::JoinHandle<Result<R, Stopped>> {
        let ring = Arc::clone(ring);
        thread::spawn(move || stop_after(steps, || operation(&ring)))
    }

    /// Sends as handle 1, so that no block gets the tag of handle 0.
    fn send(ring: &HeapRing, message: u8) {
        ring.port(1).unwrap().try_send(&[message; 8]).unwrap();
    }

    /// Audits the dead handle until the audit is done. No other thread runs meanwhile.
    fn recover(ring: &HeapRing) {
        let (_, left) = ring.recover(0).expect("nobody else is in the midst of anything");
        assert_eq!(left, 0, "there is room");
    }

    /// All that can be received, with the flag of each.
    fn rest(ring: &HeapRing) -> Vec<(u8, bool)> {
        let mut port = ring.port(2).unwrap();
        let mut messages = Vec::new();
        while let Ok((cell, message)) = port.try_hold() {
            assert_eq!(message, [message[0]; 8], "torn");
            messages.push((message[0], port.comes_again(cell)));
            port.acknowledge(cell);
        }
        messages
    }

    fn notify_joiners(ring: &HeapRing, kernel: &Futexes) {
        if let Some(wake) = ring.acknowledged().notify_of_store(u32::MAX) {
            wake.carry_out(kernel);
        }
    }

    fn assert_whole(ring: &HeapRing) {
        let census = ring.census().expect("every block is in one place");
        assert_eq!((census.busy, census.held), (0, 0), "and nothing is held by the dead");
    }

    /// Other handles use the slots at the same time as the audit.
    ///
    /// Fails if an audit takes a slot that has moved on for an exchange that did not happen (seen failing),
    /// or the reverse; if it does not ask whether another word announces the offer (seen failing), or if
    /// the winner of an exchange leaves no tag (seen failing).
    #[test]
    fn a_sender_that_stops_is_audited_while_others_go_on() {
        at_every_step(Size::Small, |steps| {
            let ring = ring(1);
            let victim =
                victim(&ring, steps, |ring| ring.port(0).unwrap().try_send(&[1; 8]).is_ok());
            let other = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let mut port = ring.port(1).unwrap();
                    let got = port.try_recv().ok().map(|message| message[0]);
                    port.try_send(&[2; 8]).is_ok().then_some(2).into_iter().chain(got).collect()
                })
            };
            let end = victim.join().unwrap();
            // The audit may have to wait for the other handle.
            let early = ring.recover(0);
            let others: Vec<u8> = other.join().unwrap();
            if early.is_none() {
                recover(&ring);
            }
            let rest = rest(&ring);
            assert_whole(&ring);
            let sent = |message| others.contains(&message) || rest.contains(&(message, false));
            assert!(end != Ok(true) || sent(1), "what was committed is there");
            assert!(end != Ok(false) || !sent(1), "what was refused is not");
            assert!(!others.contains(&2) || rest.contains(&(2, false)));
            assert_eq!(rest.len() + others.len(), usize::from(sent(1)) + 2 * usize::from(sent(2)));
            end == Err(Stopped)
        });
    }

    /// Fails if a receive that was exchanged is settled as a free cell (seen failing: the message is
    /// lost), if it is not flagged (seen failing), or if held messages are not returned (seen failing).
    #[test]
    fn what_a_receiver_took_and_did_not_acknowledge_comes_again() {
        at_every_step(Size::Small, |steps| {
            let ring = ring(2);
            send(&ring, 1);
            send(&ring, 2);
            let victim = victim(&ring, steps, |ring| {
                let (_, message) = ring.port(0).unwrap().try_hold().unwrap();
                message[0]
            });
            let mine = {
                let mut port = ring.port(1).unwrap();
                let (cell, message) = port.try_hold().unwrap();
                assert!(!port.comes_again(cell), "nobody had it before");
                port.acknowledge(cell);
                message[0]
            };
            let end = victim.join().unwrap();
            recover(&ring);
            let rest = rest(&ring);
            assert_whole(&ring);
            // The living receive each of the two messages once. The dead handle's message is flagged.
            let mut all: Vec<_> = rest.iter().map(|(message, _)| *message).chain([mine]).collect();
            all.sort_unstable();
            assert_eq!(all, [1, 2]);
            let is_flagged = rest[0].1;
            assert!(!is_flagged || end == Err(Stopped) || end == Ok(rest[0].0));
            assert!(end.is_err() || is_flagged, "it had it");
            end == Err(Stopped)
        });
    }

    /// The death of an auditor is one more death of the same record.
    ///
    /// Fails if the return's exchange is not announced (seen failing: a block is in two places), if
    /// an audit clears `op` before the cell (seen failing), or if it does not tag the gained block (seen
    /// failing: the next audit of the record is misled).
    #[test]
    fn an_auditor_that_stops_is_audited_by_the_next() {
        // One message is held, and another is being received.
        for steps in 0..16 {
            at_every_step(Size::Large, move |auditor_steps| {
                let ring = ring(2);
                send(&ring, 1);
                send(&ring, 2);
                let victim = victim(&ring, usize::MAX, move |ring| {
                    let mut port = ring.port(0).unwrap();
                    port.try_hold().unwrap();
                    stop_after(steps, || port.try_hold().unwrap()).is_ok()
                });
                let had_both = victim.join().unwrap().unwrap();
                let auditor = {
                    let ring = Arc::clone(&ring);
                    thread::spawn(move || stop_after(auditor_steps, || ring.recover(0).unwrap()))
                };
                let mut port = ring.port(1).unwrap();
                let early = port.try_hold().ok().map(|(cell, message)| {
                    let is_flagged = port.comes_again(cell);
                    port.acknowledge(cell);
                    (message[0], is_flagged)
                });
                let end = auditor.join().unwrap();
                recover(&ring);
                let rest = rest(&ring);
                assert_whole(&ring);
                let mut all: Vec<_> = early.into_iter().chain(rest).collect();
                all.sort_unstable();
                let [(1, true), (2, is_flagged)] = all[..] else { panic!("{all:?}") };
                assert!(!had_both || is_flagged);
                end == Err(Stopped)
            });
        }
    }

    /// All that can be received, with the id of each.
    fn rest_by_id(ring: &HeapRing) -> Vec<(u64, u8)> {
        let mut port = ring.port(2).unwrap();
        let mut messages = Vec::new();
        while let Ok((cell, message)) = port.try_hold() {
            messages.push((port.id_of(cell).unwrap(), message[0]));
            port.acknowledge(cell);
        }
        messages
    }

    /// A sender stops anywhere, beside another to which it may lose its exchange. The next owner of its
    /// record sends, too.
    ///
    /// Fails if the number is reserved after the exchange, or if the audit takes one back that it finds
    /// not exchanged (each seen failing: two messages have one id); if a lost exchange leaves a gap, or
    /// is counted twice (each seen failing: the last id).
    #[test]
    fn the_next_owner_of_a_record_repeats_no_id() {
        at_every_step(Size::Small, |steps| {
            let ring = ring(4);
            let victim =
                victim(&ring, steps, |ring| ring.port(0).unwrap().try_send(&[1; 8]).unwrap());
            send(&ring, 2);
            let end = victim.join().unwrap();
            recover(&ring);
            ring.port(0).unwrap().try_send(&[3; 8]).unwrap();
            let rest = rest_by_id(&ring);
            let ids: BTreeSet<_> = rest.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids.len(), rest.len(), "two messages have one id: {rest:?}");
            // The next owner goes on where the last one ended, at most one number further.
            let id_of =
                |asked| rest.iter().find(|(_, message)| *message == asked).map(|(id, _)| *id);
            let (first, last) = (id_of(1), id_of(3).unwrap());
            assert_eq!(first.unwrap_or(0), 0);
            assert!(last == 1 || first.is_none() && last == 0, "{rest:?}");
            assert!(end.is_err() || first.is_some());
            end == Err(Stopped)
        });
    }

    /// A receiver returns a message and stops anywhere. Its auditor returns it, or it has returned already.
    ///
    /// Fails if a return, also one by an audit, stores an id of its own (seen failing).
    #[test]
    fn a_message_that_comes_again_has_the_same_id() {
        at_every_step(Size::Small, |steps| {
            let ring = ring(1);
            send(&ring, 1);
            let victim = victim(&ring, steps, |ring| {
                let mut port = ring.port(0).unwrap();
                let (cell, _) = port.try_hold().unwrap();
                port.give_back(cell).unwrap()
            });
            let end = victim.join().unwrap();
            recover(&ring);
            let of_record_1 = 1 << 62;
            assert_eq!(rest_by_id(&ring), [(of_record_1, 1)]);
            end == Err(Stopped)
        });
    }

    /// Fails if a return is refused where the queue is sealed (seen failing), or if a sender may
    /// send after it (seen failing with a return that takes the flag away).
    #[test]
    fn what_comes_back_to_a_closed_queue_is_received_before_its_end() {
        model(Size::Small, || {
            let ring = ring(2);
            send(&ring, 1);
            let returner = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let mut port = ring.port(0).unwrap();
                    let (cell, _) = port.try_hold().unwrap();
                    port.give_back(cell).unwrap();
                })
            };
            ring.close();
            returner.join().unwrap();
            assert!(ring.port(1).unwrap().try_send(&[2; 8]).is_err());
            assert_eq!(rest(&ring), [(1, true)]);
            assert_eq!(ring.port(1).unwrap().try_recv(), Err(TryRecvError::Closed));
            assert_whole(&ring);
        });
    }

    /// A receiver got the end of the ring, and a message that another handle held is returned into the
    /// sealed slot. A sender that sees the slot full must not send to the next.
    ///
    /// Fails if the seal is Relaxed, or the load of a slot (each seen failing): [closed].
    #[test]
    fn no_send_goes_past_a_seal_that_a_return_has_filled() {
        model(Size::Large, || {
            let ring = ring(2);
            send(&ring, 1);
            let (mut port, returns) = ring.port_for_two(0).unwrap();
            let (held, _) = port.try_hold().unwrap();
            let returner = thread::spawn(move || assert!(returns.give_back(held).unwrap()));
            let sender = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || ring.port(1).unwrap().try_send(&[2; 8]).is_ok())
            };
            ring.close();
            let told = port.try_hold().map(|(cell, _)| port.acknowledge(cell));
            returner.join().unwrap();
            let is_sent = sender.join().unwrap();
            if told == Err(TryRecvError::Closed) {
                assert!(!is_sent, "sent after the end");
            }
        });
    }

    /// A sender stopped after its exchange, and a receiver that took its message stops anywhere. Their
    /// audits run at once. The audit of the sender finds the slot without the offer, and the receiver's
    /// word idle, made idle by the receiver or by its auditor. Then it must find the receiver's tag.
    ///
    /// Fails if an audit stores idle Relaxed, over an idle word or over another value (each seen failing: a
    /// block is in two places); or if it loads the slot or the other handle's word Relaxed (each seen
    /// failing): [settle].
    #[test]
    fn two_audits_at_once_agree_on_a_block() {
        at_every_step(Size::Small, |steps| {
            let ring = ring(1);
            // The sender stops at the first access after its exchange.
            let mut sender = ring.port(0).unwrap();
            let mut accesses = 0;
            while !ring.is_readable() {
                let stopped = stop_after(accesses, || sender.try_send(&[1; 8]));
                assert_eq!(stopped, Err(Stopped));
                accesses += 1;
            }
            let receiver = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let end = stop_after(steps, || drop(ring.port(1).unwrap().try_hold()));
                    (end, ring.recover(1))
                })
            };
            let of_sender = ring.recover(0);
            let (end, of_receiver) = receiver.join().unwrap();
            for (id, early) in [(0, of_sender), (1, of_receiver)] {
                if early.is_none() {
                    ring.recover(id).expect("nobody else is in the midst of anything");
                }
            }
            assert_whole(&ring);
            assert_eq!(rest(&ring).len(), 1);
            end == Err(Stopped)
        });
    }

    /// Fails if a join does not ask the words of busy handles (seen failing), or the cells (seen failing);
    /// if an acknowledgement wakes no joiner (seen failing: deadlock), or wakes it before the store (seen
    /// failing).
    #[test]
    fn join_ends_with_the_last_acknowledgement() {
        model(Size::Small, || {
            let (ring, kernel) = (ring(1), Arc::new(Futexes::default()));
            send(&ring, 1);
            let receiver = {
                let (ring, kernel) = (Arc::clone(&ring), Arc::clone(&kernel));
                thread::spawn(move || {
                    ring.port(1).unwrap().try_recv().unwrap();
                    notify_joiners(&ring, &kernel);
                })
            };
            let mut join = ring.join();
            let done = || join.is_done().then_some(());
            wait_at(&*kernel, ring.acknowledged(), FOR_EVER, done, || false).unwrap();
            let census = ring.census().unwrap();
            assert_eq!((census.in_ring, census.held, census.busy), (0, 0, 0));
            receiver.join().unwrap();
        });
    }

    /// What happened before an acknowledgement happens before the join returns.
    ///
    /// Fails if the cell is stored, or loaded, Relaxed (each seen failing): [settle].
    #[test]
    fn who_joins_sees_what_came_before_the_acknowledgement() {
        model(Size::Small, || {
            let (ring, letter) = (ring(1), Arc::new(AtomicU32::new(0)));
            send(&ring, 1);
            let (mut port, leases) = ring.port_for_two(0).unwrap();
            let (held, _) = port.try_hold().unwrap();
            let worker = {
                let letter = Arc::clone(&letter);
                thread::spawn(move || {
                    letter.store(1, Relaxed);
                    leases.acknowledge(held);
                })
            };
            if ring.join().is_done() {
                assert_eq!(letter.load(Relaxed), 1);
            }
            worker.join().unwrap();
        });
    }

    /// One of two receivers gets the message. The other had announced the receive, and a joiner may have
    /// seen the announcement.
    ///
    /// Fails if a receiver that loses the exchange wakes no joiner (seen failing: deadlock).
    #[test]
    fn join_does_not_wait_for_who_lost_an_exchange() {
        model(Size::Small, || {
            let (ring, kernel) = (ring(1), Arc::new(Futexes::default()));
            send(&ring, 1);
            let loser = {
                let (ring, kernel) = (Arc::clone(&ring), Arc::clone(&kernel));
                thread::spawn(move || {
                    let tell = || notify_joiners(&ring, &kernel);
                    let mut port = ring.port(1).unwrap();
                    match port.try_hold_or(tell) {
                        // This receiver won.
                        Ok((cell, _)) => {
                            port.acknowledge(cell);
                            tell();
                        }
                        Err(nothing) => assert_eq!(nothing, TryRecvError::Empty),
                    }
                })
            };
            let mut winner = ring.port(2).unwrap();
            if let Ok((cell, _)) = winner.try_hold_or(|| {}) {
                winner.acknowledge(cell);
            }
            // The winner joins, so that only the loser can wake it.
            let mut join = ring.join();
            let done = || join.is_done().then_some(());
            wait_at(&*kernel, ring.acknowledged(), FOR_EVER, done, || false).unwrap();
            loser.join().unwrap();
        });
    }

    /// Fails if a join ignores returns (seen failing).
    #[test]
    fn join_waits_for_what_comes_back() {
        model(Size::Small, || {
            let ring = ring(2);
            send(&ring, 1);
            let returner = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    let mut port = ring.port(1).unwrap();
                    let (cell, _) = port.try_hold().unwrap();
                    port.give_back(cell).unwrap();
                })
            };
            let mut join = ring.join();
            assert!(!join.is_done(), "nobody acknowledges it");
            returner.join().unwrap();
            assert!(!join.is_done());
            assert_eq!(rest(&ring), [(1, true)]);
            assert!(join.is_done());
        });
    }

    /// Two exchanges on one record: its own thread receives while another returns, and both stop for
    /// ever, as their process does when it is killed.
    fn a_return_beside_a_receive(capacity: usize) {
        for return_steps in 0..STEPS_OF_A_RETURN {
            at_every_step(Size::Large, move |steps| {
                let ring = ring(capacity);
                send(&ring, 1);
                let (mut port, returns) = ring.port_for_two(0).unwrap();
                let (held, _) = port.try_hold().unwrap();
                send(&ring, 2);
                let returner = thread::spawn(move || {
                    stop_after(return_steps, || returns.give_back(held).unwrap())
                });
                let owner = thread::spawn(move || {
                    // The second into the cell that the return makes free, if it is quick.
                    let hold = |port: &mut HeapPort<'_>| port.try_hold().map(|it| it.1[0]).ok();
                    stop_after(steps, || [hold(&mut port), hold(&mut port)])
                });
                let (end, returned) = (owner.join().unwrap(), returner.join().unwrap());
                assert!(
                    return_steps + 1 < STEPS_OF_A_RETURN || returned.is_ok(),
                    "it takes longer"
                );
                let mut all = Vec::new();
                while ring.recover(0).expect("nobody else is in the midst of anything") != (0, 0) {
                    all.extend(rest(&ring));
                }
                all.extend(rest(&ring));
                assert_whole(&ring);
                all.sort_unstable();
                let [(1, true), (2, is_flagged)] = all[..] else { panic!("{all:?}") };
                assert!(is_flagged || !matches!(end, Ok([Some(2), _] | [_, Some(2)])));
                end == Err(Stopped)
            });
        }
    }

    /// Each of the two exchanges may gain the block that the other gave away, in the only slot.
    ///
    /// Fails if an audit settles one of the record's two words only, if it does not ask the other
    /// word, or if a block's tag names the record in place of the cell (each seen failing).
    #[test]
    fn a_return_and_a_receive_through_one_slot_are_audited_together() {
        a_return_beside_a_receive(1);
    }

    /// Fails if a return frees its cell for its own process before its word is idle (seen failing: the
    /// owner receives into the cell, and the audit takes that block for the offer of the return).
    #[test]
    fn a_return_and_a_receive_through_two_slots_are_audited_together() {
        a_return_beside_a_receive(2);
    }

    /// Fails if a receiver gets the end although a cell is held, if returns are not compared, or if a return
    /// is counted after its cell is free (each seen failing).
    #[test]
    fn the_end_is_told_when_nothing_can_come_back() {
        model(Size::Small, || {
            let ring = ring(1);
            send(&ring, 1);
            let (mut port, returns) = ring.port_for_two(0).unwrap();
            let (held, _) = port.try_hold().unwrap();
            ring.close();
            let returner = thread::spawn(move || assert!(returns.give_back(held).unwrap()));
            assert!(!ring.port(1).unwrap().has_ended(), "it comes back");
            returner.join().unwrap();
            assert_eq!(rest(&ring), [(1, true)]);
            assert!(ring.port(1).unwrap().has_ended());
            assert_whole(&ring);
        });
    }

    /// A message that was sent after the join began is returned again and again.
    ///
    /// Fails if a join waits for such a message (seen failing).
    #[test]
    fn join_ends_though_later_messages_keep_coming_back() {
        model(Size::Small, || {
            let ring = ring(2);
            send(&ring, 1);
            let (mut port, returns) = ring.port_for_two(0).unwrap();
            let (first, _) = port.try_hold().unwrap();
            let mut join = ring.join();
            send(&ring, 2);
            let bouncer = thread::spawn(move || {
                for _ in 0..2 {
                    let (later, _) = port.try_hold().unwrap();
                    assert!(returns.give_back(later).unwrap());
                }
                returns
            });
            assert!(!join.is_done());
            let returns = bouncer.join().unwrap();
            returns.acknowledge(first);
            assert!(join.is_done());
        });
    }

    /// Fails if a message counts as later than the join because its receiver died before it stored the
    /// position (seen failing).
    #[test]
    fn join_waits_for_what_the_dead_had_just_received() {
        at_every_step(Size::Small, |steps| {
            let ring = ring(2);
            send(&ring, 1);
            let mut join = ring.join();
            let victim = victim(&ring, steps, |ring| drop(ring.port(0).unwrap().try_hold()));
            let end = victim.join().unwrap();
            recover(&ring);
            assert!(!join.is_done());
            assert_eq!(rest(&ring).len(), 1);
            assert!(join.is_done());
            end == Err(Stopped)
        });
    }

    /// The join sees the position that the message went to, or the return sees the join.
    ///
    /// Fails without the fence of the return, or of the join; if `joined_before` is raised after the
    /// count is read; or if a return is counted after its cell is free (each seen failing).
    #[test]
    fn join_waits_for_a_return_that_runs_beside_its_begin() {
        model(Size::Small, || {
            let ring = ring(2);
            send(&ring, 1);
            let (mut port, returns) = ring.port_for_two(0).unwrap();
            let (held, _) = port.try_hold().unwrap();
            let returner = thread::spawn(move || assert!(returns.give_back(held).unwrap()));
            let mut join = ring.join();
            assert!(!join.is_done(), "it is in the ring, or in its cell");
            returner.join().unwrap();
            assert!(!join.is_done());
            assert_eq!(rest(&ring), [(1, true)]);
            assert!(join.is_done());
        });
    }
}

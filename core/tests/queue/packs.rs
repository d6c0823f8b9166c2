//! Many short messages as one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use parkline_core::{Fault, OpenError, Pack, Queue, SendError, TryRecvError, TrySendError};

use crate::blocking::until_somebody_waits;
use crate::leases::HOUR;
use crate::without_hanging;

fn of_packs(capacity: usize, max_message: usize) -> Queue<Pack> {
    let builder = Queue::builder().capacity(capacity).max_message(max_message);
    builder.watchdog(HOUR).create_typed().unwrap()
}

fn ramp(len: usize) -> Vec<u8> {
    (0..len).map(|n| n as u8).collect()
}

/// Caught: a message that begins where the last one's bytes end, and not its padding.
#[test]
fn messages_of_all_lengths_come_out_in_order_and_whole() {
    let queue = of_packs(1, 4096);
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for from in 0..40 {
        let messages: Vec<_> = (from..from + 40).map(ramp).collect();
        assert_eq!(sender.try_send_packed(&messages).unwrap(), 40);
        let pack = receiver.try_recv().unwrap();
        assert_eq!(pack.iter().len(), 40);
        assert!(pack.iter().eq(&messages), "from {from}");
        assert_eq!(pack, messages.iter().collect());
        // As it was packed here, it is the same.
        sender.try_send(&pack).unwrap();
        assert_eq!(receiver.try_recv().unwrap(), pack);
    }
}

/// Caught: room counted without the length or the padding of a message.
#[test]
fn a_pack_holds_what_fits_and_the_count_says_how_much() {
    for room in [7, 8, 16, 31, 40, 63, 64, 65] {
        let queue = of_packs(2, room);
        let mut sender = queue.sender().unwrap();
        for len in 0..40_usize {
            let takes = |count: usize| count * len.div_ceil(8) + count.div_ceil(2) + 1;
            let fits = (1..=20).take_while(|count| takes(*count) <= room / 8).count();
            let sent = sender.try_send_packed(vec![ramp(len); 20]);
            if fits == 0 {
                let max = (room / 8).saturating_sub(2) * 8;
                let too_large = Fault::MessageTooLarge { len, max };
                assert_eq!(sent, Err(TrySendError::Fault((), too_large)));
                continue;
            }
            assert_eq!(sent, Ok(fits), "{len} in {room}");
            let pack = queue.receiver().unwrap().try_recv().unwrap();
            assert!(pack.iter().eq(vec![ramp(len); fits]));
        }
    }
}

/// Caught: a later message that does not fit alone, which takes the earlier ones with it.
#[test]
fn what_never_fits_is_refused_when_it_comes_first() {
    let queue = of_packs(2, 24);
    let mut sender = queue.sender().unwrap();
    let too_long = [ramp(1), ramp(9)];
    assert_eq!(sender.try_send_packed(&too_long), Ok(1));
    let too_large = Fault::MessageTooLarge { len: 9, max: 8 };
    assert_eq!(sender.try_send_packed(&too_long[1..]), Err(TrySendError::Fault((), too_large)));
    let pack = Pack::from_iter(&too_long);
    let too_large = Fault::MessageTooLarge { len: 8 + 16 + 8 + 8, max: 24 };
    assert_eq!(sender.try_send(&pack), Err(TrySendError::Fault((), too_large)));
}

/// Caught: a look for room before there is a message; a pack of no messages that is sent.
#[test]
fn nothing_is_sent_of_nothing() {
    let queue = of_packs(1, 64);
    let mut sender = queue.sender().unwrap();
    assert_eq!(sender.try_send_packed([[]; 0]), Ok(0));
    assert_eq!(queue.len(), 0);
    assert_eq!(sender.try_send_packed(["full"]), Ok(1));
    assert_eq!(sender.try_send_packed([[]; 0]), Ok(0));
    assert_eq!(sender.try_send_packed(["more"]), Err(TrySendError::Full(())));
    queue.close().unwrap();
    assert_eq!(sender.try_send_packed(["more"]), Err(TrySendError::Closed(())));
    let mut receiver = queue.receiver().unwrap();
    assert!(receiver.try_recv().unwrap().iter().eq(["full".as_bytes()]));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
}

/// Caught: messages that are sent one by one.
#[test]
fn an_iterator_that_panics_sends_nothing() {
    let queue = of_packs(2, 64);
    let mut sender = queue.sender().unwrap();
    let messages = (0..3u8).map(|n| if n < 2 { [n] } else { panic!("no third") });
    let sent = catch_unwind(AssertUnwindSafe(|| sender.try_send_packed(messages)));
    assert!(sent.is_err());
    assert_eq!(queue.len(), 0);
    assert_eq!(sender.try_send_packed(["next"]), Ok(1));
    assert!(queue.receiver().unwrap().try_recv().unwrap().iter().eq(["next".as_bytes()]));
}

/// Caught: a frame that is shorter than its pack.
#[test]
fn a_pack_is_leased_and_comes_again_as_a_whole() {
    let queue = of_packs(2, 64);
    queue.sender().unwrap().try_send_packed(["a", "b"]).unwrap();
    let mut receiver = queue.receiver().unwrap();
    let lease = receiver.try_lease().unwrap();
    lease.nack();
    let again = receiver.try_lease().unwrap();
    assert!(again.redelivered() && again.attempts() == 2);
    assert_eq!(again.read().unwrap(), Pack::from_iter(["a", "b"]));
}

/// Caught: a frame that is cut in the midst of a word, read as if it were not.
#[test]
fn a_pack_that_a_peer_has_cut_is_corrupt() {
    let queue = of_packs(1, 64);
    queue.sender().unwrap().try_send_packed(["12345678"]).unwrap();
    let file = File::from(queue.try_clone_fd().unwrap());
    let mut segment = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut segment, 0).unwrap();
    // Attempts, kind, length.
    let header = |len: u64| (1 << 48 | 1 << 32 | len).to_ne_bytes();
    let (words, _) = segment.as_chunks();
    let at = words.iter().position(|word| *word == header(24)).unwrap();
    file.write_all_at(&header(28), 8 * at as u64).unwrap();
    let received = queue.receiver().unwrap().try_recv();
    assert!(matches!(received, Err(TryRecvError::Fault(Fault::Corrupt(_)))), "{received:?}");
}

/// Caught: packs that open as bytes, or the other way round.
#[test]
fn a_queue_of_packs_is_no_queue_of_bytes() {
    let (packs, bytes) = (of_packs(1, 64), Queue::builder().create().unwrap());
    assert_eq!(packs.max_message(), 64);
    let wrong = |it: Option<OpenError>| matches!(it, Some(OpenError::WrongType { .. }));
    assert!(wrong(Queue::open(packs.try_clone_fd().unwrap()).err()));
    assert!(wrong(Queue::<Pack>::open_typed(bytes.try_clone_fd().unwrap()).err()));
    assert!(Queue::<Pack>::open_typed(packs.try_clone_fd().unwrap()).is_ok());
}

/// Caught: a wait for room that sends twice, or the rest of its messages only.
#[test]
fn a_blocking_call_waits_for_room_and_then_sends_all_at_once() {
    without_hanging(|| {
        let queue = of_packs(1, 64);
        let mut sender = queue.sender().unwrap();
        sender.try_send_packed(["first"]).unwrap();
        let (side, mut receiver) = (sender.side(), queue.receiver().unwrap());
        let waiter = thread::spawn(move || sender.send_packed_blocking(["second", "third"]));
        until_somebody_waits(&side);
        for expected in [&["first"][..], &["second", "third"]] {
            assert_eq!(receiver.recv_blocking().unwrap(), expected.iter().collect());
        }
        assert_eq!(waiter.join().unwrap(), Ok(2));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        queue.close().unwrap();
        let refused = queue.sender().unwrap().send_packed_blocking(["late"]);
        assert_eq!(refused, Err(SendError::Closed(())));
    });
}

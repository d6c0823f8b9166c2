//! What a process does with a queue that it found corrupt: it says so at once, and goes on with
//! others.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parkline_core::{
    AttachError, Corrupt, Fault, Queue, Receiver, Sender, TryRecvError, TrySendError,
};

const CAPACITY: usize = 4;
const MAX_MESSAGE: usize = 8;
const HANDLES: usize = 2;

/// A queue of [`CAPACITY`] messages, and how a peer scribbles on it.
struct Scribbled {
    queue: Queue,
    file: File,
}

impl Scribbled {
    fn new() -> Self {
        Self::with_leases(0)
    }

    fn with_leases(leases: usize) -> Self {
        let queue = Queue::builder().capacity(CAPACITY).max_message(MAX_MESSAGE).handles(HANDLES);
        let queue = queue.leases(leases).max_attempts(1).create().unwrap();
        let file = File::from(queue.try_clone_fd().unwrap());
        Self { queue, file }
    }

    fn slot(&self, index: u64, bits: u64) {
        self.file.write_all_at(&bits.to_ne_bytes(), 4096 + index * 8).unwrap();
    }

    /// Overwrites the headers of all blocks.
    fn frames(&self, bits: u64) {
        for block in 0..(CAPACITY + HANDLES) as u64 {
            // After one page of slots, records and cells.
            self.file.write_all_at(&bits.to_ne_bytes(), 2 * 4096 + block * 64 + 8).unwrap();
        }
    }

    fn both(&self) -> (Sender, Receiver) {
        (self.queue.sender().unwrap(), self.queue.receiver().unwrap())
    }
}

fn is_corrupt(what: &str, fault: Fault) -> bool {
    matches!(fault, Fault::Corrupt(Corrupt { what: found }) if found == what)
}

/// Caught: a finding that only the handle keeps which made it; one that goes with what was scribbled;
/// a close that gives up before it set its flag.
#[test]
fn what_one_handle_found_all_of_the_process_say() {
    let it = Scribbled::new();
    let (mut sender, mut receiver) = it.both();
    let honest = [0, 1, 2, 3];
    // Slot 0 is in no state.
    it.slot(0, 3 << 20);
    let what = "slot 0 is in no known state";
    let Err(TrySendError::Fault((), fault)) = sender.try_send(b"1") else { panic!("sent") };
    assert!(is_corrupt(what, fault), "{fault}");
    for block in honest {
        it.slot(block, block);
    }
    let Err(TryRecvError::Fault(fault)) = receiver.try_recv() else { panic!("not told") };
    assert!(is_corrupt(what, fault), "{fault}");
    assert!(is_corrupt(what, it.queue.join_blocking().unwrap_err()));
    assert!(matches!(it.queue.recover(), Err(AttachError::Corrupt(_))));
    drop(sender);
    assert!(matches!(it.queue.sender(), Err(AttachError::Corrupt(_))));
    assert!(is_corrupt(what, it.queue.close().unwrap_err()));
    assert!(it.queue.is_closed(), "peers that can still tell are told");

    let fresh = Scribbled::new();
    let (mut sender, mut receiver) = fresh.both();
    sender.try_send(b"fresh").unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"fresh");
}

/// Fails if an acknowledgement, or a return, stores to a segment that was found corrupt (each seen
/// failing).
#[test]
fn leases_that_end_after_the_finding_touch_nothing() {
    let it = Scribbled::with_leases(4);
    let (mut sender, mut receiver) = it.both();
    sender.try_send_many([&b"a"[..], b"b", b"c", b"d"]).unwrap();
    let [acknowledged, dropped, returned, held_back] =
        [(); 4].map(|()| receiver.try_lease().unwrap());
    it.slot(0, 3 << 20);
    assert!(matches!(receiver.try_recv(), Err(TryRecvError::Fault(Fault::Corrupt(_)))));
    let bytes = || {
        let mut bytes = vec![0; it.file.metadata().unwrap().len() as usize];
        it.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let before = bytes();
    acknowledged.ack();
    assert!(bytes() == before);
    drop(dropped);
    returned.nack();
    held_back.nack_after(std::time::Duration::ZERO);
    assert!(bytes() == before);
}

/// Caught: a fault of a message that is told once and forgotten.
#[test]
fn a_message_that_is_none_is_told_by_every_call_after() {
    let it = Scribbled::new();
    let (mut sender, mut receiver) = it.both();
    sender.try_send_many([b"1".as_slice(), b"2"]).unwrap();
    it.frames(0);
    for _ in 0..2 {
        let Err(TryRecvError::Fault(fault)) = receiver.try_recv() else { panic!("received") };
        assert!(is_corrupt("a block holds no frame of a known kind", fault), "{fault}");
        assert!(sender.try_send(b"3").is_err());
    }
}

/// Caught: a receive that gives up one message after the other for ever.
#[test]
fn messages_that_come_back_without_end_are_told_as_corrupt() {
    let it = Scribbled::new();
    let (mut sender, mut receiver) = it.both();
    let given_up = Arc::new(AtomicUsize::new(0));
    // Returned, and handed out more often than the queue allows.
    let exhausted = 1 | 1 << 32 | 3 << 40 | 9 << 48;
    sender.try_send(b"0").unwrap();
    it.frames(exhausted);
    let Scribbled { queue, file } = it;
    let scribbler = Scribbled { queue, file };
    let count = Arc::clone(&given_up);
    receiver.on_dead_letter(move |letter| {
        assert_eq!((letter.message.len(), letter.attempts), (1, 10));
        assert!(count.fetch_add(1, Relaxed) < 1 << 20, "no end");
        sender.try_send(b"0").unwrap();
        scribbler.frames(exhausted);
    });
    let Err(TryRecvError::Fault(fault)) = receiver.try_recv() else { panic!("received") };
    assert!(is_corrupt("more messages come back than there can be", fault), "{fault}");
    // Not before all that there can be has come.
    assert!(given_up.load(Relaxed) > CAPACITY + HANDLES);
}

//! Bad input gets a clear error: the variant that says what is wrong, and a text that says what to
//! do or which numbers clashed.

use std::fmt::Display;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use memfd::{FileSeal, MemfdOptions};
use parkline_core::{
    AttachError, CreateError, Event, Fault, OpenError, Queue, RecvError, RecvTimeoutError,
    Semaphore, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const ALL_SEALS: [FileSeal; 3] = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal];

#[derive(FromBytes, IntoBytes, Immutable, Debug, PartialEq)]
#[repr(C)]
struct Order {
    id: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, Debug, PartialEq)]
#[repr(C)]
struct Trade {
    id: u64,
}

fn assert_says(error: impl Display, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{text}` does not say `{part}`");
    }
}

fn bytes_of(queue: &Queue) -> Vec<u8> {
    let file = File::from(queue.try_clone_fd().unwrap());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn memfd_of(bytes: &[u8], seals: &[FileSeal]) -> OwnedFd {
    let memfd = MemfdOptions::new().allow_sealing(true).create("test").unwrap();
    memfd.as_file().write_all_at(bytes, 0).unwrap();
    memfd.add_seals(seals).unwrap();
    memfd.into_file().into()
}

#[test]
fn a_capacity_of_zero_is_refused() {
    let error = Queue::builder().capacity(0).create().unwrap_err();
    assert!(matches!(error, CreateError::Zero { what: "capacity" }));
    assert_says(error, &["capacity is 0", "at least 1"]);
}

#[test]
fn zero_handles_are_refused() {
    let error = Queue::builder().handles(0).create().unwrap_err();
    assert!(matches!(error, CreateError::Zero { what: "handles" }));
    assert_says(error, &["handles is 0", "at least 1"]);
}

#[test]
fn a_capacity_beyond_the_largest_is_refused() {
    let error = Queue::builder().capacity(524_289).create().unwrap_err();
    assert!(matches!(error, CreateError::TooLarge { what: "capacity", asked: 524_289, .. }));
    assert_says(error, &["524289", "524288"]);
    let error = Queue::builder().capacity(usize::MAX).create().unwrap_err();
    assert!(matches!(error, CreateError::TooLarge { what: "capacity", asked: usize::MAX, .. }));
}

#[test]
fn a_max_message_beyond_the_largest_is_refused() {
    let error = Queue::builder().max_message((1 << 30) + 1).create().unwrap_err();
    assert!(matches!(error, CreateError::TooLarge { what: "max_message", .. }));
    assert_says(error, &["1073741825", "1073741824"]);
    let error = Queue::builder().max_message(usize::MAX).create().unwrap_err();
    assert!(matches!(error, CreateError::TooLarge { what: "max_message", .. }));
}

#[test]
fn more_blocks_than_a_word_can_name_are_refused() {
    let error = Queue::builder().capacity(524_288).handles(8192).leases(63).create().unwrap_err();
    assert!(matches!(error, CreateError::TooManyBlocks { capacity: 524_288, leases: 63, .. }));
    assert_says(error, &["524288", "8192", "1048575", "ask for fewer"]);
    for (handles, leases) in [(16_384, 64), (64, usize::MAX), (1, usize::MAX)] {
        let error = Queue::builder().handles(handles).leases(leases).create().unwrap_err();
        assert!(matches!(error, CreateError::TooManyBlocks { .. }), "{error:?}");
    }
}

#[test]
fn more_handles_than_an_audit_can_look_at_are_refused() {
    let error = Queue::builder().handles(16_385).leases(0).create().unwrap_err();
    assert!(matches!(error, CreateError::TooLarge { what: "handles", asked: 16_385, .. }));
    assert!(Queue::builder().handles(16_384).leases(0).max_message(0).create().is_ok());
}

#[test]
fn a_watchdog_out_of_range_is_refused() {
    for wrong in [Duration::ZERO, Duration::from_micros(999), Duration::from_secs(3601)] {
        let error = Queue::builder().watchdog(wrong).create().unwrap_err();
        assert!(matches!(error, CreateError::Watchdog { asked } if asked == wrong));
        assert_says(error, &[&format!("{wrong:?}"), "between 1 ms and 1 h"]);
    }
    for right in
        [Duration::from_millis(1), Duration::from_secs(3600), Duration::from_nanos(1_000_001)]
    {
        let queue = Queue::builder().watchdog(right).create().unwrap();
        assert!(Queue::open(queue.try_clone_fd().unwrap()).is_ok(), "{right:?}");
    }
}

#[test]
fn a_queue_larger_than_the_address_space_is_refused() {
    let queue = Queue::builder().capacity(524_288).max_message(1 << 30).lazy_memory();
    let error = queue.create().unwrap_err();
    assert!(matches!(error, CreateError::Os { call: "mmap", .. }), "{error:?}");
    assert_says(error, &["ask for less"]);
}

#[test]
fn a_message_too_large_is_refused_with_both_lengths() {
    let queue = Queue::builder().capacity(1).max_message(1000).create().unwrap();
    let mut sender = queue.sender().unwrap();
    let large = vec![7; 1001];
    let fault = Fault::MessageTooLarge { len: 1001, max: 1000 };
    assert_says(fault, &["1001", "1000", "`max_message`"]);
    assert_says(TrySendError::Fault((), fault), &["1001", "1000", "`max_message`"]);
    assert_eq!(sender.try_send(&large), Err(TrySendError::Fault((), fault)));
    assert_eq!(sender.send_blocking(&large), Err(SendError::Fault((), fault)));
    let timed = sender.send_blocking_timeout(&large, Duration::MAX);
    assert_eq!(timed, Err(SendTimeoutError::Fault((), fault)));
    assert_eq!(sender.try_send_many([&large[..]]), Err(TrySendError::Fault((), fault)));
    assert_eq!(sender.send_many_blocking([&large[..]]), Err(SendError::Fault((), fault)));
    assert_eq!(sender.try_reserve(1001).unwrap_err(), TrySendError::Fault((), fault));
    assert_eq!(sender.reserve_blocking(1001).unwrap_err(), SendError::Fault((), fault));
    assert_eq!(queue.len(), 0, "nothing was sent");
    sender.try_send(&large[..1000]).unwrap();
}

/// Waiting could not help, so it is not said to.
///
/// Caught: the length looked at after the room.
#[test]
fn a_message_too_large_for_a_full_queue_is_too_large_not_full() {
    let queue = Queue::builder().capacity(1).max_message(1000).create().unwrap();
    let mut sender = queue.sender().unwrap();
    sender.try_send(b"first").unwrap();
    let fault = Fault::MessageTooLarge { len: 1001, max: 1000 };
    assert_eq!(sender.try_send(&[7; 1001]), Err(TrySendError::Fault((), fault)));
    assert_eq!(sender.send_blocking(&[7; 1001]), Err(SendError::Fault((), fault)));
}

#[test]
fn what_is_no_memfd_is_refused() {
    let null = File::open("/dev/null").unwrap().into();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let own_binary = File::open(std::env::current_exe().unwrap()).unwrap().into();
    for fd in [null, OwnedFd::from(pipe), OwnedFd::from(socket), own_binary] {
        let error = Queue::open(fd).unwrap_err();
        assert!(
            matches!(error, OpenError::NotMemfd { .. } | OpenError::Unsealed { .. }),
            "{error:?}"
        );
        assert_says(error, &["memfd"]);
    }
}

#[test]
fn a_memfd_without_seals_is_refused() {
    let queue = Queue::builder().capacity(1).create().unwrap();
    let error = Queue::open(memfd_of(&bytes_of(&queue), &[])).unwrap_err();
    assert!(matches!(error, OpenError::Unsealed { .. }));
    assert_says(error, &["SEAL|SHRINK|GROW", "truncate", "refused"]);
}

/// Caught: only SHRINK asked for.
#[test]
fn each_missing_seal_is_named() {
    let bytes = bytes_of(&Queue::builder().capacity(1).create().unwrap());
    for (missing, name) in ALL_SEALS.into_iter().zip(["SHRINK", "GROW", "SEAL"]) {
        let others: Vec<_> = ALL_SEALS.into_iter().filter(|seal| *seal != missing).collect();
        let error = Queue::open(memfd_of(&bytes, &others)).unwrap_err();
        let OpenError::Unsealed { missing } = &error else { panic!("{error:?}") };
        assert_eq!(missing, name);
    }
    assert!(Queue::open(memfd_of(&bytes, &ALL_SEALS)).is_ok(), "nothing else was wrong");
}

#[test]
fn a_truncated_memfd_is_refused_with_both_lengths() {
    let bytes = bytes_of(&Queue::builder().capacity(4).create().unwrap());
    let shorter = &bytes[..bytes.len() - 4096];
    let error = Queue::open(memfd_of(shorter, &ALL_SEALS)).unwrap_err();
    assert!(matches!(error, OpenError::WrongLength { .. }));
    let (found, expected) = (shorter.len().to_string(), bytes.len().to_string());
    assert_says(error, &[&found, &expected, "truncated"]);
}

#[test]
fn a_memfd_of_every_short_length_is_refused() {
    let bytes = bytes_of(&Queue::builder().capacity(1).create().unwrap());
    for len in (0..300).chain([1023, 1024, 4095, 4096, 4097]) {
        let error = Queue::open(memfd_of(&bytes[..len], &ALL_SEALS)).unwrap_err();
        assert!(matches!(error, OpenError::WrongLength { .. }), "{len}: {error:?}");
    }
}

#[test]
fn a_memfd_that_is_too_long_is_refused() {
    let mut bytes = bytes_of(&Queue::builder().capacity(1).create().unwrap());
    bytes.push(0);
    let error = Queue::open(memfd_of(&bytes, &ALL_SEALS)).unwrap_err();
    assert!(matches!(error, OpenError::WrongLength { .. }));
}

#[test]
fn a_foreign_memfd_is_refused() {
    let error = Queue::open(memfd_of(&[b'x'; 8192], &ALL_SEALS)).unwrap_err();
    assert!(matches!(error, OpenError::NotParkline));
    assert_says(error, &["no parkline queue", "Queue::as_fd"]);
}

#[test]
fn another_version_is_refused_with_both_numbers() {
    let mut bytes = bytes_of(&Queue::builder().capacity(1).create().unwrap());
    let ours = u32::from_ne_bytes(bytes[8..12].try_into().unwrap());
    bytes[8..12].copy_from_slice(&77u32.to_ne_bytes());
    let error = Queue::open(memfd_of(&bytes, &ALL_SEALS)).unwrap_err();
    let OpenError::Version { found: 77, expected } = &error else { panic!("{error:?}") };
    assert_eq!(*expected, ours);
    assert_says(error, &["77", &ours.to_string(), "same version"]);
}

/// Fails if the word is not looked at (seen failing).
#[test]
fn what_a_later_version_added_is_refused() {
    let honest = bytes_of(&Queue::builder().capacity(1).create().unwrap());
    for (at, name) in [(48, "batch"), (52, "flags")] {
        let mut bytes = honest.clone();
        bytes[at..at + 4].copy_from_slice(&64u32.to_ne_bytes());
        let error = Queue::open(memfd_of(&bytes, &ALL_SEALS)).unwrap_err();
        let OpenError::Unsupported { what, found: 64 } = &error else { panic!("{error:?}") };
        assert_eq!(*what, name);
        assert_says(error, &[name, "0x40", "same version"]);
    }
}

/// Fails if the number is drawn anew by an opener, or is the same for two queues, two events or two
/// semaphores (each seen failing).
#[test]
fn each_queue_event_and_semaphore_has_a_number_of_its_own_wherever_it_is_opened() {
    let builder = || Queue::builder().capacity(1);
    let [queue, other_queue] = [(); 2].map(|()| builder().create().unwrap());
    let [event, other_event] = [(); 2].map(|()| builder().create_event().unwrap());
    let [semaphore, other_semaphore] = [(); 2].map(|()| builder().create_semaphore(1).unwrap());
    let ids = [queue.id(), event.id(), semaphore.id()];
    let others = [other_queue.id(), other_event.id(), other_semaphore.id()];
    let all = [ids, others].concat();
    for (n, id) in all.iter().enumerate() {
        assert!(*id != 0 && !all[..n].contains(id), "{all:x?}");
    }
    assert_eq!(Queue::open(queue.try_clone_fd().unwrap()).unwrap().id(), ids[0]);
    assert_eq!(Event::open(event.try_clone_fd().unwrap()).unwrap().id(), ids[1]);
    assert_eq!(Semaphore::open(semaphore.try_clone_fd().unwrap()).unwrap().id(), ids[2]);
    let first_page = bytes_of(&queue);
    assert_eq!(u128::from_be_bytes(first_page[56..72].try_into().unwrap()), ids[0]);
}

#[test]
fn a_header_with_an_impossible_shape_is_refused() {
    let mut bytes = bytes_of(&Queue::builder().capacity(1).create().unwrap());
    bytes[12..16].copy_from_slice(&63u32.to_ne_bytes());
    let error = Queue::open(memfd_of(&bytes, &ALL_SEALS)).unwrap_err();
    assert!(matches!(error, OpenError::Claims));
    assert_says(error, &["impossible"]);
}

#[test]
fn a_descriptor_that_cannot_be_written_is_refused() {
    let queue = Queue::builder().capacity(1).create().unwrap();
    let fd = queue.try_clone_fd().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let error = Queue::open(File::open(path).unwrap()).unwrap_err();
    assert!(matches!(error, OpenError::Os { call: "mmap", .. }), "{error:?}");
}

#[test]
fn bytes_are_not_a_type_and_a_type_is_not_bytes() {
    let bytes = Queue::builder().capacity(1).create().unwrap();
    let error = Queue::<Order>::open_typed(bytes.try_clone_fd().unwrap()).unwrap_err();
    assert!(matches!(error, OpenError::WrongType { .. }));
    assert_says(error, &["carries raw bytes", "asked for `Order` (8 bytes, align 8)"]);

    let orders = Queue::builder().capacity(1).create_typed::<Order>().unwrap();
    let error = Queue::open(orders.try_clone_fd().unwrap()).unwrap_err();
    assert!(matches!(error, OpenError::WrongType { .. }));
    assert_says(error, &["carries `Order`", "asked for raw bytes"]);
}

/// Caught: the name left out of the comparison.
#[test]
fn a_type_of_the_same_size_is_another_type() {
    let orders = Queue::builder().capacity(1).create_typed::<Order>().unwrap();
    let error = Queue::<Trade>::open_typed(orders.try_clone_fd().unwrap()).unwrap_err();
    assert!(matches!(error, OpenError::WrongType { .. }));
    assert_says(error, &["carries `Order`", "asked for `Trade`"]);
    assert!(Queue::<Order>::open_typed(orders.try_clone_fd().unwrap()).is_ok());
}

mod before {
    use super::*;

    /// As the other, but for its fields.
    #[derive(FromBytes, IntoBytes, Immutable, Debug, PartialEq)]
    #[repr(C)]
    pub(super) struct Swap {
        pub(super) give: u64,
        pub(super) take: u64,
    }
}

#[derive(FromBytes, IntoBytes, Immutable, Debug, PartialEq)]
#[repr(C)]
struct Swap {
    take: u64,
    give: u64,
}

/// The limit that the docs of `Message` tell, and what helps.
///
/// Fails if a queue with a schema opens for a program that names none (seen failing).
#[test]
fn swapped_fields_are_not_seen_but_the_schemas_version_is() {
    let queue = Queue::builder().capacity(1).create_typed::<Swap>().unwrap();
    queue.sender().unwrap().try_send(&Swap { take: 1, give: 2 }).unwrap();
    let older = Queue::<before::Swap>::open_typed(queue.try_clone_fd().unwrap()).unwrap();
    let garbled = older.receiver().unwrap().try_recv().unwrap();
    assert_eq!(garbled, before::Swap { give: 1, take: 2 });

    let queue = Queue::builder().schema("swaps", 2).create_typed::<Swap>().unwrap();
    let fd = || queue.try_clone_fd().unwrap();
    let error = Queue::<before::Swap>::open_typed(fd()).unwrap_err();
    assert!(matches!(error, OpenError::Schema { .. }), "{error:?}");
    let older = Queue::open_options().schema("swaps", 1);
    let error = older.open_typed::<before::Swap>(fd()).unwrap_err();
    assert_says(error, &["\"swaps\" version 2", "\"swaps\" version 1", "a new queue"]);
    assert!(Queue::open_options().schema("swaps", 2).open_typed::<Swap>(fd()).is_ok());
}

/// Fails if an opener's schema is not compared, or only its name, or only its version, or what has no
/// name is one of the empty name (each seen failing).
#[test]
fn creator_and_opener_must_name_the_same_schema() {
    const NAMES: [(&str, u32); 6] =
        [("orders", 3), ("orders", 0), ("order", 3), ("orders\0", 3), ("", 0), ("none", 0)];
    for named in [None, Some(("orders", 3)), Some(("none", 0))] {
        let builder = Queue::builder().capacity(1);
        let builder = named.map_or(builder, |(name, version)| builder.schema(name, version));
        let queue = builder.create().unwrap();
        assert_eq!(queue.schema(), named);
        let fd = || queue.try_clone_fd().unwrap();
        for asked in NAMES {
            let opened = Queue::open_options().schema(asked.0, asked.1).open(fd());
            match opened {
                Ok(same) => assert_eq!((named, same.schema()), (Some(asked), named)),
                Err(error) => {
                    assert!(matches!(error, OpenError::Schema { .. }), "{error:?}");
                    assert_ne!(named, Some(asked));
                }
            }
        }
        assert_eq!(Queue::open(fd()).is_ok(), named.is_none());
        let any = Queue::open_options().any_schema().open(fd()).unwrap();
        assert_eq!(any.schema(), named);
        let other_type = Queue::open_options().any_schema().open_typed::<Order>(fd());
        assert!(matches!(other_type, Err(OpenError::WrongType { .. })));
    }
}

/// Fails if a long name is cut, or an empty one is none (each seen failing).
#[test]
fn a_schemas_name_has_1_to_64_bytes_and_is_never_cut() {
    let builder = Queue::builder().capacity(1);
    let (longest, longer) = ("n".repeat(64), "n".repeat(65));
    let queue = builder.schema(&longest, u32::MAX).create().unwrap();
    let fd = || queue.try_clone_fd().unwrap();
    assert!(Queue::open_options().schema(&longest, u32::MAX).open(fd()).is_ok());
    let error = Queue::open_options().schema(&longer, u32::MAX).open(fd()).unwrap_err();
    assert!(matches!(error, OpenError::Schema { .. }), "{error:?}");
    assert_says(error, &["65 bytes", "1 to 64"]);
    let error = builder.schema(&longer, 1).create().unwrap_err();
    assert!(matches!(error, CreateError::TooLarge { asked: 65, max: 64, .. }), "{error:?}");
    assert_says(error, &["the schema's name", "65", "64"]);
    // It would be cut in the midst of a letter.
    let error = builder.schema(&"ü".repeat(33), 1).create_typed::<u64>().unwrap_err();
    assert!(matches!(error, CreateError::TooLarge { asked: 66, .. }), "{error:?}");
    let error = builder.schema("", 0).create().unwrap_err();
    assert!(matches!(error, CreateError::Zero { .. }), "{error:?}");
    assert_says(error, &["the schema's name", "at least 1"]);
}

#[test]
fn an_event_and_a_semaphore_have_no_schema() {
    let builder = Queue::builder().capacity(1).schema("orders", 3);
    let event = builder.create_event().unwrap();
    assert!(Event::open(event.try_clone_fd().unwrap()).is_ok());
    let semaphore = builder.create_semaphore(1).unwrap();
    assert!(Semaphore::open(semaphore.try_clone_fd().unwrap()).is_ok());
}

/// Fails if the name is printed as it is (seen failing): it is a stranger's, and goes into logs.
#[test]
fn a_strangers_name_is_escaped_in_texts() {
    let queue = Queue::builder().capacity(1).schema("\x1b[2J\nok", 1).create().unwrap();
    let error = Queue::open(queue.try_clone_fd().unwrap()).unwrap_err();
    assert!(!error.to_string().contains(['\n', '\x1b']), "{error}");
}

#[test]
fn more_handles_than_records_are_refused() {
    let queue = Queue::builder().capacity(1).handles(2).create().unwrap();
    let (_sender, _receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    for error in [queue.sender().unwrap_err(), queue.receiver().unwrap_err()] {
        assert!(matches!(error, AttachError::NoFreeHandle { handles: 2 }));
        assert_says(error, &["all 2 handles", "drop one", "`handles`"]);
    }
}

/// Caught: the descriptor of the lock kept open for ever.
#[test]
fn dropping_a_handle_frees_its_record() {
    let queue = Queue::builder().capacity(1).handles(1).create().unwrap();
    for _ in 0..3 {
        drop(queue.sender().unwrap());
        drop(queue.receiver().unwrap());
    }
}

#[test]
fn two_openers_share_the_records() {
    let queue = Queue::builder().capacity(1).handles(1).create().unwrap();
    let same = Queue::open(queue.try_clone_fd().unwrap()).unwrap();
    let sender = queue.sender().unwrap();
    assert!(matches!(same.sender(), Err(AttachError::NoFreeHandle { .. })));
    drop(sender);
    assert!(same.sender().is_ok());
}

#[test]
fn a_lease_keeps_its_receivers_record() {
    let queue = Queue::builder().capacity(1).handles(1).create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let lease = queue.receiver().unwrap().try_lease().unwrap();
    assert!(matches!(queue.receiver(), Err(AttachError::NoFreeHandle { .. })));
    lease.ack();
    assert!(queue.receiver().is_ok());
}

/// Fails if the lease is acknowledged while the thread panics (seen failing).
#[test]
fn a_lease_that_was_lost_in_a_panic_comes_again() {
    let queue = Queue::builder().capacity(1).handles(1).create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _lease = queue.receiver().unwrap().try_lease().unwrap();
        resume_unwind(Box::new("a bug in the job"));
    }));
    assert!(panicked.is_err());
    let again = queue.receiver().unwrap().try_lease().unwrap();
    assert!(again.redelivered() && again.attempts() == 2);
    assert_eq!(again.read().unwrap(), b"job");
}

#[test]
fn a_forgotten_lease_keeps_its_record() {
    let queue = Queue::builder().capacity(1).handles(1).create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    std::mem::forget(queue.receiver().unwrap().try_lease().unwrap());
    assert!(matches!(queue.receiver(), Err(AttachError::NoFreeHandle { .. })));
}

#[test]
fn leases_beyond_the_last_are_refused_with_their_number() {
    let queue = Queue::builder().capacity(4).leases(2).create().unwrap();
    let mut sender = queue.sender().unwrap();
    for message in [b"a", b"b", b"c"] {
        sender.try_send(message).unwrap();
    }
    let mut receiver = queue.receiver().unwrap();
    let (first, _second) = (receiver.try_lease().unwrap(), receiver.try_lease().unwrap());
    let fault = Fault::LeasesOut { max: 2 };
    assert_says(fault, &["all 2 leases", "acknowledge or drop one", "`leases`"]);
    assert_eq!(receiver.try_lease().unwrap_err(), TryRecvError::Fault(fault));
    let waited = receiver.lease_blocking_timeout(Duration::from_millis(1));
    assert_eq!(waited.unwrap_err(), RecvTimeoutError::Timeout, "for a lease");
    assert_eq!(queue.len(), 1, "nothing was taken");
    assert_eq!(receiver.try_recv().unwrap(), b"c", "receiving needs no lease");
    sender.try_send(b"d").unwrap();
    first.ack();
    assert_eq!(receiver.try_lease().unwrap().read().unwrap(), b"d");
}

/// Fails if a queue tells another number than its creator asked for (each seen failing).
#[test]
fn a_queue_tells_what_its_creator_asked_for() {
    let builder = Queue::builder().capacity(4).max_message(24).handles(7).leases(3);
    let queue = builder.create().unwrap();
    let told =
        |queue: &Queue| [queue.capacity(), queue.max_message(), queue.handles(), queue.leases()];
    assert_eq!(told(&queue), [4, 24, 7, 3]);
    assert_eq!(told(&Queue::open(queue.try_clone_fd().unwrap()).unwrap()), [4, 24, 7, 3]);
}

#[test]
fn a_queue_without_leases_leases_nothing() {
    let queue = Queue::builder().capacity(1).leases(0).create().unwrap();
    let mut receiver = queue.receiver().unwrap();
    let fault = Fault::LeasesOut { max: 0 };
    assert_eq!(receiver.try_lease().unwrap_err(), TryRecvError::Fault(fault));
    queue.sender().unwrap().try_send(b"job").unwrap();
    assert_eq!(receiver.try_lease().unwrap_err(), TryRecvError::Fault(fault));
    assert_eq!(receiver.lease_blocking().unwrap_err(), RecvError::Fault(fault), "none ever comes");
    assert_eq!(receiver.try_recv().unwrap(), b"job");
}

#[test]
#[should_panic = "3 bytes at 3 in a message of 5"]
fn writing_beyond_a_reservation_panics() {
    let queue = Queue::builder().capacity(1).create().unwrap();
    let mut sender = queue.sender().unwrap();
    sender.try_reserve(5).unwrap().write_at(3, b"abc");
}

#[test]
#[should_panic = "1 bytes at 18446744073709551615 in a message of 5"]
fn writing_at_the_end_of_the_world_panics() {
    let queue = Queue::builder().capacity(1).create().unwrap();
    let mut sender = queue.sender().unwrap();
    sender.try_reserve(5).unwrap().write_at(usize::MAX, b"a");
}

#[test]
fn every_way_to_send_is_refused_after_close() {
    let queue = Queue::builder().capacity(2).create().unwrap();
    let mut sender = queue.sender().unwrap();
    queue.close().unwrap();
    assert_says(TrySendError::Closed(()), &["closed"]);
    let large = [7; 1000];
    assert_eq!(sender.try_send(b"late"), Err(TrySendError::Closed(())));
    assert_eq!(sender.try_send(&large), Err(TrySendError::Closed(())));
    assert_eq!(sender.send_blocking(b"late"), Err(SendError::Closed(())));
    let timed = sender.send_blocking_timeout(b"late", Duration::MAX);
    assert_eq!(timed, Err(SendTimeoutError::Closed(())));
    assert_eq!(sender.try_send_many([&b"late"[..]]), Err(TrySendError::Closed(())));
    assert_eq!(sender.send_many_blocking([&b"late"[..]]), Err(SendError::Closed(())));
    assert_eq!(sender.try_reserve(4).unwrap_err(), TrySendError::Closed(()));
    assert_eq!(sender.reserve_blocking(4).unwrap_err(), SendError::Closed(()));
    let mut late = queue.sender().unwrap();
    assert_eq!(late.try_send(b"late"), Err(TrySendError::Closed(())), "attached after the close");
}

#[test]
fn a_reservation_made_before_close_comes_back_whole() {
    let queue = Queue::builder().capacity(2).create().unwrap();
    let mut sender = queue.sender().unwrap();
    let mut message = sender.try_reserve(4).unwrap();
    message.write_at(0, b"late");
    queue.close().unwrap();
    let Err(TrySendError::Closed(message)) = message.try_commit() else { panic!("not closed") };
    let Err(SendError::Closed(message)) = message.commit_blocking() else { panic!("not closed") };
    assert_eq!(message.len(), 4);
}

/// Room is not what a sender to a closed queue waits for.
///
/// Caught: `Full` said of a closed queue, as it was before `Ring::advance` loaded the flag there
/// too.
#[test]
fn a_queue_that_is_closed_and_full_is_closed_to_senders() {
    let queue = Queue::builder().capacity(1).create().unwrap();
    let mut sender = queue.sender().unwrap();
    sender.try_send(b"last").unwrap();
    queue.close().unwrap();
    assert_eq!(sender.try_send(b"late"), Err(TrySendError::Closed(())));
    assert_eq!(sender.try_send(&[7; 1000]), Err(TrySendError::Closed(())));
    assert_eq!(sender.try_reserve(4).unwrap_err(), TrySendError::Closed(()));
    assert_eq!(queue.receiver().unwrap().try_recv().unwrap(), b"last");
}

#[test]
fn every_way_to_receive_is_refused_once_a_closed_queue_is_drained() {
    let queue = Queue::builder().capacity(2).create().unwrap();
    let mut receiver = queue.receiver().unwrap();
    queue.close().unwrap();
    assert_says(TryRecvError::Closed, &["closed and drained"]);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    assert_eq!(receiver.recv_blocking(), Err(RecvError::Closed));
    assert_eq!(receiver.recv_blocking_timeout(Duration::MAX), Err(RecvTimeoutError::Closed));
    assert_eq!(receiver.try_recv_many(&mut Vec::new(), 9), Err(TryRecvError::Closed));
    assert_eq!(receiver.recv_many_blocking(&mut Vec::new(), 9), Err(RecvError::Closed));
    assert_eq!(receiver.try_lease().unwrap_err(), TryRecvError::Closed);
    assert_eq!(receiver.lease_blocking().unwrap_err(), RecvError::Closed);
}

/// Caught: a return that is refused as a send is.
#[test]
fn a_lease_goes_back_to_a_closed_queue_which_ends_after_it() {
    let queue = Queue::builder().capacity(2).create().unwrap();
    queue.sender().unwrap().try_send(b"job").unwrap();
    let mut receiver = queue.receiver().unwrap();
    let lease = receiver.try_lease().unwrap();
    queue.close().unwrap();
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "it may come back");
    lease.nack();
    let again = receiver.try_lease().unwrap();
    assert_eq!((again.read().unwrap(), again.attempts()), (b"job".to_vec(), 2));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "it may come back again");
    again.ack();
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    assert_eq!(queue.sender().unwrap().try_send(b"late"), Err(TrySendError::Closed(())));
}

#[test]
fn closing_twice_is_no_error() {
    let queue = Queue::builder().capacity(1).create().unwrap();
    queue.close().unwrap();
    queue.close().unwrap();
    assert!(queue.is_closed());
}

/// Overwrites word `word` of record 0, in a queue of 16 messages.
fn scribble_on_record(queue: &Queue, word: u64, bits: u64) {
    let file = File::from(queue.try_clone_fd().unwrap());
    let records_at = 4096 + 16 * 8;
    file.write_all_at(&bits.to_ne_bytes(), records_at + word * 8).unwrap();
}

/// Caught: an audit that leaves an op with no verb as it is (it is recovered for ever).
#[test]
fn a_word_that_is_no_operation_is_recovered_once() {
    let queue = Queue::builder().capacity(16).create().unwrap();
    scribble_on_record(&queue, 0, 1);
    assert_eq!(queue.recover().unwrap().handles, 1);
    assert_eq!(queue.recover().unwrap().handles, 0);
}

/// Caught: an attach that gives up at the first corrupt record.
#[test]
fn one_corrupt_record_does_not_keep_others_from_attaching() {
    let queue = Queue::builder().capacity(16).handles(2).create().unwrap();
    // A send that was about to gain a block that does not exist.
    scribble_on_record(&queue, 0, 1 << 60 | 0xffff);
    let sender = queue.sender().unwrap();
    assert!(matches!(queue.receiver(), Err(AttachError::Corrupt(_))));
    drop(sender);
    assert!(queue.receiver().is_ok());
}

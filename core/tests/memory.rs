//! The memory of a queue: who has the descriptor cannot take it away, and can only empty it.

mod required;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::required::not_tried;
use memfd::{FileSeal, HugetlbSize, MemfdOptions};
use parkline_core::{Builder, OpenError, Queue};
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate};
use rustix::io::Errno;

const ALL_SEALS: [FileSeal; 3] = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal];
const PAGE: u64 = 4096;

fn file_of(queue: &Queue) -> File {
    queue.try_clone_fd().unwrap().into()
}

fn len_of(queue: &Queue) -> u64 {
    file_of(queue).metadata().unwrap().len()
}

fn assert_works(queue: &Queue) {
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(b"hello").unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"hello");
}

/// Caught: each of the three seals left out.
#[test]
fn a_peer_can_neither_truncate_nor_grow_nor_seal() {
    let queue = Queue::builder().capacity(4).create().unwrap();
    let (file, len) = (file_of(&queue), len_of(&queue));
    for other in [0, PAGE, len - 1, len + 1, 2 * len] {
        assert_eq!(ftruncate(&file, other), Err(Errno::PERM), "{other}");
    }
    let beyond = fallocate(&file, FallocateFlags::empty(), len, PAGE);
    assert_eq!(beyond, Err(Errno::PERM));
    assert!(file.write_at(b"beyond", len).is_err());
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE, SealFlags::GROW] {
        assert_eq!(fcntl_add_seals(&file, seal), Err(Errno::PERM), "{seal:?}");
    }
    assert_eq!(len_of(&queue), len);
    assert_works(&queue);
}

fn allocated(queue: &Queue) -> u64 {
    file_of(queue).metadata().unwrap().blocks() * 512
}

fn large() -> Builder {
    Queue::builder().capacity(64).max_message(64 << 10)
}

/// Caught: an allocation that is left out, and one in spite of `lazy_memory`.
#[test]
fn memory_is_there_from_the_creation_unless_it_is_lazy() {
    let queue = large().create().unwrap();
    assert!(allocated(&queue) >= len_of(&queue));
    let lazy = large().lazy_memory().create().unwrap();
    assert_eq!(len_of(&lazy), len_of(&queue));
    assert!(allocated(&lazy) < len_of(&lazy) / 10);
    assert_works(&lazy);
}

/// Page faults of this thread that found the page in memory: field 10 of its `stat`.
fn faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(7).unwrap().parse().unwrap()
}

/// Page faults of a new sender's, and of a new receiver's, first 1,024 messages of 4 KB.
fn faults_of_new_handles(queue: &Queue) -> (u64, u64) {
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    let mut message = vec![7; 4096];
    let before = faults();
    for _ in 0..1024 {
        sender.try_send(&message).unwrap();
    }
    let sent = faults();
    for _ in 0..1024 {
        let lease = receiver.try_lease().unwrap();
        lease.copy_to(&mut message).unwrap();
        lease.ack();
    }
    (sent - before, faults() - sent)
}

/// Fails if a mapping is not filled (seen failing).
#[test]
fn handles_of_a_prefaulted_queue_have_no_page_faults() {
    let builder = Queue::builder().max_message(4096);
    let queue = builder.create().unwrap();
    let (sends, receives) = faults_of_new_handles(&queue);
    // The kernel maps 16 pages around one that is read.
    assert!(sends > 1000 && receives > 1000 / 16, "{sends} {receives}");
    queue.prefault().unwrap();
    let lazy = builder.lazy_memory().prefault().create().unwrap();
    for with in [faults_of_new_handles(&queue), faults_of_new_handles(&lazy)] {
        println!(
            "page faults of the first 1,024 messages: {sends}, {receives}; prefaulted: {with:?}"
        );
        // One can be the heap's.
        assert!(with.0 + with.1 <= 1, "{with:?}");
    }
}

/// The flags of each mapping of the queue in this process: `VmFlags` of its `smaps`.
fn flags_of_mappings(queue: &Queue) -> Vec<String> {
    let inode = format!(" {} ", file_of(queue).metadata().unwrap().ino());
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut flags, mut is_ours) = (Vec::new(), false);
    for line in smaps.lines() {
        if line.contains("/memfd:parkline") {
            is_ours = line.contains(&inode);
        } else if let Some(found) = line.strip_prefix("VmFlags:")
            && std::mem::take(&mut is_ours)
        {
            flags.push(found.to_owned());
        }
    }
    flags
}

/// Fails if a mapping is not kept out (seen failing), and if one is in spite of being asked for
/// (seen failing).
#[test]
fn no_mapping_is_in_core_dumps_unless_asked_for() {
    let is_kept_out = |queue: &Queue| -> Vec<bool> {
        let flags = flags_of_mappings(queue);
        flags.iter().map(|it| it.split(' ').any(|flag| flag == "dd")).collect()
    };
    let queue = Queue::builder().create().unwrap();
    let same = Queue::open(queue.try_clone_fd().unwrap()).unwrap();
    let _before = (queue.sender().unwrap(), same.receiver().unwrap());
    assert_eq!(is_kept_out(&queue), [true; 4]);
    queue.keep_in_core_dumps().unwrap();
    let _after = queue.sender().unwrap();
    let mut kept_out = is_kept_out(&queue);
    kept_out.sort_unstable();
    assert_eq!(kept_out, [false, false, true, true, true]);
    let queue = Queue::builder().keep_in_core_dumps().create().unwrap();
    let _sender = queue.sender().unwrap();
    assert_eq!(is_kept_out(&queue), [false; 2]);
}

fn bytes_of(queue: &Queue) -> Vec<u8> {
    let mut bytes = vec![0; len_of(queue) as usize];
    file_of(queue).read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Caught: the file system not looked at (it says that the length is wrong).
#[test]
fn huge_pages_are_refused() {
    let options = MemfdOptions::new().allow_sealing(true).hugetlb(Some(HugetlbSize::Huge2MB));
    let memfd = match options.create("test") {
        Ok(memfd) => memfd,
        Err(error) => return not_tried("huge_pages", error),
    };
    memfd.as_file().set_len(2 << 20).unwrap();
    memfd.add_seals(&ALL_SEALS).unwrap();
    let error = Queue::open(OwnedFd::from(memfd.into_file())).unwrap_err();
    assert!(matches!(error, OpenError::HugePages), "{error:?}");
}

/// On a file system of a limited size, whose shortage would be a signal. Its files cannot be
/// sealed.
///
/// Caught: seals that are not asked for.
#[test]
fn a_file_of_a_tmpfs_is_refused() {
    let path = format!("/dev/shm/parkline-test-{}", std::process::id());
    let file = match File::create_new(&path) {
        Ok(file) => file,
        Err(error) => return not_tried("dev_shm", error),
    };
    std::fs::remove_file(&path).unwrap();
    let bytes = bytes_of(&Queue::builder().capacity(1).create().unwrap());
    file.write_all_at(&bytes, 0).unwrap();
    let error = Queue::open(OwnedFd::from(file)).unwrap_err();
    assert!(matches!(error, OpenError::Unsealed { .. } | OpenError::NotMemfd { .. }), "{error:?}");
}

/// Caught: a mapping of one's own where a shared one is refused.
#[test]
fn a_memfd_that_is_sealed_against_writing_is_refused() {
    let bytes = bytes_of(&Queue::builder().capacity(1).create().unwrap());
    for seal in [FileSeal::SealWrite, FileSeal::SealFutureWrite] {
        let memfd = MemfdOptions::new().allow_sealing(true).create("test").unwrap();
        memfd.as_file().write_all_at(&bytes, 0).unwrap();
        memfd.add_seal(seal).unwrap();
        memfd.add_seals(&ALL_SEALS).unwrap();
        let error = Queue::open(OwnedFd::from(memfd.into_file())).unwrap_err();
        assert!(matches!(error, OpenError::Os { call: "mmap", .. }), "{error:?}");
    }
}

/// Gives pages back to the kernel: whoever looks next finds zeros.
fn punch(file: impl AsFd, at: u64, len: u64) {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, hole, at, len).unwrap();
}

/// Everything that can be asked of a queue. The answers may be wrong; there are some.
fn ask_everything(queue: &Queue) {
    let moment = Duration::from_millis(1);
    let _ = (queue.len(), queue.stats(), queue.is_closed(), format!("{queue:?}"));
    let _ = queue.recover();
    let _ = queue.join_blocking_timeout(moment);
    if let Ok(mut sender) = queue.sender() {
        let _ = sender.try_send(b"message");
        let _ = sender.send_blocking_timeout(&[7; 100], moment);
        let _ = sender.try_send_many([&b"a"[..], b"b"]);
        let _ = sender.try_reserve(9).map(|mut it| {
            it.write_at(0, b"reserved!");
            it.try_commit().map(drop).map_err(drop)
        });
    }
    if let Ok(mut receiver) = queue.receiver() {
        let _ = receiver.try_recv();
        let _ = receiver.recv_blocking_timeout(moment);
        let _ = receiver.try_recv_many(&mut Vec::new(), 3);
        if let Ok(lease) = receiver.try_lease() {
            let _ = (lease.read(), lease.attempts());
            lease.nack();
        }
        let _lease = receiver.try_lease();
    }
    if let Ok(again) = Queue::open(queue.try_clone_fd().unwrap()) {
        let _ = again.sender().map(|mut it| it.try_send(b"again"));
    }
}

fn attacked() -> Queue {
    let watchdog = Duration::from_millis(1);
    Queue::builder().capacity(8).max_message(9000).handles(6).watchdog(watchdog).create().unwrap()
}

/// Caught: a frame of zeros that panics.
#[test]
fn holes_anywhere_lead_to_answers() {
    let pages = len_of(&attacked()) / PAGE;
    for page in 0..=pages {
        let queue = attacked();
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for message in [&b"short"[..], &[7; 9000], b"held", b"waits"] {
            sender.try_send(message).unwrap();
        }
        let lease = receiver.try_lease().unwrap();
        let reserved = sender.try_reserve(3).unwrap();
        match page {
            _ if page == pages => punch(&queue, 0, pages * PAGE),
            page => punch(&queue, page * PAGE, PAGE),
        }
        ask_everything(&queue);
        let _ = reserved.try_commit().map_err(drop);
        let _ = lease.read();
        lease.ack();
        let _ = (sender.try_send(b"more"), receiver.try_recv(), receiver.try_lease().map(drop));
        ask_everything(&queue);
        let _ = queue.close();
        drop((sender, receiver));
        ask_everything(&queue);
    }
    assert_works(&attacked());
}

/// Holes while four work. Caught: a frame of zeros that panics, a file that can shrink
/// (SIGBUS).
#[test]
fn holes_at_any_time_lead_to_answers() {
    let mut dice = 42_u64;
    // A queue that was found corrupt says so from then on, and no more.
    for _ in 0..100 {
        holes_in(&attacked(), &mut dice);
    }
    assert_works(&attacked());
}

fn holes_in(queue: &Queue, dice: &mut u64) {
    let done = AtomicBool::new(false);
    let pages = len_of(queue) / PAGE;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    ask_everything(queue);
                }
            });
        }
        for _ in 0..30 {
            *dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (*dice >> 33) % pages;
            let len = 1 + (*dice >> 60) % (pages - at).min(4);
            punch(queue, at * PAGE, len.min(pages - at) * PAGE);
            // It can always try.
            assert!(ftruncate(queue, 0).is_err());
            thread::yield_now();
        }
        done.store(true, Relaxed);
    });
}

/// Fails if the docs or `memory` count otherwise than `create` (seen failing).
#[test]
fn the_examples_of_the_docs_are_right() {
    let docs = include_str!("../../docs/memory.md");
    let mut examples = 0;
    for line in docs.lines() {
        let cells: Vec<_> = line.trim_matches(['|', ' ']).split(" | ").collect();
        let number = |cell: &&str| cell.replace(',', "").parse().ok();
        let [
            Some(capacity),
            Some(len),
            handles,
            leases,
            Some(has_handles),
            Some(has_leases),
            bytes,
        ] = cells.iter().map(number).collect::<Vec<Option<usize>>>()[..]
        else {
            continue;
        };
        let builder = Queue::builder().capacity(capacity).max_message(len);
        let with = |handles: Option<usize>, leases: Option<usize>| {
            let builder = handles.map_or(builder, |handles| builder.handles(handles));
            leases.map_or(builder, |leases| builder.leases(leases))
        };
        let memory = with(handles, leases).memory().unwrap();
        assert_eq!(Some(memory as usize), bytes, "{line}");
        let asked = with(Some(has_handles), Some(has_leases));
        assert_eq!(asked.memory().unwrap(), memory, "{line}");
        if let Ok(queue) = asked.lazy_memory().create() {
            assert_eq!(len_of(&queue), memory, "{line}");
        }
        examples += 1;
    }
    assert_eq!(examples, 11);
}

/// Fails if an event, a semaphore or a type is counted as something else (seen failing).
#[test]
fn what_is_told_before_is_what_is_made() {
    let len = |fd: OwnedFd| File::from(fd).metadata().unwrap().len();
    let typed = Queue::builder().create_typed::<[u64; 100]>().unwrap();
    assert_eq!(
        Queue::builder().memory_typed::<[u64; 100]>().unwrap(),
        len(typed.try_clone_fd().unwrap())
    );
    let builder = Queue::builder().handles(3);
    let semaphore = builder.create_semaphore(1000).unwrap();
    let told = builder.memory_semaphore(1000).unwrap();
    assert_eq!(told, len(semaphore.try_clone_fd().unwrap()));
    let event = builder.create_event().unwrap();
    assert_eq!(len(event.try_clone_fd().unwrap()), 12 << 10, "as the docs say");
}

//! What a machine refuses: memory that it does not have, limits of a process, system calls that a
//! filter denies. Each refusal keeps its errno and says what to do. And what it does unasked: core
//! dumps. And what it is not asked for: calls that no other thread waits for.
//!
//! Limits and filters stay with a process. So each part runs in one of its own, this very test
//! binary anew, and asserts there.

mod required;

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::hint::spin_loop;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use parkline_core::{AttachError, Builder, CreateError, Event, OpenError, Queue, Semaphore};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::required::not_tried;

const PART: &str = "PARKLINE_TEST_PART";
const MIB: u64 = 1 << 20;

/// A process that plays `part`, if `command` runs it: a shell in front of it makes its world.
fn player(part: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "part", "--ignored", "--nocapture"]).env(PART, part);
    command
}

fn play(part: &str) {
    let output = player(part).output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{part}: {}\n{out}{err}", output.status);
}

/// What a player does. Run by the tests, in processes of its own.
#[test]
#[ignore = "a part that the other tests start in a process of its own"]
fn part() {
    let Ok(part) = env::var(PART) else { return };
    let words: Vec<_> = part.split(' ').collect();
    match words[..] {
        ["too", "much"] => too_much(),
        ["group", left] => group(left.parse().unwrap()),
        ["file", "size"] => file_size(),
        ["address", "space"] => address_space(),
        ["descriptors"] => descriptors(),
        ["denied", call, errno] => denied(call, errno.parse().unwrap()),
        ["no", "calls"] => no_calls(),
        ["dump", messages] => dump(messages == "messages"),
        _ => panic!("no part is called {part}"),
    }
}

fn limit(resource: Resource, to: u64) {
    setrlimit(resource, Rlimit { current: Some(to), maximum: Some(to) }).unwrap();
}

fn deny(call: i64, errno: i32) {
    let (rules, refused) = ([(call, vec![])].into(), SeccompAction::Errno(errno as u32));
    let arch = env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

macro_rules! assert_os {
    ($result:expr, $error:ident, $call:literal, $errno:expr, $($word:expr),*) => {
        let error = $result.map(drop).unwrap_err();
        let text = error.to_string();
        let $error::Os { call, cause } = &error else { panic!("{error:?}") };
        assert_eq!((*call, cause.raw_os_error()), ($call, Some($errno)), "{text}");
        for word in [$call, $($word),*] {
            assert!(text.contains(word), "`{text}` does not say `{word}`");
        }
    };
}

fn small() -> Builder {
    Queue::builder().capacity(1)
}

fn fd_of(queue: &Queue) -> OwnedFd {
    queue.try_clone_fd().unwrap()
}

/// Fails if nothing is read before memory is taken (seen failing: the filter answers then).
#[test]
fn more_than_the_machine_has_is_refused_before_anything_is_allocated() {
    play("too much");
}

fn too_much() {
    // So that a queue that is not refused takes no memory either.
    deny(libc::SYS_fallocate, libc::EPERM);
    let too_much = Queue::builder().capacity(16_384).max_message(1 << 30);
    let asked = too_much.memory().unwrap();
    let error = too_much.create().unwrap_err();
    let text = error.to_string();
    let CreateError::Memory(shortage) = error else { panic!("{error:?}") };
    assert_eq!(shortage.bytes, asked);
    assert!((MIB..asked).contains(&shortage.available), "{text}");
    let numbers = [asked.to_string(), shortage.available.to_string()];
    let words = ["no reservation", "ask for less", "raise the limit", "lazy_memory"];
    for word in numbers.iter().map(String::as_str).chain(words) {
        assert!(text.contains(word), "`{text}` does not say `{word}`");
    }
    let lazy = too_much.lazy_memory();
    assert!(matches!(lazy.prefault().create(), Err(CreateError::Memory(_))));
    let queue = lazy.create().unwrap();
    let error = queue.prefault().unwrap_err();
    assert!(matches!(error, AttachError::Memory(_)), "{error:?}");
    assert!(error.to_string().contains("no reservation"), "{error}");
    queue.sender().unwrap().try_send(b"works").unwrap();
}

/// The files of a control group, where the machine has no memory controller of version 2 for us.
///
/// Fails if only the machine's memory is read (seen failing).
#[test]
fn the_files_of_a_control_group_limit_what_is_created() {
    let group = "mount=$(awk '$0 ~ / - cgroup2 / {print $5; exit}' /proc/self/mountinfo)
        own=$mount$(sed -n 's/^0:://p' /proc/self/cgroup)
        mount -t tmpfs none \"$mount\" && mkdir -p \"$own\" && cd \"$own\" || exit 99
        echo $((100 << 20)) >memory.max; echo $((90 << 20)) >memory.current
        exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", group, "sh"]);
    run_in_group(command, "group 10", "no mount namespace with a cgroup2 here");
}

/// Fails if only the machine's memory is read (seen failing).
#[test]
fn a_control_group_limits_what_is_created() {
    // Its parent is the tightest.
    let group = "mount=$(awk '$0 ~ / - cgroup2 / {print $5; exit}' /proc/self/mountinfo)
        test=$mount/parkline-test-$$
        mkdir \"$test\" && trap 'rmdir \"$test/own\" \"$test\" 2>/dev/null' EXIT || exit 99
        echo +memory >\"$test/cgroup.subtree_control\" && mkdir \"$test/own\" || exit 99
        echo $((64 << 20)) >\"$test/memory.max\" || exit 99
        echo 0 >\"$test/memory.swap.max\"
        (echo 0 >\"$test/own/cgroup.procs\" || exit 99; exec \"$@\")";
    let mut command = Command::new("sh");
    command.args(["-c", group, "sh"]);
    run_in_group(command, "group 64", "no memory controller of version 2 for us");
}

/// Plays `part` behind `command`, which ends with 99 where the machine cannot.
fn run_in_group(mut command: Command, part: &str, cannot: &str) {
    let player = player(part);
    command.arg(player.get_program()).args(player.get_args()).env(PART, part);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if [Some(1), Some(99)].contains(&output.status.code()) {
        not_tried("cgroup2", format_args!("{cannot}: {text}"));
        return;
    }
    assert!(output.status.success(), "{part}: {}\n{text}", output.status);
}

/// In a group that has about `left` MiB.
fn group(left: u64) {
    let of = |mib: u64| {
        Queue::builder().capacity(1).max_message((mib * MIB) as usize).handles(2).leases(0)
    };
    let create = |mib: u64| of(mib / 3).create();
    let error = create(left * 3 / 2).unwrap_err();
    let CreateError::Memory(shortage) = &error else { panic!("{error:?}") };
    assert!((left * 8 / 10..=left).contains(&(shortage.available / MIB)), "{error}");
    for word in ["memory.max", "memory.current", "control group"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    create(left / 2).unwrap();
    let lazy = of(left).lazy_memory().create().unwrap();
    assert!(matches!(lazy.prefault(), Err(AttachError::Memory(_))));
}

/// Fails if the kernel is asked for a file beyond the limit (seen failing): SIGXFSZ ends the
/// process.
#[test]
fn a_limit_on_files_is_an_error_and_no_signal() {
    play("file size");
}

fn file_size() {
    limit(Resource::Fsize, 4096);
    let words = || ("RLIMIT_FSIZE", "ulimit -f");
    let (name, command) = words();
    for builder in [small(), small().lazy_memory(), small().prefault()] {
        assert_os!(builder.create(), CreateError, "ftruncate", libc::EFBIG, name, command);
    }
    assert_os!(small().create_event(), CreateError, "ftruncate", libc::EFBIG, name);
    assert_os!(small().create_semaphore(1), CreateError, "ftruncate", libc::EFBIG, name);
    limit(Resource::Fsize, 0);
    assert_os!(small().create(), CreateError, "ftruncate", libc::EFBIG, name);
}

/// Fails if a refusal to map is told as one of memory, without its call (seen failing).
#[test]
fn a_limit_on_the_address_space_is_an_error() {
    play("address space");
}

fn address_space() {
    let large = || small().max_message(64 << 20).lazy_memory();
    let queue = large().create().unwrap();
    let fd = fd_of(&queue);
    let pages: u64 = fs::read_to_string("/proc/self/statm")
        .unwrap()
        .split(' ')
        .find_map(|it| it.parse().ok())
        .unwrap();
    limit(Resource::As, pages * 4096 + 64 * MIB);
    assert_os!(large().create(), CreateError, "mmap", libc::ENOMEM, "RLIMIT_AS", "ulimit -v");
    assert_os!(queue.sender(), AttachError, "mmap", libc::ENOMEM, "RLIMIT_AS", "ulimit -v");
    assert_os!(Queue::open(fd), OpenError, "mmap", libc::ENOMEM, "RLIMIT_AS", "ulimit -v");
    small().create().unwrap().sender().unwrap().try_send(b"what fits works").unwrap();
}

/// Fails if the memfd's error is wrapped (seen failing): it has no errno then.
#[test]
fn descriptors_that_are_used_up_are_an_error() {
    play("descriptors");
}

fn descriptors() {
    let queue = small().create().unwrap();
    let null = File::open("/dev/null").unwrap();
    limit(Resource::Nofile, 64);
    let all: Vec<_> = std::iter::from_fn(|| null.try_clone().ok()).collect();
    assert_os!(small().create(), CreateError, "memfd_create", libc::EMFILE, "ulimit -n");
    assert_os!(small().create_event(), CreateError, "memfd_create", libc::EMFILE, "ulimit -n");
    let error = queue.sender().unwrap_err();
    let AttachError::Proc { cause } = &error else { panic!("{error:?}") };
    assert_eq!(cause.raw_os_error(), Some(libc::EMFILE));
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    assert_eq!(queue.try_clone_fd().unwrap_err().raw_os_error(), Some(libc::EMFILE));
    drop(all);
    queue.sender().unwrap().try_send(b"works again").unwrap();
}

/// Fails if the memfd's error is wrapped (seen failing), if a refusal to allocate is told as one of
/// memory (seen failing), and if one to ask for seals is told as another kind of file (seen
/// failing).
#[test]
fn a_filter_that_denies_a_call_is_told_with_the_calls_name() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        for call in
            ["getrandom", "memfd_create", "ftruncate", "fallocate", "fcntl", "madvise", "lseek"]
        {
            play(&format!("denied {call} {errno}"));
        }
    }
}

fn denied(call: &str, errno: i32) {
    let queue = small().create().unwrap();
    let semaphore = small().create_semaphore(1).unwrap();
    let (fd, of_semaphore) = (fd_of(&queue), semaphore.try_clone_fd().unwrap());
    let seccomp = "seccomp";
    match call {
        "getrandom" => {
            deny(libc::SYS_getrandom, errno);
            assert_os!(small().create(), CreateError, "getrandom", errno, seccomp);
        }
        "memfd_create" => {
            deny(libc::SYS_memfd_create, errno);
            assert_os!(small().create(), CreateError, "memfd_create", errno, seccomp);
            assert_os!(small().create_event(), CreateError, "memfd_create", errno, seccomp);
        }
        "ftruncate" => {
            deny(libc::SYS_ftruncate, errno);
            assert_os!(small().create(), CreateError, "ftruncate", errno, seccomp);
        }
        "fallocate" => {
            deny(libc::SYS_fallocate, errno);
            assert_os!(small().create(), CreateError, "fallocate", errno, seccomp, "lazy_memory");
            let lazy = small().lazy_memory().create().unwrap();
            assert_os!(lazy.prefault(), AttachError, "fallocate", errno, seccomp);
            lazy.sender().unwrap().try_send(b"works").unwrap();
        }
        "fcntl" => {
            deny(libc::SYS_fcntl, errno);
            assert_os!(small().create(), CreateError, "F_ADD_SEALS", errno, seccomp, "`fcntl`");
            assert_os!(Queue::open(fd), OpenError, "F_GET_SEALS", errno, seccomp, "`fcntl`");
            let opened = Semaphore::open(of_semaphore);
            assert_os!(opened, OpenError, "F_GET_SEALS", errno, seccomp, "`fcntl`");
            assert_os!(queue.sender(), AttachError, "F_OFD_SETLK", errno, seccomp, "`fcntl`");
            assert_eq!(queue.try_clone_fd().unwrap_err().raw_os_error(), Some(errno));
        }
        "madvise" => {
            deny(libc::SYS_madvise, errno);
            assert_os!(small().create(), CreateError, "MADV_DONTFORK", errno, seccomp, "`madvise`");
            assert_os!(queue.sender(), AttachError, "MADV_DONTFORK", errno, seccomp, "`madvise`");
            assert_os!(Event::open(fd), OpenError, "MADV_DONTFORK", errno, seccomp, "`madvise`");
        }
        "lseek" => {
            deny(libc::SYS_lseek, errno);
            assert_os!(queue.sender(), AttachError, "lseek", errno, seccomp);
        }
        other => panic!("no call is called {other}"),
    }
}

/// Fails if a change wakes at its gate although no thread has announced itself there, after a commit or
/// after an acknowledgement (each seen failing: SIGSYS).
#[test]
fn what_no_thread_waits_for_makes_no_system_call() {
    play("no calls");
}

fn no_calls() {
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    let queue = small().leases(1).create_typed::<u64>().unwrap();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    thread::spawn(move || {
        let (none, killed) = (BTreeMap::new(), SeccompAction::KillProcess);
        let arch = env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(none, killed, SeccompAction::Allow, arch).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        for n in 0..1000 {
            sender.try_send(&n).unwrap();
            assert_eq!(receiver.try_recv(), Ok(n));
            sender.send_blocking(&n).unwrap();
            receiver.try_lease().unwrap().nack();
            receiver.lease_blocking().unwrap().ack();
        }
        IS_DONE.store(true, SeqCst);
        // It cannot even end.
        loop {
            spin_loop();
        }
    });
    while !IS_DONE.load(SeqCst) {
        thread::yield_now();
    }
}

/// Fails if mappings are in core dumps (seen failing).
#[test]
fn a_core_dump_allocates_nothing_of_a_lazy_queue() {
    let place = env::temp_dir().join(format!("parkline-test-{}", process::id()));
    fs::create_dir(&place).unwrap();
    for part in ["dump nothing", "dump messages"] {
        let queue = Queue::builder().capacity(16).max_message(64 << 10).lazy_memory();
        let queue = queue.handles(2).leases(1).create().unwrap();
        let mut command = player(part);
        command.current_dir(&place).stdin(Stdio::from(fd_of(&queue)));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let before = text.lines().find_map(|line| line.strip_prefix("> ")).expect(&text);
        if !output.status.core_dumped() {
            not_tried("core", "this machine writes no core dumps");
            break;
        }
        let (before, after) = (before.parse().unwrap(), allocated(&queue));
        let all = File::from(fd_of(&queue)).metadata().unwrap().len();
        println!("{part}: of {all} bytes {before} are allocated before, {after} after");
        assert!(before < all / 10);
        match part {
            "dump nothing" => assert_eq!(after, before),
            _ => assert_eq!(after, all, "what is asked for shows that this test sees"),
        }
    }
    fs::remove_dir_all(&place).unwrap();
}

fn allocated(queue: &Queue) -> u64 {
    File::from(fd_of(queue)).metadata().unwrap().blocks() * 512
}

fn dump(messages: bool) {
    let unlimited = Rlimit { current: None, maximum: None };
    let _ = setrlimit(Resource::Core, unlimited);
    let queue = Queue::open(io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    if messages {
        queue.keep_in_core_dumps().unwrap();
    }
    let mut sender = queue.sender().unwrap();
    sender.try_send(b"hello").unwrap();
    // On a line of its own, whatever the test harness wrote before.
    println!("\n> {}", allocated(&queue));
    process::abort();
}

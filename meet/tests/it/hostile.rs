//! Clients and servers of other users, clients that hang, and servers that run out.

use std::fs::{self, Permissions};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;

use parkline_core::Queue;
use parkline_meet::prelude::*;
use parkline_meet::{connect, serve};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{set_thread_gid, set_thread_uid};

use crate::player::{Player, create, descriptors, outcome, say, stay, until};

const STRANGER: u32 = 12_345;

/// A client that connects and does nothing.
fn hang(path: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// Fails if a client that hangs holds up others, or takes more descriptors than the bound (seen
/// failing with `MOST_CLIENTS` at 10,000, and with a server that waits for a byte of each client).
#[test]
fn clients_that_hang_hold_up_no_other_and_cost_a_bounded_number_of_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs");
    let mut server = Player::start("keep", &path);
    let number = server.says().unwrap();
    let before = descriptors(server.pid());
    let hanging: Vec<_> = (0..400).map(|_| hang(&path)).collect();
    assert_eq!(outcome(connect(&path.display().to_string())), number);
    until("the server keeps 256 connections", || descriptors(server.pid()) == before + 256);
    // A new heir, whose connection the server does not keep, serves on all the same.
    let mut heir = Player::start("keep", &path);
    assert_eq!(heir.says().unwrap(), number);
    server.kill();
    assert_eq!(outcome(connect(&path.display().to_string())), number);
    drop(hanging);
}

/// Fails if what clients send has an effect (seen failing with a server that ends the connection of
/// a client that sends).
#[test]
fn what_a_client_sends_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs");
    let mut server = Player::start("keep", &path);
    let number = server.says().unwrap();
    let client = hang(&path);
    // Until its socket is full.
    let garbage = [0xff; 1000];
    while rustix::net::send(&client, &garbage, SendFlags::DONTWAIT).is_ok() {}
    assert_eq!(outcome(connect(&path.display().to_string())), number);
    // It gets its record like any other.
    let got = rustix::net::recv(&client, &mut [0; 64], RecvFlags::empty()).unwrap().1;
    assert_eq!(got, 16);
}

/// Fails if a server without descriptors does not serve again, or uses the CPU meanwhile (seen
/// failing with no pause after the failed accept, and with a pause that does not end).
#[test]
fn a_server_that_ran_out_of_descriptors_serves_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs");
    let name = path.display().to_string();
    let mut server = Player::start("run out", &path);
    let number = server.says().unwrap();
    server.tell("run out");
    assert_eq!(server.says().unwrap(), "no descriptor is left");
    // None for this one either.
    let waits = Connect::to(&name).wait(std::time::Duration::from_secs(60));
    let client = std::thread::spawn(move || outcome(waits.open()));
    assert_eq!(server.says().unwrap(), "its thread sleeps between the attempts");
    server.tell("close some");
    assert_eq!(client.join().unwrap(), number);
}

/// Fails if a client that hangs keeps others from a server without descriptors (seen failing with
/// the oldest connection left open: the client gets no answer).
#[test]
fn a_server_without_descriptors_ends_a_connection_that_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs");
    let mut server = Player::start("run out", &path);
    let number = server.says().unwrap();
    let before = descriptors(server.pid());
    let hanging = hang(&path);
    until("it is accepted", || descriptors(server.pid()) > before);
    server.tell("run out");
    assert_eq!(server.says().unwrap(), "no descriptor is left");
    assert_eq!(outcome(connect(&path.display().to_string())), number);
    // The record, and then the end.
    for expected in [16, 0] {
        let got = rustix::net::recv(&hanging, &mut [0; 64], RecvFlags::empty()).unwrap().1;
        assert_eq!(got, expected);
    }
}

pub(crate) fn serve_with_few_descriptors(name: &str) {
    let queue = create().unwrap();
    let _keeper = serve(name, &queue).unwrap();
    let number = format!("{:032x}", queue.id());
    // Open from here on, because no descriptor will be left.
    let mut status = None;
    until("the thread of the server has its name", || {
        let mut tasks = fs::read_dir("/proc/self/task").unwrap().map(|it| it.unwrap().path());
        let is_of_server = |task: &std::path::PathBuf| {
            fs::read_to_string(task.join("comm")).unwrap() == "parkline-meet\n"
        };
        status = tasks.find(is_of_server).map(|it| fs::File::open(it.join("status")).unwrap());
        status.is_some()
    });
    let status = status.unwrap();
    let sleeps = || {
        let mut text = [0; 4096];
        let len = status.read_at(&mut text, 0).unwrap();
        let text = String::from_utf8_lossy(&text[..len]);
        let count = text.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    say(number);
    crate::player::hear();
    let limit = Some(u64::try_from(descriptors(std::process::id())).unwrap() + 10);
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    let mut all: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
    let before = sleeps();
    say("no descriptor is left");
    // A thread that tries again at once never gives up the CPU of its own accord.
    until("the thread sleeps", || sleeps() >= before + 5);
    say("its thread sleeps between the attempts");
    all.truncate(1);
    crate::player::hear();
    stay();
}

/// Fails if a process of another user gets the queue (seen failing with the check in
/// `Host::welcome` left out, with the socket's mode left at 0666, and with the group left out).
#[test]
fn a_strangers_uid_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not tried: only root can become another user");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs");
    let name = path.display().to_string();
    let queue = create().unwrap();
    let keeper = serve(&name, &queue).unwrap();
    let stranger = || Player::start("stranger", &path).says().unwrap();
    // The directory: 0700.
    let refused = stranger();
    assert!(
        refused.starts_with("Os") && refused.contains("only the user of the server"),
        "{refused}"
    );
    // The socket: 0600.
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let refused = stranger();
    assert!(refused.contains("only the user of the server"), "{refused}");
    // The server, whatever the mode of the socket has become.
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    let refused = stranger();
    assert!(refused.starts_with("Refused") && refused.contains("uid 12345"), "{refused}");
    drop(keeper);
    // Admitted, because the server says so.
    let keeper = Serve::name(&name).mode(0o666).start(&queue).unwrap();
    assert_eq!(stranger(), format!("{:032x}", queue.id()));
    drop(keeper);
    let group = STRANGER.to_string();
    let _keeper = Serve::name(&name).mode(0o660).group(&group).start(&queue).unwrap();
    let refused = stranger();
    assert!(refused.contains("only the user of the server"), "no member of the group: {refused}");
    let mode = |it| fs::metadata(path.with_extension(it)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("lock"), mode("heirs")), (0o600, 0o640), "it may ask, not take over");
    let member = Player::start("stranger of the group", &path).says().unwrap();
    assert_eq!(member, format!("{:032x}", queue.id()));
}

pub(crate) fn connect_as_stranger(name: &str, is_of_the_group: bool) {
    if is_of_the_group {
        set_thread_gid(rustix::process::Gid::from_raw(STRANGER)).unwrap();
    }
    become_stranger();
    say(outcome(connect(name)));
}

fn become_stranger() {
    // Of this thread alone, which is as good for the kernel's checks.
    set_thread_uid(rustix::process::Uid::from_raw(STRANGER)).unwrap();
}

/// Fails if a queue is taken from a server of another user (seen failing with the check in
/// `Call::check` left out).
#[test]
fn a_server_of_a_stranger_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not tried: only root can become another user");
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let (theirs, ours) = (directory.path().join("theirs"), directory.path().join("ours"));
    for it in [&theirs, &ours] {
        fs::create_dir(it).unwrap();
        fs::set_permissions(it, Permissions::from_mode(0o755)).unwrap();
    }
    chown(&theirs, Some(STRANGER), None).unwrap();
    let mut server = Player::start("serve as stranger", theirs.join("jobs"));
    let number = server.says().unwrap();
    // In a directory of ours, so that only its user gives the server away.
    symlink(theirs.join("jobs"), ours.join("jobs")).unwrap();
    let name = ours.join("jobs").display().to_string();
    let refused = connect::<Queue>(&name).unwrap_err();
    assert!(matches!(refused, MeetError::Stranger { .. }), "{refused:?}");
    assert!(refused.to_string().contains("uid 12345"), "{refused}");
    assert_eq!(outcome(Connect::to(&name).trust_uid(STRANGER).open()), number);
}

pub(crate) fn serve_as_stranger(name: &str) {
    let queue = create().unwrap();
    become_stranger();
    let _keeper = serve(name, &queue).unwrap();
    say(format_args!("{:032x}", queue.id()));
    stay();
}

/// Fails if garbage on a stream is taken for a queue, or descriptors beside it stay open (seen
/// failing with the length left unchecked, with the magic left unchecked, and with room for three
/// descriptors of which one is kept).
#[test]
fn garbage_on_a_stream_is_refused_and_its_descriptors_are_closed() {
    let (here, there) = UnixStream::pair().unwrap();
    let received = || <Queue>::receive_over(&there);
    for garbage in ["hello, are you there?", "parkmeet", "park"] {
        rustix::net::send(&here, garbage.as_bytes(), SendFlags::empty()).unwrap();
        let foreign = received().unwrap_err();
        assert!(foreign.to_string().contains("no server of parkline"), "{foreign}");
        // What is left of it.
        let _ = rustix::net::recv(&there, &mut [0; 64], RecvFlags::DONTWAIT);
    }
    let (here, there) = UnixStream::pair().unwrap();
    let received = || <Queue>::receive_over(&there);
    let record = |version: u32| [*b"park", *b"meet", version.to_le_bytes(), [0; 4]].concat();
    let send = |record: &[u8], descriptors: &[OwnedFd]| {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !borrowed.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
        }
        let record = &[IoSlice::new(record)];
        rustix::net::sendmsg(&here, record, &mut control, SendFlags::empty()).unwrap();
    };
    send(&record(1), &[]);
    let none = received().unwrap_err();
    assert!(none.to_string().contains("no descriptor"), "{none}");
    send(&record(2), &[]);
    let newer = received().unwrap_err();
    assert!(newer.to_string().contains("version 2"), "{newer}");
    // Pipes, whose readers see when the last writer is closed.
    let pipes = [(); 3].map(|()| rustix::pipe::pipe().unwrap());
    let (readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
    send(&record(1), &writers);
    drop(writers);
    let pipe = received().unwrap_err();
    assert!(matches!(pipe, MeetError::Open(_)), "{pipe:?}");
    for reader in readers {
        let mut byte = [0];
        until("the writer is closed", || rustix::io::read(&reader, &mut byte[..]) == Ok(0));
    }
}

//! A queue that systemd keeps, with a socket that plays systemd's part.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use command_fds::{CommandFdExt, FdMapping};
use parkline_core::Queue;
use parkline_meet::systemd;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::player::{Player, command, create, say};

/// Fails if the queue does not come back with its messages (seen failing with `FDNAME` left out,
/// and with the first descriptor taken for any name).
#[test]
fn a_service_finds_its_queue_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("notify");
    let notified = UnixDatagram::bind(&socket).unwrap();
    let mut service = Player::start_as(command("store", "").env("NOTIFY_SOCKET", &socket));
    let number = service.says().unwrap();
    let (text, fd) = receive(&notified);
    assert_eq!(text, "FDSTORE=1\nFDNAME=jobs\n");
    service.kill();
    // As systemd does: descriptor 3, and the pid of the process that is executed.
    let mut restarted = std::process::Command::new("sh");
    let plain = command("store", "");
    restarted
        .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""])
        .arg(plain.get_program())
        .args(plain.get_args())
        .envs(plain.get_envs().map(|(key, value)| (key, value.unwrap())))
        .envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "jobs")])
        .fd_mappings(vec![FdMapping { parent_fd: fd, child_fd: 3 }])
        .unwrap();
    let mut service = Player::start_as(&mut restarted);
    assert_eq!(service.says().unwrap(), format!("{number} again"));
    assert_eq!(service.says().unwrap(), "kept");
}

fn receive(socket: &UnixDatagram) -> (String, OwnedFd) {
    let mut text = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut text)];
    let len = recvmsg(socket, into, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let fd = control.drain().find_map(|it| match it {
        RecvAncillaryMessage::ScmRights(mut all) => all.next(),
        _ => None,
    });
    (String::from_utf8_lossy(&text[..len]).into_owned(), fd.unwrap())
}

/// The service.
pub(crate) fn store() {
    if let Some(queue) = systemd::stored::<Queue>("jobs").unwrap() {
        say(format_args!("{:032x} again", queue.id()));
        assert_eq!(queue.receiver().unwrap().try_recv().unwrap(), b"kept");
        assert!(systemd::stored::<Queue>("other").unwrap().is_none());
        return say("kept");
    }
    let queue = create().unwrap();
    queue.sender().unwrap().try_send(b"kept").unwrap();
    systemd::store("jobs", &queue).unwrap();
    say(format_args!("{:032x}", queue.id()));
    crate::player::stay();
}

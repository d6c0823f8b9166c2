//! Names, run directories, and what is said of a name that is not served.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;

use parkline_core::{Event, Queue, Semaphore};
use parkline_meet::{Connect, MeetError, connect, connect_or_serve, serve};
use rustix::process::Signal;
use std::time::Duration;

use crate::player::{Player, command, create, descriptors, outcome, together, until};

/// Fails if a bad name is used as a file name (seen failing with the check of the first byte left
/// out).
#[test]
fn a_bad_name_is_refused_with_the_rule() {
    for bad in [
        "",
        ".hidden",
        "..",
        "a b",
        "a/",
        "jobs.lock",
        "/tmp/x/jobs.heirs",
        "jobs.new",
        &"x".repeat(65),
    ] {
        let refused = connect::<Queue>(bad);
        assert!(matches!(refused, Err(MeetError::Name { .. })), "{bad:?}: {refused:?}");
        assert!(serve(bad, &create().unwrap()).is_err());
    }
}

/// Fails if a directory is passed over, or `/tmp` is used (seen failing with the two variables
/// exchanged).
#[test]
fn the_run_directory_comes_from_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let (own, of_user) = (directory.path().join("own"), directory.path().join("user"));
    fs::create_dir(&of_user).unwrap();
    let start = |set: &[(&str, &std::path::Path)], part: &str| {
        let mut command = command(part, "jobs");
        command.env_remove("PARKLINE_RUN_DIR").env_remove("XDG_RUNTIME_DIR");
        Player::start_as(command.envs(set.iter().copied()))
    };
    let user = ("XDG_RUNTIME_DIR", &*of_user);
    let mut first = start(&[user], "keep");
    let number = first.says().unwrap();
    assert!(of_user.join("parkline/jobs").exists());
    let mode = fs::metadata(of_user.join("parkline")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(start(&[user], "connect").says().unwrap(), number);
    let both = [user, ("PARKLINE_RUN_DIR", &*own)];
    let mut second = start(&both, "keep");
    assert_ne!(second.says().unwrap(), number, "another directory");
    assert!(own.join("jobs").exists());
    if !std::path::Path::new("/run/parkline").exists() {
        let none = start(&[], "connect").says().unwrap();
        let named = ["PARKLINE_RUN_DIR", "XDG_RUNTIME_DIR", "/run/parkline"];
        assert!(named.iter().all(|it| none.contains(it)), "{none}");
    }
}

/// Fails if a long directory does not fit into the address of a socket (seen failing with the path
/// itself as the address).
#[test]
fn a_path_may_be_longer_than_a_sockets_address() {
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("d".repeat(200));
    fs::DirBuilder::new().create(&long).unwrap();
    fs::set_permissions(&long, Permissions::from_mode(0o700)).unwrap();
    let name = long.join("jobs").display().to_string();
    let queue = create().unwrap();
    let _keeper = serve(&name, &queue).unwrap();
    assert_eq!(connect::<Queue>(&name).unwrap().id(), queue.id());
}

/// Fails if a kind of object cannot be met (seen failing with the number of an event that changes
/// with each open: it has no heir).
#[test]
fn events_and_semaphores_meet_too() {
    let directory = tempfile::tempdir().unwrap();
    let name = |it: &str| directory.path().join(it).display().to_string();
    let stop = Queue::builder().create_event().unwrap();
    let slots = Queue::builder().create_semaphore(2).unwrap();
    let _keepers = (serve(&name("stop"), &stop).unwrap(), serve(&name("slots"), &slots).unwrap());
    connect::<Event>(&name("stop")).unwrap().set().unwrap();
    assert!(stop.is_set());
    let same: Semaphore = connect(&name("slots")).unwrap();
    let _permit = same.try_acquire().unwrap().unwrap();
    assert_eq!(slots.available_permits(), 1);
    let wrong = connect::<Queue>(&name("stop"));
    assert!(matches!(wrong, Err(MeetError::Open(_))), "{wrong:?}");
    let (same, _heir) = Connect::to(&name("stop")).open_as_heir::<Event>().unwrap();
    assert!(same.is_set());
}

/// Fails if a dead server is taken for none, or a live one for dead (seen failing with the refusal
/// of a connection taken for a missing socket).
#[test]
fn a_killed_server_is_gone_and_the_next_one_replaces_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs");
    let name = path.display().to_string();
    assert!(matches!(connect::<Queue>(&name), Err(MeetError::NotServed { .. })));
    let mut server = Player::start("keep", &path);
    let number = server.says().unwrap();
    assert_eq!(outcome(connect(&name)), number);
    assert_eq!(Player::start("connect in tokio", &path).says().unwrap(), number);
    let in_use = serve(&name, &create().unwrap()).unwrap_err();
    assert!(matches!(in_use, MeetError::InUse { .. }), "{in_use:?}");
    assert!(in_use.to_string().contains(&format!("process {}", server.pid())), "{in_use}");
    server.kill();
    let gone = connect::<Queue>(&name).unwrap_err();
    assert!(matches!(gone, MeetError::Gone { .. }), "{gone:?}");
    assert!(gone.to_string().contains(&format!("process {}", server.pid())), "{gone}");
    let mut next = Player::start("keep in tokio", &path);
    let replaced = next.says().unwrap();
    assert_ne!(replaced, number);
    assert_eq!(outcome(connect(&name)), replaced);
}

/// Fails if a stopped server blocks its clients without an end (seen failing with no timeout of the
/// poll: it does not end).
#[test]
fn a_stopped_server_is_silent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs");
    let mut server = Player::start("keep", &path);
    let number = server.says().unwrap();
    server.stop();
    let name = path.display().to_string();
    let soon = Connect::to(&name).wait(Duration::from_millis(50));
    let silent = soon.clone().open::<Queue>().unwrap_err();
    assert!(matches!(silent, MeetError::Silent { .. }), "{silent:?}");
    assert!(silent.to_string().contains(&server.pid().to_string()), "{silent}");
    let in_tokio = tokio::runtime::Runtime::new().unwrap().block_on(soon.open_async::<Queue>());
    assert!(matches!(in_tokio, Err(MeetError::Silent { .. })), "{in_tokio:?}");
    server.signal(Signal::CONT);
    assert_eq!(outcome(connect(&name)), number);
}

/// Fails if a file that is no socket of ours is replaced or spoken to (seen failing with the check
/// in `Host::begin` left out: the file is gone).
#[test]
fn other_files_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes");
    fs::write(&path, "precious").unwrap();
    let refused = serve(&path.display().to_string(), &create().unwrap());
    assert!(matches!(refused, Err(MeetError::Foreign { .. })), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let other = directory.path().join("other");
    let _listener = UnixListener::bind(&other).unwrap();
    let refused = connect::<Queue>(&other.display().to_string());
    assert!(matches!(refused, Err(MeetError::Foreign { .. })), "{refused:?}");
}

/// Fails if a directory is used that others can change (each seen failing with its check left out).
#[test]
fn a_directory_of_others_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join("jobs").display().to_string();
    let _keeper = serve(&name, &create().unwrap()).unwrap();
    for mode in [0o777, 0o770, 0o1777] {
        fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
        let refused = connect::<Queue>(&name).unwrap_err();
        assert!(matches!(refused, MeetError::Stranger { .. }), "{refused:?}");
        assert!(refused.to_string().contains(&format!("{mode:04o}")), "{refused}");
        let other = directory.path().join("more").display().to_string();
        assert!(matches!(serve(&other, &create().unwrap()), Err(MeetError::Stranger { .. })));
    }
    fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(directory.path(), Some(12_345), None).unwrap();
        let refused = connect::<Queue>(&name).unwrap_err();
        assert!(refused.to_string().contains("uid 12345"), "{refused}");
        assert!(Connect::to(&name).trust_uid(12_345).open::<Queue>().is_ok());
        chown(directory.path(), Some(0), None).unwrap();
    }
}

/// Fails if two servers can begin at the same moment (seen failing with the lock of the server left
/// out).
#[test]
fn of_threads_that_begin_together_one_serves() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..50 {
        let name = directory.path().join(format!("jobs{round}")).display().to_string();
        let met = together(8, move || {
            let (queue, keeper) = connect_or_serve(&name, create).unwrap();
            (queue.id(), keeper)
        });
        assert!(met.iter().all(|it| it.0 == met[0].0), "two queues have one name");
        assert_eq!(met.iter().filter(|it| it.1.is_serving()).count(), 1);
    }
    // Each left its two locks, and no socket.
    let sockets = || {
        let is_socket = |it: &fs::DirEntry| it.path().extension().is_none();
        fs::read_dir(directory.path()).unwrap().map(Result::unwrap).filter(is_socket).count()
    };
    assert_eq!(sockets(), 0);
}

/// Fails if a connect leaves a descriptor in the client or in the server (seen failing with the
/// clients of a server kept after their end, and with the socket of the client forgotten).
#[test]
fn a_thousand_connects_leave_no_descriptor() {
    connects_leave_no_descriptor(1_000);
}

#[test]
#[ignore = "the same for longer: some seconds"]
fn ten_thousand_connects_leave_no_descriptor() {
    connects_leave_no_descriptor(10_000);
}

fn connects_leave_no_descriptor(connects: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs");
    let mut server = Player::start("keep", &path);
    let number = server.says().unwrap();
    // Other tests of this process open descriptors too, so a process of its own counts.
    let before = descriptors(server.pid());
    let mut client =
        Player::start_as(command("connect", &path).env("CONNECTS", connects.to_string()));
    let counted = client.says().unwrap();
    assert_eq!(counted, format!("{number} {connects} 0"));
    until("the server closes what its clients closed", || descriptors(server.pid()) == before);
}

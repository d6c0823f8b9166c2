//! A queue between real processes: each is this very test binary, run anew for the part that its
//! environment names, with the memfd as its standard input.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{self, Child, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use parkline_core::driver::Side;
use parkline_core::{AttachError, Queue, SendError};

const PART: &str = "PARKLINE_TEST_PART";
const ID: &str = "PARKLINE_TEST_ID";
const EACH: u32 = 10_000;
/// Long enough that nothing here passes thanks to it.
const HOUR: Duration = Duration::from_secs(3600);

/// A process that plays one part. Killed when dropped.
struct Player {
    process: Child,
    says: io::Lines<BufReader<ChildStdout>>,
}

impl Player {
    fn start(queue: &Queue, part: &str, id: u32) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "part", "--ignored", "--nocapture"])
            .env(PART, part)
            .env(ID, id.to_string())
            .stdin(Stdio::from(queue.try_clone_fd().unwrap()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, says }
    }

    /// The next thing it says; `None` when it is gone.
    fn says(&mut self) -> Option<String> {
        // The test harness talks, too.
        self.says.find_map(|line| line.unwrap().strip_prefix("> ").map(str::to_owned))
    }

    fn says_all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.says()).collect()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It is gone already, or it shall be.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn say(word: impl std::fmt::Display) {
    // On a line of its own, whatever the test harness wrote before.
    println!("\n> {word}");
}

fn to_bytes(sender: u32, n: u32) -> [u8; 8] {
    (u64::from(sender) << 32 | u64::from(n)).to_ne_bytes()
}

/// What a player does. Run by the tests, in processes of its own.
#[test]
#[ignore = "a part that the other tests start in a process of its own"]
fn part() {
    let Ok(part) = env::var(PART) else { return };
    // A part that hangs ends, and its test fails.
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(60));
        process::abort();
    });
    let id = env::var(ID).unwrap().parse().unwrap();
    let queue = Queue::open(io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    match part.as_str() {
        "send" => {
            let mut sender = queue.sender().unwrap();
            for n in 0..EACH {
                sender.send_blocking(&to_bytes(id, n)).unwrap();
            }
            say("sent");
        }
        "receive" => {
            let mut receiver = queue.receiver().unwrap();
            say("ready");
            let mut messages = Vec::new();
            while let Ok(message) = receiver.recv_blocking() {
                messages.push(u64::from_ne_bytes(message.try_into().unwrap()));
            }
            messages.into_iter().for_each(say);
        }
        "block in send" => {
            let mut sender = queue.sender().unwrap();
            say("ready");
            say(sender.send_blocking(b"more").unwrap_err());
        }
        "send for ever" => {
            let mut sender = queue.sender().unwrap();
            say("ready");
            while sender.send_blocking(&to_bytes(id, 0)).is_ok() {}
        }
        "receive for ever" => {
            let mut receiver = queue.receiver().unwrap();
            say("ready");
            while receiver.recv_blocking().is_ok() {}
        }
        "reserve and hang" => {
            let mut sender = queue.sender().unwrap();
            let mut message = sender.try_reserve(8).unwrap();
            message.write_at(0, b"half");
            say("ready");
            hang();
        }
        "lease and hang" => {
            let mut receiver = queue.receiver().unwrap();
            let _lease = receiver.try_lease().unwrap();
            say("ready");
            hang();
        }
        other => panic!("no part is called {other}"),
    }
}

fn hang() -> ! {
    loop {
        thread::park();
    }
}

fn until_somebody_waits(side: &Side) {
    while side.gate().unwrap().word().load(Relaxed) & 1 == 0 {
        thread::yield_now();
    }
}

/// Caught: an exchange that stores without comparing.
#[test]
fn four_senders_and_four_receivers_lose_and_repeat_nothing() {
    for capacity in [1, 16, 256] {
        let queue = Queue::builder().capacity(capacity).max_message(8).watchdog(HOUR);
        let queue = queue.create().unwrap();
        let mut receivers: Vec<_> = (0..4).map(|id| Player::start(&queue, "receive", id)).collect();
        let mut senders: Vec<_> = (0..4).map(|id| Player::start(&queue, "send", id)).collect();
        for sender in &mut senders {
            assert_eq!(sender.says().as_deref(), Some("sent"));
        }
        for receiver in &mut receivers {
            assert_eq!(receiver.says().as_deref(), Some("ready"));
        }
        queue.close().unwrap();
        let mut arrivals = BTreeMap::new();
        for receiver in &mut receivers {
            let mut last = BTreeMap::new();
            for message in receiver.says_all() {
                let both: u64 = message.parse().unwrap();
                let (sender, n) = ((both >> 32) as u32, both as u32);
                assert!(last.insert(sender, n) < Some(n), "out of the order of sender {sender}");
                *arrivals.entry((sender, n)).or_insert(0) += 1;
            }
        }
        assert_eq!(arrivals.len() as u32, 4 * EACH, "none was lost, none invented");
        assert!(arrivals.values().all(|times| *times == 1), "none came twice");
    }
}

/// Caught: private futexes.
#[test]
fn close_reaches_a_sender_that_waits_in_another_process() {
    let queue = Queue::builder().capacity(1).watchdog(HOUR).create().unwrap();
    let mut filler = queue.sender().unwrap();
    filler.try_send(b"full").unwrap();
    let mut player = Player::start(&queue, "block in send", 0);
    assert_eq!(player.says().as_deref(), Some("ready"));
    until_somebody_waits(&filler.side());
    queue.close().unwrap();
    assert_eq!(player.says(), Some(SendError::<()>::Closed(()).to_string()));
}

/// Caught: private futexes.
#[test]
fn close_reaches_a_receiver_that_waits_in_another_process() {
    let queue = Queue::builder().capacity(1).watchdog(HOUR).create().unwrap();
    let side = queue.receiver().unwrap().side();
    let mut player = Player::start(&queue, "receive", 0);
    assert_eq!(player.says().as_deref(), Some("ready"));
    until_somebody_waits(&side);
    queue.close().unwrap();
    assert_eq!(player.says(), None);
    assert!(player.process.wait().unwrap().success());
}

#[test]
fn what_was_sent_outlives_its_sender() {
    let queue = Queue::builder().capacity(16_384).max_message(8).create().unwrap();
    let mut player = Player::start(&queue, "send", 0);
    assert_eq!(player.says().as_deref(), Some("sent"));
    player.kill();
    let mut receiver = queue.receiver().unwrap();
    for n in 0..EACH {
        assert_eq!(receiver.try_recv().unwrap(), to_bytes(0, n));
    }
}

/// Killed wherever they just are, among them in the midst of an exchange.
///
/// Caught: a slot claimed first and filled later, that others wait for.
#[test]
fn killed_senders_and_receivers_leave_the_others_going() {
    let queue = Queue::builder().capacity(4).max_message(8).handles(64).create().unwrap();
    for round in 0..10 {
        let mut players =
            ["send for ever", "send for ever", "receive for ever", "receive for ever"]
                .map(|part| Player::start(&queue, part, 77));
        for player in &mut players {
            assert_eq!(player.says().as_deref(), Some("ready"));
        }
        let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
        for _ in 0..20 {
            sender.send_blocking(&to_bytes(round, 1)).unwrap();
            receiver.recv_blocking().unwrap();
        }
        players.iter_mut().for_each(Player::kill);
        while receiver.try_recv().is_ok() {}
        for n in 0..100 {
            sender.try_send(&to_bytes(round, n)).unwrap();
            assert_eq!(receiver.try_recv().unwrap(), to_bytes(round, n));
        }
    }
}

/// Caught: a lock that is never taken.
#[test]
fn a_killed_waiter_gives_its_record_back() {
    let queue = Queue::builder().capacity(1).handles(1).create().unwrap();
    let mut player = Player::start(&queue, "receive", 0);
    assert_eq!(player.says().as_deref(), Some("ready"));
    assert!(matches!(queue.receiver(), Err(AttachError::NoFreeHandle { .. })));
    player.kill();
    assert!(queue.receiver().is_ok());
}

#[test]
fn a_killed_reservation_blocks_nobody_and_is_never_seen() {
    let queue = Queue::builder().capacity(1).handles(2).create().unwrap();
    let mut player = Player::start(&queue, "reserve and hang", 0);
    assert_eq!(player.says().as_deref(), Some("ready"));
    player.kill();
    let (mut sender, mut receiver) = (queue.sender().unwrap(), queue.receiver().unwrap());
    sender.try_send(b"whole").unwrap();
    assert_eq!(receiver.try_recv().unwrap(), b"whole");
    assert!(receiver.try_recv().is_err());
}

/// Its message is neither lost nor another's: what it holds waits for an audit.
///
/// Caught: a held cell taken for free.
#[test]
fn a_killed_lease_keeps_its_block_from_others() {
    let queue = Queue::builder().capacity(1).handles(3).create().unwrap();
    let mut sender = queue.sender().unwrap();
    sender.try_send(b"job").unwrap();
    let mut player = Player::start(&queue, "lease and hang", 0);
    assert_eq!(player.says().as_deref(), Some("ready"));
    player.kill();
    let mut receiver = queue.receiver().unwrap();
    for n in 0..100u8 {
        sender.try_send(&[n]).unwrap();
        assert_eq!(receiver.try_recv().unwrap(), [n]);
    }
    let file = File::from(queue.try_clone_fd().unwrap());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
    assert!(bytes.windows(3).any(|window| window == b"job"), "it is still there");
}

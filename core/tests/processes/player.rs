//! A process that plays a part.

use std::env;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{self, Child, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use parkline_core::Queue;
use parkline_core::driver::Side;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};

use crate::{deprived, descriptors, forks, kernel_objects};

const PART: &str = "PARKLINE_TEST_PART";
const ID: &str = "PARKLINE_TEST_ID";
pub(crate) const EACH: u32 = 10_000;
/// Long enough that nothing here passes thanks to it.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A process that plays one part. Killed when dropped, and its children with it.
pub(crate) struct Player {
    pub(crate) process: Child,
    says: io::Lines<BufReader<ChildStdout>>,
}

impl Player {
    pub(crate) fn start(queue: &impl AsFd, part: &str, id: u32) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "player::part", "--ignored", "--nocapture"])
            .env(PART, part)
            .env(ID, id.to_string())
            .stdin(Stdio::from(queue.as_fd().try_clone_to_owned().unwrap()))
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let says = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, says }
    }

    /// The next thing it says; `None` when it is gone.
    pub(crate) fn says(&mut self) -> Option<String> {
        // The test harness talks, too.
        self.says.find_map(|line| line.unwrap().strip_prefix("> ").map(str::to_owned))
    }

    pub(crate) fn says_all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.says()).collect()
    }

    /// Returns when it has stopped.
    pub(crate) fn stop(&self) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::STOP).unwrap();
        waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It is gone already, or it shall be.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
    }
}

pub(crate) fn say(word: impl std::fmt::Display) {
    // On a line of its own, whatever the test harness wrote before.
    println!("\n> {word}");
}

pub(crate) fn to_bytes(sender: u32, n: u32) -> [u8; 8] {
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
    // The kernel gives no leases on a queue that is open.
    if part == "lease the memfd" {
        return kernel_objects::lease(id);
    }
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
        "close all descriptors" => descriptors::close_all(queue),
        "execute another program" => descriptors::execute(&queue),
        "fork while attaching" => forks::while_attaching(&queue, id),
        "wait deprived" => deprived::wait(&queue, id),
        "recover deprived" => deprived::recover(&queue),
        "lay locks" => kernel_objects::lay_locks(),
        "lease many and hang" => kernel_objects::lease_many(&queue, id),
        "hang in the handler" => {
            let mut receiver = queue.receiver().unwrap();
            receiver.on_dead_letter(|letter| {
                say(String::from_utf8(letter.message).unwrap());
                hang();
            });
            let _ = receiver.try_recv();
        }
        other => panic!("no part is called {other}"),
    }
}

pub(crate) fn hang() -> ! {
    loop {
        thread::park();
    }
}

pub(crate) fn until_somebody_waits(side: &Side) {
    while side.gate().unwrap().word().load(Relaxed) & 1 == 0 {
        thread::yield_now();
    }
}

//! A process that plays a part: this binary, executed again.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parkline_core::Queue;
use parkline_meet::{Connect, Keeper, MeetError, connect_or_serve, connect_or_serve_async};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::{heirs, hostile, passing, store};

const PART: &str = "PARKLINE_TEST_PART";
const NAME: &str = "PARKLINE_TEST_NAME";

/// A process that plays one part. Killed when dropped.
pub(crate) struct Player {
    pub(crate) process: Child,
    hears: Option<ChildStdin>,
    says: io::Lines<BufReader<ChildStdout>>,
}

impl Player {
    pub(crate) fn start(part: &str, name: impl AsRef<Path>) -> Self {
        Self::start_as(&mut command(part, name))
    }

    pub(crate) fn start_as(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(process.stdout.take().unwrap()).lines();
        let hears = process.stdin.take();
        Self { process, hears, says }
    }

    /// The next thing it says; `None` when it is gone.
    pub(crate) fn says(&mut self) -> Option<String> {
        // The test harness talks, too.
        self.says.find_map(|line| line.unwrap().strip_prefix("> ").map(str::to_owned))
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.hears.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Returns when it has stopped.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        waitpid(Some(Pid::from_child(&self.process)), WaitOptions::UNTRACED).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It is gone already, or it shall be.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command that starts a player.
pub(crate) fn command(part: &str, name: impl AsRef<Path>) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "player::part", "--ignored", "--nocapture"])
        .env(PART, part)
        .env(NAME, name.as_ref());
    command
}

pub(crate) fn say(word: impl std::fmt::Display) {
    // On a line of its own, whatever the test harness wrote before.
    println!("\n> {word}");
}

/// What the test tells this player next.
pub(crate) fn hear() -> String {
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Stays until the test ends or kills this player.
pub(crate) fn stay() {
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

/// Tries until it is so, for a state that another process reaches by itself.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        thread::yield_now();
    }
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The number of the queue, or why there is none.
pub(crate) fn outcome(met: Result<Queue, MeetError>) -> String {
    match met {
        Ok(queue) => format!("{:032x}", queue.id()),
        Err(error) => format!("{error:?} {error}").replace('\n', " "),
    }
}

pub(crate) fn create() -> Result<Queue, parkline_core::CreateError> {
    Queue::builder().capacity(256).max_message(16).handles(128).create()
}

fn keep(met: Result<(Queue, Keeper), MeetError>) {
    let (queue, keeper) = met.unwrap();
    say(format_args!("{:032x}", queue.id()));
    let mut asked = hear();
    if asked == "serves?" {
        until("this heir serves", || keeper.is_serving());
        say("serves");
        asked = hear();
    }
    match asked.as_str() {
        // Sends its number.
        "send" => {
            queue.sender().unwrap().try_send(&std::process::id().to_le_bytes()[..]).unwrap();
            say("sent");
            stay();
        }
        "drop" => {
            drop(keeper);
            say("dropped");
            stay();
        }
        // The test is gone, or has not asked for anything.
        _ => {}
    }
}

/// Connects, as often as it is asked to. Says how many descriptors that left.
fn connect(name: &str) {
    let Ok(times) = env::var("CONNECTS") else { return say(outcome(Connect::to(name).open())) };
    // The first call may leave something for all.
    let first = outcome(Connect::to(name).open());
    let before = descriptors(std::process::id());
    let same = (0..times.parse().unwrap()).filter(|_| outcome(Connect::to(name).open()) == first);
    let same = same.count();
    say(format_args!("{first} {same} {}", descriptors(std::process::id()) - before));
}

fn in_tokio<T>(run: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(run)
}

#[test]
#[ignore = "the part of a process that other tests start"]
fn part() {
    let Ok(part) = env::var(PART) else { return };
    let name = env::var(NAME).unwrap();
    match part.as_str() {
        "keep" => keep(connect_or_serve(&name, create)),
        "keep in tokio" => in_tokio(async {
            let met = connect_or_serve_async(&name, create).await;
            // The task of the keeper runs on another thread.
            keep(met);
        }),
        "connect" => connect(&name),
        "connect in tokio" => say(outcome(in_tokio(Connect::to(&name).open_async()))),
        "lease" => heirs::lease(&name),
        "fork" => heirs::fork_and_stay(&name),
        "exchange: send" => heirs::send_all(&name),
        "exchange: receive" => heirs::receive_all(&name),
        "stranger" => hostile::connect_as_stranger(&name, false),
        "stranger of the group" => hostile::connect_as_stranger(&name, true),
        "serve as stranger" => hostile::serve_as_stranger(&name),
        "run out" => hostile::serve_with_few_descriptors(&name),
        "take" => passing::take(),
        "take alone" => passing::take_alone(),
        "look" => say(passing::inherited()),
        "store" => store::store(),
        other => panic!("no part {other}"),
    }
}

/// A barrier for threads that start at the same moment.
pub(crate) fn together<T: Send + 'static>(
    threads: usize,
    run: impl Fn() -> T + Send + Sync + 'static,
) -> Vec<T> {
    let barrier = Arc::new(std::sync::Barrier::new(threads));
    let run = Arc::new(run);
    let start = |_| {
        let (barrier, run) = (Arc::clone(&barrier), Arc::clone(&run));
        thread::spawn(move || {
            barrier.wait();
            run()
        })
    };
    let all: Vec<_> = (0..threads).map(start).collect();
    all.into_iter().map(|it| it.join().unwrap()).collect()
}

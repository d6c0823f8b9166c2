//! How long a message is away whose receiver is killed: from SIGKILL to its second delivery, to a
//! survivor that waits.
//!
//! `cargo bench -p parkline-benches --bench recovery [-- ROUNDS]`. The yardstick is the kernel: from
//! SIGKILL until the pidfd of the killed is readable.

use std::env;
use std::io::{Read, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver as From, Sender as To, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parkline_benches::Message;
use parkline_benches::machine::{self, Cores};
use parkline_core::{Queue, Receiver, Sender};
use parkline_uring::{AsyncReceiver, block_on};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const ROLE: &str = "--leaseholder";
const ROUNDS: usize = 200;

fn main() -> Result<()> {
    if env::args().nth(1).as_deref() == Some(ROLE) {
        return hold();
    }
    let cores = Cores::pick()?;
    machine::pin(cores.near)?;
    let rounds = env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(ROUNDS);
    println!("{}\ncores    {cores}\n", machine::description());
    println!("{rounds} kills each, in turn; microseconds from SIGKILL of the holder of a lease\n");
    let mut contenders = [
        ("until its pidfd is readable", Contender::Kernel),
        ("to a thread in block_on", survivor(cores, |mut it| move || block_on(again(&mut it)))?),
        (
            "to a task of tokio",
            survivor(cores, |mut it| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("tokio starts");
                move || runtime.block_on(again(&mut it))
            })?,
        ),
        (
            "to a blocked thread (watchdog 100 ms)",
            survivor(cores, |mut it| move || it.lease_blocking().expect("it comes again").ack())?,
        ),
    ];
    let mut times = contenders.each_ref().map(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        for ((_, contender), times) in contenders.iter_mut().zip(&mut times) {
            times.push(contender.round()?.as_secs_f64() * 1e6);
        }
    }
    println!("{:40} {:>10} {:>10} {:>10} {:>10}", "", "least", "median", "p99", "most");
    for ((name, _), mut times) in contenders.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        println!("{name:40} {:10.0} {:10.0} {:10.0} {:10.0}", at(0), at(50), at(99), at(100));
    }
    Ok(())
}

async fn again(receiver: &mut Receiver<Message>) {
    let lease = receiver.lease().await.expect("it comes again");
    assert!(lease.redelivered());
    lease.ack();
}

enum Contender {
    Kernel,
    Survivor(Survivor),
}

/// A thread that waits whenever it is told to, and says when it got what it waited for.
struct Survivor {
    queue: Queue<Message>,
    sender: Sender<Message>,
    wait: To<()>,
    got: From<Instant>,
}

fn survivor<W: FnMut()>(
    cores: Cores,
    way: impl FnOnce(Receiver<Message>) -> W + Send + 'static,
) -> Result<Contender> {
    let queue = Queue::builder().create_typed::<Message>()?;
    let (sender, receiver) = (queue.sender()?, queue.receiver()?);
    let ((wait, waits), (gets, got)) = (channel(), channel());
    thread::spawn(move || {
        machine::pin(cores.far).expect("it was picked");
        let mut wait = way(receiver);
        while let Ok(()) = waits.recv() {
            wait();
            gets.send(Instant::now()).expect("the main thread listens");
        }
    });
    Ok(Contender::Survivor(Survivor { queue, sender, wait, got }))
}

impl Contender {
    fn round(&mut self) -> Result<Duration> {
        match self {
            Self::Kernel => {
                let queue = Queue::builder().create_typed::<Message>()?;
                queue.sender()?.try_send(&[0; 8])?;
                let mut holder = holder(&queue)?;
                let pidfd = pidfd_open(Pid::from_child(&holder), PidfdFlags::empty())?;
                let killed = Instant::now();
                holder.kill()?;
                poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None)?;
                let took = killed.elapsed();
                holder.wait()?;
                Ok(took)
            }
            Self::Survivor(Survivor { queue, sender, wait, got }) => {
                sender.try_send(&[0; 8])?;
                let mut holder = holder(queue)?;
                let before = queue.stats().parks;
                wait.send(())?;
                while queue.stats().parks == before {
                    thread::yield_now();
                }
                // It is about to fall asleep; let it.
                thread::sleep(Duration::from_millis(1));
                let killed = Instant::now();
                holder.kill()?;
                let took = got.recv()?.duration_since(killed);
                holder.wait()?;
                Ok(took)
            }
        }
    }
}

/// A process that has leased the only message.
fn holder(queue: &Queue<Message>) -> Result<Child> {
    let mut holder = Command::new(env::current_exe()?);
    holder.arg(ROLE).stdin(Stdio::from(queue.try_clone_fd()?)).stdout(Stdio::piped());
    let mut holder = holder.spawn()?;
    holder.stdout.as_mut().context("no pipe")?.read_exact(&mut [0])?;
    Ok(holder)
}

fn hold() -> Result<()> {
    let queue = Queue::<Message>::open_typed(stdin().as_fd().try_clone_to_owned()?)?;
    let _lease = queue.receiver()?.try_lease()?;
    stdout().write_all(&[0])?;
    stdout().flush()?;
    loop {
        thread::park();
    }
}

//! `wakes`: the hunt for lost wake-ups.
//!
//! A wake-up is lost with a killed process in two cases: the process was woken, and is killed before it
//! takes the message or the room; or it made the change, and is killed before it wakes a sleeper. In
//! each round a survivor sleeps at the same gate, and must get the message or the room within the
//! watchdog's period and a little more.
//!
//! Seen to fail: waiters that sleep without a watchdog (175 violations in 200 rounds). A bug that shows
//! without a death is in `healers.rs`.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use parkline_core::Queue;
use parkline_core::driver::census;

use super::fate::Fate;
use super::healers;
use super::parallel::in_parallel;
use super::parked::Survivor;
use super::victim::{self, LEN};
use crate::asleep::{Late, Sleeper};
use crate::case::Case;
use crate::message;
use crate::operation::{Fill, Operation};
use crate::player::{Player, no_forks};
use crate::report::{Table, Violations};
use crate::states::CAPACITY;
use crate::waiter::GRACE;

/// Arguments of the hunt for lost wakes.
#[derive(Debug, Args)]
pub(crate) struct Wakes {
    /// How many deaths
    #[arg(long, default_value_t = 1000)]
    rounds: usize,
    /// How often waiters look without having been woken, in milliseconds
    #[arg(long, default_value_t = 20)]
    watchdog: u64,
    /// Of the random choices; chosen at random, and printed, by default
    #[arg(long)]
    seed: Option<u64>,
}

/// How many more points an operation has if a survivor sleeps: the bump of the gate, and the system
/// call.
const WAKE: u64 = 2;
const LONG: Duration = Duration::from_secs(20);

/// Which process dies with a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// A woken receiver, before it receives.
    WokenReceiver,
    /// A woken sender, before it sends.
    WokenSender,
    /// A sender, between its commit and the wake of a receiver.
    Sender,
    /// A receiver, between its receive and the wake of a sender.
    Receiver,
}

impl Who {
    const ALL: [Self; 4] = [Self::WokenReceiver, Self::WokenSender, Self::Sender, Self::Receiver];

    fn operation(self) -> Operation {
        match self {
            Self::WokenReceiver => Operation::Park,
            Self::WokenSender => Operation::ParkSend,
            Self::Sender => Operation::TrySend,
            Self::Receiver => Operation::TryRecv,
        }
    }

    fn is_woken(self) -> bool {
        matches!(self, Self::WokenReceiver | Self::WokenSender)
    }

    /// Whether the survivor and a woken victim are receivers.
    fn receivers_sleep(self) -> bool {
        matches!(self, Self::WokenReceiver | Self::Sender)
    }

    fn fill(self) -> Fill {
        if self.receivers_sleep() { Fill::Empty } else { Fill::Full }
    }

    /// The points to die at. A woken victim: from the end of its wait to its exchange. A sender: from
    /// its exchange to the end. A receiver: from its acknowledgement to the end, because before that
    /// its message comes back, and there is no room.
    fn points(self) -> Result<Vec<u64>> {
        let known =
            victim::learn(Case { operation: self.operation(), fill: self.fill(), len: LEN })?;
        let last = known.points.len() as u64 - 1;
        let exchange = known.exchange()?;
        if self == Self::Sender {
            return Ok((exchange + 1..=last + WAKE).collect());
        }
        if self == Self::Receiver {
            let settled = known.points.iter().rposition(|name| name.ends_with(" settled"));
            let settled = settled.context("nothing is acknowledged")? as u64;
            return Ok((settled..=last + WAKE).collect());
        }
        let woken = known.points.iter().position(|name| name.ends_with("futex wait is over"));
        let woken = woken.context("nobody waits")? as u64;
        Ok((woken..=exchange).collect())
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WokenReceiver => "woken receiver, before it receives",
            Self::WokenSender => "woken sender, before it sends",
            Self::Sender => "sender, before it wakes",
            Self::Receiver => "receiver, before it wakes",
        })
    }
}

fn show(wait: Option<&Duration>) -> String {
    wait.map_or("-".to_owned(), |it| format!("{it:.1?}"))
}

pub(crate) fn run(args: &Wakes) -> Result<bool> {
    let begin = Instant::now();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("seed {seed}");
    let watchdog = Duration::from_millis(args.watchdog);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut violations = Violations::default();
    let mut table =
        Table::new(&["who died with a wake", "points", "deaths", "median wait", "longest"]);
    let mut deaths = 0;
    for who in Who::ALL {
        let points = who.points()?;
        let rounds: Vec<_> = (0..args.rounds.div_ceil(Who::ALL.len()))
            .filter_map(|_| random.choice(&points))
            .collect();
        let work = |at: &u64| round(who, *at, watchdog).with_context(|| format!("{who}, at {at}"));
        let found = in_parallel("wakes", &rounds, &mut violations, work)?;
        let mut waits: Vec<_> = found.into_iter().flatten().collect();
        waits.sort_unstable();
        deaths += waits.len();
        let (median, longest) = (show(waits.get(waits.len() / 2)), show(waits.last()));
        table.row(&[&who, &points.len(), &waits.len(), &median, &longest]);
    }
    let rounds: Vec<_> = (0..args.rounds.div_ceil(Who::ALL.len())).collect();
    let mut waits = in_parallel("healers", &rounds, &mut violations, |_| healers::round())?;
    waits.sort_unstable();
    let healed = waits.len();
    let (median, longest) = (show(waits.get(healed / 2)), show(waits.last()));
    table.row(&[&"nobody: a sender stopped while it heals", &1, &0, &median, &longest]);
    table.print();
    Ok(violations.conclude(format_args!("deaths: {deaths}; stops: {healed}"), begin.elapsed()))
}

/// How long the survivor waited after the victim's death; `None` if the survivor was awake by then, or
/// was woken in place of the victim.
fn round(who: Who, at: u64, watchdog: Duration) -> Result<Option<Duration>> {
    let queue = Queue::builder().capacity(CAPACITY).max_message(LEN).handles(4);
    let queue = {
        let _no_forks = no_forks();
        queue.watchdog(watchdog).create()?
    };
    let waited = play(who, at, watchdog, &queue);
    // Or else a survivor that still sleeps would wait on for ever.
    queue.close()?;
    waited
}

fn play(who: Who, at: u64, watchdog: Duration, queue: &Queue) -> Result<Option<Duration>> {
    let forks = no_forks();
    let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    // A new handle wakes all sleepers. So the survivor attaches here, and sleeps later.
    let survivor = if who.receivers_sleep() {
        Survivor::Receiver(queue.receiver()?)
    } else {
        Survivor::Sender(queue.sender()?)
    };
    drop(forks);
    for id in who.fill().messages() {
        sender.try_send(&message::of(id, LEN))?;
    }
    let start =
        |fate: Fate| victim::start_at(queue.try_clone_fd()?, who.operation(), LEN, fate, None);
    let mut victim = if who.is_woken() {
        // The first to sleep is the first to be woken.
        let mut victim = start(Fate::Die(at))?;
        if !until_asleep(&mut victim)? {
            return Ok(None);
        }
        victim
    } else {
        let mut victim = start(Fate::DieLater(at))?;
        victim.until_stopped()?;
        victim
    };
    let (survivor, sleeper) = survivor.sleep()?;
    sleeper.until_asleep()?;
    if !victim.is_alive()? {
        // The victim's watchdog woke it.
        return Ok(None);
    }
    let changed = Instant::now();
    match who {
        Who::WokenReceiver => sender.try_send(&message::of(1, LEN))?,
        Who::WokenSender => drop(receiver.try_recv()?),
        Who::Sender | Who::Receiver => victim.signal(Signal::SIGCONT)?,
    }
    let mut died = None;
    let mut late = None;
    let mut came = None;
    while came.is_none() {
        if died.is_none()
            && let Some(news) = victim.news(false)?
        {
            ensure!(!matches!(news, WaitStatus::Exited(_, 1..)), "the victim {news:?}");
            died = Some(Instant::now());
            late = Some(Late::begin(&sleeper));
        }
        if survivor.is_finished() {
            came = Some(Instant::now());
        }
        if died.is_some() && who == Who::Receiver && queue.len() == CAPACITY {
            // The message that the victim had taken came back, and took the room that the survivor
            // waits for.
            let _ = receiver.try_recv();
        }
        late.as_ref()
            .map_or(Ok(()), |late| late.check(watchdog + GRACE))
            .context("the survivor")?;
        ensure!(changed.elapsed() < LONG, "neither the victim nor the survivor came on");
        thread::yield_now();
    }
    victim.kill()?;
    let came = came.context("it came")?;
    let Ok(result) = survivor.join() else { bail!("the survivor panicked") };
    result?;
    // If the survivor came first, it was woken in the victim's place, or before the victim's death.
    let Some(died) = died.filter(|died| *died < came) else { return Ok(None) };
    let _no_forks = no_forks();
    // The messages that the dead held may find no room at first.
    for _ in 0..2 {
        queue.recover()?;
        while receiver.try_recv().is_ok() {}
    }
    let count = census(queue)?;
    let clean = count.in_ring + count.held + count.busy == 0 && count.owned == 2;
    ensure!(clean, "left over: {count:?}");
    Ok(Some(came - died))
}

/// `false` if the victim died before it was seen asleep: its watchdog woke it.
fn until_asleep(victim: &mut Player) -> Result<bool> {
    let sleeper = Sleeper::process(victim.pid());
    loop {
        match victim.news(false)? {
            Some(WaitStatus::Signaled(..)) => return Ok(false),
            Some(other) => bail!("a victim {other:?}"),
            None if sleeper.is_asleep() => return Ok(true),
            None => thread::yield_now(),
        }
    }
}

//! Two exchanges of one record at the same time: one thread returns a lease while the handle's own
//! thread receives. The victim dies with its two threads at any pair of their kill points.
//!
//! The victim has one thread for each exchange, and a third thread that lets them run in turns, by a
//! schedule. In its turn a thread runs until it is about to pass a given kill point, and rests there.
//! A thread that waits for a lock of the other thread runs no farther: that is a place to die, too.
//!
//! All pairs of places are tried in both orders. A smaller number is drawn at random of longer
//! schedules, in which a thread continues after the other thread's turn; of a second process that dies
//! during an exchange at the same slots; and of a process that dies while it recovers the dead.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::stdout;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, Release, SeqCst},
};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use nix::sys::signal::{Signal, raise};
use parkline_core::Queue;
use parkline_core::driver::{KillPoint, arm};
use zerocopy::FromZeros;

use super::fate::Fate;
use super::parallel::in_parallel;
use super::recoverer::Recoverer;
use super::victim::{self, LEN};
use crate::asleep::Sleeper;
use crate::case::Case;
use crate::message;
use crate::operation::{self, Fill, NEW, Operation};
use crate::player::{self, Death, Player};
use crate::report::{Table, Violations};
use crate::scene::Scene;
use crate::shared;
use crate::states::{Move, RECEIVE, Seen, State, States};
use crate::waiter::WATCHDOG;

/// The place after all kill points of a thread.
const END: u64 = u64::MAX;
/// The most turns of a schedule.
const TURNS: usize = 4;

/// What the two threads of a victim do with one handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Pair {
    /// One receives, the other drops a lease, and there is room for both.
    Room,
    /// The ring is full: the drop takes the slot that the receive frees, or the handle owes.
    Full,
    /// The ring is empty: the receive takes the message that the drop returns, or none.
    Empty,
    /// One receives and returns what the handle owes, the other does that in a wait.
    Wait,
    /// Both drop a lease.
    Drops,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Room => "receive and drop, room for both",
            Self::Full => "receive and drop, full ring",
            Self::Empty => "receive and drop, empty ring",
            Self::Wait => "receive and wait, both return what is owed",
            Self::Drops => "drop and drop",
        })
    }
}

impl Pair {
    const ALL: [Self; 5] = [Self::Room, Self::Full, Self::Empty, Self::Wait, Self::Drops];

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }

    fn fill(self) -> Fill {
        match self {
            Self::Room | Self::Drops => Fill::Half,
            Self::Full | Self::Wait => Fill::Full,
            Self::Empty => Fill::Empty,
        }
    }

    fn before(self) -> &'static [Move] {
        use Move::{GiveBack, Send, Take};
        match self {
            Self::Room => &[Take],
            Self::Full => &[Take, Send(NEW[0])],
            Self::Empty => &[Send(NEW[0]), Take],
            Self::Wait => &[Take, Send(NEW[0]), GiveBack(0)],
            Self::Drops => &[Take, Take],
        }
    }

    /// The moves of each thread.
    fn moves(self) -> [&'static [Move]; 2] {
        use Move::{Acknowledge, Count, GiveBack, ReturnOwed, Settle, Take};
        const RECEIVE_OWING: &[Move] =
            &[ReturnOwed, Settle, Take, ReturnOwed, Settle, Count, Acknowledge];
        match self {
            Self::Room | Self::Empty => [&RECEIVE, &[GiveBack(0)]],
            Self::Full => [RECEIVE_OWING, &[GiveBack(0), ReturnOwed, Settle]],
            Self::Wait => [RECEIVE_OWING, &[ReturnOwed, Settle]],
            Self::Drops => [&[GiveBack(0)], &[GiveBack(1)]],
        }
    }

    /// How many records the victim owns.
    fn records(self) -> usize {
        match self {
            Self::Room | Self::Drops => 1,
            Self::Full | Self::Empty | Self::Wait => 2,
        }
    }

    fn begin(self) -> State {
        State::of(&self.fill().messages()).after(0, self.before())
    }

    /// What the two threads may leave, and another process that makes the moves `other` meanwhile.
    fn states(self, other: &[Move]) -> States {
        let [one, two] = self.moves();
        States::beside(self.begin(), &[(0, one), (0, two), (1, other)])
    }

    /// Prepares what each thread does. The handles that they use are never dropped.
    fn prepare(self, queue: Queue) -> Result<[Box<dyn FnOnce() + Send>; 2]> {
        let new = NEW.map(|id| message::of(id, LEN));
        let mut kept: Vec<Box<dyn std::any::Any + Send>> = Vec::new();
        let (mut receiver, mut leases) = match self {
            Self::Room => {
                let (receiver, lease) = operation::leased(&queue)?;
                (receiver, vec![lease])
            }
            Self::Full | Self::Wait => {
                let (receiver, sender, leases) = operation::without_room(&queue, &new[..1])?;
                kept.push(Box::new(sender));
                (receiver, leases)
            }
            Self::Empty => {
                let mut sender = queue.sender()?;
                sender.try_send(&new[0])?;
                kept.push(Box::new(sender));
                let (receiver, lease) = operation::leased(&queue)?;
                (receiver, vec![lease])
            }
            Self::Drops => {
                let (mut receiver, lease) = operation::leased(&queue)?;
                let second = receiver.try_lease()?;
                (receiver, vec![lease, second])
            }
        };
        let lease = leases.pop().context("a lease")?;
        let second: Box<dyn FnOnce() + Send> = match self {
            Self::Wait => {
                drop(lease);
                Box::new(move || _ = queue.join_blocking_timeout(Duration::ZERO))
            }
            _ => Box::new(move || drop(lease)),
        };
        let first: Box<dyn FnOnce() + Send> = match self {
            Self::Drops => {
                kept.push(Box::new(receiver));
                Box::new(move || drop(leases))
            }
            _ => Box::new(move || {
                let _ = receiver.try_recv();
                std::mem::forget(receiver);
            }),
        };
        std::mem::forget(kept);
        Ok([first, second])
    }
}

/// Which thread runs in each turn, and to which of its places.
#[derive(Clone, Debug)]
struct Schedule(Vec<(usize, u64)>);

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (thread, until)) in self.0.iter().enumerate() {
            write!(f, "{}{thread}:{until}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Schedule {
    fn parse(text: &str) -> Result<Self> {
        let turn = |turn: &str| {
            let (thread, until) = turn.split_once(':').context("a turn")?;
            Ok((thread.parse()?, until.parse()?))
        };
        text.split(',').map(turn).collect::<Result<_>>().map(Self)
    }
}

/// How the turns of a victim ended.
#[derive(Debug, FromZeros)]
#[repr(C)]
struct Ledger {
    ends: [AtomicU64; TURNS],
    /// How many places the thread had reached when its turn ended.
    reached: [AtomicU64; TURNS],
}

/// How a turn ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The thread rests before the place to which it was to run.
    Rests = 1,
    /// It is done.
    Done,
    /// It waits for a lock of the other thread.
    Waits,
}

impl End {
    fn of_word(word: u64) -> Result<Self> {
        Ok(match word {
            1 => Self::Rests,
            2 => Self::Done,
            3 => Self::Waits,
            _ => bail!("a turn was never taken"),
        })
    }
}

/// A thread of the victim.
struct Actor {
    state: AtomicU64,
    until: AtomicU64,
    reached: AtomicU64,
}

const RESTS: u64 = 0;
const RUNS: u64 = 1;
const DONE: u64 = 2;

impl Actor {
    const fn new() -> Self {
        let (state, until) = (AtomicU64::new(RESTS), AtomicU64::new(0));
        Self { state, until, reached: AtomicU64::new(0) }
    }

    /// Does not sleep: a thread of the victim that sleeps is taken to wait for a lock.
    fn rest(&self) {
        self.state.store(RESTS, SeqCst);
        self.until_told();
    }

    fn until_told(&self) {
        while self.state.load(SeqCst) == RESTS {
            thread::yield_now();
        }
    }

    fn turn(&self, until: u64, sleeper: &Sleeper) -> End {
        self.until.store(until, SeqCst);
        self.state.store(RUNS, SeqCst);
        loop {
            match self.state.load(SeqCst) {
                RESTS => return End::Rests,
                DONE => return End::Done,
                _ if sleeper.is_asleep() && self.state.load(SeqCst) == RUNS => return End::Waits,
                _ => thread::yield_now(),
            }
        }
    }
}

static ACTORS: [Actor; 2] = [const { Actor::new() }; 2];

thread_local! {
    static ACTOR: Cell<Option<&'static Actor>> = const { Cell::new(None) };
}

fn reached(_: KillPoint) {
    let Some(actor) = ACTOR.get() else { return };
    if actor.reached.fetch_add(1, SeqCst) == actor.until.load(SeqCst) {
        actor.rest();
    }
}

/// The part of the victim. Its words: what its threads do, and their schedule.
pub(crate) fn play(queue: Queue, words: &[String]) -> Result<()> {
    player::die_with_parent()?;
    let [pair, schedule] = words else { bail!("such a victim has two words: {words:?}") };
    let pair = Pair::from_str(pair, false).ok().context("a pair")?;
    let ledger: &Ledger = shared::map(stdout())?;
    let schedule = Schedule::parse(schedule)?;
    let mut sleepers = Vec::new();
    for (actor, act) in ACTORS.iter().zip(pair.prepare(queue)?) {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let _ = tell.send(Sleeper::this_thread());
            actor.until_told();
            ACTOR.set(Some(actor));
            act();
            ACTOR.set(None);
            actor.reached.fetch_add(1, SeqCst);
            actor.state.store(DONE, SeqCst);
            loop {
                thread::park();
            }
        });
        sleepers.push(told.recv()?);
    }
    arm(reached);
    for (turn, (thread, until)) in schedule.0.into_iter().enumerate() {
        let actor = ACTORS.get(thread).context("there are two threads")?;
        let end = actor.turn(until, &sleepers[thread]);
        ledger.reached[turn].store(actor.reached.load(SeqCst), Relaxed);
        ledger.ends[turn].store(end as u64, Release);
    }
    raise(Signal::SIGKILL)?;
    bail!("it survived")
}

/// Kills a victim at the end of `schedule`. Returns how its last turn ended, and how many places the
/// thread of that turn had reached.
fn die(pair: Pair, scene: &Scene, schedule: &Schedule) -> Result<(End, u64)> {
    let ledger = shared::create::<Ledger>()?;
    let words = ["beside", &pair.name(), &schedule.to_string()];
    let mut victim = Player::start(&words, scene.fd()?, Some(ledger.try_clone()?))?;
    ensure!(victim.die()? == Death::Killed, "a victim survived");
    let mut words = [0; size_of::<Ledger>()];
    File::from(ledger).read_exact_at(&mut words, 0)?;
    let word = |at: usize| words.as_chunks().0.get(at).map_or(0, |word| u64::from_ne_bytes(*word));
    let last = schedule.0.len() - 1;
    Ok((End::of_word(word(last))?, word(TURNS + last)))
}

fn set(pair: Pair, others: usize, watchdog: Option<Duration>) -> Result<Scene> {
    Scene::set(Operation::LeaseDrop, pair.fill(), LEN, pair.records() + others, watchdog)
}

/// How many places a thread has if it runs first.
fn places(pair: Pair, thread: usize) -> Result<u64> {
    let scene = set(pair, 0, None)?;
    let (end, reached) = die(pair, &scene, &Schedule(vec![(thread, END)]))?;
    ensure!(end == End::Done, "{pair}: alone, a thread {end:?}");
    Ok(reached)
}

/// Tries all pairs of places in both orders, and `chances` random schedules. Returns how many victims
/// died.
pub(crate) fn run(
    chances: usize,
    random: &mut fastrand::Rng,
    violations: &mut Violations,
) -> Result<usize> {
    let mut table = Table::new(&["two exchanges of one record", "places", "deaths", "states"]);
    let (mut deaths, mut drawn) = (0, Vec::new());
    for pair in Pair::ALL {
        let places = [places(pair, 0)?, places(pair, 1)?];
        let of = |first: usize| (0..places[first]).map(move |at| (first, at));
        let all: Vec<_> = of(0).chain(of(1)).collect();
        let allowed = pair.states(&[]).seen_in_any_order();
        let work = |(first, at)| beside(pair, first, at, &allowed);
        let found = in_parallel(&pair.name(), &all, violations, work)?;
        let count: usize = found.iter().map(Vec::len).sum();
        let seen: BTreeSet<_> = found.into_iter().flatten().collect();
        let states = format!("{} of {}", seen.len(), allowed.len());
        table.row(&[&pair, &places.map(|it| it.to_string()).join(", "), &count, &states]);
        deaths += count;
        let share = chances.div_ceil(Pair::ALL.len());
        drawn.extend((0..share).map(|_| Chance::draw(pair, places, random)));
    }
    let drawn: Vec<_> = drawn.iter().collect();
    deaths += in_parallel("by chance", &drawn, violations, Chance::take)?.len();
    table.print();
    Ok(deaths)
}

/// The thread `first` runs to `at`, and then the other thread to each of its places. Returns what
/// survivors saw.
fn beside(pair: Pair, first: usize, at: u64, allowed: &BTreeSet<Seen>) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    for then in 0.. {
        let schedule = Schedule(vec![(first, at), (1 - first, then)]);
        let run = || {
            let scene = set(pair, 0, None)?;
            let (end, _) = die(pair, &scene, &schedule)?;
            let seen = scene.account()?;
            ensure!(allowed.contains(&seen), "survivors saw `{seen}`");
            Ok((end, seen))
        };
        let (end, seen) = run().with_context(|| format!("{pair}, {schedule}"))?;
        all.push(seen);
        if end != End::Rests {
            break;
        }
    }
    Ok(all)
}

/// A random schedule, with other processes that die.
#[derive(Debug)]
struct Chance {
    pair: Pair,
    schedule: Schedule,
    /// An operation of another process, which dies at one of its points.
    other: Option<(Operation, u64)>,
    /// A process that recovers the dead, and dies at one of its points.
    recoverer: Option<(Recoverer, u64)>,
}

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.pair, self.schedule)?;
        if let Some((other, at)) = self.other {
            write!(f, "; {}, dead before its {at}", other.name())?;
        }
        if let Some((recoverer, at)) = self.recoverer {
            write!(f, "; {}, dead before its {at}", recoverer.name())?;
        }
        Ok(())
    }
}

/// More points than another process has here.
const POINTS: u64 = 40;

impl Chance {
    fn draw(pair: Pair, places: [u64; 2], random: &mut fastrand::Rng) -> Self {
        let (first, mut at) = (random.usize(..2), [0; 2]);
        let mut turn = |turn: usize| {
            let thread = (first + turn) % 2;
            at[thread] += random.u64(1..=places[thread]);
            (thread, at[thread] - 1)
        };
        let turns: Vec<_> = (0..TURNS).map(&mut turn).collect();
        let turns = turns.into_iter().take(random.usize(2..=TURNS)).collect();
        let others = [Operation::TrySend, Operation::TryRecv];
        let other = random.choice(others).map(|it| (it, random.u64(..POINTS)));
        let recoverer = random.choice(Recoverer::ALL).map(|it| (it, random.u64(..POINTS)));
        Self {
            pair,
            schedule: Schedule(turns),
            other: other.filter(|_| random.bool()),
            recoverer: recoverer.filter(|_| random.bool()),
        }
    }

    fn take(&self) -> Result<()> {
        self.play().with_context(|| self.to_string())
    }

    fn play(&self) -> Result<()> {
        let records = usize::from(self.other.is_some()) + usize::from(self.recoverer.is_some());
        let watchdog = self.recoverer.map(|_| WATCHDOG);
        let scene = set(self.pair, records, watchdog)?;
        let mut moves: &[Move] = &[];
        let mut other = None;
        if let Some((operation, at)) = self.other {
            moves = operation.moves();
            // It has its record before any process dies, or it would take the record of the dead.
            let case = Case { operation, fill: self.pair.fill(), len: LEN };
            let mut peer = victim::start(case, &scene, Fate::DieLater(at), None)?;
            peer.until_stopped()?;
            other = Some(peer);
        }
        die(self.pair, &scene, &self.schedule)?;
        if let Some(mut other) = other {
            other.signal(Signal::SIGCONT)?;
            other.die()?;
        }
        let states = self.pair.states(moves);
        let Some((how, at)) = self.recoverer else {
            let seen = scene.account()?;
            let is_allowed = states.seen_in_any_order().contains(&seen);
            ensure!(is_allowed, "survivors saw `{seen}`");
            return Ok(());
        };
        how.start(&scene, Fate::Die(at), None)?.die()?;
        let seen = scene.account()?.with_debts_unknown();
        let mut allowed = states.recovered_in_part().seen_in_any_order().into_iter();
        let is_allowed = allowed.any(|it| it.with_debts_unknown() == seen);
        ensure!(is_allowed, "survivors saw `{seen}`");
        Ok(())
    }
}

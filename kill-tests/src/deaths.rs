//! `points`: every single death at a kill point, and pairs of deaths.
//!
//! Seen to fail: leases of the dead not sent again; no owner tag on a gained block (a block in two
//! places). What is seen by two victims only is in `doubles.rs`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use nix::sys::wait::WaitStatus;

use crate::asleep::Sleeper;
use crate::beside;
use crate::case::{Case, Turns};
use crate::cores;
use crate::doubles;
use crate::operation::{Operation, When};
use crate::player::{Death, Player};
use crate::points::{Fate, names, paper};
use crate::recoverer::Recoverer;
use crate::report::{Table, Violations, bar};
use crate::scene::{Scene, Watch};
use crate::states::Seen;

/// Arguments of the kills at kill points.
#[derive(Debug, Args)]
pub(crate) struct Deaths {
    /// How many pairs of a victim's and its recoverer's death, chosen at random, or `all`
    #[arg(long, default_value = "1000")]
    pairs: Pairs,
    /// How many deaths within two exchanges of one record beyond those that are always tried
    #[arg(long, default_value_t = 1000)]
    chances: usize,
    /// Only those within two exchanges of one record
    #[arg(long)]
    beside: bool,
    /// Every ring (empty, half full, full) and payload (0, 8, 200): by default half full, 8 bytes
    #[arg(long)]
    all: bool,
    /// Only these operations
    #[arg(long, value_enum)]
    only: Vec<Operation>,
    /// Of the random choices; chosen at random, and printed, by default
    #[arg(long)]
    seed: Option<u64>,
    /// Tell the names of all points
    #[arg(long)]
    names: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairs {
    Some(usize),
    All,
}

impl std::str::FromStr for Pairs {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::Some) }
    }
}

/// An operation and the names of its points.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) case: Case,
    pub(crate) points: Vec<String>,
}

/// Where the exchange of a case is; learned once.
fn exchange_of(case: Case) -> Result<u64> {
    static LEARNED: Mutex<BTreeMap<Case, u64>> = Mutex::new(BTreeMap::new());
    let poisoned = |_| anyhow!("poisoned");
    if let Some(at) = LEARNED.lock().map_err(poisoned)?.get(&case) {
        return Ok(*at);
    }
    let at = learn(case)?.exchange()?;
    LEARNED.lock().map_err(poisoned)?.insert(case, at);
    Ok(at)
}

impl Known {
    /// The point before which the first exchange is not done, and after which it is.
    pub(crate) fn exchange(&self) -> Result<u64> {
        let done = self.points.iter().position(|name| name.ends_with(" exchanged"));
        let at = done.and_then(|done| done.checked_sub(1));
        Ok(at.context("there is no exchange to die at")? as u64)
    }
}

pub(crate) fn run(args: &Deaths) -> Result<bool> {
    let begin = Instant::now();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("seed {seed}");
    let mut violations = Violations::default();
    let mut random = fastrand::Rng::with_seed(seed);
    if args.beside {
        let deaths = beside::run(args.chances, &mut random, &mut violations)?;
        return Ok(violations.conclude(format_args!("deaths: {deaths}"), begin.elapsed()));
    }
    let mut table = Table::new(&["operation", "bytes", "ring", "points", "states"]);
    let known: Vec<_> = Case::select(args.all, &args.only, None, None)
        .into_iter()
        .map(learn)
        .collect::<Result<_>>()?;
    for known in &known {
        if args.names {
            println!("{}", known.case);
            known.points.iter().enumerate().for_each(|(at, name)| println!("  {at:4} {name}"));
        }
        let states = singles(known, &mut violations)?;
        let Case { operation, fill, len } = known.case;
        let states = format!("{states} of {}", known.case.states().len());
        table.row(&[&operation.name(), &len, &fill, &known.points.len(), &states]);
    }
    table.print();
    let singles = known.iter().map(|it| it.points.len()).sum::<usize>();
    let (doubles, besides) = match args.only.is_empty() {
        true => (
            doubles::run(&mut violations)?,
            beside::run(args.chances, &mut random, &mut violations)?,
        ),
        false => (0, 0),
    };
    let mut all: Vec<_> = known
        .iter()
        .flat_map(|known| {
            let points = 0..known.points.len() as u64;
            points.flat_map(move |at| Recoverer::ALL.map(|how| (known, at, how)))
        })
        .collect();
    let pairs = match args.pairs {
        Pairs::All => {
            let work = |(known, at, how)| every_pair(known, at, how);
            in_parallel("pairs", &all, &mut violations, work)?.into_iter().sum()
        }
        Pairs::Some(count) => {
            random.shuffle(&mut all);
            let chosen: Vec<_> =
                all.iter().cycle().take(count).map(|it| (*it, random.u64(..))).collect();
            let work = |((known, at, how), choice)| one_pair(known, at, how, choice);
            in_parallel("pairs", &chosen, &mut violations, work)?.into_iter().sum::<usize>()
        }
    };
    Ok(violations.conclude(
        format_args!(
            "singles: {singles}; double deaths: {doubles}; within two exchanges of one record: {besides}; pairs: {pairs}"
        ),
        begin.elapsed(),
    ))
}

/// Does all `work` on all cores.
pub(crate) fn in_parallel<T: Copy + Sync, R: Send>(
    what: &str,
    all: &[T],
    violations: &mut Violations,
    work: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let progress = bar(all.len(), what);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..cores::count() {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Relaxed);
                    let Some(one) = all.get(index) else { return };
                    let result = work(*one);
                    progress.inc(1);
                    if let Ok(mut results) = results.lock() {
                        results.insert(index, result);
                    }
                }
            });
        }
    });
    progress.finish_and_clear();
    let results = results.into_inner().map_err(|_| anyhow!("a worker panicked"))?;
    let mut good = Vec::new();
    for result in results.into_values() {
        match result {
            Ok(result) => good.push(result),
            Err(error) => violations.add(format_args!("{error:#}")),
        }
    }
    Ok(good)
}

/// The points of an operation, by a run that survives.
pub(crate) fn learn(case: Case) -> Result<Known> {
    let mut scene = set(case, Watch::Never)?;
    let paper = paper()?;
    let mut victim = start(case, &scene, Fate::Name, Some(paper.try_clone()?))?;
    let death = see_it_end(case, &mut scene, &mut victim)?;
    ensure!(death == Death::Ended, "{case}: a victim died of itself");
    Ok(Known { case, points: names(paper)? })
}

/// Dies at each point; returns how many states were seen.
fn singles(known: &Known, violations: &mut Violations) -> Result<usize> {
    let case = known.case;
    let mut turns = Turns::new(case);
    let points: Vec<_> = (0..known.points.len() as u64).collect();
    let work = |at| {
        Ok((
            at,
            single(case, at)
                .with_context(|| format!("{case}, at {}", known.points[at as usize]))?,
        ))
    };
    for (at, seen) in in_parallel(&case.operation.name(), &points, violations, work)? {
        let name = &known.points[at as usize];
        if let Err(error) = turns.next(&seen) {
            violations.add(format_args!("{case}, before {at} {name}: {error:#}"));
        }
    }
    if let Err(error) = turns.end() {
        violations.add(format_args!("{case}: {error:#}"));
    }
    Ok(turns.reached())
}

fn single(case: Case, at: u64) -> Result<Seen> {
    let mut scene = set(case, Watch::Never)?;
    die(case, &mut scene, at)?;
    Ok(case.tell_apart(scene.account()?))
}

/// The recoverer dies at each of its points; returns at how many.
fn every_pair(known: &Known, at: u64, how: Recoverer) -> Result<usize> {
    for point in 0.. {
        if pair(known, at, how, point)? == Death::Ended {
            return Ok(point as usize);
        }
    }
    Ok(0)
}

/// The recoverer dies at one of its points.
fn one_pair(known: &Known, at: u64, how: Recoverer, choice: u64) -> Result<usize> {
    let mut scene = set(known.case, Watch::Soon)?;
    die(known.case, &mut scene, at)?;
    let paper = paper()?;
    let mut recoverer = start_recoverer(&scene, how, Fate::Name, Some(paper.try_clone()?))?;
    ensure!(recoverer.die()? == Death::Ended, "a recoverer died of itself");
    let points = names(paper)?.len() as u64;
    pair(known, at, how, choice % points.max(1))?;
    Ok(1)
}

fn pair(known: &Known, at: u64, how: Recoverer, point: u64) -> Result<Death> {
    let case = known.case;
    let context = || {
        let name = &known.points[at as usize];
        format!("{case}, before {at} {name}, then {} before its {point}", how.name())
    };
    let run = || {
        let mut scene = set(case, Watch::Soon)?;
        die(case, &mut scene, at)?;
        let mut recoverer = start_recoverer(&scene, how, Fate::Die(point), None)?;
        let death = recoverer.die()?;
        let seen = case.tell_apart(scene.account()?);
        ensure!(case.allows(&seen), "survivors saw `{seen}`");
        Ok(death)
    };
    run().with_context(context)
}

/// A scene with a record for a recoverer, who is counted with the victims.
pub(crate) fn set(case: Case, watch: Watch) -> Result<Scene> {
    let records = case.operation.records() + 1;
    let mut scene = Scene::set(case.operation, case.fill, case.len, records, watch)?;
    if let Some(dead) = case.operation.recovers() {
        let before = Case { operation: dead.of, ..case };
        let at = match dead.when {
            When::AtBegin => 0,
            When::BeforeExchange => exchange_of(before)?,
            When::AfterExchange => exchange_of(before)? + 1,
        };
        die(before, &mut scene, at)?;
    }
    Ok(scene)
}

pub(crate) fn die(case: Case, scene: &mut Scene, at: u64) -> Result<()> {
    let mut victim = start(case, scene, Fate::Die(at), None)?;
    match see_it_end(case, scene, &mut victim)? {
        Death::Killed => Ok(()),
        // A waiter that just looks around by its watchdog needs no wake, and has fewer points.
        Death::Ended if case.operation.needs_waiter() => Ok(()),
        Death::Ended => bail!("a victim survived point {at}"),
    }
}

pub(crate) fn start(
    case: Case,
    scene: &Scene,
    fate: Fate,
    stdout: Option<std::os::fd::OwnedFd>,
) -> Result<Player> {
    let [fate, at] = fate.words();
    let words = ["victim", &case.operation.name(), &case.len.to_string(), &fate, &at];
    Player::start(&words, scene.fd()?, stdout)
}

pub(crate) fn start_recoverer(
    scene: &Scene,
    how: Recoverer,
    fate: Fate,
    stdout: Option<std::os::fd::OwnedFd>,
) -> Result<Player> {
    let [fate, at] = fate.words();
    let words = ["recoverer", &how.name(), &fate, &at];
    Player::start(&words, scene.fd()?, stdout)
}

/// Wakes the victim once it sleeps, if it is one that does.
pub(crate) fn see_it_end(case: Case, scene: &mut Scene, victim: &mut Player) -> Result<Death> {
    if case.operation.sleeps() {
        let sleeper = Sleeper::process(victim.pid());
        loop {
            match victim.news(false)? {
                Some(WaitStatus::Exited(_, 0)) => return Ok(Death::Ended),
                Some(WaitStatus::Signaled(..)) => return Ok(Death::Killed),
                Some(other) => bail!("a victim {other:?}"),
                None if sleeper.is_asleep() => break,
                None => thread::yield_now(),
            }
        }
        scene.wake(case.operation)?;
    }
    victim.die()
}

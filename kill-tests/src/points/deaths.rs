//! `points`: a death at every kill point, and pairs of deaths.
//!
//! Seen to fail: leases of the dead not sent again; no owner tag on a gained block (a block in two
//! places). Bugs that show only with two victims are in `doubles.rs`.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::beside;
use super::doubles;
use super::fate::{Fate, names, paper};
use super::parallel::in_parallel;
use super::recoverer::Recoverer;
use super::victim::{Known, die, learn, set};
use crate::case::{Case, Turns};
use crate::operation::Operation;
use crate::player::Death;
use crate::report::{Table, Violations};
use crate::states::Seen;
use crate::waiter::WATCHDOG;

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

/// A victim dies at each point. Returns how many states were seen.
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
    let mut scene = set(case, None)?;
    die(case, &mut scene, at)?;
    Ok(case.tell_apart(scene.account()?))
}

/// The recoverer dies at each of its points. Returns how many points it has.
fn every_pair(known: &Known, at: u64, how: Recoverer) -> Result<usize> {
    for point in 0.. {
        if pair(known, at, how, point)? == Death::Ended {
            return Ok(point as usize);
        }
    }
    Ok(0)
}

/// The recoverer dies at one of its points, which `choice` selects.
fn one_pair(known: &Known, at: u64, how: Recoverer, choice: u64) -> Result<usize> {
    let mut scene = set(known.case, Some(WATCHDOG))?;
    die(known.case, &mut scene, at)?;
    let paper = paper()?;
    let mut recoverer = how.start(&scene, Fate::Name, Some(paper.try_clone()?))?;
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
        let mut scene = set(case, Some(WATCHDOG))?;
        die(case, &mut scene, at)?;
        let mut recoverer = how.start(&scene, Fate::Die(point), None)?;
        let death = recoverer.die()?;
        let seen = case.tell_apart(scene.account()?);
        ensure!(allows(case, &seen), "survivors saw `{seen}`");
        Ok(death)
    };
    run().with_context(context)
}

/// Whether survivors may see this after another process began to recover the dead.
fn allows(case: Case, seen: &Seen) -> bool {
    let states = case.operation.states(case.fill).recovered_in_part();
    let mut states = states.seen(case.len == 0).into_iter().map(Seen::with_debts_unknown);
    let seen = seen.clone().with_debts_unknown();
    states.any(|it| it == seen)
}

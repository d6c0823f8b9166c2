//! `step`: a kill after every machine instruction.
//!
//! The victim is this program with the library as it ships. It runs to instruction `i` of an operation
//! and is killed there, for every `i` from the first mark to the second. Each time the survivors use
//! the queue in every way, and account (`scene.rs`). From the first instruction to the last, they must
//! see exactly the states of the model in `states.rs`, in order. A lost message, a redelivery that did
//! not happen, or a changed order shows as one state too many, one too few, or one out of order.
//!
//! Some victims take another way than the recorded one, at random (a hash's seed). Then another victim
//! is run. An instruction that none of twenty victims reaches is counted as missed.
//!
//! Seen to fail: the op cleared before the cell is settled (a block in two places; 17 violations in
//! two operations); leases of the dead acknowledged and not sent again (a state that never came); the
//! number of a message reserved after its exchange (two messages with one id; 15 violations in two
//! operations).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use nix::sys::personality::{self, Persona};
use nix::sys::ptrace;
use parkline_core::Queue;

use crate::case::{Case, Turns};
use crate::marks::Breakpoints;
use crate::operation::{Dead, Fill, Operation, When};
use crate::player::{self, Player};
use crate::report::{Table, Violations, bar};
use crate::scene::Scene;
use crate::states::Seen;
use crate::tracee::{Path, Spot, Tracee};
use crate::{clock, cores};

/// Arguments of the single-step kills.
#[derive(Debug, Args)]
pub(crate) struct Step {
    /// Every ring (empty, half full, full) and payload (0, 8, 200): by default half full, 8 bytes
    #[arg(long)]
    all: bool,
    /// Only these operations
    #[arg(long = "only", value_enum)]
    only: Vec<Operation>,
    /// Only this ring
    #[arg(long, value_enum)]
    fill: Option<Fill>,
    /// Only this payload in bytes
    #[arg(long)]
    payload: Option<usize>,
}

/// How many victims are recorded for one way: see `tracee.rs`.
const RECORDS: usize = 9;
/// How many victims in a row may take another way than the recorded one.
const TRIES: usize = 20;

/// The way of an operation, and the first instruction after its exchange.
#[derive(Clone, Debug, Default)]
struct Known {
    path: Path,
    exchange: Option<usize>,
}

pub(crate) fn run(args: &Step) -> Result<bool> {
    let begin = Instant::now();
    let mut table = Table::new(&[
        "operation",
        "bytes",
        "ring",
        "instructions",
        "kills",
        "missed",
        "astray",
        "states",
        "s",
    ]);
    let mut violations = Violations::default();
    let mut kills = 0;
    let mut known = BTreeMap::new();
    for case in Case::select(args.all, &args.only, args.fill, args.payload) {
        let start = Instant::now();
        let before = violations.count();
        let outcome = kill_everywhere(case, &mut known, &mut violations);
        let done = match outcome {
            Ok(done) => done,
            Err(error) => {
                violations.add(format_args!("{case}: {error:#}"));
                Done::default()
            }
        };
        kills += done.kills;
        let states = format!("{} of {}", done.states, case.states().len());
        let verdict = if violations.count() > before { format!("{states} !") } else { states };
        let took = format!("{:.1}", start.elapsed().as_secs_f64());
        table.row(&[
            &case.operation.name(),
            &case.len,
            &case.fill,
            &done.instructions,
            &done.kills,
            &done.missed,
            &done.astray,
            &verdict,
            &took,
        ]);
    }
    table.print();
    Ok(violations.conclude(format_args!("kills: {kills}"), begin.elapsed()))
}

#[derive(Debug, Default)]
struct Done {
    instructions: usize,
    kills: usize,
    /// Instructions that no victim reached, at random.
    missed: usize,
    astray: usize,
    states: usize,
}

fn kill_everywhere(
    case: Case,
    known: &mut BTreeMap<Case, Known>,
    violations: &mut Violations,
) -> Result<Done> {
    let dead = case.operation.recovers().map(|dead| died(case, dead, known)).transpose()?;
    let dead = dead.as_ref();
    let path = on_a_core(0, || record(case, dead))?;
    let spots = path.spots();
    let progress = bar(spots.len(), &case.operation.name());
    let (next, astray) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcomes = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for core in 0..cores::count() {
            let work = || loop {
                let index = next.fetch_add(1, Relaxed);
                let Some(&spot) = spots.get(index) else { return Ok(()) };
                let outcome = kill_at(case, spot, &path, dead, &astray);
                outcomes.lock().map_err(|_| anyhow!("poisoned"))?.insert(index, outcome);
                progress.inc(1);
            };
            scope.spawn(move || on_a_core(core, work));
        }
    });
    progress.finish_and_clear();
    let outcomes = outcomes.into_inner().unwrap_or_default();
    let mut turns = Turns::new(case);
    let (mut exchange, mut missed) = (None, 0);
    for (index, outcome) in outcomes {
        let spot = spots[index];
        match outcome {
            Err(error) => violations.add(format_args!("{case}, {spot:?}: {error:#}")),
            Ok(None) => missed += 1,
            Ok(Some(seen)) => match turns.next(&seen) {
                Ok(true) => exchange = exchange.or(Some(index)),
                Ok(false) => {}
                Err(error) => violations.add(format_args!("{case}, {spot:?}: {error:#}")),
            },
        }
    }
    if missed > spots.len() / 100 {
        violations.add(format_args!("{case}: no victim came to {missed} of the instructions"));
    }
    if let Err(error) = turns.end() {
        violations.add(format_args!("{case}: {error:#}"));
    }
    let done = Done {
        instructions: path.len() - 1,
        kills: spots.len() - missed,
        missed,
        astray: astray.into_inner(),
        states: turns.reached(),
    };
    known.insert(case, Known { path, exchange });
    Ok(done)
}

/// A process that died before the operation: its way and the place of its death.
#[derive(Debug)]
struct DeadBefore {
    case: Case,
    path: Path,
    spot: Spot,
}

fn died(case: Case, dead: Dead, known: &mut BTreeMap<Case, Known>) -> Result<DeadBefore> {
    let case = Case { operation: dead.of, ..case };
    if !known.contains_key(&case) {
        // Its violations are reported with its own case.
        kill_everywhere(case, known, &mut Violations::default())?;
    }
    let known = known.get(&case).cloned().unwrap_or_default();
    let exchange = || known.exchange.context("there is no exchange to die at");
    let spot = match dead.when {
        When::AtBegin => Spot::After(0),
        When::BeforeExchange => Spot::After(exchange()? - 1),
        When::AfterExchange => Spot::After(exchange()?),
    };
    Ok(DeadBefore { case, path: known.path, spot })
}

/// The way that most victims take. Some take another, at random (a hash's seed).
fn record(case: Case, dead: Option<&DeadBefore>) -> Result<Path> {
    let mut ways: Vec<(Path, usize)> = Vec::new();
    for _ in 0..RECORDS {
        let mut scene = set(case, dead)?;
        let tracee = begin(case, &scene)?;
        let mut wake = || scene.wake(case.operation);
        let path = tracee.record(case.operation.sleeps().then_some(&mut wake))?;
        match ways.iter_mut().find(|(way, _)| way.addresses == path.addresses) {
            Some((_, times)) => *times += 1,
            None => ways.push((path, 1)),
        }
    }
    let most = ways.into_iter().max_by_key(|(path, times)| (*times, Reverse(path.len())));
    Ok(most.context("nothing was recorded")?.0)
}

fn kill_at(
    case: Case,
    spot: Spot,
    path: &Path,
    dead: Option<&DeadBefore>,
    astray: &AtomicUsize,
) -> Result<Option<Seen>> {
    for _ in 0..TRIES {
        let mut scene = set(case, dead)?;
        let tracee = begin(case, &scene)?;
        let mut wake = || scene.wake(case.operation);
        if tracee.die_at(spot, path, case.operation.sleeps().then_some(&mut wake))? {
            return Ok(Some(case.tell_apart(scene.account()?)));
        }
        astray.fetch_add(1, Relaxed);
    }
    Ok(None)
}

fn set(case: Case, dead: Option<&DeadBefore>) -> Result<Scene> {
    let records = case.operation.records();
    let scene = Scene::set(case.operation, case.fill, case.len, records, None)?;
    if let Some(dead) = dead {
        begin(dead.case, &scene)?.die_at(dead.spot, &dead.path, None)?;
        // On a busy machine the kernel releases the locks of a dead process some time after its end.
        scene.until_only_survivors_have_locks()?;
    }
    Ok(scene)
}

fn begin(case: Case, scene: &Scene) -> Result<Tracee> {
    let words = ["step", &case.operation.name(), &case.len.to_string()];
    Tracee::at_mark(Player::start(&words, scene.fd()?, None)?)
}

/// Runs `work` and its victims on one core. The tracer and its victim take turns, and a turn that
/// changes cores is slow.
fn on_a_core<R>(core: usize, work: impl FnOnce() -> Result<R>) -> Result<R> {
    cores::pin(core)?;
    // Kept over an exec, so every victim has the same addresses.
    personality::set(personality::get()? | Persona::ADDR_NO_RANDOMIZE)?;
    work()
}

/// The part of the victim.
pub(crate) fn play(queue: &Queue, words: &[String]) -> Result<()> {
    let [operation, len] = words else { return Err(anyhow!("a victim has two words: {words:?}")) };
    player::die_with_parent()?;
    clock::by_reads();
    ptrace::traceme()?;
    Operation::of_name(operation)?.play(queue, len.parse()?, &Breakpoints)
}

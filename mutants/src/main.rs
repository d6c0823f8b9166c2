//! Tests the models and the tests: weakens each memory ordering of the shipped code by one step and runs
//! the models until one fails, or edits the logic and runs the tests.
//!
//! A mutant that nothing catches shows a missing model or test, or an ordering that is stronger than needed.
//! Or it is equivalent to the code that ships: `equivalent.md` and `equivalent_edits.md` argue each of these.
#![forbid(unsafe_code)]

mod argued;
mod edits;
mod proofs;
mod results;
mod sites;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

use argued::{Argued, Named};
use edits::Edit;
use proofs::{Proofs, Tree, Workshop};
use results::{Outcome, Results};
use sites::Mutant;

/// Tests Parkline's models and tests by mutants of the code.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Weakens each memory ordering of core/src by one step, and runs the models until one fails.
    ///
    /// The results are kept under target/mutants: an interrupted run goes on where it ended, if the sources
    /// are the same. Exits with 1 if a mutant survives that is not argued to be equivalent.
    Orderings(Orderings),
    /// Edits the logic of core and uring, as cargo-mutants does, and runs the tests until one fails.
    ///
    /// First the tests of the edited crate, then those of uring, then the models. The results are kept as
    /// for the orderings. Exits with 1 if less than 95 % of the edits are caught, not counting those that are
    /// argued to be equivalent.
    Edits(Edits),
}

#[derive(Debug, Args)]
struct Edits {
    /// Only the edits of files with this in their path.
    #[arg(long)]
    only: Option<String>,
    /// How many edits, drawn by the seed.
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// The seed by which the edits are drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many of the first drawn are left out, because another machine tries them.
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// Edits that are tried at a time, each in its own copy of the tree.
    #[arg(long)]
    jobs: Option<usize>,
    /// Shows the edits and runs nothing.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Args)]
struct Orderings {
    /// Only the mutants of this file, e.g. `gate.rs`.
    #[arg(long)]
    only: Option<String>,
    /// How many mutants, drawn by the seed.
    #[arg(long)]
    count: Option<usize>,
    /// The seed by which `--count` draws.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mutants that are tried at a time, each in its own copy of the tree.
    #[arg(long)]
    jobs: Option<usize>,
    /// Also runs the models on the mutants that are argued to be equivalent: none may be caught.
    #[arg(long)]
    argued: bool,
    /// Shows the mutants and runs nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let passed = match Cli::parse().command {
        Command::Orderings(wanted) => orderings(&wanted),
        Command::Edits(wanted) => edits(&wanted),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether no mutant survived.
fn orderings(wanted: &Orderings) -> Result<bool> {
    let root = root()?;
    let all = sites::mutants(&root)?;
    let argued = Argued::read(&root.join("mutants/equivalent.md"))?;
    argued.check_against(&all)?;
    let mut mutants: Vec<&Mutant> = all.iter().collect();
    if let Some(only) = &wanted.only {
        mutants.retain(|mutant| mutant.file.ends_with(only));
        ensure!(!mutants.is_empty(), "{only} has no ordering to weaken");
    }
    if !wanted.argued {
        mutants.retain(|mutant| argued.argument(*mutant).is_none());
    }
    if let Some(count) = wanted.count {
        fastrand::Rng::with_seed(wanted.seed).shuffle(&mut mutants);
        mutants.truncate(count);
    }
    if wanted.list {
        mutants.iter().for_each(|mutant| println!("{mutant}"));
        println!("{} mutants, and {} argued to be equivalent", mutants.len(), argued.len());
        return Ok(true);
    }
    let judge = |proofs: &Proofs, tree: &Tree, mutant: &Mutant| proofs.judge(tree, mutant);
    let outcomes = run(&root, "orderings.txt", wanted.jobs, &mutants, judge)?;
    let found: Vec<_> = mutants.iter().copied().zip(outcomes).collect();
    Ok(report(&found, &argued))
}

/// Whether enough of the edits were caught.
fn edits(wanted: &Edits) -> Result<bool> {
    let root = root()?;
    let all = Edit::all(&root)?;
    let argued = Argued::read(&root.join("mutants/equivalent_edits.md"))?;
    argued.check_against(&all)?;
    let mut edits: Vec<&Edit> = all.iter().collect();
    edits.sort_by_cached_key(|edit| edit.lot(wanted.seed));
    if let Some(only) = &wanted.only {
        edits.retain(|edit| edit.to_string().contains(only));
    }
    let mut edits = edits.split_off(wanted.skip.min(edits.len()));
    edits.truncate(wanted.count);
    let (equivalent, edits): (Vec<_>, Vec<_>) =
        edits.into_iter().partition(|edit| argued.argument(*edit).is_some());
    if wanted.list {
        edits.iter().for_each(|edit| println!("{edit}"));
        return Ok(true);
    }
    let judge = |proofs: &Proofs, tree: &Tree, edit: &Edit| edit.judge(proofs, tree);
    let outcomes = run(&root, "edits.txt", wanted.jobs, &edits, judge)?;
    let found: Vec<_> = edits.into_iter().zip(outcomes).collect();
    println!("\nwhat survived:");
    let (mut caught, mut unviable) = (0_usize, 0_usize);
    for (edit, outcome) in &found {
        match outcome {
            Outcome::Caught { .. } => caught += 1,
            Outcome::Unviable => unviable += 1,
            _ => println!("{edit}: {outcome}"),
        }
    }
    for edit in &equivalent {
        println!("{edit}: equivalent: {}", argued.argument(*edit).unwrap_or_default());
    }
    let total = found.len() - unviable;
    println!(
        "\ncaught {caught}/{total}; {} argued to be equivalent, {unviable} do not compile",
        equivalent.len()
    );
    Ok(total > 0 && caught * 100 >= total * 95)
}

fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("the crate lies in a workspace")?;
    ensure!(
        root.join("core/src/ring/swap.rs").exists(),
        "{} is not the repository",
        root.display()
    );
    Ok(root.to_owned())
}

/// The outcome of each mutant, from `jobs` threads.
fn run<M: ToString + Sync>(
    root: &Path,
    results: &str,
    jobs: Option<usize>,
    mutants: &[&M],
    judge: impl Fn(&Proofs, &Tree, &M) -> Result<Outcome> + Sync,
) -> Result<Vec<Outcome>> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let jobs = jobs.unwrap_or(processors).clamp(1, mutants.len().max(1));
    let workshop = Workshop::new(root)?;
    let results = Results::open(&workshop.folder().join(results), workshop.hash())?;
    let kept = |mutant: &M| results.kept(mutant);
    if mutants.iter().all(|mutant| kept(mutant).is_some()) {
        return Ok(mutants.iter().filter_map(|mutant| kept(mutant)).collect());
    }
    let proofs = Proofs::new(&workshop)?;
    let outcomes = Mutex::new(vec![None; mutants.len()]);
    let next = Mutex::new(0);
    let work = |worker: usize| -> Result<()> {
        let mut tree = None;
        loop {
            let at = {
                let mut next = next.lock().unwrap_or_else(|it| it.into_inner());
                *next += 1;
                *next - 1
            };
            let Some(mutant) = mutants.get(at) else { return Ok(()) };
            let begin = Instant::now();
            let outcome = match results.kept(*mutant) {
                Some(outcome) => outcome,
                None => {
                    let tree = match &mut tree {
                        Some(tree) => tree,
                        None => tree.insert(workshop.tree(&worker.to_string())?),
                    };
                    let outcome = judge(&proofs, tree, mutant)?;
                    results.keep(*mutant, &outcome)?;
                    outcome
                }
            };
            let (n, of, took) = (at + 1, mutants.len(), begin.elapsed().as_secs());
            println!("[{n}/{of}] {}: {outcome} ({took} s)", mutant.to_string());
            outcomes.lock().unwrap_or_else(|it| it.into_inner())[at] = Some(outcome);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(_) => bail!("a worker panicked"),
        })
    })?;
    let outcomes = outcomes.into_inner().unwrap_or_else(|it| it.into_inner());
    outcomes.into_iter().map(|it| it.context("every mutant has an outcome")).collect()
}

/// Prints the table and the figures. Returns whether no mutant survived, and none that is argued to be
/// equivalent was caught.
fn report(found: &[(&Mutant, Outcome)], argued: &Argued) -> bool {
    println!("\n| place | edge | mutation | outcome |\n|---|---|---|---|");
    let (mut caught, mut total, mut wrong) = (0_usize, 0_usize, 0_usize);
    for (mutant, outcome) in found {
        let argument = argued.argument(*mutant);
        let is_caught = matches!(outcome, Outcome::Caught { .. });
        match argument {
            None => {
                total += 1;
                caught += usize::from(is_caught);
            }
            Some(_) => wrong += usize::from(is_caught),
        }
        let outcome = match argument {
            Some(argument) if !is_caught => format!("equivalent: {argument}"),
            Some(_) => format!("{outcome}, though argued to be equivalent"),
            None => outcome.to_string(),
        };
        let Mutant { file, line, edge, .. } = mutant;
        println!("| {file}:{line} | {edge} | {} | {outcome} |", mutant.change());
    }
    let share = (caught * 1000).checked_div(total).unwrap_or(1000);
    println!(
        "\ncaught {caught}/{total} ({}.{} %), and {} argued to be equivalent",
        share / 10,
        share % 10,
        argued.len()
    );
    if wrong > 0 {
        println!("{wrong} of the arguments are wrong");
    }
    caught == total && wrong == 0
}

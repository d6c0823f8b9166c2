//! The proof by killing: processes die or stop at every place there is, and the survivors account
//! for every message, record and block.
//!
//! | file | idea |
//! |---|---|
//! | `step`, `tracee` | kill after every machine instruction, by single steps and breakpoints |
//! | `deaths`, `doubles` | kill at every kill point, and pairs of deaths |
//! | `beside` | kill within two exchanges of one record, by two threads |
//! | `points`, `recoverer` | what a process does at its kill points; how the dead are recovered |
//! | `stops`, `churn` | a peer that is stopped is alive, and the others keep their pace |
//! | `wakes`, `healers` | the hunt for lost wakes |
//! | `torture`, `workers`, `ledger`, `account`, `stalls` | random kills of a busy queue |
//! | `operation`, `states`, `case` | what victims are killed in, and a model of what may be left |
//! | `scene`, `waiter` | the queue and its survivors, who do everything and account |
//! | `scribble`, `survivor` | a peer that writes anything anywhere, and those who use the queue meanwhile |
//! | `attack`, `twin` | a hostile peer, and what one process does to itself in its stead |
//! | `player`, `asleep`, `cores`, `marks`, `shared` | processes by exec, and how they are watched |

mod account;
mod asleep;
mod attack;
#[cfg(kill_points)]
mod beside;
mod case;
#[cfg(kill_points)]
mod churn;
mod clock;
mod cores;
#[cfg(kill_points)]
mod deaths;
#[cfg(kill_points)]
mod doubles;
#[cfg(kill_points)]
mod healers;
mod ledger;
mod marks;
mod message;
mod operation;
mod player;
#[cfg(kill_points)]
mod points;
#[cfg(kill_points)]
mod recoverer;
mod report;
mod scene;
mod scribble;
mod shared;
mod stalls;
mod states;
mod step;
#[cfg(kill_points)]
mod stops;
mod survivor;
mod torture;
mod tracee;
#[cfg(kill_points)]
mod twin;
mod waiter;
#[cfg(kill_points)]
mod wakes;
mod workers;

use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use parkline_core::Queue;

/// Kills and stops processes at every place there is, and has the survivors account for every
/// message, record and block. Exit code 1 if a promise was broken.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill after every machine instruction of every operation.
    Step(step::Step),
    /// Kill at every kill point, and pairs of a victim and its recoverer.
    #[cfg(kill_points)]
    Points(deaths::Deaths),
    /// Stop a peer at kill points, for long.
    #[cfg(kill_points)]
    Stop(stops::Stops),
    /// Change words between and within the operations of one process.
    #[cfg(kill_points)]
    Twin(twin::Twin),
    /// Kill whoever carries a wake.
    #[cfg(kill_points)]
    Wakes(wakes::Wakes),
    /// Needs kill points.
    #[cfg(not(kill_points))]
    #[command(name = "wakes")]
    WakesNeedKillPoints(Refused),
    /// Needs kill points.
    #[cfg(not(kill_points))]
    #[command(name = "twin")]
    TwinNeedsKillPoints(Refused),
    /// Needs kill points.
    #[cfg(not(kill_points))]
    #[command(name = "stop")]
    StopNeedsKillPoints(Refused),
    /// Needs kill points.
    #[cfg(not(kill_points))]
    #[command(name = "points")]
    PointsNeedKillPoints(Refused),
    /// Kill random workers of a busy queue.
    Torture(torture::Torture),
    /// Write anything anywhere into a queue that four processes use.
    Scribble(scribble::Scribble),
}

/// Arguments that are not looked at.
#[cfg(not(kill_points))]
#[derive(Debug, clap::Args)]
struct Refused {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _any: Vec<String>,
}

fn main() -> ExitCode {
    if let Some(words) = player::part() {
        return match play(&words) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("part {words:?}: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let done = match Cli::parse().command {
        Command::Step(args) => step::run(&args),
        #[cfg(kill_points)]
        Command::Points(args) => deaths::run(&args),
        #[cfg(kill_points)]
        Command::Stop(args) => stops::run(&args),
        #[cfg(kill_points)]
        Command::Wakes(args) => wakes::run(&args),
        #[cfg(kill_points)]
        Command::Twin(args) => twin::run(&args),
        #[cfg(not(kill_points))]
        Command::PointsNeedKillPoints(_)
        | Command::StopNeedsKillPoints(_)
        | Command::TwinNeedsKillPoints(_)
        | Command::WakesNeedKillPoints(_) => {
            Err(anyhow::anyhow!("this was built without kill points: `cargo kill-points` has them"))
        }
        Command::Torture(args) => torture::run(&args),
        Command::Scribble(args) => scribble::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// What a process does that another of this program started.
fn play(words: &[String]) -> Result<()> {
    let queue = Queue::open(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let (part, words) = words.split_first().context("a part has a name")?;
    match part.as_str() {
        "step" => step::play(&queue, words),
        #[cfg(kill_points)]
        "beside" => beside::play(queue, words),
        #[cfg(kill_points)]
        "victim" => points::play_victim(&queue, words),
        #[cfg(kill_points)]
        "recoverer" => points::play_recoverer(&queue, words),
        "send" => workers::send(&queue, words),
        "receive" => workers::receive(&queue, words),
        "scribble" => scribble::play(&queue, words),
        "survive" => survivor::play(queue, words),
        other => bail!("no part is called `{other}`"),
    }
}

//! The tests that need kill points: a process dies or stops right before an access to a shared word
//! or right before or after a system call. A build without kill points takes `refused.rs` in place
//! of this file.
//!
//! | file | idea |
//! |---|---|
//! | `fate` | what a process does at one of its kill points |
//! | `victim`, `recoverer` | the processes that are killed or stopped, and how the dead are recovered |
//! | `deaths`, `doubles` | one death at every kill point, and pairs of deaths |
//! | `beside` | two threads exchange with one record, and their process dies |
//! | `stops`, `churn` | a stopped process is alive, and the other processes keep their pace |
//! | `wakes`, `healers`, `parked` | the hunt for lost wake-ups |
//! | `twin` | a process that attacks itself, also between two accesses of one operation |
//! | `allowed` | which states more than one victim may leave |
//! | `parallel` | runs all tests of one kind on all cores |

mod allowed;
mod beside;
mod churn;
mod deaths;
mod doubles;
mod fate;
mod healers;
mod parallel;
mod parked;
mod recoverer;
mod stops;
mod twin;
mod victim;
mod wakes;

use anyhow::{Result, bail};
use clap::Subcommand;
use parkline_core::Queue;

/// The commands that need kill points.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Kill at every kill point, and pairs of a victim and its recoverer.
    Points(deaths::Deaths),
    /// Stop a peer at kill points, for long.
    Stop(stops::Stops),
    /// Change words between and within the operations of one process.
    Twin(twin::Twin),
    /// Kill whoever carries a wake.
    Wakes(wakes::Wakes),
}

pub(crate) fn run(command: &Command) -> Result<bool> {
    match command {
        Command::Points(args) => deaths::run(args),
        Command::Stop(args) => stops::run(args),
        Command::Twin(args) => twin::run(args),
        Command::Wakes(args) => wakes::run(args),
    }
}

/// Plays a part of these tests.
pub(crate) fn play(part: &str, queue: Queue, words: &[String]) -> Result<()> {
    match part {
        "beside" => beside::play(queue, words),
        "victim" => victim::play(&queue, words),
        "recoverer" => recoverer::play(&queue, words),
        other => bail!("no part is called `{other}`"),
    }
}

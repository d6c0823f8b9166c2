//! The proof by killing: processes die or stop at every place there is, and the survivors account
//! for every message, record and block.
//!
//! | path | idea |
//! |---|---|
//! | `step.rs`, `tracee.rs`, `clock.rs` | a kill after every machine instruction, by single steps and breakpoints |
//! | `points/` | all tests that need kill points: deaths and stops right before an access to a shared word |
//! | `torture/` | random kills of the workers of a busy queue |
//! | `attack/` | a peer that writes anything anywhere, and the processes that use the queue meanwhile |
//! | `operation.rs`, `states.rs`, `case.rs` | the operations in which victims are killed, and a model of what a kill may leave |
//! | `scene.rs`, `waiter.rs` | the queue and its survivors, which use it after the kill and account |
//! | `marks.rs`, `message.rs` | where an operation begins and ends; messages that show when they are garbled |
//! | `player.rs`, `asleep.rs`, `cores.rs`, `shared.rs` | processes by exec, whether they sleep, where they run, memory that they share |
//! | `report.rs` | what a test prints |

mod asleep;
mod attack;
mod case;
mod clock;
mod cores;
mod marks;
mod message;
mod operation;
mod player;
#[cfg_attr(not(kill_points), path = "points/refused.rs")]
mod points;
mod report;
mod scene;
mod shared;
mod states;
mod step;
mod torture;
mod tracee;
mod waiter;

use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, Result};
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
    #[command(flatten)]
    Points(points::Command),
    /// Kill random workers of a busy queue.
    Torture(torture::Torture),
    /// Write anything anywhere into a queue that four processes use.
    Scribble(attack::scribble::Scribble),
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
        Command::Points(command) => points::run(&command),
        Command::Torture(args) => torture::run(&args),
        Command::Scribble(args) => attack::scribble::run(&args),
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

/// Plays the part for which another process of this program started this one.
fn play(words: &[String]) -> Result<()> {
    let queue = Queue::open(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let (part, words) = words.split_first().context("a part has a name")?;
    match part.as_str() {
        "step" => step::play(&queue, words),
        "send" => torture::workers::send(&queue, words),
        "receive" => torture::workers::receive(&queue, words),
        "scribble" => attack::scribble::play(&queue, words),
        "survive" => attack::survivor::play(queue, words),
        other => points::play(other, queue, words),
    }
}

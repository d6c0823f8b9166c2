//! `parkline demo` has worker processes hash a tree of files through two queues; `parkline doctor`
//! says what this machine lets the library do.
//!
//! | file | idea |
//! |---|---|
//! | `demo` | the parent: sends jobs, prints results, notices a worker's end |
//! | `worker` | the child: one event loop with many getters |
//! | `crew` | how workers are started, tied to their parent, watched, and killed |
//! | `job` | what travels through the queues |
//! | `sums` | the lines that `sha256sum -c` reads |
//! | `summary` | the figures at the end |
//! | `doctor`, `checks` | the verdict, and what it is drawn from |

mod checks;
mod crew;
mod demo;
mod doctor;
mod job;
mod summary;
mod sums;
mod worker;

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tracing::Level;

/// A queue between the processes of one Linux host: see it at work, see what this machine lets it
/// do.
///
/// PARKLINE_BACKEND=futex in the environment asks for the fallback, one helper thread a process,
/// where tasks would wait in io_uring.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hash all files under PATH in worker processes; prints what `sha256sum -c` reads.
    ///
    /// The parent walks PATH and sends one job a file through a queue. The workers take the jobs,
    /// and send results back through a second queue, in the order they are done. Regular files
    /// only; symbolic links are not followed, but for PATH itself where it leads to a directory.
    ///
    /// Sums go to stdout; errors, a progress bar where there is a terminal, and the figures go to
    /// stderr.
    #[command(after_help = "\
Exit codes:
  0  every file was hashed (or whoever read stdout stopped reading)
  1  some files or directories could not be read: named on stderr, the sums of all others are printed
  2  the demo itself failed: no queue, a worker that died, a wrong argument")]
    Demo(Demo),
    /// Tell whether tasks can wait in io_uring here, how they wait otherwise, and what to change.
    #[command(after_help = "\
Exit codes:
  0  tasks wait in io_uring
  1  tasks wait by the fallback, one helper thread a process
  2  there can be no queue at all (or a wrong argument)")]
    Doctor,
    /// What the demo starts.
    #[command(hide = true)]
    Worker(Worker),
}

/// Arguments of the demo.
#[derive(Debug, Args)]
struct Demo {
    /// The directory to walk, or one file
    path: PathBuf,
    /// Worker processes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    workers: u32,
    /// Tasks in each worker that wait for jobs, all on its one thread
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tasks: u32,
    /// Kill a random worker N times a second, 0.001 to 1000, and start another; its job goes to others
    ///
    /// All files are hashed all the same, and each is printed once. Eight kills in a row that no
    /// result comes between are the most: the next waits for one. So a file that takes longer to hash
    /// than a worker lives is done, too.
    #[arg(long, value_name = "N", value_parser = period)]
    kill: Option<Duration>,
}

/// The time between the kills of so many a second.
fn period(kills: &str) -> Result<Duration, String> {
    match kills.parse() {
        Ok(kills @ 0.001..=1000.0) => Ok(Duration::from_secs_f64(1.0 / kills)),
        _ => Err("not a number from 0.001 to 1000".into()),
    }
}

/// Arguments of a worker.
#[derive(Debug, Args)]
struct Worker {
    #[arg(long)]
    tasks: u32,
    /// The parent has told the user already that it waits by the fallback.
    #[arg(long)]
    fallback_is_known: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match &cli.command {
        Command::Worker(worker) if worker.fallback_is_known => Level::ERROR,
        // Says itself all that would be logged.
        Command::Doctor => Level::ERROR,
        _ => Level::WARN,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .without_time()
        .init();
    let ended = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Doctor => doctor::run(),
        Command::Worker(args) => worker::run(&args),
    };
    ended.unwrap_or_else(|error| {
        say(format_args!("parkline: {}\n", tell(&error)));
        ExitCode::from(2)
    })
}

/// An error with its causes, but for those that it has named itself.
fn tell(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |mut told, cause| {
        if !told.contains(&cause) {
            told.push_str(if told.is_empty() { "" } else { ": " });
            told.push_str(&cause);
        }
        told
    })
}

/// Prints to stderr, which may be closed, and then nobody wants to know.
fn say(text: impl Display) {
    let _ = write!(stderr(), "{text}");
}

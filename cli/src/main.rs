//! `parkline demo` has worker processes hash a tree of files through two queues. `parkline doctor`
//! says how tasks can wait on this machine.
//!
//! | file | idea |
//! |---|---|
//! | `demo` | the parent: sends jobs, prints results, notices a worker's end |
//! | `worker` | the child: one event loop with many getters |
//! | `crew` | how workers are started, tied to their parent, watched, and killed |
//! | `job` | the messages of the queues |
//! | `args` | the arguments of the demo and of a worker |
//! | `told` | the text that is printed to stderr |
//! | `sums` | the lines that `sha256sum -c` reads |
//! | `summary` | the figures at the end |
//! | `doctor`, `checks` | the verdict, and the checks that it rests on |

mod args;
mod checks;
mod crew;
mod demo;
mod doctor;
mod job;
mod summary;
mod sums;
mod told;
mod worker;

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing::Level;

use args::{Demo, Worker};
use told::{say, tell};

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
    /// Hash all files under PATH in worker processes; print sums for `sha256sum -c`.
    ///
    /// The parent walks PATH and sends one job for each file through a queue. The workers take the
    /// jobs, and send results back through a second queue, in the order in which they are done.
    /// Only regular files are hashed. Symbolic links are not followed, except PATH itself if it
    /// leads to a directory.
    ///
    /// Sums go to stdout. Errors, the figures and, on a terminal, a progress bar go to stderr.
    #[command(after_help = "\
Exit codes:
  0  every file was hashed (or whoever read stdout stopped reading)
  1  some files or directories could not be read: named on stderr, the sums of all others are printed
  2  the demo itself failed: no queue, a worker that died, a wrong argument")]
    Demo(Demo),
    /// Say whether tasks can wait in io_uring here, how they wait otherwise, and what to change.
    #[command(after_help = "\
Exit codes:
  0  tasks wait in io_uring
  1  tasks wait by the fallback, one helper thread a process
  2  there can be no queue at all (or a wrong argument)")]
    Doctor,
    /// A worker process, which the demo starts.
    #[command(hide = true)]
    Worker(Worker),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match &cli.command {
        Command::Worker(worker) if worker.fallback_is_known => Level::ERROR,
        // It prints itself everything that would be logged.
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

//! The arguments of the demo and of a worker.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// Arguments of the demo.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The directory to walk, or one file
    pub(crate) path: PathBuf,
    /// Worker processes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) workers: u32,
    /// Tasks in each worker that wait for jobs, all on its one thread
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) tasks: u32,
    /// Kill a random worker N times a second, 0.001 to 1000, and start another; its job goes to
    /// others
    ///
    /// All files are hashed all the same, and each is printed once. After eight kills in a row
    /// without a result the next kill waits for a result. So a file that takes longer to hash than
    /// a worker lives is hashed, too.
    #[arg(long, value_name = "N", value_parser = period)]
    pub(crate) kill: Option<Duration>,
}

/// The time between kills, from their number a second.
fn period(kills: &str) -> Result<Duration, String> {
    match kills.parse() {
        Ok(kills @ 0.001..=1000.0) => Ok(Duration::from_secs_f64(1.0 / kills)),
        _ => Err("not a number from 0.001 to 1000".into()),
    }
}

/// Arguments of a worker.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    #[arg(long)]
    pub(crate) tasks: u32,
    /// The parent has already told the user that tasks wait by the fallback.
    #[arg(long)]
    pub(crate) fallback_is_known: bool,
}

//! The instrument: see `parkline_benches::compare`.

use std::process::ExitCode;

use clap::Parser;
use parkline_benches::compare::Command;

/// Measures Parkline beside what one would use instead, in one run on one machine.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The instruments: see `parkline_benches::compare` and `parkline_benches::instructions`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use parkline_benches::compare::Command as Compare;
use parkline_benches::instructions::Instructions;

/// Measures Parkline beside what one would use instead, in one run on one machine.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Compare(Compare),
    /// Count the instructions of the calls, by callgrind.
    Instructions(Instructions),
}

fn main() -> ExitCode {
    let ran = match Cli::parse().command {
        Command::Compare(command) => command.run(),
        Command::Instructions(command) => command.run(),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

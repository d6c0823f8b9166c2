//! The commands of a build without kill points: each is refused.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use parkline_core::Queue;

/// The commands that need kill points.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Needs kill points.
    Wakes(Refused),
    /// Needs kill points.
    Twin(Refused),
    /// Needs kill points.
    Stop(Refused),
    /// Needs kill points.
    Points(Refused),
}

/// Arguments that are not parsed.
#[derive(Debug, Args)]
pub(crate) struct Refused {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _any: Vec<String>,
}

pub(crate) fn run(_: &Command) -> Result<bool> {
    bail!("this was built without kill points: `cargo kill-points` has them")
}

/// No part of this build needs kill points.
pub(crate) fn play(part: &str, _: Queue, _: &[String]) -> Result<()> {
    bail!("no part is called `{part}`")
}

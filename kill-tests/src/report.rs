//! What a test prints while it runs and at its end.

use std::fmt::Display;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar on a terminal, and nothing elsewhere.
pub(crate) fn bar(of: usize, what: &str) -> ProgressBar {
    let target = if stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{msg:24} {wide_bar} {pos}/{len} {eta:>4}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(of as u64), target).with_style(style);
    bar.with_message(what.to_owned())
}

/// A table. Its first column is aligned to the left, the others to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(ToString::to_string).collect()] }
    }

    pub(crate) fn row(&mut self, cells: &[&dyn Display]) {
        self.rows.push(cells.iter().map(ToString::to_string).collect());
    }

    pub(crate) fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
            });
            println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

/// How often a promise was broken.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    count: usize,
}

impl Violations {
    /// How many violations are printed. One bug makes many.
    const TOLD: usize = 20;

    pub(crate) fn add(&mut self, what: impl Display) {
        self.count += 1;
        if self.count <= Self::TOLD {
            eprintln!("violation: {what}");
        } else if self.count == Self::TOLD + 1 {
            eprintln!("more violations follow, and are counted");
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Prints the last line of a test. Returns whether there was no violation.
    pub(crate) fn conclude(&self, did: impl Display, took: Duration) -> bool {
        println!("{did}; violations: {}; {:.1} s", self.count, took.as_secs_f64());
        self.count == 0
    }
}

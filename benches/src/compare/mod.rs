//! `compare`: Parkline beside its alternatives and beside the physical limits, in one run.
//!
//! | file | idea |
//! |---|---|
//! | `plan`, `spec` | what is measured beside what; what one sample is |
//! | `watch`, `stage`, `process`, `control`, `link` | the processes of a sample: how they are watched, started, kept in step, and given what they open |
//! | `pairs`, `crowd`, `naps`, `waiters`, `queues` | the kinds of work |
//! | `ends`, `channel` | what an end can do: what the kinds of work ask of a peer |
//! | `peer`, `peers` | what is measured, and which work each does |
//! | `probe`, `times`, `results` | how near the cores are; histograms; figures by round |
//! | `goals`, `report`, `plots` | whether the goals are met; tables, JSON and drawings |

mod channel;
mod control;
mod crowd;
mod ends;
mod goals;
mod link;
mod naps;
mod pairs;
mod peer;
mod peers;
mod plan;
mod plots;
mod probe;
mod process;
mod queues;
pub(crate) mod report;
mod results;
mod spec;
mod stage;
mod times;
mod waiters;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::machine::Cores;
use results::Results;
use spec::{Spec, Workload};
use watch::Watched;

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure everything beside everything.
    Compare(Compare),
    /// Take one sample: for `compare` alone.
    #[command(hide = true)]
    Stage {
        /// The sample.
        spec: String,
    },
    /// Be the far end of a sample: for `stage` alone.
    #[command(hide = true)]
    Far {
        /// The sample.
        spec: String,
        /// Which of the far ends.
        index: usize,
    },
}

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// Short samples, few rounds, the ends and middles of the series: under three minutes.
    #[arg(long)]
    quick: bool,
    /// Only these workloads.
    #[arg(long, value_name = "NAME")]
    only: Vec<Workload>,
    /// Where the JSON, the histograms and the drawings go.
    #[arg(long, value_name = "DIR", default_value = "target/compare")]
    out: PathBuf,
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// When nothing could be measured, or the figures cannot be written.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Compare(args) => args.run(),
            Self::Stage { spec } => {
                println!("{}", serde_json::to_string(&stage::near(spec)?)?);
                Ok(())
            }
            Self::Far { spec, index } => stage::far(spec, *index),
        }
    }
}

impl Compare {
    fn run(&self) -> Result<()> {
        let start = Instant::now();
        let cores = Cores::pick()?;
        let head = report::Head::new(cores);
        println!("{head}");
        let mut groups = plan::groups(self.quick);
        groups.retain(|group| self.only.is_empty() || self.only.contains(&group.workload));
        let mut results = Results::new(groups);
        let rounds = self.rounds(cores, &mut results, start)?;
        report::print(&results, rounds, start.elapsed());
        report::print_distances(&results);
        let goals = goals::goals(&results);
        report::print_goals(&goals);
        report::write(&self.out, &head, &results, &goals, rounds)?;
        plots::draw(&self.out, &results)?;
        println!("\nJSON, histograms and drawings are in {}", self.out.display());
        Ok(())
    }

    /// All peers take turns, until the time is over. Returns how many rounds there were.
    fn rounds(&self, cores: Cores, results: &mut Results, start: Instant) -> Result<usize> {
        let (millis, most, minutes) = if self.quick { (25, 5, 2.4) } else { (150, 9, 23.0) };
        let budget = Duration::from_secs_f64(60.0 * minutes);
        let each = results.entries.iter().filter(|entry| !entry.group.together);
        let each: usize = each.map(|entry| entry.rows.len()).sum();
        let bar = ProgressBar::new((each * most) as u64);
        bar.set_style(ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg:50} {eta:>4}")?);
        let mut longest = Duration::ZERO;
        for round in 0..most {
            let begin = Instant::now();
            if start.elapsed() + longest > budget {
                bar.finish_and_clear();
                return Ok(round);
            }
            for entry in 0..results.entries.len() {
                let group = results.entries[entry].group.clone();
                let spec = |row: usize| Spec {
                    work: group.work,
                    workload: group.by,
                    peer: group.peers[row].name.to_owned(),
                    placement: group.placement,
                    cores: [cores.near, cores.far],
                    millis: millis * group.longer,
                    name: format!("parkline-{}-{round}-{entry}-{row}", std::process::id()),
                };
                if group.together {
                    if round == 0 {
                        bar.set_message(group.workload.to_string());
                        let millis = if self.quick { 3_000 } else { 10_000 };
                        let spec = |row| Spec { millis, ..spec(row) };
                        let all: Vec<_> =
                            (0..group.peers.len()).map(|row| Watched::start(&spec(row))).collect();
                        for (row, watched) in all.into_iter().enumerate() {
                            results.add(entry, row, watched.and_then(Watched::finish));
                        }
                    }
                    continue;
                }
                for row in 0..group.peers.len() {
                    bar.set_message(format!("{}, {}", group.workload, group.peers[row].name));
                    if !results.entries[entry].rows[row].is_given_up() {
                        let sample = Watched::start(&spec(row)).and_then(Watched::finish);
                        results.add(entry, row, sample);
                    }
                    bar.inc(1);
                }
            }
            longest = longest.max(begin.elapsed());
        }
        bar.finish_and_clear();
        Ok(most)
    }
}

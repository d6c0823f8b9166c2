//! What the run says: where it took place, the tables, the JSON, the histograms.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use super::goals::{Goal, three_digits};
use super::peers;
use super::plan::Unit;
use super::probe::Distance;
use super::results::{Results, Row, Spread};
use super::spec::{Placement, Work, Workload};
use crate::machine::{self, Cores};

/// Where the run takes place. The figures mean nothing without it.
#[derive(Debug, Serialize)]
pub(crate) struct Head {
    machine: String,
    cores: String,
    siblings: String,
    /// Of the peers, as built.
    versions: Vec<String>,
}

impl Head {
    pub(crate) fn new(cores: Cores) -> Self {
        let siblings = fs::read_to_string(format!(
            "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list",
            cores.near
        ));
        let mut lines = include_str!("../../../Cargo.lock").lines();
        let packages: Vec<_> = peers::all().map(|peer| peer.package).collect();
        let mut versions = Vec::new();
        while let Some(line) = lines.next() {
            let Some(name) = quoted(line, "name = ").filter(|name| packages.contains(name)) else {
                continue;
            };
            let version = lines.next().and_then(|line| quoted(line, "version = "));
            versions.push(format!("{name} {}", version.unwrap_or("?")));
        }
        Self {
            machine: machine::description(),
            cores: cores.to_string(),
            siblings: siblings.unwrap_or_default().trim().to_owned(),
            versions,
        }
    }
}

fn quoted<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.strip_prefix('"')?.strip_suffix('"')
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "cores    {}; the kernel calls {} siblings", self.cores, self.siblings)?;
        write!(f, "versions {}", self.versions.join(", "))?;
        if cfg!(not(feature = "peers")) {
            write!(
                f,
                "\nbuilt without the feature `peers`: only what needs no other crate is measured"
            )?;
        }
        Ok(())
    }
}

/// The median of what the probe found, and in how many samples it was half as much again, or the
/// half of it.
fn nearness(results: &Results) -> Option<(Spread, usize)> {
    let spread = Spread::of(results.probes.iter().flatten().copied())?;
    let off = |nanos: &f64| !(0.67..1.5).contains(&(nanos / spread.median));
    Some((spread, results.probes.iter().filter(|probe| probe.iter().any(off)).count()))
}

pub(crate) fn print(results: &Results, rounds: usize, took: Duration) {
    println!("\n{rounds} rounds in {:.0} s; all peers took turns in each", took.as_secs_f64());
    if let Some((Spread { median, min, max }, off)) = nearness(results) {
        println!(
            "a cache line there and back: {median:.0} ns (from {min:.0} to {max:.0}); in {off} of {} samples the \
             cores were nearer or farther by half",
            results.probes.len()
        );
    }
    println!(
        "ratio: times the figure of the first of the group, the median of the ratios within the rounds, of those \
         in which the cores were as far from each other for both\n"
    );
    let header = [
        "workload",
        "placement",
        "peer",
        "unit",
        "median",
        "min",
        "max",
        "ratio",
        "p50",
        "p99",
        "p99.9",
        "remarks",
    ];
    let mut table = table(header, 4..11);
    for entry in &results.entries {
        let group = &entry.group;
        let workload = format!("{} {}", group.workload, group.detail);
        for row in &entry.rows {
            let spread = row.spread();
            let figure = |it: fn(Spread) -> f64| {
                spread.map_or("-".into(), |spread| three_digits(it(spread)))
            };
            let ratio = entry.rows.first().and_then(|first| row.ratio_to(first));
            let time = |quantile| match row.times.is_empty() {
                true => String::new(),
                false => micros(row.times.at(quantile)),
            };
            table.add_row([
                workload.trim_end().to_owned(),
                group.placement.to_string(),
                row.peer.name.to_owned(),
                group.unit.name().to_owned(),
                figure(|it| it.median),
                figure(|it| it.min),
                figure(|it| it.max),
                ratio.map_or("-".into(), three_digits),
                time(0.5),
                time(0.99),
                time(0.999),
                remarks(row),
            ]);
        }
    }
    println!("{}", table.trim_fmt());
}

/// A table with its columns of `numbers` set to the right.
pub(crate) fn table<const N: usize>(header: [&str; N], numbers: Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// What depends most on how far the cores are from each other.
const SPINNING: [Workload; 3] = [Workload::Oneway, Workload::Batch, Workload::Roundtrip];

/// The medians of the samples at each distance, times the yardstick's there.
pub(crate) fn print_distances(results: &Results) {
    let mut table = table(["workload", "peer", "one core", "", "near", "", "far", ""], 2..8);
    for entry in &results.entries {
        let group = &entry.group;
        if group.placement != Placement::Apart || !SPINNING.contains(&group.workload) {
            continue;
        }
        for row in &entry.rows {
            let mut cells = vec![group.workload.to_string(), row.peer.name.to_owned()];
            for distance in Distance::ALL {
                let yardstick = entry.rows.first().and_then(|first| first.at(distance));
                let mine = row.at(distance);
                cells.push(mine.map_or("-".into(), |(mine, count)| {
                    format!("{} {} ({count})", three_digits(mine.median), group.unit.name())
                }));
                let ratio =
                    mine.zip(yardstick).map(|((mine, _), (its, _))| mine.median / its.median);
                cells.push(ratio.map_or("-".into(), three_digits));
            }
            table.add_row(cells);
        }
    }
    if table.is_empty() {
        return;
    }
    println!(
        "\nBy the distance of the two cores: threads of one core (a cache line there and back in less than 50 ns), near \
         (150 ns), far\nmedian (samples), times the figure of the first of the group\n\n{}",
        table.trim_fmt()
    );
}

fn micros(nanos: u64) -> String {
    format!("{} us", three_digits(nanos as f64 / 1e3))
}

fn remarks(row: &Row) -> String {
    let extras = row
        .extras
        .keys()
        .filter_map(|name| Some(format!("{} {name}", three_digits(row.extra(name)?))));
    let failures = row.failures.first().map(|first| {
        let end = if row.is_given_up() { ", given up" } else { "" };
        format!("{} of {} failed{end}: {first}", row.failures.len(), row.figures.len())
    });
    extras.chain(failures).collect::<Vec<_>>().join(", ")
}

pub(crate) fn print_goals(goals: &[Goal]) {
    println!("\nGoals");
    let mut table = table(["workload", "goal", "reached", ""], 0..0);
    for goal in goals {
        let verdict = match goal.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        table.add_row([&goal.workload.to_string(), &goal.goal, &goal.reached, verdict]);
    }
    println!("{}", table.trim_fmt());
}

/// `compare.json`, and a `.hgrm` for each histogram.
pub(crate) fn write(
    out: &Path,
    head: &Head,
    results: &Results,
    goals: &[Goal],
    rounds: usize,
) -> Result<()> {
    let histograms = out.join("hgrm");
    fs::create_dir_all(&histograms)?;
    let mut rows = Vec::new();
    for entry in &results.entries {
        let group = &entry.group;
        for row in &entry.rows {
            rows.push(json!({
                "workload": group.workload,
                "detail": group.detail,
                "work": group.work,
                "placement": group.placement,
                "peer": row.peer.name,
                "unit": group.unit.name(),
                "bigger is better": matches!(group.unit, Unit::Rate | Unit::Bandwidth),
                "figures": row.figures,
                "distances": row.distances,
                "spread": row.spread(),
                "ratio": entry.rows.first().and_then(|first| row.ratio_to(first)),
                "yardstick": group.peers.first().map(|peer| peer.name),
                "extras": row.extras,
                "nanoseconds": times(row),
                "failures": row.failures,
            }));
            if !row.times.is_empty() {
                let name = format!(
                    "{} {} {} {}",
                    group.workload, group.detail, group.placement, row.peer.name
                );
                fs::write(histograms.join(file_name(&name) + ".hgrm"), row.times.hgrm())?;
            }
        }
    }
    let probe =
        nearness(results).map(|(spread, off)| json!({ "nanoseconds": spread, "samples off": off }));
    let all = json!({
        "head": head,
        "rounds": rounds,
        "cache line there and back": probe,
        "rows": rows,
        "goals": goals,
    });
    Ok(fs::write(out.join("compare.json"), serde_json::to_string_pretty(&all)?)?)
}

fn times(row: &Row) -> Value {
    if row.times.is_empty() {
        return Value::Null;
    }
    let at = |quantile| row.times.at(quantile);
    json!({ "count": row.times.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99.9": at(0.999), "max": at(1.0) })
}

/// Letters, digits and hyphens.
pub(crate) fn file_name(words: &str) -> String {
    let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// Whether the times of this work are drawn.
pub(crate) fn has_times(work: Work) -> bool {
    matches!(
        work,
        Work::RoundTrips { .. } | Work::BusyRoundTrips | Work::Paced { .. } | Work::Waiters { .. }
    )
}

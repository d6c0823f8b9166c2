//! The figures at the end of a demo.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use parkline_uring::Stats;

use crate::args::Demo;

/// The reports of the workers about themselves, the killed ones included.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    pub(crate) ready: u32,
    pub(crate) in_io_uring: u32,
    /// How many threads they counted.
    pub(crate) threads: BTreeSet<u32>,
}

/// The figures of a demo, to be printed.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    pub(crate) args: &'a Demo,
    /// From the first job to the last result.
    pub(crate) took: Duration,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) failures: u64,
    /// The longest time without a result while one was due.
    pub(crate) stall: Duration,
    /// Killed workers.
    pub(crate) killed: u64,
    /// Jobs that were answered again by another worker.
    pub(crate) repeated: u64,
    pub(crate) reported: &'a Reported,
    pub(crate) jobs: Stats,
    pub(crate) results: Stats,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { args, took, files, bytes, failures, stall, .. } = *self;
        let Self { killed, repeated, reported, jobs, results, .. } = *self;
        let seconds = took.as_secs_f64().max(1e-9);
        let megabytes = bytes as f64 / 1e6;
        let waits = match reported.in_io_uring {
            n if n == reported.ready => "in io_uring",
            0 => "on a helper thread",
            _ => "in io_uring, some on a helper thread",
        };
        let crew = match args.workers {
            1 => "1 worker".into(),
            n => format!("{n} workers"),
        };
        writeln!(f, "{crew} with {} tasks each, waiting {waits}", args.tasks)?;
        row(f, "files", format_args!("{files} in {seconds:.2} s, {megabytes:.1} MB"))?;
        if failures > 0 {
            row(f, "unreadable", failures)?;
        }
        row(f, "files/s", format_args!("{:.0}", files as f64 / seconds))?;
        row(f, "MB/s", format_args!("{:.1}", megabytes / seconds))?;
        row(f, "longest stall", format_args!("{:.3} s", stall.as_secs_f64()))?;
        if args.kill.is_some() {
            row(f, "killed", format_args!("{killed} workers"))?;
            let redelivered = jobs.redelivered;
            row(
                f,
                "redelivered",
                format_args!("{redelivered} jobs, {repeated} had been answered"),
            )?;
        }
        let threads = &reported.threads;
        match (threads.first().unwrap_or(&0), threads.last().unwrap_or(&0)) {
            (least, most) if least == most => row(f, "threads per worker", most)?,
            (least, most) => row(f, "threads per worker", format_args!("{least} to {most}"))?,
        }
        let messages = jobs.sent + results.sent;
        let rate = |calls: u64| {
            let percent = 100.0 * calls as f64 / messages.max(1) as f64;
            format!("{calls} for {messages} messages, {percent:.1} %")
        };
        row(f, "parks in the kernel", rate(jobs.parks + results.parks))?;
        row(f, "wakes in the kernel", rate(jobs.wakes + results.wakes))
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:<19}  {value}")
}

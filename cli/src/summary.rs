//! The figures at the end of a demo.

use std::fmt;
use std::time::Duration;

use parkline_uring::KernelCalls;

/// What one worker reported of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerFigures {
    pub(crate) worker: u32,
    /// The most that were counted.
    pub(crate) threads: u32,
    pub(crate) in_io_uring: bool,
    /// Known when it has said its last word.
    pub(crate) calls: Option<KernelCalls>,
}

/// What a demo did, to be shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary<'a> {
    /// From the first job to the last word of the last worker.
    pub(crate) took: Duration,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) failures: u64,
    /// Sent through both queues, in all.
    pub(crate) messages: u64,
    pub(crate) tasks: u32,
    pub(crate) parent: KernelCalls,
    pub(crate) workers: &'a [WorkerFigures],
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, files, bytes, failures, messages, tasks, parent, workers } = *self;
        let seconds = took.as_secs_f64().max(1e-9);
        let megabytes = bytes as f64 / 1e6;
        let waits = match workers.iter().filter(|worker| worker.in_io_uring).count() {
            n if n == workers.len() => "in io_uring".into(),
            0 => "on a helper thread".into(),
            n => format!("in io_uring in {n} of them, on a helper thread in the others"),
        };
        let crew = match workers.len() {
            1 => "1 worker".into(),
            n => format!("{n} workers"),
        };
        writeln!(f, "{crew} with {tasks} tasks each, waiting {waits}")?;
        row(f, "files", format_args!("{files} in {seconds:.2} s, {megabytes:.1} MB"))?;
        if failures > 0 {
            row(f, "unreadable", failures)?;
        }
        row(f, "files/s", format_args!("{:.0}", files as f64 / seconds))?;
        row(f, "MB/s", format_args!("{:.1}", megabytes / seconds))?;
        let threads = || workers.iter().map(|worker| worker.threads);
        let (least, most) = (threads().min().unwrap_or(0), threads().max().unwrap_or(0));
        if least == most {
            row(f, "threads per worker", most)?;
        } else {
            row(f, "threads per worker", format_args!("{least} to {most}"))?;
        }
        let calls = || workers.iter().filter_map(|worker| worker.calls);
        let rate = |parent: u64, workers: u64| {
            let percent = 100.0 * (parent + workers) as f64 / messages.max(1) as f64;
            format!(
                "{} ({parent} of the parent, {workers} of the workers) for {messages} messages, {percent:.1} %",
                parent + workers
            )
        };
        row(f, "parks in the kernel", rate(parent.parks, calls().map(|it| it.parks).sum()))?;
        row(f, "wakes in the kernel", rate(parent.wakes, calls().map(|it| it.wakes).sum()))
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:<19}  {value}")
}

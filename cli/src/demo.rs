//! The parent: walks the tree, sends a job for each file, and prints the results. One thread runs
//! three futures side by side: `feed` sends to the jobs queue, `collect` receives from the results
//! queue, and `watch` waits for the workers to end. Sending and receiving are two futures, because
//! both queues may be full at the same time.
//!
//! The end: when all jobs are acknowledged, `feed` closes the jobs queue. It does not close it
//! before, because the jobs of a killed worker are delivered again, and some worker must still be
//! there to take them. The workers exit when the jobs queue has ended. Then `watch` closes the
//! results queue, and `collect` has all results.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use parkline_uring::{
    AsyncJoin, AsyncReceiver, AsyncSender, Fault, Queue, Receiver, RecvError, SendError, Sender,
};
use tokio::sync::Notify;
use tokio::task::yield_now;
use walkdir::WalkDir;

use crate::args;
use crate::crew::Crew;
use crate::job::{Job, Report};
use crate::summary::{Reported, Summary};
use crate::sums;
use crate::told::say;

const CAPACITY: usize = 1024;
/// How many results are received and printed at a time.
const BATCH: usize = 64;
/// After this many kills in a row without a result the next kill waits for one. So for every file,
/// a worker lives long enough to hash it.
const MOST_IN_VAIN: u32 = 8;

pub(crate) fn run(args: &args::Demo) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(demo(args))
}

async fn demo(args: &args::Demo) -> Result<ExitCode> {
    let workers = args.workers as usize;
    // While a living worker is not scheduled, it can delay the recovery of one dead worker's
    // handle.
    let handles = 1 + workers + if args.kill.is_some() { workers } else { 0 };
    // A job is never given up, however often its workers are killed.
    let queue = Queue::builder().capacity(CAPACITY).handles(handles).max_attempts(u16::MAX);
    // A worker has one job at a time, with any number of tasks. If it had begun many, it would
    // finish none of them for a long time, and would lose all of them when it is killed.
    let jobs = queue.max_message(Job::LONGEST).leases(1);
    let jobs = jobs.create().context("no queue for jobs")?;
    let results = queue.max_message(Report::LONGEST).leases(0);
    let results = results.create().context("no queue for results")?;
    let (sender, receiver) = (jobs.sender()?, results.receiver()?);
    let mut crew = Crew::start(args, &jobs, &results)?;
    let demo =
        Demo { ledger: RefCell::new(Ledger::new(args.workers)), ready: Notify::new(), bar: bar() };
    // These two futures end only with an error: `collect` decides when the demo is over.
    let feed = async {
        demo.feed(&args.path, sender).await?;
        jobs.join().await?;
        jobs.close()?;
        std::future::pending().await
    };
    let watch = async {
        crew.ended(args.kill, || demo.ledger.borrow_mut().spares_nobody()).await?;
        // All results are in the queue. `collect` learns by the close that no more will come.
        results.close()?;
        std::future::pending().await
    };
    let end = tokio::select! {
        biased;
        end = demo.collect(receiver) => end,
        failed = feed => failed,
        died = watch => died,
    };
    demo.bar.finish_and_clear();
    let ledger = demo.ledger.into_inner();
    let end = end.with_context(|| format!("{} files are unanswered", ledger.unanswered.len()))?;
    if let End::Complete = end {
        say(Summary {
            args,
            took: ledger.quiet_since.duration_since(ledger.begun),
            files: ledger.files,
            bytes: ledger.bytes,
            failures: ledger.failures,
            stall: ledger.stall,
            killed: crew.killed,
            repeated: ledger.repeated,
            reported: &ledger.reported,
            jobs: jobs.stats(),
            results: results.stats(),
        });
    }
    Ok(ExitCode::from(u8::from(ledger.failures > 0)))
}

/// How the demo ended when nothing went wrong.
enum End {
    /// Each job has its result.
    Complete,
    /// The reader of stdout has closed the pipe.
    Unread,
}

struct Demo {
    ledger: RefCell<Ledger>,
    /// All tasks of all workers wait.
    ready: Notify,
    bar: ProgressBar,
}

/// The jobs that were sent and the results that were received.
struct Ledger {
    unanswered: HashMap<u64, PathBuf>,
    files: u64,
    bytes: u64,
    failures: u64,
    repeated: u64,
    /// Kills since the last result.
    in_vain: u32,
    expected: u32,
    reported: Reported,
    begun: Instant,
    /// When a result came last, or one was due again.
    quiet_since: Instant,
    stall: Duration,
}

impl Ledger {
    fn new(expected: u32) -> Self {
        let now = Instant::now();
        Self {
            unanswered: HashMap::new(),
            files: 0,
            bytes: 0,
            failures: 0,
            repeated: 0,
            in_vain: 0,
            expected,
            reported: Reported::default(),
            begun: now,
            quiet_since: now,
            stall: Duration::ZERO,
        }
    }

    fn begin(&mut self) {
        self.begun = Instant::now();
        self.quiet_since = self.begun;
    }

    fn sent(&mut self, index: u64, path: PathBuf) {
        if self.unanswered.is_empty() {
            self.quiet_since = Instant::now();
        }
        self.unanswered.insert(index, path);
    }

    /// The file of a result; `None` if another worker had sent one, and was killed before it
    /// acknowledged the job.
    fn answered(&mut self, index: u64, redelivered: bool) -> Result<Option<PathBuf>> {
        let path = self.unanswered.remove(&index);
        if path.is_some() {
            let now = Instant::now();
            self.stall = self.stall.max(now - self.quiet_since);
            self.quiet_since = now;
            self.in_vain = 0;
        } else {
            ensure!(redelivered, "job {index} was answered twice");
            self.repeated += 1;
        }
        Ok(path)
    }

    /// Whether a worker may be killed now. If so, the kill is counted: the caller carries it out.
    fn spares_nobody(&mut self) -> bool {
        let may = !self.unanswered.is_empty() && self.in_vain < MOST_IN_VAIN;
        self.in_vain += u32::from(may);
        may
    }
}

impl Demo {
    fn is_unanswered(&self) -> bool {
        !self.ledger.borrow().unanswered.is_empty()
    }

    /// Sends a job for each regular file, once all workers wait.
    async fn feed(&self, path: &Path, mut jobs: Sender) -> Result<()> {
        self.ready.notified().await;
        self.ledger.borrow_mut().begin();
        let mut index = 0;
        for entry in WalkDir::new(path) {
            let path = match entry {
                Ok(entry) if entry.file_type().is_file() => entry.into_path(),
                Ok(_) => continue,
                Err(error) => {
                    let at = error.path().unwrap_or(path).to_owned();
                    let why = error.io_error().map(ToString::to_string);
                    self.failed(&at, &why.unwrap_or_else(|| error.to_string()));
                    continue;
                }
            };
            match jobs.send(&Job::encode(index, &path)).await {
                Ok(()) => self.ledger.borrow_mut().sent(index, path),
                Err(SendError::Fault((), fault @ Fault::MessageTooLarge { .. })) => {
                    self.failed(&path, &format!("too long a path for the queue: {fault}"));
                    continue;
                }
                Err(error) => return Err(error).context("cannot send a job"),
            }
            index += 1;
            self.bar.set_length(index);
            // While there is room, a send does not wait, so `collect` would not run.
            yield_now().await;
        }
        Ok(())
    }

    /// Prints results until the queue is closed, which happens when all workers have ended.
    async fn collect(&self, mut results: Receiver) -> Result<End> {
        let (mut reports, mut lines) = (Vec::new(), Vec::new());
        loop {
            match results.recv_many(&mut reports, BATCH).await {
                Ok(_) => {}
                Err(RecvError::Closed) if self.is_unanswered() => bail!("the workers ended"),
                Err(RecvError::Closed) => return Ok(End::Complete),
                Err(error) => return Err(error).context("cannot receive a result"),
            }
            for report in reports.drain(..) {
                let report = Report::decode(&report).context("a worker sent no report")?;
                self.note(report, &mut lines)?;
            }
            if lines.is_empty() {
                continue;
            }
            let printed = self.bar.suspend(|| {
                let mut out = stdout().lock();
                out.write_all(&lines).and_then(|()| out.flush())
            });
            lines.clear();
            match printed {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::Unread),
                printed => printed.context("cannot write to stdout")?,
            }
            // While this thread prints, it receives no results, so that time counts as no stall.
            self.ledger.borrow_mut().quiet_since = Instant::now();
        }
    }

    fn note(&self, report: Report, lines: &mut Vec<u8>) -> Result<()> {
        let mut ledger = self.ledger.borrow_mut();
        match report {
            Report::Ready { threads, in_io_uring } => {
                ledger.reported.ready += 1;
                ledger.reported.in_io_uring += u32::from(in_io_uring);
                ledger.reported.threads.insert(threads);
                if ledger.reported.ready == ledger.expected {
                    self.ready.notify_one();
                }
            }
            Report::Hashed { index, redelivered, len, digest } => {
                let Some(path) = ledger.answered(index, redelivered)? else { return Ok(()) };
                ledger.files += 1;
                ledger.bytes += len;
                self.bar.inc(1);
                sums::push_line(lines, &digest, &path);
            }
            Report::Failed { index, redelivered, why } => {
                let Some(path) = ledger.answered(index, redelivered)? else { return Ok(()) };
                drop(ledger);
                self.bar.inc(1);
                self.failed(&path, &why);
            }
            Report::Done { threads } => {
                ledger.reported.threads.insert(threads);
            }
        }
        Ok(())
    }

    /// Names a file that has no sum. The name is quoted, because it can contain any bytes and goes
    /// to a terminal.
    fn failed(&self, path: &Path, why: &str) {
        self.ledger.borrow_mut().failures += 1;
        self.bar.suspend(|| say(format_args!("parkline: {path:?}: {why}\n")));
    }
}

/// A progress bar if stderr is a terminal. The number of files is known only when all were found.
fn bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:40} {pos} of {len} files found, {rate}/s, {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
                let _ = write!(out, "{:.0}", state.per_sec());
            });
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if the second answer has a path, or is not counted (each seen failing).
    #[test]
    fn a_job_that_is_answered_again_is_printed_once() {
        let mut ledger = Ledger::new(1);
        ledger.sent(7, "file".into());
        assert_eq!(ledger.answered(7, false).unwrap(), Some("file".into()));
        assert_eq!(ledger.answered(7, true).unwrap(), None);
        assert_eq!(ledger.repeated, 1);
        assert!(ledger.answered(7, false).is_err(), "nobody had it before");
    }

    /// Fails if kills are not counted, if a new result does not reset the count, if a repeated
    /// result does, or if a kill ends a stall (each seen failing).
    #[test]
    fn so_many_kills_without_a_result_spare_the_next() {
        let mut ledger = Ledger::new(1);
        assert!(!ledger.spares_nobody(), "nothing to do");
        (0..3).for_each(|index| ledger.sent(index, "file".into()));
        let quiet_since = ledger.quiet_since;
        let mut kills = || (0..100).filter(|_| ledger.spares_nobody()).count();
        assert_eq!(kills(), MOST_IN_VAIN as usize);
        assert_eq!(ledger.quiet_since, quiet_since);
        ledger.answered(0, false).unwrap();
        let mut kills = || (0..100).filter(|_| ledger.spares_nobody()).count();
        assert_eq!(kills(), MOST_IN_VAIN as usize);
        ledger.answered(0, true).unwrap();
        assert!(!ledger.spares_nobody());
    }
}

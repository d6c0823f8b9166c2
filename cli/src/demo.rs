//! The parent: walks the tree, sends a job a file, prints what comes back. All of it on one thread,
//! where three futures run side by side: one feeds the jobs queue, one collects from the results
//! queue, so that both queues may be full at a time, and one waits for the ends of the workers.

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
    AsyncReceiver, AsyncSender, Fault, Queue, Receiver, RecvError, SendError, Sender, kernel_calls,
};
use tokio::sync::Notify;
use tokio::task::yield_now;
use walkdir::WalkDir;

use crate::crew::Crew;
use crate::job::{Job, Report};
use crate::summary::{Summary, WorkerFigures};
use crate::{say, sums};

const CAPACITY: usize = 1024;
/// Results that are taken, and printed, at a time.
const BATCH: usize = 64;

pub(crate) fn run(args: &crate::Demo) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(demo(args))
}

async fn demo(args: &crate::Demo) -> Result<ExitCode> {
    let handles = args.workers as usize + 1;
    let queue = Queue::builder().capacity(CAPACITY).handles(handles).leases(0);
    let jobs = queue.max_message(Job::LONGEST).create().context("no queue for jobs")?;
    let results = queue.max_message(Report::LONGEST).create().context("no queue for results")?;
    let (sender, receiver) = (jobs.sender()?, results.receiver()?);
    let mut crew = Crew::start(args, &jobs, &results)?;
    let demo = Demo {
        ledger: RefCell::new(Ledger::new(args.workers as usize)),
        ready: Notify::new(),
        bar: bar(),
    };
    // Neither of these two ends but in error: what comes back decides.
    let feed = async {
        demo.feed(&args.path, sender).await?;
        jobs.close()?;
        std::future::pending().await
    };
    let watch = async {
        crew.ended().await?;
        // All that they sent is in the queue; who still waits for more learns that there is none.
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
    if let End::Complete { took } = end {
        crew.ended().await?;
        let messages = ledger.sent + ledger.received;
        let summary = Summary {
            took,
            files: ledger.files,
            bytes: ledger.bytes,
            failures: ledger.failures,
            messages,
            tasks: args.tasks,
            parent: kernel_calls(),
            workers: &ledger.workers,
        };
        say(summary);
    }
    Ok(ExitCode::from(u8::from(ledger.failures > 0)))
}

/// How the exchange ended when nothing went wrong.
enum End {
    /// Each job has its result.
    Complete { took: Duration },
    /// Nobody reads our output any more.
    Unread,
}

struct Demo {
    ledger: RefCell<Ledger>,
    /// All tasks of all workers wait.
    ready: Notify,
    bar: ProgressBar,
}

/// What was sent and what came back.
struct Ledger {
    unanswered: HashMap<u64, PathBuf>,
    sent: u64,
    received: u64,
    files: u64,
    bytes: u64,
    failures: u64,
    expected: usize,
    workers: Vec<WorkerFigures>,
    begun: Instant,
}

impl Ledger {
    fn new(expected: usize) -> Self {
        Self {
            unanswered: HashMap::new(),
            sent: 0,
            received: 0,
            files: 0,
            bytes: 0,
            failures: 0,
            expected,
            workers: Vec::new(),
            begun: Instant::now(),
        }
    }

    /// The file of a result.
    fn answered(&mut self, index: u64) -> Result<PathBuf> {
        self.unanswered.remove(&index).with_context(|| format!("job {index} was answered twice"))
    }
}

impl Demo {
    /// Sends a job for each regular file, once all workers wait.
    async fn feed(&self, path: &Path, mut jobs: Sender) -> Result<()> {
        self.ready.notified().await;
        self.ledger.borrow_mut().begun = Instant::now();
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
            let job = Job::encode(index, &path);
            self.ledger.borrow_mut().unanswered.insert(index, path);
            match jobs.send(&job).await {
                Ok(()) => {}
                Err(SendError::Fault((), fault @ Fault::MessageTooLarge { .. })) => {
                    let path = self.ledger.borrow_mut().answered(index)?;
                    self.failed(&path, &format!("too long a path for the queue: {fault}"));
                    continue;
                }
                Err(error) => return Err(error).context("cannot send a job"),
            }
            index += 1;
            self.ledger.borrow_mut().sent += 1;
            self.bar.set_length(index);
            // While there is room, sending does not wait: give the results a turn.
            yield_now().await;
        }
        Ok(())
    }

    /// Prints results until every worker has said its last word.
    async fn collect(&self, mut results: Receiver) -> Result<End> {
        let (mut reports, mut lines) = (Vec::new(), Vec::new());
        loop {
            match results.recv_many(&mut reports, BATCH).await {
                Ok(_) => {}
                Err(RecvError::Closed) => bail!("the workers ended without a last word"),
                Err(error) => return Err(error).context("cannot receive a result"),
            }
            for report in reports.drain(..) {
                let report = Report::decode(&report).context("a worker sent no report")?;
                self.note(report, &mut lines)?;
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
            let ledger = self.ledger.borrow();
            if ledger.workers.iter().filter(|worker| worker.calls.is_some()).count()
                == ledger.expected
            {
                ensure!(ledger.unanswered.is_empty(), "the workers ended");
                return Ok(End::Complete { took: ledger.begun.elapsed() });
            }
        }
    }

    fn note(&self, report: Report, lines: &mut Vec<u8>) -> Result<()> {
        let mut ledger = self.ledger.borrow_mut();
        ledger.received += 1;
        match report {
            Report::Ready { worker, threads, in_io_uring } => {
                ledger.workers.push(WorkerFigures { worker, threads, in_io_uring, calls: None });
                if ledger.workers.len() == ledger.expected {
                    self.ready.notify_one();
                }
            }
            Report::Hashed { index, len, digest } => {
                let path = ledger.answered(index)?;
                ledger.files += 1;
                ledger.bytes += len;
                self.bar.inc(1);
                sums::push_line(lines, &digest, &path);
            }
            Report::Failed { index, why } => {
                let path = ledger.answered(index)?;
                drop(ledger);
                self.bar.inc(1);
                self.failed(&path, &why);
            }
            Report::Done { worker, threads, calls } => {
                let known = ledger.workers.iter_mut().find(|known| known.worker == worker);
                let known = known.context("a worker ended that had not begun")?;
                known.threads = known.threads.max(threads);
                known.calls = Some(calls);
            }
        }
        Ok(())
    }

    /// Names a file that has no sum. Quoted, for a name may hold anything, and this goes to a
    /// terminal.
    fn failed(&self, path: &Path, why: &str) {
        self.ledger.borrow_mut().failures += 1;
        self.bar.suspend(|| say(format_args!("parkline: {path:?}: {why}\n")));
    }
}

/// A progress bar where stderr is a terminal. How many files there are is known only when all were
/// found.
fn bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:40} {pos} of {len} files found, {rate}/s, {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
                let _ = write!(out, "{:.0}", state.per_sec());
            });
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
}

//! `parkline demo`: what it prints is checked by `sha256sum -c` itself.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;

use crate::{finish, kill, parkline, run, run_refused, text, trees};

pub(crate) const BACKENDS: [&str; 2] = ["io_uring", "futex"];
const SYS_IO_URING_SETUP: i64 = 425;

pub(crate) fn demo(tree: &Path, backend: &str, args: &[&str]) -> Command {
    let mut command = parkline(&["demo", "."]);
    command.args(args).current_dir(tree).env("PARKLINE_BACKEND", backend);
    command
}

/// Has `sha256sum -c` check the sums of that many files.
pub(crate) fn check(tree: &Path, sums: &[u8], files: usize) {
    assert_eq!(sums.iter().filter(|byte| **byte == b'\n').count(), files, "{}", text(sums));
    let mut checker = Command::new("sha256sum");
    checker.args(["-c", "--strict", "--quiet"]).current_dir(tree);
    let mut checker = checker.stdin(Stdio::piped()).spawn().unwrap();
    checker.stdin.take().unwrap().write_all(sums).unwrap();
    assert!(checker.wait().unwrap().success());
}

/// The value of a row of the summary.
pub(crate) fn figure<'a>(summary: &'a str, row: &str) -> &'a str {
    let found = summary.lines().find_map(|line| line.trim_start().strip_prefix(row));
    found.unwrap_or_else(|| panic!("no {row} in {summary}")).trim()
}

/// A demo that cannot go on, because the test reads only the first line of its output: it has more
/// files than lines fit into the pipe and messages into both queues.
struct HeldUp {
    demo: Child,
    output: BufReader<ChildStdout>,
    workers: Vec<u32>,
    tree: tempfile::TempDir,
}

impl HeldUp {
    fn start(backend: &str, args: &[&str]) -> Self {
        let tree = trees::empty_files(5000);
        let mut demo = demo(tree.path(), backend, args).spawn().unwrap();
        let mut output = BufReader::new(demo.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        let workers = children(demo.id());
        Self { demo, output, workers, tree }
    }

    /// Lets it go on; returns its end, and how many more lines it printed.
    fn let_go(self) -> (Output, usize) {
        let output = self.output;
        let reader = thread::spawn(move || output.split(b'\n').map(Result::unwrap).count());
        let ended = finish(self.demo);
        drop(self.tree);
        (ended, reader.join().unwrap())
    }
}

/// The processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let parent = |child: u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let names = fs::read_dir("/proc").unwrap().map(|it| it.unwrap().file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse().ok());
    pids.filter(|it| parent(*it) == Some(pid)).collect()
}

/// How many threads a worker has while its tasks wait.
fn threads_expected(backend: &str) -> usize {
    if backend == "io_uring" && parkline_uring::try_io_uring().is_ok() { 1 } else { 2 }
}

/// Fails if a carriage return is not escaped, if the backslash before an escaped line is left out,
/// if only the first chunk of a file is hashed, if links are followed, or if all but directories
/// are hashed (each seen failing).
#[test]
fn sha256sum_accepts_the_sums_of_odd_files() {
    let (tree, files) = trees::odd();
    for backend in BACKENDS {
        let output = run(demo(tree.path(), backend, &[]));
        let summary = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{summary}");
        check(tree.path(), &output.stdout, files);
        assert!(figure(&summary, "files ").starts_with(&format!("{files} in ")), "{summary}");
    }
}

/// Fails if all jobs are sent before the first result is taken (seen failing: hangs).
#[test]
fn more_files_than_both_queues_hold_go_through_one_task() {
    let tree = trees::empty_files(3000);
    for backend in BACKENDS {
        let output = run(demo(tree.path(), backend, &["--workers=1", "--tasks=1"]));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        check(tree.path(), &output.stdout, 3000);
    }
}

/// Fails if a refused job is passed over (seen failing).
#[test]
fn a_path_too_long_for_the_queue_is_named_and_all_others_are_hashed() {
    let (tree, files) = trees::odd();
    trees::add_out_of_reach(tree.path());
    let output = run(demo(tree.path(), "io_uring", &[]));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    check(tree.path(), &output.stdout, files);
    assert_eq!(said.matches("xxx\": too long a path for the queue: ").count(), 1, "{said}");
    assert_eq!(figure(&said, "unreadable"), "1");
}

/// Even root, which permissions do not stop, cannot read the first page of a process.
///
/// Fails if a worker passes over what it cannot read (seen failing).
#[test]
fn a_file_that_a_worker_cannot_read_is_a_result_with_its_error() {
    let path = format!("/proc/{}/mem", std::process::id());
    for backend in BACKENDS {
        let mut command = parkline(&["demo", &path]);
        command.env("PARKLINE_BACKEND", backend);
        let output = run(command);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("parkline: \"{path}\": ")), "{said}");
        assert!(output.stdout.is_empty());
    }
}

/// Fails if what cannot be walked is passed over (seen failing).
#[test]
fn a_tree_that_is_not_there_is_said_so() {
    let output = run(parkline(&["demo", "/nowhere/at\nall"]));
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(r#"parkline: "/nowhere/at\nall": No such file"#), "{said}");
}

/// Fails if a worker passes over what it cannot open (seen failing).
#[test]
fn files_that_vanish_are_results_too() {
    for backend in BACKENDS {
        let held_up = HeldUp::start(backend, &[]);
        for file in fs::read_dir(held_up.tree.path()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        let (ended, lines) = held_up.let_go();
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        let unreadable: usize = figure(&said, "unreadable").parse().unwrap();
        assert_eq!(said.matches("\": No such file").count(), unreadable, "{said}");
        let files = lines + 1;
        assert!(figure(&said, "files ").starts_with(&format!("{files} in ")), "{said}");
    }
}

/// Fails if a closed pipe is an error like others, or if the end is awaited together with the
/// feeding of jobs (each seen failing).
#[test]
fn whoever_stops_reading_ends_it_without_a_word() {
    for backend in BACKENDS {
        let HeldUp { demo, output, tree: _tree, .. } = HeldUp::start(backend, &[]);
        drop(output);
        let ended = finish(demo);
        assert_eq!(ended.status.code(), Some(0));
        let said = text(&ended.stderr);
        let warned = if threads_expected(backend) == 1 { 0 } else { 1 };
        assert_eq!(said.lines().count(), warned, "{said}");
    }
}

/// Fails if the parent does not wait for the workers to end (seen failing: hangs), or does not
/// check how they ended (seen failing).
#[test]
fn a_killed_worker_is_an_error_and_no_hang() {
    for backend in BACKENDS {
        let held_up = HeldUp::start(backend, &[]);
        assert_eq!(held_up.workers.len(), 4);
        let killed = held_up.workers[2];
        kill(killed);
        let (ended, _) = held_up.let_go();
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("worker {killed} died: signal: 9")), "{said}");
        assert!(said.contains("files are unanswered"), "{said}");
    }
}

/// Fails if workers do not watch their stdin (seen failing: hangs).
#[test]
fn workers_end_with_their_parent() {
    for backend in BACKENDS {
        let HeldUp { mut demo, workers, output, tree: _tree } = HeldUp::start(backend, &[]);
        demo.kill().unwrap();
        // They hold its stderr.
        let ended = std::panic::catch_unwind(|| finish(demo));
        workers.iter().for_each(|worker| kill(*worker));
        ended.unwrap();
        drop(output);
    }
}

/// Fails if workers use a runtime with threads, or its pool for blocking work (each seen failing).
#[test]
fn ten_thousand_waiting_tasks_have_the_threads_of_one() {
    for backend in BACKENDS {
        let expected = threads_expected(backend);
        for tasks in ["--tasks=1", "--tasks=10000"] {
            let held_up = HeldUp::start(backend, &[tasks, "--workers=2"]);
            for worker in &held_up.workers {
                let threads = fs::read_dir(format!("/proc/{worker}/task")).unwrap().count();
                assert_eq!(threads, expected, "{backend} {tasks}");
            }
            let (ended, _) = held_up.let_go();
            let summary = text(&ended.stderr);
            assert_eq!(figure(&summary, "threads per worker"), expected.to_string(), "{summary}");
        }
    }
}

/// Fails if workers are not told that the fallback is known (seen failing: five warnings).
#[test]
fn where_io_uring_is_forbidden_it_works_and_warns_once() {
    let (tree, files) = trees::odd();
    let output = run_refused(demo(tree.path(), "io_uring", &[]), &[SYS_IO_URING_SETUP]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    check(tree.path(), &output.stdout, files);
    assert_eq!(said.matches("waits on a helper thread").count(), 1, "{said}");
    assert_eq!(figure(&said, "threads per worker"), "2");
}

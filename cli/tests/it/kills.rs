//! `parkline demo --kill N`: workers die at any moment, and the output is the same. `run` returns
//! only when the last worker has ended, too, for they hold the demo's stderr.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::catch_unwind;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::demo::{BACKENDS, check, demo, figure};
use crate::{finish, run, text, trees};

/// As often as results let it.
const ALL_THE_TIME: &str = "--kill=1000";

/// The first number of a row of the summary.
fn number(summary: &str, row: &str) -> f64 {
    let number = figure(summary, row).split([' ', ',']).next();
    number.and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{row} in {summary}"))
}

/// Whether a worker that is killed has a job just then is chance, so there are some runs.
///
/// Fails if a job is acknowledged before it is hashed, if a killed worker is an error, if it is not
/// replaced, if what is redelivered is counted at the results queue, or if kills are not counted
/// (each seen failing).
#[test]
fn every_file_is_hashed_once_however_often_workers_are_killed() {
    let (tree, odd) = trees::odd();
    let big = 40;
    (0..big).for_each(|n| trees::add_big(tree.path(), &format!("big {n}"), 300_000));
    for backend in BACKENDS {
        let hit = (0..20).any(|_| {
            let output = run(demo(tree.path(), backend, &[ALL_THE_TIME]));
            let summary = text(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{summary}");
            check(tree.path(), &output.stdout, odd + big);
            let redelivered = number(&summary, "redelivered");
            let again = figure(&summary, "redelivered").split(", ").nth(1).unwrap();
            let again: f64 = again.strip_suffix(" had been answered").unwrap().parse().unwrap();
            assert!(again <= redelivered, "{summary}");
            number(&summary, "killed") >= 1.0 && redelivered >= 1.0
        });
        assert!(hit, "nothing was redelivered");
    }
}

/// However many tasks a worker has, a kill costs one job: those of many that were begun would all
/// be begun again, and where workers live shortly, again and again.
///
/// Fails if a worker has a lease a task (seen failing).
#[test]
fn a_kill_has_one_job_redelivered_at_most() {
    let (tree, _) = trees::odd();
    (0..100).for_each(|n| trees::add_big(tree.path(), &n.to_string(), 100_000));
    for backend in BACKENDS {
        let output = run(demo(tree.path(), backend, &[ALL_THE_TIME, "--tasks=64"]));
        let summary = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{summary}");
        assert!(number(&summary, "redelivered") <= number(&summary, "killed"), "{summary}");
    }
}

/// The one worker would live for a hundredth of a second; and all the while no result comes.
///
/// Fails if kills do not wait for a result (seen failing: hangs), or if no stall is noted (seen
/// failing).
#[test]
fn a_file_that_takes_longer_than_a_worker_lives_is_hashed_and_its_time_is_the_longest_stall() {
    let tree = tempfile::tempdir().unwrap();
    trees::add_big(tree.path(), "big", 16 << 20);
    for backend in BACKENDS {
        let output = run(demo(tree.path(), backend, &["--kill=100", "--workers=1"]));
        let summary = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{summary}");
        check(tree.path(), &output.stdout, 1);
        let took = figure(&summary, "files ").strip_prefix("1 in ").unwrap();
        let took: f64 = took.split(' ').next().unwrap().parse().unwrap();
        let stall = number(&summary, "longest stall");
        assert!(took / 2.0 < stall && stall < took + 0.01, "{summary}");
        assert!(number(&summary, "killed") <= 8.0, "{summary}");
    }
}

/// While workers are killed and others started, so that one may be between fork and exec. It cannot
/// have come to its end, because the test does not read all its output.
///
/// Fails if workers do not watch their stdin, or if they inherit the other end of that pipe (each
/// seen failing: hangs).
#[test]
fn a_demo_that_is_told_to_end_or_killed_leaves_no_worker() {
    let tree = trees::empty_files(2000);
    (0..100).for_each(|n| trees::add_big(tree.path(), &format!("big {n}"), 1 << 20));
    for (backend, signal) in BACKENDS.iter().flat_map(|it| [(it, Signal::TERM), (it, Signal::KILL)])
    {
        let mut command = demo(tree.path(), backend, &[ALL_THE_TIME]);
        let mut demo = command.process_group(0).spawn().unwrap();
        let pid = Pid::from_child(&demo);
        let mut output = BufReader::new(demo.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        kill_process(pid, signal).unwrap();
        let ended = catch_unwind(|| finish(demo));
        // If there is a worker left.
        let _ = kill_process_group(pid, Signal::KILL);
        drop(output);
        assert_eq!(ended.unwrap().status.signal(), Some(signal.as_raw()));
    }
}

//! The `parkline` program from outside, as its user meets it.

mod demo;
mod doctor;
mod kills;
#[path = "../../../core/tests/required/mod.rs"]
mod required;
mod trees;

use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Longer than anything here takes: a program that has not ended by then never will.
const FOREVER: Duration = Duration::from_secs(120);

/// The program, with a backend of its own choice.
fn parkline(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parkline"));
    command.args(args).env_remove("PARKLINE_BACKEND").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The output of a child and of all processes that inherited its stdout or stderr, until the last
/// of them has ended.
fn finish(child: Child) -> Output {
    let pid = child.id();
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    match ended.recv_timeout(FOREVER) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            kill(pid);
            panic!("it hangs");
        }
    }
}

fn run(mut command: Command) -> Output {
    finish(command.spawn().unwrap())
}

/// Runs a command. The kernel refuses these system calls to its processes with EPERM.
fn run_refused(command: Command, calls: &[i64]) -> Output {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(1));
    let filter = SeccompFilter::new(rules, others, these, arch).unwrap();
    let program = BpfProgram::try_from(filter).unwrap();
    // The filter is this one thread's, and its children's.
    let refused = thread::spawn(move || {
        seccompiler::apply_filter(&program).unwrap();
        run(command)
    });
    refused.join().unwrap()
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    // It may have ended by itself.
    let _ = kill_process(pid, Signal::KILL);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

//! Runs a command whose processes the kernel refuses io_uring, as container profiles do:
//! `cargo run -p parkline-uring --example refuse-io-uring -- EPERM cargo test --workspace`.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const IO_URING_SETUP: i64 = 425;
const IO_URING_ENTER: i64 = 426;
const IO_URING_REGISTER: i64 = 427;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args_os().skip(1);
    let errno = match args.next().as_ref().and_then(|it| it.to_str()) {
        Some("EPERM") => Errno::PERM,
        Some("ENOSYS") => Errno::NOSYS,
        _ => return Err("say EPERM or ENOSYS, and then the command".into()),
    };
    let program = args.next().ok_or("say which command to run")?;
    let calls = [IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER];
    let rules: BTreeMap<_, _> = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let refused = SeccompAction::Errno(errno.raw_os_error().unsigned_abs());
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, refused, env::consts::ARCH.try_into()?)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Err(Command::new(program).args(args).exec().into())
}

//! The far end in a process of its own: this very program, executed again.
//!
//! The descriptors of the two directions are its standard input and output. While a peer is not
//! measured it is stopped by a signal, so that its spinning takes no core from the others; its
//! memory stays warm.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

use crate::async_ends::{BlockOn, Tokio};
use crate::ends::{Parked, Plain, Spinning};
use crate::futex::PingPong;
use crate::machine::{self, Cores};
use crate::{Between, Error, answer};

const ROLE: &str = "--far-end";

/// The near end of two queues, and the process at the other.
#[derive(Debug)]
pub struct Peer<E> {
    near: E,
    process: Stopped,
}

impl<E: Between> Peer<E> {
    /// Starts the far end on its core.
    ///
    /// # Errors
    /// When a queue or the process cannot be had.
    pub fn start(cores: Cores) -> Result<Self, Error> {
        let (there, back) = (E::create()?, E::create()?);
        let mut far_end = Command::new(std::env::current_exe()?);
        far_end.args([ROLE, E::NAME, &cores.far.to_string()]);
        far_end.stdin(Stdio::from(there.try_clone()?)).stdout(Stdio::from(back.try_clone()?));
        let process = Stopped(far_end.spawn()?);
        process.signal(Signal::STOP)?;
        Ok(Self { near: E::open(there, back)?, process })
    }

    /// Measures with the far end running.
    ///
    /// # Panics
    /// If the far end is gone.
    pub fn measure<R>(&mut self, work: impl FnOnce(&mut E) -> R) -> R {
        self.process.signal(Signal::CONT).expect("the far end lives as long as this");
        let measured = work(&mut self.near);
        self.process.signal(Signal::STOP).expect("the far end lives as long as this");
        measured
    }
}

#[derive(Debug)]
struct Stopped(Child);

impl Stopped {
    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process(Pid::from_child(&self.0), signal)?)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It has nothing to tidy up. An error means that it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the far end and does not return, if this process was started as one. Call first in `main`.
///
/// # Panics
/// If what it was given cannot be opened.
pub fn become_far_end() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(ROLE) {
        return;
    }
    let (name, core) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let served = match name.as_str() {
        Spinning::NAME => serve::<Spinning>(&core),
        Parked::NAME => serve::<Parked>(&core),
        Plain::NAME => serve::<Plain>(&core),
        PingPong::NAME => serve::<PingPong>(&core),
        BlockOn::NAME => serve::<BlockOn>(&core),
        Tokio::NAME => serve::<Tokio>(&core),
        _ => Err(format!("no far end is called `{name}`").into()),
    };
    served.expect("the far end was started by the near end");
    std::process::exit(0);
}

fn serve<E: Between>(core: &str) -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    machine::pin(core.parse()?)?;
    let there = io::stdin().as_fd().try_clone_to_owned()?;
    let back = io::stdout().as_fd().try_clone_to_owned()?;
    answer(&mut E::open(back, there)?);
    Ok(())
}

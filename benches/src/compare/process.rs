//! The processes of a sample: the near one makes the queue, starts the far ones and measures.

use std::io::{Read, Write, stdin};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::control::Control;
use super::ends::{Process, Threads};
use super::link::Link;
use super::spec::{Outcome, Spec};

/// The part of one process in a sample.
pub(crate) enum Part {
    /// Makes the queue, starts the far ends, and measures.
    Near(Spec),
    /// Answers, sends or receives until the near one has measured.
    Far(Spec, Far),
}

/// What a far end got from the near one.
pub(crate) struct Far {
    pub(crate) index: usize,
    pub(crate) control: &'static Control,
    pub(crate) link: Link,
}

impl Part {
    pub(crate) fn spec(&self) -> &Spec {
        let (Self::Near(spec) | Self::Far(spec, _)) = self;
        spec
    }

    /// The peer cannot do this work.
    ///
    /// # Errors
    /// Always.
    pub(crate) fn refuse(&self) -> Result<Outcome> {
        bail!("{} does not do {:?}", self.spec().peer, self.spec().work)
    }

    /// One end in each of two processes: the near one measures while the far one answers.
    pub(crate) fn between<E: Process>(
        self,
        measure: impl FnOnce(&mut E, &Spec, &Started) -> Result<Outcome>,
        answer: impl FnOnce(&mut E, &Spec) -> Result<()>,
    ) -> Result<Outcome> {
        match self {
            Self::Near(spec) => {
                let mut link = E::create(&spec)?;
                let (control, control_fd) = Control::create()?;
                let started = Started::start(&spec, 0, &control_fd, &link)?;
                spec.pin(false)?;
                let mut end = E::open(&mut link, &spec, true)?;
                control.wait_ready(1);
                let outcome = measure(&mut end, &spec, &started)?;
                started.end()?;
                Ok(outcome)
            }
            Self::Far(spec, mut far) => {
                spec.pin(true)?;
                let mut end = E::open(&mut far.link, &spec, false)?;
                far.control.get_ready();
                answer(&mut end, &spec)?;
                Ok(Outcome::default())
            }
        }
    }

    /// One end in each of two threads of this process.
    pub(crate) fn within<E: Threads>(
        self,
        measure: impl FnOnce(&mut E, &Spec) -> Result<Outcome>,
        answer: impl FnOnce(&mut E) -> Result<()> + Send,
    ) -> Result<Outcome> {
        let spec = self.near_alone()?;
        let (mut near, mut far) = E::pair();
        thread::scope(|scope| {
            let pinned = spec.clone();
            scope.spawn(move || {
                pinned.pin(true).expect("the core was picked from those allowed");
                answer(&mut far).expect("the near end lives");
            });
            spec.pin(false)?;
            measure(&mut near, &spec)
        })
    }

    /// The sample of a peer that has one process alone.
    ///
    /// # Errors
    /// For a far process.
    pub(crate) fn near_alone(self) -> Result<Spec> {
        match self {
            Self::Near(spec) => Ok(spec),
            Self::Far(..) => bail!("threads have no far process"),
        }
    }
}

/// A far end in a process of its own, which ends with this.
#[derive(Debug)]
pub(crate) struct Started(Child, UnixStream);

impl Started {
    pub(crate) fn start(spec: &Spec, index: usize, control: &OwnedFd, link: &Link) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["far", &serde_json::to_string(spec)?, &index.to_string()]);
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
        link.send(control.as_fd(), &ours)?;
        Ok(Self(child, ours))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it has ended by itself, for a second at most: some far ends have names to remove.
    pub(crate) fn end(mut self) -> Result<()> {
        let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?;
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&second))?;
        self.0.try_wait()?;
        Ok(())
    }

    /// A far end reports its times.
    pub(crate) fn report(times: &[(u64, u64)]) -> Result<()> {
        let mut to = UnixStream::from(stdin().as_fd().try_clone_to_owned()?);
        to.write_all(serde_json::to_string(times)?.as_bytes())?;
        Ok(to.shutdown(Shutdown::Write)?)
    }

    /// Waits for the times that the far end reports.
    pub(crate) fn result(mut self) -> Result<Vec<(u64, u64)>> {
        let mut text = String::new();
        self.1.read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It had the time to remove its names, and has nothing else to tidy up. An error means that it
        // is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

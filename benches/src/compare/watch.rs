//! Takes a sample in a process group of its own and ends all of it when it takes too long.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::spec::{Outcome, Spec};

/// A sample under way.
pub(crate) struct Watched {
    stage: Child,
    pidfd: OwnedFd,
    /// Files in memory, so that the sample never waits for a reader.
    said: [File; 2],
    until: Instant,
}

impl Watched {
    pub(crate) fn start(spec: &Spec) -> Result<Self> {
        let file = || -> Result<File> {
            Ok(rustix::fs::memfd_create("parkline-compare", MemfdFlags::CLOEXEC)?.into())
        };
        let said = [file()?, file()?];
        let mut stage = Command::new(std::env::current_exe()?);
        stage.args(["stage", &serde_json::to_string(spec)?]).process_group(0);
        stage.stdin(Stdio::null()).stdout(said[0].try_clone()?).stderr(said[1].try_clone()?);
        let stage = stage.spawn()?;
        let pidfd = pidfd_open(Pid::from_child(&stage), PidfdFlags::empty())?;
        let until = Instant::now() + Duration::from_millis(6_000 + 4 * spec.millis);
        Ok(Self { stage, pidfd, said, until })
    }

    /// # Errors
    /// Says what the sample said, or that it was ended because it took too long.
    pub(crate) fn finish(mut self) -> Result<Outcome> {
        let left = Timespec::try_from(self.until.saturating_duration_since(Instant::now()))?;
        let ended = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left))? > 0;
        // Also what the stage left behind, of which there is nothing if all went well.
        let _ = kill_process_group(Pid::from_child(&self.stage), Signal::KILL);
        let status = self.stage.wait()?;
        let [said, complained] = self.said.each_mut().map(|file| -> Result<String> {
            let mut text = String::new();
            file.rewind()?;
            file.read_to_string(&mut text)?;
            Ok(text)
        });
        if !ended {
            bail!("hangs: ended by the watchdog");
        }
        if !status.success() {
            let complained = complained?;
            let lines = complained.lines().filter(|line| !line.starts_with("note: "));
            bail!("{}", lines.take(2).collect::<Vec<_>>().join(" "));
        }
        serde_json::from_str(&said?).context("it said something else")
    }
}

//! One sample: a process that makes the queue, starts the far ends in processes of their own, and
//! measures. Each sample has a new process, in a process group of its own, so that the process that
//! started it can end all of it when it hangs.

use std::io::stdin;
use std::os::fd::AsFd;

use anyhow::Result;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::control::Control;
use super::link::Link;
use super::peers;
use super::probe::probe;
use super::process::{Far, Part};
use super::spec::{Outcome, Spec};

/// Takes the sample.
pub(crate) fn near(spec: &str) -> Result<Outcome> {
    let spec: Spec = serde_json::from_str(spec)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let before = probe(spec.cores())?;
    let mut outcome = play(Part::Near(spec.clone()))?;
    outcome.probe = [before, probe(spec.cores())?];
    Ok(outcome)
}

/// Plays the far end until it is told to end.
pub(crate) fn far(spec: &str, index: usize) -> Result<()> {
    let spec: Spec = serde_json::from_str(spec)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (control, link) = Link::recv(stdin().as_fd())?;
    let control = Control::open(&control)?;
    play(Part::Far(spec, Far { index, control, link }))?;
    Ok(())
}

fn play(part: Part) -> Result<Outcome> {
    let spec = part.spec();
    let peer = peers::all().find(|peer| peer.name == spec.peer);
    match peer.and_then(|peer| peer.play(spec.workload)) {
        Some(play) => play(part),
        None => part.refuse(),
    }
}

//! A victim: a process that dies or stops at one kill point of an operation.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use parkline_core::Queue;

use super::fate::{self, Fate, KillPoints, names, paper};
use crate::asleep::Sleeper;
use crate::case::Case;
use crate::operation::{Operation, When};
use crate::player::{Death, Player};
use crate::scene::Scene;

/// The length of messages where a test uses one length only.
pub(crate) const LEN: usize = 8;

/// An operation and the names of its kill points, in order.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) case: Case,
    pub(crate) points: Vec<String>,
}

impl Known {
    /// The last point at which the first exchange has not happened yet. At the next point it has.
    pub(crate) fn exchange(&self) -> Result<u64> {
        let done = self.points.iter().position(|name| name.ends_with(" exchanged"));
        let at = done.and_then(|done| done.checked_sub(1));
        Ok(at.context("there is no exchange to die at")? as u64)
    }
}

/// Learns the kill points of an operation: runs it once in a process that survives.
pub(crate) fn learn(case: Case) -> Result<Known> {
    let mut scene = set(case, None)?;
    let paper = paper()?;
    let mut victim = start(case, &scene, Fate::Name, Some(paper.try_clone()?))?;
    let death = see_it_end(case, &mut scene, &mut victim)?;
    ensure!(death == Death::Ended, "{case}: a victim died of itself");
    Ok(Known { case, points: names(paper)? })
}

/// [`Known::exchange`] of a case, which is learned once.
fn exchange_of(case: Case) -> Result<u64> {
    static LEARNED: Mutex<BTreeMap<Case, u64>> = Mutex::new(BTreeMap::new());
    let poisoned = |_| anyhow!("poisoned");
    if let Some(at) = LEARNED.lock().map_err(poisoned)?.get(&case) {
        return Ok(*at);
    }
    let at = learn(case)?.exchange()?;
    LEARNED.lock().map_err(poisoned)?.insert(case, at);
    Ok(at)
}

/// A scene with the records of the victims, and one more for a recoverer, which counts as a victim.
pub(crate) fn set(case: Case, watchdog: Option<Duration>) -> Result<Scene> {
    let records = case.operation.records() + 1;
    let mut scene = Scene::set(case.operation, case.fill, case.len, records, watchdog)?;
    if let Some(dead) = case.operation.recovers() {
        let before = Case { operation: dead.of, ..case };
        let at = match dead.when {
            When::AtBegin => 0,
            When::BeforeExchange => exchange_of(before)?,
            When::AfterExchange => exchange_of(before)? + 1,
        };
        die(before, &mut scene, at)?;
    }
    Ok(scene)
}

/// Kills a process at point `at` of the operation.
pub(crate) fn die(case: Case, scene: &mut Scene, at: u64) -> Result<()> {
    let mut victim = start(case, scene, Fate::Die(at), None)?;
    match see_it_end(case, scene, &mut victim)? {
        Death::Killed => Ok(()),
        // If the watchdog of the waiter was due just then, the victim finds nothing to wake, and
        // passes fewer points.
        Death::Ended if case.operation.needs_waiter() => Ok(()),
        Death::Ended => bail!("a victim survived point {at}"),
    }
}

pub(crate) fn start(
    case: Case,
    scene: &Scene,
    fate: Fate,
    stdout: Option<OwnedFd>,
) -> Result<Player> {
    start_at(scene.fd()?, case.operation, case.len, fate, stdout)
}

/// Starts a victim at any queue.
pub(crate) fn start_at(
    queue: OwnedFd,
    operation: Operation,
    len: usize,
    fate: Fate,
    stdout: Option<OwnedFd>,
) -> Result<Player> {
    let [fate, at] = fate.words();
    let words = ["victim", &operation.name(), &len.to_string(), &fate, &at];
    Player::start(&words, queue, stdout)
}

/// Wakes the victim once it sleeps, if its operation is one that sleeps. Waits for its end.
pub(crate) fn see_it_end(case: Case, scene: &mut Scene, victim: &mut Player) -> Result<Death> {
    if case.operation.sleeps() {
        let sleeper = Sleeper::process(victim.pid());
        loop {
            match victim.news(false)? {
                Some(WaitStatus::Exited(_, 0)) => return Ok(Death::Ended),
                Some(WaitStatus::Signaled(..)) => return Ok(Death::Killed),
                Some(other) => bail!("a victim {other:?}"),
                None if sleeper.is_asleep() => break,
                None => thread::yield_now(),
            }
        }
        scene.wake(case.operation)?;
    }
    victim.die()
}

impl Player {
    /// Waits until the process has stopped itself.
    pub(crate) fn until_stopped(&mut self) -> Result<()> {
        match self.news(true)? {
            Some(WaitStatus::Stopped(_, Signal::SIGSTOP)) => Ok(()),
            other => bail!("a part should have stopped, and {other:?}"),
        }
    }
}

/// The part of a victim. Its words: the operation, the length of messages, and its fate.
pub(crate) fn play(queue: &Queue, words: &[String]) -> Result<()> {
    let [operation, len, fate, at] = words else { bail!("a victim has four words: {words:?}") };
    fate::take(fate, at)?;
    Operation::of_name(operation)?.play(queue, len.parse()?, &KillPoints)
}

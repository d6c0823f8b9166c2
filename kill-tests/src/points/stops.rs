//! `stop`: a peer that is stopped at a kill point, for long, is alive.
//!
//! No other process takes anything of it: its record is not recovered, its lease is not delivered
//! again, no new handle gets its record. The other processes keep their pace, compared with the same
//! peer stopped right before its operation. When the peer is continued, it ends as if it had not been
//! stopped.
//!
//! Seen to fail: locks that are never tested, so that a process stopped during an operation or with a
//! lease is taken for dead (its record was given away).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use parkline_core::{AttachError, Recovered};

use super::churn::Flagged;
use super::deaths::Pairs;
use super::fate::Fate;
use super::parallel::in_parallel;
use super::victim::{self, Known};
use crate::asleep::Sleeper;
use crate::case::Case;
use crate::operation::Operation;
use crate::player::{Death, Player};
use crate::report::{Table, Violations};
use crate::scene::Scene;
use crate::states::Move;
use crate::waiter::WATCHDOG;

/// Arguments of the stops.
#[derive(Debug, Args)]
pub(crate) struct Stops {
    /// At how many points, chosen at random, or `all`
    #[arg(long, default_value = "20")]
    points: Pairs,
    /// For how many seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only these operations
    #[arg(long, value_enum)]
    only: Vec<Operation>,
    /// Of the random choices; chosen at random, and printed, by default
    #[arg(long)]
    seed: Option<u64>,
}

/// The least pace that the other processes must keep.
const PACE: f64 = 0.9;
/// How often a pace that is too low is measured again.
const TRIES: usize = 4;

pub(crate) fn run(args: &Stops) -> Result<bool> {
    let begin = Instant::now();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("seed {seed}");
    let cases = Case::select(false, &args.only, None, None).into_iter();
    // Not the operations with a waiter, which drains the queue, so that no message can go round. Not
    // those that count attempts: a message that goes round is sent anew, with its first attempt.
    let cases = cases.filter(|Case { operation, .. }| {
        !operation.needs_waiter() && operation.max_attempts().is_none()
    });
    let known: Vec<_> = cases.map(victim::learn).collect::<Result<_>>()?;
    let mut all = Vec::new();
    for known in &known {
        all.extend((0..known.points.len() as u64).map(|at| (known, at)));
    }
    fastrand::Rng::with_seed(seed).shuffle(&mut all);
    if let Pairs::Some(count) = args.points {
        all.truncate(count);
    }
    let time = Duration::from_secs_f64(args.seconds);
    let mut violations = Violations::default();
    let work = |(known, at): (&Known, u64)| {
        let name = &known.points[at as usize];
        let stopped = keep_pace(known.case, at, time);
        stopped.with_context(|| format!("{}, before {at} {name}", known.case))
    };
    let mut paces: Vec<f64> =
        in_parallel("stops", &all, &mut violations, work)?.into_iter().flatten().collect();
    paces.sort_by(f64::total_cmp);
    let percent =
        |pace: Option<&f64>| pace.map_or("-".to_owned(), |it| format!("{:.0} %", it * 100.0));
    let mut table = Table::new(&["pace of the others", "of that beside an idle peer"]);
    table.row(&[&"lowest", &percent(paces.first())]);
    table.row(&[&"median", &percent(paces.get(paces.len() / 2))]);
    table.print();
    Ok(violations.conclude(format_args!("stops: {}", all.len()), begin.elapsed()))
}

/// As [`stop`], but a pace that is too low is measured several times, because other work of the
/// machine may have been the reason.
fn keep_pace(case: Case, at: u64, time: Duration) -> Result<Option<f64>> {
    let mut best: f64 = 0.0;
    for _ in 0..TRIES {
        match stop(case, at, time)? {
            Some(pace) => best = best.max(pace),
            None => return Ok(None),
        }
        if best >= PACE {
            return Ok(Some(best));
        }
    }
    bail!("the others' pace was {:.0} %", best * 100.0)
}

/// The pace of the other processes; `None` if the peer closed the queue, so that they cannot go on.
fn stop(case: Case, at: u64, time: Duration) -> Result<Option<f64>> {
    let mut scene = victim::set(case, Some(WATCHDOG))?;
    let mut peer = victim::start(case, &scene, Fate::Stop(at), None)?;
    until_stopped(case, &mut scene, &mut peer)?;
    let flagged = if returns(case.operation) { Flagged::Fine } else { Flagged::Wrong };
    let idle = scene.churn(time / 2, flagged)?;
    peer.signal(Signal::SIGCONT)?;
    until_stopped(case, &mut scene, &mut peer)?;
    let pace = if scene.queue.is_closed() {
        None
    } else {
        let half = scene.churn(time / 2, flagged)?;
        check_untouched(case, &scene)?;
        Some(half.max(scene.churn(time / 2, flagged)?) / idle)
    };
    peer.signal(Signal::SIGCONT)?;
    let end = victim::see_it_end(case, &mut scene, &mut peer)?;
    ensure!(end == Death::Ended, "the stopped peer died");
    let seen = scene.account()?;
    let mut ids: Vec<_> = seen.arrivals.iter().map(|it| it.id).collect();
    ids.sort_unstable();
    let expected = case.operation.states(case.fill).last_ids();
    ensure!(ids == expected, "of {expected:?} there was left, all in all, `{seen}`");
    Ok(pace)
}

/// A recovery finds no dead process, and a new handle finds no free record.
fn check_untouched(case: Case, scene: &Scene) -> Result<()> {
    // Any process may return the messages that a handle owed when it was dropped.
    let leaves_messages = case.operation == Operation::DetachOwing;
    if case.operation.recovers().is_none() && !leaves_messages {
        let recovered = scene.queue.recover()?;
        ensure!(recovered == Recovered::default(), "of one that was stopped: {recovered:?}");
    }
    if keeps_record(case.operation) {
        let spare = scene.queue.receiver().context("the record for a recoverer")?;
        match scene.queue.receiver() {
            Err(AttachError::NoFreeHandle { .. }) => {}
            other => bail!("the stopped peer's record was given away: {other:?}"),
        }
        drop(spare);
    }
    Ok(())
}

/// Whether the process has its record from the begin of the operation to its end.
fn keeps_record(operation: Operation) -> bool {
    use Operation as It;
    let moves = [It::Close, It::AttachSender, It::AttachReceiver, It::DetachSender];
    let leaves = [It::DetachReceiver, It::DetachOwing, It::DetachReturning];
    !moves.contains(&operation) && !leaves.contains(&operation) && operation.recovers().is_none()
}

/// Whether the process returns a message that it had taken, or that a dead process had.
fn returns(operation: Operation) -> bool {
    operation.recovers().is_some() || operation.before().contains(&Move::Take)
}

fn until_stopped(case: Case, scene: &mut Scene, peer: &mut Player) -> Result<()> {
    let sleeper = Sleeper::process(peer.pid());
    let mut sleeps = case.operation.sleeps();
    loop {
        match peer.news(!sleeps)? {
            Some(WaitStatus::Stopped(_, Signal::SIGSTOP)) => return Ok(()),
            Some(other) => bail!("a peer should have stopped, and {other:?}"),
            None if sleeper.is_asleep() => {
                scene.wake(case.operation)?;
                sleeps = false;
            }
            None => thread::yield_now(),
        }
    }
}

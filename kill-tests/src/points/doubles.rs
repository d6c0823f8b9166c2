//! Two victims, one after the other at the same slot, both killed during an exchange. Only the record
//! of the second victim shows whether the first had exchanged.
//!
//! Seen to fail: an audit that skips the scan of busy records (a block in two places, in 4 of 2,800
//! double deaths: one victim was about to tag the block that the other had offered).

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::fate::Fate;
use super::parallel::in_parallel;
use super::victim::{self, Known, LEN};
use crate::case::Case;
use crate::operation::{Fill, Operation};
use crate::report::Violations;
use crate::scene::Scene;
use crate::states::State;

const OPERATIONS: [Operation; 3] = [Operation::TrySend, Operation::TryRecv, Operation::LeaseDrop];

/// Each point of the first victim with each point of the second. Returns how many pairs there were.
pub(crate) fn run(violations: &mut Violations) -> Result<usize> {
    let mut all = Vec::new();
    for fill in Fill::ALL {
        for first in OPERATIONS.into_iter().filter(|first| first.makes_sense(fill)) {
            let first = victim::learn(Case { operation: first, fill, len: LEN })?;
            for second in OPERATIONS.into_iter().filter(|second| second.makes_sense(fill)) {
                // The first victim may leave the ring emptier or fuller: learn the points of the
                // second where it has most of them.
                let fill = if second == Operation::TrySend { Fill::Half } else { fill };
                let fill = if fill == Fill::Empty { Fill::Half } else { fill };
                let second = victim::learn(Case { operation: second, fill, len: LEN })?;
                let points = |known: &Known| 0..known.points.len() as u64;
                let pairs = points(&first).flat_map(|i| points(&second).map(move |j| (i, j)));
                let cases = (first.case, second.case);
                all.extend(pairs.map(|points| (cases, points)));
            }
        }
    }
    let work = |((first, second), (i, j)): ((Case, Case), (u64, u64))| {
        let name = second.operation.name();
        let context = || format!("{first}, dead before its {i}, then {name}, dead before its {j}");
        double(first, second.operation, i, j).with_context(context)
    };
    Ok(in_parallel("double deaths", &all, violations, work)?.len())
}

fn double(first: Case, second: Operation, i: u64, j: u64) -> Result<()> {
    let Case { operation, fill, len } = first;
    let scene = Scene::set(operation, fill, len, 2, None)?;
    // Both victims have their records before either dies. So the first is recovered first, while the
    // record of the second still says that it exchanges.
    let cases = [(first, i), (Case { operation: second, ..first }, j)];
    let mut victims = Vec::new();
    for (case, at) in cases {
        let mut victim = victim::start(case, &scene, Fate::DieLater(at), None)?;
        victim.until_stopped()?;
        victims.push(victim);
    }
    for victim in &mut victims {
        victim.signal(Signal::SIGCONT)?;
        victim.die()?;
    }
    let seen = scene.account()?;
    let begin = operation.prepared(State::of(&fill.messages()), 0);
    let begin = second.prepared(begin, 1);
    let states = operation.states_from(begin, 0).then(|state| second.states_from(state, 1));
    ensure!(states.seen_in_any_order().contains(&seen), "survivors saw `{seen}`");
    Ok(())
}

//! What the rounds gave: figures by group and peer.

use std::collections::BTreeMap;

use serde::Serialize;

use super::peer::Peer;
use super::plan::Group;
use super::probe::Distance;
use super::spec::{Outcome, Workload};
use super::times::Times;

/// A peer in a group.
pub(crate) struct Row {
    pub(crate) peer: &'static Peer,
    /// By round; none where it failed.
    pub(crate) figures: Vec<Option<f64>>,
    /// By round; none where it failed or the cores moved.
    pub(crate) distances: Vec<Option<Distance>>,
    pub(crate) extras: BTreeMap<String, Vec<f64>>,
    pub(crate) times: Times,
    pub(crate) failures: Vec<String>,
}

pub(crate) struct Entry {
    pub(crate) group: Group,
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Results {
    pub(crate) entries: Vec<Entry>,
    /// What the probe said before and after each sample.
    pub(crate) probes: Vec<[f64; 2]>,
}

/// A median and the ends.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { median: values[values.len() / 2], min, max })
    }
}

/// So many failures, and it is not tried again.
const ENOUGH: usize = 2;

impl Row {
    fn new(peer: &'static Peer) -> Self {
        let (figures, distances) = (Vec::new(), Vec::new());
        let (extras, failures) = (BTreeMap::new(), Vec::new());
        Self { peer, figures, distances, extras, times: Times::new(), failures }
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.failures.len() >= ENOUGH
    }

    pub(crate) fn spread(&self) -> Option<Spread> {
        Spread::of(self.figures.iter().flatten().copied())
    }

    pub(crate) fn extra(&self, name: &str) -> Option<f64> {
        Some(Spread::of(self.extras.get(name)?.iter().copied())?.median)
    }

    /// The median of the ratios within the rounds: of those in which the cores were as far from each
    /// other for both, if there are any.
    pub(crate) fn ratio_to(&self, other: &Self) -> Option<f64> {
        let ratio = |round: usize| {
            let (mine, theirs) = (self.figures.get(round)?, other.figures.get(round)?);
            // To nothing at all there is no ratio.
            Some((*mine)? / (*theirs)?).filter(|ratio| ratio.is_finite())
        };
        let is_alike = |round: &usize| {
            let distance = self.distances.get(*round).copied().flatten();
            distance.is_some() && other.distances.get(*round) == Some(&distance)
        };
        let rounds = 0..self.figures.len();
        let alike = Spread::of(rounds.clone().filter(is_alike).filter_map(ratio));
        Some(alike.or_else(|| Spread::of(rounds.filter_map(ratio)))?.median)
    }

    /// The figures of the samples at a distance of the cores.
    pub(crate) fn at(&self, distance: Distance) -> Option<(Spread, usize)> {
        let figures = self.figures.iter().zip(&self.distances);
        let there = figures.filter(|(_, its)| **its == Some(distance));
        let there: Vec<_> = there.filter_map(|(figure, _)| *figure).collect();
        let count = there.len();
        Some((Spread::of(there)?, count))
    }
}

impl Results {
    pub(crate) fn new(groups: Vec<Group>) -> Self {
        let entry = |group: Group| {
            let rows = group.peers.iter().map(|peer| Row::new(peer)).collect();
            Entry { group, rows }
        };
        Self { entries: groups.into_iter().map(entry).collect(), probes: Vec::new() }
    }

    pub(crate) fn add(&mut self, entry: usize, row: usize, sample: anyhow::Result<Outcome>) {
        let entry = &mut self.entries[entry];
        let row = &mut entry.rows[row];
        match sample {
            Ok(outcome) => {
                let figure = entry.group.unit.figure(outcome.value, entry.group.work);
                row.figures.push(Some(figure));
                row.distances.push(Distance::of(outcome.probe));
                row.times.add(&outcome.times);
                for (name, value) in outcome.extras {
                    row.extras.entry(name).or_default().push(value);
                }
                if outcome.probe[0] > 0.0 {
                    self.probes.push(outcome.probe);
                }
            }
            Err(error) => {
                row.figures.push(None);
                row.distances.push(None);
                row.failures.push(format!("{error:#}"));
            }
        }
    }

    /// Those of a workload.
    pub(crate) fn of(&self, workload: Workload) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.group.workload == workload)
    }
}

impl Entry {
    pub(crate) fn row(&self, peer: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.peer.name == peer)
    }

    pub(crate) fn ratio(&self, peer: &str, to: &str) -> Option<f64> {
        self.row(peer)?.ratio_to(self.row(to)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan;
    use super::*;

    fn results() -> Results {
        let is_naps = |it: &Group| it.workload == Workload::Naps;
        Results::new(plan::groups(true).into_iter().filter(is_naps).collect())
    }

    fn sample(value: f64) -> anyhow::Result<Outcome> {
        Ok(Outcome::of(value))
    }

    /// Fails if the ratio is that of the medians (seen failing).
    #[test]
    fn a_ratio_is_the_median_of_those_within_the_rounds() {
        let mut results = results();
        for (yardstick, other) in [(1.0, 3.0), (10.0, 10.0), (2.0, 8.0)] {
            results.add(0, 0, sample(yardstick));
            results.add(0, 1, sample(other));
        }
        let entry = &results.entries[0];
        assert_eq!(entry.rows[1].ratio_to(&entry.rows[0]), Some(3.0));
    }

    /// Fails if a round counts in which the cores moved, though there are others (seen failing).
    #[test]
    fn a_ratio_is_of_samples_at_one_distance() {
        let mut results = results();
        let at = |value, probe| Ok(Outcome { probe: [probe; 2], ..Outcome::of(value) });
        for (yardstick, other) in [
            (at(1.0, 30.0), at(50.0, 400.0)),
            (at(1.0, 30.0), at(2.0, 31.0)),
            (at(10.0, 400.0), at(100.0, 80.0)),
        ] {
            results.add(0, 0, yardstick);
            results.add(0, 1, other);
        }
        let rows = &results.entries[0].rows;
        assert_eq!(rows[1].ratio_to(&rows[0]), Some(2.0));
        let there = |row: &Row| row.at(Distance::Far).map(|(spread, count)| (spread.median, count));
        assert_eq!((there(&rows[0]), there(&rows[1])), (Some((10.0, 1)), Some((50.0, 1))));
        assert_eq!(Distance::of([30.0, 400.0]), None);
    }

    /// Fails if a failed sample takes no place in its row (seen failing).
    #[test]
    fn a_round_in_which_one_failed_has_no_ratio_and_shifts_no_other() {
        let mut results = results();
        for (yardstick, other) in [
            (sample(1.0), sample(2.0)),
            (Err(anyhow::anyhow!("hangs")), sample(50.0)),
            (sample(7.0), sample(14.0)),
        ] {
            results.add(0, 0, yardstick);
            results.add(0, 1, other);
        }
        let entry = &results.entries[0];
        assert_eq!(entry.rows[1].ratio_to(&entry.rows[0]), Some(2.0));
        assert!(!entry.rows[0].is_given_up());
        assert_eq!(entry.rows[0].failures, ["hangs"]);
    }
}

//! One operation in one setting, and the states that survivors must see, each in its turn.

use std::fmt;

use anyhow::{Result, anyhow};

use crate::operation::{Fill, Operation};
use crate::states::Seen;

/// One operation in one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    pub(crate) operation: Operation,
    pub(crate) fill: Fill,
    pub(crate) len: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} bytes, {}", self.operation.name(), self.len, self.fill)
    }
}

impl Case {
    /// The cases for these arguments. By default each operation has one, in a ring in which it makes
    /// sense.
    pub(crate) fn select(
        all: bool,
        only: &[Operation],
        fill: Option<Fill>,
        payload: Option<usize>,
    ) -> Vec<Self> {
        let lens = if all { vec![0, 8, 200] } else { vec![8] };
        let lens = payload.map_or(lens, |len| vec![len]);
        let operations = <Operation as clap::ValueEnum>::value_variants();
        let mut cases = Vec::new();
        for &len in &lens {
            for &operation in operations {
                let fits = |fill: &Fill| operation.makes_sense(*fill);
                let fills: Vec<_> = match (fill, all) {
                    (Some(fill), _) => vec![fill],
                    (None, true) => Fill::ALL.to_vec(),
                    (None, false) if fits(&Fill::Half) => vec![Fill::Half],
                    (None, false) if fits(&Fill::Empty) => vec![Fill::Empty],
                    (None, false) => vec![Fill::Full],
                };
                let fills = fills.into_iter().filter(fits);
                cases.extend(fills.map(|fill| Self { operation, fill, len }));
            }
        }
        cases.retain(|case| only.is_empty() || only.contains(&case.operation));
        cases
    }

    /// What survivors may see of each state, in order.
    pub(crate) fn states(self) -> Vec<Seen> {
        self.operation.states(self.fill).seen(self.len == 0)
    }

    /// What survivors can tell of the messages: nothing tells them apart if they are empty.
    pub(crate) fn tell_apart(self, seen: Seen) -> Seen {
        if self.len == 0 { seen.anonymous() } else { seen }
    }
}

/// Checks that the states of a model are seen in their order.
#[derive(Debug)]
pub(crate) struct Turns {
    expected: Vec<Seen>,
    at: usize,
    begun: bool,
}

impl Turns {
    pub(crate) fn new(case: Case) -> Self {
        Self { expected: case.states(), at: 0, begun: false }
    }

    /// Whether `seen` is the next state, not the last one again.
    ///
    /// # Errors
    /// If `seen` is neither.
    pub(crate) fn next(&mut self, seen: &Seen) -> Result<bool> {
        if self.expected.get(self.at) == Some(seen) {
            self.begun = true;
            return Ok(false);
        }
        if self.begun && self.expected.get(self.at + 1) == Some(seen) {
            self.at += 1;
            return Ok(true);
        }
        let expected: Vec<_> =
            self.expected[self.at..].iter().take(2).map(|it| format!("`{it}`")).collect();
        Err(anyhow!("survivors saw `{seen}`, expected {}", expected.join(" or ")))
    }

    /// How many states were seen.
    pub(crate) fn reached(&self) -> usize {
        if self.begun { self.at + 1 } else { 0 }
    }

    /// # Errors
    /// If a state was never seen.
    pub(crate) fn end(&self) -> Result<()> {
        match self.expected.get(self.reached()) {
            Some(missing) => Err(anyhow!("survivors never saw `{missing}`")),
            None => Ok(()),
        }
    }
}

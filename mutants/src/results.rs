//! The outcome of each mutant, kept in a file so that a run can go on where the last one ended.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Result;

/// The outcome of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Caught {
        by: String,
    },
    Survived {
        /// Models that did not end in time.
        late: usize,
    },
    /// No model is built with the code.
    Unseen,
    /// It does not compile, so it is no mutant.
    Unviable,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught { by } => write!(f, "caught by {by}"),
            Self::Survived { late: 0 } => write!(f, "survived"),
            Self::Survived { late } => write!(f, "survived, {late} models took too long"),
            Self::Unseen => write!(f, "survived, no model runs it"),
            Self::Unviable => write!(f, "does not compile"),
        }
    }
}

impl Outcome {
    fn to_line(&self) -> String {
        match self {
            Self::Caught { by } => format!("caught {by}"),
            Self::Survived { late } => format!("survived {late}"),
            Self::Unseen => "unseen".to_owned(),
            Self::Unviable => "unviable".to_owned(),
        }
    }

    fn from_line(line: &str) -> Option<Self> {
        match line.split_once(' ') {
            Some(("caught", by)) => Some(Self::Caught { by: by.to_owned() }),
            Some(("survived", late)) => Some(Self::Survived { late: late.parse().ok()? }),
            _ if line == "unseen" => Some(Self::Unseen),
            _ => (line == "unviable").then_some(Self::Unviable),
        }
    }
}

/// The kept outcomes, by the hash of all sources and of the mutant.
#[derive(Debug)]
pub(crate) struct Results {
    sources: u64,
    kept: HashMap<u64, Outcome>,
    file: Mutex<File>,
}

impl Results {
    /// The outcomes of the mutants of sources with this hash, kept in the file `path`.
    pub(crate) fn open(path: &Path, sources: u64) -> Result<Self> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = |line: &str| {
            let (key, outcome) = line.split_once(' ')?;
            Some((u64::from_str_radix(key, 16).ok()?, Outcome::from_line(outcome)?))
        };
        let kept = text.lines().filter_map(line).collect();
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { sources, kept, file: Mutex::new(file) })
    }

    fn key(&self, mutant: &impl ToString) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.sources, mutant.to_string()).hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn kept(&self, mutant: &impl ToString) -> Option<Outcome> {
        self.kept.get(&self.key(mutant)).cloned()
    }

    pub(crate) fn keep(&self, mutant: &impl ToString, outcome: &Outcome) -> Result<()> {
        let line = format!("{:016x} {}\n", self.key(mutant), outcome.to_line());
        let mut file = self.file.lock().unwrap_or_else(|it| it.into_inner());
        Ok(file.write_all(line.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_read_as_it_was_kept() {
        let by = "ring a_test".to_owned();
        let outcomes = [
            Outcome::Caught { by },
            Outcome::Survived { late: 0 },
            Outcome::Survived { late: 2 },
            Outcome::Unseen,
            Outcome::Unviable,
        ];
        for outcome in outcomes {
            assert_eq!(Outcome::from_line(&outcome.to_line()), Some(outcome));
        }
        assert_eq!(Outcome::from_line("nonsense"), None);
    }
}

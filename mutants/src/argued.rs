//! The table of the mutants that are argued to be equivalent to the code that ships.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Stands for `\|`, which does not end a cell.
const ESCAPED: &str = "\0";

/// The place and the change of a mutant, as a row of the table names them.
pub(crate) trait Named {
    fn place(&self) -> String;
    fn change(&self) -> String;
}

/// The rows of the table.
#[derive(Debug)]
pub(crate) struct Argued(Vec<Row>);

#[derive(Debug)]
struct Row {
    place: String,
    change: String,
    argument: String,
}

impl Row {
    fn is_of(&self, mutant: &impl Named) -> bool {
        self.place == mutant.place() && self.change == mutant.change()
    }
}

impl Argued {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text)
    }

    /// Reads the rows after the line `|---|`.
    fn parse(text: &str) -> Result<Self> {
        let rows = text.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let row = |line: &str| {
            let escaped = line.replace(r"\|", ESCAPED);
            let cells: Vec<_> = escaped.trim_matches('|').splitn(3, '|').map(str::trim).collect();
            let [place, change, argument] = cells[..] else { bail!("not a row: {line}") };
            let [place, change, argument] =
                [place, change, argument].map(|cell| cell.replace(ESCAPED, "|"));
            Ok(Row { place, change, argument })
        };
        let rows = rows.take_while(|line| line.starts_with('|')).map(row);
        rows.collect::<Result<_>>().map(Self)
    }

    /// # Errors
    /// When no mutant matches a row: its place has changed, so the argument may not hold any more.
    pub(crate) fn check_against<M: Named>(&self, mutants: &[M]) -> Result<()> {
        for row in &self.0 {
            if !mutants.iter().any(|mutant| row.is_of(mutant)) {
                bail!("an argument is of no place that exists: {} | {}", row.place, row.change);
            }
        }
        Ok(())
    }

    pub(crate) fn argument(&self, mutant: &impl Named) -> Option<&str> {
        self.0.iter().find(|row| row.is_of(mutant)).map(|row| row.argument.as_str())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if a row without a mutant is passed over (seen failing).
    #[test]
    fn an_argument_of_no_place_is_an_error() {
        let text = "# Words\n\n| place | mutation | argument |\n|---|---|---|\n\
                    | a.rs f `w.load(Acquire)` | Acquire to Relaxed | since it is so |\n\nMore.\n";
        let argued = Argued::parse(text).unwrap();
        assert_eq!(argued.len(), 1);
        assert!(argued.check_against::<crate::edits::Edit>(&[]).is_err());
        assert!(Argued::parse("|---|\n| a | b |\n").is_err());
        let bars =
            Argued::parse("|---|\n| a.rs f | replace \\|\\| with && in f | since |\n").unwrap();
        assert_eq!(bars.0[0].change, "replace || with && in f");
    }
}

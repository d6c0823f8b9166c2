//! Edits of the logic of core and uring, as cargo-mutants makes them: an operator is replaced, a function
//! returns at once, a branch is left out.
//!
//! cargo-mutants lists the edits. A seed and the name of each edit decide which are tried, so a change of
//! the code changes the choice only a little. Each is tried in a copy of the tree: by the tests of its
//! crate, then by the tests of the crate that depends on it, then by the models.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::argued::Named;
use crate::proofs::{Proofs, Tested, Tree};
use crate::results::Outcome;

/// The version of cargo-mutants that names the edits of the table of arguments.
const VERSION: &str = "27.1.0";

/// Files that only models and kill tests use.
const INSTRUMENTS: [&str; 3] =
    ["core/src/kill_points.rs", "core/src/process/model.rs", "core/src/ring/heap.rs"];

/// An edit.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Edit {
    /// The name, with file, line and column.
    name: String,
    file: String,
    package: String,
    function: Option<Function>,
    replacement: String,
    span: Span,
}

#[derive(Clone, Debug, Deserialize)]
struct Function {
    function_name: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Span {
    start: Place,
    end: Place,
}

/// Lines and columns, from 1; columns count characters.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Place {
    line: usize,
    column: usize,
}

impl Place {
    fn offset_in(self, source: &str) -> Option<usize> {
        let mut lines = source.split_inclusive('\n');
        let before: usize = lines.by_ref().take(self.line.checked_sub(1)?).map(str::len).sum();
        let line = lines.next().unwrap_or("");
        let column = self.column.checked_sub(1)?;
        let within = line.char_indices().map(|(at, _)| at).chain([line.len()]).nth(column)?;
        Some(before + within)
    }
}

impl std::fmt::Display for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Named for Edit {
    fn place(&self) -> String {
        let function = self.function.as_ref().map_or("", |it| it.function_name.as_str());
        format!("{} {function}", self.file)
    }

    fn change(&self) -> String {
        // The name begins with the file, the line and the column.
        self.name.splitn(4, ':').nth(3).unwrap_or(&self.name).trim().to_owned()
    }
}

impl Edit {
    /// All edits of core and uring, in the order of the sources.
    pub(crate) fn all(root: &Path) -> Result<Vec<Self>> {
        let version = Command::new("cargo").args(["mutants", "--version"]).output()?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        ensure!(
            version == format!("cargo-mutants {VERSION}"),
            "cargo-mutants {VERSION} is needed, not `{version}`: `cargo install cargo-mutants --locked --version {VERSION}`"
        );
        let listed = Command::new("cargo")
            .args(["mutants", "--list", "--json", "-p", "parkline-core", "-p", "parkline-uring"])
            .current_dir(root)
            .output()?;
        ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let mut all: Vec<Self> = serde_json::from_slice(&listed.stdout)?;
        all.retain(Self::is_of_what_ships);
        Ok(all)
    }

    /// Whether the edit is in code that ships, and not in a test or a part of the models. cargo-mutants
    /// knows tests by `#[cfg(test)]` alone.
    fn is_of_what_ships(&self) -> bool {
        let is_of_instrument = |it: &Function| {
            ["tests::", "model::"].iter().any(|module| it.function_name.starts_with(module))
        };
        !INSTRUMENTS.contains(&self.file.as_str())
            && !self.function.as_ref().is_some_and(is_of_instrument)
    }

    /// The edits with the smallest numbers are drawn. The number stays the same when other lines change,
    /// and when the file moves to another folder.
    pub(crate) fn lot(&self, seed: u64) -> u64 {
        let (place, change) = (self.place(), self.change());
        let place = place.rsplit_once('/').map_or(&*place, |(_, file)| file);
        let bytes = place.bytes().chain(change.bytes());
        let name = bytes.fold(seed, |name, byte| {
            // FNV-1a.
            (name ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        fastrand::Rng::with_seed(name).u64(..)
    }

    fn apply(&self, source: &str) -> Result<String> {
        let range = self.span.start.offset_in(source).zip(self.span.end.offset_in(source));
        let (from, to) = range.context("the file is shorter than it was")?;
        let (before, after) = source.get(..from).zip(source.get(to..)).context("an odd span")?;
        Ok([before, &self.replacement, after].concat())
    }

    /// Runs the tests on the edit until one fails.
    pub(crate) fn judge(&self, proofs: &Proofs, tree: &Tree) -> Result<Outcome> {
        let file = tree.path(&self.file);
        let source = fs::read_to_string(&file)?;
        fs::write(&file, self.apply(&source)?)?;
        let outcome = self.run_all(proofs, tree);
        fs::write(&file, source)?;
        outcome.with_context(|| self.name.clone())
    }

    fn run_all(&self, proofs: &Proofs, tree: &Tree) -> Result<Outcome> {
        let of_core = self.package == "parkline-core";
        let packages: &[&str] =
            if of_core { &["parkline-core", "parkline-uring"] } else { &["parkline-uring"] };
        for (nth, package) in packages.iter().enumerate() {
            let limit = proofs.limit_of(package)?;
            match tree.test(package, limit)? {
                Tested::Passed { .. } => {}
                Tested::DoesNotCompile if nth == 0 => return Ok(Outcome::Unviable),
                Tested::DoesNotCompile => bail!("{package} does not compile"),
                Tested::Failed { test } => {
                    return Ok(Outcome::Caught { by: format!("{package} {test}") });
                }
            }
        }
        match of_core {
            true if proofs.are_built_with(&self.file)? => proofs.run_all(tree),
            true => Ok(Outcome::Unseen),
            false => Ok(Outcome::Survived { late: 0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if columns are taken for bytes (seen failing).
    #[test]
    fn an_edit_replaces_what_it_spans() {
        let place = |line, column| Place { line, column };
        let edit = Edit {
            name: "core/src/a.rs:2:7: replace b with c in f".to_owned(),
            file: "core/src/a.rs".to_owned(),
            package: "parkline-core".to_owned(),
            function: Some(Function { function_name: "f".to_owned() }),
            replacement: "c".to_owned(),
            span: Span { start: place(2, 3), end: place(2, 4) },
        };
        assert_eq!(edit.apply("a\nüäb\nd\n").unwrap(), "a\nüäc\nd\n");
        assert_eq!(edit.place(), "core/src/a.rs f");
        assert_eq!(edit.change(), "replace b with c in f");
        assert!(edit.apply("a\n").is_err());
        // Fails if lines or folders change the number (seen failing).
        let file = "core/src/ring/a.rs".to_owned();
        let moved = Edit {
            name: "core/src/ring/a.rs:9:9: replace b with c in f".to_owned(),
            file,
            ..edit.clone()
        };
        assert_eq!(moved.lot(1), edit.lot(1));
        assert_ne!(edit.lot(2), edit.lot(1));
    }
}

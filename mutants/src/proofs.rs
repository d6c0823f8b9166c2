//! The proofs: the tests of `loom-tests`, built in a copy of the tree with one mutant.
//!
//! Each test runs by itself, the quickest first, because a quick test catches most mutants. A test that
//! catches a mutant also runs on the unchanged tree, where it must pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::results::Outcome;
use crate::sites::Mutant;

/// The test files that are built first, and those that are built second: most mutants need no others. All
/// others are built last.
const FIRST: [&[&str]; 2] = [&["litmus", "news", "flag"], &["ring", "audit", "gate", "api"]];
/// The text by which a test file that runs the shipped code under loom is known.
const IN_MODELS: &str = "#[cfg(loom)]\nmod ";
/// The longest time of a build.
const BUILD: Duration = Duration::from_secs(900);
/// The time that a mutant's tests may take, added to four times their time without the mutant.
const LEAST: Duration = Duration::from_secs(20);
/// The longest time of a model, or of the tests of a crate, on the unchanged tree.
const MODEL: Duration = Duration::from_secs(900);

/// Where the work is done: `target/mutants`.
#[derive(Debug)]
pub(crate) struct Workshop {
    folder: PathBuf,
    /// All files of the repository that git does not ignore, as they were at the beginning.
    files: Vec<(PathBuf, Vec<u8>)>,
    hash: u64,
}

impl Workshop {
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let folder = root.join("target/mutants");
        fs::create_dir_all(&folder)?;
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("git lists the files")?;
        ensure!(listed.status.success(), "git: {}", String::from_utf8_lossy(&listed.stderr));
        let names = String::from_utf8(listed.stdout)?;
        let mut files: Vec<_> = names.split_terminator('\0').map(PathBuf::from).collect();
        files.retain(|file| root.join(file).is_file());
        files.sort();
        let with_text = |file: PathBuf| Ok((file.clone(), fs::read(root.join(file))?));
        let files = files.into_iter().map(with_text).collect::<Result<Vec<_>>>()?;
        let mut hasher = DefaultHasher::new();
        let of_proofs = |file: &Path| {
            let starts = ["core", "uring", "loom-tests", "mutants/src/proofs.rs", "Cargo.lock"];
            starts.iter().any(|start| file.starts_with(start))
        };
        files.iter().filter(|(file, _)| of_proofs(file)).for_each(|it| it.hash(&mut hasher));
        Ok(Self { folder, files, hash: hasher.finish() })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The hash of the sources from which the proofs are built.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The test files of the models. A file that tests loom itself sees no mutant, and takes little time.
    fn stages(&self) -> Result<Vec<Vec<String>>> {
        let in_models = |text: &[u8]| String::from_utf8_lossy(text).contains(IN_MODELS);
        let files = self.files.iter().filter(|(file, text)| {
            file.parent() == Some(Path::new("loom-tests/tests")) && in_models(text)
        });
        let name = |file: &Path| file.file_stem()?.to_str().map(str::to_owned);
        let mut all: Vec<String> = files.filter_map(|(file, _)| name(file)).collect();
        let mut stages = Vec::new();
        for first in FIRST {
            let (these, rest) = all.into_iter().partition(|it| first.contains(&it.as_str()));
            let these: Vec<String> = these;
            ensure!(these.len() == first.len(), "of {first:?} there are {these:?}");
            stages.push(these);
            all = rest;
        }
        stages.extend((!all.is_empty()).then_some(all));
        Ok(stages)
    }

    /// A copy of the tree.
    pub(crate) fn tree(&self, name: &str) -> Result<Tree> {
        let at = self.folder.join(format!("tree-{name}"));
        fs::create_dir_all(&at)?;
        self.remove_others(&at, Path::new(""))?;
        for (file, text) in &self.files {
            let to = at.join(file);
            // Cargo goes by the time of a file, so a file that is the same is not written again.
            if fs::read(&to).ok().is_none_or(|old| old != *text) {
                let parent = to.parent().context("a file lies in a folder")?;
                fs::create_dir_all(parent)?;
                fs::write(to, text)?;
            }
        }
        Ok(Tree { at, target: self.folder.join(format!("target-{name}")) })
    }

    /// Removes the files that an earlier copy has at `at` in `folder` and the tree has not: else a module
    /// could be in two files.
    fn remove_others(&self, at: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(at.join(folder))? {
            let entry = entry?;
            let file = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.remove_others(at, &file)?;
            } else if self.files.binary_search_by(|(it, _)| it.cmp(&file)).is_err() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// A copy of the tree, and the folder of its builds.
#[derive(Debug)]
pub(crate) struct Tree {
    at: PathBuf,
    target: PathBuf,
}

/// The outcome of the tests of a crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tested {
    Passed {
        took: Duration,
    },
    /// The first test that failed, or the command that took too long.
    Failed {
        test: String,
    },
    DoesNotCompile,
}

impl Tree {
    /// The path of a file of the repository in this tree.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.at.join(file)
    }

    /// Runs the tests of `package`, except those in its docs.
    pub(crate) fn test(&self, package: &str, limit: Duration) -> Result<Tested> {
        let log = self.target.with_extension("log");
        let cargo = |words: &[&str]| {
            let mut cargo = Command::new("cargo");
            cargo.args(words).args(["-p", package, "--color=never"]);
            cargo.args(["--config", "profile.dev.debug=0"]).arg("--target-dir").arg(&self.target);
            cargo.current_dir(&self.at).env_remove("RUSTFLAGS").env("RUST_BACKTRACE", "0");
            cargo
        };
        let tests = ["test", "--lib", "--bins", "--tests"];
        // The tests execute the examples as programs.
        let builds = [&["build", "--examples"][..], &[&tests[..], &["--no-run"]].concat()];
        for build in builds {
            match run(&mut cargo(build), &log, BUILD)? {
                (Some(status), _) if status.success() => {}
                (Some(_), _) => return Ok(Tested::DoesNotCompile),
                (None, _) => bail!("the build takes too long"),
            }
        }
        let begin = Instant::now();
        // After one test has failed, others may hang.
        let is_over = || Ok(failed_test(&said(&log)?).is_some());
        let (ended, output) = run_until(&mut cargo(&tests), &log, limit, is_over)?;
        Ok(match (ended, failed_test(&output)) {
            (_, Some(test)) => Tested::Failed { test },
            (Some(status), None) if status.success() => Tested::Passed { took: begin.elapsed() },
            (Some(_), None) => Tested::Failed { test: "a test, whose process died".to_owned() },
            (None, None) => Tested::Failed { test: "a test that takes too long".to_owned() },
        })
    }

    /// Builds test files of the models, and returns the binary of each.
    fn build(&self, tests: &[String]) -> Result<Vec<PathBuf>> {
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "-p", "parkline-loom-tests", "--profile", "loom", "--no-run"]);
        cargo.args(["--config", "build.rustflags=['--cfg','loom']"]);
        cargo.args(["--config", "profile.loom.debug=0", "--color=never"]).arg("--target-dir");
        cargo.arg(&self.target).args(tests.iter().flat_map(|test| ["--test", test.as_str()]));
        cargo.current_dir(&self.at).env_remove("RUSTFLAGS");
        let log = self.target.with_extension("log");
        let (ended, output) = run(&mut cargo, &log, BUILD)?;
        match ended {
            Some(status) if status.success() => {}
            Some(_) => bail!("the tree does not compile:\n{output}"),
            None => bail!("the build takes too long"),
        }
        let binary = |test: &String| {
            let line = output.lines().find(|line| line.contains(&format!("tests/{test}.rs (")));
            let name = line.and_then(|line| line.split_once('(')?.1.strip_suffix(')'));
            name.map(|it| self.at.join(it)).with_context(|| format!("no binary of {test}"))
        };
        tests.iter().map(binary).collect()
    }

    /// Whether the last build of the models used `file`, a source of core, by the compiler's own list.
    fn builds_models_with(&self, file: &str) -> Result<bool> {
        let mut notes = Vec::new();
        for entry in fs::read_dir(self.target.join("loom/deps"))? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if name.starts_with("parkline_core-") && name.ends_with(".d") {
                notes.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        let (_, last) = notes.into_iter().max().context("a build notes its sources")?;
        Ok(fs::read_to_string(last)?.split_whitespace().any(|it| it == file))
    }

    /// Whether a test passes; `None` if it takes longer than `limit`.
    fn run(&self, binary: &Path, test: &str, limit: Duration) -> Result<Option<bool>> {
        let mut command = Command::new(binary);
        command.args(["--include-ignored", "--exact", test, "--test-threads=1"]);
        command.current_dir(&self.at).env("RUST_BACKTRACE", "0");
        let log = self.target.with_extension("log");
        let (ended, output) = run(&mut command, &log, limit)?;
        let Some(status) = ended else { return Ok(None) };
        // A name without a test passes, too.
        ensure!(!status.success() || output.contains("1 passed"), "{test} was not run:\n{output}");
        Ok(Some(status.success()))
    }
}

/// The first test that the output reports as failed.
fn failed_test(output: &str) -> Option<String> {
    let name =
        |line: &str| line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned);
    output.lines().find_map(name)
}

/// Runs `command` for at most `limit`. Returns how it ended, if it did, and its output.
fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<(Option<ExitStatus>, String)> {
    run_until(command, log, limit, || Ok(false))
}

/// The same, but also ends the command when `is_over` returns true.
fn run_until(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    is_over: impl Fn() -> Result<bool>,
) -> Result<(Option<ExitStatus>, String)> {
    let file = fs::File::create(log)?;
    let same = file.try_clone()?;
    command.stdin(Stdio::null()).stdout(file).stderr(same).process_group(0);
    let mut child = command.spawn()?;
    let begin = Instant::now();
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if begin.elapsed() > limit || is_over()? {
            // Together with the processes that it started.
            let group = format!("-{}", child.id());
            Command::new("kill").args(["-KILL", "--", &group]).status()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    Ok((ended, said(log)?))
}

/// The output so far of a command that writes to `log`.
fn said(log: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
}

/// The proofs, and their known times.
#[derive(Debug)]
pub(crate) struct Proofs {
    /// The test files, in the order in which they are built.
    stages: Vec<Vec<String>>,
    /// The time of each test, from this run and earlier ones.
    times: Mutex<BTreeMap<Proof, Duration>>,
    times_file: PathBuf,
    /// The unchanged tree, where a test that caught a mutant must pass.
    clean: Mutex<Clean>,
}

/// A test file, and the name of the test.
type Proof = (String, String);

#[derive(Debug)]
struct Clean {
    tree: Tree,
    /// The binaries that were built from it, and the tests that passed.
    binaries: BTreeMap<String, PathBuf>,
    passed: BTreeSet<Proof>,
    /// By package, the time of its tests.
    took: BTreeMap<String, Duration>,
}

impl Clean {
    /// Builds test files of the models, unless they are built.
    fn build(&mut self, files: &[String]) -> Result<()> {
        if !files.iter().all(|file| self.binaries.contains_key(file)) {
            let built = self.tree.build(files)?;
            self.binaries.extend(files.iter().cloned().zip(built));
        }
        Ok(())
    }
}

impl Proofs {
    pub(crate) fn new(workshop: &Workshop) -> Result<Self> {
        let stages = workshop.stages()?;
        let times_file = workshop.folder.join("times.txt");
        let text = fs::read_to_string(&times_file).unwrap_or_default();
        let times = Mutex::new(text.lines().filter_map(entry).collect());
        let (tree, binaries) = (workshop.tree("clean")?, BTreeMap::new());
        let (passed, took) = (BTreeSet::new(), BTreeMap::new());
        let clean = Mutex::new(Clean { tree, binaries, passed, took });
        Ok(Self { stages, times, times_file, clean })
    }

    /// Runs the proofs on `mutant` until one fails.
    ///
    /// # Errors
    /// When that one fails without the mutant, too.
    pub(crate) fn judge(&self, tree: &Tree, mutant: &Mutant) -> Result<Outcome> {
        if !mutant.is_in_models {
            return Ok(Outcome::Unseen);
        }
        let file = tree.at.join("core/src").join(&mutant.file);
        let source = fs::read_to_string(&file)?;
        fs::write(&file, mutant.apply(&source)?)?;
        let outcome = self.run_all(tree);
        fs::write(&file, source)?;
        outcome.with_context(|| mutant.to_string())
    }

    /// Runs the models on `tree` until one fails.
    ///
    /// # Errors
    /// When that one fails without the mutant, too.
    pub(crate) fn run_all(&self, tree: &Tree) -> Result<Outcome> {
        let mut late = 0;
        for files in &self.stages {
            let mut proofs = Vec::new();
            for (file, binary) in files.iter().zip(tree.build(files)?) {
                for test in list(&binary)? {
                    let took = lock(&self.times).get(&(file.clone(), test.clone())).copied();
                    proofs.push((took, file, test, binary.clone()));
                }
            }
            // A test that was never run counts as quick.
            proofs.sort_by_key(|(took, ..)| took.unwrap_or(Duration::from_secs(1)));
            for (took, file, test, binary) in proofs {
                // A weaker ordering has more executions.
                let limit = took.map_or(MODEL, |took| took * 10 + Duration::from_secs(60));
                let begin = Instant::now();
                match tree.run(&binary, &test, limit)? {
                    Some(true) => self.keep_time((file.clone(), test), begin.elapsed())?,
                    Some(false) => {
                        self.confirm(files, file, &test)?;
                        let name = test.rsplit("::").next().unwrap_or(&test);
                        return Ok(Outcome::Caught { by: format!("{file} {name}") });
                    }
                    None => late += 1,
                }
            }
        }
        Ok(Outcome::Survived { late })
    }

    /// Checks that `test` passes without a mutant: otherwise its failure proves nothing.
    fn confirm(&self, files: &[String], file: &str, test: &str) -> Result<()> {
        let mut clean = lock(&self.clean);
        let proof = (file.to_owned(), test.to_owned());
        if clean.passed.contains(&proof) {
            return Ok(());
        }
        clean.build(files)?;
        let binary = clean.binaries.get(file).context("it was built")?;
        let passed = clean.tree.run(binary, test, MODEL)?;
        ensure!(passed == Some(true), "{file} {test} does not pass without a mutant");
        clean.passed.insert(proof);
        Ok(())
    }

    /// Whether the models are built with `file`, a source of core.
    pub(crate) fn are_built_with(&self, file: &str) -> Result<bool> {
        let files = self.stages.first().context("there are models")?;
        let mut clean = lock(&self.clean);
        clean.build(files)?;
        clean.tree.builds_models_with(file)
    }

    /// How long the tests of `package` may take with a mutant: a few times their time without one.
    ///
    /// # Errors
    /// When they do not pass without a mutant.
    pub(crate) fn limit_of(&self, package: &str) -> Result<Duration> {
        let mut clean = lock(&self.clean);
        if let Some(took) = clean.took.get(package) {
            return Ok(*took * 4 + LEAST);
        }
        let tested = clean.tree.test(package, MODEL)?;
        let Tested::Passed { took } = tested else {
            bail!("{package} without a mutant: {tested:?}");
        };
        clean.took.insert(package.to_owned(), took);
        Ok(took * 4 + LEAST)
    }

    fn keep_time(&self, proof: Proof, took: Duration) -> Result<()> {
        let mut times = lock(&self.times);
        times.insert(proof, took);
        let line = |((file, test), took): (&Proof, &Duration)| {
            format!("{file} {test} {}\n", took.as_millis())
        };
        Ok(fs::write(&self.times_file, times.iter().map(line).collect::<String>())?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn entry(line: &str) -> Option<(Proof, Duration)> {
    let mut parts = line.split(' ');
    let (file, test) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    Some(((file, test), Duration::from_millis(parts.next()?.parse().ok()?)))
}

/// The tests in a binary.
fn list(binary: &Path) -> Result<Vec<String>> {
    let listed = Command::new(binary).args(["--list", "--include-ignored"]).output()?;
    ensure!(listed.status.success(), "{} does not list its tests", binary.display());
    let text = String::from_utf8(listed.stdout)?;
    let tests = text.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(tests.map(str::to_owned).collect())
}

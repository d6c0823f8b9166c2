//! The proofs: the tests of `loom-tests`, built in a copy of the tree with one mutant.
//!
//! Each test is run by itself, the quickest first, for most mutants are caught by a quick one. How long each
//! takes, and that it passes, is found out on the tree as it is.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::results::Outcome;
use crate::sites::Mutant;

/// The test files that run shipped code, by when they are built: most mutants need the first alone.
const STAGES: [&[&str]; 3] =
    [&["litmus", "news", "flag"], &["ring", "audit", "gate"], &["stopped", "waitqueue"]];
/// What a build may take.
const BUILD: Duration = Duration::from_secs(900);
/// What a model may take on the tree as it is.
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
            let starts = ["core", "loom-tests", "mutants/src/proofs.rs", "Cargo.lock"];
            starts.iter().any(|start| file.starts_with(start))
        };
        files.iter().filter(|(file, _)| of_proofs(file)).for_each(|it| it.hash(&mut hasher));
        Ok(Self { folder, files, hash: hasher.finish() })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Of the sources that the proofs are built from.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// A copy of the tree for one worker.
    pub(crate) fn tree(&self, worker: usize) -> Result<Tree> {
        let at = self.folder.join(format!("tree-{worker}"));
        for (file, text) in &self.files {
            let to = at.join(file);
            // Cargo goes by the time of a file: what is the same stays.
            if fs::read(&to).ok().is_none_or(|old| old != *text) {
                let parent = to.parent().context("a file lies in a folder")?;
                fs::create_dir_all(parent)?;
                fs::write(to, text)?;
            }
        }
        Ok(Tree { at, target: self.folder.join(format!("target-{worker}")) })
    }
}

/// A copy of the tree, and where it is built.
#[derive(Debug)]
pub(crate) struct Tree {
    at: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// Builds test files of the models, and tells the binary of each.
    fn build(&self, tests: &[&str]) -> Result<Vec<PathBuf>> {
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "-p", "parkline-loom-tests", "--profile", "loom", "--no-run"]);
        cargo.args(["--config", "build.rustflags=['--cfg','loom']"]);
        cargo.args(["--config", "profile.loom.debug=0", "--color=never"]).arg("--target-dir");
        cargo.arg(&self.target).args(tests.iter().flat_map(|test| ["--test", test]));
        cargo.current_dir(&self.at).env_remove("RUSTFLAGS");
        let log = self.target.with_extension("log");
        let (ended, output) = run(&mut cargo, &log, BUILD)?;
        match ended {
            Some(status) if status.success() => {}
            Some(_) => bail!("the tree does not compile:\n{output}"),
            None => bail!("the build takes too long"),
        }
        let binary = |test: &&str| {
            let line = output.lines().find(|line| line.contains(&format!("tests/{test}.rs (")));
            let name = line.and_then(|line| line.split_once('(')?.1.strip_suffix(')'));
            name.map(|it| self.at.join(it)).with_context(|| format!("no binary of {test}"))
        };
        tests.iter().map(binary).collect()
    }

    /// Whether a test passes; `None` if it takes longer than that.
    fn run(&self, binary: &Path, test: &str, limit: Duration) -> Result<Option<bool>> {
        let mut command = Command::new(binary);
        command.args(["--include-ignored", "--exact", test, "--test-threads=1"]);
        command.current_dir(&self.at).env("RUST_BACKTRACE", "0");
        let log = self.target.with_extension("log");
        let (ended, output) = run(&mut command, &log, limit)?;
        let Some(status) = ended else { return Ok(None) };
        // A name that names no test passes, too.
        ensure!(!status.success() || output.contains("1 passed"), "{test} was not run:\n{output}");
        Ok(Some(status.success()))
    }
}

/// Runs `command` for at most `limit`: how it ended, if it did, and what it said.
fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<(Option<ExitStatus>, String)> {
    let file = fs::File::create(log)?;
    let same = file.try_clone()?;
    let mut child = command.stdin(Stdio::null()).stdout(file).stderr(same).spawn()?;
    let begin = Instant::now();
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if begin.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    Ok((ended, String::from_utf8_lossy(&fs::read(log)?).into_owned()))
}

/// The proofs, by stage and by the time that each takes.
#[derive(Debug)]
pub(crate) struct Proofs {
    stages: Vec<Vec<Proof>>,
}

#[derive(Clone, Debug)]
struct Proof {
    /// Its file's place in the stage.
    file: usize,
    test: String,
    took: Duration,
}

impl Proofs {
    /// Runs all on the tree as it is, or reads how long they took.
    ///
    /// # Errors
    /// When one fails.
    pub(crate) fn of(workshop: &Workshop, jobs: usize) -> Result<Self> {
        let path = workshop.folder.join(format!("proofs-{:016x}.txt", workshop.hash));
        let kept = fs::read_to_string(&path).unwrap_or_default();
        let kept: BTreeMap<(usize, usize, String), Duration> =
            kept.lines().filter_map(entry).collect();
        let tree = workshop.tree(0)?;
        let mut wanted = Vec::new();
        let mut binaries = Vec::new();
        if kept.is_empty() {
            println!("the models, as they are:");
            for (stage, files) in STAGES.iter().enumerate() {
                let built = tree.build(files)?;
                for (file, binary) in built.iter().enumerate() {
                    let tests = list(binary)?.into_iter().map(|test| (stage, file, test));
                    wanted.extend(tests);
                }
                binaries.push(built);
            }
        }
        let next = Mutex::new(wanted.into_iter());
        let found = Mutex::new(kept);
        let work = |worker: usize| -> Result<()> {
            // The binaries are of the first; only the log is the worker's own.
            let target = workshop.folder.join(format!("target-{worker}"));
            let tree = Tree { at: tree.at.clone(), target };
            loop {
                let taken = next.lock().unwrap_or_else(|it| it.into_inner()).next();
                let Some((stage, file, test)) = taken else { return Ok(()) };
                let begin = Instant::now();
                let passed = tree.run(&binaries[stage][file], &test, MODEL)?;
                let name = STAGES[stage][file];
                ensure!(passed == Some(true), "{name} {test} does not pass without a mutant");
                let took = begin.elapsed();
                println!("{name} {test}: {:.1} s", took.as_secs_f64());
                found.lock().unwrap_or_else(|it| it.into_inner()).insert((stage, file, test), took);
            }
        };
        thread::scope(|scope| {
            let workers: Vec<_> =
                (0..jobs).map(|worker| scope.spawn(move || work(worker))).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(done) => done,
                Err(_) => bail!("a worker panicked"),
            })
        })?;
        let found = found.into_inner().unwrap_or_else(|it| it.into_inner());
        let line = |((stage, file, test), took): (&(usize, usize, String), &Duration)| {
            format!("{stage} {file} {test} {}\n", took.as_millis())
        };
        fs::write(path, found.iter().map(line).collect::<String>())?;
        let mut stages = vec![Vec::new(); STAGES.len()];
        for ((stage, file, test), took) in found {
            stages[stage].push(Proof { file, test, took });
        }
        stages.iter_mut().for_each(|stage| stage.sort_by_key(|proof| proof.took));
        Ok(Self { stages })
    }

    /// Runs the proofs on `mutant` until one fails.
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

    fn run_all(&self, tree: &Tree) -> Result<Outcome> {
        let mut late = 0;
        for (files, proofs) in STAGES.iter().zip(&self.stages) {
            let binaries = tree.build(files)?;
            for Proof { file, test, took } in proofs {
                // A weaker ordering has more executions.
                let limit = *took * 10 + Duration::from_secs(60);
                match tree.run(&binaries[*file], test, limit)? {
                    Some(true) => {}
                    Some(false) => {
                        let name = test.rsplit("::").next().unwrap_or(test);
                        return Ok(Outcome::Caught { by: format!("{} {name}", files[*file]) });
                    }
                    None => late += 1,
                }
            }
        }
        Ok(Outcome::Survived { late })
    }
}

fn entry(line: &str) -> Option<((usize, usize, String), Duration)> {
    let mut parts = line.split(' ');
    let (stage, file) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (test, took) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
    Some(((stage, file, test), Duration::from_millis(took)))
}

/// The tests in a binary.
fn list(binary: &Path) -> Result<Vec<String>> {
    let listed = Command::new(binary).args(["--list", "--include-ignored"]).output()?;
    ensure!(listed.status.success(), "{} does not list its tests", binary.display());
    let text = String::from_utf8(listed.stdout)?;
    let tests = text.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(tests.map(str::to_owned).collect())
}

//! How many instructions a call executes, counted by callgrind: exact for a toolchain, a C library and a
//! processor's choice of them, which are printed.
//!
//! The calls lie in two crates outside of the workspace, built as a user's crate is, with the default release
//! profile: `alone` has one kind of call, `all` has several, so that the compiler shares code among them.
//! Each program runs twice, and the difference is that of the rounds: the start of the program does not count.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::compare::report::table;

/// The command `instructions`.
#[derive(Debug, Args)]
pub struct Instructions {}

/// A program and what it repeats.
struct Counted {
    of: &'static str,
    /// Its argument, in the crate that has several.
    kind: Option<&'static str>,
    what: &'static str,
    /// What is aimed at.
    goal: u32,
    /// What was reached with the toolchain and the C library that `benches/README.md` names.
    reached: u32,
}

const COUNTED: [Counted; 5] = [
    Counted { of: "alone", kind: None, what: "64 bytes, a type", goal: 190, reached: 235 },
    Counted { of: "all", kind: Some("typed"), what: "64 bytes, a type", goal: 220, reached: 235 },
    Counted { of: "all", kind: Some("bytes"), what: "64 bytes, [u8]", goal: 320, reached: 485 },
    Counted {
        of: "all",
        kind: Some("lease"),
        what: "64 bytes, lease and ack",
        goal: 280,
        reached: 273,
    },
    Counted { of: "all", kind: Some("vain"), what: "a receive of nothing", goal: 40, reached: 31 },
];

/// The rounds of the two runs.
const ROUNDS: [u32; 2] = [1_000, 11_000];

impl Instructions {
    /// Counts, and prints a table.
    ///
    /// # Errors
    /// If a count is more than 2 % above what was aimed at, or reached if that is more; or if a program cannot
    /// be built or valgrind cannot be run.
    pub fn run(&self) -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        println!("{}", first_line("rustc", &["--version"])?);
        println!("{}", first_line("ldd", &["--version"])?);
        println!("{}\n", first_line("valgrind", &["--version"])?);
        let target = root.join("../target/instructions");
        for of in ["alone", "all"] {
            let manifest = root.join("instructions").join(of).join("Cargo.toml");
            let built = Command::new(env!("CARGO"))
                .args(["build", "--quiet", "--release", "--locked", "--manifest-path"])
                .arg(&manifest)
                .arg("--target-dir")
                .arg(&target)
                // A user's crate has no flags of this workspace.
                .env_remove("RUSTFLAGS")
                .status()?;
            ensure!(built.success(), "{} does not build", manifest.display());
        }
        let header = ["crate", "a send and a receive of", "goal", "reached", "now"];
        let mut table = table(header, 2..5);
        let mut grown = Vec::new();
        for counted in &COUNTED {
            let now = counted.count(&target.join("release").join(counted.of))?;
            let most = f64::from(counted.goal.max(counted.reached)) * 1.02;
            if now > most {
                grown.push(format!("{} in `{}`: {now:.1}", counted.what, counted.of));
            }
            let (goal, reached) = (counted.goal.to_string(), counted.reached.to_string());
            table.add_row([counted.of, counted.what, &goal, &reached, &format!("{now:.1}")]);
        }
        println!("{}", table.trim_fmt());
        if !grown.is_empty() {
            bail!("more instructions than before: {}", grown.join("; "));
        }
        Ok(())
    }
}

impl Counted {
    /// Instructions a round.
    fn count(&self, program: &Path) -> Result<f64> {
        let [few, many] = ROUNDS;
        let more = self.all(program, many)?.saturating_sub(self.all(program, few)?);
        Ok(more as f64 / f64::from(many - few))
    }

    /// Instructions of a whole run.
    fn all(&self, program: &Path, rounds: u32) -> Result<u64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program)
            .args(self.kind)
            .arg(rounds.to_string())
            .output()
            .context("valgrind is needed")?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} failed:\n{text}", program.display());
        let count =
            text.lines().find_map(|line| line.split_once("Collected :")).context("no count")?.1;
        count.trim().parse().with_context(|| format!("an odd count: {count}"))
    }
}

fn first_line(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("{program} is needed"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

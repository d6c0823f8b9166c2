//! Kill points: where a victim, or the process that recovers it, dies or stops. There is one before
//! each access to a shared word, and one before and one after each system call.
//!
//! A kill point has a name, which an instruction of the single steps has not, so a violation can say
//! where it happened. A process reaches a kill point at full speed, so all pairs of a victim's and
//! its recoverer's death can be tried.

use std::io::{Write, stdout};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, raise};
use parkline_core::driver::{KillPoint, arm, disarm};

use crate::marks::Marks;
use crate::player;

/// What a process does at its kill points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It writes the names of all of them to its standard output.
    Name,
    /// It kills itself at this point.
    Die(u64),
    /// It stops before its operation until it is continued, and kills itself at this point.
    DieLater(u64),
    /// It stops before its operation, and once more at this point, each time until it is continued.
    Stop(u64),
}

impl Fate {
    pub(crate) fn words(self) -> [String; 2] {
        match self {
            Self::Name => ["name".to_owned(), "0".to_owned()],
            Self::Die(at) => ["die".to_owned(), at.to_string()],
            Self::DieLater(at) => ["die-later".to_owned(), at.to_string()],
            Self::Stop(at) => ["stop".to_owned(), at.to_string()],
        }
    }

    fn of_words(fate: &str, at: &str) -> Result<Self> {
        Ok(match fate {
            "name" => Self::Name,
            "die" => Self::Die(at.parse()?),
            "die-later" => Self::DieLater(at.parse()?),
            "stop" => Self::Stop(at.parse()?),
            other => bail!("`{other}` is no fate"),
        })
    }
}

static FATE: Mutex<Fate> = Mutex::new(Fate::Name);
static REACHED: AtomicU64 = AtomicU64::new(0);

/// Sets the fate of this process.
pub(crate) fn take(fate: &str, at: &str) -> Result<()> {
    player::die_with_parent()?;
    *FATE.lock().map_err(|_| anyhow!("poisoned"))? = Fate::of_words(fate, at)?;
    Ok(())
}

/// The marks of a process with a fate: its kill points count from the first mark to the second.
pub(crate) struct KillPoints;

impl Marks for KillPoints {
    #[inline(never)]
    fn begin(&self) {
        if let Ok(Fate::Stop(_) | Fate::DieLater(_)) = fate() {
            let _ = raise(Signal::SIGSTOP);
        }
        arm(reached);
    }

    #[inline(never)]
    fn end(&self) {
        disarm();
        // One more point, after the operation.
        reached(KillPoint { at: std::panic::Location::caller(), what: "end", word: None });
    }
}

fn fate() -> Result<Fate> {
    Ok(*FATE.lock().map_err(|_| anyhow!("poisoned"))?)
}

fn reached(point: KillPoint) {
    let index = REACHED.fetch_add(1, Relaxed);
    match fate() {
        Ok(Fate::Name) => {
            let file = point.at.file().rsplit('/').next().unwrap_or_default();
            let _ = writeln!(stdout(), "{file}:{} {}", point.at.line(), point.what);
        }
        Ok(Fate::Die(at) | Fate::DieLater(at)) if at == index => {
            let _ = raise(Signal::SIGKILL);
        }
        Ok(Fate::Stop(at)) if at == index => {
            let _ = raise(Signal::SIGSTOP);
        }
        _ => {}
    }
}

/// The memory file that a process with [`Fate::Name`] has for its standard output.
pub(crate) fn paper() -> Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("names", rustix::fs::MemfdFlags::CLOEXEC)?)
}

/// The names that were written into `paper`, in the order in which the points were reached.
pub(crate) fn names(paper: OwnedFd) -> Result<Vec<String>> {
    let paper = std::fs::File::from(paper);
    let len = paper.metadata()?.len() as usize;
    let mut text = vec![0; len];
    std::os::unix::fs::FileExt::read_exact_at(&paper, &mut text, 0)?;
    let text = String::from_utf8(text).context("names are text")?;
    Ok(text.lines().map(str::to_owned).collect())
}

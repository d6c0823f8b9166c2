//! Kill points: die, or stop, before any access to a shared word and around any system call, of a
//! victim and of whoever recovers it.
//!
//! Unlike single steps they have names, so what happens there can be said; and a process reaches
//! one at full speed, so that all pairs of a victim's death and its recoverer's death can be tried.

use std::io::{Write, stdout};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, raise};
use parkline_core::Queue;
use parkline_core::driver::{KillPoint, arm, disarm};

use crate::marks::Marks;
use crate::operation::Operation;
use crate::player;
use crate::recoverer::Recoverer;

/// What a process does at one of its points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It writes the names of all to its standard output.
    Name,
    /// It kills itself.
    Die(u64),
    /// It stops before its operation until it is told to go on, and then kills itself.
    DieLater(u64),
    /// It stops before its operation until it is told to go on, and then once more.
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

/// What the marks of `marks.rs` do in this mode.
pub(crate) fn begin() {
    if let Ok(Fate::Stop(_) | Fate::DieLater(_)) = fate() {
        let _ = raise(Signal::SIGSTOP);
    }
    arm(reached);
}

pub(crate) fn end() {
    disarm();
    // The place after the last.
    reached(KillPoint { at: std::panic::Location::caller(), what: "end", word: None });
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

/// The victim: its operation, the length of messages, its fate.
pub(crate) fn play_victim(queue: &Queue, words: &[String]) -> Result<()> {
    let [operation, len, fate, at] = words else { bail!("a victim has four words: {words:?}") };
    take_fate(fate, at)?;
    Operation::of_name(operation)?.play(queue, len.parse()?, &Marks::KillPoints)
}

/// Who recovers it: how, and its fate.
pub(crate) fn play_recoverer(queue: &Queue, words: &[String]) -> Result<()> {
    let [how, fate, at] = words else { bail!("a recoverer has three words: {words:?}") };
    take_fate(fate, at)?;
    Recoverer::of_name(how)?.play(queue, &Marks::KillPoints)
}

fn take_fate(fate: &str, at: &str) -> Result<()> {
    player::die_with_parent()?;
    *FATE.lock().map_err(|_| anyhow!("poisoned"))? = Fate::of_words(fate, at)?;
    Ok(())
}

/// The names of all points that a part came to, in order, by what it wrote into `names`.
pub(crate) fn names(names: OwnedFd) -> Result<Vec<String>> {
    let names = std::fs::File::from(names);
    let len = names.metadata()?.len() as usize;
    let mut text = vec![0; len];
    std::os::unix::fs::FileExt::read_exact_at(&names, &mut text, 0)?;
    let text = String::from_utf8(text).context("names are text")?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Where names are written.
pub(crate) fn paper() -> Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("names", rustix::fs::MemfdFlags::CLOEXEC)?)
}

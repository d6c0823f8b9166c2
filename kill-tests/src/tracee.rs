//! A victim that is traced. It can be run to any instruction of its operation in reasonable time.
//!
//! Instructions are numbered from the first mark. The tracer could reach instruction `i` by `i` single
//! steps. But an attach has tens of thousands of instructions, which makes 10^9 steps in all. So the
//! tracer records the instructions of a first run. Later victims run at full speed to a breakpoint
//! shortly before `i`, at an instruction that was rarely met before, and are stepped from there.
//!
//! Every victim has the same addresses, stack and arguments, and a clock that advances by reads
//! (`clock.rs`). So all victims take the same way, except at random. The most frequent of some records
//! is the way. A victim whose address at `i` is not the recorded one does not count, and another is
//! run. So some victim died at each `i` from 0 to the last.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::asleep::Sleeper;
use crate::player::Player;

/// How far before an instruction its breakpoint may be.
const REACH: usize = 2000;
/// What one hit of a breakpoint costs, in steps: the breakpoint is removed, stepped over, and set
/// again.
const HIT: usize = 3;

const INT3: u8 = 0xcc;

/// The addresses of all instructions of one operation, in order, and the instruction in which it slept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path {
    pub(crate) addresses: Vec<u64>,
    /// How often each instruction was met before.
    hits: Vec<usize>,
    pub(crate) asleep_at: Option<usize>,
}

/// A breakpoint on the way to an instruction.
#[derive(Clone, Copy, Debug)]
struct Ford {
    /// Its place on the path.
    at: usize,
    address: u64,
    /// How often the way passes it before.
    hits: usize,
}

/// How a victim is to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// After this many instructions.
    After(usize),
    /// Asleep in the kernel.
    Asleep,
}

impl Path {
    /// How many instructions there are to die at.
    pub(crate) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// All places to die, in order.
    pub(crate) fn spots(&self) -> Vec<Spot> {
        let mut spots: Vec<_> = (0..self.len()).map(Spot::After).collect();
        if let Some(at) = self.asleep_at {
            spots.insert(at + 1, Spot::Asleep);
        }
        spots
    }

    fn count_hits(&mut self) {
        let mut met = HashMap::new();
        for at in 0..self.len() {
            let times = met.entry(self.addresses[at]).or_insert(0);
            self.hits.push(*times);
            *times += usize::from(self.is_met(at));
        }
    }

    /// Whether a breakpoint there stops a process that runs. The process stands at the first already. A
    /// repeated string instruction is stepped through many times, and stops the process once.
    fn is_met(&self, at: usize) -> bool {
        let address = self.addresses[at];
        at > 0 && self.addresses[at - 1] != address
    }

    fn ford(&self, to: usize) -> Option<Ford> {
        let candidates = (to.saturating_sub(REACH)..=to).filter(|at| self.is_met(*at));
        let best = candidates.min_by_key(|at| (to - at) + self.hits[*at] * HIT)?;
        let ford = Ford { at: best, address: self.addresses[best], hits: self.hits[best] };
        ((to - ford.at) + ford.hits * HIT < to).then_some(ford)
    }
}

/// A stopped, traced process.
#[derive(Debug)]
pub(crate) struct Tracee {
    player: Player,
    sleeper: Sleeper,
}

/// What the tracer does once, when the victim is asleep.
pub(crate) type OnSleep<'a> = &'a mut dyn FnMut() -> Result<()>;

impl Tracee {
    /// Waits until a player reaches its first mark. The player asked to be traced by this thread.
    pub(crate) fn at_mark(mut player: Player) -> Result<Self> {
        match player.news(true)? {
            Some(WaitStatus::Stopped(_, Signal::SIGTRAP)) => {}
            other => bail!("a victim came not to its mark: {other:?}"),
        }
        ptrace::setoptions(player.pid(), Options::PTRACE_O_EXITKILL)?;
        let sleeper = Sleeper::process(player.pid());
        Ok(Self { player, sleeper })
    }

    /// Steps to the second mark and records the way.
    pub(crate) fn record(mut self, mut on_sleep: Option<OnSleep<'_>>) -> Result<Path> {
        let mut path = Path::default();
        loop {
            let address = self.address()?;
            path.addresses.push(address);
            if self.word(address)? as u8 == INT3 {
                self.player.kill()?;
                path.count_hits();
                return Ok(path);
            }
            ptrace::step(self.player.pid(), None)?;
            if self.wait_for_stop(&mut on_sleep)? {
                path.asleep_at = Some(path.len() - 1);
            }
        }
    }

    /// Runs to `spot` and dies there. Returns `false` if it took another way than the recorded one.
    pub(crate) fn die_at(
        mut self,
        spot: Spot,
        path: &Path,
        mut on_sleep: Option<OnSleep<'_>>,
    ) -> Result<bool> {
        let to = match spot {
            Spot::After(to) => to,
            Spot::Asleep => path.asleep_at.context("the operation never sleeps")?,
        };
        let begin = match path.ford(to) {
            Some(ford) => self.run_to(ford, &mut on_sleep)?,
            None => Some(0),
        };
        let Some(begin) = begin else { return Ok(false) };
        for expected in &path.addresses[begin..to] {
            if self.address()? != *expected {
                return Ok(false);
            }
            ptrace::step(self.player.pid(), None)?;
            self.wait_for_stop(&mut on_sleep)?;
        }
        let same = self.address()? == path.addresses[to];
        if spot == Spot::Asleep {
            ptrace::step(self.player.pid(), None)?;
            self.sleeper.until_asleep()?;
        }
        self.player.kill()?;
        Ok(same)
    }

    /// Runs at full speed until the breakpoint was met as often as `ford` says.
    fn run_to(&mut self, ford: Ford, on_sleep: &mut Option<OnSleep<'_>>) -> Result<Option<usize>> {
        let pid = self.player.pid();
        let original = self.word(ford.address)?;
        let breakpoint = original & !0xff | i64::from(INT3);
        for hit in 0..=ford.hits {
            ptrace::write(pid, ford.address as ptrace::AddressType, breakpoint)?;
            ptrace::cont(pid, None)?;
            self.wait_for_stop(on_sleep)?;
            let mut registers = ptrace::getregs(pid)?;
            if registers.rip != ford.address + 1 {
                return Ok(None);
            }
            registers.rip = ford.address;
            ptrace::setregs(pid, registers)?;
            ptrace::write(pid, ford.address as ptrace::AddressType, original)?;
            if hit < ford.hits {
                ptrace::step(pid, None)?;
                self.wait_for_stop(on_sleep)?;
            }
        }
        Ok(Some(ford.at))
    }

    /// Waits until the victim stops. Returns whether it slept meanwhile.
    fn wait_for_stop(&mut self, on_sleep: &mut Option<OnSleep<'_>>) -> Result<bool> {
        let mut slept = false;
        let news = loop {
            if let Some(news) = self.player.news(on_sleep.is_none())? {
                break news;
            }
            match on_sleep.take_if(|_| self.sleeper.is_asleep()) {
                Some(act) => {
                    act()?;
                    slept = true;
                }
                None => std::thread::yield_now(),
            }
        };
        match news {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(slept),
            other => bail!("a victim should have stopped, and {other:?}"),
        }
    }

    fn address(&self) -> Result<u64> {
        Ok(ptrace::getregs(self.player.pid())?.rip)
    }

    fn word(&self, address: u64) -> Result<libc::c_long> {
        Ok(ptrace::read(self.player.pid(), address as ptrace::AddressType)?)
    }
}

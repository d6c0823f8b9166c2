//! `scribble`: a process maps the queue and writes anything into every word of it, while four survivors
//! use the queue. No process is killed.
//!
//! The values are random, or look like words of the protocol (`peer/words.rs`). They are written one by
//! one, in storms on one word, and all over the segment. From time to time the scribbler lays the queue
//! out as new, because otherwise the survivors' calls would fail early. What the survivors do is in
//! `survivor.rs`.
//!
//! Each of these is a violation: a survivor panics, dies of a signal or ends with an error; a call takes
//! a second longer than it was allowed to wait; a new queue does not work in a survivor afterwards.
//!
//! Seen to fail: a block's number that is not checked (survivors panic at once), a message's length that
//! is loaded a second time and believed (their heaps break), searches without end (calls never return).

use std::fs::File;
use std::hint::spin_loop;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arbitrary::{Arbitrary, Unstructured};
use clap::Args;
use nix::sys::wait::WaitStatus;
use parkline_core::Queue;

use super::peer::words::{Place, Segment, Word};
use super::survivor::{Call, Survivor};
use crate::clock::now;
use crate::player::{self, Player};
use crate::report::{Table, Violations, bar};
use crate::shared;

/// Arguments of the scribbler.
#[derive(Debug, Args)]
pub(crate) struct Scribble {
    /// How long it scribbles
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Of the random choices of all; chosen at random, and printed, by default
    #[arg(long)]
    seed: Option<u64>,
}

const SURVIVORS: usize = 4;
/// How long a call may take beyond the time that it may wait.
const BUDGET: Duration = Duration::from_secs(1);
/// A call that takes longer does not return.
const NEVER: Duration = Duration::from_secs(10);

/// The length of the file that [`queue`] makes.
const LEN: usize = 6 << 12;
type Words = [AtomicU64; LEN / 8];

pub(crate) fn queue() -> Result<Queue> {
    let queue = Queue::builder().capacity(8).max_message(100).leases(2).max_attempts(2);
    // Each survivor has up to three handles: a sender, a receiver, and a sender for dead letters. Some
    // more records, because an overwritten record is not always freed.
    let queue = queue.handles(3 * SURVIVORS + 4).watchdog(Duration::from_millis(5));
    Ok(queue.create()?)
}

struct Watched {
    player: Player,
    ledger: &'static Survivor,
    /// It has ended, or its violation is counted.
    gone: bool,
}

pub(crate) fn run(args: &Scribble) -> Result<bool> {
    let begin = Instant::now();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("seed {seed}");
    let queue = queue()?;
    let mut violations = Violations::default();
    let mut survivors = Vec::new();
    for n in 0..SURVIVORS {
        let ledger = shared::create::<Survivor>()?;
        let words = ["survive", &seed.wrapping_add(n as u64).to_string()];
        let player = Player::start(&words, queue.try_clone_fd()?, Some(ledger.try_clone()?))?;
        survivors.push(Watched { player, ledger: shared::map(&ledger)?, gone: false });
    }
    // A survivor cannot begin with a queue that cannot be opened. So all begin before the scribbler.
    let opened = |it: &Watched| it.ledger.calls[Call::Open as usize].load(Relaxed) > 0;
    while !survivors.iter().all(opened) {
        check(&mut survivors, &mut violations)?;
        ensure!(violations.count() == 0 && begin.elapsed() < NEVER, "a survivor never begins");
        thread::sleep(Duration::from_millis(1));
    }
    let written = shared::create::<AtomicU64>()?;
    let words = ["scribble", &seed.to_string()];
    let written_fd: OwnedFd = written.try_clone()?;
    let mut scribbler = Player::start(&words, queue.try_clone_fd()?, Some(written_fd))?;
    let progress = bar(usize::try_from(args.seconds)?, "seconds");
    while begin.elapsed() < Duration::from_secs(args.seconds) {
        ensure!(scribbler.is_alive()?, "the scribbler has ended");
        check(&mut survivors, &mut violations)?;
        progress.set_position(begin.elapsed().as_secs());
        thread::sleep(Duration::from_millis(5));
    }
    progress.finish_and_clear();
    scribbler.kill()?;
    survivors.iter().for_each(|it| it.ledger.end.store(1, Relaxed));
    let ending = Instant::now();
    while survivors.iter().any(|it| !it.gone) {
        check(&mut survivors, &mut violations)?;
        if ending.elapsed() > 2 * NEVER {
            violations.add("a survivor never ends");
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    for (n, it) in survivors.iter().enumerate() {
        if it.ledger.served.load(Relaxed) == 0 {
            violations.add(format_args!("survivor {n}: a new queue does not work"));
        }
    }
    let written = shared::map::<AtomicU64>(&written)?.load(Relaxed);
    Ok(conclude(&survivors, written, &mut violations, begin))
}

/// Counts the violations of survivors that ended or whose call does not return.
fn check(survivors: &mut [Watched], violations: &mut Violations) -> Result<()> {
    for (n, it) in survivors.iter_mut().enumerate().filter(|(_, it)| !it.gone) {
        match it.player.news(false)? {
            None => {}
            Some(WaitStatus::Exited(_, 0)) => it.gone = true,
            Some(other) => {
                violations.add(format_args!("survivor {n}, in {:?}: {other:?}", it.ledger.call()));
                it.gone = true;
            }
        }
        let begun = it.ledger.begun.load(Relaxed);
        let under_way = Duration::from_nanos(now().saturating_sub(begun));
        if !it.gone && begun != 0 && under_way > NEVER {
            violations.add(format_args!("survivor {n} never returns from {:?}", it.ledger.call()));
            it.player.kill()?;
            it.gone = true;
        }
    }
    Ok(())
}

fn conclude(
    survivors: &[Watched],
    written: u64,
    violations: &mut Violations,
    begin: Instant,
) -> bool {
    let mut table = Table::new(&["call", "calls", "said corrupt", "longest"]);
    let (mut calls, mut corrupt) = (0, 0);
    for call in Call::ALL {
        let sum = |of: fn(&Survivor) -> &[AtomicU64; Call::COUNT]| -> u64 {
            survivors.iter().map(|it| of(it.ledger)[call as usize].load(Relaxed)).sum()
        };
        let (called, said) = (sum(|it| &it.calls), sum(|it| &it.corrupt));
        (calls, corrupt) = (calls + called, corrupt + said);
        let longest = survivors.iter().map(|it| it.ledger.longest[call as usize].load(Relaxed));
        let longest = Duration::from_nanos(longest.max().unwrap_or(0));
        if longest > BUDGET {
            violations.add(format_args!("{call:?} took {longest:?} longer than it may wait"));
        }
        let longest = format!("{:.1} ms", longest.as_secs_f64() * 1e3);
        table.row(&[&format!("{call:?}"), &called, &said, &longest]);
        if called == 0 {
            violations.add(format_args!("{call:?} was never tried"));
        }
    }
    table.row(&[&"all", &calls, &corrupt, &""]);
    table.print();
    violations.conclude(format_args!("words written: {written}"), begin.elapsed())
}

/// The part of the scribbler.
pub(crate) fn play(queue: &Queue, words: &[String]) -> Result<()> {
    player::die_with_parent()?;
    let [seed] = words else { anyhow::bail!("the scribbler has one word: {words:?}") };
    let written: &AtomicU64 = shared::map(std::io::stdout())?;
    let segment = Segment::of(queue)?;
    ensure!(segment.len() == LEN as u64, "the file has {} bytes", segment.len());
    let mut new = [0; LEN];
    let pristine = self::queue()?;
    File::from(pristine.try_clone_fd()?).read_exact_at(&mut new, 0)?;
    Scribbler {
        words: shared::map(queue.try_clone_fd()?)?,
        new: new.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect(),
        segment,
        random: fastrand::Rng::with_seed(seed.parse().context("a seed")?),
        written,
    }
    .scribble()
}

struct Scribbler {
    words: &'static Words,
    /// The words of a new queue.
    new: Vec<u64>,
    segment: Segment,
    random: fastrand::Rng,
    written: &'static AtomicU64,
}

impl Scribbler {
    fn scribble(mut self) -> Result<()> {
        loop {
            match self.random.u8(..32) {
                // For a while all words are well.
                0..=15 => {
                    self.restore();
                    self.pause(1 << 18);
                }
                // One word after the other, with pauses, so that each breaks a queue that works.
                16..=28 => {
                    for _ in 0..self.random.u8(1..8) {
                        let (place, word) = self.draw()?;
                        self.write(self.segment.offset(place), &word);
                        self.pause(1 << 14);
                    }
                }
                // A storm on one word, which changes between any two loads.
                29 => {
                    let (place, mut word) = self.draw()?;
                    let at = self.segment.offset(place);
                    for n in 0..self.random.u32(1..1 << 14) {
                        if n % 8 == 0 {
                            word = self.draw()?.1;
                        }
                        self.write(at, &word);
                    }
                }
                // A storm on all slots.
                30 => {
                    for _ in 0..self.random.u32(1..1 << 14) {
                        let (_, word) = self.draw()?;
                        let slot = self.random.u16(..);
                        self.write(self.segment.offset(Place::Slot(slot)), &word);
                    }
                }
                // A storm everywhere.
                _ => {
                    for _ in 0..self.random.u16(1..1 << 12) {
                        let (place, word) = self.draw()?;
                        self.write(self.segment.offset(place), &word);
                    }
                }
            }
        }
    }

    fn draw(&mut self) -> Result<(Place, Word)> {
        let mut bytes = [0; 48];
        self.random.fill(&mut bytes);
        Ok(<(Place, Word)>::arbitrary(&mut Unstructured::new(&bytes))?)
    }

    fn write(&self, at: u64, word: &Word) {
        let words = self.words;
        let read = |at: u64| words[at as usize / 8].load(Relaxed);
        words[at as usize / 8].store(self.segment.bits(at, word, &read), Relaxed);
        self.written.fetch_add(1, Relaxed);
    }

    /// Lays the queue out as new.
    fn restore(&self) {
        for (word, new) in self.words.iter().zip(&self.new) {
            word.store(*new, Relaxed);
        }
    }

    fn pause(&mut self, most: u32) {
        for _ in 0..self.random.u32(..most) {
            spin_loop();
        }
    }
}

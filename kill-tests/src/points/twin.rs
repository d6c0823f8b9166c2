//! The twin of the scribbler: one process with one thread, all from a seed. So each finding can be
//! reproduced, and slow tools can be used.
//!
//! Its steps are those of the fuzz target `segment`, drawn at random instead of by coverage: words are
//! overwritten between operations; and during an operation, at a kill point, the word changes that is
//! about to be loaded. `cargo +nightly twin` runs it with AddressSanitizer.
//!
//! Seen to fail, each within a minute: a block's number that is not checked (in the first attack), a
//! message's length that is loaded a second time and believed (by AddressSanitizer), searches without
//! end. Not seen to fail: a lease that loads its header again and checks it, so that its message has
//! another length then.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use arbitrary::{Arbitrary, Unstructured};
use clap::Args;

use crate::attack::peer::drawn::Attack;
use crate::report::{Table, bar};

/// Arguments of the twin.
#[derive(Debug, Args)]
pub(crate) struct Twin {
    /// How long it attacks
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The first seed; chosen at random, and printed, by default
    #[arg(long)]
    seed: Option<u64>,
    /// How many attacks, each with the next seed, whatever the time
    #[arg(long)]
    attacks: Option<u64>,
}

/// Random bytes of one attack. They make a few hundred steps.
const BYTES: usize = 4096;
/// An attack that takes longer does not end: usually it takes milliseconds.
const NEVER: Duration = Duration::from_secs(30);

/// How many attacks have ended.
static ENDED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(args: &Twin) -> Result<bool> {
    let first = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("seed {first}");
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    thread::spawn(move || watch(first));
    let (begin, time) = (Instant::now(), Duration::from_secs(args.seconds));
    let progress = bar(usize::try_from(args.seconds)?, "seconds");
    let (mut attacks, mut steps, mut faults) = (0, 0, 0);
    while args.attacks.map_or(begin.elapsed() < time, |most| attacks < most) {
        let seed = first.wrapping_add(attacks);
        let (did, met) = attack(seed)
            .inspect_err(|()| eprintln!("again: `twin --seed {seed} --attacks 1`"))
            .map_err(|()| anyhow::anyhow!("attack {seed} came through"))?;
        (attacks, steps, faults) = (attacks + 1, steps + did, faults + met);
        ENDED.store(attacks, Relaxed);
        progress.set_position(begin.elapsed().as_secs());
    }
    progress.finish_and_clear();
    let mut table = Table::new(&["what", "count"]);
    table.row(&[&"attacks", &attacks]);
    table.row(&[&"steps", &steps]);
    table.row(&[&"  met a fault", &faults]);
    table.print();
    println!("violations: 0; {:.1} s", begin.elapsed().as_secs_f64());
    Ok(true)
}

/// Aborts the process if an attack does not end.
fn watch(first: u64) {
    loop {
        let ended = ENDED.load(Relaxed);
        thread::sleep(NEVER);
        if ENDED.load(Relaxed) == ended {
            let seed = first.wrapping_add(ended);
            eprintln!("a call never returns; again: `twin --seed {seed} --attacks 1`");
            std::process::abort();
        }
    }
}

fn attack(seed: u64) -> Result<(u64, u64), ()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = [0; BYTES];
    random.fill(&mut bytes);
    let attack = Attack::arbitrary(&mut Unstructured::new(&bytes)).map_err(drop)?;
    std::panic::catch_unwind(|| attack.run()).map_err(drop)
}

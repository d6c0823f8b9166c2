//! How far two cores are from each other: a cache line handed to and fro.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::machine::{self, Cores};

const BATCHES: usize = 5;
const EACH: u64 = 400;

/// How far the cores are from each other. Those of a virtual machine move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Distance {
    /// A cache line goes there and back in less than 50 ns: threads of one core.
    Threads,
    /// In less than 150 ns.
    Near,
    Far,
}

impl Distance {
    pub(crate) const ALL: [Self; 3] = [Self::Threads, Self::Near, Self::Far];

    /// By what the probe said before and after a sample; `None` if the cores moved meanwhile, or there is
    /// only one.
    pub(crate) fn of([before, after]: [f64; 2]) -> Option<Self> {
        let class = |nanos| match nanos {
            ..=0.0 => None,
            ..50.0 => Some(Self::Threads),
            ..150.0 => Some(Self::Near),
            _ => Some(Self::Far),
        };
        class(before).filter(|distance| class(after) == Some(*distance))
    }
}

#[repr(align(128))]
struct Line(AtomicU64);

/// Nanoseconds there and back: the best of a few. It pins a thread of its own to each core. Zero on
/// a single core.
pub(crate) fn probe(cores: Cores) -> Result<f64> {
    if cores.near == cores.far {
        return Ok(0.0);
    }
    let line = Line(AtomicU64::new(0));
    let all = 2 * EACH * BATCHES as u64;
    let pass = |mine: u64, at: u64| {
        let mut looks = 0u32;
        while line.0.load(Acquire) != at + mine {
            // So many only where the other is not running.
            looks += 1;
            if looks < 10_000 { spin_loop() } else { thread::yield_now() }
        }
        line.0.store(at + mine + 1, Release);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            machine::pin(cores.far).expect("the core was picked from those allowed");
            (0..all / 2).for_each(|turn| pass(1, 2 * turn));
        });
        let near = scope.spawn(|| {
            machine::pin(cores.near)?;
            let mut best = f64::INFINITY;
            for batch in 0..BATCHES as u64 {
                let start = Instant::now();
                (batch * EACH..(batch + 1) * EACH).for_each(|turn| pass(0, 2 * turn));
                best = best.min(start.elapsed().as_nanos() as f64 / EACH as f64);
            }
            anyhow::Ok(best)
        });
        near.join().unwrap_or_else(|_| anyhow::bail!("the probe panicked"))
    })
}

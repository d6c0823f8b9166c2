//! Runs all tests of one kind on all cores.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use anyhow::{Result, anyhow};

use crate::cores;
use crate::report::{Violations, bar};

/// Does `work` with each of `all`. Returns the results in the order of `all`, without those that
/// failed, which are added to `violations`.
pub(crate) fn in_parallel<T: Copy + Sync, R: Send>(
    what: &str,
    all: &[T],
    violations: &mut Violations,
    work: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let progress = bar(all.len(), what);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..cores::count() {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Relaxed);
                    let Some(one) = all.get(index) else { return };
                    let result = work(*one);
                    progress.inc(1);
                    if let Ok(mut results) = results.lock() {
                        results.insert(index, result);
                    }
                }
            });
        }
    });
    progress.finish_and_clear();
    let results = results.into_inner().map_err(|_| anyhow!("a worker panicked"))?;
    let mut good = Vec::new();
    for result in results.into_values() {
        match result {
            Ok(result) => good.push(result),
            Err(error) => violations.add(format_args!("{error:#}")),
        }
    }
    Ok(good)
}

//! The async calls, with real runtimes, real processes and real refusals.

mod cancel;
mod coop;
mod dead_letters;
mod deaths;
mod deprived;
mod endings;
mod forked;
mod leases;
mod many_tasks;
mod owed;
mod peer;
mod permits;
mod pids;
mod random_endings;
mod refusals;
#[path = "../../../core/tests/required/mod.rs"]
mod required;
mod runtimes;
mod signals;
mod spin;
mod stopping;
mod the_end;
mod traps;

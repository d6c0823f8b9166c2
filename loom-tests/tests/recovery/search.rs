//! Breadth-first search through all states. It remembers each state by a hash of 64 bits.
//!
//! So it can miss a state that has the hash of another: among ten million states the odds that any two
//! share a hash are about one to 400,000.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use crate::protocol::{Setup, State, Violation};

/// The states of a search without a violation.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) states: usize,
    /// All states were seen.
    pub(crate) complete: bool,
}

/// A violation, and a shortest way to it.
pub(crate) struct Found {
    pub(crate) violation: Violation,
    pub(crate) states: usize,
    way: Vec<String>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after {} states:", self.violation, self.states)?;
        self.way.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}

/// Multiplies eight bytes at a time to 128 bits, and folds the halves together.
#[derive(Default)]
struct Fold {
    hash: u64,
    bytes: u64,
    count: u32,
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.bytes = self.bytes << 8 | u64::from(byte);
        self.count += 1;
        if self.count.is_multiple_of(8) {
            self.hash = self.finish();
        }
    }

    fn write_isize(&mut self, variant: isize) {
        self.write_u8(variant as u8); // the only isize in a state is a variant
    }

    fn write_usize(&mut self, _: usize) {} // the length of an array

    fn finish(&self) -> u64 {
        let word = self.hash ^ self.bytes ^ 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(word) * 0xd6e8_feb8_6659_fd93;
        product as u64 ^ (product >> 64) as u64
    }
}

/// A hasher of values that are hashes already.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Parents = HashMap<u64, u64, BuildHasherDefault<Same>>;

fn hash(setup: &Setup, state: &State) -> u64 {
    let mut hasher = Fold::default();
    setup.hash(state, &mut hasher);
    hasher.finish()
}

/// Visits at least `limit` states of `setup`, or all of them, nearest first. In each state that it
/// visits, each thread must be able to go on alone, and all threads may die.
pub(crate) fn search(setup: &Setup, limit: usize) -> Result<Seen, Found> {
    let start = setup.start();
    let mut parents = Parents::default();
    parents.insert(hash(setup, &start), 0);
    let mut settled = HashSet::<u64, BuildHasherDefault<Same>>::default();
    let mut queue = VecDeque::from([(start, None)]);
    while let Some((state, last)) = queue.pop_front() {
        let here = hash(setup, &state);
        let found = |parents: &Parents, violation, last| Found {
            violation,
            states: parents.len(),
            way: way(setup, parents, here, last),
        };
        if let Err(violation) = setup.each_goes_on_alone(&state, |thread| Some(thread) != last) {
            return Err(found(&parents, violation, "and one goes on alone".into()));
        }
        let dead = setup.all_dead(state);
        if settled.insert(hash(setup, &dead))
            && let Err(violation) = setup.the_survivor_settles_all(dead)
        {
            return Err(found(&parents, violation, "and all die, and one survivor comes".into()));
        }
        for what in setup.moves(&state) {
            let mut next = state;
            if let Err(violation) = setup.make(&mut next, what) {
                return Err(found(&parents, violation, setup.describe(&state, what)));
            }
            if let Entry::Vacant(unseen) = parents.entry(hash(setup, &next)) {
                unseen.insert(here);
                queue.push_back((next, setup.goes_on(&state, what, &next)));
            }
        }
        if parents.len() >= limit {
            return Ok(Seen { states: parents.len(), complete: queue.is_empty() });
        }
    }
    Ok(Seen { states: parents.len(), complete: true })
}

/// The steps from the start to the state with the hash `end`, and `last`.
fn way(setup: &Setup, parents: &Parents, end: u64, last: String) -> Vec<String> {
    let start = setup.start();
    let first = hash(setup, &start);
    let mut hashes = Vec::from([end]);
    while let Some(child) = hashes.last().copied().filter(|child| *child != first) {
        hashes.push(parents[&child]);
    }
    let (mut state, mut steps) = (start, Vec::new());
    for child in hashes.into_iter().rev().skip(1) {
        let step = setup.moves(&state).find_map(|what| {
            let mut next = state;
            let led_here = setup.make(&mut next, what).is_ok() && hash(setup, &next) == child;
            led_here.then_some((what, next))
        });
        let (what, next) = step.expect("each state was reached from its parent");
        steps.push(setup.describe(&state, what));
        state = next;
    }
    steps.push(last);
    steps
}

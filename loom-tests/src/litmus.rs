//! Litmus programs: a few accesses of two or three threads, and whether the language allows an outcome.
//!
//! They are for two things: loom cannot tell a SeqCst access from an AcqRel one, and it does not show a
//! load that takes effect late. The accesses are recorded from the code that ships (`steps_of`), with the
//! orderings that it names.
//!
//! All executions are enumerated. An execution is a choice of the store that each load reads from, and of
//! the order of the stores to each word. The axioms are those of RC11: Lahav, Vafeiadis, Kang, Hur and
//! Dreyer, "Repairing sequential consistency in C/C++11", PLDI 2017, which C++20 took over. One axiom is
//! left out: that no load reads from a store that depends on it. C11 has no such rule for Relaxed, and
//! neither have processors. Without it more executions are allowed.
//!
//! `membarrier` is a fence of a thread together with each compiler fence of another thread, in one order
//! or the other, as in Goldblatt's "P1202R5: Asymmetric fences". A compiler fence orders nothing else.

use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

use parkline_core::driver::{Act, Step};

/// A step of a litmus program.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    step: Step,
    is_membarrier: bool,
}

impl From<Step> for Event {
    fn from(step: Step) -> Self {
        Self { step, is_membarrier: false }
    }
}

/// The steps of the shipped code as a part of a thread.
pub fn events(steps: &[Step]) -> Vec<Event> {
    steps.iter().copied().map(Event::from).collect()
}

/// A full barrier in this thread, and one in each other thread at that moment.
#[track_caller]
pub fn membarrier() -> Event {
    let step = Step { word: 0, act: Act::Fence, order: SeqCst, at: Location::caller() };
    Event { step, is_membarrier: true }
}

/// A store that the program adds to the recorded ones.
#[track_caller]
pub fn store(word: usize, to: u64) -> Event {
    Step { word, act: Act::Store { to }, order: Relaxed, at: Location::caller() }.into()
}

/// A load that the program adds to the recorded ones.
#[track_caller]
pub fn load(word: usize) -> Event {
    Step { word, act: Act::Load { found: 0 }, order: Relaxed, at: Location::caller() }.into()
}

/// The word of the first exchange in `steps`, and the value that it found there.
pub fn exchanged(steps: &[Step]) -> (usize, u64) {
    let exchange = |step: &Step| match step.act {
        Act::Exchange { from, .. } => Some((step.word, from)),
        _ => None,
    };
    steps.iter().find_map(exchange).expect("an exchange")
}

/// A program, and the values of its words before it.
#[derive(Clone, Default)]
pub struct Program {
    words: Vec<(&'static str, usize, u64)>,
    threads: Vec<(&'static str, Vec<Event>)>,
}

/// The values that the threads of a program loaded in one execution.
pub struct Execution<'a> {
    program: &'a Program,
    /// By thread: the word, the value, and the thread that stored it; `None` for the first value.
    found: Vec<Vec<(usize, u64, Option<usize>)>>,
}

impl Execution<'_> {
    fn of(&self, thread: &str, word: &str) -> Vec<(u64, Option<usize>)> {
        let thread = self.program.thread_named(thread);
        let word = self.program.word_named(word);
        let of_word = self.found[thread].iter().filter(|(at, ..)| *at == word);
        of_word.map(|(_, value, from)| (*value, *from)).collect()
    }

    /// The value that the first load of `word` by `thread` found.
    pub fn first(&self, thread: &str, word: &str) -> u64 {
        self.of(thread, word).first().expect("it loads").0
    }

    /// The value that the last load of `word` by `thread` found.
    pub fn last(&self, thread: &str, word: &str) -> u64 {
        self.of(thread, word).last().expect("it loads").0
    }

    /// Whether `other` stored that last value.
    pub fn last_is_from(&self, thread: &str, word: &str, other: &str) -> bool {
        let from = self.of(thread, word).last().expect("it loads").1;
        from == Some(self.program.thread_named(other))
    }
}

impl Program {
    /// Names a word: its accesses belong to the program. Accesses to words without a name are left out.
    pub fn word(mut self, name: &'static str, address: usize, before: u64) -> Self {
        self.words.push((name, address, before));
        self
    }

    /// One more thread.
    pub fn thread(mut self, name: &'static str, events: Vec<Event>) -> Self {
        self.threads.push((name, events));
        self
    }

    fn thread_named(&self, name: &str) -> usize {
        self.threads.iter().position(|it| it.0 == name).expect("a thread of that name")
    }

    fn word_named(&self, name: &str) -> usize {
        self.words.iter().position(|it| it.0 == name).expect("a word of that name")
    }

    /// Asserts that no execution is `bad`, and that each entry of `needed` names an ordering that is needed
    /// for that: with this ordering as weak as the entry says, some execution is `bad`.
    #[track_caller]
    pub fn forbids(&self, bad: impl Fn(&Execution<'_>) -> bool, needed: &[&str]) {
        let program = self.projected();
        assert!(!program.allows(&bad), "allowed: {program:#?}");
        let weakenings = program.weakenings();
        let allowing = weakenings.into_iter().filter(|(_, weaker)| weaker.allows(&bad));
        let found: BTreeSet<String> = allowing.map(|(what, _)| what).collect();
        let needless: Vec<_> = needed.iter().filter(|it| !found.contains(**it)).collect();
        assert!(needless.is_empty(), "not needed: {needless:?}, but {found:?}: {program:#?}");
    }

    /// Whether some execution is `bad`.
    pub fn allows(&self, bad: &impl Fn(&Execution<'_>) -> bool) -> bool {
        let mut any = false;
        Graph::of(&self.projected()).each_execution(|found| {
            any |= bad(&Execution { program: self, found });
        });
        any
    }

    /// The program without the accesses that it leaves out.
    fn projected(&self) -> Self {
        let is_named = |step: &Step| self.words.iter().any(|it| it.1 == step.word);
        let is_fence = |step: &Step| matches!(step.act, Act::Fence | Act::CompilerFence);
        let mut program = self.clone();
        for (_, events) in &mut program.threads {
            events.retain(|it| is_fence(&it.step) || is_named(&it.step));
        }
        program
    }

    /// The programs with one ordering weaker, wherever the code names it, and with one fence left out.
    fn weakenings(&self) -> Vec<(String, Self)> {
        let mut all = Vec::new();
        let mut places = Vec::new();
        for (thread, events) in &self.threads {
            for Event { step, is_membarrier } in events {
                if *is_membarrier || places.contains(&(step.at, step.order)) {
                    continue;
                }
                places.push((step.at, step.order));
                let word = self.words.iter().find(|it| it.1 == step.word);
                let what = match (step.act, word.map_or("", |it| it.0)) {
                    (Act::Load { .. }, word) => format!("load {word}"),
                    (Act::Store { .. }, word) => format!("store {word}"),
                    (Act::Fence | Act::CompilerFence, _) => "fence".to_owned(),
                    (_, word) => format!("change {word}"),
                };
                for weaker in weaker(*step) {
                    let mut program = self.clone();
                    for (_, events) in &mut program.threads {
                        let is_same =
                            |it: &Event| it.step.at == step.at && it.step.order == step.order;
                        match weaker {
                            Some(order) => {
                                let same = events.iter_mut().filter(|it| is_same(it));
                                same.for_each(|it| it.step.order = order);
                            }
                            None => events.retain(|it| !is_same(it)),
                        }
                    }
                    let weaker = weaker.map_or("none".to_owned(), |order| format!("{order:?}"));
                    all.push((format!("{thread}: {what} to {weaker}"), program));
                }
            }
        }
        all
    }
}

impl core::fmt::Debug for Program {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (name, address, before) in &self.words {
            writeln!(f, "{name} at {address:#x} is {before:#x}")?;
        }
        for (name, events) in &self.threads {
            for Event { step, .. } in events {
                writeln!(
                    f,
                    "{name}: {:?} {:?} {:#x} {}",
                    step.act, step.order, step.word, step.at
                )?;
            }
        }
        Ok(())
    }
}

/// The weaker orderings; `None` for a fence that is left out.
fn weaker(step: Step) -> Vec<Option<Ordering>> {
    let weaker: &[_] = match (step.act, step.order) {
        (Act::Fence | Act::CompilerFence, SeqCst) => &[Some(AcqRel), None],
        (Act::Fence | Act::CompilerFence, _) => &[None],
        (_, Relaxed) => &[],
        (_, Acquire | Release) => &[Some(Relaxed)],
        (Act::Load { .. }, _) => &[Some(Acquire), Some(Relaxed)],
        (Act::Store { .. }, _) => &[Some(Release), Some(Relaxed)],
        (_, SeqCst) => &[Some(AcqRel), Some(Acquire), Some(Release), Some(Relaxed)],
        (_, _) => &[Some(Acquire), Some(Release), Some(Relaxed)],
    };
    weaker.to_vec()
}

/// A relation between at most 32 events: for each, those that come after.
type Relation = Vec<u32>;

fn pairs(count: usize, related: impl Fn(usize, usize) -> bool) -> Relation {
    let row = |a| (0..count).filter(|b| related(a, *b)).fold(0, |row, b| row | 1 << b);
    (0..count).map(row).collect()
}

fn then(first: &Relation, second: &Relation) -> Relation {
    let row = |row: &u32| {
        let after = second.iter().enumerate().filter(|(b, _)| row >> b & 1 != 0);
        after.fold(0, |all, (_, more)| all | more)
    };
    first.iter().map(row).collect()
}

fn either(one: &Relation, other: &Relation) -> Relation {
    one.iter().zip(other).map(|(one, other)| one | other).collect()
}

fn both(one: &Relation, other: &Relation) -> Relation {
    one.iter().zip(other).map(|(one, other)| one & other).collect()
}

fn reflexive(relation: &Relation) -> Relation {
    relation.iter().enumerate().map(|(a, row)| row | 1 << a).collect()
}

fn closed(mut relation: Relation) -> Relation {
    for by in 0..relation.len() {
        let more = relation[by];
        for row in &mut relation {
            if *row >> by & 1 != 0 {
                *row |= more;
            }
        }
    }
    relation
}

fn is_irreflexive(relation: &Relation) -> bool {
    relation.iter().enumerate().all(|(a, row)| row >> a & 1 == 0)
}

/// The events of a program, the first stores to its words before them.
struct Graph {
    events: Vec<Node>,
    threads: usize,
    words: usize,
    /// The relations that are the same in all executions.
    program_order: Relation,
    same_word: Relation,
}

struct Node {
    thread: Option<usize>,
    word: Option<usize>,
    act: Act,
    order: Ordering,
    is_membarrier: bool,
}

impl Node {
    fn reads(&self) -> bool {
        !matches!(self.act, Act::Store { .. } | Act::Fence | Act::CompilerFence)
    }

    fn writes(&self) -> bool {
        !matches!(self.act, Act::Load { .. } | Act::Fence | Act::CompilerFence)
    }

    /// A fence of the processor, not only of the compiler.
    fn is_fence(&self) -> bool {
        self.act == Act::Fence
    }

    fn is_light(&self) -> bool {
        self.act == Act::CompilerFence
    }

    fn acquires(&self) -> bool {
        matches!(self.order, Acquire | AcqRel | SeqCst)
    }

    fn releases(&self) -> bool {
        matches!(self.order, Release | AcqRel | SeqCst)
    }

    /// The value that it stores if it finds `found`; `None` if it stores nothing.
    fn stores(&self, found: u64) -> Option<u64> {
        match self.act {
            Act::Store { to } | Act::Swap { to, .. } => Some(to),
            Act::Exchange { from, to } => (from == found).then_some(to),
            Act::Add { more, .. } => Some(found.wrapping_add(more)),
            Act::Or { bits, .. } => Some(found | bits),
            Act::Load { .. } | Act::Fence | Act::CompilerFence => None,
        }
    }
}

impl Graph {
    fn of(program: &Program) -> Self {
        let first = program.words.iter().enumerate().map(|(word, (_, _, to))| Node {
            thread: None,
            word: Some(word),
            act: Act::Store { to: *to },
            order: Relaxed,
            is_membarrier: false,
        });
        let of_threads = program.threads.iter().enumerate().flat_map(|(thread, (_, events))| {
            events.iter().map(move |Event { step, is_membarrier }| Node {
                thread: Some(thread),
                word: program.words.iter().position(|it| it.1 == step.word),
                act: step.act,
                order: step.order,
                is_membarrier: *is_membarrier,
            })
        });
        let events: Vec<_> = first.chain(of_threads).collect();
        let count = events.len();
        assert!(count <= 32, "a program of {count} events");
        let program_order = pairs(count, |a, b| {
            let (before, after) = (events[a].thread, events[b].thread);
            after.is_some() && (before.is_none() || before == after && a < b)
        });
        let same_word =
            pairs(count, |a, b| events[a].word.is_some() && events[a].word == events[b].word);
        let (threads, words) = (program.threads.len(), program.words.len());
        Self { events, threads, words, program_order, same_word }
    }

    fn each_execution(&self, mut then: impl FnMut(Vec<Vec<(usize, u64, Option<usize>)>>)) {
        let mut sources = vec![None; self.events.len()];
        self.choose_sources(0, &mut sources, &mut |sources| {
            let values: Option<Vec<_>> =
                (0..self.events.len()).map(|at| self.found(at, sources, 0)).collect();
            let Some(values) = values else { return };
            let mut orders = Vec::new();
            if self.any_order(0, &mut orders, &|orders| self.is_consistent(sources, orders)) {
                let mut found = vec![Vec::new(); self.threads];
                for (at, node) in self.events.iter().enumerate() {
                    if let (Some(thread), Some(word), Some(from)) =
                        (node.thread, node.word, sources[at])
                    {
                        let from: usize = from;
                        found[thread].push((
                            word,
                            values[at].unwrap_or(0),
                            self.events[from].thread,
                        ));
                    }
                }
                then(found);
            }
        });
    }

    fn choose_sources(
        &self,
        at: usize,
        sources: &mut Vec<Option<usize>>,
        then: &mut impl FnMut(&[Option<usize>]),
    ) {
        let Some(node) = self.events.get(at) else { return then(sources) };
        if !node.reads() {
            return self.choose_sources(at + 1, sources, then);
        }
        for from in 0..self.events.len() {
            if from != at && self.events[from].writes() && self.events[from].word == node.word {
                sources[at] = Some(from);
                self.choose_sources(at + 1, sources, then);
            }
        }
        sources[at] = None;
    }

    /// The value that an event finds; `Some(None)` if it does not load; `None` if this choice is impossible.
    fn found(&self, at: usize, sources: &[Option<usize>], depth: usize) -> Option<Option<u64>> {
        let Some(from) = sources[at] else { return Some(None) };
        // The value of a load would depend on the load itself.
        if depth > sources.len() {
            return None;
        }
        let before = self.found(from, sources, depth + 1)?;
        let found = self.events[from].stores(before.unwrap_or(0))?;
        let is_so = !self.events[at].writes() || self.events[at].stores(found).is_some();
        is_so.then_some(Some(found))
    }

    /// Whether `then` holds for any order of the stores to each word.
    fn any_order(
        &self,
        word: usize,
        orders: &mut Vec<Vec<usize>>,
        then: &impl Fn(&[Vec<usize>]) -> bool,
    ) -> bool {
        if word == self.words {
            return then(orders);
        }
        let stores = (0..self.events.len())
            .filter(|at| self.events[*at].writes() && self.events[*at].word == Some(word));
        // The first store is the one before the program.
        let (first, rest) = (stores.clone().take(1), stores.skip(1).collect());
        orders.push(first.collect());
        let any = self.any_permutation(rest, word, orders, then);
        orders.pop();
        any
    }

    fn any_permutation(
        &self,
        rest: Vec<usize>,
        word: usize,
        orders: &mut Vec<Vec<usize>>,
        then: &impl Fn(&[Vec<usize>]) -> bool,
    ) -> bool {
        if rest.is_empty() {
            return self.any_order(word + 1, orders, then);
        }
        rest.iter().any(|next| {
            orders[word].push(*next);
            let others = rest.iter().copied().filter(|it| it != next).collect();
            let any = self.any_permutation(others, word, orders, then);
            orders[word].pop();
            any
        })
    }

    /// The axioms. The names are those of the paper.
    fn is_consistent(&self, sources: &[Option<usize>], orders: &[Vec<usize>]) -> bool {
        let (events, count, po) = (&self.events, self.events.len(), &self.program_order);
        let rank: Vec<Option<usize>> = (0..count)
            .map(|at| orders.iter().find_map(|order| order.iter().position(|it| *it == at)))
            .collect();
        let mo =
            both(&pairs(count, |a, b| rank[a].is_some() && rank[a] < rank[b]), &self.same_word);
        // Atomicity: a read-modify-write comes right after the store that it reads from.
        let is_next = |at: usize, from: usize| rank[at] == rank[from].map(|rank| rank + 1);
        if (0..count)
            .any(|at| events[at].writes() && sources[at].is_some_and(|it| !is_next(at, it)))
        {
            return false;
        }
        let rf = pairs(count, |a, b| sources[b] == Some(a));
        let rb =
            pairs(count, |a, b| a != b && sources[a].is_some_and(|from| mo[from] >> b & 1 != 0));
        let eco = closed(either(&either(&rf, &mo), &rb));
        // A read-modify-write continues a release sequence.
        let changes = pairs(count, |a, b| rf[a] >> b & 1 != 0 && events[b].writes());
        let rs = reflexive(&closed(changes));
        let before_store = pairs(count, |a, b| {
            let is_so = a == b || events[a].is_fence() && po[a] >> b & 1 != 0;
            is_so && events[a].releases() && events[b].writes()
        });
        let after_load = pairs(count, |a, b| {
            let is_so = a == b || events[b].is_fence() && po[a] >> b & 1 != 0;
            is_so && events[b].acquires() && events[a].reads()
        });
        let sw = then(&then(&then(&before_store, &rs), &rf), &after_load);
        let hb = closed(either(po, &sw));
        // Coherence.
        if !is_irreflexive(&hb) || !is_irreflexive(&then(&hb, &eco)) {
            return false;
        }
        // SeqCst.
        let is_sc = |at: usize| events[at].order == SeqCst;
        let is_sc_fence = |at: usize| is_sc(at) && (events[at].is_fence() || events[at].is_light());
        let po_other = pairs(count, |a, b| (po[a] & !self.same_word[a]) >> b & 1 != 0);
        let scb = [then(&then(&po_other, &hb), &po_other), both(&hb, &self.same_word), mo, rb];
        let scb = scb.iter().fold(po.clone(), |all, more| either(&all, more));
        let hb_or_same = reflexive(&hb);
        let left = pairs(count, |a, b| {
            a == b && is_sc(a) || is_sc_fence(a) && hb_or_same[a] >> b & 1 != 0
        });
        let right = pairs(count, |a, b| {
            a == b && is_sc(a) || is_sc_fence(b) && hb_or_same[a] >> b & 1 != 0
        });
        let by_fences = either(&hb, &then(&then(&hb, &eco), &hb));
        let by_fences =
            pairs(count, |a, b| is_sc_fence(a) && is_sc_fence(b) && by_fences[a] >> b & 1 != 0);
        let psc = either(&then(&then(&left, &scb), &right), &by_fences);
        let psc = pairs(count, |a, b| {
            let is_light = events[a].is_light() || events[b].is_light();
            let has_membarrier = events[a].is_membarrier || events[b].is_membarrier;
            psc[a] >> b & 1 != 0 && (!is_light || has_membarrier)
        });
        is_irreflexive(&closed(psc))
    }
}

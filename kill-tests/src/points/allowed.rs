//! Which states more than one victim may leave, and what survivors then see: the model of `states.rs`
//! for two victims, for two threads of one victim, and for a recoverer that dies in its turn.

use std::collections::BTreeSet;

use crate::message::Id;
use crate::states::{LEASES, Move, Seen, State, States};

impl Seen {
    /// Without the count of owed messages: another process may have recovered the dead before the
    /// survivors counted.
    pub(crate) fn with_debts_unknown(mut self) -> Self {
        self.owed = 0;
        self
    }
}

impl State {
    /// This state, and the state after each return of one more message that a dead victim held, as
    /// long as there is room. A new handle takes the record of either victim first.
    fn recovered_in_part(self) -> Vec<Self> {
        let mut states = vec![self.clone()];
        for order in [[0, 1], [1, 0]] {
            let mut last = self.clone();
            for (who, cell) in
                order.into_iter().flat_map(|who| (0..=LEASES).map(move |cell| (who, cell)))
            {
                if !last.is_full() {
                    last = last.moved(who, Move::GiveBack(cell));
                    states.push(last.clone());
                }
            }
        }
        states.dedup();
        states
    }
}

impl States {
    /// All states that a second operation may leave if it begins in any of these.
    pub(crate) fn then(self, second: impl Fn(State) -> Self) -> Self {
        Self(self.0.into_iter().flat_map(|state| second(state).0).collect())
    }

    /// All states that threads may leave if they make their moves at the same time, each thread its
    /// own moves in order. A thread may find nothing to return where another thread has just made
    /// that possible, because it checks only when it begins.
    pub(crate) fn beside(begin: State, threads: &[(usize, &[Move])]) -> Self {
        let mut open = vec![(begin, vec![0; threads.len()])];
        let mut known = BTreeSet::new();
        while let Some(found) = open.pop() {
            if !known.insert(found.clone()) {
                continue;
            }
            let (state, at) = found;
            for (thread, (who, moves)) in threads.iter().enumerate() {
                let Some(it) = moves.get(at[thread]) else { continue };
                let mut later = at.clone();
                later[thread] += 1;
                if *it == Move::ReturnOwed {
                    open.push((state.clone(), later.clone()));
                }
                open.push((state.clone().moved(*who, *it), later));
            }
        }
        Self(known.into_iter().map(|(state, _)| state).collect())
    }

    /// These states, and those after the return of some or all messages that the dead held.
    pub(crate) fn recovered_in_part(self) -> Self {
        Self(self.0.into_iter().flat_map(State::recovered_in_part).collect())
    }

    /// The messages that survivors receive in the last state, sorted.
    pub(crate) fn last_ids(&self) -> Vec<Id> {
        let last = self.0.last().cloned().unwrap_or_else(|| State::of(&[]));
        let mut ids: Vec<_> = last.seen_in([0, 1]).arrivals.iter().map(|it| it.id).collect();
        ids.sort_unstable();
        ids
    }

    /// What survivors see of any of these states, in either order in which two dead are recovered.
    pub(crate) fn seen_in_any_order(&self) -> BTreeSet<Seen> {
        let orders = [[0, 1], [1, 0]];
        let seen = |state: &State| orders.map(|order| state.clone().seen_in(order));
        self.0.iter().flat_map(seen).collect()
    }
}

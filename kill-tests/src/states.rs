//! A model of a queue with one victim at it: what a kill may leave, and what survivors see of it.

use std::collections::VecDeque;
use std::fmt;

use crate::message::Id;
use crate::operation::CAPACITY;

/// What the survivors send after the kill.
pub(crate) const AFTER: Id = 8;

/// A message as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) id: Id,
    pub(crate) redelivered: bool,
}

impl Arrival {
    fn first(id: Id) -> Self {
        Self { id, redelivered: false }
    }
}

/// What the survivors saw: all that arrived, and whether their own send was refused as closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) closed: bool,
}

impl Seen {
    /// The same where messages have no bytes to tell them apart.
    pub(crate) fn anonymous(mut self) -> Self {
        self.arrivals.iter_mut().for_each(|arrival| arrival.id = 0);
        self
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, arrival) in self.arrivals.iter().enumerate() {
            let (gap, flag) =
                (if index == 0 { "" } else { " " }, if arrival.redelivered { "*" } else { "" });
            write!(f, "{gap}{}{flag}", arrival.id)?;
        }
        f.write_str(if self.closed { " closed" } else { "" })
    }
}

/// The messages in the ring and with the victim, and whether the queue is closed.
#[derive(Clone, Debug)]
pub(crate) struct State {
    ring: VecDeque<Arrival>,
    held: Vec<Id>,
    closed: bool,
}

impl State {
    pub(crate) fn of(ids: &[Id]) -> Self {
        let ring = ids.iter().copied().map(Arrival::first).collect();
        Self { ring, held: Vec::new(), closed: false }
    }

    fn is_full(&self) -> bool {
        self.ring.len() == CAPACITY
    }

    /// Takes the oldest; whether there was one.
    fn lease(&mut self) -> bool {
        let taken = self.ring.pop_front();
        self.held.extend(taken.map(|it| it.id));
        taken.is_some()
    }

    fn return_all(&mut self) {
        let again = self.held.drain(..).map(|id| Arrival { id, redelivered: true });
        self.ring.extend(again);
    }

    /// What survivors see: they receive one, send one, recover the dead, and receive the rest.
    pub(crate) fn seen(mut self) -> Seen {
        let mut arrivals: Vec<_> = self.ring.pop_front().into_iter().collect();
        if !self.closed {
            self.ring.push_back(Arrival::first(AFTER));
        }
        self.return_all();
        arrivals.extend(self.ring);
        Seen { arrivals, closed: self.closed }
    }
}

/// The states that an operation goes through, in order.
#[derive(Clone, Debug)]
pub(crate) struct States(Vec<State>);

impl From<State> for States {
    fn from(begin: State) -> Self {
        Self(vec![begin])
    }
}

impl States {
    fn last(&self) -> State {
        self.0.last().cloned().unwrap_or_else(|| State::of(&[]))
    }

    /// Sends, if there is room.
    pub(crate) fn then_sent(&mut self, id: Id) {
        let mut next = self.last();
        if !next.is_full() {
            next.ring.push_back(Arrival::first(id));
            self.0.push(next);
        }
    }

    /// Receives and acknowledges, if there is something.
    pub(crate) fn then_received(&mut self) {
        let mut next = self.last();
        if next.lease() {
            self.0.push(next.clone());
            next.held.pop();
            self.0.push(next);
        }
    }

    /// The same, if what the dead held went back at once.
    #[cfg(kill_points)]
    pub(crate) fn recovered(mut self) -> Self {
        self.0.iter_mut().for_each(State::return_all);
        self
    }

    /// What survivors see of the last state, sorted.
    #[cfg(kill_points)]
    pub(crate) fn last_ids(&self) -> Vec<Id> {
        let mut ids: Vec<_> = self.last().seen().arrivals.iter().map(|it| it.id).collect();
        ids.sort_unstable();
        ids
    }

    /// All states that a second operation may leave, begun in any of these.
    #[cfg(kill_points)]
    pub(crate) fn then(self, second: impl Fn(State) -> Self) -> Self {
        Self(self.0.into_iter().flat_map(|state| second(state).0).collect())
    }

    /// A survivor receives, if there is something.
    pub(crate) fn then_taken(&mut self) {
        let mut next = self.last();
        next.ring.pop_front();
        self.0.push(next);
    }

    pub(crate) fn then_returned(&mut self) {
        let mut next = self.last();
        next.return_all();
        self.0.push(next);
    }

    pub(crate) fn then_closed(&mut self) {
        let mut next = self.last();
        next.closed = true;
        self.0.push(next);
    }

    /// One who is dead by now held the oldest when all began.
    pub(crate) fn begins_leased(&mut self) {
        for state in &mut self.0 {
            state.lease();
        }
    }

    /// One who is dead by now had sent when all began.
    pub(crate) fn begins_sent(&mut self, id: Id) {
        self.0.iter_mut().for_each(|state| state.ring.push_back(Arrival::first(id)));
    }

    /// What survivors see of each state, in order, the same twice in a row but once.
    pub(crate) fn seen(&self, anonymous: bool) -> Vec<Seen> {
        let seen = self.0.iter().cloned().map(State::seen);
        let mut seen: Vec<_> =
            seen.map(|seen| if anonymous { seen.anonymous() } else { seen }).collect();
        seen.dedup();
        seen
    }
}

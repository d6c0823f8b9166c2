//! A model of a queue with victims at it: what a kill may leave, and what survivors see of it.

#[cfg(kill_points)]
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::fmt;

use crate::message::Id;
use crate::operation::CAPACITY;

/// What the survivors send after the kill.
pub(crate) const AFTER: Id = 8;
/// Leases of each handle. It has a cell more.
pub(crate) const LEASES: usize = 2;
/// The most victims in one queue, by their records' order.
const VICTIMS: usize = 2;

/// A message as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrival {
    pub(crate) id: Id,
    pub(crate) redelivered: bool,
    pub(crate) attempts: u16,
}

/// What the survivors saw: how many messages were owed after the kill, all that arrived, and whether
/// their own send was refused as closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) owed: u64,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) closed: bool,
}

impl Seen {
    /// The same where messages have no bytes to tell them apart.
    pub(crate) fn anonymous(mut self) -> Self {
        self.arrivals.iter_mut().for_each(|arrival| arrival.id = 0);
        self
    }

    /// The same where a process looked after the dead before the survivors counted what is owed.
    #[cfg(kill_points)]
    pub(crate) fn with_debts_unknown(mut self) -> Self {
        self.owed = 0;
        self
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, arrival) in self.arrivals.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{}", arrival.id)?;
            if arrival.redelivered {
                write!(f, "*{}", arrival.attempts)?;
            }
        }
        if self.owed > 0 {
            write!(f, " owed {}", self.owed)?;
        }
        f.write_str(if self.closed { " closed" } else { "" })
    }
}

/// A message and what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Message {
    id: Id,
    attempts: u16,
    redelivered: bool,
    /// The attempt that it went back for is not counted yet.
    returned: bool,
}

impl Message {
    fn first(id: Id) -> Self {
        Self { id, attempts: 1, redelivered: false, returned: false }
    }

    fn given_back(self) -> Self {
        Self { redelivered: true, returned: true, ..self }
    }

    fn counted(self) -> Self {
        Self { attempts: self.attempts + u16::from(self.returned), returned: false, ..self }
    }

    fn arrival(self) -> Arrival {
        let Self { id, attempts, redelivered, .. } = self.counted();
        Arrival { id, redelivered, attempts }
    }
}

/// A message in a cell of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    message: Message,
    owed: bool,
}

/// The cells of a victim's receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Victim {
    cells: [Option<Held>; LEASES + 1],
    /// That of the message which it took last and has not acknowledged.
    last: Option<usize>,
    /// Cells that still say *owed* though their message is in the ring.
    unsettled: u64,
}

/// The messages in the ring and with the victims, and whether the queue is closed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct State {
    ring: VecDeque<Message>,
    victims: [Victim; VICTIMS],
    closed: bool,
}

/// What a victim does to a queue, in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Sends, if there is room.
    Send(Id),
    /// Takes the oldest, if there is one.
    Take,
    /// Counts the attempt of what it took last, if that came back.
    Count,
    /// Acknowledges what it took last.
    Acknowledge,
    /// Gives back the message in a cell: to the ring, or as owed.
    GiveBack(usize),
    /// Gives back the message in a cell later.
    Owe(usize),
    /// Gives back one message that it owes, if there is room.
    ReturnOwed,
    /// Tells that it does not owe any more what it gave back.
    Settle,
    /// Takes a message that it owes.
    TakeOwed,
    /// Sends the message that it took last on, as a dead letter.
    Forward,
    Close,
    /// A survivor receives.
    TakenAway,
}

/// Takes a message and acknowledges it.
pub(crate) const RECEIVE: [Move; 3] = [Move::Take, Move::Count, Move::Acknowledge];

impl State {
    pub(crate) fn of(ids: &[Id]) -> Self {
        let ring = ids.iter().copied().map(Message::first).collect();
        Self { ring, victims: Default::default(), closed: false }
    }

    fn is_full(&self) -> bool {
        self.ring.len() >= CAPACITY
    }

    /// The state after a move of victim `who`.
    fn moved(mut self, who: usize, it: Move) -> Self {
        let is_full = self.is_full();
        let Self { ring, victims, closed } = &mut self;
        let Victim { cells, last, unsettled } = &mut victims[who];
        match it {
            Move::Send(id) if !is_full && !*closed => ring.push_back(Message::first(id)),
            Move::Send(_) => {}
            Move::Take => {
                *last = cells.iter().position(Option::is_none).filter(|_| !ring.is_empty());
                if let (Some(free), Some(message)) = (*last, ring.pop_front()) {
                    cells[free] = Some(Held { message, owed: false });
                }
            }
            Move::TakeOwed => {
                *last = cells.iter().position(|cell| cell.is_some_and(|it| it.owed));
                if let Some(Some(held)) = last.map(|cell| &mut cells[cell]) {
                    held.owed = false;
                }
            }
            Move::Count => {
                if let Some(Some(held)) = last.map(|cell| &mut cells[cell]) {
                    held.message = held.message.counted();
                }
            }
            Move::Acknowledge => {
                if let Some(cell) = last.take() {
                    cells[cell] = None;
                }
            }
            Move::GiveBack(cell) if !is_full => {
                ring.extend(cells[cell].take().map(|held| held.message.given_back()));
            }
            Move::GiveBack(cell) | Move::Owe(cell) => {
                if let Some(held) = &mut cells[cell] {
                    *held = Held { message: held.message.given_back(), owed: true };
                }
            }
            Move::ReturnOwed => {
                let owed = cells.iter_mut().find(|cell| cell.is_some_and(|it| it.owed));
                if let (Some(cell), false) = (owed, is_full) {
                    ring.extend(cell.take().map(|held| held.message));
                    *unsettled += 1;
                }
            }
            Move::Settle => *unsettled = 0,
            Move::Forward => {
                let held = last.and_then(|cell| cells[cell]);
                if let (Some(held), false) = (held, is_full) {
                    let letter = Message { redelivered: true, ..Message::first(held.message.id) };
                    ring.push_back(letter);
                }
            }
            Move::Close => *closed = true,
            Move::TakenAway => _ = ring.pop_front(),
        }
        self
    }

    /// After all of these moves of victim `who`.
    pub(crate) fn after(self, who: usize, moves: &[Move]) -> Self {
        moves.iter().fold(self, |state, it| state.moved(who, *it))
    }

    /// The states that come if what the dead held goes back at once, as far as there is room.
    #[cfg(kill_points)]
    fn recovered_in_part(mut self) -> Vec<Self> {
        let mut states = vec![self.clone()];
        for (who, cell) in (0..VICTIMS).flat_map(|who| (0..=LEASES).map(move |cell| (who, cell))) {
            if self.ring.len() < CAPACITY
                && let Some(held) = self.victims[who].cells[cell].take()
            {
                self.ring.push_back(held.message.given_back());
                states.push(self.clone());
            }
        }
        states
    }

    /// What survivors see: they receive one, send one, recover the dead in this order, and receive
    /// the rest.
    fn seen_in(mut self, order: [usize; VICTIMS]) -> Seen {
        let held = |victim: usize| self.victims[victim].cells.into_iter().flatten();
        let held: Vec<_> = order.into_iter().flat_map(held).collect();
        let owed = held.iter().filter(|it| it.owed).count() as u64
            + self.victims.iter().map(|it| it.unsettled).sum::<u64>();
        let mut arrivals: Vec<_> = self.ring.pop_front().into_iter().collect();
        if !self.closed {
            self.ring.push_back(Message::first(AFTER));
        }
        arrivals.extend(self.ring);
        arrivals.extend(held.into_iter().map(|held| held.message.given_back()));
        let arrivals = arrivals.into_iter().map(Message::arrival).collect();
        Seen { owed, arrivals, closed: self.closed }
    }

    fn seen(self) -> Seen {
        self.seen_in([0, 1])
    }
}

/// The states that an operation goes through, in order.
#[derive(Clone, Debug)]
pub(crate) struct States(Vec<State>);

impl States {
    /// Of a victim that makes these moves.
    pub(crate) fn of(begin: State, who: usize, moves: &[Move]) -> Self {
        let mut states = vec![begin.clone()];
        states.extend(moves.iter().scan(begin, |state, it| {
            *state = state.clone().moved(who, *it);
            Some(state.clone())
        }));
        Self(states)
    }

    /// All states that a second operation may leave, begun in any of these.
    #[cfg(kill_points)]
    pub(crate) fn then(self, second: impl Fn(State) -> Self) -> Self {
        Self(self.0.into_iter().flat_map(|state| second(state).0).collect())
    }

    /// All states that threads may leave that make moves at the same time, each its own in order.
    /// Each knows only at its begin whether it has something to return.
    #[cfg(kill_points)]
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

    /// The same, and what comes if what the dead held goes back at once, some of it or all.
    #[cfg(kill_points)]
    pub(crate) fn recovered_in_part(self) -> Self {
        Self(self.0.into_iter().flat_map(State::recovered_in_part).collect())
    }

    /// What survivors see of the last state, sorted.
    #[cfg(kill_points)]
    pub(crate) fn last_ids(&self) -> Vec<Id> {
        let last = self.0.last().cloned().unwrap_or_else(|| State::of(&[]));
        let mut ids: Vec<_> = last.seen().arrivals.iter().map(|it| it.id).collect();
        ids.sort_unstable();
        ids
    }

    /// What survivors see of each state, in order, the same twice in a row but once.
    pub(crate) fn seen(&self, anonymous: bool) -> Vec<Seen> {
        let seen = self.0.iter().cloned().map(State::seen);
        let mut seen: Vec<_> =
            seen.map(|seen| if anonymous { seen.anonymous() } else { seen }).collect();
        seen.dedup();
        seen
    }

    /// What survivors see of any of these states, in whatever order two dead are recovered.
    #[cfg(kill_points)]
    pub(crate) fn seen_in_any_order(&self) -> BTreeSet<Seen> {
        let orders = [[0, 1], [1, 0]];
        let seen = |state: &State| orders.map(|order| state.clone().seen_in(order));
        self.0.iter().flat_map(seen).collect()
    }
}

//! A model of a queue and its victims: what a kill may leave, and what survivors then see.

use std::collections::VecDeque;
use std::fmt;

use crate::message::Id;

/// The capacity of the ring.
pub(crate) const CAPACITY: usize = 4;
/// The message that survivors send after the kill.
pub(crate) const AFTER: Id = 8;
/// Leases of each handle, which has one cell more.
pub(crate) const LEASES: usize = 2;
/// The most victims in one queue. They are numbered in the order of their records.
pub(crate) const VICTIMS: usize = 2;

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
    /// The same if messages have no bytes to tell them apart.
    pub(crate) fn anonymous(mut self) -> Self {
        self.arrivals.iter_mut().for_each(|arrival| arrival.id = 0);
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

/// A message and its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Message {
    id: Id,
    attempts: u16,
    redelivered: bool,
    /// It was returned, and the attempt for which it was is not counted yet.
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

/// The cells of a victim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Victim {
    cells: [Option<Held>; LEASES + 1],
    /// The cell of the message that it took last, until that is acknowledged.
    last: Option<usize>,
    /// How many cells still say *owed* although their message is back in the ring.
    unsettled: u64,
}

/// The messages in the ring and in the victims' cells, and whether the queue is closed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct State {
    ring: VecDeque<Message>,
    victims: [Victim; VICTIMS],
    closed: bool,
}

/// One change that a victim makes to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Sends a message, if there is room.
    Send(Id),
    /// Takes the oldest message, if there is one.
    Take,
    /// Counts the attempt of the message that it took last, if that had been returned.
    Count,
    /// Acknowledges the message that it took last.
    Acknowledge,
    /// Returns the message in a cell to the ring, or owes it if there is no room.
    GiveBack(usize),
    /// Owes the message in a cell, to return it later.
    Owe(usize),
    /// Returns one message that it owes, if there is room.
    ReturnOwed,
    /// Stores that it no longer owes the messages that it returned.
    Settle,
    /// Takes a message that it owes.
    TakeOwed,
    /// Forwards the message that it took last, as a dead letter.
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

    pub(crate) fn is_full(&self) -> bool {
        self.ring.len() >= CAPACITY
    }

    /// The state after a move of victim `who`.
    pub(crate) fn moved(mut self, who: usize, it: Move) -> Self {
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

    /// What survivors see if they receive one message, send one, recover the dead in this order, and
    /// receive all other messages.
    pub(crate) fn seen_in(mut self, order: [usize; VICTIMS]) -> Seen {
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
pub(crate) struct States(pub(crate) Vec<State>);

impl States {
    /// The states of victim `who`, which makes these moves.
    pub(crate) fn of(begin: State, who: usize, moves: &[Move]) -> Self {
        let mut states = vec![begin.clone()];
        states.extend(moves.iter().scan(begin, |state, it| {
            *state = state.clone().moved(who, *it);
            Some(state.clone())
        }));
        Self(states)
    }

    /// What survivors see of each state, in order, without repetitions.
    pub(crate) fn seen(&self, anonymous: bool) -> Vec<Seen> {
        let seen = self.0.iter().cloned().map(State::seen);
        let mut seen: Vec<_> =
            seen.map(|seen| if anonymous { seen.anonymous() } else { seen }).collect();
        seen.dedup();
        seen
    }
}

//! The protocol, one access to a shared word a step.
//!
//! An *actor* is a record and whoever holds its lock: a participant that works through its script,
//! and once that died one auditor after the other, each acting as the dead. What an actor does to
//! words that it alone reads or writes (the message in its own block, a look at its own op) is part
//! of the step before or after.
//!
//! Beside the shared words the state holds the *truth*, which no participant can read. It changes
//! at the exchange itself, and each step is checked against it.

use std::array::from_fn;
use std::ops::RangeInclusive;

/// Four participants, and the survivor: it moves only when all others are dead.
const ACTORS: usize = 5;
const SLOTS: usize = 2;
const CELLS: usize = 2;
const BLOCKS: usize = SLOTS + ACTORS * CELLS;
const MESSAGES: usize = 4;
/// More steps than any operation or audit takes alone.
const PATIENCE: usize = 100;

/// What is wrong.
pub(crate) type Violation = &'static str;

/// What a participant is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Send,
    /// Takes a message into a free cell, or sees the end.
    Recv,
    /// Acknowledges the first message held, if one is.
    Ack,
    /// Returns it instead.
    Nack,
    Close,
    Join,
}

/// An edit of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The audit does not ask whether somebody else is just gaining the block in question.
    NoScan,
    /// It asks that of all slots, not only of the slot in question. More patient, and not wrong.
    ScanEverySlot,
    /// An op names its position, not only its slot. So whoever is gaining the block saw it where
    /// the dead put it, and the audit waits for nobody. Not wrong either.
    OpNamesPosition,
    NoOwnerTag,
    AnnounceAfterExchange,
    ClearBeforeTag,
    /// The audit frees the held cells of the dead.
    ForgetHeld,
    /// The audit returns what they hold without an op.
    ReturnUnannounced,
    CountBeforeExchange,
    CountAfterCell,
    AuditDoesNotCount,
    /// What the dead had just received counts as received after everything.
    UndatedIsLast,
    JoinWithoutOps,
    JoinCellsBeforeOps,
    JoinIgnoresReturns,
    NoReturnAtClosed,
    SendAtClosed,
    /// A sender does not ask whether the queue is closing, or asked before it looked.
    SendUnasked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SlotState {
    Empty,
    Full,
    Closed,
}

/// A slot's word. The position stands for the lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Slot {
    at: u8,
    state: SlotState,
    block: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Verb {
    Send,
    Recv,
    Return,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Op {
    verb: Verb,
    cell: u8,
    /// The slot, or with `Edit::OpNamesPosition` the position: that names the slot, too.
    at: u8,
    gain: u8,
}

/// Whether a cell holds a message that is not acknowledged, and where that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Held {
    Free,
    At(u8),
    /// An auditor knows the slot but not the lap: before everything.
    Undated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cell {
    block: u8,
    held: Held,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Block {
    owner: u8,
    message: Option<u8>,
    redelivered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Alive,
    /// The lock is free.
    Dead,
    /// An auditor has the lock.
    Audited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Look,
    /// Is the queue about to close? Asked where there is nothing to receive, or room to send.
    AskClosing,
    Seal,
    Announce,
    Exchange,
    Tag,
    CountReturn,
    SetCell,
    ClearOp,
    ClearLost,
    AuditSlot,
    AuditOp,
    AuditOwner,
    JoinSent,
    JoinReceived,
    JoinOp,
    JoinCell,
    JoinReturns,
}

/// What an actor keeps to itself. Only how many tasks are done outlives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Actor {
    life: Life,
    next: Step,
    done: u8,
    /// The cursor of `verb`, or the first position that a join does not wait for.
    at: u8,
    verb: Verb,
    cell: u8,
    gain: u8,
    seen: SlotState,
    /// The one that an audit or a join looks at.
    record: u8,
}

impl Actor {
    fn new(life: Life, done: u8) -> Self {
        let (next, verb, seen) = (Step::Look, Verb::Send, SlotState::Empty);
        Self { life, next, done, at: 0, verb, cell: 0, gain: 0, seen, record: 0 }
    }

    /// Looks again, with the cursor where it is.
    fn again(self) -> Self {
        Self { at: self.at, verb: self.verb, ..Self::new(self.life, self.done) }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Unsent,
    Sent,
    Delivered,
    Returned,
    Acknowledged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Truth {
    owned: [[u8; CELLS]; ACTORS],
    fates: [Fate; MESSAGES],
    sent: u8,
    received: u8,
    in_ring: [Option<u8>; SLOTS],
    sealed: bool,
    end_seen: bool,
    /// The messages sent when the join took its first frontier, as bits.
    due: Option<u8>,
    deaths: u8,
    auditor_deaths: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    slots: [Slot; SLOTS],
    ops: [Option<Op>; ACTORS],
    cells: [[Cell; CELLS]; ACTORS],
    blocks: [Block; BLOCKS],
    closing: bool,
    returns: u8,
    actors: [Actor; ACTORS],
    /// The count of returns that the join began with.
    returns_before: u8,
    truth: Truth,
}

impl State {
    fn block_in(&mut self, me: usize, cell: u8) -> &mut Block {
        &mut self.blocks[usize::from(self.cells[me][usize::from(cell)].block)]
    }
}

/// What a slot tells about a position.
enum Tells {
    Here,
    NotNow,
    Closed,
    /// The first position that it does not prove committed.
    Passed(u8),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Move {
    Step(usize),
    Die(usize),
    /// Somebody takes over a settled record, and what is left of its script.
    TakeOver(usize),
}

/// A queue, and who uses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) capacity: u8,
    pub(crate) cells: u8,
    pub(crate) scripts: &'static [&'static [Task]],
    pub(crate) deaths: u8,
    pub(crate) auditor_deaths: u8,
    pub(crate) take_over: bool,
    pub(crate) edit: Option<Edit>,
}

impl Setup {
    pub(crate) fn start(&self) -> State {
        let first = |actor: usize| self.capacity + actor as u8 * self.cells;
        let owned: [[u8; CELLS]; ACTORS] =
            from_fn(|actor| from_fn(|cell| first(actor) + cell as u8));
        let mut blocks = [Block { owner: 0, message: None, redelivered: false }; BLOCKS];
        for (actor, cell) in self.all_cells() {
            blocks[usize::from(owned[actor][cell])].owner = actor as u8;
        }
        State {
            slots: from_fn(|at| Slot { at: at as u8, state: SlotState::Empty, block: at as u8 }),
            ops: [None; ACTORS],
            cells: owned.map(|row| row.map(|block| Cell { block, held: Held::Free })),
            blocks,
            closing: false,
            returns: 0,
            actors: [Actor::new(Life::Alive, 0); ACTORS],
            returns_before: 0,
            truth: Truth {
                owned,
                fates: [Fate::Unsent; MESSAGES],
                sent: 0,
                received: 0,
                in_ring: [None; SLOTS],
                sealed: false,
                end_seen: false,
                due: None,
                deaths: 0,
                auditor_deaths: 0,
            },
        }
    }

    pub(crate) fn moves(&self, state: &State) -> impl Iterator<Item = Move> {
        (0..self.survivor()).flat_map(|me| {
            let life = state.actors[me].life;
            let has_task = self.task(state, me).is_some();
            let is_settled = self.is_settled(state, me);
            let steps = match life {
                Life::Alive => has_task,
                Life::Dead => !is_settled,
                Life::Audited => true,
            };
            let dies = match life {
                // Whoever leaves nothing behind is as good as one that never moves again.
                Life::Alive => state.truth.deaths < self.deaths && !is_settled,
                Life::Dead => false,
                Life::Audited => state.truth.auditor_deaths < self.auditor_deaths,
            };
            let taken = self.take_over && life == Life::Dead && is_settled && has_task;
            let moves =
                [(steps, Move::Step(me)), (dies, Move::Die(me)), (taken, Move::TakeOver(me))];
            moves.into_iter().filter_map(|(may, what)| may.then_some(what))
        })
    }

    pub(crate) fn make(&self, state: &mut State, what: Move) -> Result<(), Violation> {
        match what {
            Move::Step(me) => drop(self.step(state, me)?),
            Move::Die(me) => {
                match state.actors[me].life {
                    Life::Audited => state.truth.auditor_deaths += 1,
                    _ => state.truth.deaths += 1,
                }
                state.actors[me] = Actor::new(Life::Dead, state.actors[me].done);
            }
            Move::TakeOver(me) => state.actors[me].life = Life::Alive,
        }
        self.each_block_is_in_one_place(state, |me, cell| state.truth.owned[me][cell])
    }

    /// Each that lives, and each auditor, comes to an end alone, whatever the others left undone.
    pub(crate) fn each_goes_on_alone(&self, state: &State) -> Result<(), Violation> {
        (0..self.survivor())
            .filter(|me| match state.actors[*me].life {
                Life::Alive => self.task(state, *me).is_some(),
                Life::Dead => false,
                Life::Audited => true,
            })
            .try_for_each(|me| self.run(&mut { *state }, me))
    }

    /// The state when all have died, here and now.
    pub(crate) fn all_dead(&self, mut state: State) -> State {
        for me in 0..self.survivor() {
            state.actors[me] = Actor::new(Life::Dead, state.actors[me].done);
        }
        (state.truth.deaths, state.truth.auditor_deaths, state.truth.due) = (0, 0, None);
        state
    }

    /// The survivor audits the dead, drains the ring and joins: nothing is lost, and nothing waits
    /// for ever.
    pub(crate) fn the_survivor_settles_all(&self, mut state: State) -> Result<(), Violation> {
        let survivor = self.survivor();
        let mut before = None;
        while before != Some(state) {
            before = Some(state);
            for dead in 0..survivor {
                if !self.is_settled(&state, dead) {
                    self.run(&mut state, dead)?;
                }
            }
            self.run(&mut state, survivor)?;
        }
        if !(0..survivor).all(|dead| self.is_settled(&state, dead)) {
            return Err("an audit is put off for ever, or a held message finds no way back");
        }
        self.each_block_is_in_one_place(&state, |me, cell| state.cells[me][cell].block)?;
        if state.truth.fates.iter().any(|fate| !matches!(fate, Fate::Unsent | Fate::Acknowledged)) {
            return Err("a message is lost");
        }
        state.actors[survivor] = Actor::new(Life::Alive, 1);
        self.run(&mut state, survivor)?;
        let joined = state.actors[survivor].done == 2;
        joined.then_some(()).ok_or("a join waits for nothing")
    }

    /// Runs `me` alone to the end of its operation, or until it would have to wait.
    fn run(&self, state: &mut State, me: usize) -> Result<(), Violation> {
        for _ in 0..PATIENCE {
            if self.step(state, me)? {
                return Ok(());
            }
        }
        Err("an operation does not end by itself")
    }

    fn each_block_is_in_one_place(
        &self,
        state: &State,
        block_in: impl Fn(usize, usize) -> u8,
    ) -> Result<(), Violation> {
        let in_slots = state.slots[..usize::from(self.capacity)].iter().map(|slot| slot.block);
        let in_cells = self.all_cells().map(|(me, cell)| block_in(me, cell));
        let mut seen = 0_u32;
        let mut is_first = |block: u8| {
            seen ^= 1 << block;
            seen & 1 << block != 0
        };
        let each = in_slots.chain(in_cells).all(&mut is_first);
        each.then_some(()).ok_or("a block is in two places")
    }

    fn survivor(&self) -> usize {
        self.scripts.len()
    }

    fn records(&self) -> RangeInclusive<usize> {
        0..=self.survivor()
    }

    fn all_cells(&self) -> impl Iterator<Item = (usize, usize)> {
        let cells = usize::from(self.cells);
        self.records().flat_map(move |me| (0..cells).map(move |cell| (me, cell)))
    }

    fn task(&self, state: &State, me: usize) -> Option<Task> {
        let done = state.actors[me].done;
        if me < self.survivor() {
            return self.scripts[me].get(usize::from(done)).copied();
        }
        Some(match (done, self.held_cell(state, me)) {
            (0, None) => Task::Recv,
            (0, Some(_)) => Task::Ack,
            _ => Task::Join,
        })
    }

    fn finish_task(&self, it: &mut Actor, me: usize) {
        it.done += u8::from(me < self.survivor() && it.life == Life::Alive);
    }

    fn free_cell(&self, state: &State, me: usize) -> Option<u8> {
        (0..self.cells).find(|cell| state.cells[me][usize::from(*cell)].held == Held::Free)
    }

    fn held_cell(&self, state: &State, me: usize) -> Option<u8> {
        (0..self.cells).find(|cell| state.cells[me][usize::from(*cell)].held != Held::Free)
    }

    /// Whether nothing is left to audit.
    fn is_settled(&self, state: &State, me: usize) -> bool {
        state.ops[me].is_none() && self.held_cell(state, me).is_none()
    }

    /// The next record but `me` with words that ever change: the others are not worth a step.
    fn next_record(&self, from: u8, me: usize) -> Option<u8> {
        let changes = |task: &Task| matches!(task, Task::Send | Task::Recv | Task::Nack);
        (from..self.survivor() as u8).find(|other| {
            usize::from(*other) != me && self.scripts[usize::from(*other)].iter().any(changes)
        })
    }

    /// Messages are numbered by sender, then in the order of its script.
    fn next_message(&self, state: &State, me: usize) -> u8 {
        let before = self.scripts[..me].iter().copied().flatten();
        let mine = &self.scripts[me][..usize::from(state.actors[me].done)];
        before.chain(mine).filter(|task| **task == Task::Send).count() as u8
    }

    fn closes(&self) -> bool {
        self.scripts.iter().any(|script| script.contains(&Task::Close))
    }

    fn slot_of(&self, at: u8) -> usize {
        usize::from(at % self.capacity)
    }

    /// The steps after a look that found the slot's turn.
    fn order(&self, verb: Verb, life: Life) -> &'static [Step] {
        use Step::{Announce, ClearOp, CountReturn, Exchange, SetCell, Tag};
        match (self.edit, verb, life) {
            (Some(Edit::AnnounceAfterExchange), ..) => {
                &[Exchange, Announce, Tag, CountReturn, SetCell, ClearOp]
            }
            (Some(Edit::ClearBeforeTag), ..) => {
                &[Announce, Exchange, ClearOp, Tag, CountReturn, SetCell]
            }
            (Some(Edit::NoOwnerTag), ..) => &[Announce, Exchange, CountReturn, SetCell, ClearOp],
            (Some(Edit::ReturnUnannounced), Verb::Return, Life::Audited) => {
                &[Exchange, Tag, CountReturn, SetCell]
            }
            (Some(Edit::CountBeforeExchange), Verb::Return, _) => {
                &[Announce, CountReturn, Exchange, Tag, SetCell, ClearOp]
            }
            (Some(Edit::CountAfterCell), Verb::Return, _) => {
                &[Announce, Exchange, Tag, SetCell, CountReturn, ClearOp]
            }
            _ => &[Announce, Exchange, Tag, CountReturn, SetCell, ClearOp],
        }
    }

    /// Goes on to the step after this, or ends the operation. Whether it ended.
    fn go_on(&self, it: &mut Actor) -> bool {
        let mut rest = self.order(it.verb, it.life).iter().skip_while(|step| **step != it.next);
        let next = rest.nth(1).copied();
        let uncounted = next == Some(Step::CountReturn) && it.verb != Verb::Return;
        match if uncounted { rest.next().copied() } else { next } {
            Some(next) => it.next = next,
            None => {
                *it = it.again();
                // An auditor that settled an op does not know its position.
                it.at = if it.life == Life::Alive { it.at + 1 } else { 0 };
            }
        }
        it.next == Step::Look
    }

    /// Makes the next step of `me`. Whether an operation ended with it, or has to wait.
    fn step(&self, state: &mut State, me: usize) -> Result<bool, Violation> {
        let mut it = state.actors[me];
        let (slot, cell) = (self.slot_of(it.at), usize::from(it.cell));
        let mut ended = false;
        match it.next {
            Step::Look => return self.begin(state, me),
            Step::AskClosing if state.closing => it.next = Step::Seal,
            Step::AskClosing if it.verb == Verb::Recv => (it, ended) = (it.again(), true),
            Step::AskClosing => it.next = self.order(it.verb, it.life)[0],
            Step::Seal => {
                if state.slots[slot]
                    == (Slot { at: it.at, state: SlotState::Empty, block: it.gain })
                {
                    state.slots[slot].state = SlotState::Closed;
                    state.truth.sealed = true;
                }
                it = it.again();
            }
            Step::Announce => {
                let names_position = self.edit == Some(Edit::OpNamesPosition);
                let at = if names_position { it.at } else { slot as u8 };
                state.ops[me] = Some(Op { verb: it.verb, cell: it.cell, at, gain: it.gain });
                self.go_on(&mut it);
            }
            Step::Exchange => {
                if state.slots[slot] == (Slot { at: it.at, state: it.seen, block: it.gain }) {
                    self.exchange(state, me)?;
                    self.finish_task(&mut it, me);
                    self.go_on(&mut it);
                } else {
                    it.next = Step::ClearLost;
                }
            }
            Step::Tag => {
                state.blocks[usize::from(it.gain)].owner = me as u8;
                self.go_on(&mut it);
            }
            Step::CountReturn => {
                let forgets = self.edit == Some(Edit::AuditDoesNotCount);
                state.returns += u8::from(it.life == Life::Alive || !forgets);
                self.go_on(&mut it);
            }
            Step::SetCell => {
                let held = match (it.verb, it.life) {
                    (Verb::Send | Verb::Return, _) => Held::Free,
                    (Verb::Recv, Life::Alive) => Held::At(it.at),
                    (Verb::Recv, _) => Held::Undated,
                };
                state.cells[me][cell] = Cell { block: it.gain, held };
                ended = self.go_on(&mut it);
            }
            Step::ClearOp => {
                state.ops[me] = None;
                ended = self.go_on(&mut it);
            }
            Step::ClearLost => {
                state.ops[me] = None;
                it = it.again();
            }
            Step::AuditSlot | Step::AuditOp | Step::AuditOwner => return self.audit(state, me),
            _ => return self.join(state, me),
        }
        state.actors[me] = it;
        Ok(ended)
    }

    /// The first step of a task, or of an auditor.
    fn begin(&self, state: &mut State, me: usize) -> Result<bool, Violation> {
        let it = state.actors[me];
        let (free, held) = (self.free_cell(state, me), self.held_cell(state, me));
        match (it.life, self.task(state, me), free, held) {
            (Life::Dead, ..) => {
                self.begin_audit(state, me);
                Ok(false)
            }
            (Life::Audited, _, _, Some(cell)) if self.edit == Some(Edit::ForgetHeld) => {
                state.cells[me][usize::from(cell)].held = Held::Free;
                Ok(false)
            }
            (Life::Audited, _, _, Some(cell)) => self.look(state, me, Verb::Return, cell),
            (Life::Audited, ..) => {
                state.actors[me] = Actor::new(Life::Dead, it.done);
                Ok(true)
            }
            (_, Some(Task::Send), Some(cell), _) => {
                let message = Some(self.next_message(state, me));
                let block = state.block_in(me, cell);
                (block.message, block.redelivered) = (message, false);
                self.look(state, me, Verb::Send, cell)
            }
            (_, Some(Task::Recv), Some(cell), _) => self.look(state, me, Verb::Recv, cell),
            (_, Some(Task::Nack), _, Some(cell)) => self.look(state, me, Verb::Return, cell),
            (_, Some(Task::Close), ..) if state.closing => self.look(state, me, Verb::Send, 0),
            (_, Some(Task::Close), ..) => {
                state.closing = true;
                Ok(false)
            }
            (_, Some(Task::Join), ..) => self.join(state, me),
            (_, task, _, held) => {
                if let (Some(Task::Ack), Some(cell)) = (task, held) {
                    self.acknowledge(state, me, cell)?;
                }
                self.finish_task(&mut state.actors[me], me);
                Ok(true)
            }
        }
    }

    /// Looks at the slot of the cursor of `verb`.
    fn look(&self, state: &mut State, me: usize, verb: Verb, cell: u8) -> Result<bool, Violation> {
        let mut it = state.actors[me];
        let is_close = it.life == Life::Alive && self.task(state, me) == Some(Task::Close);
        if verb != it.verb {
            it.at = 0; // far behind is right, too
        }
        (it.verb, it.cell) = (verb, cell);
        if verb == Verb::Return {
            state.block_in(me, cell).redelivered = true;
        }
        let seen = state.slots[self.slot_of(it.at)];
        let asks = self.closes() && (verb, self.edit) != (Verb::Send, Some(Edit::SendUnasked));
        let next = match (self.tell(seen, verb, it.at)?, verb) {
            (Tells::Passed(at), _) => {
                state.actors[me] = Actor { at, ..it.again() };
                return Ok(false);
            }
            (Tells::Here, _) if is_close => Step::Seal,
            (Tells::Here, Verb::Send) | (Tells::NotNow, Verb::Recv) if asks => Step::AskClosing,
            (Tells::Here, _) | (Tells::Closed, Verb::Return) => self.order(verb, it.life)[0],
            (Tells::Closed, Verb::Send) if self.edit == Some(Edit::SendAtClosed) && !is_close => {
                self.order(verb, it.life)[0]
            }
            (told, _) => {
                if matches!(told, Tells::Closed) || is_close {
                    state.truth.end_seen |= verb == Verb::Recv;
                    self.finish_task(&mut it, me);
                }
                state.actors[me] = match it.life {
                    // There may be room later. Until then the lock is free.
                    Life::Audited => Actor::new(Life::Dead, it.done),
                    _ => it.again(),
                };
                return Ok(true);
            }
        };
        state.actors[me] = Actor { next, gain: seen.block, seen: seen.state, ..it };
        Ok(false)
    }

    fn tell(&self, seen: Slot, verb: Verb, at: u8) -> Result<Tells, Violation> {
        let is_now = seen.at == at;
        let refused = (verb, self.edit) == (Verb::Return, Some(Edit::NoReturnAtClosed));
        match (verb == Verb::Recv, seen.state) {
            (false, SlotState::Empty) | (true, SlotState::Full) if is_now => Ok(Tells::Here),
            (true, SlotState::Empty) if is_now => Ok(Tells::NotNow),
            (false, SlotState::Full) if seen.at + self.capacity == at => Ok(Tells::NotNow),
            (_, SlotState::Closed) if is_now && refused => Ok(Tells::NotNow),
            (_, SlotState::Closed) if is_now => Ok(Tells::Closed),
            (false, SlotState::Full) if seen.at >= at => Ok(Tells::Passed(seen.at + 1)),
            _ if seen.at > at => Ok(Tells::Passed(seen.at + 1 - self.capacity)),
            _ => Err("a slot is behind its position"),
        }
    }

    /// The exchange succeeds.
    fn exchange(&self, state: &mut State, me: usize) -> Result<(), Violation> {
        let it = state.actors[me];
        let slot = self.slot_of(it.at);
        let offer = state.cells[me][usize::from(it.cell)].block;
        let truth = &mut state.truth;
        if std::mem::replace(&mut truth.owned[me][usize::from(it.cell)], it.gain) != offer {
            return Err("a block is offered by one that does not own it");
        }
        if it.verb == Verb::Recv {
            let gained = state.blocks[usize::from(it.gain)];
            let (Some(message), true) = (truth.in_ring[slot].take(), truth.received == it.at)
            else {
                return Err("received out of order");
            };
            if gained.message != Some(message) {
                return Err("a message was overwritten in the ring");
            }
            let fate = &mut truth.fates[usize::from(message)];
            if gained.redelivered != (*fate == Fate::Returned) {
                return Err("the mark of a redelivery is wrong");
            }
            if truth.end_seen && !gained.redelivered {
                return Err("a new message after the end");
            }
            *fate = Fate::Delivered;
            truth.received += 1;
            let at = it.at + self.capacity;
            state.slots[slot] = Slot { at, state: SlotState::Empty, block: offer };
        } else {
            let Some(message) = state.blocks[usize::from(offer)].message else {
                return Err("what is sent is no message");
            };
            let fate = &mut truth.fates[usize::from(message)];
            *fate = match (it.verb, *fate) {
                (Verb::Send, Fate::Unsent) if truth.sealed => return Err("sent after the end"),
                (Verb::Send, Fate::Unsent) => Fate::Sent,
                (Verb::Return, Fate::Delivered) => Fate::Returned,
                _ => return Err("a message is sent twice"),
            };
            if truth.sent != it.at {
                return Err("sent out of order");
            }
            truth.in_ring[slot] = Some(message);
            truth.sent += 1;
            state.slots[slot] = Slot { at: it.at, state: SlotState::Full, block: offer };
        }
        Ok(())
    }

    fn acknowledge(&self, state: &mut State, me: usize, cell: u8) -> Result<(), Violation> {
        state.cells[me][usize::from(cell)].held = Held::Free;
        let block = state.block_in(me, cell);
        block.redelivered = false;
        let message = block.message.take();
        match message.map(|message| &mut state.truth.fates[usize::from(message)]) {
            Some(fate @ Fate::Delivered) => *fate = Fate::Acknowledged,
            _ => return Err("acknowledged by one that does not hold it"),
        }
        Ok(())
    }

    /// Takes the lock of the dead.
    fn begin_audit(&self, state: &mut State, me: usize) {
        let it = &mut state.actors[me];
        it.life = Life::Audited;
        if let Some(op) = state.ops[me] {
            (it.verb, it.cell, it.gain) = (op.verb, op.cell, op.gain);
            let is_settled = state.cells[me][usize::from(op.cell)].block == op.gain;
            it.next = if is_settled { Step::ClearOp } else { Step::AuditSlot };
        }
    }

    /// Did the dead exchange? The questions are in the order in which they must be asked.
    fn audit(&self, state: &mut State, me: usize) -> Result<bool, Violation> {
        let mut it = state.actors[me];
        let Some(op) = state.ops[me] else { return Err("the op under audit is gone") };
        let offer = state.cells[me][usize::from(op.cell)].block;
        let names_position = self.edit == Some(Edit::OpNamesPosition);
        let every_slot = self.edit == Some(Edit::ScanEverySlot);
        // Where the block is found by whoever gains it after the dead exchanged.
        let parked = names_position && op.verb == Verb::Recv;
        let found_at = if parked { op.at + self.capacity } else { op.at };
        let is_gaining = |other: Op| other.gain == offer && (other.at == found_at || every_slot);
        let exchanged = match it.next {
            Step::AuditSlot if state.slots[self.slot_of(op.at)].block == offer => true,
            Step::AuditOp if state.ops[usize::from(it.record)].is_some_and(is_gaining) => {
                if !names_position {
                    // Whoever that is settles it, or dies too: later.
                    state.actors[me] = Actor::new(Life::Dead, it.done);
                    return Ok(true);
                }
                true
            }
            Step::AuditSlot | Step::AuditOp => {
                let from = if it.next == Step::AuditSlot { 0 } else { it.record + 1 };
                let other = self.next_record(from, me).filter(|_| self.edit != Some(Edit::NoScan));
                it.record = other.unwrap_or(0);
                it.next = if other.is_some() { Step::AuditOp } else { Step::AuditOwner };
                state.actors[me] = it;
                return Ok(false);
            }
            _ => usize::from(state.blocks[usize::from(offer)].owner) != me,
        };
        if exchanged != (state.truth.owned[me][usize::from(op.cell)] == op.gain) {
            return Err("the verdict of an audit is wrong");
        }
        it.next = if exchanged { Step::Exchange } else { Step::ClearLost };
        if exchanged {
            self.go_on(&mut it);
        }
        state.actors[me] = it;
        Ok(false)
    }

    /// Has all been acknowledged that was sent before? What does not hold yet is asked again.
    fn join(&self, state: &mut State, me: usize) -> Result<bool, Violation> {
        let mut it = state.actors[me];
        let (record, cell) = (usize::from(it.record), usize::from(it.cell));
        let cells_first = self.edit == Some(Edit::JoinCellsBeforeOps);
        let ignores = self.edit == Some(Edit::JoinIgnoresReturns);
        match it.next {
            Step::Look => {
                state.returns_before = state.returns;
                it = Actor { next: Step::JoinSent, ..Actor::new(it.life, it.done) };
            }
            Step::JoinSent => {
                match self.tell(state.slots[self.slot_of(it.at)], Verb::Send, it.at)? {
                    Tells::Passed(at) => it.at = at,
                    _ if state.truth.sent != it.at => return Err("the frontier is wrong"),
                    _ => {
                        let bits = (0..).zip(state.truth.fates);
                        let sent = bits.filter(|(_, fate)| *fate != Fate::Unsent);
                        let sent = sent.fold(0, |sent, (bit, _)| sent | 1 << bit);
                        state.truth.due.get_or_insert(sent);
                        it.next = Step::JoinReceived;
                    }
                }
            }
            Step::JoinReceived => {
                let last = it.at.checked_sub(1);
                if last.is_some_and(|last| state.slots[self.slot_of(last)].at <= last) {
                    return Ok(true);
                }
                self.join_record(&mut it, me, 0);
            }
            Step::JoinOp => match state.ops[record] {
                Some(Op { verb: Verb::Recv, .. }) => return Ok(true),
                _ if cells_first => self.join_record(&mut it, me, record as u8 + 1),
                _ => it.next = Step::JoinCell,
            },
            Step::JoinCell => {
                match state.cells[record][cell].held {
                    Held::At(at) if at < it.at => return Ok(true),
                    Held::Undated if self.edit != Some(Edit::UndatedIsLast) => return Ok(true),
                    _ => it.cell += 1,
                }
                match it.cell == self.cells {
                    true if cells_first => it.next = Step::JoinOp,
                    true => self.join_record(&mut it, me, record as u8 + 1),
                    false => {}
                }
            }
            _ if state.returns != state.returns_before && !ignores => {
                it = Actor::new(it.life, it.done)
            }
            _ => {
                let due = state.truth.due.take().unwrap_or(0);
                let mut bits = (0..).zip(state.truth.fates);
                if bits.any(|(bit, fate)| due & 1 << bit != 0 && fate != Fate::Acknowledged) {
                    return Err("joined before all was acknowledged");
                }
                state.returns_before = 0;
                state.actors[me] = Actor::new(it.life, it.done + 1);
                return Ok(true);
            }
        }
        state.actors[me] = it;
        Ok(false)
    }

    /// Goes on to the first record from `from` on, or to the last look.
    fn join_record(&self, it: &mut Actor, me: usize, from: u8) {
        let record = self.next_record(from, me);
        (it.cell, it.record) = (0, record.unwrap_or(0));
        it.next = match (record, self.edit) {
            (None, _) => Step::JoinReturns,
            (_, Some(Edit::JoinWithoutOps | Edit::JoinCellsBeforeOps)) => Step::JoinCell,
            _ => Step::JoinOp,
        };
    }

    /// One line of a counterexample.
    pub(crate) fn describe(&self, before: &State, what: Move) -> String {
        let (Move::Step(me) | Move::Die(me) | Move::TakeOver(me)) = what;
        let slots = &before.slots[..usize::from(self.capacity)];
        let cells = &before.cells[me][..usize::from(self.cells)];
        let (it, op) = (before.actors[me], before.ops[me]);
        format!("{what:?} of {it:?}\n    op {op:?}, cells {cells:?}, slots {slots:?}")
    }
}

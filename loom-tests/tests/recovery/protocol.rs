//! The protocol, one access to a shared word a step.
//!
//! A record belongs to one process. Its *owner* is the thread that sends and receives; some records
//! have a *second* thread, which acknowledges and returns messages that the owner received. Each
//! thread works through its script. A death ends both threads at once. Then one auditor after the
//! other acts as the dead handle, in the owner's place.
//!
//! An access to a word that no other thread reads or writes at that time is part of the step before
//! or after: the message in the thread's own block, a word of the process under its lock, the words of
//! a record under the record's lock.
//!
//! Beside the shared words the state holds the *truth*, which no thread can read. It changes at the
//! exchange itself, and each step is checked against it.

use std::array::from_fn;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;

/// Four records with an owner each, and the survivor's: the survivor moves only when all others are
/// dead.
const RECORDS: usize = 5;
/// The owners have the numbers of their records. After them come the second threads.
const THREADS: usize = RECORDS + 2;
const SLOTS: usize = 2;
const CELLS: usize = 2;
const BLOCKS: usize = SLOTS + RECORDS * CELLS;
const MESSAGES: usize = 4;
/// More steps than any operation or audit takes alone.
const PATIENCE: usize = 100;

/// A description of the fault.
pub(crate) type Violation = &'static str;

/// An operation of a thread's script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Send,
    /// Takes a message into a free cell, or gets the end.
    Recv,
    /// Acknowledges the first lease. Without one an owner goes on, and a second thread waits.
    Ack,
    /// Returns the first lease instead. Without room in the ring the process owes the message.
    Nack,
    /// Has the process owe the first lease's message, whether or not there is room.
    Later,
    /// Returns the first message that the process owes. A second thread waits for one, and for room.
    Take,
    /// Receives that message again, in the cell where it is.
    Retake,
    Close,
    Join,
}

/// An edit of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The audit does not ask whether another record is just gaining the block in question.
    NoScan,
    /// It asks that of all slots, not only of the slot in question. It waits more often, and is not wrong.
    ScanEverySlot,
    /// An op names its position, not only its slot. So a thread that is gaining the block saw it
    /// where the dead handle put it, and the audit does not wait for that thread. Not wrong either.
    OpNamesPosition,
    /// The audit does not ask whether the other word of the same record is gaining the block.
    OtherWordUnasked,
    /// The audit puts a record off without asking for the other word.
    PutOffAtOnce,
    /// The audit settles one word of a record and leaves the other.
    OneWordSettled,
    /// A return is announced in the word of the owner.
    OneWord,
    NoTag,
    /// A tag names the record that gained the block.
    TagNamesRecord,
    /// A tag names the record, and which of its two words announced the gain.
    TagNamesWord,
    AnnounceAfterExchange,
    ClearBeforeTag,
    /// The process may use a cell again while the announcement of its return stands.
    FreeBeforeClear,
    /// A thread that returns what the process owes takes the lock after it chose the cell.
    ChooseUnlocked,
    /// The audit frees the held cells of the dead.
    ForgetHeld,
    /// The audit returns what they hold without an announcement.
    ReturnUnannounced,
    CountBeforeExchange,
    CountAfterCell,
    /// Every return counts, also of a message that no join waits for.
    CountEvery,
    /// A return asks the cell, not the block, where its message was received first.
    CountByCell,
    UndatedNotCounted,
    /// A message that is to be returned later is marked as redelivered, but not with its origin.
    LaterUndated,
    AuditDoesNotCount,
    /// The audit counts the return of the dead handle only if the position in the cell says so.
    AuditCountsByCell,
    /// The message that the dead handle had just received counts as received after all others.
    UndatedIsLast,
    /// A cell that received a redelivered message says where the message was received first.
    Restamp,
    JoinWithoutOps,
    JoinCellsBeforeOps,
    JoinIgnoresReturns,
    /// A join does not keep the position that another join said before, if that is later.
    JoinStores,
    /// A join does not search again for the last message sent, once it has said what it waits for.
    JoinLooksOnce,
    /// A receiver gets the end as soon as nothing is left in the ring.
    EndAtClosed,
    EndIgnoresOps,
    EndIgnoresReturns,
    NoReturnAtClosed,
    SendAtClosed,
    /// A sender does not ask whether the queue is closing, or asks before it loads the slot.
    SendUnasked,
    /// A sender counts its message after the exchange.
    ReserveAfterExchange,
    /// After a lost exchange the tally stays.
    LostCountsOn,
    /// The audit takes the number of a send back if it did not find that the exchange happened, as with
    /// a send that has settled all but its announcement.
    AuditGuesses,
    /// A new owner of a record begins at number 0.
    OwnerBeginsAnew,
    /// A message that is returned gets an id of the handle that returns it.
    ReturnRenames,
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

impl Verb {
    /// Which of a record's two words announces it.
    fn word(self) -> usize {
        usize::from(self == Self::Return)
    }
}

/// An exchange that a record announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Op {
    verb: Verb,
    cell: u8,
    /// The slot, or with `Edit::OpNamesPosition` the position: that names the slot, too.
    at: u8,
    gain: u8,
}

/// Whether a cell holds a message that is not acknowledged, and the position where it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Held {
    Free,
    At(u8),
    /// An auditor knows the slot but not the lap. Counts as before every position.
    Undated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cell {
    block: u8,
    held: Held,
    mine: Mine,
}

/// The process's own state of its cell, in a word that no other process reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mine {
    /// The owner may use it.
    Free,
    Leased,
    /// A thread is returning the message.
    Returning,
    /// The message is owed, because there was no room.
    Owed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Block {
    /// The cell that gained it.
    tag: u8,
    message: Option<u8>,
    redelivered: bool,
    /// Where a redelivered message was received first.
    origin: Held,
    id: Id,
}

/// The sender's record, and a number of that record.
type Id = (u8, u8);

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
    /// With `Edit::ChooseUnlocked`: takes the lock.
    Lock,
    /// Is the queue about to close? Asked when there is nothing to receive, or room to send.
    AskClosing,
    Seal,
    Announce,
    Exchange,
    Tag,
    CountReturn,
    /// Does a join wait for the returned message?
    AskJoins,
    CountDue,
    SetCell,
    ClearOp,
    ClearLost,
    AuditSlot,
    AuditOp,
    AuditTag,
    JoinFirst,
    JoinRaise,
    JoinCount,
    JoinSent,
    JoinReceived,
    JoinOp,
    JoinCell,
    JoinReturns,
    EndReturns,
    EndSlot,
    EndOp,
    EndCell,
    EndLast,
}

/// The private state of a thread or an auditor. Only the number of its done tasks outlives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Thread {
    life: Life,
    next: Step,
    done: u8,
    /// The cursor of `verb`, or the first position that a join does not wait for.
    at: u8,
    verb: Verb,
    /// It has the process's lock of returns, and returns the message in `cell`.
    has_lock: bool,
    cell: u8,
    gain: u8,
    seen: SlotState,
    /// What it asks next: a join, or a receiver before the end, asks a record. An audit asks a word, and
    /// each record has two.
    other: u8,
    /// The other word of the record under audit was put off.
    put_off: bool,
    /// The count of returns when a join began its round, or a receiver its search for the end.
    counted: u8,
    /// The message that is returned; `None` if an auditor returns it.
    message: Option<u8>,
    origin: Held,
}

impl Thread {
    fn new(life: Life, done: u8) -> Self {
        Self {
            life,
            next: Step::Look,
            done,
            at: 0,
            verb: Verb::Send,
            has_lock: false,
            cell: 0,
            gain: 0,
            seen: SlotState::Empty,
            other: 0,
            put_off: false,
            counted: 0,
            message: None,
            origin: Held::Free,
        }
    }

    /// Begins the operation again, with the cursor where it is.
    fn again(self) -> Self {
        let cell = if self.has_lock { self.cell } else { 0 };
        let (at, verb, has_lock) = (self.at, self.verb, self.has_lock);
        Self { at, verb, has_lock, cell, ..Self::new(self.life, self.done) }
    }
}

/// The state of a message.
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
    owned: [[u8; CELLS]; RECORDS],
    fates: [Fate; MESSAGES],
    /// The ids with which messages were sent.
    ids: [Option<Id>; MESSAGES],
    /// What each tally must be between two operations.
    tallies: [u8; RECORDS],
    sent: u8,
    received: u8,
    in_ring: [Option<u8>; SLOTS],
    sealed: bool,
    end_seen: bool,
    /// By owner: the messages sent when its join began, as bits.
    due: [u8; RECORDS],
    /// All messages that were sent when a join said what it waits for.
    awaited: u8,
    /// The position where each message in hands was received last, if a thread joins.
    received_at: [u8; MESSAGES],
    /// The owners with a join that has a reason to begin another round, as bits.
    must_ask_again: u8,
    deaths: u8,
    auditor_deaths: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    slots: [Slot; SLOTS],
    /// By `Verb::word`.
    ops: [[Option<Op>; 2]; RECORDS],
    cells: [[Cell; CELLS]; RECORDS],
    blocks: [Block; BLOCKS],
    threads: [Thread; THREADS],
    /// How many messages each record has sent: the number of its next message.
    tallies: [u8; RECORDS],
    rest: Rest,
    truth: Truth,
}

/// The words of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Rest {
    closing: bool,
    /// A join waits for the messages that were first received before this position.
    join_before: u8,
    returns: u8,
    /// The returns of messages that a join may wait for.
    due_returns: u8,
}

impl State {
    fn block_in(&mut self, me: usize, cell: u8) -> &mut Block {
        &mut self.blocks[usize::from(self.cells[me][usize::from(cell)].block)]
    }
}

/// The state of a position, by its slot.
enum Tells {
    Here,
    NotNow,
    Closed,
    /// The first position that the slot does not prove committed.
    Passed(u8),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Move {
    /// A thread makes a step.
    Step(usize),
    /// The process of a record dies, or its auditor.
    Die(usize),
    /// A process takes over a settled record, and the rest of its scripts.
    TakeOver(usize),
}

/// A queue, and its users.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) capacity: u8,
    pub(crate) cells: u8,
    /// Of each record's owner.
    pub(crate) scripts: &'static [&'static [Task]],
    /// Of second threads, each with its record.
    pub(crate) seconds: &'static [(usize, &'static [Task])],
    pub(crate) deaths: u8,
    pub(crate) auditor_deaths: u8,
    pub(crate) take_over: bool,
    pub(crate) edit: Option<Edit>,
}

impl Setup {
    pub(crate) fn start(&self) -> State {
        let first = |record: usize| self.capacity + record as u8 * self.cells;
        let owned: [[u8; CELLS]; RECORDS] =
            from_fn(|record| from_fn(|cell| first(record) + cell as u8));
        let empty =
            Block { tag: 0, message: None, redelivered: false, origin: Held::Free, id: (0, 0) };
        let mut blocks = [empty; BLOCKS];
        for (record, cell) in self.all_cells() {
            let tag = self.tag(record, cell as u8, Verb::Send);
            blocks[usize::from(owned[record][cell])].tag = tag;
        }
        let (held, mine) = (Held::Free, Mine::Free);
        State {
            slots: from_fn(|at| Slot { at: at as u8, state: SlotState::Empty, block: at as u8 }),
            ops: [[None; 2]; RECORDS],
            cells: owned.map(|row| row.map(|block| Cell { block, held, mine })),
            blocks,
            threads: [Thread::new(Life::Alive, 0); THREADS],
            tallies: [0; RECORDS],
            rest: Rest::default(),
            truth: Truth {
                owned,
                fates: [Fate::Unsent; MESSAGES],
                ids: [None; MESSAGES],
                tallies: [0; RECORDS],
                sent: 0,
                received: 0,
                in_ring: [None; SLOTS],
                sealed: false,
                end_seen: false,
                due: [0; RECORDS],
                awaited: 0,
                received_at: [0; MESSAGES],
                must_ask_again: 0,
                deaths: 0,
                auditor_deaths: 0,
            },
        }
    }

    /// Hashes what the setup uses of a state.
    pub(crate) fn hash(&self, state: &State, hasher: &mut impl Hasher) {
        let (records, cells) = (self.scripts.len() + 1, usize::from(self.cells));
        let slots = usize::from(self.capacity);
        state.slots[..slots].hash(hasher);
        state.blocks[..slots + records * cells].hash(hasher);
        state.ops[..records].hash(hasher);
        state.cells[..records].iter().for_each(|row| row[..cells].hash(hasher));
        state.threads[..records].hash(hasher);
        state.threads[RECORDS..][..self.seconds.len()].hash(hasher);
        if self.take_over {
            // Else nobody reads the tally of a dead handle, and those of the living follow from the rest.
            state.tallies[..records].hash(hasher);
        }
        state.rest.hash(hasher);
        state.truth.hash(hasher);
    }

    pub(crate) fn moves(&self, state: &State) -> impl Iterator<Item = Move> {
        let steps = self.threads().filter(|thread| self.may_step(state, *thread)).map(Move::Step);
        let others = (0..self.survivor()).flat_map(|me| {
            let life = state.threads[me].life;
            let is_settled = self.is_settled(state, me);
            let dies = match life {
                // The death of a process that leaves nothing open is the same as a process that never moves
                // again, so it is not searched.
                Life::Alive => state.truth.deaths < self.deaths && !is_settled,
                Life::Dead => false,
                Life::Audited => state.truth.auditor_deaths < self.auditor_deaths,
            };
            let has_task = self.threads_of(me).any(|thread| self.task(state, thread).is_some());
            let taken = self.take_over && life == Life::Dead && is_settled && has_task;
            let moves = [(dies, Move::Die(me)), (taken, Move::TakeOver(me))];
            moves.into_iter().filter_map(|(may, what)| may.then_some(what))
        });
        steps.chain(others)
    }

    /// Whether a thread, or an auditor in the place of an owner, has something to do.
    fn may_step(&self, state: &State, thread: usize) -> bool {
        match state.threads[thread].life {
            Life::Alive => self.is_busy(state, thread),
            Life::Dead => thread < RECORDS && !self.is_settled(state, thread),
            Life::Audited => true,
        }
    }

    /// A thread is in the midst of an operation, or has one to begin.
    pub(crate) fn is_busy(&self, state: &State, thread: usize) -> bool {
        state.threads[thread].next != Step::Look || self.task(state, thread).is_some()
    }

    pub(crate) fn make(&self, state: &mut State, what: Move) -> Result<(), Violation> {
        match what {
            Move::Step(thread) => drop(self.step(state, thread)?),
            Move::Die(me) => {
                match state.threads[me].life {
                    Life::Audited => state.truth.auditor_deaths += 1,
                    _ => state.truth.deaths += 1,
                }
                self.die(state, me);
            }
            Move::TakeOver(me) => {
                for thread in self.threads_of(me) {
                    state.threads[thread].life = Life::Alive;
                }
                if self.edit == Some(Edit::OwnerBeginsAnew) {
                    state.tallies[me] = 0;
                }
                // With a number more if the last owner died before an exchange.
                state.truth.tallies[me] = state.tallies[me];
            }
        }
        self.each_block_is_in_one_place(state, |me, cell| state.truth.owned[me][cell])
    }

    fn die(&self, state: &mut State, me: usize) {
        for thread in self.threads_of(me) {
            state.threads[thread] = Thread::new(Life::Dead, state.threads[thread].done);
        }
        for cell in &mut state.cells[me] {
            cell.mine = Mine::Free;
        }
    }

    /// Each thread that lives, and each auditor, comes to the end of its operation alone, whatever the
    /// others left undone. Only a return may have to wait for another return of the same process. Only
    /// threads that `asked` names are checked: the others were checked in an earlier state.
    pub(crate) fn each_goes_on_alone(
        &self,
        state: &State,
        asked: impl Fn(usize) -> bool,
    ) -> Result<(), Violation> {
        self.threads()
            .filter(|thread| state.threads[*thread].life != Life::Dead && asked(*thread))
            .filter(|thread| self.may_step(state, *thread))
            .try_for_each(|thread| self.run(&mut { *state }, thread))
    }

    /// The thread that made this step, if the step was within an operation.
    pub(crate) fn goes_on(&self, before: &State, what: Move, after: &State) -> Option<usize> {
        let Move::Step(thread) = what else { return None };
        let was_alone = before.threads[thread].life != Life::Dead;
        (was_alone && after.threads[thread].next != Step::Look).then_some(thread)
    }

    /// The state after all threads die in this one.
    pub(crate) fn all_dead(&self, mut state: State) -> State {
        for me in 0..self.survivor() {
            self.die(&mut state, me);
        }
        let truth = &mut state.truth;
        (truth.deaths, truth.auditor_deaths) = (0, 0);
        (truth.due, truth.awaited, truth.must_ask_again) = ([0; RECORDS], 0, 0);
        state
    }

    /// The survivor audits the dead, drains the ring and joins: no message is lost, and no step waits
    /// without end.
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
        if state.rest.closing && !state.truth.end_seen {
            return Err("the end is never told");
        }
        state.threads[survivor] = Thread::new(Life::Alive, 1);
        self.run(&mut state, survivor)?;
        let joined = state.threads[survivor].done == 2;
        joined.then_some(()).ok_or("a join waits for nothing")
    }

    /// Runs a thread alone to the end of its operation, or until it would have to wait.
    pub(crate) fn run(&self, state: &mut State, thread: usize) -> Result<(), Violation> {
        for _ in 0..PATIENCE {
            if self.step(state, thread)? {
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

    /// All threads but the survivor.
    fn threads(&self) -> impl Iterator<Item = usize> {
        (0..self.survivor()).chain(RECORDS..RECORDS + self.seconds.len())
    }

    fn record_of(&self, thread: usize) -> usize {
        thread.checked_sub(RECORDS).map_or(thread, |second| self.seconds[second].0)
    }

    fn threads_of(&self, me: usize) -> impl Iterator<Item = usize> {
        self.threads().filter(move |thread| self.record_of(*thread) == me)
    }

    fn all_cells(&self) -> impl Iterator<Item = (usize, usize)> {
        let cells = usize::from(self.cells);
        self.records().flat_map(move |me| (0..cells).map(move |cell| (me, cell)))
    }

    fn script(&self, thread: usize) -> &'static [Task] {
        let second = thread.checked_sub(RECORDS).map(|second| self.seconds[second].1);
        second.unwrap_or_else(|| self.scripts[thread])
    }

    fn task(&self, state: &State, thread: usize) -> Option<Task> {
        let done = state.threads[thread].done;
        if thread != self.survivor() {
            return self.script(thread).get(usize::from(done)).copied();
        }
        Some(match (done, self.cell_that_is(state, thread, Mine::Leased)) {
            (0, None) => Task::Recv,
            (0, Some(_)) => Task::Ack,
            _ => Task::Join,
        })
    }

    fn finish_task(&self, it: &mut Thread, thread: usize) {
        it.done += u8::from(thread != self.survivor() && it.life == Life::Alive);
    }

    fn cell_that_is(&self, state: &State, me: usize, mine: Mine) -> Option<u8> {
        (0..self.cells).find(|cell| state.cells[me][usize::from(*cell)].mine == mine)
    }

    fn held_cell(&self, state: &State, me: usize) -> Option<u8> {
        (0..self.cells).find(|cell| state.cells[me][usize::from(*cell)].held != Held::Free)
    }

    /// Whether a thread of the record has the lock of its returns.
    fn is_returning(&self, state: &State, me: usize) -> bool {
        self.threads_of(me).any(|thread| state.threads[thread].has_lock)
    }

    /// Whether nothing is left to audit.
    fn is_settled(&self, state: &State, me: usize) -> bool {
        state.ops[me] == [None; 2] && self.held_cell(state, me).is_none()
    }

    /// Whether a word of a record is announced, or may be later. A load of any other word takes no step,
    /// because it finds the same value at any time.
    fn may_be_announced(&self, state: &State, record: usize, word: usize) -> bool {
        let is_alive = state.threads[record].life == Life::Alive;
        let has = |any: &[Task]| {
            let rest =
                |thread: usize| &self.script(thread)[usize::from(state.threads[thread].done)..];
            let mut tasks = self.threads_of(record).flat_map(rest);
            (is_alive || self.take_over) && tasks.any(|task| any.contains(task))
        };
        // An auditor returns the messages that the dead handle received.
        let may_be_dead = !is_alive || state.truth.deaths < self.deaths;
        let [op, returning] = state.ops[record];
        match word {
            0 => op.is_some() || has(&[Task::Send, Task::Recv]),
            _ => {
                let may_hold = self.held_cell(state, record).is_some()
                    || op.is_some_and(|op| op.verb == Verb::Recv)
                    || has(&[Task::Recv]);
                returning.is_some() || has(&[Task::Nack, Task::Take]) || may_be_dead && may_hold
            }
        }
    }

    /// The first record from `from` on but `me` that a join asks: it receives, or has received.
    fn next_record(&self, state: &State, from: u8, me: usize) -> Option<u8> {
        (from..self.survivor() as u8).find(|other| {
            let other = usize::from(*other);
            other != me && self.may_hold(state, other)
        })
    }

    fn may_hold(&self, state: &State, record: usize) -> bool {
        self.may_be_announced(state, record, 0) || self.held_cell(state, record).is_some()
    }

    /// The first word from `from` on that an audit asks, of all records but `me`.
    fn next_word(&self, state: &State, from: u8, me: usize) -> Option<u8> {
        (from..2 * self.survivor() as u8).find(|other| {
            let (record, word) = word_of(*other);
            record != me && self.may_be_announced(state, record, word)
        })
    }

    /// Messages are numbered by sender, then in the order of its script.
    fn next_message(&self, state: &State, me: usize) -> u8 {
        let before = self.scripts[..me].iter().copied().flatten();
        let mine = &self.scripts[me][..usize::from(state.threads[me].done)];
        before.chain(mine).filter(|task| **task == Task::Send).count() as u8
    }

    fn closes(&self) -> bool {
        self.scripts.iter().any(|script| script.contains(&Task::Close))
    }

    /// If no thread joins, returns need not be counted for joins.
    fn joins(&self) -> bool {
        self.scripts.iter().any(|script| script.contains(&Task::Join))
    }

    fn slot_of(&self, at: u8) -> usize {
        usize::from(at % self.capacity)
    }

    /// The tag of a block that a cell gains.
    fn tag(&self, me: usize, cell: u8, verb: Verb) -> u8 {
        let within = match self.edit {
            Some(Edit::TagNamesRecord) => 0,
            Some(Edit::TagNamesWord) => verb.word() as u8,
            _ => cell,
        };
        (me * CELLS) as u8 + within
    }

    fn word(&self, verb: Verb) -> usize {
        if self.edit == Some(Edit::OneWord) { 0 } else { verb.word() }
    }

    /// The steps after a load that found the operation possible in the slot.
    fn order(&self, verb: Verb, life: Life) -> &'static [Step] {
        use Step::{Announce, AskJoins, ClearOp, CountDue, CountReturn, Exchange, SetCell, Tag};
        match (self.edit, verb, life) {
            (Some(Edit::AnnounceAfterExchange), ..) => {
                &[Exchange, Announce, Tag, CountReturn, AskJoins, CountDue, SetCell, ClearOp]
            }
            (Some(Edit::ClearBeforeTag), ..) => {
                &[Announce, Exchange, ClearOp, Tag, CountReturn, AskJoins, CountDue, SetCell]
            }
            (Some(Edit::NoTag), ..) => {
                &[Announce, Exchange, CountReturn, AskJoins, CountDue, SetCell, ClearOp]
            }
            (Some(Edit::ReturnUnannounced), Verb::Return, Life::Audited) => {
                &[Exchange, Tag, CountReturn, AskJoins, CountDue, SetCell]
            }
            (Some(Edit::CountBeforeExchange), Verb::Return, _) => {
                &[Announce, CountReturn, AskJoins, CountDue, Exchange, Tag, SetCell, ClearOp]
            }
            (Some(Edit::CountAfterCell), Verb::Return, _) => {
                &[Announce, Exchange, Tag, SetCell, CountReturn, AskJoins, CountDue, ClearOp]
            }
            _ => &[Announce, Exchange, Tag, CountReturn, AskJoins, CountDue, SetCell, ClearOp],
        }
    }

    /// Goes on to the step after this, or ends the operation. Returns whether it ended.
    fn go_on(&self, it: &mut Thread) -> bool {
        let is_skipped = |step: Step| match step {
            Step::CountReturn => it.verb != Verb::Return || !self.closes(),
            Step::CountDue => it.verb != Verb::Return || !self.joins(),
            Step::AskJoins => it.verb != Verb::Return || !self.joins() || it.message.is_none(),
            _ => false,
        };
        let mut rest = self.order(it.verb, it.life).iter().copied();
        rest.find(|step| *step == it.next);
        match rest.find(|step| !is_skipped(*step)) {
            Some(next) => it.next = next,
            None => {
                *it = Thread { has_lock: false, ..*it }.again();
                // An auditor that settled an op does not know its position.
                it.at = if it.life == Life::Alive { it.at + 1 } else { 0 };
            }
        }
        it.next == Step::Look
    }

    /// Makes the next step of a thread. Returns whether an operation ended with it, or has to wait.
    fn step(&self, state: &mut State, thread: usize) -> Result<bool, Violation> {
        let mut it = state.threads[thread];
        let me = self.record_of(thread);
        let (slot, cell) = (self.slot_of(it.at), usize::from(it.cell));
        let mut ended = false;
        match it.next {
            Step::Look => return self.begin(state, thread),
            Step::Lock if self.is_returning(state, me) => return Ok(true),
            Step::Lock => return self.begin_return(state, thread, it.cell),
            Step::AskClosing if state.rest.closing => it.next = Step::Seal,
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
                let op = Op { verb: it.verb, cell: it.cell, at, gain: it.gain };
                state.ops[me][self.word(it.verb)] = Some(op);
                // Before the announcement. Only the next owner reads the tally.
                let reserves = self.edit != Some(Edit::ReserveAfterExchange);
                state.tallies[me] += u8::from(it.verb == Verb::Send && reserves);
                self.go_on(&mut it);
            }
            Step::Exchange => {
                if state.slots[slot] == (Slot { at: it.at, state: it.seen, block: it.gain }) {
                    self.exchange(state, thread)?;
                    state.truth.tallies[me] += u8::from(it.verb == Verb::Send);
                    self.finish_task(&mut it, thread);
                    self.go_on(&mut it);
                } else {
                    it.next = Step::ClearLost;
                }
            }
            Step::Tag => {
                let counts = self.edit == Some(Edit::ReserveAfterExchange);
                let is_own = (it.verb, it.life) == (Verb::Send, Life::Alive);
                state.tallies[me] += u8::from(is_own && counts);
                state.blocks[usize::from(it.gain)].tag = self.tag(me, it.cell, it.verb);
                self.go_on(&mut it);
            }
            Step::AskJoins => {
                let is_due = match it.origin {
                    Held::At(at) => {
                        at < state.rest.join_before || self.edit == Some(Edit::CountEvery)
                    }
                    _ => self.edit != Some(Edit::UndatedNotCounted),
                };
                self.go_on(&mut it);
                if !is_due {
                    self.go_on(&mut it);
                }
            }
            Step::CountReturn => {
                state.rest.returns += u8::from(!self.forgets(state, &it));
                self.go_on(&mut it);
            }
            Step::CountDue => {
                state.rest.due_returns += u8::from(!self.forgets(state, &it));
                self.have_joins_ask_again(state, &it);
                self.go_on(&mut it);
            }
            Step::SetCell => {
                let held = match (it.verb, it.life) {
                    (Verb::Send | Verb::Return, _) => Held::Free,
                    (Verb::Recv, Life::Alive) => Held::At(it.at),
                    (Verb::Recv, _) => Held::Undated,
                };
                let cell = &mut state.cells[me][cell];
                (cell.block, cell.held) = (it.gain, held);
                if (it.verb, self.edit) == (Verb::Return, Some(Edit::FreeBeforeClear)) {
                    cell.mine = Mine::Free;
                }
                ended = self.go_on(&mut it);
            }
            Step::ClearOp => {
                state.ops[me][self.word(it.verb)] = None;
                let cell = &mut state.cells[me][cell];
                let gained = state.blocks[usize::from(it.gain)];
                match (it.verb, it.life) {
                    (_, Life::Dead | Life::Audited) => {}
                    (Verb::Return, _) if self.edit == Some(Edit::FreeBeforeClear) => {}
                    (Verb::Send | Verb::Return, _) => cell.mine = Mine::Free,
                    (Verb::Recv, _) => cell.mine = Mine::Leased,
                }
                if self.edit == Some(Edit::Restamp) && it.verb == Verb::Recv && gained.redelivered {
                    cell.held = gained.origin;
                }
                ended = self.go_on(&mut it);
            }
            Step::ClearLost => {
                let stays = [Edit::ReserveAfterExchange, Edit::LostCountsOn].map(Some);
                let is_own = (it.verb, it.life) == (Verb::Send, Life::Alive);
                state.tallies[me] -= u8::from(is_own && !stays.contains(&self.edit));
                self.guess(state, me, it.verb);
                state.ops[me][self.word(it.verb)] = None;
                it = it.again();
            }
            Step::AuditSlot | Step::AuditOp | Step::AuditTag => return self.audit(state, me),
            Step::EndReturns | Step::EndSlot | Step::EndOp | Step::EndCell | Step::EndLast => {
                return self.end(state, thread);
            }
            _ => return self.join(state, thread),
        }
        state.threads[thread] = it;
        Ok(ended)
    }

    /// The first step of a task, or of an auditor.
    fn begin(&self, state: &mut State, thread: usize) -> Result<bool, Violation> {
        let it = state.threads[thread];
        let me = self.record_of(thread);
        if it.life != Life::Alive {
            return self.begin_audit(state, me);
        }
        if it.has_lock {
            return self.look(state, thread, Verb::Return, it.cell);
        }
        if state.tallies[me] != state.truth.tallies[me] && thread == me {
            return Err("a message is counted that was not sent");
        }
        let task = self.task(state, thread);
        let wanted = match task {
            Some(Task::Send | Task::Recv) => Some(Mine::Free),
            Some(Task::Ack | Task::Nack | Task::Later) => Some(Mine::Leased),
            Some(Task::Take | Task::Retake) => Some(Mine::Owed),
            _ => None,
        };
        match (task, wanted.and_then(|wanted| self.cell_that_is(state, me, wanted))) {
            (Some(Task::Send), Some(cell)) => {
                let message = Some(self.next_message(state, me));
                let id = (me as u8, state.tallies[me]);
                let block = state.block_in(me, cell);
                (block.message, block.redelivered, block.origin) = (message, false, Held::Free);
                block.id = id;
                self.look(state, thread, Verb::Send, cell)
            }
            (Some(Task::Recv), Some(cell)) => self.look(state, thread, Verb::Recv, cell),
            (Some(Task::Take), Some(cell)) if self.edit == Some(Edit::ChooseUnlocked) => {
                state.threads[thread] = Thread { cell, next: Step::Lock, ..it };
                Ok(false)
            }
            (Some(Task::Nack | Task::Later | Task::Take | Task::Retake), Some(_))
                if self.is_returning(state, me) =>
            {
                Ok(true)
            }
            (Some(Task::Nack | Task::Take), Some(cell)) => self.begin_return(state, thread, cell),
            (Some(Task::Close), _) if state.rest.closing => self.look(state, thread, Verb::Send, 0),
            (Some(Task::Close), _) => {
                state.rest.closing = true;
                Ok(false)
            }
            (Some(Task::Join), _) => self.join(state, thread),
            (_, None) if thread >= RECORDS => Ok(true),
            (task, cell) => {
                match (task, cell) {
                    (Some(Task::Ack), Some(cell)) => self.acknowledge(state, me, cell)?,
                    (Some(Task::Later), Some(cell)) => {
                        match self.edit {
                            Some(Edit::LaterUndated) => state.block_in(me, cell).redelivered = true,
                            _ => self.mark(state, me, cell),
                        }
                        state.cells[me][usize::from(cell)].mine = Mine::Owed;
                    }
                    (Some(Task::Retake), Some(cell)) => {
                        state.cells[me][usize::from(cell)].mine = Mine::Leased;
                    }
                    _ => {}
                }
                self.finish_task(&mut state.threads[thread], thread);
                Ok(true)
            }
        }
    }

    /// Takes the lock and the cell.
    fn begin_return(&self, state: &mut State, thread: usize, cell: u8) -> Result<bool, Violation> {
        state.cells[self.record_of(thread)][usize::from(cell)].mine = Mine::Returning;
        let it = &mut state.threads[thread];
        (it.has_lock, it.next) = (true, Step::Look);
        self.look(state, thread, Verb::Return, cell)
    }

    /// Loads and classifies the slot at the cursor of `verb`.
    fn look(
        &self,
        state: &mut State,
        thread: usize,
        verb: Verb,
        cell: u8,
    ) -> Result<bool, Violation> {
        let mut it = state.threads[thread];
        let me = self.record_of(thread);
        let task = self.task(state, thread);
        let is_close = it.life == Life::Alive && task == Some(Task::Close);
        if verb != it.verb {
            it.at = 0; // a cursor may also be far behind
        }
        (it.verb, it.cell) = (verb, cell);
        if verb == Verb::Return {
            self.mark(state, me, cell);
            let block = state.block_in(me, cell);
            (it.message, it.origin) = (block.message, block.origin);
        }
        let seen = state.slots[self.slot_of(it.at)];
        let asks = self.closes() && (verb, self.edit) != (Verb::Send, Some(Edit::SendUnasked));
        let next = match (self.tell(seen, verb, it.at)?, verb) {
            (Tells::Passed(at), _) => {
                state.threads[thread] = Thread { at, ..it.again() };
                return Ok(false);
            }
            (Tells::Closed, Verb::Recv) if self.edit != Some(Edit::EndAtClosed) => {
                state.threads[thread] = Thread { next: Step::EndReturns, ..it };
                return Ok(false);
            }
            (Tells::Here, _) if is_close => Step::Seal,
            (Tells::Here, Verb::Send) | (Tells::NotNow, Verb::Recv) if asks => Step::AskClosing,
            (Tells::Here, _) | (Tells::Closed, Verb::Return) => self.order(verb, it.life)[0],
            (Tells::Closed, Verb::Send) if self.edit == Some(Edit::SendAtClosed) && !is_close => {
                self.order(verb, it.life)[0]
            }
            (told, _) => {
                let is_owed = verb == Verb::Return && it.life == Life::Alive;
                if is_owed {
                    state.cells[me][usize::from(cell)].mine = Mine::Owed;
                    it.has_lock = false;
                }
                // A second thread that returns owed messages waits for room.
                let goes_on = is_owed && (task, thread < RECORDS) != (Some(Task::Take), false);
                if goes_on || matches!(told, Tells::Closed) || is_close {
                    state.truth.end_seen |= verb == Verb::Recv; // by an edit
                    self.finish_task(&mut it, thread);
                }
                state.threads[thread] = match it.life {
                    // There may be room later. Until then the lock is free.
                    Life::Audited => Thread::new(Life::Dead, it.done),
                    _ => it.again(),
                };
                return Ok(true);
            }
        };
        state.threads[thread] = Thread { next, gain: seen.block, seen: seen.state, ..it };
        Ok(false)
    }

    /// Marks a message that is returned as redelivered, with its origin.
    fn mark(&self, state: &mut State, me: usize, cell: u8) {
        let received = state.cells[me][usize::from(cell)].held;
        let other_id = (me as u8, state.tallies[me]);
        let block = state.block_in(me, cell);
        if self.edit == Some(Edit::ReturnRenames) {
            block.id = other_id;
        }
        if self.joins() && (!block.redelivered || self.edit == Some(Edit::CountByCell)) {
            block.origin = received;
        }
        block.redelivered = true;
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
    fn exchange(&self, state: &mut State, thread: usize) -> Result<(), Violation> {
        let it = state.threads[thread];
        let (me, slot) = (self.record_of(thread), self.slot_of(it.at));
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
            if truth.end_seen {
                return Err("received after the end");
            }
            if truth.ids[usize::from(message)] != Some(gained.id) {
                return Err("a message has another id than before");
            }
            *fate = Fate::Delivered;
            truth.received_at[usize::from(message)] = if self.joins() { it.at } else { 0 };
            truth.received += 1;
            let at = it.at + self.capacity;
            state.slots[slot] = Slot { at, state: SlotState::Empty, block: offer };
        } else {
            let Block { message: Some(message), id, .. } = state.blocks[usize::from(offer)] else {
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
            if it.verb == Verb::Send {
                if truth.ids.contains(&Some(id)) {
                    return Err("two messages have one id");
                }
                truth.ids[usize::from(message)] = Some(id);
            }
            truth.received_at[usize::from(message)] = 0;
            truth.in_ring[slot] = Some(message);
            truth.sent += 1;
            state.slots[slot] = Slot { at: it.at, state: SlotState::Full, block: offer };
        }
        Ok(())
    }

    fn acknowledge(&self, state: &mut State, me: usize, cell: u8) -> Result<(), Violation> {
        let it = &mut state.cells[me][usize::from(cell)];
        (it.held, it.mine) = (Held::Free, Mine::Free);
        let block = state.block_in(me, cell);
        (block.redelivered, block.origin, block.id) = (false, Held::Free, (0, 0));
        let message = block.message.take();
        let Some(message) = message.map(usize::from) else {
            return Err("acknowledged without a message");
        };
        state.truth.received_at[message] = 0;
        let before = std::mem::replace(&mut state.truth.fates[message], Fate::Acknowledged);
        let held = before == Fate::Delivered;
        held.then_some(()).ok_or("acknowledged by one that does not hold it")
    }

    /// Maybe an edit takes the number of a send back.
    fn guess(&self, state: &mut State, me: usize, verb: Verb) {
        let is_audit = state.threads[me].life == Life::Audited;
        if is_audit && (verb, self.edit) == (Verb::Send, Some(Edit::AuditGuesses)) {
            state.tallies[me] = state.tallies[me].saturating_sub(1);
        }
    }

    /// Whether an edit leaves a return out of the count.
    fn forgets(&self, state: &State, it: &Thread) -> bool {
        match self.edit {
            Some(Edit::AuditDoesNotCount) => it.life == Life::Audited,
            Some(Edit::AuditCountsByCell) if it.message.is_none() => {
                !matches!(it.origin, Held::At(at) if at < state.rest.join_before)
            }
            _ => false,
        }
    }

    /// In truth: whether some join waits for the returned message, or whether that cannot be known.
    fn have_joins_ask_again(&self, state: &mut State, it: &Thread) {
        let awaited = state.truth.awaited;
        // An auditor does not know which message the dead handle returned, because the block may belong to
        // another handle by now.
        let is_due = it.message.is_none_or(|message| awaited & 1 << message != 0);
        if is_due || it.origin == Held::Undated {
            let is_joining = |thread: &usize| {
                let is_amid = state.threads[*thread].next != Step::Look;
                is_amid && self.task(state, *thread) == Some(Task::Join)
            };
            let joining = (0..self.survivor()).filter(is_joining);
            state.truth.must_ask_again = joining.fold(0, |bits, thread| bits | 1 << thread);
        }
    }

    /// Takes the dead handle's lock, or goes on: first the announcements, then the held messages.
    fn begin_audit(&self, state: &mut State, me: usize) -> Result<bool, Violation> {
        let it = state.threads[me];
        let first = state.ops[me].iter().flatten().next().copied();
        let is_done = it.life == Life::Audited && self.edit == Some(Edit::OneWordSettled);
        match (first.filter(|_| !is_done), self.held_cell(state, me)) {
            (Some(op), _) => {
                self.audit_op(state, me, op);
                return Ok(false);
            }
            (None, Some(cell)) if self.edit == Some(Edit::ForgetHeld) => {
                state.cells[me][usize::from(cell)].held = Held::Free;
            }
            (None, Some(cell)) if it.life == Life::Audited => {
                return self.look(state, me, Verb::Return, cell);
            }
            (None, Some(_)) => state.threads[me].life = Life::Audited,
            (None, None) => {
                state.threads[me] = Thread::new(Life::Dead, it.done);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn audit_op(&self, state: &mut State, me: usize, op: Op) {
        let Cell { block, held, .. } = state.cells[me][usize::from(op.cell)];
        let it = &mut state.threads[me];
        (it.life, it.verb, it.cell, it.gain) = (Life::Audited, op.verb, op.cell, op.gain);
        it.origin = if self.joins() { held } else { Held::Free };
        it.next = if block == op.gain { Step::ClearOp } else { Step::AuditSlot };
        if block == op.gain {
            self.guess(state, me, op.verb);
        }
    }

    /// Did the dead handle's exchange happen? The questions are in the order in which they must be asked.
    fn audit(&self, state: &mut State, me: usize) -> Result<bool, Violation> {
        let mut it = state.threads[me];
        let word = self.word(it.verb);
        let Some(op) = state.ops[me][word] else { return Err("the op under audit is gone") };
        let offer = state.cells[me][usize::from(op.cell)].block;
        let names_position = self.edit == Some(Edit::OpNamesPosition);
        let every_slot = self.edit == Some(Edit::ScanEverySlot);
        // Where a thread that gains the block after the dead handle's exchange finds it.
        let parked = names_position && op.verb == Verb::Recv;
        let found_at = if parked { op.at + self.capacity } else { op.at };
        let is_gaining = |other: Op| other.gain == offer && (other.at == found_at || every_slot);
        let own_other = state.ops[me][1 - word];
        let asked = match it.next {
            Step::AuditOp => {
                let (record, word) = word_of(it.other);
                state.ops[record][word]
            }
            Step::AuditTag if self.edit == Some(Edit::OtherWordUnasked) => None,
            Step::AuditTag => own_other,
            _ => None,
        };
        let exchanged = match it.next {
            Step::AuditSlot if state.slots[self.slot_of(op.at)].block == offer => true,
            _ if asked.is_some_and(is_gaining) => {
                if !names_position {
                    // Postponed until that thread settles its word, or dies too. The other word may be
                    // settled first.
                    let at_once = it.put_off || self.edit == Some(Edit::PutOffAtOnce);
                    match own_other.filter(|_| !at_once) {
                        Some(other) => {
                            state.threads[me] =
                                Thread { put_off: true, ..Thread::new(Life::Audited, it.done) };
                            self.audit_op(state, me, other);
                            return Ok(false);
                        }
                        None => {
                            state.threads[me] = Thread::new(Life::Dead, it.done);
                            return Ok(true);
                        }
                    }
                }
                true
            }
            Step::AuditSlot | Step::AuditOp => {
                let from = if it.next == Step::AuditSlot { 0 } else { it.other + 1 };
                let other =
                    self.next_word(state, from, me).filter(|_| self.edit != Some(Edit::NoScan));
                it.other = other.unwrap_or(0);
                it.next = if other.is_some() { Step::AuditOp } else { Step::AuditTag };
                state.threads[me] = it;
                return Ok(false);
            }
            _ => state.blocks[usize::from(offer)].tag != self.tag(me, op.cell, op.verb),
        };
        if exchanged != (state.truth.owned[me][usize::from(op.cell)] == op.gain) {
            return Err("the verdict of an audit is wrong");
        }
        it.next = if exchanged { Step::Exchange } else { Step::ClearLost };
        if exchanged {
            self.go_on(&mut it);
        }
        state.threads[me] = it;
        Ok(false)
    }

    /// Are all messages that were sent before acknowledged? If one is not, the join asks again.
    fn join(&self, state: &mut State, thread: usize) -> Result<bool, Violation> {
        let mut it = state.threads[thread];
        let (record, cell) = (usize::from(it.other), usize::from(it.cell));
        let sent = |state: &State| {
            let bits = (0..).zip(state.truth.fates).filter(|(_, fate)| *fate != Fate::Unsent);
            bits.fold(0, |bits, (bit, _)| bits | 1 << bit)
        };
        let cells_first = self.edit == Some(Edit::JoinCellsBeforeOps);
        let ignores = self.edit == Some(Edit::JoinIgnoresReturns);
        match it.next {
            // One load of each slot finds all messages that were sent before the first load.
            Step::Look | Step::JoinFirst | Step::JoinSent => {
                if it.next == Step::Look {
                    state.truth.due[thread] = sent(state);
                    it = Thread { next: Step::JoinFirst, ..Thread::new(it.life, it.done) };
                }
                let slot = state.slots[usize::from(it.other)];
                let is_full = slot.state == SlotState::Full;
                let lap = if is_full { 0 } else { self.capacity };
                it.at = it.at.max((slot.at + 1).saturating_sub(lap));
                it.other += 1;
                if it.other == self.capacity {
                    it.other = 0;
                    it.next = if it.next == Step::JoinSent {
                        Step::JoinReceived
                    } else {
                        state.truth.awaited |= sent(state);
                        Step::JoinRaise
                    };
                }
            }
            Step::JoinRaise => {
                let before = state.rest.join_before;
                let stores = self.edit == Some(Edit::JoinStores);
                state.rest.join_before = if stores { it.at } else { it.at.max(before) };
                it.next = Step::JoinCount;
            }
            Step::JoinCount => {
                self.join_count(state, &mut it, thread);
                let once = self.edit == Some(Edit::JoinLooksOnce);
                it.next = if once { Step::JoinReceived } else { Step::JoinSent };
            }
            Step::JoinReceived => {
                let last = it.at.checked_sub(1);
                if last.is_some_and(|last| state.slots[self.slot_of(last)].at <= last) {
                    return Ok(true);
                }
                self.join_record(state, &mut it, thread, 0);
            }
            Step::JoinOp => match state.ops[record][0] {
                Some(Op { verb: Verb::Recv, .. }) => return Ok(true),
                _ if cells_first => self.join_record(state, &mut it, thread, record as u8 + 1),
                _ => it.next = Step::JoinCell,
            },
            Step::JoinCell => {
                match state.cells[record][cell].held {
                    Held::At(at) if at < it.at => {
                        let Cell { block, .. } = state.cells[record][cell];
                        let is_here = state.truth.owned[record][cell] == block;
                        let message = state.blocks[usize::from(block)].message.filter(|_| is_here);
                        let at =
                            message.map(|message| state.truth.received_at[usize::from(message)]);
                        if at.is_some_and(|at| at >= it.at) {
                            return Err("a join waits for what was received after it looked");
                        }
                        return Ok(true);
                    }
                    Held::Undated if self.edit != Some(Edit::UndatedIsLast) => return Ok(true),
                    _ => it.cell += 1,
                }
                match it.cell == self.cells {
                    true if cells_first => it.next = Step::JoinOp,
                    true => self.join_record(state, &mut it, thread, record as u8 + 1),
                    false => {}
                }
            }
            _ if state.rest.due_returns != it.counted && !ignores => {
                if state.truth.must_ask_again & 1 << thread == 0 {
                    return Err("a join begins anew for a message that no join waits for");
                }
                it = Thread { at: it.at, next: Step::JoinSent, ..Thread::new(it.life, it.done) };
                self.join_count(state, &mut it, thread);
            }
            _ => {
                let due = std::mem::take(&mut state.truth.due[thread]);
                let mut bits = (0..).zip(state.truth.fates);
                if bits.any(|(bit, fate)| due & 1 << bit != 0 && fate != Fate::Acknowledged) {
                    return Err("joined before all was acknowledged");
                }
                state.threads[thread] = Thread::new(it.life, it.done + 1);
                return Ok(true);
            }
        }
        state.threads[thread] = it;
        Ok(false)
    }

    /// The ring is closed, and nothing is left in it. The receiver gets the end if no message can be
    /// returned; else it asks again.
    fn end(&self, state: &mut State, thread: usize) -> Result<bool, Violation> {
        let mut it = state.threads[thread];
        let (record, cell) = (usize::from(it.other), usize::from(it.cell));
        let mut is_in_hands = false;
        match it.next {
            Step::EndReturns => {
                it.counted = state.rest.returns;
                it.next = Step::EndSlot;
            }
            Step::EndSlot => {
                let seen = state.slots[self.slot_of(it.at)];
                match self.tell(seen, Verb::Recv, it.at)? {
                    Tells::Closed => self.end_record(state, &mut it, 0),
                    _ => it = it.again(),
                }
            }
            Step::EndOp => {
                is_in_hands = matches!(state.ops[record][0], Some(Op { verb: Verb::Recv, .. }))
                    && self.edit != Some(Edit::EndIgnoresOps);
                it.next = Step::EndCell;
            }
            Step::EndCell => {
                is_in_hands = state.cells[record][cell].held != Held::Free;
                it.cell += 1;
                if it.cell == self.cells {
                    self.end_record(state, &mut it, record + 1);
                }
            }
            _ if state.rest.returns != it.counted && self.edit != Some(Edit::EndIgnoresReturns) => {
                it = it.again();
            }
            _ => {
                self.finish_task(&mut it, thread);
                state.threads[thread] = it.again();
                state.truth.end_seen = true;
                let is_over = |fate: &Fate| matches!(fate, Fate::Unsent | Fate::Acknowledged);
                let all = state.truth.fates.iter().all(is_over);
                return all.then_some(true).ok_or("the end is told while a message may come back");
            }
        }
        state.threads[thread] = if is_in_hands { it.again() } else { it };
        Ok(is_in_hands)
    }

    /// Goes on to the first record from `from` on that may have a message, or to the last check.
    fn end_record(&self, state: &State, it: &mut Thread, from: usize) {
        let record = (from..self.survivor()).find(|record| self.may_hold(state, *record));
        (it.cell, it.other) = (0, record.unwrap_or(0) as u8);
        it.next = if record.is_some() { Step::EndOp } else { Step::EndLast };
    }

    /// Begins a round.
    fn join_count(&self, state: &mut State, it: &mut Thread, thread: usize) {
        it.counted = state.rest.due_returns;
        state.truth.must_ask_again &= !(1 << thread);
    }

    /// Goes on to the first record from `from` on, or to the last check.
    fn join_record(&self, state: &State, it: &mut Thread, me: usize, from: u8) {
        let record = self.next_record(state, from, me);
        (it.cell, it.other) = (0, record.unwrap_or(0));
        it.next = match (record, self.edit) {
            (None, _) => Step::JoinReturns,
            (_, Some(Edit::JoinWithoutOps | Edit::JoinCellsBeforeOps)) => Step::JoinCell,
            _ => Step::JoinOp,
        };
    }

    /// One line of a counterexample.
    pub(crate) fn describe(&self, before: &State, what: Move) -> String {
        let thread = match what {
            Move::Step(thread) | Move::Die(thread) | Move::TakeOver(thread) => thread,
        };
        let me = self.record_of(thread);
        let slots = &before.slots[..usize::from(self.capacity)];
        let cells = &before.cells[me][..usize::from(self.cells)];
        let (it, ops) = (before.threads[thread], before.ops[me]);
        format!("{what:?} of {it:?}\n    ops {ops:?}, cells {cells:?}, slots {slots:?}")
    }
}

/// The record of a word, and which of the record's two words it is.
fn word_of(other: u8) -> (usize, usize) {
    (usize::from(other / 2), usize::from(other % 2))
}

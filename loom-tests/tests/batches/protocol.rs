//! The protocol of batches, one access to a shared word a step.
//!
//! A swap is three steps here at most: the writes before the exchange, the exchange, and the store of
//! the cell. Between the last two a record has an *op*, and an audit knows from it that the exchange
//! happened: `recovery.rs` checks that it can know. The slots are a queue of blocks for the same reason.
//!
//! A record belongs to one process. Its *owner* is the thread that sends or receives. Each lease ends on
//! a thread of its own, and the thread that settles a block returns it under the lock of returns, or as
//! soon as it gets that lock. A death ends all threads of a process at once. Then one auditor after the
//! other acts as the dead handle.
//!
//! What a receiver does next is not a script: it leases, receives, drops its handle, acknowledges and
//! returns in every order that the setup allows.
//!
//! Beside the words the state holds the *truth*, which no thread can read. Each step is checked against
//! it.

use std::array::from_fn;
use std::hash::{Hash, Hasher};

/// Three records with an owner each, and the survivor's: the survivor moves only when all others are
/// dead.
const RECORDS: usize = 4;
const SLOTS: usize = 2;
const CELLS: usize = 2;
const BLOCKS: usize = SLOTS + RECORDS * CELLS;
/// Messages in a block at most.
const MOST: usize = 3;
const MESSAGES: usize = 5;
/// One bit for each message that a block can have.
const ALL: u8 = (1 << MOST) - 1;
/// More steps than any operation or audit takes alone.
const PATIENCE: usize = 200;
/// More than any record sends.
const IDS: u8 = 16;

/// A description of the fault.
pub(crate) type Violation = &'static str;

/// An edit of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The shared word of acknowledgements decides whether a block is settled, not the private one.
    SharedDecides,
    /// An acknowledgement goes to the private word first, and then to the shared one.
    PrivateFirst,
    /// An acknowledgement that finds all other messages of its block settled frees the cell, even if some
    /// go back.
    LastFreesReturned,
    /// A nack says that the message is settled before it says that the message goes back.
    SettledBeforeReturned,
    /// A nack does not settle its message: it counts as a lease for ever.
    NackIsLease,
    /// A nack returns the block at once, beside the leases of other messages.
    NackReturnsAtOnce,
    /// `recv` marks its message in the word of the leases, by a load and a store.
    RecvStoresAcknowledged,
    /// The last lease of a block is given to the program before the owner has left the block.
    LeaveAfterLease,
    /// A receive that empties the block frees the cell beside the leases of other messages.
    FreeBesideLeases,
    /// A dropped handle forgets the messages that were not handed out.
    DropForgetsRest,
    /// A dropped handle returns the block beside the leases of its messages.
    DropReturnsAtOnce,
    /// A dropped handle flags the messages that were not handed out.
    DropFlagsRest,
    ResetAfterExchange,
    ResetBeforeFlags,
    FlagsAfterExchange,
    NoReset,
    /// The lease is given to the program before the boundary is stored.
    BoundaryAfterLease,
    /// The attempt is counted after the lease is given to the program.
    CountAfterLease,
    /// A message that was returned is handed out without a count.
    NoCount,
    /// The attempt is counted by the return itself, so a repeated return counts it again.
    ReturnCounts,
    /// Every message of a block that was returned before counts an attempt when it is handed out.
    CountEach,
    SendKeepsBoundary,
    SendKeepsAcknowledged,
    SendKeepsReceived,
    /// A receiver does not skip what was acknowledged before the block was returned.
    NoSkip,
    /// The audit does not ask the word of the leases.
    AuditIgnoresAcknowledged,
    /// The audit does not ask the word of `recv`.
    AuditIgnoresReceived,
    AuditFlagsAll,
    AuditFlagsNone,
    /// The audit returns only what was handed out.
    AuditForgetsRest,
    /// The audit returns a held block in which all is acknowledged.
    AuditReturnsEmpty,
    /// What the handle owes is returned by a thread without the lock of returns.
    TakeUnlocked,
    /// A receiver without a free cell does not receive what it owes itself.
    NeverTakesOwed,
    /// A sender fills its block from the end.
    SendBackwards,
    ReserveAfterExchange,
    /// A return gives the messages new ids.
    ReturnRenames,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Frame {
    message: u8,
    attempts: u8,
    redelivered: bool,
    /// The next receiver counts an attempt.
    returned: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Block {
    /// The id of the first message.
    id: u8,
    /// The extent: how many messages there are, before which message all were handed out, and whether
    /// the block was returned.
    count: u8,
    handed: u8,
    came_back: bool,
    /// The messages that `recv` received. Only the receiving thread stores it.
    received: u8,
    /// The messages whose leases were acknowledged.
    acked: u8,
    frames: [Frame; MOST],
}

impl Block {
    fn mask(&self) -> u8 {
        below(self.count)
    }

    fn done(&self) -> u8 {
        self.received | self.acked
    }
}

fn below(count: u8) -> u8 {
    (1 << count) - 1
}

fn bit(at: u8) -> u8 {
    1 << at
}

/// The process's own state of its cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mine {
    #[default]
    Free,
    /// The owner hands its messages out, or leases live.
    InUse,
    /// All is settled: a thread is about to free the cell, or waits for the lock of returns.
    Settled,
    Returning,
    Owed,
}

/// A lease, and the thread that ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Lease {
    #[default]
    None,
    Out,
    /// The first of the two stores of an acknowledgement is done.
    Acking,
    /// The first of the two stores of a return.
    Returning,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Cell {
    /// The two shared parts.
    block: u8,
    held: bool,
    mine: Mine,
    /// A bit for each message that needs nothing more from a lease or from the owner.
    settled: u8,
    /// The messages that were handed out and go back.
    returned: u8,
    /// The messages that were not handed out and go back.
    rest: u8,
    leases: [Lease; MOST],
    /// The block of the leases.
    leased: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Verb {
    Send,
    Recv,
    Return,
}

/// An exchange that happened. The cell does not show it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Op {
    verb: Verb,
    cell: u8,
    gain: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Life {
    #[default]
    Alive,
    /// The lock is free.
    Dead,
    /// An auditor has the lock.
    Audited,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Next {
    #[default]
    Idle,
    /// The block is written, the ids are reserved.
    Send,
    /// With `Edit::ReserveAfterExchange`.
    Reserve,
    SetCell,
    /// The message is given to a lease, or to `recv`.
    Lease,
    Recv,
    /// With an edit: the lease is out, and this is left.
    Boundary,
    Count,
    /// With `Edit::RecvStoresAcknowledged`.
    Store,
    /// The last message was handed out.
    Leave,
}

/// The private state of the thread that sends or receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Owner {
    next: Next,
    /// The cell whose messages it hands out.
    current: Option<u8>,
    /// The message that it hands out next.
    at: u8,
    /// The messages that were acknowledged before.
    skip: u8,
    /// The messages that it gave to leases.
    leased: u8,
    /// The last message of the block, for which the lease is made once the owner has left the block.
    gives: Option<u8>,
    /// With `Edit::RecvStoresAcknowledged`: the word that it loaded.
    loaded: u8,
    /// The last message that it was the first to hand out, of blocks that were never returned.
    last: Option<u8>,
    /// The handle was dropped.
    is_gone: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Step {
    #[default]
    Idle,
    Flag,
    Reset,
    Exchange,
    SetCell,
}

/// The private state of the thread with the lock of returns, or of an auditor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Return {
    next: Step,
    cell: u8,
    /// The messages that it flags.
    flags: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Record {
    life: Life,
    cells: [Cell; CELLS],
    /// What the owner exchanged, and what a return exchanged.
    op: Option<Op>,
    returning: Option<Op>,
    /// The ids that were reserved, in the shared record.
    tally: u8,
    /// The blocks of its script that were sent.
    done: u8,
    owner: Owner,
    back: Return,
}

/// The truth about a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Fate {
    is_sent: bool,
    is_acked: bool,
    /// A lease has it.
    is_out: bool,
    /// How often it was handed out.
    seen: u8,
    id: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Truth {
    owned: [[u8; CELLS]; RECORDS],
    fates: [Fate; MESSAGES],
    deaths: u8,
    auditor_deaths: u8,
    nacks: u8,
    drops: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    slots: [u8; SLOTS],
    /// The first full slot, and the number of full slots.
    first: u8,
    full: u8,
    blocks: [Block; BLOCKS],
    records: [Record; RECORDS],
    truth: Truth,
}

/// What a thread, or an auditor, does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// The next step of the owner's operation.
    Go,
    /// An operation begins.
    Send,
    Take,
    TakeOwed,
    Lease,
    Recv,
    /// The handle is dropped.
    Drop,
    Ack(u8, u8),
    Nack(u8, u8),
    /// The second store of a lease's end.
    End(u8, u8),
    /// The thread that settled a block goes on.
    Finish(u8),
    ReturnOwed(u8),
    GiveBack,
    Audit,
    Die,
    TakeOver,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    record: usize,
    act: Act,
}

/// The owner of a record: a sender with the number of messages of each block, or a receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Sender(&'static [u8]),
    Receiver,
}

/// A queue, and its users.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) capacity: u8,
    pub(crate) cells: u8,
    pub(crate) roles: &'static [Role],
    /// How many messages are returned by a program, and how many handles are dropped.
    pub(crate) nacks: u8,
    pub(crate) drops: u8,
    pub(crate) deaths: u8,
    pub(crate) auditor_deaths: u8,
    /// A settled record of a dead process gets a new owner.
    pub(crate) take_over: bool,
    /// Whether receivers use `recv` beside leases.
    pub(crate) recv: bool,
    pub(crate) edit: Option<Edit>,
}

const NOT_OWNED: Violation = "a block is used by one that does not own it";

impl Setup {
    pub(crate) fn start(&self) -> State {
        let first = |record: usize| self.capacity + record as u8 * self.cells;
        let owned: [[u8; CELLS]; RECORDS] =
            from_fn(|record| from_fn(|cell| first(record) + cell as u8));
        let records = owned.map(|row| Record {
            cells: row.map(|block| Cell { block, ..Cell::default() }),
            ..Record::default()
        });
        State {
            slots: from_fn(|slot| slot as u8),
            first: 0,
            full: 0,
            blocks: [Block::default(); BLOCKS],
            records,
            truth: Truth { owned, ..Truth::default() },
        }
    }

    /// Hashes what the setup uses of a state.
    pub(crate) fn hash(&self, state: &State, hasher: &mut impl Hasher) {
        let (slots, records) = (usize::from(self.capacity), self.roles.len() + 1);
        let cells = usize::from(self.cells);
        state.slots[..slots].hash(hasher);
        (state.first, state.full).hash(hasher);
        state.blocks[..slots + records * cells].hash(hasher);
        state.records[..records].hash(hasher);
        state.truth.hash(hasher);
    }

    pub(crate) fn moves(&self, state: &State) -> impl Iterator<Item = Move> {
        let mut moves = Vec::new();
        for record in 0..self.survivor() {
            let mut may = |act| moves.push(Move { record, act });
            self.acts(state, record).into_iter().for_each(&mut may);
            let Record { life, op, owner, .. } = state.records[record];
            let is_settled = self.is_settled(state, record);
            // The death of a process that leaves nothing open is the same as a process that never moves
            // again, so it is not searched.
            let is_idle = is_settled && owner.next == Next::Idle && op.is_none();
            let dies = match life {
                Life::Alive => state.truth.deaths < self.deaths && !is_idle,
                Life::Dead => false,
                Life::Audited => state.truth.auditor_deaths < self.auditor_deaths,
            };
            if dies {
                may(Act::Die);
            }
            if self.take_over && life == Life::Dead && is_settled {
                may(Act::TakeOver);
            }
        }
        moves.into_iter()
    }

    /// What the threads of a record, or its auditor, can do.
    fn acts(&self, state: &State, me: usize) -> Vec<Act> {
        let it = &state.records[me];
        match it.life {
            Life::Alive => {}
            Life::Dead if self.is_settled(state, me) => return Vec::new(),
            Life::Dead | Life::Audited => return vec![Act::Audit],
        }
        let mut acts = Vec::new();
        let has_room = state.full < self.capacity;
        let cells = &it.cells[..usize::from(self.cells)];
        let can_return = it.back.next == Step::Idle || self.edit == Some(Edit::TakeUnlocked);
        for (number, cell) in (0..).zip(cells) {
            for (at, lease) in (0..).zip(cell.leases) {
                match lease {
                    Lease::None => {}
                    Lease::Out => {
                        acts.push(Act::Ack(number, at));
                        if state.truth.nacks < self.nacks {
                            acts.push(Act::Nack(number, at));
                        }
                    }
                    _ => acts.push(Act::End(number, at)),
                }
            }
            let goes_back = cell.returned | cell.rest != 0;
            if cell.mine == Mine::Settled && (!goes_back || it.back.next == Step::Idle) {
                acts.push(Act::Finish(number));
            }
            if cell.mine == Mine::Owed && has_room && can_return {
                acts.push(Act::ReturnOwed(number));
            }
        }
        if it.back.next != Step::Idle {
            acts.push(Act::GiveBack);
        }
        match (it.owner.next, self.role(me)) {
            (Next::Idle, Role::Sender(script)) => {
                if usize::from(it.done) < script.len() {
                    acts.push(Act::Send);
                }
            }
            (Next::Idle, Role::Receiver) if it.owner.is_gone => {}
            (Next::Idle, Role::Receiver) => self.receives(state, me, &mut acts),
            (Next::Send, _) if !has_room => {}
            _ => acts.push(Act::Go),
        }
        acts
    }

    /// What a receiver between two calls can do.
    fn receives(&self, state: &State, me: usize, acts: &mut Vec<Act>) {
        let it = &state.records[me];
        let cells = &it.cells[..usize::from(self.cells)];
        let free = cells.iter().filter(|cell| cell.mine == Mine::Free).count();
        match it.owner.current {
            Some(current) => {
                let cell = &it.cells[usize::from(current)];
                // The thread that ends an earlier lease of that number is not done yet, by an edit.
                if cell.leases[usize::from(it.owner.at)] != Lease::None {
                    return;
                }
                // One cell stays free for `recv`: leases count blocks.
                let has_lease = cell.leases.contains(&Lease::Out);
                if me != self.survivor() && (free > 0 || has_lease) {
                    acts.push(Act::Lease);
                }
                if self.recv || me == self.survivor() {
                    acts.push(Act::Recv);
                }
            }
            // One cell stays free for `recv`, also if the program only makes leases.
            None if free > usize::from(!self.recv && me != self.survivor()) => {
                if state.full > 0 {
                    acts.push(Act::Take);
                }
            }
            None => {
                let takes = it.back.next == Step::Idle && self.edit != Some(Edit::NeverTakesOwed);
                if cells.iter().any(|cell| cell.mine == Mine::Owed) && takes {
                    acts.push(Act::TakeOwed);
                }
            }
        }
        if state.truth.drops < self.drops && me != self.survivor() {
            acts.push(Act::Drop);
        }
    }

    pub(crate) fn make(&self, state: &mut State, what: Move) -> Result<(), Violation> {
        self.act(state, what.record, what.act)?;
        self.each_block_is_in_one_place(state, |me, cell| state.truth.owned[me][cell])?;
        // What a join and the end of a closed queue find.
        let is_in_hands = |me| {
            let it: &Record = &state.records[me];
            it.cells.iter().any(|cell| cell.held) || it.op.is_some_and(|op| op.verb == Verb::Recv)
        };
        let mut fates = state.truth.fates.iter();
        if state.full == 0
            && !(0..=self.survivor()).any(is_in_hands)
            && fates.any(|fate| fate.is_sent && !fate.is_acked)
        {
            return Err("the end is told while a message may come back");
        }
        Ok(())
    }

    fn act(&self, state: &mut State, me: usize, act: Act) -> Result<(), Violation> {
        let next = |it: &mut Record, next| it.owner.next = next;
        match act {
            Act::Go => return self.go(state, me),
            Act::Send => {
                self.write(state, me)?;
                next(&mut state.records[me], Next::Send);
            }
            Act::Take => {
                let cell = self.cell_that_is(state, me, Mine::Free);
                let Some(cell) = cell else { return Err("no cell is free") };
                self.exchange(state, me, cell, Verb::Recv)?;
                next(&mut state.records[me], Next::SetCell);
            }
            Act::TakeOwed => {
                let cell = self.cell_that_is(state, me, Mine::Owed);
                let Some(cell) = cell else { return Err("nothing is owed") };
                self.open(state, me, cell)?;
            }
            Act::Lease | Act::Recv => return self.hand_out(state, me, act == Act::Lease),
            Act::Drop => {
                state.truth.drops += 1;
                state.records[me].owner.is_gone = true;
                if let Some(cell) = state.records[me].owner.current {
                    self.leave(state, me, cell);
                }
            }
            Act::Ack(cell, at) => {
                if self.is_last(state, me, cell, at) {
                    // No other thread uses the cell now. To free it says that all is acknowledged.
                    self.acknowledge(state, me, cell, at)?;
                    let leases = &mut state.records[me].cells[usize::from(cell)].leases;
                    leases[usize::from(at)] = Lease::None;
                    return self.free(state, me, cell);
                }
                if self.edit == Some(Edit::PrivateFirst) {
                    self.settle(state, me, cell, bit(at), true);
                } else {
                    self.acknowledge(state, me, cell, at)?;
                }
                state.records[me].cells[usize::from(cell)].leases[usize::from(at)] = Lease::Acking;
            }
            Act::Nack(cell, at) => {
                state.truth.nacks += 1;
                let block = self.block_of(state, me, cell)?;
                let message = state.blocks[block].frames[usize::from(at)].message;
                state.truth.fates[usize::from(message)].is_out = false;
                if self.edit == Some(Edit::SettledBeforeReturned) {
                    self.settle(state, me, cell, bit(at), true);
                } else {
                    state.records[me].cells[usize::from(cell)].returned |= bit(at);
                }
                let lease = &mut state.records[me].cells[usize::from(cell)].leases[usize::from(at)];
                *lease = Lease::Returning;
            }
            Act::End(number, at) => {
                let it = &mut state.records[me];
                let is_busy = it.owner.current == Some(number) || it.owner.next != Next::Idle;
                let cell = &mut it.cells[usize::from(number)];
                let lease = std::mem::take(&mut cell.leases[usize::from(at)]);
                match (lease, self.edit) {
                    (Lease::Acking, Some(Edit::PrivateFirst)) => {
                        return self.acknowledge(state, me, number, at);
                    }
                    (Lease::Returning, Some(Edit::SettledBeforeReturned)) => {
                        cell.returned |= bit(at);
                    }
                    (Lease::Returning, Some(Edit::NackIsLease)) => {}
                    (Lease::Returning, Some(Edit::NackReturnsAtOnce)) if !is_busy => {
                        (cell.settled, cell.mine) = (ALL, Mine::Settled);
                    }
                    (_, Some(Edit::SharedDecides)) => {
                        self.settle(state, me, number, bit(at), false);
                        if lease == Lease::Returning {
                            self.decide_by_shared(state, me, number)?;
                        }
                    }
                    _ => self.settle(state, me, number, bit(at), true),
                }
            }
            Act::Finish(number) => {
                let it = &mut state.records[me];
                let cell = &mut it.cells[usize::from(number)];
                if cell.returned | cell.rest == 0 {
                    return self.free(state, me, number);
                }
                cell.mine = Mine::Returning;
                let rest = if self.edit == Some(Edit::DropFlagsRest) { cell.rest } else { 0 };
                let flags = cell.returned | rest;
                it.back = Return { next: self.order()[0], cell: number, flags };
            }
            Act::ReturnOwed(cell) => {
                let it = &mut state.records[me];
                if self.edit != Some(Edit::TakeUnlocked) {
                    it.cells[usize::from(cell)].mine = Mine::Returning;
                }
                it.back = Return { next: Step::Exchange, cell, flags: 0 };
            }
            Act::GiveBack => return self.give_back(state, me),
            Act::Audit => return self.audit(state, me),
            Act::Die => {
                match state.records[me].life {
                    Life::Audited => state.truth.auditor_deaths += 1,
                    _ => state.truth.deaths += 1,
                }
                self.die(state, me);
            }
            Act::TakeOver => state.records[me].life = Life::Alive,
        }
        Ok(())
    }

    /// The next step of the owner's operation.
    fn go(&self, state: &mut State, me: usize) -> Result<(), Violation> {
        let next = state.records[me].owner.next;
        state.records[me].owner.next = Next::Idle;
        match next {
            Next::Idle => {}
            Next::Send => {
                self.exchange(state, me, 0, Verb::Send)?;
                state.records[me].done += 1;
                let reserves = self.edit == Some(Edit::ReserveAfterExchange);
                let next = if reserves { Next::Reserve } else { Next::SetCell };
                state.records[me].owner.next = next;
            }
            Next::Reserve => {
                let Role::Sender(script) = self.role(me) else { return Err("no sender") };
                let it = &mut state.records[me];
                it.tally += script[usize::from(it.done) - 1];
                it.owner.next = Next::SetCell;
            }
            Next::SetCell => {
                let Some(Op { verb, cell, .. }) = state.records[me].op else {
                    return Err("no op to be settled");
                };
                self.set_cell(state, me, Verb::Recv);
                if verb == Verb::Recv {
                    return self.open(state, me, cell);
                }
            }
            Next::Lease => return self.give_lease(state, me),
            Next::Recv => return self.receive(state, me),
            Next::Boundary => {
                self.store_boundary(state, me)?;
                self.go_on(state, me);
            }
            Next::Count => {
                self.count(state, me)?;
                self.go_on(state, me);
            }
            Next::Store => {
                let (cell, at) = self.current(state, me)?;
                let loaded = state.records[me].owner.loaded;
                let block = self.block_of(state, me, cell)?;
                state.blocks[block].acked = loaded | bit(at);
                self.deliver(state, me, at, true)?;
                self.go_on(state, me);
            }
            Next::Leave => {
                let (cell, _) = self.current(state, me)?;
                if state.records[me].owner.leased == 0 || self.edit == Some(Edit::FreeBesideLeases)
                {
                    // No lease was made of this block.
                    let Owner { last, .. } = state.records[me].owner;
                    state.records[me].owner = Owner { last, ..Owner::default() };
                    return self.free(state, me, cell);
                }
                self.leave(state, me, cell);
            }
        }
        Ok(())
    }

    /// Writes the next messages into the block of sends, and reserves their ids.
    fn write(&self, state: &mut State, me: usize) -> Result<(), Violation> {
        let Role::Sender(script) = self.role(me) else { return Err("a receiver sends") };
        let sent = usize::from(state.records[me].done);
        let count = script[sent];
        let before = self.roles[..me].iter().map(|role| match role {
            Role::Sender(script) => script.iter().sum::<u8>(),
            Role::Receiver => 0,
        });
        let first = before.sum::<u8>() + script[..sent].iter().sum::<u8>();
        let block = self.block_of(state, me, 0)?;
        let (block, it) = (&mut state.blocks[block], &mut state.records[me]);
        (block.id, block.count, block.came_back) = (me as u8 * IDS + it.tally, count, false);
        if self.edit != Some(Edit::SendKeepsBoundary) {
            block.handed = 0;
        }
        if self.edit != Some(Edit::SendKeepsReceived) {
            block.received = 0;
        }
        if self.edit != Some(Edit::SendKeepsAcknowledged) {
            block.acked = 0;
        }
        let is_backwards = self.edit == Some(Edit::SendBackwards);
        let place = |at: u8| if is_backwards { count - 1 - at } else { at };
        block.frames = from_fn(|at| match at < usize::from(count) {
            true => Frame { message: first + place(at as u8), attempts: 1, ..Frame::default() },
            false => Frame::default(),
        });
        if self.edit != Some(Edit::ReserveAfterExchange) {
            it.tally += count;
        }
        Ok(())
    }

    /// Begins to hand out the messages of the block in `cell`.
    fn open(&self, state: &mut State, me: usize, cell: u8) -> Result<(), Violation> {
        let block = state.blocks[self.block_of(state, me, cell)?];
        if block.mask() & !block.done() == 0 {
            return Err("a block in the ring has no message");
        }
        let skip = if self.edit == Some(Edit::NoSkip) { 0 } else { block.done() };
        let it = &mut state.records[me];
        let cell_of = &mut it.cells[usize::from(cell)];
        cell_of.mine = Mine::InUse;
        (cell_of.settled, cell_of.returned, cell_of.rest) = (0, 0, 0);
        cell_of.leased = cell_of.block;
        let owner = Owner { current: Some(cell), skip, last: it.owner.last, ..Owner::default() };
        it.owner = owner;
        // A block in the ring has the boundary 0.
        it.owner.at = self.next_from(&block, skip, block.handed);
        if it.owner.at == block.count {
            it.owner.next = Next::Leave;
        }
        Ok(())
    }

    /// The first message from `from` on that is not acknowledged.
    fn next_from(&self, block: &Block, skip: u8, from: u8) -> u8 {
        (from..block.count).find(|at| skip & bit(*at) == 0).unwrap_or(block.count)
    }

    /// The cell and the message that the owner hands out.
    fn current(&self, state: &State, me: usize) -> Result<(u8, u8), Violation> {
        let Owner { current, at, .. } = state.records[me].owner;
        Ok((current.ok_or("no block to hand out")?, at))
    }

    /// Counts an attempt if the message was returned. Handing it out is the next step.
    fn hand_out(&self, state: &mut State, me: usize, leases: bool) -> Result<(), Violation> {
        let (cell, at) = self.current(state, me)?;
        let block = state.blocks[self.block_of(state, me, cell)?];
        let counts = block.frames[usize::from(at)].returned
            || self.edit == Some(Edit::CountEach) && block.came_back;
        state.records[me].owner.next = if leases { Next::Lease } else { Next::Recv };
        match self.edit {
            Some(Edit::NoCount | Edit::CountAfterLease) => {}
            _ if counts => return self.count(state, me),
            _ => {}
        }
        // Without a count the first step is the next one.
        self.go(state, me)
    }

    fn count(&self, state: &mut State, me: usize) -> Result<(), Violation> {
        let (cell, at) = self.current(state, me)?;
        let block = self.block_of(state, me, cell)?;
        let frame = &mut state.blocks[block].frames[usize::from(at)];
        frame.attempts += u8::from(self.edit != Some(Edit::ReturnCounts));
        (frame.redelivered, frame.returned) = (true, false);
        Ok(())
    }

    fn store_boundary(&self, state: &mut State, me: usize) -> Result<(), Violation> {
        let (cell, at) = self.current(state, me)?;
        let block = self.block_of(state, me, cell)?;
        state.blocks[block].handed = at + 1;
        Ok(())
    }

    /// Stores the boundary: from here on the program has the lease.
    fn give_lease(&self, state: &mut State, me: usize) -> Result<(), Violation> {
        let (cell, at) = self.current(state, me)?;
        self.deliver(state, me, at, false)?;
        if state.records[me].cells[usize::from(cell)].leases[usize::from(at)] != Lease::None {
            return Err("a lease is made twice");
        }
        if self.edit != Some(Edit::BoundaryAfterLease) {
            self.store_boundary(state, me)?;
        }
        let it = &mut state.records[me];
        it.owner.leased |= bit(at);
        let block = state.blocks[self.block_of(state, me, cell)?];
        match self.edit {
            Some(Edit::BoundaryAfterLease) => state.records[me].owner.next = Next::Boundary,
            Some(Edit::CountAfterLease) if block.frames[usize::from(at)].returned => {
                state.records[me].owner.next = Next::Count;
            }
            _ => self.go_on(state, me),
        }
        let it = &mut state.records[me];
        if it.owner.next == Next::Leave && self.edit != Some(Edit::LeaveAfterLease) {
            it.owner.gives = Some(at);
        } else {
            it.cells[usize::from(cell)].leases[usize::from(at)] = Lease::Out;
        }
        Ok(())
    }

    /// Marks the message as received, in the word of the receiving thread.
    fn receive(&self, state: &mut State, me: usize) -> Result<(), Violation> {
        let (cell, at) = self.current(state, me)?;
        let block = self.block_of(state, me, cell)?;
        if self.edit == Some(Edit::RecvStoresAcknowledged) {
            let owner = &mut state.records[me].owner;
            (owner.loaded, owner.next) = (state.blocks[block].acked, Next::Store);
            return Ok(());
        }
        self.deliver(state, me, at, true)?;
        self.go_on(state, me);
        let owner = state.records[me].owner;
        if owner.next == Next::Leave && owner.leased == 0 {
            // To free the cell says that all is acknowledged.
            return self.go(state, me);
        }
        state.blocks[block].received |= bit(at);
        Ok(())
    }

    /// In truth: the program gets the message.
    fn deliver(&self, state: &mut State, me: usize, at: u8, acked: bool) -> Result<(), Violation> {
        let (cell, _) = self.current(state, me)?;
        let block = state.blocks[self.block_of(state, me, cell)?];
        let frame = block.frames[usize::from(at)];
        let fate = &mut state.truth.fates[usize::from(frame.message)];
        if !fate.is_sent || fate.is_out {
            return Err("a message is in two hands");
        }
        if fate.is_acked {
            return Err("a message comes again after it was acknowledged");
        }
        if block.id + at != fate.id {
            return Err("a message has another id than before");
        }
        let attempts = match self.edit {
            // The count is a later step.
            Some(Edit::CountAfterLease) => frame.attempts + u8::from(frame.returned),
            _ => frame.attempts,
        };
        if attempts != fate.seen + 1 {
            return Err("the attempts are not how often the message was handed out");
        }
        if (frame.redelivered || attempts > frame.attempts) != (fate.seen > 0) {
            return Err("the mark of a redelivery is wrong");
        }
        let last = &mut state.records[me].owner.last;
        let is_one_sender =
            self.roles.iter().filter(|it| matches!(it, Role::Sender(_))).count() == 1;
        if is_one_sender && !block.came_back {
            if last.is_some_and(|last| last >= frame.message) {
                return Err("a receiver gets the messages of a sender out of order");
            }
            *last = Some(frame.message);
        }
        fate.seen += 1;
        (fate.is_out, fate.is_acked) = (!acked, acked);
        Ok(())
    }

    /// Goes on to the next message, or leaves the block.
    fn go_on(&self, state: &mut State, me: usize) {
        let it = &mut state.records[me];
        let Some(cell) = it.owner.current else { return };
        let block = &state.blocks[usize::from(it.cells[usize::from(cell)].block)];
        it.owner.at = self.next_from(block, it.owner.skip, it.owner.at + 1);
        let is_last = it.owner.at == block.count;
        it.owner.next = if is_last { Next::Leave } else { Next::Idle };
    }

    /// The owner is done with the block: what it gave to no lease needs nothing more from it.
    fn leave(&self, state: &mut State, me: usize, cell: u8) {
        let it = &mut state.records[me];
        let block = &state.blocks[usize::from(it.cells[usize::from(cell)].block)];
        let rest = block.mask() & !below(it.owner.at) & !it.owner.skip;
        if self.edit != Some(Edit::DropForgetsRest) {
            it.cells[usize::from(cell)].rest = rest;
        }
        let is_all = self.edit == Some(Edit::DropReturnsAtOnce) && rest != 0;
        let settled = if is_all { ALL } else { !it.owner.leased & ALL };
        (it.owner.current, it.owner.at, it.owner.skip, it.owner.leased) = (None, 0, 0, 0);
        if let Some(at) = it.owner.gives.take() {
            it.cells[usize::from(cell)].leases[usize::from(at)] = Lease::Out;
        }
        self.settle(state, me, cell, settled, true);
    }

    /// Marks messages as settled in the private word. Only its value decides.
    fn settle(&self, state: &mut State, me: usize, cell: u8, bits: u8, decides: bool) {
        let cell = &mut state.records[me].cells[usize::from(cell)];
        cell.settled |= bits;
        if decides && cell.settled == ALL {
            cell.mine = Mine::Settled;
        }
    }

    /// Whether all other messages of the block are settled, and none goes back.
    fn is_last(&self, state: &State, me: usize, cell: u8, at: u8) -> bool {
        let cell = &state.records[me].cells[usize::from(cell)];
        let goes_back = cell.returned | cell.rest != 0;
        let waits = goes_back && self.edit != Some(Edit::LastFreesReturned);
        cell.settled | bit(at) == ALL && !waits && self.edit != Some(Edit::SharedDecides)
    }

    /// The acknowledgement in the shared word.
    fn acknowledge(&self, state: &mut State, me: usize, cell: u8, at: u8) -> Result<(), Violation> {
        let block = state.records[me].cells[usize::from(cell)].leased;
        if state.truth.owned[me][usize::from(cell)] != block {
            return Err(NOT_OWNED);
        }
        let block = &mut state.blocks[usize::from(block)];
        block.acked |= bit(at);
        let message = block.frames[usize::from(at)].message;
        let fate = &mut state.truth.fates[usize::from(message)];
        if !fate.is_out {
            return Err("acknowledged by one that does not hold it");
        }
        (fate.is_out, fate.is_acked) = (false, true);
        if self.edit == Some(Edit::SharedDecides) {
            self.decide_by_shared(state, me, cell)?;
        }
        Ok(())
    }

    /// By an edit: the block is settled if the shared word has every message that goes not back.
    fn decide_by_shared(&self, state: &mut State, me: usize, cell: u8) -> Result<(), Violation> {
        let block = state.blocks[self.block_of(state, me, cell)?];
        let it = &mut state.records[me];
        let (is_current, cell) = (it.owner.current == Some(cell), &mut it.cells[usize::from(cell)]);
        if !is_current && block.mask() & !(block.done() | cell.returned | cell.rest) == 0 {
            cell.mine = Mine::Settled;
        }
        Ok(())
    }

    /// All messages in `cell` are acknowledged.
    fn free(&self, state: &mut State, me: usize, cell: u8) -> Result<(), Violation> {
        let block = state.blocks[self.block_of(state, me, cell)?];
        let mut frames = block.frames[..usize::from(block.count)].iter();
        let is_acked = |frame: &Frame| state.truth.fates[usize::from(frame.message)].is_acked;
        if !frames.all(is_acked) {
            return Err("a block is freed with a message");
        }
        let cell = &mut state.records[me].cells[usize::from(cell)];
        (cell.held, cell.mine) = (false, Mine::Free);
        Ok(())
    }

    fn order(&self) -> &'static [Step] {
        use Step::{Exchange, Flag, Reset, SetCell};
        match self.edit {
            Some(Edit::ResetAfterExchange) => &[Flag, Exchange, Reset, SetCell],
            Some(Edit::ResetBeforeFlags) => &[Reset, Flag, Exchange, SetCell],
            Some(Edit::FlagsAfterExchange) => &[Reset, Exchange, Flag, SetCell],
            Some(Edit::NoReset) => &[Flag, Exchange, SetCell],
            _ => &[Flag, Reset, Exchange, SetCell],
        }
    }

    /// The next step of the thread that has the lock of returns, or of an auditor.
    fn give_back(&self, state: &mut State, me: usize) -> Result<(), Violation> {
        let Return { next, cell, flags } = state.records[me].back;
        let is_alive = state.records[me].life == Life::Alive;
        match next {
            Step::Idle => return Err("nothing to return"),
            Step::Flag => {
                // One message a step.
                if flags != 0 {
                    let at = flags.trailing_zeros() as usize;
                    let block = self.block_of(state, me, cell)?;
                    let frame = &mut state.blocks[block].frames[at];
                    (frame.redelivered, frame.returned) = (true, true);
                    frame.attempts += u8::from(self.edit == Some(Edit::ReturnCounts));
                    state.records[me].back.flags &= flags - 1;
                    if flags & (flags - 1) != 0 {
                        return Ok(());
                    }
                }
            }
            Step::Reset => {
                let block = self.block_of(state, me, cell)?;
                let (block, tally) = (&mut state.blocks[block], &mut state.records[me].tally);
                (block.handed, block.came_back) = (0, true);
                if self.edit == Some(Edit::ReturnRenames) {
                    block.id = me as u8 * IDS + *tally;
                    *tally += block.count;
                }
            }
            Step::Exchange if state.full == self.capacity => {
                // The message is owed. An auditor leaves it to a later one.
                let it = &mut state.records[me];
                it.back = Return::default();
                match is_alive {
                    true => it.cells[usize::from(cell)].mine = Mine::Owed,
                    false => it.life = Life::Dead,
                }
                return Ok(());
            }
            Step::Exchange => self.exchange(state, me, cell, Verb::Return)?,
            Step::SetCell => {
                self.set_cell(state, me, Verb::Return);
                state.records[me].back = Return::default();
                return Ok(());
            }
        }
        let mut rest = self.order().iter().copied();
        rest.find(|step| *step == next);
        state.records[me].back.next = rest.next().unwrap_or_default();
        Ok(())
    }

    /// Swaps the block of the cell with that of the first slot that is ready.
    fn exchange(
        &self,
        state: &mut State,
        me: usize,
        cell: u8,
        verb: Verb,
    ) -> Result<(), Violation> {
        let offer = state.records[me].cells[usize::from(cell)].block;
        let after = if verb == Verb::Recv { state.first } else { state.first + state.full };
        let slot = &mut state.slots[usize::from(after % self.capacity)];
        let gain = std::mem::replace(slot, offer);
        if std::mem::replace(&mut state.truth.owned[me][usize::from(cell)], gain) != offer {
            return Err(NOT_OWNED);
        }
        if verb == Verb::Recv {
            state.first = (state.first + 1) % self.capacity;
            state.full -= 1;
        } else {
            state.full += 1;
            self.commit(state, offer, verb)?;
        }
        let op = Some(Op { verb, cell, gain });
        match verb {
            Verb::Send | Verb::Recv => state.records[me].op = op,
            Verb::Return => state.records[me].returning = op,
        }
        Ok(())
    }

    /// In truth: the messages of the block are in the ring.
    fn commit(&self, state: &mut State, block: u8, verb: Verb) -> Result<(), Violation> {
        let block = state.blocks[usize::from(block)];
        let frames = (0..).zip(&block.frames[..usize::from(block.count)]);
        let fates = &mut state.truth.fates;
        for (at, frame) in frames.clone() {
            let fate = fates[usize::from(frame.message)];
            if verb == Verb::Send {
                let id = block.id + at;
                if fates.iter().any(|other| other.is_sent && other.id == id) {
                    return Err("two messages have one id");
                }
                fates[usize::from(frame.message)] = Fate { is_sent: true, id, ..Fate::default() };
            } else if fate.is_out {
                return Err("a block is returned beside a lease");
            }
        }
        if frames.clone().all(|(_, frame)| fates[usize::from(frame.message)].is_acked) {
            return Err("a block in the ring has no message");
        }
        Ok(())
    }

    /// Shows in the cell what the exchange did.
    fn set_cell(&self, state: &mut State, me: usize, verb: Verb) {
        let it = &mut state.records[me];
        let op = if verb == Verb::Return { &mut it.returning } else { &mut it.op };
        let Some(Op { verb, cell, gain }) = op.take() else { return };
        let cell = &mut it.cells[usize::from(cell)];
        (cell.block, cell.held) = (gain, verb == Verb::Recv);
        cell.mine = if cell.held { Mine::InUse } else { Mine::Free };
    }

    /// The next step of an auditor: the ops first, then the held blocks.
    fn audit(&self, state: &mut State, me: usize) -> Result<(), Violation> {
        if state.records[me].back.next != Step::Idle {
            return self.give_back(state, me);
        }
        state.records[me].life = Life::Audited;
        if state.records[me].op.is_some() {
            self.set_cell(state, me, Verb::Recv);
            return Ok(());
        }
        if state.records[me].returning.is_some() {
            self.set_cell(state, me, Verb::Return);
            return Ok(());
        }
        let held = state.records[me].cells[..usize::from(self.cells)].iter();
        let Some((cell, _)) = (0..).zip(held).find(|(_, cell)| cell.held) else {
            state.records[me].life = Life::Dead;
            return Ok(());
        };
        let block = state.blocks[self.block_of(state, me, cell)?];
        let done = match self.edit {
            Some(Edit::AuditIgnoresAcknowledged) => block.received,
            Some(Edit::AuditIgnoresReceived) => block.acked,
            _ => block.done(),
        };
        let left = block.mask() & !done;
        let handed = left & below(block.handed);
        if self.edit == Some(Edit::AuditForgetsRest) && handed == 0
            || left == 0 && self.edit != Some(Edit::AuditReturnsEmpty)
        {
            return self.free(state, me, cell);
        }
        let number = self.block_of(state, me, cell)?;
        match self.edit {
            // Those that it takes for not acknowledged come again.
            Some(Edit::AuditIgnoresAcknowledged) => state.blocks[number].acked = 0,
            Some(Edit::AuditIgnoresReceived) => state.blocks[number].received = 0,
            Some(Edit::AuditForgetsRest) => state.blocks[number].count = block.handed,
            _ => {}
        }
        let flags = match self.edit {
            Some(Edit::AuditFlagsAll) => left,
            Some(Edit::AuditFlagsNone) => 0,
            _ => handed,
        };
        state.records[me].back = Return { next: self.order()[0], cell, flags };
        Ok(())
    }

    /// Only the shared words outlive a process.
    fn die(&self, state: &mut State, me: usize) {
        let blocks: [u8; CELLS] = state.truth.owned[me];
        for block in blocks {
            let block = state.blocks[usize::from(block)];
            for frame in &block.frames[..usize::from(block.count)] {
                state.truth.fates[usize::from(frame.message)].is_out = false;
            }
        }
        let Record { cells, op, returning, tally, done, .. } = state.records[me];
        let cells = cells.map(|Cell { block, held, .. }| Cell { block, held, ..Cell::default() });
        let life = Life::Dead;
        state.records[me] = Record { life, cells, op, returning, tally, done, ..Record::default() };
    }

    /// If no thread can go on, all is acknowledged, or no receiver is left.
    pub(crate) fn each_goes_on_alone(
        &self,
        state: &State,
        _: impl Fn(usize) -> bool,
    ) -> Result<(), Violation> {
        let goes_on = |me: usize| self.acts(state, me).iter().any(|act| *act != Act::Drop);
        let receives = |me: usize| {
            let it = &state.records[me];
            let is_receiver = matches!(self.role(me), Role::Receiver);
            is_receiver && it.life == Life::Alive && !it.owner.is_gone
        };
        let mut fates = state.truth.fates.iter();
        if (0..self.survivor()).any(receives)
            && !(0..self.survivor()).any(goes_on)
            && fates.any(|fate| fate.is_sent && !fate.is_acked)
        {
            return Err("a message waits, and no thread can go on");
        }
        Ok(())
    }

    pub(crate) fn goes_on(&self, _: &State, _: Move, _: &State) -> Option<usize> {
        None
    }

    /// The state after all threads die in this one.
    pub(crate) fn all_dead(&self, mut state: State) -> State {
        for me in 0..self.survivor() {
            self.die(&mut state, me);
        }
        let truth = &mut state.truth;
        (truth.deaths, truth.auditor_deaths, truth.nacks, truth.drops) = (0, 0, 0, 0);
        state
    }

    /// The survivor audits the dead and drains the ring: no message is lost.
    pub(crate) fn the_survivor_settles_all(&self, mut state: State) -> Result<(), Violation> {
        let survivor = self.survivor();
        let mut before = None;
        while before != Some(state) {
            before = Some(state);
            for me in 0..=survivor {
                for step in 0.. {
                    let acts = self.acts(&state, me);
                    let Some(act) = acts.first() else { break };
                    let is_room_gone =
                        *act == Act::Audit && state.records[me].life == Life::Dead && step > 0;
                    if is_room_gone {
                        break;
                    }
                    if step == PATIENCE {
                        return Err("an operation does not end by itself");
                    }
                    self.make(&mut state, Move { record: me, act: *act })?;
                }
            }
        }
        if !(0..survivor).all(|dead| self.is_settled(&state, dead)) {
            return Err("a held message finds no way back");
        }
        self.each_block_is_in_one_place(&state, |me, cell| state.records[me].cells[cell].block)?;
        let is_over = |fate: &Fate| !fate.is_sent || fate.is_acked;
        state.truth.fates.iter().all(is_over).then_some(()).ok_or("a message is lost")
    }

    fn each_block_is_in_one_place(
        &self,
        state: &State,
        block_in: impl Fn(usize, usize) -> u8,
    ) -> Result<(), Violation> {
        let in_slots = state.slots[..usize::from(self.capacity)].iter().copied();
        let cells = usize::from(self.cells);
        let all_cells = (0..=self.survivor()).flat_map(|me| (0..cells).map(move |cell| (me, cell)));
        let in_cells = all_cells.map(|(me, cell)| block_in(me, cell));
        let mut seen = 0_u32;
        let mut is_first = |block: u8| {
            seen ^= 1 << block;
            seen & 1 << block != 0
        };
        let each = in_slots.chain(in_cells).all(&mut is_first);
        each.then_some(()).ok_or("a block is in two places")
    }

    fn survivor(&self) -> usize {
        self.roles.len()
    }

    fn role(&self, me: usize) -> Role {
        self.roles.get(me).copied().unwrap_or(Role::Receiver)
    }

    /// The block of a cell, for a write to it or a read.
    fn block_of(&self, state: &State, me: usize, cell: u8) -> Result<usize, Violation> {
        let block = state.records[me].cells[usize::from(cell)].block;
        let is_owned = state.truth.owned[me][usize::from(cell)] == block;
        is_owned.then_some(usize::from(block)).ok_or(NOT_OWNED)
    }

    fn cell_that_is(&self, state: &State, me: usize, mine: Mine) -> Option<u8> {
        (0..self.cells).find(|cell| state.records[me].cells[usize::from(*cell)].mine == mine)
    }

    /// Whether nothing is left to audit.
    fn is_settled(&self, state: &State, me: usize) -> bool {
        let it = &state.records[me];
        let is_held = it.cells.iter().any(|cell| cell.held);
        it.op.is_none() && it.returning.is_none() && !is_held && it.life != Life::Audited
    }

    /// One line of a counterexample.
    pub(crate) fn describe(&self, before: &State, what: Move) -> String {
        let it = before.records[what.record];
        let blocks = it.cells.map(|cell| before.blocks[usize::from(cell.block)]);
        let slots = &before.slots[..usize::from(self.capacity)];
        format!("{what:?} of {it:?}\n    blocks {blocks:?}, {} of {slots:?}", before.full)
    }
}

//! A search of all states of the tasks that wait at one shared receiver of a queue with batches, beside a
//! receiver of another process.
//!
//! The messages of a block that one handle has taken can be received only by the tasks of that handle, so
//! no wake from another process reaches those tasks. This model has the rule of `docs/batches.md`: an
//! attempt that leaves messages in the handle rouses one more task of it. The gate is taken as right
//! (`gate.rs`, `waitqueue.rs`): a wake goes to one of the armed kernel waits, and a wait that was
//! announced before a wake does not begin.
//!
//! In every state that the search sees: if no thread can go on, then no task waits while the handle has a
//! message, and no receiver waits while the ring has a block.
#![cfg(not(loom))]
#![forbid(unsafe_code)]

use std::array::from_fn;
use std::collections::HashSet;
use std::time::Instant;

const TASKS: usize = 3;

/// An edit of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    /// Messages in the handle rouse no task.
    NoBaton,
    /// They wake at the gate instead, as messages in the ring do.
    BatonAtGate,
    /// A task that made its second attempt, and does not rest yet, is not roused.
    RousesResting,
    /// A task is counted as waiting after its second attempt.
    CountedLate,
    /// A task that was roused and gives up tells no other task.
    GivesUpSilently,
    /// A task that leaves with messages in the handle does not pass on the wake for the ring, even if no
    /// other task of the handle waits.
    HandleOnly,
}

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    First,
    Announce,
    /// After the announcement, or after a wake.
    Again,
    /// With `Edit::CountedLate`.
    Count,
    Arm,
    Rests,
    /// It has its message, or gives up: the lock of the handle is released.
    After,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Task {
    at: At,
    /// It is in the wait queue of the handle.
    is_in_line: bool,
    is_counted: bool,
    /// It was roused before it rests, and attempts again.
    is_roused: bool,
    /// The epoch of the gate that it announced itself in.
    epoch: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The messages of each block in the ring.
    ring: [u8; 2],
    in_hand: u8,
    /// The blocks that were sent, and for how many of them a receiver was woken.
    sent: u8,
    notified: u8,
    tasks: [Task; TASKS],
    /// The kernel wait of the handle is armed.
    is_armed: bool,
    /// The task that must attempt, and arm.
    duty: Option<u8>,
    /// The receiver of the other process.
    other: Task,
    epoch: u8,
    cancels: u8,
}

#[derive(Debug)]
struct Setup {
    /// Each receives one message.
    tasks: usize,
    blocks: &'static [u8],
    cancels: u8,
    /// There is another process.
    other: bool,
    edit: Option<Edit>,
}

impl Setup {
    fn start(&self) -> State {
        let task = Task {
            at: At::First,
            is_in_line: false,
            is_counted: false,
            is_roused: false,
            epoch: 0,
        };
        let at = if self.other { At::First } else { At::Done };
        State {
            ring: [0; 2],
            in_hand: 0,
            sent: 0,
            notified: 0,
            tasks: from_fn(|me| if me < self.tasks { task } else { Task { at: At::Done, ..task } }),
            is_armed: false,
            duty: None,
            other: Task { at, ..task },
            epoch: 0,
            cancels: 0,
        }
    }

    /// All states that one step leads to.
    fn next(&self, state: &State) -> Vec<State> {
        let mut all = Vec::new();
        if let Some(count) = self.blocks.get(usize::from(state.sent)).filter(|_| state.ring[1] == 0)
        {
            let mut next = *state;
            next.ring[usize::from(next.ring[0] != 0)] = *count;
            next.sent += 1;
            all.push(next);
        }
        if state.notified < state.sent {
            let next = State { notified: state.notified + 1, ..*state };
            self.notify(next, &mut all);
        }
        for task in 0..TASKS {
            self.step(*state, task, &mut all);
            let waits = matches!(state.tasks[task].at, At::Rests | At::Again);
            if waits && state.tasks[task].is_in_line && state.cancels < self.cancels {
                let mut next = State { cancels: state.cancels + 1, ..*state };
                next.tasks[task].at = At::After;
                if self.edit == Some(Edit::GivesUpSilently) {
                    leave(&mut next, task);
                    next.tasks[task].at = At::Done;
                }
                all.push(next);
            }
        }
        let mut next = *state;
        match state.other.at {
            // It has a handle to itself, and hands all messages of a block out.
            At::First | At::Again if state.ring[0] != 0 => {
                take_block(&mut next);
                next.other.at = At::After;
                all.push(next);
            }
            At::First => {
                (next.other.at, next.other.epoch) = (At::Again, next.epoch);
                all.push(next);
            }
            At::Again => {
                next.other.at = if next.other.epoch == next.epoch { At::Rests } else { At::First };
                all.push(next);
            }
            At::After => {
                next.other.at = At::First;
                match next.ring[0] {
                    0 => all.push(next),
                    _ => self.notify(next, &mut all),
                }
            }
            _ => {}
        }
        all
    }

    fn step(&self, mut state: State, me: usize, all: &mut Vec<State>) {
        let late = self.edit == Some(Edit::CountedLate);
        let task = &mut state.tasks[me];
        match task.at {
            At::First | At::Again => {
                let is_first = task.at == At::First;
                if state.in_hand == 0 && state.ring[0] != 0 {
                    state.in_hand = take_block(&mut state);
                }
                state.tasks[me].at = match (state.in_hand, is_first) {
                    (0, true) => At::Announce,
                    (0, false) if late && !state.tasks[me].is_counted => At::Count,
                    (0, false) => At::Arm,
                    _ => At::After,
                };
                state.in_hand = state.in_hand.saturating_sub(1);
            }
            At::Announce => {
                (task.at, task.is_in_line, task.is_counted) = (At::Again, true, !late);
                task.epoch = state.epoch;
                if state.duty.is_none() && !state.is_armed {
                    state.duty = Some(me as u8);
                }
            }
            At::Count => (task.is_counted, task.at) = (true, At::Arm),
            At::Arm if task.is_roused => (task.at, task.is_roused) = (At::Again, false),
            At::Arm if state.duty != Some(me as u8) => task.at = At::Rests,
            At::Arm if task.epoch != state.epoch => {
                (task.epoch, task.at) = (state.epoch, At::Again);
            }
            At::Arm => {
                task.at = At::Rests;
                (state.is_armed, state.duty) = (true, None);
            }
            At::After => {
                task.at = At::Done;
                leave(&mut state, me);
                let is_left = state.in_hand != 0 && self.edit != Some(Edit::NoBaton);
                let is_at = |at| move |task: &Task| task.is_counted && task.at == at;
                let rests = first_of(&state, is_at(At::Rests));
                let arms = || first_of(&state, is_at(At::Arm));
                let first =
                    rests.or_else(|| arms().filter(|_| self.edit != Some(Edit::RousesResting)));
                match first.filter(|_| is_left && self.edit != Some(Edit::BatonAtGate)) {
                    Some(first) if state.tasks[first].at == At::Arm => {
                        state.tasks[first].is_roused = true;
                    }
                    Some(first) => state.tasks[first].at = At::Again,
                    None if is_left && self.edit == Some(Edit::HandleOnly) => {}
                    None if state.ring[0] != 0 => return self.notify(state, all),
                    None if is_left && self.edit == Some(Edit::BatonAtGate) => {
                        return self.notify(state, all);
                    }
                    None => {}
                }
            }
            At::Rests | At::Done => return,
        }
        all.push(state);
    }

    /// Wakes one of the armed kernel waits.
    fn notify(&self, mut state: State, all: &mut Vec<State>) {
        state.epoch += 1;
        let mut next = state;
        if next.is_armed {
            next.is_armed = false;
            // An armed wait has a task that rests, or one that was roused and attempts.
            let first = first_of(&next, |task| task.at == At::Rests)
                .or_else(|| first_of(&next, |task| task.is_in_line));
            next.duty = first.map(|first| first as u8);
            if let Some(first) = first.filter(|first| next.tasks[*first].at == At::Rests) {
                next.tasks[first].at = At::Again;
            }
            all.push(next);
        }
        if state.other.at == At::Rests {
            let mut next = state;
            next.other.at = At::First;
            all.push(next);
        }
        if !state.is_armed && state.other.at != At::Rests {
            all.push(state);
        }
    }

    /// Searches all states; the number of them, or one that is wrong.
    fn search(&self) -> Result<usize, State> {
        let start = self.start();
        let mut seen = HashSet::from([start]);
        let mut open = Vec::from([start]);
        while let Some(state) = open.pop() {
            let next = self.next(&state);
            let rests = |task: &Task| task.at == At::Rests;
            let a_task_rests = state.tasks.iter().any(rests);
            let waits_in_vain = state.in_hand != 0 && a_task_rests
                || state.ring[0] != 0 && (a_task_rests || rests(&state.other));
            if next.is_empty() && waits_in_vain {
                return Err(state);
            }
            open.extend(next.into_iter().filter(|next| seen.insert(*next)));
        }
        Ok(seen.len())
    }
}

/// The task leaves the wait queue. If it is on duty, the next one is.
fn leave(state: &mut State, me: usize) {
    let task = &mut state.tasks[me];
    (task.is_in_line, task.is_counted, task.is_roused) = (false, false, false);
    if state.duty == Some(me as u8) {
        let next = first_of(state, |task| task.at == At::Rests)
            .or_else(|| first_of(state, |task| task.is_in_line));
        state.duty = next.map(|next| next as u8);
        if let Some(next) = next.filter(|next| state.tasks[*next].at == At::Rests) {
            state.tasks[next].at = At::Again;
        }
    }
    // The last one cancels the kernel wait.
    state.is_armed &= state.tasks.iter().any(|task| task.is_in_line);
}

fn first_of(state: &State, is: impl Fn(&Task) -> bool) -> Option<usize> {
    state.tasks.iter().position(is)
}

fn take_block(state: &mut State) -> u8 {
    let [first, second] = state.ring;
    state.ring = [second, 0];
    first
}

/// All tasks share one handle.
const ALONE: Setup = Setup { tasks: 3, blocks: &[3], cancels: 1, other: false, edit: None };
const TWO_BLOCKS: Setup = Setup { blocks: &[2, 2], ..ALONE };
/// Beside a receiver of another process.
const BESIDE: Setup = Setup { other: true, ..ALONE };
/// More messages than tasks: some stay in the handle.
const LEFT: Setup = Setup { tasks: 2, blocks: &[3, 1], ..BESIDE };

/// 7,043, 29,953, 56,289 and 42,316 states.
#[test]
fn no_task_sleeps_beside_a_message_of_its_handle() {
    for setup in [ALONE, TWO_BLOCKS, BESIDE, LEFT] {
        let start = Instant::now();
        let states = setup.search().unwrap();
        println!("all {states} states in {:.1?} of {setup:?}", start.elapsed());
    }
}

/// The search finds the fault of each edit. Without another process the wake of the sender comes to the
/// right handle by itself.
#[test]
fn every_edit_is_seen() {
    for (edit, setup) in [
        (Edit::NoBaton, BESIDE),
        (Edit::BatonAtGate, BESIDE),
        (Edit::RousesResting, BESIDE),
        (Edit::CountedLate, BESIDE),
        (Edit::GivesUpSilently, BESIDE),
        (Edit::HandleOnly, LEFT),
    ] {
        let found = Setup { edit: Some(edit), ..setup }.search().expect_err("unseen");
        println!("{edit:?}: {found:?}");
    }
}

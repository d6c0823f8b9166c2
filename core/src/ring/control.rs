//! The words that handles share, apart from the slots: the gates, and what each tells of itself.

use crate::ring::slot::{OpWord, Verb};
use crate::ring::stats::Tally;
use crate::sync::{AtomicU32, AtomicU64};
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use crate::wait::flag::Flag;
use crate::wait::gate::{Gate, Wake};

/// The words that all handles share, apart from the slots. Each part has lines of its own.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Control {
    pub(crate) after_send: AfterSend,
    pub(crate) after_recv: AfterRecv,
    pub(crate) rare: Rare,
}

/// What a sender looks at when it has sent.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct AfterSend {
    /// Receivers wait here.
    pub(crate) readable: Gate,
}

/// What a receiver looks at when it has received.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct AfterRecv {
    /// Senders wait here.
    pub(crate) writable: Gate,
    /// Those wait here who join.
    pub(crate) acknowledged: Gate,
}

/// Words that hardly ever change.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Rare {
    /// 1 once somebody asked to close.
    pub(crate) closing: AtomicU32,
    /// Moves with every handle that is made.
    pub(crate) arrivals: AtomicU32,
    /// Moves with every message that goes back into the ring, after it did.
    pub(crate) returns: AtomicU64,
    /// Of an event, which uses nothing else of its segment than this and the gate `readable`.
    pub(crate) flag: Flag,
    /// Moves with every message that goes back and that a join waits for.
    pub(crate) due_returns: AtomicU64,
    /// A message sent before this position may be one that a join waits for.
    pub(crate) joined_before: AtomicU64,
}

impl Control {
    pub(crate) fn new() -> Self {
        let (readable, writable, acknowledged) = (Gate::new(), Gate::new(), Gate::new());
        let (closing, arrivals) = (AtomicU32::new(0), AtomicU32::new(0));
        Self {
            after_send: AfterSend { readable },
            after_recv: AfterRecv { writable, acknowledged },
            rare: Rare {
                closing,
                arrivals,
                returns: AtomicU64::new(0),
                flag: Flag::new(),
                due_returns: AtomicU64::new(0),
                joined_before: AtomicU64::new(0),
            },
        }
    }

    /// Tells of a handle that has named its process. The wakes are of those that wait, who look whom
    /// they wait with.
    pub(crate) fn announce_arrival(&self) -> impl Iterator<Item = Wake<'_>> {
        self.rare.arrivals.fetch_add(1, Release); // [arrival]
        self.gates().into_iter().filter_map(|gate| gate.notify_of_stores(u32::MAX))
    }

    /// A number that moves with every handle that is made. Who sees it move sees that handle's
    /// process.
    pub(crate) fn arrivals(&self) -> u32 {
        self.rare.arrivals.load(Acquire) // [arrival]
    }

    /// All gates: whoever waits anywhere looks again.
    pub(crate) fn gates(&self) -> [&Gate; 3] {
        [&self.after_send.readable, &self.after_recv.writable, &self.after_recv.acknowledged]
    }
}

/// What a handle tells the others about itself. Written by its owner only.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Record {
    /// The send or receive under way.
    pub(crate) op: AtomicU64,
    /// The return under way, which may run beside it on another thread.
    pub(crate) returning: AtomicU64,
    /// Of the owner's process, 0 if there is none, with [`LEFT`]. A hint: see [`Record::process`].
    pid: AtomicU32,
    /// Unused, 0: what the handle is for.
    _role: AtomicU32,
    pub(crate) tally: Tally,
}

/// In a record's `pid`: the handle is gone, and left messages for which there was no room.
const LEFT: u32 = 1 << 31;

impl Record {
    /// Names the process of a new owner.
    pub(crate) fn name(&self, pid: u32) {
        // Relaxed: what is told of the arrival carries it ([arrival]).
        self.pid.store(pid & !LEFT, Relaxed);
    }

    /// The owner is gone. If it left messages, its process stays named, because the end of that process
    /// is when others must see to them at the latest.
    pub(crate) fn unname(&self, left: usize) {
        let pid = if left > 0 { self.pid.load(Relaxed) | LEFT } else { 0 };
        self.pid.store(pid, Relaxed);
    }

    /// The process that made the handle that has the record or had it last, if that left something.
    /// What a peer wrote: it decides nothing but when something is looked for.
    pub(crate) fn process(&self) -> Option<u32> {
        let pid = self.pid.load(Relaxed) & !LEFT;
        (pid != 0).then_some(pid)
    }

    /// Whether a handle has the record, or had it when its process ended.
    pub(crate) fn is_named(&self) -> bool {
        let pid = self.pid.load(Relaxed);
        pid != 0 && pid & LEFT == 0
    }

    pub(crate) fn new() -> Self {
        let idle = || AtomicU64::new(OpWord::IDLE.bits());
        let (pid, _role) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { op: idle(), returning: idle(), pid, _role, tally: Tally::default() }
    }

    /// The word in which an exchange of `verb` is announced.
    #[inline]
    pub(crate) fn announcement(&self, verb: Verb) -> &AtomicU64 {
        match verb {
            Verb::Send | Verb::Recv => &self.op,
            Verb::Return => &self.returning,
        }
    }

    /// Both words in which it announces.
    pub(crate) fn announcements(&self) -> [&AtomicU64; 2] {
        [&self.op, &self.returning]
    }
}

//! The words that handles share, apart from the slots: the gates, the rare words, and one record
//! for each handle.
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [arrival] | `announce_arrival`: fetch_add of `arrivals`, after the pid | `arrivals`: load | the new handle's pid |

use crate::ring::slot::Verb;
use crate::ring::stats::Tally;
use crate::sync::{AtomicU32, AtomicU64};
use crate::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use crate::wait::flag::Flag;
use crate::wait::gate::{Gate, Wake};

/// The words that all handles share, apart from the slots. Each part has cache lines of its own.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Control {
    pub(crate) after_send: AfterSend,
    pub(crate) after_recv: AfterRecv,
    pub(crate) rare: Rare,
}

/// What a sender loads after a send.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct AfterSend {
    /// Receivers wait here.
    pub(crate) readable: Gate,
}

/// What a receiver loads after a receive.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct AfterRecv {
    /// Senders wait here.
    pub(crate) writable: Gate,
    /// Joiners wait here.
    pub(crate) acknowledged: Gate,
}

/// Words that rarely change.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Rare {
    /// 1 once the queue is closing.
    pub(crate) closing: AtomicU32,
    /// The number of handles that were made, modulo 2^32.
    pub(crate) arrivals: AtomicU32,
    /// The number of messages that went back into the ring. Counted after the exchange.
    pub(crate) returns: AtomicU64,
    /// The word of an event. An event uses only this and the gate `readable` of its segment.
    pub(crate) flag: Flag,
    /// The number of returned messages that a join waits for.
    pub(crate) due_returns: AtomicU64,
    /// A join can wait for any message sent before this position.
    pub(crate) joined_before: AtomicU64,
}

impl Control {
    #[cfg(loom)]
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

    /// Announces a handle that has stored its pid. The wake-ups are for all waiters, which then
    /// read the pids of the queue's processes again.
    pub(crate) fn announce_arrival(&self) -> impl Iterator<Item = Wake<'_>> {
        self.rare.arrivals.fetch_add(1, Release); // [arrival]
        self.gates().into_iter().filter_map(|gate| gate.notify_of_stores(u32::MAX))
    }

    /// A number that changes with every new handle. A process that sees it change also sees the pid
    /// of that handle.
    pub(crate) fn arrivals(&self) -> u32 {
        self.rare.arrivals.load(Acquire) // [arrival]
    }

    /// Whether the queue is closing. A send that begins later is refused.
    #[inline(always)]
    pub(crate) fn is_closing(&self) -> bool {
        // Relaxed: a thread that is ordered after `close` sees the flag by coherence, and no other
        // thread needs to.
        self.rare.closing.load(Relaxed) != 0
    }

    /// All gates: to wake every waiter.
    pub(crate) fn gates(&self) -> [&Gate; 3] {
        [&self.after_send.readable, &self.after_recv.writable, &self.after_recv.acknowledged]
    }
}

/// The words of one handle that other processes read. Only its owner writes them.
///
/// | `pid` | [`LEFT`] | the record |
/// |---|---|---|
/// | 0 | 0 | has no owner, or a new one that has not stored its pid yet |
/// | n | 0 | has an owner of process n, or had it when that process ended |
/// | n | 1 | has no owner; the last one, of process n, left messages |
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Record {
    /// The send or receive under way.
    pub(crate) op: AtomicU64,
    /// The return under way, which can run on another thread at the same time.
    pub(crate) returning: AtomicU64,
    /// The pid of the owner's process, with [`LEFT`]: see the table. A hint, see
    /// [`Record::process`].
    pid: AtomicU32,
    /// Unused, 0. Reserved for the role of the handle.
    _role: AtomicU32,
    pub(crate) tally: Tally,
}

/// In a record's `pid`: the handle is gone and left messages, because the ring had no room for
/// them.
const LEFT: u32 = 1 << 31;

impl Record {
    /// Stores the pid of a new owner.
    pub(crate) fn name(&self, pid: u32) {
        // Relaxed: [arrival] carries it.
        self.pid.store(pid & !LEFT, Relaxed);
    }

    /// Records that the owner is gone. If it left messages, the pid stays: its process tries to
    /// return them, and other processes do so at the latest when that process ends.
    pub(crate) fn unname(&self, left: usize) {
        let pid = if left > 0 { self.pid.load(Relaxed) | LEFT } else { 0 };
        self.pid.store(pid, Relaxed);
    }

    /// The process of the owner, or of the last owner if that left messages. A peer can have stored
    /// any number, so it decides only when and where a process searches for the dead.
    pub(crate) fn process(&self) -> Option<u32> {
        let pid = self.pid.load(Relaxed) & !LEFT;
        (pid != 0).then_some(pid)
    }

    /// Whether a handle has the record, or had it when its process ended.
    pub(crate) fn is_named(&self) -> bool {
        let pid = self.pid.load(Relaxed);
        pid != 0 && pid & LEFT == 0
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        let idle = || AtomicU64::new(crate::ring::slot::OpWord::IDLE.bits());
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

    /// Both words in which the handle announces exchanges.
    pub(crate) fn announcements(&self) -> [&AtomicU64; 2] {
        [&self.op, &self.returning]
    }
}

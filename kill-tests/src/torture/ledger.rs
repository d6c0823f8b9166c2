//! The ledgers of the torture: what a worker records before and after each call, in memory that
//! outlives it.
//!
//! | worker | writes | and is killed before it writes the next |
//! |---|---|---|
//! | sender | `about` to send n, then `sent` n | n is in doubt: it may arrive or not |
//! | receiver, `recv` | `in_call`, then the entry | one message may be missing, or come again flagged |
//! | receiver, lease | the entry (*held*), *about to ack*, *acked* | held: it must come again; about to ack: it may |
//! | the same that returns it | the entry, *about to return*, *returned* | it must come again, whenever that was |

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use zerocopy::FromZeros;

use crate::clock::now;

/// The ledger of one sender. Message numbers begin at 1.
#[derive(Debug, FromZeros)]
#[repr(C)]
pub(crate) struct SenderLedger {
    /// The last message that it was about to send.
    pub(crate) about: AtomicU64,
    /// The last message that it has sent for certain.
    pub(crate) sent: AtomicU64,
    /// When it had sent that message.
    pub(crate) at: AtomicU64,
    /// 1 when it must stop.
    pub(crate) end: AtomicU64,
}

const ENTRIES: usize = 1 << 14;

/// The ledger of one receiver: a ring of entries, from which the tests read.
#[derive(Debug, FromZeros)]
#[repr(C)]
pub(crate) struct ReceiverLedger {
    written: AtomicU64,
    read: AtomicU64,
    /// 1 during a call whose message has no entry yet.
    pub(crate) in_call: AtomicU64,
    /// When the last message came.
    pub(crate) at: AtomicU64,
    /// When it forgot a lease, whose message comes back only after its death; 0 if it forgot none.
    pub(crate) forgot: AtomicU64,
    entries: [EntryWords; ENTRIES],
}

#[derive(Debug, FromZeros)]
#[repr(C)]
struct EntryWords {
    sender: AtomicU64,
    id: AtomicU64,
    n: AtomicU64,
    attempts: AtomicU64,
    stage: AtomicU64,
}

/// What a receiver has done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Held,
    AboutToAck,
    Acked,
    AboutToReturn,
    Returned,
}

/// A message that a receiver received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) sender: usize,
    /// The id that the queue gave the message.
    pub(crate) id: u64,
    pub(crate) n: u64,
    pub(crate) redelivered: bool,
    pub(crate) attempts: u16,
    pub(crate) stage: Stage,
}

/// The place of an entry, with which its receiver changes its stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryAt(u64);

const REDELIVERED: u64 = 1 << 16;

impl Stage {
    fn to_word(self) -> u64 {
        match self {
            Self::Held => 1,
            Self::AboutToAck => 2,
            Self::Acked => 3,
            Self::AboutToReturn => 4,
            Self::Returned => 5,
        }
    }

    /// Whether the receiver is done with the message.
    fn is_last(self) -> bool {
        matches!(self, Self::Acked | Self::Returned)
    }

    fn of_word(word: u64) -> Self {
        match word {
            5 => Self::Returned,
            4 => Self::AboutToReturn,
            3 => Self::Acked,
            2 => Self::AboutToAck,
            _ => Self::Held,
        }
    }
}

impl ReceiverLedger {
    fn words(&self, at: u64) -> &EntryWords {
        &self.entries[at as usize % ENTRIES]
    }

    /// Writes an entry. Waits while the tests have a whole ring of entries to read.
    pub(crate) fn write(&self, entry: Entry) -> EntryAt {
        let at = self.written.load(Relaxed);
        while at - self.read.load(Acquire) == ENTRIES as u64 {
            std::thread::yield_now();
        }
        let words = self.words(at);
        words.sender.store(entry.sender as u64, Relaxed);
        words.id.store(entry.id, Relaxed);
        words.n.store(entry.n, Relaxed);
        let flag = if entry.redelivered { REDELIVERED } else { 0 };
        words.attempts.store(u64::from(entry.attempts) | flag, Relaxed);
        words.stage.store(entry.stage.to_word(), Relaxed);
        self.written.store(at + 1, Release);
        self.at.store(now(), Relaxed);
        EntryAt(at)
    }

    pub(crate) fn reached(&self, EntryAt(at): EntryAt, stage: Stage) {
        self.words(at).stage.store(stage.to_word(), Release);
    }

    /// Takes the next entry. With `settled` only if its message is acknowledged or returned.
    pub(crate) fn read(&self, settled: bool) -> Option<Entry> {
        let at = self.read.load(Relaxed);
        if at == self.written.load(Acquire) {
            return None;
        }
        let words = self.words(at);
        let stage = Stage::of_word(words.stage.load(Acquire));
        if settled && !stage.is_last() {
            return None;
        }
        let attempts = words.attempts.load(Relaxed);
        let entry = Entry {
            sender: words.sender.load(Relaxed) as usize,
            id: words.id.load(Relaxed),
            n: words.n.load(Relaxed),
            redelivered: attempts & REDELIVERED != 0,
            attempts: attempts as u16,
            stage,
        };
        self.read.store(at + 1, Release);
        Some(entry)
    }
}

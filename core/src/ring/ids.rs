//! The ids of messages.
//!
//! An id is the number of the sender's record, in as many upper bits as the queue has handles for,
//! and the number of the message in that record. The numbers of a record go on over its owners: its
//! tally of sent messages is the number of the next one. A new owner loads the tally once, and from
//! then on believes its own copy.
//!
//! A number is reserved before the exchange, in this order:
//!
//! 1. The id is stored in the block.
//! 2. The tally is stored as the number after it.
//! 3. The exchange is announced ([announce-op] in `swap.rs`, which releases both) and then made.
//!
//! So a message that is in the ring has a number below the tally, wherever its sender was killed,
//! and no audit has to find out whether it counts. A death between 2 and the exchange leaves a
//! number that no message has. After a lost exchange the tally goes back, and the next attempt has
//! the same number.
//!
//! Nothing else writes the word: a return, an audit and a receive leave it as it is. So a message
//! has the same id at every delivery.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ring::stats::Counter;

/// The numbers of one handle's messages.
pub(crate) struct Ids {
    /// The id of the record's message number 0.
    first: u64,
    /// The number of the next message. Only the sending thread uses it.
    next: AtomicU64,
}

impl Ids {
    /// Goes on where the last owner of the record ended. The id of its message 0 is `first`.
    pub(crate) fn go_on(first: u64, sent: &Counter) -> Self {
        Self { first, next: sent.get().into() }
    }

    /// The id of the next message.
    #[inline(always)]
    pub(crate) fn next(&self) -> u64 {
        self.first | self.next.load(Relaxed)
    }

    /// Reserves the number of the next message. Returns the number after it, for
    /// [`used`](Self::used).
    #[inline(always)]
    pub(crate) fn reserve(&self, sent: &Counter) -> u64 {
        let after = self.next.load(Relaxed).wrapping_add(1);
        sent.set(after);
        after
    }

    /// The reserved number is that of a message in the ring now.
    #[inline(always)]
    pub(crate) fn used(&self, after: u64) {
        self.next.store(after, Relaxed);
    }

    /// The reserved number is for the next attempt: no message has it yet.
    #[inline(always)]
    pub(crate) fn keep(&self, sent: &Counter) {
        sent.set(self.next.load(Relaxed));
    }
}

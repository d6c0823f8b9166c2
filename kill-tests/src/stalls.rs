//! How long the survivors did nothing though there was something to do.

use std::time::Duration;

/// The longest stalls so far. Times are nanoseconds of the clock that all share.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    /// No message was received though there was one.
    pub(crate) received: Duration,
    /// No message was sent though there was room.
    pub(crate) sent: Duration,
    looked: u64,
    /// When there was nothing to receive, or when the looks begin anew.
    idle_receivers: u64,
    idle_senders: u64,
}

/// If we were away for longer, the machine was, too: a stall that began before is not measured.
const AWAY: u64 = 20_000_000;

impl Stalls {
    pub(crate) fn look(&mut self, now: u64, message: bool, room: bool, received: u64, sent: u64) {
        let away = now.saturating_sub(self.looked) > AWAY;
        self.looked = now;
        if !message || away {
            self.idle_receivers = now;
        }
        if !room || away {
            self.idle_senders = now;
        }
        let since = |last: u64| Duration::from_nanos(now.saturating_sub(last));
        self.received = self.received.max(since(received.max(self.idle_receivers)));
        self.sent = self.sent.max(since(sent.max(self.idle_senders)));
    }
}

//! For how long no receiver received although there was a message, and no sender sent although there was
//! room.

use std::time::Duration;

/// The longest stalls so far. Times are nanoseconds of the monotonic clock, which all processes share.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    /// No message was received although there was one.
    pub(crate) received: Duration,
    /// No message was sent although there was room.
    pub(crate) sent: Duration,
    /// When stalls were last measured.
    measured: u64,
    /// When the ring was last empty, or the measurement began anew.
    idle_receivers: u64,
    /// When the ring was last full, or the measurement began anew.
    idle_senders: u64,
}

/// If the test itself did not run for longer than this, a stall that began before is not measured,
/// because the machine was busy.
const AWAY: u64 = 20_000_000;

impl Stalls {
    pub(crate) fn measure(
        &mut self,
        now: u64,
        message: bool,
        room: bool,
        received: u64,
        sent: u64,
    ) {
        let away = now.saturating_sub(self.measured) > AWAY;
        self.measured = now;
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

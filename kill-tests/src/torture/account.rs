//! The account of the torture: how often each message arrived, and which excuses there are for a
//! message that did not arrive or arrived twice.

use std::collections::BTreeMap;

use super::ledger::{Entry, Stage};
use super::workers::acknowledges_in_call;
use crate::report::Violations;

/// How many runs a set may have before the gaps of its lower half are forgotten. A message arrives
/// seconds before that.
const MOST_RUNS: usize = 1 << 16;

/// A set of numbers from 1. It is small if it has few gaps.
#[derive(Debug, Default)]
struct Numbers {
    /// The first and the last number of each run.
    runs: BTreeMap<u64, u64>,
}

impl Numbers {
    /// Adds a number. Returns whether it is new.
    fn insert(&mut self, n: u64) -> bool {
        if self.contains(n) {
            return false;
        }
        let last = self.runs.remove(&(n + 1)).unwrap_or(n);
        match self.runs.range_mut(..n).next_back() {
            Some((_, before)) if *before + 1 == n => *before = last,
            _ => _ = self.runs.insert(n, last),
        }
        true
    }

    fn contains(&self, n: u64) -> bool {
        self.runs.range(..=n).next_back().is_some_and(|(_, last)| n <= *last)
    }

    /// Fills the gaps far behind the last number: no message with such a number comes any more.
    fn forget(&mut self) {
        if self.runs.len() < MOST_RUNS {
            return;
        }
        let from = self.runs.keys().nth(MOST_RUNS / 2).copied().unwrap_or(1);
        let near = self.runs.split_off(&from);
        let upto = self.last();
        self.runs = near;
        self.runs.insert(1, upto);
    }

    fn count(&self) -> u64 {
        self.runs.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// The last number of the run that begins at 1.
    fn upto(&self) -> u64 {
        self.runs.get(&1).copied().unwrap_or(0)
    }

    fn last(&self) -> u64 {
        self.runs.last_key_value().map_or(0, |(_, last)| *last)
    }
}

/// A message that did not simply arrive once and was acknowledged.
#[derive(Debug, Default)]
struct History {
    /// Deliveries after the first.
    again: u32,
    /// Receivers that returned it, or died while they did.
    returned: u32,
    /// Receivers that died with it before they began to acknowledge.
    died_held: u32,
    /// Receivers that died while they acknowledged it.
    died_acking: u32,
    /// Receivers that died while they returned it.
    died_returning: u32,
    /// The attempts of which receivers were told, one bit for each.
    attempts: u64,
    /// It came flagged, or out of order to a receiver that is not told of flags.
    flagged: bool,
}

impl History {
    /// How often the message came to a receiver that wrote no entry of it.
    fn judge(&self, sender: usize, n: u64, violations: &mut Violations) -> u64 {
        let must = self.returned + self.died_held;
        if self.again < must {
            violations.add(format_args!(
                "message {n} of {sender} was not acknowledged and did not come again: {self:?}"
            ));
        }
        let may = must + self.died_acking;
        let is_first_missing = self.flagged && self.again == 0 && may == 0;
        let deliveries = self.again.saturating_sub(may) + u32::from(is_first_missing);
        // Attempts that were counted and have no entry. A receiver that is not told of its attempt
        // acknowledges the message, so that attempt is the last and leaves no gap.
        let attempts = (u64::BITS - self.attempts.leading_zeros()) - self.attempts.count_ones();
        deliveries.max(attempts).into()
    }
}

/// A history is over when the last message of its sender is so many numbers ahead: that takes seconds.
const WINDOW: u64 = 1 << 19;
/// After how many new histories those are judged that are over.
const JUDGED_EACH: u64 = 1 << 16;

/// The messages of one sender.
#[derive(Debug, Default)]
struct Sent {
    arrived: Numbers,
    unflagged: Numbers,
    /// The messages that the sender was about to send when it died: each may have been sent.
    doubts: Vec<(u64, u64)>,
    last: u64,
}

/// The sum of all ledgers.
#[derive(Debug, Default)]
pub(crate) struct Account {
    senders: BTreeMap<usize, Sent>,
    /// The ids that arrived, each counted from 1.
    ids: Numbers,
    /// How many messages a consumer takes that drops what it has had by its id.
    pub(crate) once_by_id: u64,
    histories: BTreeMap<(usize, u64), History>,
    /// How many histories were begun since the last were judged.
    begun: u64,
    /// Deliveries without an entry, in histories that are over.
    without_entry: u64,
    /// For each receiver and sender, the last message that came unflagged.
    order: BTreeMap<(usize, usize), u64>,
    /// How many receivers died in a call whose message, if there was one, has no entry.
    unseen: u64,
    /// How many of these calls acknowledge the message.
    unseen_acked: u64,
    pub(crate) deliveries: u64,
    pub(crate) redeliveries: u64,
    /// Leases that a receiver ended without an acknowledgement, and lived on.
    pub(crate) returned: u64,
    pub(crate) most_attempts: u16,
}

/// The result of the account.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    pub(crate) sent: u64,
    pub(crate) in_doubt: u64,
    /// How many of these had been sent.
    pub(crate) arrived_in_doubt: u64,
    /// Messages that a `recv` acknowledged, and its process died before it wrote an entry.
    pub(crate) died_with_receiver: u64,
    /// Deliveries to receivers that died in the call, before they wrote an entry.
    pub(crate) without_entry: u64,
}

impl Account {
    /// Adds an entry that is settled, or that the receiver left when it died.
    pub(crate) fn entry(&mut self, receiver: usize, entry: Entry, violations: &mut Violations) {
        let Entry { sender, id, n, redelivered, attempts, stage } = entry;
        let is_told = !acknowledges_in_call(receiver);
        self.deliveries += 1;
        self.most_attempts = self.most_attempts.max(attempts);
        let sent = self.senders.entry(sender).or_default();
        let is_first = sent.arrived.insert(n);
        let is_new = self.ids.insert(id.wrapping_add(1));
        self.once_by_id += u64::from(is_new);
        if is_new != is_first {
            let what = if is_first { "the id of another" } else { "another id than before" };
            violations.add(format_args!("{entry:?} of receiver {receiver} has {what}"));
        }
        let last = self.order.entry((receiver, sender)).or_insert(0);
        let in_order = n > *last;
        if is_told && redelivered != (attempts > 1) {
            violations.add(format_args!("{entry:?} of receiver {receiver} contradicts itself"));
        }
        if is_told && !redelivered {
            sent.unflagged.forget();
            if !sent.unflagged.insert(n) {
                violations.add(format_args!("{entry:?} came unflagged twice, now to {receiver}"));
            }
            if !in_order {
                violations.add(format_args!("{entry:?} came to {receiver} after {last}"));
            }
        }
        if !redelivered {
            *last = n.max(*last);
        }
        let flagged = redelivered || !is_told && !in_order;
        self.redeliveries += u64::from(flagged);
        self.returned += u64::from(stage == Stage::Returned);
        if !is_first || flagged || stage != Stage::Acked {
            self.begun += u64::from(!self.histories.contains_key(&(sender, n)));
            let history = self.histories.entry((sender, n)).or_default();
            history.again += u32::from(!is_first);
            history.flagged |= flagged;
            history.died_held += u32::from(stage == Stage::Held);
            history.died_acking += u32::from(stage == Stage::AboutToAck);
            history.died_returning += u32::from(stage == Stage::AboutToReturn);
            let returned = matches!(stage, Stage::Returned | Stage::AboutToReturn);
            history.returned += u32::from(returned);
            let bit = attempts.checked_sub(1).and_then(|nth| 1_u64.checked_shl(nth.into()));
            if let Some(bit) = bit.filter(|_| is_told) {
                if history.attempts & bit != 0 {
                    violations
                        .add(format_args!("{entry:?} of {receiver}: that attempt was before"));
                }
                history.attempts |= bit;
            }
            if self.begun > JUDGED_EACH {
                self.begun = 0;
                self.judge(WINDOW, violations);
            }
        }
    }

    /// Judges the histories of all messages that are `window` numbers behind the last of their sender.
    fn judge(&mut self, window: u64, violations: &mut Violations) {
        let last = |sender| self.senders.get(&sender).map_or(0, |sent| sent.arrived.last());
        let is_over = |(sender, n): &(usize, u64)| n + window <= last(*sender);
        let mut without_entry = 0;
        self.histories.retain(|key, history| {
            if is_over(key) {
                without_entry += history.judge(key.0, key.1, violations);
            }
            !is_over(key)
        });
        self.without_entry += without_entry;
    }

    pub(crate) fn sender_died(&mut self, sender: usize, sent: u64, about: u64) {
        if about > sent {
            self.senders.entry(sender).or_default().doubts.push((sent + 1, about));
        }
    }

    pub(crate) fn receiver_died(&mut self, receiver: usize, in_call: bool) {
        self.unseen += u64::from(in_call);
        self.unseen_acked += u64::from(in_call && acknowledges_in_call(receiver));
    }

    /// The last message of the sender.
    pub(crate) fn sender_ended(&mut self, sender: usize, sent: u64) {
        self.senders.entry(sender).or_default().last = sent;
    }

    /// The balance, when all workers have ended and the queue is empty.
    pub(crate) fn balance(&mut self, violations: &mut Violations) -> Balance {
        self.judge(0, violations);
        let mut balance = Balance::default();
        let (by_id, arrived) =
            (self.once_by_id, self.senders.values().map(|it| it.arrived.count()));
        let arrived: u64 = arrived.sum();
        if by_id != arrived {
            violations.add(format_args!("{arrived} messages arrived, and {by_id} by their ids"));
        }
        for (id, sent) in &self.senders {
            sent.balance(*id, &mut balance, violations);
        }
        if balance.died_with_receiver > self.unseen_acked {
            let (lost, excuses) = (balance.died_with_receiver, self.unseen_acked);
            violations.add(format_args!(
                "{lost} messages were lost, and only {excuses} receivers died in `recv`"
            ));
        }
        let unseen = self.without_entry;
        balance.without_entry = unseen;
        if unseen > self.unseen {
            let excuses = self.unseen;
            violations.add(format_args!(
                "{unseen} deliveries or attempts without an entry, and only {excuses} receivers died in a call"
            ));
        }
        balance
    }
}

impl Sent {
    fn balance(&self, id: usize, balance: &mut Balance, violations: &mut Violations) {
        balance.sent += self.last;
        let last_arrived = self.arrived.last();
        if last_arrived > self.last {
            violations.add(format_args!("message {last_arrived} of {id} was never sent"));
        }
        let mut doubts = self.doubts.iter().peekable();
        for n in self.arrived.upto() + 1..=self.last {
            while doubts.next_if(|(_, to)| *to < n).is_some() {}
            let is_in_doubt = doubts.peek().is_some_and(|(from, to)| (from..=to).contains(&&n));
            if !self.arrived.contains(n) && !is_in_doubt {
                balance.died_with_receiver += 1;
            }
        }
        for &(from, to) in &self.doubts {
            let arrived = (from..=to).filter(|n| self.arrived.contains(*n)).count() as u64;
            balance.in_doubt += to - from + 1;
            balance.arrived_in_doubt += arrived;
            // The messages of a batch are sent in order, so all up to the last that arrived were sent.
            let reached = (from..=to).rev().find(|n| self.arrived.contains(*n));
            balance.died_with_receiver += reached.map_or(0, |last| last - from + 1 - arrived);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if runs that meet stay two (seen failing).
    #[test]
    fn numbers_without_gaps_are_one_run() {
        let mut numbers = Numbers::default();
        for n in [1, 2, 5, 4, 9] {
            assert!(numbers.insert(n) && !numbers.insert(n));
        }
        assert_eq!((numbers.upto(), numbers.last()), (2, 9));
        assert!(numbers.insert(3), "a gap");
        assert_eq!(numbers.runs, BTreeMap::from([(1, 5), (9, 9)]));
        assert!(!numbers.contains(6) && numbers.contains(4));
    }

    #[test]
    fn gaps_far_behind_are_forgotten() {
        let mut numbers = Numbers::default();
        let count = 2 * MOST_RUNS as u64;
        for n in (1..=count).map(|n| 2 * n) {
            numbers.forget();
            assert!(numbers.insert(n));
        }
        assert!(numbers.runs.len() <= MOST_RUNS);
        assert!(!numbers.insert(3) && numbers.insert(2 * count - 1));
    }
}

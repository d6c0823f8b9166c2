//! A side of a queue: what a thread or task waits for, and at which gate. A thread waits there in a
//! blocking call, and a driver parks tasks there.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::process::barriers::order_acknowledgements;
use crate::process::futex::Futex;
use crate::process::owing_handles::Holder;
use crate::process::segment::Segment;
use crate::ring::control::Record;
use crate::ring::position::Position;
use crate::ring::slot::Verb;
use crate::ring::slots::Ring;
use crate::sync::AtomicU32;
use crate::wait::gate::{Gate, Kernel, Sleep};
use crate::wait::spin::Spin;
use crate::wait::thread::{Patience, wait_at};

/// What a thread or task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitsFor {
    /// A sender: a free slot.
    Room,
    /// A receiver: a message, or the end of a closed queue.
    Message,
    /// A receiver: a free lease of its handle, all of which are in use. A wake for a message must
    /// not reach this waiter, because it could not take the message.
    Lease,
    /// A join.
    Acknowledgement,
    /// An event: that it is set.
    Event,
}

/// What a thread or task of one handle waits for, and at which gate. Keeps the queue mapped, but no handle's record.
#[derive(Clone, Debug)]
pub struct Side {
    segment: Arc<Segment>,
    waits_for: WaitsFor,
    /// The record that counts the waits.
    record: Option<u32>,
    /// The cursor of the handle: [`is_ready`](Self::is_ready) checks this position first.
    at: Option<Position>,
    /// Only of a side that waits for a lease: the gate, which no other process has, and the handle.
    leases: Option<(Arc<Gate>, Weak<dyn Holder>)>,
}

/// Equal for all sides at which tasks may share one kernel wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SideKey(u64, WaitsFor, Option<u32>);

impl Side {
    pub(crate) fn new(segment: &Arc<Segment>, waits_for: WaitsFor) -> Self {
        Self { segment: Arc::clone(segment), waits_for, record: None, at: None, leases: None }
    }

    pub(crate) fn of_record(self, record: u32) -> Self {
        Self { record: Some(record), ..self }
    }

    pub(crate) fn at(self, at: Position) -> Self {
        Self { at: Some(at), ..self }
    }

    /// The same side, for a lease of `handle`, at its gate `leases`.
    pub(crate) fn of_leases(self, handle: &Arc<dyn Holder>, leases: &Arc<Gate>) -> Self {
        let leases = Some((Arc::clone(leases), Arc::downgrade(handle)));
        Self { leases, ..self }
    }

    /// What a thread or task waits for here.
    pub fn waits_for(&self) -> WaitsFor {
        self.waits_for
    }

    /// The gate of this side; `None` in a forked child.
    pub fn gate(&self) -> Option<&Gate> {
        let control = self.segment.ring()?.control;
        Some(match self.waits_for {
            WaitsFor::Room => &control.after_recv.writable,
            WaitsFor::Message | WaitsFor::Event => &control.after_send.readable,
            WaitsFor::Acknowledgement => &control.after_recv.acknowledged,
            WaitsFor::Lease => &self.leases.as_ref()?.0,
        })
    }

    /// Whether an attempt may have an answer now. Another waiter may be quicker.
    pub fn is_ready(&self) -> bool {
        let Some(ring) = self.segment.ring() else { return true };
        if ring.condition.check().is_err() {
            return true;
        }
        match self.waits_for {
            WaitsFor::Room => ring.is_ready(Verb::Send, self.at),
            WaitsFor::Message => ring.is_ready(Verb::Recv, self.at),
            WaitsFor::Lease => {
                let handle = self.leases.as_ref().and_then(|(_, handle)| handle.upgrade());
                handle.is_none_or(|handle| handle.has_free_lease())
            }
            // Each join waits for messages of its own, so only the join can tell.
            WaitsFor::Acknowledgement => true,
            WaitsFor::Event => ring.control.rare.flag.is_set(),
        }
    }

    /// Whether one wake is meant for all waiters of this side.
    pub fn is_for_all(&self) -> bool {
        matches!(self.waits_for, WaitsFor::Acknowledgement | WaitsFor::Event)
    }

    /// Equal for sides that one kernel wait can serve: those of one handle that wait for the same.
    pub fn key(&self) -> SideKey {
        SideKey(self.segment.serial, self.waits_for, self.record)
    }

    /// After what time a waiter attempts without a wake: the watchdog's period, or less while a
    /// search for dead handles is urgent.
    pub fn watchdog(&self) -> Duration {
        let period = self.segment.geometry().watchdog();
        self.segment.urgent_search_in().map_or(period, |urgent| period.min(urgent))
    }

    /// Returns owed messages as far as there is room, and searches for dead handles if that is due.
    /// A waiter does this before each attempt.
    pub fn maintain(&self) {
        self.segment.maintain();
    }

    /// Makes stores without a fence visible to this waiter. Call it after the announcement and
    /// before the attempt: then either the attempt sees the store, or the storing thread sees the
    /// announcement.
    pub fn order(&self) {
        if self.waits_for == WaitsFor::Lease {
            order_acknowledgements();
        }
    }

    /// As [`maintain`](Self::maintain), for a caller that has read the clock: a few loads if no
    /// search is due.
    pub fn maintain_at(&self, now: Instant) {
        self.segment.maintain_at(now);
    }

    /// Reports that a peer has died: searches for dead handles now, and wakes all waiters, because a
    /// wake may have been lost with the peer. Returns the time after which to call
    /// [`maintain`](Self::maintain) again, because the kernel may not have released all locks of
    /// the dead process yet.
    pub fn report_death(&self) -> Duration {
        let second_search = self.segment.report_death();
        if let Some(ring) = self.segment.ring() {
            wake_all_waiters(&ring);
        }
        second_search
    }

    /// Whether both are sides of one queue, as opened once by this process.
    pub fn is_of_same_queue(&self, other: &Self) -> bool {
        self.segment.serial == other.segment.serial
    }

    /// A number that changes when the [`peers`](Self::peers) may have changed.
    pub fn arrivals(&self) -> u32 {
        self.segment.ring().map_or(0, |ring| ring.control.arrivals())
    }

    /// The value that a driver keeps for this queue as this process opened it. The first call makes
    /// it by `make`; the queue drops it. `None` if another driver keeps a value of another type.
    pub fn companion<T: Any + Send + Sync + UnwindSafe + RefUnwindSafe>(
        &self,
        make: impl FnOnce() -> T,
    ) -> Option<&T> {
        self.segment.companion.get_or_make(make)
    }

    /// The processes of all handles except this process, in ascending order, as each wrote its own
    /// pid. A pid may come from another pid namespace, or be a lie.
    pub fn peers(&self) -> Vec<u32> {
        let mut pids: Vec<_> = self.segment.ring().map_or_else(Vec::new, |ring| {
            ring.records.iter().filter_map(Record::process).collect()
        });
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| *pid != std::process::id());
        pids
    }

    /// Counts one wait that a driver began.
    pub fn count_park(&self) {
        self.with_futex(|futex| futex.count_park());
    }

    /// If an attempt may have an answer now, passes a wake on to another waiter of this side, in
    /// any process.
    pub fn pass_on(&self) {
        if let Some(gate) = self.gate()
            && self.is_ready()
            && let Some(wake) = gate.notify(1)
        {
            self.with_futex(|futex| wake.carry_out(&futex));
        }
    }

    /// Calls `attempt` until it answers, and lets the thread sleep in between; `None` when the time
    /// is over. Before each attempt the thread calls [`maintain`](Self::maintain), because messages
    /// that are owed or that dead handles held have waited longer.
    ///
    /// `attempt` always answers in a forked child, because there is no gate to wait at.
    pub(crate) fn sleep<T>(
        &self,
        until: Option<Instant>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let Some(gate) = self.gate() else { return attempt() };
        let patience = Patience { until, watchdog: self.segment.geometry().watchdog() };
        let attempt = || {
            self.maintain();
            self.order();
            attempt()
        };
        let more = || !self.is_for_all() && self.is_ready();
        self.with_futex(|futex| {
            let kernel = UntilDue { futex, segment: &self.segment };
            wait_at(&kernel, gate, patience, attempt, more)
        })
    }

    fn with_futex<R>(&self, call: impl FnOnce(Futex<'_>) -> R) -> R {
        let ring = self.segment.ring();
        let records = ring.as_ref().map_or(&[][..], |ring| ring.records);
        let record = self.record.and_then(|id| records.get(id as usize));
        call(record.map_or(Futex::uncounted(), |record| Futex::counted(&record.tally)))
    }
}

/// A kernel whose sleeps also end when a message that `nack_after` held back may return, or when a
/// search for dead handles is urgent.
struct UntilDue<'a> {
    futex: Futex<'a>,
    segment: &'a Segment,
}

impl Kernel for UntilDue<'_> {
    fn wait(&self, sleep: &Sleep<'_>, timeout: Option<Duration>) {
        let due = self.segment.owing_handles.next_due();
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        let times = [timeout, due, self.segment.urgent_search_in()];
        self.futex.wait(sleep, times.into_iter().flatten().min());
    }

    fn wake(&self, word: &AtomicU32, count: u32) -> u32 {
        self.futex.wake(word, count)
    }
}

/// Wakes all waiters at all gates of a queue, because their wake may have been lost with a dead
/// process.
pub(crate) fn wake_all_waiters(ring: &Ring<'_>) {
    for gate in ring.control.gates() {
        gate.notify_all().carry_out(&Futex::uncounted());
    }
}

/// A handle by which a thread waits. It says once for all its blocking calls where they wait.
///
/// `W` is what a call can wait for: `()` if all calls wait for the same.
pub(crate) trait Waits<W: Copy + PartialEq = ()> {
    /// The side at which a call waits.
    fn side(&self, waits_for: W) -> Side;

    fn segment(&self) -> &Segment;

    fn spin(&mut self) -> &mut Spin;
}

/// The wait of a blocking call of `handle`: calls `attempt` until it answers; `None` when the time
/// is over. An attempt without an answer says what the call waits for. The thread spins, as the
/// handle's `spin` allows, before it sleeps.
pub(crate) fn wait_blocking<W: Copy + PartialEq, H: Waits<W>, T>(
    handle: &mut H,
    until: Option<Instant>,
    mut attempt: impl FnMut(&mut H) -> ControlFlow<T, W>,
) -> Option<T> {
    let mut waits_for = match attempt(handle) {
        ControlFlow::Break(answer) => return Some(answer),
        ControlFlow::Continue(waits_for) => waits_for,
    };
    if handle.spin().is_due() {
        let mut its = *handle.spin();
        let meanwhile = |it: &mut H, now| it.segment().maintain_at(now);
        let soon = its.run(handle, until, meanwhile, |it| attempt(it).break_value());
        *handle.spin() = its;
        if soon.is_some() {
            return soon;
        }
    }
    loop {
        // An attempt that now waits for something else ends the sleep here, and so passes the wake
        // on.
        let here = waits_for;
        let slept = handle.side(here).sleep(until, || match attempt(handle) {
            ControlFlow::Break(answer) => Some(Some(answer)),
            ControlFlow::Continue(next) => {
                waits_for = next;
                (next != here).then_some(None)
            }
        });
        match slept {
            Some(Some(answer)) => return Some(answer),
            Some(None) if until.is_some_and(|until| Instant::now() >= until) => return None,
            Some(None) => {}
            None => return None,
        }
    }
}

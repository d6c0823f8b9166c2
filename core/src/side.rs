//! A side of a queue, at which somebody waits: a blocking call, or a driver that parks tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::futex::Futex;
use crate::gate::Gate;
use crate::position::Position;
use crate::recovery::wake_everybody;
use crate::segment::Segment;
use crate::slot::Verb;
use crate::spin::Spin;
use crate::sync::Ordering::Acquire;
use crate::wait::{Patience, wait_at};

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WaitsFor {
    Room,
    Message,
    Acknowledgement,
    Event,
}

/// The side of a queue at which somebody waits.
///
/// Keeps the queue mapped, but no handle's record.
#[derive(Clone, Debug)]
pub struct Side {
    segment: Arc<Segment>,
    waits_for: WaitsFor,
    /// Where its waits are counted.
    record: Option<u32>,
    /// Where its handle stood: looked at first.
    at: Option<Position>,
}

/// What is the same for all sides whose tasks may share one kernel wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SideKey(u64, WaitsFor, Option<u32>);

impl Side {
    pub(crate) fn new(segment: &Arc<Segment>, waits_for: WaitsFor) -> Self {
        Self { segment: Arc::clone(segment), waits_for, record: None, at: None }
    }

    /// The same of a handle, which has `record` and stands `at`.
    pub(crate) fn of_handle(self, record: u32, at: Position) -> Self {
        Self { record: Some(record), at: Some(at), ..self }
    }

    /// Where this side waits; `None` in a forked child.
    pub fn gate(&self) -> Option<&Gate> {
        let control = self.segment.ring()?.control;
        Some(match self.waits_for {
            WaitsFor::Room => &control.after_recv.writable,
            WaitsFor::Message | WaitsFor::Event => &control.after_send.readable,
            WaitsFor::Acknowledgement => &control.after_recv.acknowledged,
        })
    }

    /// Whether a waiter would find something to do. Others may be quicker.
    pub fn is_ready(&self) -> bool {
        let Some(ring) = self.segment.ring() else { return true };
        if ring.finding.check().is_err() {
            return true;
        }
        match self.waits_for {
            WaitsFor::Room => ring.is_ready(Verb::Send, self.at),
            WaitsFor::Message => ring.is_ready(Verb::Recv, self.at),
            // Each waits for something else: only it can tell.
            WaitsFor::Acknowledgement => true,
            WaitsFor::Event => ring.control.rare.flag.is_set(),
        }
    }

    /// Whether one wake is for all that wait here.
    pub fn is_for_all(&self) -> bool {
        matches!(self.waits_for, WaitsFor::Acknowledgement | WaitsFor::Event)
    }

    /// Equal for sides at which one kernel wait can stand for all: those of one handle.
    pub fn key(&self) -> SideKey {
        SideKey(self.segment.serial, self.waits_for, self.record)
    }

    /// How often a waiter looks without having been woken.
    pub fn watchdog(&self) -> Duration {
        self.segment.geometry().watchdog()
    }

    /// Recovers dead handles, if this process has not looked for them for a watchdog's period.
    pub fn keep_watch(&self) {
        self.segment.keep_watch();
    }

    /// The same for who knows what time it is: costs next to nothing if it is not due.
    pub fn keep_watch_at(&self, now: Instant) {
        self.segment.keep_watch_at(now);
    }

    /// Recovers dead handles now, since some peer has died, and has everybody look again: a wake
    /// may have died with it. Returns after what time to [`keep_watch`](Self::keep_watch) once more,
    /// should the kernel not be done with the dead.
    pub fn mourn(&self) -> Duration {
        let second_look = self.segment.watch_now();
        if let Some(ring) = self.segment.ring() {
            wake_everybody(&ring);
        }
        second_look
    }

    /// Whether both are sides of one queue, as this process opened it.
    pub fn is_of_same_queue(&self, other: &Self) -> bool {
        self.segment.serial == other.segment.serial
    }

    /// A number that moves when the [`peers`](Self::peers) may have changed.
    pub fn arrivals(&self) -> u32 {
        let ring = self.segment.ring();
        ring.map_or(0, |ring| ring.control.rare.arrivals.load(Acquire)) // [arrival]
    }

    /// The processes of all handles but this process's, as they wrote it: perhaps seen from another
    /// pid namespace, or a lie.
    pub fn peers(&self) -> Vec<u32> {
        let mut pids: Vec<_> = self.segment.ring().map_or_else(Vec::new, |ring| {
            ring.records.iter().map(|record| record.pid.load(Acquire)).collect() // [arrival]
        });
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| *pid != 0 && *pid != std::process::id());
        pids
    }

    /// Counts a wait that a driver began.
    pub fn count_park(&self) {
        self.with_futex(|futex| futex.count_park());
    }

    /// Passes a wake on to another waiter of this side, in whatever process, if there is something
    /// to do.
    pub fn pass_on(&self) {
        if let Some(gate) = self.gate()
            && self.is_ready()
            && let Some(wake) = gate.notify(1)
        {
            self.with_futex(|futex| wake.carry_out(&futex));
        }
    }

    /// Calls `attempt` until it answers, and has the thread sleep in between; `None` when the time is
    /// over. Who waits sees to what the dead left before its own: it waits longer.
    ///
    /// `attempt` always answers in a forked child: there is nowhere to wait.
    pub(crate) fn sleep<T>(
        &self,
        until: Option<Instant>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let Some(gate) = self.gate() else { return attempt() };
        let patience = Patience { until, watchdog: self.watchdog() };
        let attempt = || {
            self.keep_watch();
            attempt()
        };
        let more = || !self.is_for_all() && self.is_ready();
        self.with_futex(|futex| wait_at(&futex, gate, patience, attempt, more))
    }

    fn with_futex<R>(&self, call: impl FnOnce(Futex<'_>) -> R) -> R {
        let ring = self.segment.ring();
        let records = ring.as_ref().map_or(&[][..], |ring| ring.records);
        let record = self.record.and_then(|id| records.get(id as usize));
        call(record.map_or(Futex::uncounted(), |record| Futex::counted(&record.tally)))
    }
}

/// The wait of a blocking call of a `handle`: calls `attempt` until it answers, `None` when the time
/// is over. The thread looks by the handle's `spin` before it sleeps.
pub(crate) fn wait_blocking<H, T>(
    handle: &mut H,
    until: Option<Instant>,
    segment: impl Fn(&H) -> &Segment,
    side: impl FnOnce(&H) -> Side,
    spin: impl Fn(&mut H) -> &mut Spin,
    mut attempt: impl FnMut(&mut H) -> Option<T>,
) -> Option<T> {
    if let Some(answer) = attempt(handle) {
        return Some(answer);
    }
    if spin(handle).is_due() {
        let mut its = *spin(handle);
        let watch = |it: &mut H, now| segment(it).keep_watch_at(now);
        let soon = its.look(handle, until, watch, &mut attempt);
        *spin(handle) = its;
        if soon.is_some() {
            return soon;
        }
    }
    side(handle).sleep(until, || attempt(handle))
}

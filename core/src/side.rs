//! A side of a queue, at which somebody waits: for drivers that park tasks.

use std::sync::Arc;
use std::time::Duration;

use crate::futex::Futex;
use crate::gate::Gate;
use crate::recovery::wake_everybody;
use crate::segment::Segment;
use crate::slot::Verb;
use crate::sync::Ordering::Acquire;

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WaitsFor {
    Room,
    Message,
    Acknowledgement,
    Event,
}

/// The side of a queue at which somebody waits: for drivers that park tasks.
///
/// Keeps the queue mapped, but no handle's record.
#[derive(Clone, Debug)]
pub struct Side {
    segment: Arc<Segment>,
    waits_for: WaitsFor,
    /// Where its waits are counted.
    record: Option<u32>,
}

/// What is the same for all sides whose tasks may share one kernel wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SideKey(u64, WaitsFor, Option<u32>);

impl Side {
    pub(crate) fn new(segment: &Arc<Segment>, waits_for: WaitsFor, record: Option<u32>) -> Self {
        Self { segment: Arc::clone(segment), waits_for, record }
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
            WaitsFor::Room => ring.is_ready(Verb::Send),
            WaitsFor::Message => ring.is_ready(Verb::Recv),
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

    fn with_futex(&self, call: impl FnOnce(Futex<'_>)) {
        let ring = self.segment.ring();
        let records = ring.as_ref().map_or(&[][..], |ring| ring.records);
        let record = self.record.and_then(|id| records.get(id as usize));
        call(record.map_or(Futex::uncounted(), |record| Futex::counted(&record.tally)));
    }
}

//! Recovery: the records of the dead are audited, and what they held goes back into the ring.
//!
//! Whether a handle is dead is the kernel's word alone: its lock is free. Who recovers takes that
//! lock, and so does it as the dead handle; its own death midway is one more death of the same
//! record. Nothing is ever decided by time: a stopped process keeps its locks and all that is its.
//!
//! Who looks: a handle that attaches and takes the record; whoever waits, once a watchdog's period
//! or when a peer's death is news; and [`Queue::recover`](crate::Queue::recover).

use std::time::{Duration, Instant};

use crate::error::{AttachError, Corrupt};
use crate::futex::Futex;
use crate::port::Port;
use crate::ring::Ring;
use crate::segment::{Locks, Segment};
use crate::sync::Ordering::Relaxed;

/// What was found of dead handles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Handles of the dead that were audited and are free for others now.
    pub handles: usize,
    /// Messages they held that went back into the queue.
    pub messages: usize,
    /// Messages they held for which there is no room now. Whoever waits for room sees to them
    /// first.
    pub waiting: usize,
    /// Handles whose audit must wait until a peer that is in the midst of the same exchange, or
    /// stopped there, moves on.
    pub postponed: usize,
}

/// When this process looks for the dead next.
#[derive(Debug)]
pub(crate) struct Watch {
    next: Instant,
    /// Messages wait for room to go back: look whenever there may be some.
    is_owed: bool,
    /// The next look is not the last before a whole period has passed.
    looks_again: bool,
}

impl Watch {
    pub(crate) fn begin(period: Duration) -> Self {
        Self { next: Instant::now() + period, is_owed: false, looks_again: false }
    }
}

impl Segment {
    /// Looks for the dead if that is due. For those who wait: a process does it once a period,
    /// however many do.
    pub(crate) fn keep_watch(&self) {
        // Who holds the lock is looking.
        let Ok(mut watch) = self.watch.try_lock() else { return };
        let now = Instant::now();
        if !watch.is_owed && now < watch.next {
            return;
        }
        if !std::mem::take(&mut watch.looks_again) {
            watch.next = now + self.geometry().watchdog();
        }
        // What fails here fails again for somebody who is told.
        watch.is_owed = self.recover().is_ok_and(|found| found.waiting > 0);
    }

    /// Looks for the dead, due or not.
    pub(crate) fn recover_now(&self) -> Result<Recovered, AttachError> {
        let found = self.recover()?;
        if found.waiting > 0
            && let Ok(mut watch) = self.watch.try_lock()
        {
            watch.is_owed = true;
        }
        Ok(found)
    }

    /// Makes a look due: now, and again within a moment.
    pub(crate) fn watch_now(&self) {
        if let Ok(mut watch) = self.watch.try_lock() {
            watch.next = Instant::now();
            watch.looks_again = true;
        }
    }

    /// Audits all dead handles that left something open.
    fn recover(&self) -> Result<Recovered, AttachError> {
        let ring = self.ring().ok_or(AttachError::Forked)?;
        let mut found = Recovered::default();
        let (mut locks, mut corrupt) = (None, None);
        for id in 0..self.geometry().handles() {
            // Where the kernel does not tell, the owner is taken for alive.
            if !ring.is_dirty(id) || self.is_owned(id).unwrap_or(true) {
                continue;
            }
            let locks: &Locks = match &locks {
                Some(locks) => locks,
                None => {
                    let made = self.locks().map_err(|cause| AttachError::Proc { cause })?;
                    locks.insert(made)
                }
            };
            if locks.take(id).unwrap_or(false) {
                // One record that somebody scribbled on does not keep the others.
                corrupt = found.add_record(ring, id).err().or(corrupt);
                // Should this fail, it goes with the description.
                let _ = locks.release(id);
            }
        }
        if found.handles > 0 || found.messages > 0 {
            wake_everybody(&ring);
        }
        corrupt.map_or(Ok(found), |corrupt| Err(corrupt.into()))
    }
}

impl Recovered {
    /// Recovers record `id`, whose lock the caller has.
    fn add_record(&mut self, ring: Ring<'_>, id: u32) -> Result<(), Corrupt> {
        // Somebody else may have been quicker.
        if !ring.is_dirty(id) {
            return Ok(());
        }
        let Some(port) = Port::take_over(ring, id)? else {
            self.postponed += 1;
            return Ok(());
        };
        let (gone, left) = port.give_all_back();
        self.messages += gone;
        self.waiting += left;
        if left == 0 {
            self.handles += 1;
            port.record().tally.recovered.increment();
            port.record().pid.store(0, Relaxed);
        }
        Ok(())
    }
}

/// Has everybody look again: some may sleep whose wake died with its sender.
pub(crate) fn wake_everybody(ring: &Ring<'_>) {
    for gate in ring.control.gates() {
        gate.notify_all().carry_out(&Futex::uncounted());
    }
}

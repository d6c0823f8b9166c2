//! Recovery: the records of the dead are audited, and what they held goes back into the ring.
//!
//! Whether a handle is dead is the kernel's word alone: its lock is free. Who recovers takes that
//! lock, and so does it as the dead handle; its own death midway is one more death of the same
//! record. Nothing is ever decided by time: a stopped process keeps its locks and all that is its.
//!
//! Who looks: a handle that attaches and takes the record; whoever waits, once a watchdog's period
//! or when a peer's death is news; and [`Queue::recover`](crate::Queue::recover).
//!
//! | edge | release | acquire | carries |
//! |---|---|---|---|
//! | [news] | `watch_now`: has_news, fence, try_lock | `look`: unlock, fence, has_news | who brings news finds the lock free, or who has it sees the news: a fence on both sides |
//! | [arrival] | a new handle's pid, then arrivals | `Side::arrivals`, then `Side::peers` | who sees that somebody came sees who |

use std::sync::atomic::{AtomicBool, AtomicU64, fence};
use std::time::{Duration, Instant};

use crate::error::{AttachError, Corrupt};
use crate::futex::Futex;
use crate::locks::{Locks, Owner};
use crate::port::Port;
use crate::ring::Ring;
use crate::segment::Segment;
use crate::sync::Mutex;
use crate::sync::Ordering::{Relaxed, SeqCst};

/// After news of a death: when to look once more, should the kernel not be done with the dead.
const SECOND_LOOK: Duration = Duration::from_millis(1);

/// What was found of dead handles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Handles of the dead that had left something open, and are free for others now. One that had
    /// not was free as soon as its process ended.
    pub handles: usize,
    /// Messages they held that went back into the queue.
    pub messages: usize,
    /// Messages they held for which there is no room now. Whoever waits for room sees to them
    /// first.
    pub waiting: usize,
    /// Handles that somebody else is recovering or letting go right now, or whose audit must wait
    /// until a peer that is in the midst of the same exchange, or stopped there, moves on.
    pub postponed: usize,
}

/// When this process looks for the dead next.
#[derive(Debug)]
pub(crate) struct Watch {
    begun: Instant,
    /// Nanoseconds from `begun` to the next look; written under the lock.
    next: AtomicU64,
    /// Some peer has died: look now.
    has_news: AtomicBool,
    /// Messages wait for room to go back: look whenever there may be some.
    is_owed: AtomicBool,
    /// Of who looks.
    looking: Mutex<()>,
}

impl Watch {
    pub(crate) fn begin(period: Duration) -> Self {
        let (has_news, is_owed) = (AtomicBool::new(false), AtomicBool::new(false));
        let next = AtomicU64::new(nanos(period));
        Self { begun: Instant::now(), next, has_news, is_owed, looking: Mutex::new(()) }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.has_news.load(Relaxed)
            || self.is_owed.load(Relaxed)
            || nanos(now.saturating_duration_since(self.begun)) >= self.next.load(Relaxed)
    }
}

/// Five centuries are enough.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Segment {
    /// Looks for the dead if that is due. For those who wait: a process does it once a period,
    /// however many do.
    pub(crate) fn keep_watch(&self) {
        self.keep_watch_at(Instant::now());
    }

    /// The same for who knows what time it is: a few loads if it is not due.
    #[inline]
    pub(crate) fn keep_watch_at(&self, now: Instant) {
        if self.owing.is_any() {
            self.return_owed();
        }
        if self.watch.is_due(now) {
            self.look(now);
        }
    }

    #[cold]
    fn look(&self, now: Instant) {
        loop {
            {
                // Who holds the lock is looking, and looks again for the news we may have brought.
                let Ok(_looking) = self.watch.looking.try_lock() else { return };
                self.look_if_due(now);
            }
            fence(SeqCst); // [news]
            if !self.watch.has_news.load(Relaxed) {
                return;
            }
        }
    }

    fn look_if_due(&self, now: Instant) {
        // Somebody may have looked since.
        let is_due = self.watch.is_due(now);
        let has_news = self.watch.has_news.swap(false, SeqCst);
        if !is_due && !has_news {
            return;
        }
        let period = self.geometry().watchdog();
        let period = if has_news { period.min(SECOND_LOOK) } else { period };
        let next = now.saturating_duration_since(self.watch.begun).saturating_add(period);
        self.watch.next.store(nanos(next), Relaxed);
        // What fails here fails again for somebody who is told.
        let _ = self.recover();
    }

    /// Looks for the dead now, since some peer has died. Whoever waits looks once more after the
    /// time that is returned.
    pub(crate) fn watch_now(&self) -> Duration {
        self.watch.has_news.store(true, SeqCst);
        fence(SeqCst); // [news]
        self.keep_watch();
        SECOND_LOOK
    }

    /// Has those of this process who wait see to messages that found no room, whenever there may be
    /// some: nobody else could, for nobody has their records.
    pub(crate) fn owe(&self, waiting: usize) {
        if waiting > 0 {
            self.watch.is_owed.store(true, Relaxed);
        }
    }

    /// Audits all dead handles that left something open.
    pub(crate) fn recover(&self) -> Result<Recovered, AttachError> {
        let ring = self.ring().ok_or(AttachError::Forked)?;
        ring.finding.check()?;
        // Before the look: what it leaves is owed by then.
        self.watch.is_owed.store(false, Relaxed);
        let mut found = Recovered::default();
        let (mut locks, mut corrupt) = (None, None);
        for id in 0..self.geometry().handles() {
            // Where the kernel does not tell, the owner is taken for alive.
            let owner = if ring.is_dirty(id) { self.owner(id) } else { continue };
            match owner {
                Ok(None) => {}
                Ok(Some(Owner::Passing)) => {
                    found.postponed = found.postponed.saturating_add(1);
                    continue;
                }
                Ok(Some(Owner::Handle)) | Err(_) => continue,
            }
            let locks: &Locks = match &locks {
                Some(locks) => locks,
                None => {
                    // What was owed may still be.
                    let owed = |_: &_| self.watch.is_owed.store(true, Relaxed);
                    let made = self.locks().inspect_err(owed);
                    locks.insert(made.map_err(|cause| AttachError::Proc { cause })?)
                }
            };
            if locks.take(id).unwrap_or(false) {
                // One record that somebody scribbled on does not keep the others.
                corrupt = found.add_record(ring, id).err().or(corrupt);
                // Should this fail, it goes with the description.
                let _ = locks.release(id);
            }
        }
        self.owe(found.waiting);
        if found.handles > 0 || found.messages > 0 {
            wake_everybody(&ring);
        }
        corrupt.map_or(Ok(found), |corrupt| Err(corrupt.into()))
    }
}

impl Recovered {
    /// Recovers record `id`, whose lock the caller has.
    #[expect(clippy::arithmetic_side_effects, reason = "counts of records and of their cells")]
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
            port.record().unname(0);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use crate::Queue;

    /// Fails if news is forgotten while somebody else has the lock (seen failing). That who has it
    /// looks again, too, is for the two fences to argue.
    #[test]
    fn news_of_a_death_waits_for_who_looks_already() {
        let queue = Queue::builder().create().unwrap();
        let segment = queue.segment();
        let begun = segment.watch.next.load(Relaxed);
        {
            let _looking = segment.watch.looking.lock().unwrap();
            segment.watch_now();
        }
        segment.keep_watch();
        assert!(!segment.watch.has_news.load(Relaxed), "looked");
        assert!(segment.watch.next.load(Relaxed) < begun, "and looks once more, soon");
    }
}

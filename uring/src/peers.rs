//! The peers of one reactor: processes that share a queue with this one. The ring polls for their ends, so
//! that what they held is recovered at once.
//!
//! Some ends only the watchdog finds: a process may be in another pid namespace, or its handle may have
//! named another process.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use parkline_core::driver::Side;

use crate::engine::Engine;
use crate::lock::lock;
use crate::pidfds::{self, Peer};
use crate::waiters::Waiters;

/// How many handles had arrived at the last search, as [`Waiters::arrivals`] says.
type Arrivals = Arc<Mutex<Option<u32>>>;

#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// By queue.
    arrivals: Mutex<HashMap<u64, Arrivals>>,
    /// By process.
    polls: Mutex<HashMap<u32, Poll>>,
}

/// A poll for the end of a process.
#[derive(Debug)]
struct Poll {
    peer: Weak<Peer>,
    id: u64,
}

impl Peers {
    pub(crate) fn arrivals_of(&self, side: &Side) -> Arrivals {
        let Some(queue) = pidfds::number_of(side) else { return Arrivals::default() };
        let mut all = lock(&self.arrivals);
        if let Some(arrivals) = all.get(&queue) {
            return Arc::clone(arrivals);
        }
        if all.len() == all.capacity() {
            // One search more of a queue where no task waits costs little.
            all.retain(|_, arrivals| Arc::strong_count(arrivals) > 1);
        }
        Arc::clone(all.entry(queue).or_default())
    }

    /// Has the waiters of each queue search again, even if no handle arrives.
    pub(crate) fn forget_arrivals(&self) {
        for arrivals in lock(&self.arrivals).values() {
            *lock(arrivals) = None;
        }
    }

    /// Polls for the ends of the processes that the queue names. Returns after what time the watchdog
    /// has to come, if it has to.
    pub(crate) fn search(&self, side: &Side, engine: &Engine) -> Option<Duration> {
        let found = pidfds::search(side)?;
        {
            let mut polls = lock(&self.polls);
            polls.retain(|_, it| it.peer.strong_count() > 0 || !engine.cancel_poll(it.id));
            for peer in &found.peers {
                let weak = Arc::downgrade(peer);
                let is_it = |it: &Poll| Weak::ptr_eq(&it.peer, &weak);
                let is_polled = polls.get(&peer.pid).is_some_and(is_it);
                // One that is refused is polled after the watchdog's next search.
                if !is_polled && let Ok(id) = engine.poll_peer(peer) {
                    polls.insert(peer.pid, Poll { peer: weak, id });
                }
            }
        }
        let second_search = found.some_ended.then(|| side.report_death());
        [second_search, found.again].into_iter().flatten().min()
    }

    /// A poll is complete. Whether to search the queues again: the process has ended, or is not polled
    /// any more because the thread that submitted the poll has ended.
    pub(crate) fn completed(&self, peer: &Weak<Peer>, answer: &io::Result<bool>) -> bool {
        let was_polled = {
            let mut polls = lock(&self.polls);
            let before = polls.len();
            polls.retain(|_, it| !Weak::ptr_eq(&it.peer, peer));
            polls.len() < before
        };
        match answer {
            Ok(true) => {
                peer.upgrade().iter().for_each(pidfds::remove);
                true
            }
            // Otherwise it was cancelled because no queue names the process any more.
            Ok(false) => was_polled,
            Err(_) => false,
        }
    }

    /// Of how many queues it knows arrivals.
    #[cfg(test)]
    pub(crate) fn queues(&self) -> usize {
        lock(&self.arrivals).len()
    }

    /// For how many processes the ring polls.
    #[cfg(test)]
    pub(crate) fn polled(&self) -> usize {
        lock(&self.polls).len()
    }
}

/// Whether handles have arrived since the last call, or [`Peers::forget_arrivals`] was called.
pub(crate) fn have_arrived(waiters: &Waiters) -> bool {
    let arrivals = Some(waiters.side.arrivals());
    mem::replace(&mut *lock(&waiters.arrivals), arrivals) != arrivals
}

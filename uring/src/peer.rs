//! The processes that share queues with this one, and the descriptors by which rings tell their ends.
//!
//! Records name processes, and a peer can write there what it likes: strangers, the dead, numbers of no
//! process, others each time. So this process keeps, for each queue that it has open:
//!
//! * the processes that it watches, by a pidfd each. All queues and rings of the process share it. It
//!   is closed when no queue names the process any more, or the last that does is closed;
//! * the numbers that are known to be of no living process, as long as the queue names them. A zombie
//!   is no news a second time, nor is a number that never was a process's. A process that takes over
//!   the record and the number of a dead one is left to the watchdog.
//!
//! A look makes few system calls, and looks that make some follow one another slowly. All queues
//! together have few descriptors, and each its fair share of them. Whatever is not watched is left to
//! the watchdog.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use parkline_core::driver::{ForkGuard, Side, hold_forks, kill_point};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::reactor::lock;

/// How many processes this one watches for all its queues: each takes a descriptor.
const MOST: usize = 256;
/// How many processes one look asks the kernel about, and when the next goes on.
const ASKS: u32 = 64;
const NEXT: Duration = Duration::from_millis(1);
/// Looks at a queue that ask the kernel: so many in a row, then one each 20 ms.
const IN_A_ROW: u32 = 32;
const PAUSE: Duration = Duration::from_millis(20);

/// A process that shares a queue.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
}

/// What a look at the peers of a queue found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The processes whose ends a ring is to tell.
    pub(crate) watched: Vec<Arc<Peer>>,
    /// Some process has ended, or is out of sight: what it left is to be recovered.
    pub(crate) some_ended: bool,
    /// When to look again: there was no time for all.
    pub(crate) again: Option<Duration>,
}

/// An opened queue: goes with it.
#[derive(Debug)]
struct Opened(u64);

/// What this process knows of its peers.
#[derive(Debug)]
struct Known {
    guard: ForkGuard,
    /// Those that some queue has watched.
    peers: HashMap<u32, Weak<Peer>>,
    queues: HashMap<u64, Named>,
    /// The kernel has no pidfd for this process.
    is_refused: bool,
}

/// The processes that one queue names.
#[derive(Debug, Default)]
struct Named {
    watched: HashMap<u32, Arc<Peer>>,
    ended: HashSet<u32>,
    pace: Pace,
}

/// Where one more process can be watched.
enum Place {
    Free,
    /// Of a queue that watches more.
    Of(u64),
}

/// How far ahead of its time a queue has the kernel asked.
#[derive(Debug, Default)]
struct Pace(Option<Instant>);

/// A number that tells apart the queues that this process has opened.
pub(crate) fn number_of(side: &Side) -> Option<u64> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let opened = side.companion(|| Opened(LAST.fetch_add(1, Relaxed)));
    opened.map(|opened| opened.0)
}

/// Looks at the peers of a queue; `None` where they cannot be watched.
pub(crate) fn find(side: &Side) -> Option<Found> {
    let queue = number_of(side)?;
    let pids = side.peers();
    let mut refused = None;
    let found = with_known(|known| known.find(queue, &pids, &mut refused));
    if let Some(error) = refused {
        let error = io::Error::from(error);
        tracing::warn!(%error, "no pidfd is to be had: parkline finds the dead by the watchdog alone");
    }
    found
}

/// A process has ended: no queue watches it any more.
pub(crate) fn let_go(peer: &Arc<Peer>) {
    with_known(|known| {
        let is_it = |it: &Arc<Peer>| Arc::ptr_eq(it, peer);
        for named in known.queues.values_mut() {
            if named.watched.get(&peer.pid).is_some_and(is_it) {
                named.watched.remove(&peer.pid);
            }
        }
        if known.peers.get(&peer.pid).is_some_and(|it| Weak::ptr_eq(it, &Arc::downgrade(peer))) {
            known.peers.remove(&peer.pid);
        }
    });
}

impl Drop for Opened {
    fn drop(&mut self) {
        with_known(|known| drop(known.queues.remove(&self.0)));
    }
}

/// `None` where there is no memory to tell a forked child by.
fn with_known<R>(call: impl FnOnce(&mut Known) -> R) -> Option<R> {
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    // A child must not find it locked.
    let _forks = hold_forks();
    let mut known = lock(&KNOWN);
    // What a child inherited are copies of its own, which it does not need.
    known.take_if(|known| known.guard.is_forked());
    if known.is_none() {
        let (guard, is_refused) = (ForkGuard::new().ok()?, false);
        *known = Some(Known { guard, peers: HashMap::new(), queues: HashMap::new(), is_refused });
    }
    known.as_mut().map(call)
}

impl Known {
    fn find(&mut self, queue: u64, pids: &[u32], refused: &mut Option<Errno>) -> Found {
        let mut found = Found::default();
        let mut named = self.queues.remove(&queue).unwrap_or_default();
        let is_named = |pid: &u32| pids.binary_search(pid).is_ok();
        named.watched.retain(|pid, _| is_named(pid));
        named.ended.retain(is_named);
        let (mut asks, mut is_full) = (0, false);
        for &pid in pids {
            if named.watched.contains_key(&pid) || named.ended.contains(&pid) {
                continue;
            }
            if let Some(peer) = self.peers.get(&pid).and_then(Weak::upgrade) {
                named.watched.insert(pid, peer);
                continue;
            }
            // What is no number of a process is left alone.
            let Some(name) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            is_full = is_full || self.place(named.watched.len()).is_none();
            if is_full || self.is_refused || found.again.is_some() {
                continue;
            }
            let wait = match asks {
                0 => named.pace.go(Instant::now()).err(),
                ASKS => Some(NEXT),
                _ => None,
            };
            if wait.is_some() {
                found.again = wait;
                continue;
            }
            asks = asks.saturating_add(1);
            match Peer::open(pid, name) {
                Ok(peer) if peer.has_ended() => {
                    named.ended.insert(pid);
                    found.some_ended = true;
                }
                Ok(peer) => {
                    if let Some(Place::Of(other)) = self.place(named.watched.len()) {
                        self.give_up(other, &named.watched);
                    }
                    let peer = Arc::new(peer);
                    self.peers.insert(pid, Arc::downgrade(&peer));
                    named.watched.insert(pid, peer);
                }
                Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => {
                    named.ended.insert(pid);
                    found.some_ended = true;
                }
                // Descriptors, or memory, may be there when the watchdog looks next.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => break,
                Err(error) => {
                    self.is_refused = true;
                    *refused = Some(error);
                }
            }
        }
        found.watched = named.watched.values().cloned().collect();
        self.queues.insert(queue, named);
        found
    }

    /// The place for one more process of a queue that watches `own`. `None` if there is none, and each
    /// other queue has its fair share at most.
    fn place(&mut self, own: usize) -> Option<Place> {
        if self.peers.len() >= MOST {
            self.peers.retain(|_, peer| peer.strong_count() > 0);
        }
        if self.peers.len() < MOST {
            return Some(Place::Free);
        }
        let has_more = |named: &&Named| named.watched.len() > own.saturating_add(1);
        let others = self.queues.iter().filter(|(_, named)| has_more(named));
        let largest = others.max_by_key(|(_, named)| named.watched.len());
        largest.map(|(queue, _)| Place::Of(*queue))
    }

    /// Has a queue give up one process that is not among the `kept`: best one that no other queue
    /// watches.
    fn give_up(&mut self, queue: u64, kept: &HashMap<u32, Arc<Peer>>) {
        let Some(named) = self.queues.get(&queue) else { return };
        let mut pids = named.watched.iter().filter(|(pid, _)| !kept.contains_key(pid));
        let its_own = pids.clone().find(|(_, peer)| Arc::strong_count(peer) == 1);
        let Some((&pid, _)) = its_own.or_else(|| pids.next()) else { return };
        self.peers.remove(&pid);
        for named in self.queues.values_mut() {
            named.watched.remove(&pid);
        }
    }
}

impl Peer {
    fn open(pid: u32, name: Pid) -> rustix::io::Result<Self> {
        kill_point("pidfd_open");
        Ok(Self { pid, pidfd: pidfd_open(name, PidfdFlags::empty())? })
    }

    /// Whether the process has ended already, and is not reaped.
    fn has_ended(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

impl AsRawFd for Peer {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Pace {
    /// Goes on now, or says how long to wait.
    fn go(&mut self, now: Instant) -> Result<(), Duration> {
        let ahead = self.0.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let too_far = ahead.saturating_sub(PAUSE * (IN_A_ROW - 1));
        if !too_far.is_zero() {
            return Err(too_far);
        }
        self.0 = now.checked_add(ahead + PAUSE);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if a queue is not held up (seen failing), or is for ever.
    #[test]
    fn looks_that_ask_come_in_a_row_and_then_slowly() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..IN_A_ROW {
            assert_eq!(pace.go(now), Ok(()));
        }
        for _ in 0..100 {
            assert_eq!(pace.go(now), Err(PAUSE));
            now += PAUSE;
            assert_eq!(pace.go(now), Ok(()));
        }
    }
}

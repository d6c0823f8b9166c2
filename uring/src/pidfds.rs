//! The processes that share queues with this one, and the pidfds by which rings learn of their ends.
//!
//! Records name processes, and a peer can write there what it likes: processes that share nothing, dead
//! ones, numbers of no process, others each time. So this process keeps, for each queue that it has open:
//!
//! * the peers of the queue, with a pidfd each. All queues and rings of the process share it. It is
//!   closed when no queue names the process any more, or when the last queue that does is closed;
//! * the numbers that are known to be of no living process, as long as the queue names them. A zombie is
//!   news once, and so is a number that never was a process's. A process that takes over the record and
//!   the number of a dead one is found by the watchdog.
//!
//! A search makes few system calls, and its rate is limited. All queues together have few descriptors,
//! and each gets its fair share of them. The watchdog finds the processes that have no pidfd here.

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

use crate::lock::lock;

/// How many pidfds this process has for all its queues.
const MOST: usize = 256;
/// How many pidfds one search opens, and when the next search goes on.
const MOST_OPENED: u32 = 64;
const NEXT: Duration = Duration::from_millis(1);
/// How many searches of a queue open pidfds in a row; after that, one each 20 ms.
const IN_A_ROW: u32 = 32;
const PAUSE: Duration = Duration::from_millis(20);

/// A process that shares a queue.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
}

/// What a search for the peers of a queue found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The processes for a ring to poll.
    pub(crate) peers: Vec<Arc<Peer>>,
    /// Some process has ended, or is out of sight: what it held is to be recovered.
    pub(crate) some_ended: bool,
    /// When to search again, if not all processes could be opened.
    pub(crate) again: Option<Duration>,
}

/// The number of a queue. Dropped with the queue, as this process opened it.
#[derive(Debug)]
struct QueueNumber(u64);

/// What this process knows of its peers.
#[derive(Debug)]
struct Registry {
    guard: ForkGuard,
    /// The peers of all queues, by process.
    peers: HashMap<u32, Weak<Peer>>,
    queues: HashMap<u64, QueuePeers>,
    /// The kernel has no pidfd for this process.
    is_refused: bool,
}

/// The processes that one queue names.
#[derive(Debug, Default)]
struct QueuePeers {
    alive: HashMap<u32, Arc<Peer>>,
    ended: HashSet<u32>,
    rate: RateLimit,
}

/// A descriptor for one more pidfd.
enum Descriptor {
    Free,
    /// Taken from a queue that has more of them.
    Of(u64),
}

/// Until when the queue has used up its share of searches that open pidfds.
#[derive(Debug, Default)]
struct RateLimit(Option<Instant>);

/// A number that differs for each queue that this process has opened.
pub(crate) fn number_of(side: &Side) -> Option<u64> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = side.companion(|| QueueNumber(LAST.fetch_add(1, Relaxed)));
    number.map(|number| number.0)
}

/// Searches for the peers of a queue; `None` where there can be no pidfds.
pub(crate) fn search(side: &Side) -> Option<Found> {
    let queue = number_of(side)?;
    let pids = side.peers();
    let mut refused = None;
    let found = with_registry(|registry| registry.search(queue, &pids, &mut refused));
    if let Some(error) = refused {
        let error = io::Error::from(error);
        tracing::warn!(%error, "no pidfd is to be had: parkline finds the dead by the watchdog alone");
    }
    found
}

/// Removes a process that has ended from all queues.
pub(crate) fn remove(peer: &Arc<Peer>) {
    with_registry(|registry| {
        let is_it = |it: &Arc<Peer>| Arc::ptr_eq(it, peer);
        for queue in registry.queues.values_mut() {
            if queue.alive.get(&peer.pid).is_some_and(is_it) {
                queue.alive.remove(&peer.pid);
            }
        }
        if registry.peers.get(&peer.pid).is_some_and(|it| Weak::ptr_eq(it, &Arc::downgrade(peer))) {
            registry.peers.remove(&peer.pid);
        }
    });
}

impl Drop for QueueNumber {
    fn drop(&mut self) {
        with_registry(|registry| drop(registry.queues.remove(&self.0)));
    }
}

/// `None` where no memory is left to recognize a forked child by.
fn with_registry<R>(call: impl FnOnce(&mut Registry) -> R) -> Option<R> {
    static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);
    // A child must not find it locked.
    let _forks = hold_forks();
    let mut registry = lock(&REGISTRY);
    // A child inherits copies of the descriptors, which it does not need.
    registry.take_if(|registry| registry.guard.is_forked());
    if registry.is_none() {
        let (guard, is_refused) = (ForkGuard::new().ok()?, false);
        *registry =
            Some(Registry { guard, peers: HashMap::new(), queues: HashMap::new(), is_refused });
    }
    registry.as_mut().map(call)
}

impl Registry {
    fn search(&mut self, queue: u64, pids: &[u32], refused: &mut Option<Errno>) -> Found {
        let mut found = Found::default();
        let mut its = self.queues.remove(&queue).unwrap_or_default();
        let is_named = |pid: &u32| pids.binary_search(pid).is_ok();
        its.alive.retain(|pid, _| is_named(pid));
        its.ended.retain(is_named);
        let (mut opened, mut is_full) = (0, false);
        for &pid in pids {
            if its.alive.contains_key(&pid) || its.ended.contains(&pid) {
                continue;
            }
            if let Some(peer) = self.peers.get(&pid).and_then(Weak::upgrade) {
                its.alive.insert(pid, peer);
                continue;
            }
            // A number that no process can have is skipped.
            let Some(name) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            is_full = is_full || self.descriptor(its.alive.len()).is_none();
            if is_full || self.is_refused || found.again.is_some() {
                continue;
            }
            let wait = match opened {
                0 => its.rate.take(Instant::now()).err(),
                MOST_OPENED => Some(NEXT),
                _ => None,
            };
            if wait.is_some() {
                found.again = wait;
                continue;
            }
            opened = opened.saturating_add(1);
            match Peer::open(pid, name) {
                Ok(peer) if peer.has_ended() => {
                    its.ended.insert(pid);
                    found.some_ended = true;
                }
                Ok(peer) => {
                    if let Some(Descriptor::Of(other)) = self.descriptor(its.alive.len()) {
                        self.take_from(other, &its.alive);
                    }
                    let peer = Arc::new(peer);
                    self.peers.insert(pid, Arc::downgrade(&peer));
                    its.alive.insert(pid, peer);
                }
                Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => {
                    its.ended.insert(pid);
                    found.some_ended = true;
                }
                // Descriptors or memory may be free at the next search.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => break,
                Err(error) => {
                    self.is_refused = true;
                    *refused = Some(error);
                }
            }
        }
        found.peers = its.alive.values().cloned().collect();
        self.queues.insert(queue, its);
        found
    }

    /// A descriptor for one more pidfd of a queue that has `own`. `None` if all are in use and no other
    /// queue has more than its fair share.
    fn descriptor(&mut self, own: usize) -> Option<Descriptor> {
        if self.peers.len() >= MOST {
            self.peers.retain(|_, peer| peer.strong_count() > 0);
        }
        if self.peers.len() < MOST {
            return Some(Descriptor::Free);
        }
        let has_more = |(_, queue): &(_, &QueuePeers)| queue.alive.len() > own.saturating_add(1);
        let others = self.queues.iter().filter(has_more);
        let largest = others.max_by_key(|(_, queue)| queue.alive.len());
        largest.map(|(number, _)| Descriptor::Of(*number))
    }

    /// Has a queue give up one process that is not among the `kept`: if possible, one that no other
    /// queue names.
    fn take_from(&mut self, queue: u64, kept: &HashMap<u32, Arc<Peer>>) {
        let Some(queue) = self.queues.get(&queue) else { return };
        let mut pids = queue.alive.iter().filter(|(pid, _)| !kept.contains_key(pid));
        let its_own = pids.clone().find(|(_, peer)| Arc::strong_count(peer) == 1);
        let Some((&pid, _)) = its_own.or_else(|| pids.next()) else { return };
        self.peers.remove(&pid);
        for queue in self.queues.values_mut() {
            queue.alive.remove(&pid);
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

impl RateLimit {
    /// Takes the turn of one search, or says how long to wait for it.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
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
    fn searches_come_in_a_row_and_then_slowly() {
        let (mut rate, mut now) = (RateLimit::default(), Instant::now());
        for _ in 0..IN_A_ROW {
            assert_eq!(rate.take(now), Ok(()));
        }
        for _ in 0..100 {
            assert_eq!(rate.take(now), Err(PAUSE));
            now += PAUSE;
            assert_eq!(rate.take(now), Ok(()));
        }
    }

    /// Fails if nothing is given up, or only by one queue, and if a process that the other queue names,
    /// too, or one that is kept is chosen (each seen failing).
    #[test]
    fn a_queue_gives_up_a_process_that_it_alone_names() {
        // The order of a map differs each time.
        for _ in 0..32 {
            let guard = ForkGuard::new().unwrap();
            let (peers, queues) = (HashMap::new(), HashMap::new());
            let mut registry = Registry { guard, peers, queues, is_refused: false };
            let peer = |pid| Arc::new(Peer::open(pid, rustix::process::getpid()).unwrap());
            let (of_both, kept, alone) = (peer(10), peer(11), peer(12));
            for peer in [&of_both, &kept, &alone] {
                registry.peers.insert(peer.pid, Arc::downgrade(peer));
            }
            let alive =
                |peers: &[&Arc<Peer>]| peers.iter().map(|it| (it.pid, Arc::clone(it))).collect();
            let names =
                |peers: &[&Arc<Peer>]| QueuePeers { alive: alive(peers), ..QueuePeers::default() };
            registry.queues.insert(1, names(&[&of_both, &kept, &alone]));
            registry.queues.insert(2, names(&[&of_both]));
            let kept = alive(&[&kept]);
            drop((of_both, alone));
            let known = |registry: &Registry| {
                let sorted = |pids: Vec<&u32>| {
                    let mut pids: Vec<u32> = pids.into_iter().copied().collect();
                    pids.sort_unstable();
                    pids
                };
                let of = |queue| sorted(registry.queues[&queue].alive.keys().collect());
                (of(1), of(2), sorted(registry.peers.keys().collect()))
            };
            registry.take_from(1, &kept);
            assert_eq!(known(&registry), (vec![10, 11], vec![10], vec![10, 11]));
            registry.take_from(1, &kept);
            assert_eq!(known(&registry), (vec![11], vec![], vec![11]));
            registry.take_from(1, &kept);
            assert_eq!(known(&registry), (vec![11], vec![], vec![11]));
        }
    }
}

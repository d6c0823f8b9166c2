//! One io_uring: what is pushed into it, what flies in it, and what comes out.
//!
//! Rules (each has cost somebody a day): shared futex keys only; `FUTEX_WAIT`, never `WAITV`, which
//! swallows wakes; a `user_data` is never used twice; whatever the kernel still points at is kept
//! alive by its flight; every completion means "look again", and `-ECANCELED` may come unasked,
//! when the thread that submitted has exited.
#![expect(unsafe_code, reason = "pushes entries whose memory the kernel reads later")]

use std::collections::HashMap;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Weak};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::event::PollFlags;

use parkline_core::driver::{ForkGuard, hold_forks, kill_point};

use crate::lane::Lane;
use crate::peer::Peer;
use crate::unpark::Unpark;

/// Submission entries of a ring. One entry a queue side that waits; more than that spill over
/// harmlessly.
pub(crate) const RING_ENTRIES: u32 = 32;

/// The futex is 32 bits wide and shared between processes. Not in libc, nor in io-uring.
const FUTEX2_SIZE_U32: u32 = 2;
/// Match any wake. More than 32 bits are invalid.
const MATCH_ANY: u64 = 0xffff_ffff;

const EINTR: i32 = -4;
const EAGAIN: i32 = -11;
const ECANCELED: i32 = -125;

/// How long the end of a ring may wait for what it cancelled: 100 ms.
const LANDING_ROUNDS: u32 = 100;
const LANDING_ROUND: Duration = Duration::from_millis(1);

/// A futex wait to be armed.
pub(crate) struct FutexWait<'a> {
    pub(crate) word: &'a AtomicU32,
    pub(crate) expected: u32,
}

impl FutexWait<'_> {
    fn entry(&self) -> squeue::Entry {
        let expected = u64::from(self.expected);
        let word = self.word.as_ptr().cast_const();
        opcode::FutexWait::new(word, expected, MATCH_ANY, FUTEX2_SIZE_U32).build()
    }
}

/// What is under way in the kernel, and keeps alive what the kernel points at.
#[derive(Debug)]
pub(crate) enum Flight {
    /// A lane's wait on its gate: the lane keeps the segment mapped.
    Gate(Arc<Lane>),
    /// The wait by which another thread unparks this one.
    Unpark(#[expect(dead_code, reason = "the kernel points into it")] Arc<Unpark>),
    /// A poll of a peer's pidfd, which is readable when that process has ended. The kernel keeps the
    /// description, not the descriptor.
    Peer(Weak<Peer>),
    /// A timer; the kernel reads the time when it is submitted.
    Timer(#[expect(dead_code, reason = "the kernel points at it")] Box<Timespec>),
}

/// A flight that has ended.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) flight: Flight,
    /// Whether a FUTEX_WAKE counted this wait; an error that no wait should end with.
    pub(crate) answer: io::Result<bool>,
}

/// An io_uring and its flights.
pub(crate) struct Ring {
    /// Neither its memory nor its descriptor is there in a forked child; it is left alone then.
    uring: ManuallyDrop<IoUring>,
    guard: ForkGuard,
    flights: HashMap<u64, Flight>,
    last: u64,
}

impl Ring {
    /// A ring for several threads, whose descriptor can be polled. Default flags: with
    /// `DEFER_TASKRUN` nothing would ever make the descriptor readable (`io_req_local_work_add`
    /// does not wake `poll_wq`), and with `COOP_TASKRUN` a submitter that computes delays the
    /// completion.
    pub(crate) fn shared() -> io::Result<Self> {
        Self::new(IoUring::builder())
    }

    /// A ring for one thread that parks in it. Only that thread may submit, cancel, or wait.
    pub(crate) fn owned() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        Self::new(builder)
    }

    fn new(mut builder: io_uring::Builder) -> io::Result<Self> {
        let guard = ForkGuard::new()?;
        // A child that had a copy would keep the ring, and the waits in it, alive.
        let mut forks = hold_forks();
        let uring = ManuallyDrop::new(builder.dontfork().build(RING_ENTRIES)?);
        forks.keep_from_children(uring.as_raw_fd());
        Ok(Self { uring, guard, flights: HashMap::new(), last: 0 })
    }

    /// Whether the kernel knows the operation that all this is for.
    pub(crate) fn has_futex_wait(&self) -> io::Result<bool> {
        let mut probe = Probe::new();
        self.uring.submitter().register_probe(&mut probe)?;
        Ok(probe.is_supported(opcode::FutexWait::CODE))
    }

    /// The completion's result of a wait that cannot sleep, since its word differs. For a ring in
    /// which nothing else is.
    pub(crate) fn try_wait(&mut self, wait: &FutexWait<'static>) -> io::Result<i32> {
        // SAFETY: the word is there for ever.
        unsafe { self.uring.submission().push(&wait.entry()) }.map_err(io::Error::other)?;
        // Interrupted it may have submitted, and not waited.
        retry(|| self.uring.submit_and_wait(1))?;
        let completed = self.uring.completion().next();
        completed.map(|it| it.result()).ok_or_else(|| io::ErrorKind::Interrupted.into())
    }

    /// Queues a wait on the gate of `lane`; returns its name. Not yet submitted.
    pub(crate) fn push_gate(&mut self, lane: &Arc<Lane>, wait: FutexWait<'_>) -> io::Result<u64> {
        self.push(wait.entry(), Flight::Gate(Arc::clone(lane)))
    }

    /// Queues the wait by which other threads unpark this one.
    pub(crate) fn push_unpark(&mut self, unpark: &Arc<Unpark>) -> io::Result<u64> {
        self.push(unpark.wait().entry(), Flight::Unpark(Arc::clone(unpark)))
    }

    /// Queues a poll for the end of a process; returns its name. To be submitted before the peer is
    /// dropped.
    pub(crate) fn push_peer(&mut self, peer: &Arc<Peer>) -> io::Result<u64> {
        let readable = PollFlags::IN.bits().into();
        let entry = opcode::PollAdd::new(Fd(peer.as_raw_fd()), readable).build();
        self.push(entry, Flight::Peer(Arc::downgrade(peer)))
    }

    /// Queues and submits a timer.
    pub(crate) fn start_timer(&mut self, after: Duration) -> io::Result<()> {
        let after = Box::new(Timespec::from(after));
        self.push(opcode::Timeout::new(&raw const *after).build(), Flight::Timer(after))?;
        self.submit()
    }

    fn push(&mut self, entry: squeue::Entry, flight: Flight) -> io::Result<u64> {
        if self.uring.submission().is_full() {
            self.submit()?;
        }
        self.last += 1;
        let name = self.last;
        // SAFETY: the entry points at memory that its flight keeps alive until the completion.
        unsafe { self.uring.submission().push(&entry.user_data(name)) }
            .map_err(io::Error::other)?;
        self.flights.insert(name, flight);
        Ok(name)
    }

    /// Hands what is queued to the kernel.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        kill_point("io_uring_enter");
        retry(|| self.uring.submit())
    }

    /// Hands what is queued to the kernel, if there is something.
    pub(crate) fn submit_queued(&mut self) -> io::Result<()> {
        if self.uring.submission().is_empty() { Ok(()) } else { self.submit() }
    }

    /// Hands what is queued to the kernel and sleeps until something lands, at most for `timeout`.
    pub(crate) fn submit_and_sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        kill_point("io_uring_enter");
        let Some(timeout) = timeout else {
            return ignore_interrupted(self.uring.submit_and_wait(1));
        };
        let timeout = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timeout);
        match self.uring.submitter().submit_with_args(1, &args) {
            Err(error) if error.raw_os_error() == Some(ETIME) => Ok(()),
            slept => ignore_interrupted(slept),
        }
    }

    /// Cancels a flight. Its completion still lands, and tells whether the cancel or a wake was
    /// first.
    pub(crate) fn cancel(&mut self, name: u64) {
        if !self.flights.contains_key(&name) {
            return;
        }
        // What is not submitted cannot be cancelled. A failure here shows at the next submit.
        let _ = self.submit();
        kill_point("io_uring_register");
        // "Not found" means that it has landed already; what else can fail leaves it armed, and a
        // wake that it takes then finds nobody and is passed on.
        let _ = self.uring.submitter().register_sync_cancel(None, CancelBuilder::user_data(name));
    }

    /// Cancels everything, and waits until it has landed: a ring that is closed with waits armed
    /// eats wakes. The completion of a wait is the work of the thread that submitted it, and may
    /// take until that thread is scheduled.
    pub(crate) fn end(&mut self) -> Vec<Landed> {
        for name in self.flights.keys().copied().collect::<Vec<_>>() {
            self.cancel(name);
        }
        let mut landed = self.landed();
        for _ in 0..LANDING_ROUNDS {
            if self.flights.is_empty() || self.submit_and_sleep(Some(LANDING_ROUND)).is_err() {
                break;
            }
            landed.append(&mut self.landed());
        }
        landed
    }

    /// What has landed since the last call.
    pub(crate) fn landed(&mut self) -> Vec<Landed> {
        let mut landed = Vec::new();
        loop {
            // Runs deferred completions, and fetches those for which the queue had no room.
            let queue = self.uring.submission();
            let behind = queue.taskrun() || queue.cq_overflow();
            drop(queue);
            if behind {
                let _ = self.submit();
            }
            let before = landed.len();
            for completion in self.uring.completion() {
                kill_point("completion");
                let Some(flight) = self.flights.remove(&completion.user_data()) else { continue };
                let answer = match completion.result() {
                    0.. => Ok(true),
                    EINTR | EAGAIN | ECANCELED => Ok(false),
                    other => Err(io::Error::from_raw_os_error(-other)),
                };
                landed.push(Landed { flight, answer });
            }
            if landed.len() == before {
                return landed;
            }
        }
    }
}

const ETIME: i32 = 62;

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    loop {
        match call() {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn ignore_interrupted(slept: io::Result<usize>) -> io::Result<()> {
    match slept {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.guard.is_forked() {
            // What flies is the parent's.
            std::mem::forget(std::mem::take(&mut self.flights));
            return;
        }
        // What an unpark or a timer still waits for is nobody's any more; gates were ended by the
        // reactor.
        drop(self.end());
        let mut forks = hold_forks();
        forks.is_closing(self.uring.as_raw_fd());
        // SAFETY: dropped once, here, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.uring) };
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.uring.as_raw_fd()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("flights", &self.flights.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::thread;

    use rustix::thread::futex::{self, Flags};

    use super::*;
    use crate::required::not_tried;

    /// One for a runtime, one for a thread; none where io_uring is refused.
    fn rings() -> impl Iterator<Item = Ring> {
        let make = |make: fn() -> io::Result<Ring>| {
            make().inspect_err(|error| not_tried("io_uring", error)).ok()
        };
        [Ring::shared as fn() -> _, Ring::owned].into_iter().filter_map(make)
    }

    /// A word to wait for.
    fn parked() -> Arc<Unpark> {
        let unpark = Arc::new(Unpark::default());
        assert!(unpark.park());
        unpark
    }

    fn wake(unpark: &Unpark, count: u32) -> usize {
        futex::wake(unpark.wait().word, Flags::empty(), count).unwrap()
    }

    /// Waits until `count` flights have landed; their answers.
    fn land(ring: &mut Ring, count: usize) -> Vec<bool> {
        let mut landed = ring.landed();
        while landed.len() < count {
            ring.submit_and_sleep(None).unwrap();
            landed.append(&mut ring.landed());
        }
        landed.into_iter().map(|it| it.answer.unwrap()).collect()
    }

    /// Each wake that the kernel counted was reported by one wait: to one that waits, or, if the
    /// cancel came second, to one that has to hand it on.
    fn race(mut ring: Ring, rounds: u32) {
        let (unpark, done) = (parked(), AtomicBool::new(false));
        let (mut woken, mut forwarded) = (0, 0);
        let counted: usize = thread::scope(|scope| {
            let waker = scope.spawn(|| {
                let mut counted = 0;
                while !done.load(Relaxed) {
                    counted += wake(&unpark, 1);
                }
                counted
            });
            for round in 0..rounds {
                let name = ring.push_unpark(&unpark).unwrap();
                ring.submit().unwrap();
                (0..round % 512).for_each(|_| std::hint::spin_loop());
                match ring.landed().pop() {
                    Some(landed) => woken += usize::from(landed.answer.unwrap()),
                    None => {
                        ring.cancel(name);
                        forwarded += usize::from(land(&mut ring, 1) == [true]);
                    }
                }
            }
            done.store(true, Relaxed);
            waker.join().unwrap()
        });
        assert!(ring.flights.is_empty());
        println!("{woken} woken, {forwarded} forwarded, of {rounds}");
        assert!(counted > 0, "there was a race");
        assert_eq!(woken + forwarded, counted);
    }

    /// Fails if a cancelled wait counts as woken, and if one that was woken first does not (each
    /// seen failing).
    #[test]
    fn of_a_cancel_and_a_wake_just_one_is_first() {
        rings().for_each(|ring| race(ring, 30_000));
    }

    #[test]
    #[ignore = "by hand: a million rounds"]
    fn of_a_million_cancels_and_wakes_just_one_is_first() {
        rings().for_each(|ring| race(ring, 1_000_000));
    }

    /// Fails if a name is used again (seen failing).
    #[test]
    fn a_late_cancel_hits_nobody_else() {
        for mut ring in rings() {
            let (first, second) = (parked(), parked());
            let late = ring.push_unpark(&first).unwrap();
            ring.submit().unwrap();
            ring.cancel(late);
            assert_eq!(land(&mut ring, 1), [false]);
            ring.push_unpark(&second).unwrap();
            ring.submit().unwrap();
            ring.cancel(late);
            assert!(ring.landed().is_empty());
            assert_eq!(wake(&second, 1), 1, "it still waits");
            assert_eq!(land(&mut ring, 1), [true]);
        }
    }

    /// Fails if `landed` does not fetch what had no room (seen failing: hangs).
    #[test]
    fn more_completions_than_there_is_room_for_all_land() {
        const WAITS: usize = RING_ENTRIES as usize * 10;
        for mut ring in rings() {
            let unpark = parked();
            for _ in 0..WAITS {
                ring.push_unpark(&unpark).unwrap();
            }
            ring.submit().unwrap();
            assert_eq!(wake(&unpark, WAITS as u32), WAITS);
            // As a runtime does it, which never sleeps in the ring: that would fetch them.
            let mut landed = 0;
            while landed < WAITS {
                landed += ring.landed().len();
            }
            assert_eq!(landed, WAITS);
        }
    }

    /// Fails if any end of a wait but a wake is an error (seen failing).
    #[test]
    fn a_wait_that_the_kernel_cancels_unasked_was_not_woken() {
        for mut ring in rings() {
            let unpark = parked();
            ring.push_unpark(&unpark).unwrap();
            ring.submit().unwrap();
            let all = CancelBuilder::any().all();
            ring.uring.submitter().register_sync_cancel(None, all).unwrap();
            assert_eq!(land(&mut ring, 1), [false]);
            assert_eq!(wake(&unpark, 1), 0);
        }
    }

    /// Fails if a ring is closed without cancelling what flies (seen failing).
    #[test]
    fn a_dropped_ring_eats_no_wake() {
        for mut ring in (0..50).flat_map(|_| rings()) {
            let unpark = parked();
            ring.push_unpark(&unpark).unwrap();
            ring.submit().unwrap();
            drop(ring);
            assert_eq!(wake(&unpark, 1), 0);
        }
    }
}

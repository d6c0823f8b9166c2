//! The fallback: one thread of the process sleeps for all tasks that wait, in `futex_waitv` on
//! their gates.
//!
//! `futex_waitv` can be counted as woken on several words and reports one. That is healed here by
//! comparing the words, which every wake changes, and elsewhere by the baton: whoever was woken and
//! finds more passes it on. Where `futex_waitv` is refused too, the thread compares the words every
//! millisecond.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Release;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Acquire, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::ClockId;
use rustix::thread::futex::{self, Flags, Timespec, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::clock_gettime;

use crate::lane::Lane;
use crate::reactor::{Reactor, lock};

/// What the kernel takes at once (`FUTEX_WAITV_MAX`), less the control word.
const MOST_GATES: usize = 127;
/// How long to sleep where not all words can be waited for.
const COMPARE_EVERY: Duration = Duration::from_millis(1);

/// What the helper thread waits for.
#[derive(Debug, Default)]
pub(crate) struct Helper {
    /// Changes when the thread has to look up.
    control: AtomicU32,
    armed: Mutex<Vec<Armed>>,
    without_waitv: AtomicBool,
}

#[derive(Clone, Debug)]
struct Armed {
    lane: Arc<Lane>,
    expected: u32,
}

impl Armed {
    fn word(&self) -> Option<&AtomicU32> {
        Some(self.lane.side.gate()?.word())
    }

    fn is_changed(&self) -> bool {
        self.word().is_none_or(|word| word.load(Acquire) != self.expected)
    }
}

impl Helper {
    /// Starts the thread that serves `reactor`, for ever.
    pub(crate) fn start(reactor: Arc<Reactor>) -> io::Result<()> {
        thread::Builder::new().name("parkline".into()).spawn(move || {
            while let Some(helper) = reactor.as_helper() {
                // A waker that panics is its task's misfortune, not that of all others.
                let turn = AssertUnwindSafe(|| helper.turn(&reactor));
                if catch_unwind(turn).is_err() {
                    tracing::error!("a waker panicked in parkline's helper thread");
                }
            }
        })?;
        Ok(())
    }

    pub(crate) fn arm(&self, lane: &Arc<Lane>, expected: u32) {
        lock(&self.armed).push(Armed { lane: Arc::clone(lane), expected });
        self.interrupt();
    }

    /// Makes the thread look at what is armed, and at the timers.
    pub(crate) fn interrupt(&self) {
        self.control.fetch_add(1, Release);
        // Not counted: it wakes no peer.
        let _ = futex::wake(&self.control, Flags::empty(), 1);
    }

    fn turn(&self, reactor: &Reactor) {
        let control = self.control.load(Acquire);
        reactor.fire_timers(Instant::now());
        let (ended, waiting) = {
            let mut armed = lock(&self.armed);
            let is_over = |it: &mut Armed| it.is_changed() || it.lane.queue.is_empty();
            let ended: Vec<_> = armed.extract_if(.., is_over).collect();
            (ended, armed.clone())
        };
        for it in ended {
            it.lane.completed(it.is_changed());
        }
        let next = reactor.next_timer();
        if let Some(woken) = self.sleep(control, &waiting, next) {
            let name = Arc::as_ptr(&woken.lane);
            lock(&self.armed).retain(|it| Arc::as_ptr(&it.lane) != name);
            woken.lane.completed(true);
        }
    }

    /// Sleeps until a gate is woken, which is returned, or for any other reason.
    fn sleep<'a>(
        &self,
        control: u32,
        gates: &'a [Armed],
        until: Option<Instant>,
    ) -> Option<&'a Armed> {
        let timeout = until.map(|it| it.saturating_duration_since(Instant::now()));
        if self.without_waitv.load(Relaxed) {
            self.sleep_a_little(control, gates.is_empty(), timeout);
            return None;
        }
        let in_reach = gates.get(..gates.len().min(MOST_GATES)).unwrap_or(gates);
        let timeout = match timeout {
            _ if in_reach.len() < gates.len() => {
                Some(timeout.map_or(COMPARE_EVERY, |it| it.min(COMPARE_EVERY)))
            }
            timeout => timeout,
        };
        let mut waits = vec![wait_for(&self.control, control)];
        for gate in in_reach {
            waits.push(wait_for(gate.word()?, gate.expected));
        }
        let until = timeout.and_then(|it| {
            let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).ok()?;
            Timespec::try_from(now.checked_add(it)?).ok()
        });
        let no_flags = WaitvFlags::empty();
        match futex::waitv(&waits, no_flags, until.as_ref(), ClockId::Monotonic) {
            Ok(index) => in_reach.get(index.checked_sub(1)?),
            Err(Errno::NOSYS | Errno::PERM) => {
                tracing::warn!(
                    "futex_waitv is refused: parkline's helper compares every millisecond"
                );
                self.without_waitv.store(true, Relaxed);
                None
            }
            // Changed, interrupted, time over: look.
            Err(_) => None,
        }
    }

    fn sleep_a_little(&self, control: u32, idle: bool, timeout: Option<Duration>) {
        let timeout = match timeout {
            None if idle => None,
            None => Some(COMPARE_EVERY),
            Some(it) if idle => Some(it),
            Some(it) => Some(it.min(COMPARE_EVERY)),
        };
        let timeout = timeout.and_then(|it| Timespec::try_from(it).ok());
        let _ = futex::wait(&self.control, Flags::empty(), control, timeout.as_ref());
    }
}

fn wait_for(word: &AtomicU32, expected: u32) -> Wait {
    let mut wait = Wait::new();
    wait.val = expected.into();
    wait.uaddr = WaitPtr::new(word.as_ptr().cast());
    wait.flags = WaitFlags::SIZE_U32;
    wait
}

//! The driver of owed messages: it waits for room on behalf of a handle that owes. No task owns the wait.
//!
//! A lease that is dropped while the ring is full leaves its message in the handle. Here the reactor
//! that serves the dropping thread waits for room, as it does for a sender, and the message goes
//! back. A reactor that ends wakes its waiters. This wait goes on in the process's helper thread then.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Once};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use parkline_core::driver::{OwedWait, Side, Until, on_owed};

use crate::current::current;
use crate::lock::lock;
use crate::waiting::{Waiting, Waits};

/// Has core call [`Return::start`] when a handle of this process begins to owe.
pub(crate) fn drive_owed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| on_owed(Return::start));
}

/// The wait of one handle. The thread that wakes it polls it, one thread at a time.
struct Return {
    owed: OwedWait,
    waiting: Mutex<Waiting<()>>,
    state: AtomicU8,
}

/// Not being polled.
const IDLE: u8 = 0;
const POLLED: u8 = 1;
/// Being polled, and woken since: to be polled once more.
const WOKEN: u8 = 2;

/// How often one wake polls at most, and when the next poll is due if each of them was woken.
const POLLS: u32 = 16;
const PAUSE: Duration = Duration::from_millis(1);

impl Return {
    fn start(owed: OwedWait) -> Waker {
        let waiting = Mutex::new(Waiting::new(None));
        let new = Arc::new(Self { owed, waiting, state: AtomicU8::new(IDLE) });
        new.wake_by_ref();
        new.into()
    }

    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let side = match self.owed.until() {
            Until::Room(side) => side,
            Until::Time(due) if *due > Instant::now() => return wake_at(*due, waker),
            Until::Time(_) => {
                let _ = self.owed.attempt();
                return;
            }
        };
        // Not by pauses: this is the thread of another task.
        if current().is_err() {
            return;
        }
        // Core returns what it can with each attempt, and holds the handle weakly.
        let _ = lock(&self.waiting).poll(
            &mut Context::from_waker(&waker),
            &mut Room(side),
            &mut |_| self.owed.attempt().map_or(ControlFlow::Continue(()), ControlFlow::Break),
        );
    }
}

/// The room that a handle waits for.
struct Room<'a>(&'a Side);

impl Waits for Room<'_> {
    fn side(&self, (): ()) -> Side {
        self.0.clone()
    }
}

/// Where neither a ring nor a thread is to be had, the handle's next call returns what it owes.
fn wake_at(at: Instant, waker: Waker) {
    if let Ok(reactor) = current() {
        reactor.add_timer(at, waker);
    }
}

impl Wake for Return {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A waker may be called within a poll, and by several threads.
        if self.state.swap(WOKEN, SeqCst) != IDLE {
            return;
        }
        for _ in 0..POLLS {
            self.state.store(POLLED, SeqCst);
            self.poll();
            if self.state.compare_exchange(POLLED, IDLE, SeqCst, SeqCst).is_ok() {
                return;
            }
        }
        self.state.store(IDLE, SeqCst);
        wake_at(Instant::now() + PAUSE, Arc::clone(self).into());
    }
}

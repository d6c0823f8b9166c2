//! A queue, the handles and leases that one process has of it, and the steps of an attack: calls of its
//! users, and writes of a hostile peer between them.
//!
//! Nothing here depends on time: waiting calls end at once, and no watchdog is due. So the same steps
//! have the same results again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use parkline_core::driver::{Joining, census};
use parkline_core::{
    Fault, JoinTimeoutError, Lease, Queue, Receiver, RecvTimeoutError, SendTimeoutError, Sender,
    TryRecvError, TrySendError,
};
use rustix::time::{ClockId, clock_gettime};

use super::words::{Place, Segment, Word};

/// No call takes longer. It is the thread's own time on the processor, because other processes use the
/// processor, too.
const BUDGET: Duration = Duration::from_secs(1);

/// Longer than any attack.
const NEVER: Duration = Duration::from_secs(3600);

/// By how many bytes a message may be longer than the queue's limit.
const TOO_LONG: usize = 4;

/// The shape of a valid queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) capacity: usize,
    pub(crate) max_message: usize,
    pub(crate) handles: usize,
    pub(crate) leases: usize,
    pub(crate) max_attempts: u16,
}

impl<'a> Arbitrary<'a> for Shape {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            capacity: 1 << input.int_in_range(0..=4)?,
            max_message: input.int_in_range(0..=300)?,
            handles: input.int_in_range(1..=6)?,
            leases: input.int_in_range(0..=3)?,
            max_attempts: input.int_in_range(1..=3)?,
        })
    }
}

impl Shape {
    pub(crate) fn create(self) -> Option<Queue> {
        let Self { capacity, max_message, handles, leases, max_attempts } = self;
        let queue = Queue::builder().capacity(capacity).max_message(max_message).handles(handles);
        let queue = queue.leases(leases).max_attempts(max_attempts);
        queue.watchdog(NEVER).create().ok()
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Step {
    Scribble(Place, Word),
    #[cfg(kill_points)]
    Ambush(super::ambush::Ambush),
    Sender,
    Receiver,
    DropSender(u8),
    DropReceiver(u8),
    Send(u8, u16),
    SendMany(u8, u8),
    SendInTime(u8),
    Reserve {
        who: u8,
        len: u16,
        shorter: u16,
        commit: bool,
    },
    Recv(u8),
    RecvMany(u8, u8),
    RecvInTime(u8),
    Lease(u8),
    Read(u8),
    Ack(u8),
    Nack(u8),
    /// The delay is zero, or longer than this attack.
    NackAfter(u8, bool),
    Drop(u8),
    Ask(u8),
    Join,
    JoinOn,
    Recover,
    Mourn(u8),
    /// It closes the queue seldom, because then most calls only say that.
    Close(u8),
    /// Opens the queue anew, as a process does that does not end after a fault.
    Open,
    /// Continues with another queue.
    Renew,
}

/// The queue, and the handles and leases of it.
pub(crate) struct World {
    segment: Arc<Segment>,
    queue: Queue,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    leases: Vec<Lease>,
    /// How many receivers were made.
    started: u64,
    joining: Option<Joining>,
    given_up: Arc<AtomicUsize>,
    forgives: Option<Shape>,
    faulted: bool,
    /// How many steps met a fault.
    pub(crate) faults: u64,
}

impl World {
    /// If `forgives` is a shape, the attack continues after a fault: it opens the queue anew, or makes
    /// another queue of this shape.
    pub(crate) fn new(queue: Queue, forgives: Option<Shape>) -> Self {
        Self {
            segment: Arc::new(Segment::of(&queue).expect("a descriptor")),
            queue,
            senders: Vec::new(),
            receivers: Vec::new(),
            leases: Vec::new(),
            started: 0,
            joining: None,
            given_up: Arc::default(),
            forgives,
            faulted: false,
            faults: 0,
        }
    }

    /// Does one step within its budget.
    pub(crate) fn step(&mut self, step: &Step) {
        let begin = clock_gettime(ClockId::ThreadCPUTime);
        self.act(step);
        if self.faulted {
            self.faulted = false;
            self.faults += 1;
            match self.forgives {
                Some(_) if self.faults.is_multiple_of(4) => self.act(&Step::Open),
                Some(_) => self.act(&Step::Renew),
                None => {}
            }
        }
        let took = clock_gettime(ClockId::ThreadCPUTime) - begin;
        assert!(Duration::try_from(took).is_ok_and(|took| took < BUDGET), "{step:?}: {took:?}");
    }

    fn act(&mut self, step: &Step) {
        let max = self.queue.max_message();
        match *step {
            Step::Scribble(place, ref word) => {
                self.segment.write(self.segment.offset(place), word);
            }
            #[cfg(kill_points)]
            Step::Ambush(ambush) => super::ambush::lay(ambush, &self.segment),
            Step::Sender => match self.queue.sender() {
                Ok(sender) => self.senders.push(sender),
                Err(error) => assert!(!error.to_string().is_empty()),
            },
            Step::Receiver => self.receiver(),
            Step::DropSender(who) => {
                if !self.senders.is_empty() {
                    self.senders.swap_remove(usize::from(who) % self.senders.len());
                }
            }
            Step::DropReceiver(who) => {
                if !self.receivers.is_empty() {
                    let index = usize::from(who) % self.receivers.len();
                    self.receivers.swap_remove(index);
                }
            }
            Step::Send(who, len) => {
                let Some(sender) = pick(&mut self.senders, who) else { return };
                let len = usize::from(len) % (max + TOO_LONG);
                let sent = sender.try_send(&vec![who; len]);
                assert!(sent.is_err() || len <= max);
                self.sent(sent.map(drop));
            }
            Step::SendMany(who, count) => {
                let Some(sender) = pick(&mut self.senders, who) else { return };
                let sent = sender.try_send_many(vec![b"many".as_slice(); count.into()]);
                assert!(sent.is_err() || sent.is_ok_and(|sent| sent <= count.into()));
                self.sent(sent.map(drop));
            }
            Step::SendInTime(who) => {
                let Some(sender) = pick(&mut self.senders, who) else { return };
                match sender.send_blocking_timeout(b"in time", Duration::ZERO) {
                    Err(SendTimeoutError::Fault((), fault)) => self.fault(fault),
                    Ok(()) | Err(SendTimeoutError::Timeout(()) | SendTimeoutError::Closed(())) => {}
                }
            }
            Step::Reserve { who, len, shorter, commit } => {
                let Some(sender) = pick(&mut self.senders, who) else { return };
                let len = usize::from(len) % (max + TOO_LONG);
                let mut message = match sender.try_reserve(len) {
                    Ok(message) => message,
                    Err(refused) => return self.sent(Err(refused)),
                };
                assert!(message.len() == len && message.len() <= max);
                message.truncate(shorter.into());
                assert!(message.as_mut_slice().is_none(), "nobody said that peers are trusted");
                message.write_at(message.len() / 2, &vec![who; message.len() - message.len() / 2]);
                if commit {
                    let committed = message.try_commit().map_err(|refused| refused.map(drop));
                    self.sent(committed);
                }
            }
            Step::Recv(who) => {
                let Some(receiver) = pick(&mut self.receivers, who) else { return };
                let received = receiver.try_recv();
                assert!(received.as_ref().map_or(0, Vec::len) <= max);
                self.received(received.map(drop));
            }
            Step::RecvMany(who, limit) => {
                let Some(receiver) = pick(&mut self.receivers, who) else { return };
                let mut messages = Vec::new();
                let received = receiver.try_recv_many(&mut messages, limit.into());
                assert!(messages.len() <= limit.into());
                assert!(messages.len() <= self.queue.capacity());
                assert!(messages.iter().all(|message| message.len() <= max));
                self.received(received.map(drop));
            }
            Step::RecvInTime(who) => {
                let Some(receiver) = pick(&mut self.receivers, who) else { return };
                match receiver.recv_blocking_timeout(Duration::ZERO) {
                    Ok(message) => assert!(message.len() <= max),
                    Err(RecvTimeoutError::Fault(fault)) => self.fault(fault),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Closed) => {}
                }
            }
            Step::Lease(who) => {
                let Some(receiver) = pick(&mut self.receivers, who) else { return };
                let leased = receiver.try_lease().map(|lease| {
                    assert!(lease.len() <= max);
                    self.leases.push(lease);
                });
                self.received(leased);
            }
            Step::Read(which) => {
                let Some(lease) = pick(&mut self.leases, which) else { return };
                // Its length is the one from its receive, whatever is written meanwhile.
                let len = lease.len();
                assert!(lease.read().is_ok_and(|it| it.len() == len) || lease.read().is_err());
                let copied = lease.copy_to(&mut vec![0; max + 9]);
                assert!(copied.is_err() || copied == Ok(len));
                assert!(lease.as_slice().is_none(), "nobody said that peers are trusted");
            }
            Step::Ack(which) => self.take_lease(which).into_iter().for_each(Lease::ack),
            Step::Nack(which) => self.take_lease(which).into_iter().for_each(Lease::nack),
            Step::NackAfter(which, is_due) => {
                let delay = if is_due { Duration::ZERO } else { NEVER };
                self.take_lease(which).into_iter().for_each(|lease| lease.nack_after(delay));
            }
            Step::Drop(which) => drop(self.take_lease(which)),
            Step::Ask(who) => self.ask(who),
            Step::Join => {
                let joined = self.queue.join_blocking_timeout(Duration::ZERO);
                if let Err(JoinTimeoutError::Fault(fault)) = joined {
                    self.fault(fault);
                }
            }
            Step::JoinOn => {
                let joining = self.joining.get_or_insert_with(|| self.queue.joining());
                if let Some(joined) = joining.attempt() {
                    self.joining = None;
                    joined.unwrap_or_else(|fault| self.fault(fault));
                }
            }
            Step::Recover => {
                let found = self.queue.recover().map_or(0, |it| it.handles + it.postponed);
                assert!(found <= self.queue.handles());
            }
            Step::Mourn(who) => {
                if let Some(sender) = pick(&mut self.senders, who) {
                    sender.side().report_death();
                }
                if let Some(receiver) = pick(&mut self.receivers, who) {
                    receiver.side().report_death();
                }
            }
            Step::Close(n) if n % 16 > 0 => {}
            Step::Close(_) => {
                let closed = self.queue.close();
                closed.unwrap_or_else(|fault| self.fault(fault));
            }
            Step::Open => self.open(),
            Step::Renew => self.renew(),
        }
    }

    fn receiver(&mut self) {
        let Ok(mut receiver) = self.queue.receiver() else { return };
        match self.started % 4 {
            0 => {}
            1 => receiver.discard_dead_letters(),
            2 => {
                let (max, given_up) = (self.queue.max_message(), Arc::clone(&self.given_up));
                receiver.on_dead_letter(move |letter| {
                    assert!(letter.message.len() <= max);
                    given_up.fetch_add(1, Relaxed);
                });
            }
            _ => {
                if let Ok(sender) = self.queue.sender() {
                    receiver.forward_dead_letters(sender);
                }
            }
        }
        self.receivers.push(receiver);
        self.started += 1;
    }

    fn take_lease(&mut self, which: u8) -> Option<Lease> {
        let count = self.leases.len();
        (count > 0).then(|| self.leases.swap_remove(usize::from(which) % count))
    }

    fn ask(&mut self, who: u8) {
        let queue = &self.queue;
        assert!(queue.len() <= queue.capacity());
        let _ = (queue.stats(), queue.is_closed(), format!("{queue:?}"), census(queue).is_ok());
        let sender = pick(&mut self.senders, who).map(|it| it.side());
        let receiver = pick(&mut self.receivers, who).map(|it| it.side());
        for side in sender.into_iter().chain(receiver).chain([queue.joining().side()]) {
            side.is_ready();
            side.maintain();
            side.pass_on();
            let _ = side.arrivals();
            assert!(side.peers().len() <= queue.handles());
        }
    }

    /// Opens the queue anew, if it can still be opened, and drops all handles and leases.
    fn open(&mut self) {
        let fd = self.queue.try_clone_fd().expect("a descriptor");
        let shape = |queue: &Queue| (queue.capacity(), queue.max_message(), queue.handles());
        if let Ok(queue) = Queue::open(fd) {
            // If the file has another shape now, its words have other places.
            if shape(&queue) == shape(&self.queue) {
                self.queue = queue;
            }
        }
        self.begin();
    }

    /// Continues with another queue.
    fn renew(&mut self) {
        let Some(queue) = self.forgives.and_then(Shape::create) else { return };
        // The ambush was laid for the old queue.
        #[cfg(kill_points)]
        super::ambush::clear();
        self.segment = Arc::new(Segment::of(&queue).expect("a descriptor"));
        self.queue = queue;
        self.begin();
    }

    fn begin(&mut self) {
        self.leases.clear();
        self.senders.clear();
        self.receivers.clear();
        self.joining = None;
        self.act(&Step::Sender);
        self.act(&Step::Receiver);
    }

    fn fault(&mut self, fault: Fault) {
        assert!(!fault.to_string().is_empty());
        self.faulted |= matches!(fault, Fault::Corrupt(_));
    }

    fn sent(&mut self, answer: std::result::Result<(), TrySendError>) {
        if let Err(TrySendError::Fault((), fault)) = answer {
            self.fault(fault);
        }
    }

    fn received(&mut self, answer: std::result::Result<(), TryRecvError>) {
        if let Err(TryRecvError::Fault(fault)) = answer {
            self.fault(fault);
        }
    }
}

fn pick<T>(all: &mut [T], which: u8) -> Option<&mut T> {
    let count = all.len().max(1);
    all.get_mut(usize::from(which) % count)
}

//! A survivor of the scribbler: it makes every call of the library, in any order, and records how long
//! each call took.
//!
//! When calls say that the queue is corrupt, it opens the queue anew, which no program should do outside
//! of a test. It drops some leases on a second thread, while it makes the next call.

use std::io::stdout;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, Release},
};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use parkline_core::driver::census;
use parkline_core::{
    AttachError, Fault, JoinTimeoutError, Lease, Queue, Receiver, RecvTimeoutError,
    SendTimeoutError, Sender, TryRecvError, TrySendError,
};
use parkline_uring::{AsyncJoin, AsyncReceiver, AsyncSender, block_on};
use zerocopy::FromZeros;

use crate::clock::now;
use crate::player;
use crate::shared;

/// The calls of a survivor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Open,
    AttachSender,
    AttachReceiver,
    TrySend,
    TrySendMany,
    SendInTime,
    SendInTask,
    Reserve,
    TryRecv,
    TryRecvMany,
    RecvInTime,
    RecvInTask,
    TryLease,
    LeaseInTime,
    Read,
    Acknowledge,
    Nack,
    NackLater,
    Drop,
    /// On a second thread, beside the next call of this thread.
    DropAside,
    JoinInTime,
    JoinInTask,
    Recover,
    Ask,
    Close,
    LetGo,
}

impl Call {
    pub(crate) const ALL: [Self; 26] = [
        Self::Open,
        Self::AttachSender,
        Self::AttachReceiver,
        Self::TrySend,
        Self::TrySendMany,
        Self::SendInTime,
        Self::SendInTask,
        Self::Reserve,
        Self::TryRecv,
        Self::TryRecvMany,
        Self::RecvInTime,
        Self::RecvInTask,
        Self::TryLease,
        Self::LeaseInTime,
        Self::Read,
        Self::Acknowledge,
        Self::Nack,
        Self::NackLater,
        Self::Drop,
        Self::DropAside,
        Self::JoinInTime,
        Self::JoinInTask,
        Self::Recover,
        Self::Ask,
        Self::Close,
        Self::LetGo,
    ];
    pub(crate) const COUNT: usize = Self::ALL.len();
}

/// What a survivor records.
#[derive(Debug, FromZeros)]
#[repr(C)]
pub(crate) struct Survivor {
    /// 1 when it must check that a new queue works, and end.
    pub(crate) end: AtomicU64,
    /// 1 when a new queue worked.
    pub(crate) served: AtomicU64,
    /// When the current call began; 0 between calls.
    pub(crate) begun: AtomicU64,
    /// The current call, or the last.
    calling: AtomicU64,
    pub(crate) calls: [AtomicU64; Call::COUNT],
    /// How many calls said that the queue is corrupt.
    pub(crate) corrupt: [AtomicU64; Call::COUNT],
    /// The longest time that a call took beyond the time that it may wait, in nanoseconds.
    pub(crate) longest: [AtomicU64; Call::COUNT],
}

impl Survivor {
    /// The current call, or the last.
    pub(crate) fn call(&self) -> Option<Call> {
        Call::ALL.get(self.calling.load(Relaxed) as usize).copied()
    }
}

/// How long calls wait.
const PATIENCE: Duration = Duration::from_millis(3);
/// Calls on a queue that was opened once.
const LIFE: u32 = 200;

/// The part of a survivor.
pub(crate) fn play(queue: Queue, words: &[String]) -> Result<()> {
    player::die_with_parent()?;
    // A panic on any thread ends this process.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("a survivor panics: {panic}");
        std::process::abort();
    }));
    let [seed] = words else { bail!("a survivor has one word: {words:?}") };
    let ledger: &Survivor = shared::map(stdout())?;
    let (aside, leases) = mpsc::sync_channel::<Lease>(0);
    std::thread::spawn(move || leases.into_iter().for_each(drop));
    let mut it = Surviving {
        random: fastrand::Rng::with_seed(seed.parse()?),
        ledger,
        queue,
        sender: None,
        receiver: None,
        leases: Vec::new(),
        aside,
        corrupt: false,
    };
    while ledger.end.load(Relaxed) == 0 {
        it.live()?;
    }
    serve()?;
    ledger.served.store(1, Relaxed);
    Ok(())
}

struct Surviving {
    random: fastrand::Rng,
    ledger: &'static Survivor,
    queue: Queue,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    leases: Vec<Lease>,
    /// To the thread that drops leases. It takes the next when it has dropped the last.
    aside: mpsc::SyncSender<Lease>,
    /// The last call said that the queue is corrupt.
    corrupt: bool,
}

impl Surviving {
    /// Opens the queue, uses it, and lets it go.
    fn live(&mut self) -> Result<()> {
        let fd = self.queue.try_clone_fd()?;
        // The queue may be refused, because its header is overwritten, too.
        if let Ok(queue) = self.call(Call::Open, Duration::ZERO, |_| Queue::open(fd)) {
            self.queue = queue;
        }
        let mut faults = 0;
        for _ in 0..LIFE {
            self.attach();
            if self.sender.is_none() && self.receiver.is_none() {
                std::thread::yield_now();
                break;
            }
            self.act();
            // Some calls more, because all calls must say it, not only the first.
            faults += u32::from(std::mem::take(&mut self.corrupt));
            if faults > 4 {
                break;
            }
        }
        self.call(Call::LetGo, Duration::ZERO, |it| {
            it.leases.clear();
            (it.sender, it.receiver) = (None, None);
        });
        Ok(())
    }

    fn attach(&mut self) {
        if self.sender.is_none() {
            let sender = self.call(Call::AttachSender, Duration::ZERO, |it| it.queue.sender());
            self.sender =
                sender.map_err(|error| self.attach_error(Call::AttachSender, &error)).ok();
        }
        if self.receiver.is_none() {
            let receiver =
                self.call(Call::AttachReceiver, Duration::ZERO, |it| it.queue.receiver());
            let error = |error| self.attach_error(Call::AttachReceiver, &error);
            self.receiver = receiver.map_err(error).ok();
            let kind = self.random.u8(..4);
            let Some(receiver) = &mut self.receiver else { return };
            match kind {
                0 => {}
                1 => receiver.on_dead_letter(|letter| assert!(letter.message.len() <= 1 << 13)),
                2 => receiver.discard_dead_letters(),
                _ => {
                    if let Ok(sender) = self.queue.sender() {
                        receiver.forward_dead_letters(sender);
                    }
                }
            }
        }
    }

    fn attach_error(&mut self, call: Call, error: &AttachError) {
        if matches!(error, AttachError::Corrupt(_)) {
            self.said_corrupt(call);
        }
    }

    fn act(&mut self) {
        let call = Call::ALL[self.random.usize(Call::AttachReceiver as usize + 1..Call::COUNT)];
        match call {
            Call::TrySend
            | Call::TrySendMany
            | Call::SendInTime
            | Call::SendInTask
            | Call::Reserve => self.send(call),
            Call::TryRecv
            | Call::TryRecvMany
            | Call::RecvInTime
            | Call::RecvInTask
            | Call::TryLease
            | Call::LeaseInTime => self.receive(call),
            Call::Read
            | Call::Acknowledge
            | Call::Nack
            | Call::NackLater
            | Call::Drop
            | Call::DropAside => self.settle(call),
            Call::JoinInTime | Call::JoinInTask => {
                let joined = self.call(call, PATIENCE, |it| match call {
                    Call::JoinInTask => block_on(it.queue.join_timeout(PATIENCE)),
                    _ => it.queue.join_blocking_timeout(PATIENCE),
                });
                if let Err(JoinTimeoutError::Fault(fault)) = joined {
                    self.fault(call, fault);
                }
            }
            Call::Recover => {
                if let Err(error) = self.call(call, Duration::ZERO, |it| it.queue.recover()) {
                    self.attach_error(call, &error);
                }
            }
            Call::Ask => self.call(call, Duration::ZERO, |it| {
                let queue = &it.queue;
                assert!(queue.len() <= queue.capacity());
                let _ = (queue.stats(), format!("{queue:?}"), census(queue).is_ok());
                for side in it
                    .sender
                    .as_ref()
                    .map(|it| it.side())
                    .into_iter()
                    .chain(it.receiver.as_ref().map(|it| it.side()))
                {
                    side.pass_on();
                    side.report_death();
                }
            }),
            // The queue is closed seldom, because then most calls only say that.
            Call::Close if self.random.u16(..1024) > 0 => {}
            Call::Close => {
                if let Err(fault) = self.call(call, Duration::ZERO, |it| it.queue.close()) {
                    self.fault(call, fault);
                }
            }
            Call::Open | Call::AttachSender | Call::AttachReceiver | Call::LetGo => {}
        }
    }

    fn send(&mut self, call: Call) {
        let Some(mut sender) = self.sender.take() else { return };
        let message = vec![b'm'; self.random.usize(..=self.queue.max_message().min(1 << 12))];
        let fault = self.call(call, waits(call), |_| match call {
            Call::TrySend => try_sent(sender.try_send(&message)),
            Call::TrySendMany => try_sent(sender.try_send_many([&message[..]; 5])),
            Call::SendInTime => sent(sender.send_blocking_timeout(&message, PATIENCE)),
            Call::SendInTask => sent(block_on(sender.send_timeout(&message[..], PATIENCE))),
            _ => match sender.try_reserve(message.len()) {
                Ok(mut reserved) => {
                    reserved.write_at(0, &message);
                    try_sent(reserved.try_commit())
                }
                Err(refused) => try_sent(Err::<(), _>(refused)),
            },
        });
        self.sender = Some(sender);
        fault.into_iter().for_each(|fault| self.fault(call, fault));
    }

    fn receive(&mut self, call: Call) {
        let Some(mut receiver) = self.receiver.take() else { return };
        let mut leased = None;
        let fault = self.call(call, waits(call), |_| match call {
            Call::TryRecv => try_received(receiver.try_recv()),
            Call::TryRecvMany => try_received(receiver.try_recv_many(&mut Vec::new(), 5)),
            Call::RecvInTime => received(receiver.recv_blocking_timeout(PATIENCE)),
            Call::RecvInTask => received(block_on(receiver.recv_timeout(PATIENCE))),
            Call::TryLease => try_received(receiver.try_lease().map(|it| leased = Some(it))),
            _ => received(receiver.lease_blocking_timeout(PATIENCE).map(|it| leased = Some(it))),
        });
        self.receiver = Some(receiver);
        self.leases.extend(leased);
        fault.into_iter().for_each(|fault| self.fault(call, fault));
    }

    fn settle(&mut self, call: Call) {
        let Some(lease) = self.leases.pop() else { return };
        let later = Duration::from_micros(self.random.u64(..2000));
        let fault = self.call(call, Duration::ZERO, |it| {
            match call {
                Call::Read => {
                    let read = lease.read();
                    let len = read.as_ref().map_or(lease.len(), Vec::len);
                    assert!(len == lease.len(), "cut short");
                    it.leases.push(lease);
                    return read.err();
                }
                Call::Acknowledge => lease.ack(),
                Call::Nack => lease.nack(),
                Call::NackLater => lease.nack_after(later),
                Call::DropAside => it.aside.send(lease).expect("it takes all"),
                _ => drop(lease),
            }
            None
        });
        fault.into_iter().for_each(|fault| self.fault(call, fault));
    }

    /// Makes a call that may wait for `patience`, and records how long it took.
    fn call<R>(&mut self, call: Call, patience: Duration, make: impl FnOnce(&mut Self) -> R) -> R {
        let (ledger, at, begun) = (self.ledger, call as usize, now());
        ledger.calling.store(at as u64, Relaxed);
        ledger.begun.store(begun, Release);
        let made = make(self);
        let took = Duration::from_nanos(now().saturating_sub(begun)).saturating_sub(patience);
        ledger.begun.store(0, Release);
        ledger.calls[at].fetch_add(1, Relaxed);
        ledger.longest[at].fetch_max(took.as_nanos() as u64, Relaxed);
        made
    }

    fn fault(&mut self, call: Call, fault: Fault) {
        if matches!(fault, Fault::Corrupt(_)) {
            self.said_corrupt(call);
        }
    }

    fn said_corrupt(&mut self, call: Call) {
        self.corrupt = true;
        self.ledger.corrupt[call as usize].fetch_add(1, Relaxed);
    }
}

fn waits(call: Call) -> Duration {
    match call {
        Call::SendInTime | Call::SendInTask => PATIENCE,
        Call::RecvInTime | Call::RecvInTask | Call::LeaseInTime => PATIENCE,
        _ => Duration::ZERO,
    }
}

fn try_sent<T, U>(answer: Result<U, TrySendError<T>>) -> Option<Fault> {
    match answer {
        Err(TrySendError::Fault(_, fault)) => Some(fault),
        Ok(_) | Err(TrySendError::Full(_) | TrySendError::Closed(_)) => None,
    }
}

fn sent(answer: Result<(), SendTimeoutError>) -> Option<Fault> {
    match answer {
        Err(SendTimeoutError::Fault((), fault)) => Some(fault),
        Ok(()) | Err(SendTimeoutError::Timeout(()) | SendTimeoutError::Closed(())) => None,
    }
}

fn try_received<R>(answer: Result<R, TryRecvError>) -> Option<Fault> {
    match answer {
        Err(TryRecvError::Fault(fault)) => Some(fault),
        Ok(_) | Err(TryRecvError::Empty | TryRecvError::Closed) => None,
    }
}

fn received<R>(answer: Result<R, RecvTimeoutError>) -> Option<Fault> {
    match answer {
        Err(RecvTimeoutError::Fault(fault)) => Some(fault),
        Ok(_) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Closed) => None,
    }
}

/// Checks that a new queue works in this process: messages come as they were sent, and waits and a join
/// end.
fn serve() -> Result<()> {
    let queue = Queue::builder().capacity(4).max_message(8).create()?;
    let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    for n in 0..1000u64 {
        sender.send_blocking(&n.to_ne_bytes())?;
        let message =
            if n % 2 == 0 { receiver.recv_blocking()? } else { block_on(receiver.recv())? };
        ensure!(message == n.to_ne_bytes(), "message {n} is garbled: {message:?}");
    }
    let empty = block_on(receiver.recv_timeout(PATIENCE));
    ensure!(empty == Err(RecvTimeoutError::Timeout), "{empty:?}");
    let waiting = std::thread::spawn(move || receiver.recv_blocking());
    sender.send_blocking(b"last")?;
    let last = waiting.join().ok().context("the receiver panicked")??;
    ensure!(last == b"last", "the last message is garbled: {last:?}");
    queue.join_blocking()?;
    let census = census(&queue)?;
    ensure!(census.in_ring + census.held + census.busy == 0, "left over: {census:?}");
    Ok(())
}

//! A queue with survivors at it: what they must still be able to do after a kill, and the account
//! of every message, record and block.

use std::fs;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use parkline_core::driver::{Joining, census};
use parkline_core::{AttachError, Queue, Receiver, Recovered, Sender, TryRecvError, TrySendError};

use crate::message::{self, Id};
use crate::operation::{CAPACITY, Fill, Operation};
use crate::player::no_forks;
use crate::states::{AFTER, Arrival, LEASES, Seen};
use crate::waiter::Waiter;

/// The watchdog of the queues here: short, where it is waited for.
pub(crate) const WATCHDOG: Duration = Duration::from_millis(10);
/// Where a victim sleeps it is woken by a send, however long its tracer takes.
const HOUR: Duration = Duration::from_secs(3600);

/// A queue, and two handles that survive.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) queue: Queue,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    waiter: Option<Waiter>,
    pub(crate) len: usize,
    /// Records that are to be free again.
    victims: usize,
    /// Begun with the messages that were there first. None where its look after the dead would change
    /// what is to be seen, and where messages cannot be told apart.
    pub(crate) joining: Option<Joining>,
    first: Vec<Id>,
    joined: bool,
}

/// Whether a process that waits may find that it is time to look after the dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// None does before the victims are dead and the survivors have begun to account.
    Never,
    /// One does that waits for longer than [`WATCHDOG`].
    #[cfg(kill_points)]
    Soon,
}

impl Scene {
    /// With just as many records as there are handles, so that one that leaks is missed.
    pub(crate) fn set(
        operation: Operation,
        fill: Fill,
        len: usize,
        victims: usize,
        watch: Watch,
    ) -> Result<Self> {
        let _no_forks = no_forks();
        let survivors = if operation.needs_waiter() { 3 } else { 2 };
        let watched = watch != Watch::Never && !operation.sleeps() || operation.needs_waiter();
        let watchdog = if watched { WATCHDOG } else { HOUR };
        let queue = Queue::builder().capacity(CAPACITY).max_message(len).leases(LEASES);
        let queue = match operation.max_attempts() {
            Some(most) => queue.max_attempts(most),
            None => queue,
        };
        let queue = queue.handles(survivors + victims).watchdog(watchdog).create()?;
        let (mut sender, receiver) = (queue.sender()?, queue.receiver()?);
        for id in fill.messages() {
            sender.try_send(&message::of(id, len))?;
        }
        // A return counts for it, whether or not it is asked again.
        let mut joining = queue.joining();
        let joined = joining.attempt().transpose()?;
        ensure!(joined.is_some() == (fill == Fill::Empty), "joined {fill}: {joined:?}");
        let joining = (!watched && len > 0).then_some(joining);
        let waiter = operation.needs_waiter().then(|| Waiter::start(&queue, len)).transpose()?;
        let (first, joined) = (fill.messages(), false);
        Ok(Self { queue, sender, receiver, waiter, len, victims, joining, first, joined })
    }

    pub(crate) fn fd(&self) -> Result<OwnedFd> {
        Ok(self.queue.try_clone_fd()?)
    }

    /// Waits until the dead have no lock on the queue any more.
    pub(crate) fn until_only_survivors_have_locks(&self) -> Result<()> {
        let inode = format!(":{} ", rustix::fs::fstat(&self.queue)?.st_ino);
        let survivors = 2 + usize::from(self.waiter.is_some());
        loop {
            let locks = fs::read_to_string("/proc/locks")?;
            if locks.lines().filter(|line| line.contains(&inode)).count() <= survivors {
                return Ok(());
            }
            thread::yield_now();
        }
    }

    /// Does what a victim waits for that sleeps.
    pub(crate) fn wake(&mut self, operation: Operation) -> Result<()> {
        if operation == Operation::ParkSend {
            let message = self.receiver.try_recv()?;
            ensure!(message == message::of(1, self.len), "the first to come was {message:?}");
        } else {
            self.sender.try_send(&message::of(1, self.len))?;
        }
        Ok(())
    }

    /// What the survivors see, once all victims are dead.
    ///
    /// # Errors
    /// Whatever breaks a promise.
    pub(crate) fn account(mut self) -> Result<Seen> {
        let mut seen = Seen { owed: self.queue.stats().owed, ..Seen::default() };
        let waiter = self.waiter.take();
        if let Some(waiter) = &waiter {
            // What is committed reaches the one that sleeps, also if the sender died before it
            // woke anybody.
            waiter.wait_until_drained(&self.queue)?;
        } else {
            // Nobody has recovered anything yet.
            self.receive(&mut seen)?;
        }
        match self.sender.try_send(&message::of(AFTER, self.len)) {
            Ok(()) => {}
            Err(TrySendError::Closed(())) => seen.closed = true,
            Err(refused) => bail!("the survivors cannot send: {refused}"),
        }
        if let Some(waiter) = waiter {
            seen.arrivals.extend(waiter.seen()?);
            // Its handle is gone with it.
            self.victims += 1;
        }
        let _no_forks = no_forks();
        self.recover(&mut seen)?;
        while self.receive(&mut seen)? {}
        self.join()?;
        ensure!(self.joined == self.joining.is_some(), "all is acknowledged, and a join goes on");
        let again = self.queue.recover()?;
        ensure!(again == Recovered::default(), "recovered twice: {again:?}");
        self.attach_anew(seen.closed)?;
        self.count(2)?;
        Ok(seen)
    }

    /// Recovers the dead. What finds no room goes back when there is some, and of two who died in
    /// the midst of one exchange the second lets the first be recovered.
    fn recover(&mut self, seen: &mut Seen) -> Result<()> {
        for _ in 0..=CAPACITY {
            let recovered = self.queue.recover()?;
            match (recovered.waiting, recovered.postponed) {
                (0, 0) => return Ok(()),
                (0, _) => {}
                _ => ensure!(self.receive(seen)?, "there is room, and {recovered:?}"),
            }
        }
        bail!("the dead are never recovered")
    }

    /// Asks whether the join is over.
    fn join(&mut self) -> Result<()> {
        if let Some(joining) = &mut self.joining {
            self.joined |= joining.attempt().transpose()?.is_some();
        }
        Ok(())
    }

    /// One message; whether there was one.
    fn receive(&mut self, seen: &mut Seen) -> Result<bool> {
        self.join()?;
        let lease = match self.receiver.try_lease() {
            Ok(lease) => lease,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(false),
            Err(refused) => bail!("the survivors cannot receive: {refused}"),
        };
        let (redelivered, attempts) = (lease.redelivered(), lease.attempts());
        let id = message::id(&lease.read()?, self.len).context("a message arrived garbled")?;
        lease.ack();
        let is_late = self.joined && self.first.contains(&id);
        ensure!(!is_late, "message {id} came when a join for it was over");
        seen.arrivals.push(Arrival { id, redelivered, attempts });
        Ok(true)
    }

    /// New handles take the records of the dead, and work.
    fn attach_anew(&self, closed: bool) -> Result<()> {
        let mut handles = Vec::new();
        for _ in 0..self.victims {
            let mut handle = self.queue.sender().context("the record of the dead")?;
            match handle.try_send(&message::of(9, self.len)) {
                Err(TrySendError::Closed(())) if closed => {}
                Ok(()) if !closed => {
                    let mut receiver = self.receiver_in(handle)?;
                    let message = receiver.try_recv().context("a new handle cannot receive")?;
                    ensure!(
                        message == message::of(9, self.len),
                        "a new handle received {message:?}"
                    );
                    handles.push(receiver);
                    continue;
                }
                other => bail!("a new handle cannot send: {other:?}"),
            }
            handles.push(self.receiver_in(handle)?);
        }
        match self.queue.receiver() {
            Err(AttachError::NoFreeHandle { .. }) => Ok(()),
            other => bail!("there is one record more than there should be: {other:?}"),
        }
    }

    /// The same record, for the other side.
    fn receiver_in(&self, sender: Sender) -> Result<Receiver> {
        drop(sender);
        self.queue.receiver().context("a record just given back")
    }

    /// Nothing is missing, nothing is in two places, and all that is owned is owned by the living.
    pub(crate) fn count(&self, living: usize) -> Result<()> {
        let census = census(&self.queue)?;
        let clean = census.in_ring == 0 && census.held == 0 && census.busy == 0;
        ensure!(clean && census.owned == living, "left over: {census:?}");
        Ok(())
    }
}

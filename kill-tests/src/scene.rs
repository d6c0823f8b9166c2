//! A queue and its survivors: what they must still be able to do after a kill, and the account of
//! every message, record and block.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use parkline_core::driver::{Joining, census};
use parkline_core::{AttachError, Queue, Receiver, Recovered, Sender, TryRecvError, TrySendError};

use crate::message::{self, Id};
use crate::operation::{Fill, Operation};
use crate::player::no_forks;
use crate::states::{AFTER, Arrival, CAPACITY, LEASES, Seen};
use crate::waiter::{WATCHDOG, Waiter};

/// The watchdog of all other queues: a victim that sleeps is woken by a send, however long its tracer
/// takes.
const HOUR: Duration = Duration::from_secs(3600);

/// A queue, and the two handles that survive.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) queue: Queue,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    waiter: Option<Waiter>,
    pub(crate) len: usize,
    /// How many records must be free after the victims' deaths.
    victims: usize,
    /// A join for the messages in `first`. `None` if it would recover the dead before the survivors
    /// account, or if messages cannot be told apart.
    pub(crate) joining: Option<Joining>,
    /// The messages before the operation.
    first: Vec<Id>,
    /// Whether the join is over.
    joined: bool,
    /// The ids of the messages that the survivors received.
    ids: HashSet<u64>,
}

impl Scene {
    /// A queue with no more records than handles, so that a record that leaks is missed. With a
    /// `watchdog`, a process that waits longer than that may recover the dead; with `None`, the
    /// survivors are the first to do that.
    pub(crate) fn set(
        operation: Operation,
        fill: Fill,
        len: usize,
        victims: usize,
        watchdog: Option<Duration>,
    ) -> Result<Self> {
        let _no_forks = no_forks();
        let survivors = if operation.needs_waiter() { 3 } else { 2 };
        let watchdog = watchdog.filter(|_| !operation.sleeps());
        let watchdog = watchdog.or(operation.needs_waiter().then_some(WATCHDOG));
        let queue = Queue::builder().capacity(CAPACITY).max_message(len).leases(LEASES);
        let queue = match operation.max_attempts() {
            Some(most) => queue.max_attempts(most),
            None => queue,
        };
        let queue =
            queue.handles(survivors + victims).watchdog(watchdog.unwrap_or(HOUR)).create()?;
        let (mut sender, receiver) = (queue.sender()?, queue.receiver()?);
        for id in fill.messages() {
            sender.try_send(&message::of(id, len))?;
        }
        // A returned message counts for the join, even if the join is not attempted again.
        let mut joining = queue.joining();
        let joined = joining.attempt().transpose()?;
        ensure!(joined.is_some() == (fill == Fill::Empty), "joined {fill}: {joined:?}");
        let joining = (watchdog.is_none() && len > 0).then_some(joining);
        let waiter = operation.needs_waiter().then(|| Waiter::start(&queue, len)).transpose()?;
        let (first, joined, ids) = (fill.messages(), false, HashSet::new());
        Ok(Self { queue, sender, receiver, waiter, len, victims, joining, first, joined, ids })
    }

    pub(crate) fn fd(&self) -> Result<OwnedFd> {
        Ok(self.queue.try_clone_fd()?)
    }

    /// Waits until the dead processes have no lock on the queue any more.
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

    /// Makes the message, or the room, for which a sleeping victim waits.
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
    /// If a promise of the library is broken.
    pub(crate) fn account(mut self) -> Result<Seen> {
        let mut seen = Seen { owed: self.queue.stats().owed, ..Seen::default() };
        let waiter = self.waiter.take();
        if let Some(waiter) = &waiter {
            // A committed message reaches the sleeping receiver even if the sender died before it
            // woke a sleeper.
            waiter.wait_until_drained(&self.queue)?;
        } else {
            // No process has recovered the dead yet.
            self.receive(&mut seen)?;
        }
        match self.sender.try_send(&message::of(AFTER, self.len)) {
            Ok(()) => {}
            Err(TrySendError::Closed(())) => seen.closed = true,
            Err(refused) => bail!("the survivors cannot send: {refused}"),
        }
        if let Some(waiter) = waiter {
            seen.arrivals.extend(waiter.seen()?);
            // The waiter's handle is gone, and its record is free.
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

    /// Recovers the dead. A message of theirs that finds no room goes back when there is room. If two
    /// processes died during one exchange, the first is recovered after the second.
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

    /// Attempts the join.
    fn join(&mut self) -> Result<()> {
        if let Some(joining) = &mut self.joining {
            self.joined |= joining.attempt().transpose()?.is_some();
        }
        Ok(())
    }

    /// Receives one message. Returns whether there was one.
    fn receive(&mut self, seen: &mut Seen) -> Result<bool> {
        self.join()?;
        let lease = match self.receiver.try_lease() {
            Ok(lease) => lease,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(false),
            Err(refused) => bail!("the survivors cannot receive: {refused}"),
        };
        self.note_id(lease.id())?;
        let (redelivered, attempts) = (lease.redelivered(), lease.attempts());
        let id = message::id(&lease.read()?, self.len).context("a message arrived garbled")?;
        lease.ack();
        let is_late = self.joined && self.first.contains(&id);
        ensure!(!is_late, "message {id} came when a join for it was over");
        seen.arrivals.push(Arrival { id, redelivered, attempts });
        Ok(true)
    }

    /// Checks that no message before had this id.
    fn note_id(&mut self, id: u64) -> Result<()> {
        ensure!(self.ids.insert(id), "two messages have the id {id}");
        Ok(())
    }

    /// Checks that new handles take the records of the dead, and work.
    fn attach_anew(&mut self, closed: bool) -> Result<()> {
        let mut handles = Vec::new();
        for _ in 0..self.victims {
            let mut handle = self.queue.sender().context("the record of the dead")?;
            match handle.try_send(&message::of(9, self.len)) {
                Err(TrySendError::Closed(())) if closed => {}
                Ok(()) if !closed => {
                    let mut receiver = self.receiver_in(handle)?;
                    let received = receiver.try_recv_with_id();
                    let received = received.context("a new handle cannot receive")?;
                    let is_whole = received.message == message::of(9, self.len);
                    ensure!(is_whole, "a new handle received {received:?}");
                    self.note_id(received.id)?;
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

    /// A receiver in the record of this sender.
    fn receiver_in(&self, sender: Sender) -> Result<Receiver> {
        drop(sender);
        self.queue.receiver().context("a record just given back")
    }

    /// Checks that no block is missing or in two places, and that only the living own records.
    pub(crate) fn count(&self, living: usize) -> Result<()> {
        let census = census(&self.queue)?;
        let clean = census.in_ring == 0 && census.held == 0 && census.busy == 0;
        ensure!(clean && census.owned == living, "left over: {census:?}");
        Ok(())
    }
}

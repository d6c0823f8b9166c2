//! The workers of the torture. Each sends or receives as fast as it can, by its own kind of call, until
//! it is killed or the queue is closed.

use std::collections::VecDeque;
use std::io::stdout;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use parkline_core::{Lease, Queue, Receiver, RecvError, RecvTimeoutError, Sender};
use parkline_uring::{AsyncReceiver, AsyncSender, block_on};

use super::ledger::{Entry, EntryAt, ReceiverLedger, SenderLedger, Stage};
use crate::clock::now;
use crate::player;
use crate::shared;

/// Leases of each receiver.
pub(crate) const LEASES: usize = 4;
const BATCH: u64 = 4;
/// For how long a receiver that holds leases waits for more.
const MOST_HELD: Duration = Duration::from_millis(20);
/// The longest message here.
pub(crate) const LONGEST: usize = 56;

/// Whether a receiver's call acknowledges the message. The other receivers take leases.
pub(crate) fn acknowledges_in_call(receiver: usize) -> bool {
    receiver.is_multiple_of(2)
}

fn message(sender: usize, n: u64) -> Vec<u8> {
    let sender = sender as u64;
    let words = [sender, n, check(sender, n)];
    let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    message.resize(24 + (n % 5) as usize * 8, n as u8);
    message
}

/// A checksum of the two.
fn check(sender: u64, n: u64) -> u64 {
    (n ^ sender << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn read(message: &[u8]) -> Result<(usize, u64)> {
    let mut words = message.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
    let mut next = || words.next().context("a message arrived cut short");
    let (sender, n, found) = (next()?, next()?, next()?);
    let whole = found == check(sender, n) && message == self::message(sender as usize, n);
    ensure!(whole, "a message arrived garbled: {message:?}");
    Ok((sender as usize, n))
}

/// The part of a sender: `words` name its place.
pub(crate) fn send(queue: &Queue, words: &[String]) -> Result<()> {
    let id = place(words)?;
    let ledger: &SenderLedger = shared::map(stdout())?;
    let mut sender = queue.sender()?;
    let mut next = ledger.about.load(Relaxed) + 1;
    while ledger.end.load(Relaxed) == 0 {
        let most = if id % 4 == 3 { BATCH } else { 1 };
        let messages: Vec<_> = (next..next + most).map(|n| message(id, n)).collect();
        ledger.about.store(next + most - 1, Release);
        let sent = send_by_kind(&mut sender, id, &messages)?;
        ledger.sent.store(next + sent - 1, Release);
        ledger.about.store(next + sent - 1, Release);
        ledger.at.store(now(), Relaxed);
        next += sent;
    }
    Ok(())
}

fn send_by_kind(sender: &mut Sender, id: usize, messages: &[Vec<u8>]) -> Result<u64> {
    let first = messages.first().context("nothing to send")?;
    match id % 4 {
        0 => sender.send_blocking(first)?,
        1 => {
            let mut reserved = sender.reserve_blocking(first.len())?;
            reserved.write_at(0, first);
            reserved.commit_blocking().map_err(|refused| anyhow::anyhow!("{refused}"))?;
        }
        2 => block_on(sender.send(first))?,
        _ => return Ok(sender.send_many_blocking(messages.iter().map(Vec::as_slice))? as u64),
    }
    Ok(1)
}

/// The part of a receiver: `words` name its place.
pub(crate) fn receive(queue: &Queue, words: &[String]) -> Result<()> {
    let id = place(words)?;
    let ledger: &ReceiverLedger = shared::map(stdout())?;
    let receiver = queue.receiver()?;
    if acknowledges_in_call(id) {
        receive_in_call(receiver, id, ledger)
    } else {
        receive_by_lease(receiver, id, ledger)
    }
}

fn receive_in_call(mut receiver: Receiver, id: usize, ledger: &ReceiverLedger) -> Result<()> {
    loop {
        ledger.in_call.store(1, Release);
        let received = match id % 4 {
            0 => receiver.recv_with_id_blocking(),
            _ => block_on(receiver.recv_with_id()),
        };
        let received = match received {
            Ok(received) => received,
            Err(RecvError::Closed) => return Ok(()),
            Err(fault) => bail!(fault),
        };
        let (sender, n) = read(&received.message)?;
        // `recv` returns neither.
        let (redelivered, attempts) = (false, 0);
        let (id, stage) = (received.id, Stage::Acked);
        ledger.write(Entry { sender, id, n, redelivered, attempts, stage });
        ledger.in_call.store(0, Release);
    }
}

fn receive_by_lease(mut receiver: Receiver, id: usize, ledger: &ReceiverLedger) -> Result<()> {
    // A panic that a worker catches is not printed.
    std::panic::set_hook(Box::new(|panic| {
        if panic.payload().downcast_ref::<Ends>().is_none() {
            eprintln!("{panic}");
        }
    }));
    let mut random = fastrand::Rng::new();
    let mut held: VecDeque<(Lease, EntryAt)> = VecDeque::new();
    loop {
        ledger.in_call.store(1, Release);
        // Half of these receivers hold some leases for a while, but not so long that a join or the end of
        // the test waits for them.
        let (leased, keeps) = match id % 4 {
            1 => (receiver.lease_blocking().map_err(RecvTimeoutError::from), 0),
            _ => (block_on(receiver.lease_timeout(MOST_HELD)), LEASES - 1),
        };
        let keeps = match leased {
            Ok(lease) => {
                let (sender, n) = read(&lease.read()?)?;
                let (redelivered, attempts) = (lease.redelivered(), lease.attempts());
                let (id, stage) = (lease.id(), Stage::Held);
                let at = ledger.write(Entry { sender, id, n, redelivered, attempts, stage });
                held.push_back((lease, at));
                keeps
            }
            Err(RecvTimeoutError::Timeout) => 0,
            Err(RecvTimeoutError::Closed) => break,
            Err(fault) => bail!(fault),
        };
        ledger.in_call.store(0, Release);
        while held.len() > keeps {
            held.pop_front().into_iter().for_each(|held| end(held, ledger, &mut random));
        }
    }
    ensure!(held.is_empty(), "the end was told to one that holds {} messages", held.len());
    Ok(())
}

/// The payload of the panic in which a lease is dropped.
struct Ends;

/// Ends a lease. One lease in ten is not acknowledged.
fn end((lease, at): (Lease, EntryAt), ledger: &ReceiverLedger, random: &mut fastrand::Rng) {
    let way = random.u32(..10_000);
    if way >= 1000 {
        ledger.reached(at, Stage::AboutToAck);
        lease.ack();
        ledger.reached(at, Stage::Acked);
        return;
    }
    if way == 0 {
        // The lease is held until this process dies. The ledger tells the test to kill it.
        std::mem::forget(lease);
        ledger.forgot.store(now(), Release);
        return;
    }
    ledger.reached(at, Stage::AboutToReturn);
    match way % 4 {
        0 => drop(lease),
        1 => lease.nack(),
        2 => lease.nack_after(Duration::from_micros(random.u64(..5000))),
        _ => {
            let panics = AssertUnwindSafe(|| {
                let _lease = lease;
                std::panic::panic_any(Ends);
            });
            let _: Result<(), _> = catch_unwind(panics);
        }
    }
    ledger.reached(at, Stage::Returned);
}

fn place(words: &[String]) -> Result<usize> {
    player::die_with_parent()?;
    // The process that kills, and measures stalls, has a higher priority.
    rustix::process::nice(19)?;
    let [id] = words else { bail!("a worker has one word: {words:?}") };
    Ok(id.parse()?)
}

//! A sender that is stopped while it heals a gate: its wake found no sleeper, and it is about to clear
//! the gate.
//!
//! A receiver that goes to sleep meanwhile relies on the gate's word, which says that there is a
//! sleeper. No process dies here, and no watchdog is due: the sender must wake the receiver after it
//! cleared the gate, or the next send must.
//!
//! Seen to fail: a gate that is cleared and not all woken after it (every time).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use parkline_core::Queue;

use super::fate::Fate;
use super::parked::Survivor;
use super::victim::{self, LEN};
use crate::asleep::Late;
use crate::case::Case;
use crate::message;
use crate::operation::{Fill, Operation};
use crate::player::{Death, no_forks};
use crate::waiter::GRACE;

const HOUR: Duration = Duration::from_secs(3600);
/// How many points come after the last load of the gate: its bump, the system call, its return. Then
/// the gate is cleared.
const TO_HEALING: u64 = 3;

/// How long the sleeper took to receive a message after it was sent.
pub(crate) fn round() -> Result<Duration> {
    let case = Case { operation: Operation::TrySend, fill: Fill::Empty, len: LEN };
    let at = victim::learn(case)?.points.len() as u64 - 1 + TO_HEALING;
    let forks = no_forks();
    let queue = Queue::builder().capacity(4).max_message(LEN).handles(4).watchdog(HOUR).create()?;
    let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    let survivor = Survivor::Receiver(queue.receiver()?);
    drop(forks);
    let fate = Fate::Stop(at);
    let mut healer = victim::start_at(queue.try_clone_fd()?, case.operation, LEN, fate, None)?;
    healer.until_stopped()?;
    // A sleeper announces itself, and does not sleep in the end.
    let side = receiver.side();
    let _ = side.gate().context("this is no forked child")?.announce();
    healer.signal(Signal::SIGCONT)?;
    healer.until_stopped()?;
    receiver.try_recv()?;
    let (survivor, sleeper) = survivor.sleep()?;
    sleeper.until_asleep()?;
    healer.signal(Signal::SIGCONT)?;
    ensure!(healer.die()? == Death::Ended, "the healer died");
    let (sent, late) = (Instant::now(), Late::begin(&sleeper));
    sender.try_send(&message::of(1, LEN))?;
    while !survivor.is_finished() {
        if let Err(late) = late.check(GRACE) {
            queue.close()?;
            return Err(late.context("beside a message, one that nobody woke"));
        }
        std::thread::yield_now();
    }
    Ok(sent.elapsed())
}

//! A sender that is stopped while it heals a gate: it found nobody to wake, and is about to say so.
//!
//! Whoever goes to sleep meanwhile relied on a word that says that somebody waits. Nobody dies here,
//! and no watchdog helps: it must be woken by the healing itself, or by the next send.
//!
//! Seen to fail: a gate that is cleared and not all woken after it (every time).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use parkline_core::Queue;

use crate::asleep::Late;
use crate::case::Case;
use crate::deaths;
use crate::message;
use crate::operation::{Fill, Operation};
use crate::player::{Death, Player, no_forks};
use crate::points::Fate;
use crate::waiter::GRACE;
use crate::wakes::{LEN, Survivor, Who};

const HOUR: Duration = Duration::from_secs(3600);
/// From the last look at the gate: the bump, the call, its return, and the point in question.
const TO_HEALING: u64 = 3;

/// How long the sleeper took to come to a message, once there was one.
pub(crate) fn round() -> Result<Duration> {
    let case = Case { operation: Operation::TrySend, fill: Fill::Empty, len: LEN };
    let at = deaths::learn(case)?.points.len() as u64 - 1 + TO_HEALING;
    let forks = no_forks();
    let queue = Queue::builder().capacity(4).max_message(LEN).handles(4).watchdog(HOUR).create()?;
    let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    let survivor = Survivor::attach(&queue, Who::Sender)?;
    drop(forks);
    let [fate, point] = Fate::Stop(at).words();
    let words = ["victim", &case.operation.name(), &LEN.to_string(), &fate, &point];
    let mut healer = Player::start(&words, queue.try_clone_fd()?, None)?;
    healer.until_stopped()?;
    // Somebody announced itself, and did not sleep in the end.
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

//! A stream to a receiver that keeps falling asleep: how many `FUTEX_WAKE` calls go out for each
//! time that it does. The counters of the queue itself say so.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parkline_core::Queue;

use super::control::Control;
use super::ends::{End, PLAIN, Process};
use super::pairs::answer;
use super::peer::names;
use super::process::{Part, Started};
use super::spec::Outcome;
use crate::Message;

/// The time between the receiver's decision to sleep and its sleep in the kernel.
const DOZE: Duration = Duration::from_micros(30);

pub(crate) fn processes<E: Process + End>(part: Part) -> Result<Outcome> {
    let spec = match part {
        Part::Near(spec) => spec,
        Part::Far(spec, mut far) => {
            spec.pin(true)?;
            let mut end = E::open(&mut far.link, &spec, false)?;
            far.control.get_ready();
            answer(&mut end)?;
            return Ok(Outcome::default());
        }
    };
    let mut link = E::create(&spec)?;
    let (control, control_fd) = Control::create()?;
    let _started = Started::start(&spec, 0, &control_fd, &link)?;
    spec.pin(false)?;
    let there: OwnedFd = link.fds.first().context("it lives in a memfd")?.try_clone()?;
    let queue = Queue::<Message>::open_typed(there)?;
    let mut end = E::open(&mut link, &spec, true)?;
    let is_awake = spec.peer == names::PARKLINE;
    control.wait_ready(1);
    let before = queue.stats();
    let start = Instant::now();
    let (mut messages, mut parks) = (0u64, before.parks);
    while start.elapsed() < Duration::from_millis(spec.millis) {
        // A receiver that stays awake gets its messages at the same pace.
        let asked = Instant::now();
        while !is_awake
            && queue.stats().parks == parks
            && asked.elapsed() < Duration::from_millis(5)
        {
            thread::yield_now();
        }
        let until = Instant::now() + DOZE;
        while Instant::now() < until {
            thread::yield_now();
        }
        parks = queue.stats().parks;
        end.send(&PLAIN);
        messages += 1;
    }
    let after = queue.stats();
    let (parks, wakes) = (after.parks - before.parks, after.wakes - before.wakes);
    let of = if is_awake { messages } else { parks };
    Ok(Outcome {
        value: wakes as f64 / of.max(1) as f64,
        extras: [
            ("messages".to_owned(), messages as f64),
            ("parks".to_owned(), parks as f64),
            ("wakes".to_owned(), wakes as f64),
        ]
        .into(),
        ..Outcome::default()
    })
}

//! Many queues with their receivers in tasks of one runtime, and so of one ring; another process sends
//! over the queues in turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use parkline_uring::{AsyncReceiver, Queue};

use super::control::Control;
use super::ends::{PLAIN, runtime};
use super::link::Link;
use super::process::{Part, Started};
use super::spec::{Outcome, Spec, Work};
use crate::Message;

/// Messages to each queue in a burst.
const BURST: usize = 64;

pub(crate) fn processes(part: Part) -> Result<Outcome> {
    let Work::Queues { queues } = part.spec().work else { return part.refuse() };
    match part {
        Part::Near(spec) => near(&spec, queues),
        Part::Far(spec, far) => {
            spec.pin(true)?;
            let open = |fd| Ok(Queue::<Message>::open_typed(fd)?.sender()?);
            let mut senders = far.link.fds.into_iter().map(open).collect::<Result<Vec<_>>>()?;
            far.control.get_ready();
            // Each phase is a burst; the near end ends this process.
            for phase in 1.. {
                far.control.wait_phase(phase);
                for _ in 0..BURST {
                    for sender in &mut senders {
                        sender.send_blocking(&PLAIN)?;
                    }
                }
            }
            Ok(Outcome::default())
        }
    }
}

fn near(spec: &Spec, queues: usize) -> Result<Outcome> {
    let make = |_| Ok(Queue::builder().capacity(BURST).create_typed::<Message>()?);
    let all = (0..queues).map(make).collect::<Result<Vec<_>>>()?;
    let fds = all.iter().map(Queue::try_clone_fd).collect::<Result<Vec<_>, _>>()?;
    let link = Link::fds(fds);
    let (control, control_fd) = Control::create()?;
    let _started = Started::start(spec, 0, &control_fd, &link)?;
    spec.pin(false)?;
    control.wait_ready(1);
    runtime()?.block_on(async {
        let (got, mut gets) = tokio::sync::mpsc::channel(queues);
        let got = Arc::new(got);
        for queue in &all {
            let (mut receiver, got) = (queue.receiver()?, Arc::clone(&got));
            tokio::spawn(async move {
                loop {
                    for _ in 0..BURST {
                        AsyncReceiver::recv(&mut receiver).await.expect("the queue stays open");
                    }
                    if got.send(()).await.is_err() {
                        return;
                    }
                }
            });
        }
        let (mut phase, mut counted, mut start) = (0, 0, Instant::now());
        // A quarter of the time warms up.
        let wanted = Duration::from_millis(spec.millis);
        let mut warm = false;
        loop {
            phase += 1;
            control.enter(phase);
            for _ in 0..queues {
                gets.recv().await.ok_or_else(|| anyhow!("the tasks are gone"))?;
            }
            counted += queues * BURST;
            if !warm && start.elapsed() > wanted / 4 {
                (warm, counted, start) = (true, 0, Instant::now());
            } else if warm && start.elapsed() > wanted {
                return Ok(Outcome::of(start.elapsed().as_nanos() as f64 / counted as f64));
            }
        }
    })
}

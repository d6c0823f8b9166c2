//! One sample: a process that makes the queue, starts the far ends in processes of their own, and
//! measures. It is started anew for each, in a process group of its own, so that whoever started
//! it can end all of it when it hangs.

use std::io::{Read, Write, stdin};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use super::control::Control;
use super::crowd;
use super::link::Link;
use super::naps;
use super::pairs;
use super::peers::parkline::{self, AlwaysPark, Packed, Parkline};
use super::peers::raw::{BytesRing, CacheLine, Ring};
use super::peers::sockets::{AsyncFd, Pipe, SeqPacket};
use super::peers::tasks::{self, FarTask, NearTask, OnTokio};
use super::peers::threads::{ArrayQueue, TokioTry};
use super::peers::{Bytes, Many, Process, Shape, Threads};
#[cfg(feature = "peers")]
use super::peers::{
    cloudtoid::Cloudtoid, iceoryx, ipc_channel::IpcChannel, posix_mq::Mq, shaq, threads,
};
use super::probe::probe;
use super::queues;
use super::spec::{Outcome, Peer, Spec, Work};
use super::waiters;
use crate::ends::{Parked, Spinning};
use crate::futex::PingPong;

/// The part of one process in a sample.
pub(crate) enum Part {
    /// Makes the queue and measures.
    Near(Spec),
    /// Is started by the near one.
    Far(Spec, Far),
}

/// What a far end was given.
pub(crate) struct Far {
    pub(crate) index: usize,
    pub(crate) control: &'static Control,
    pub(crate) link: Link,
}

/// Takes the sample.
pub(crate) fn near(spec: &str) -> Result<Outcome> {
    let spec: Spec = serde_json::from_str(spec)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let before = probe(spec.cores())?;
    let mut outcome = dispatch(Part::Near(spec.clone()))?;
    outcome.probe = [before, probe(spec.cores())?];
    #[cfg(feature = "peers")]
    if spec.peer == Peer::PosixMq {
        super::peers::posix_mq::clean(&spec.name);
    }
    Ok(outcome)
}

/// Plays the far end until it is told to end.
pub(crate) fn far(spec: &str, index: usize) -> Result<()> {
    let spec: Spec = serde_json::from_str(spec)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (control, link) = Link::recv(stdin().as_fd())?;
    let control = Control::open(&control)?;
    dispatch(Part::Far(spec, Far { index, control, link }))?;
    Ok(())
}

/// A far end in a process of its own, which ends with this.
#[derive(Debug)]
pub(crate) struct Started(Child, UnixStream);

impl Started {
    pub(crate) fn start(spec: &Spec, index: usize, control: &OwnedFd, link: &Link) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["far", &serde_json::to_string(spec)?, &index.to_string()]);
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
        link.send(control.as_fd(), &ours)?;
        Ok(Self(child, ours))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it ended itself, for a second at most: some have names to take away.
    pub(crate) fn end(mut self) -> Result<()> {
        let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?;
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&second))?;
        self.0.try_wait()?;
        Ok(())
    }

    /// Called by a far end: what it found.
    pub(crate) fn report(times: &[(u64, u64)]) -> Result<()> {
        let mut to = UnixStream::from(stdin().as_fd().try_clone_to_owned()?);
        to.write_all(serde_json::to_string(times)?.as_bytes())?;
        Ok(to.shutdown(Shutdown::Write)?)
    }

    /// Waits for what a far end reports.
    pub(crate) fn result(mut self) -> Result<Vec<(u64, u64)>> {
        let mut text = String::new();
        self.1.read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It has nothing to tidy up but its names, which it has had the time for. An error means
        // that it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dispatch(part: Part) -> Result<Outcome> {
    let (Part::Near(spec) | Part::Far(spec, _)) = &part;
    match spec.work {
        Work::Stream | Work::RoundTrips { parked: false } => awake(part),
        Work::RoundTrips { parked: true } | Work::BusyRoundTrips | Work::Idle => asleep(part),
        Work::Batch => batches(part),
        Work::Naps => napping(part),
        Work::Crowd { .. } | Work::Paced { .. } => crowds(part),
        Work::Bytes { capacity, len } => bytes(part, Shape { capacity, len }),
        Work::Tasks => over_tokio(part),
        Work::Waiters { tasks } => waiting(part, tasks),
        Work::Queues { queues } => queues::play(part, queues),
    }
}

fn no_such<T>(part: &Part) -> Result<T> {
    let (Part::Near(spec) | Part::Far(spec, _)) = part;
    if spec.peer.is_optional() && cfg!(not(feature = "peers")) {
        bail!("built without the feature `peers`");
    }
    bail!("{:?} does not do {:?}", spec.peer, spec.work)
}

fn peer(part: &Part) -> Peer {
    let (Part::Near(spec) | Part::Far(spec, _)) = part;
    spec.peer
}

/// Those who try again until it goes, and those who have only calls that block.
fn awake(part: Part) -> Result<Outcome> {
    match peer(&part) {
        Peer::PlainRing => processes::<Ring<true>>(part),
        Peer::PlainRingNoFence => processes::<Ring<false>>(part),
        Peer::CacheLine => processes::<CacheLine>(part),
        Peer::Parkline => processes::<Parkline>(part),
        Peer::ParklineDefault => processes::<Parked>(part),
        Peer::SeqPacket => processes::<SeqPacket>(part),
        Peer::Pipe => processes::<Pipe>(part),
        Peer::ArrayQueue => threads::<ArrayQueue>(part),
        Peer::TokioMpsc => threads::<TokioTry>(part),
        #[cfg(feature = "peers")]
        Peer::ShaqSpsc => processes::<shaq::Spsc>(part),
        #[cfg(feature = "peers")]
        Peer::ShaqMpmc => processes::<shaq::Mpmc>(part),
        #[cfg(feature = "peers")]
        Peer::Iceoryx => processes::<iceoryx::Messages>(part),
        #[cfg(feature = "peers")]
        Peer::IpcChannel => processes::<IpcChannel>(part),
        #[cfg(feature = "peers")]
        Peer::Cloudtoid => processes::<Cloudtoid>(part),
        #[cfg(feature = "peers")]
        Peer::PosixMq => processes::<Mq>(part),
        #[cfg(feature = "peers")]
        Peer::CrossbeamChannel => threads::<threads::CrossbeamTry>(part),
        #[cfg(feature = "peers")]
        Peer::Rtrb => threads::<threads::Rtrb>(part),
        #[cfg(feature = "peers")]
        Peer::Kanal => threads::<threads::KanalTry>(part),
        #[cfg(feature = "peers")]
        Peer::Flume => threads::<threads::FlumeTry>(part),
        #[cfg(feature = "peers")]
        Peer::AsyncChannel => threads::<threads::AsyncChannelTry>(part),
        _ => no_such(&part),
    }
}

/// Those who sleep, and the spinning one beside whom the strategies are measured.
fn asleep(part: Part) -> Result<Outcome> {
    match peer(&part) {
        Peer::Futex => processes::<PingPong>(part),
        Peer::ParklineSpin => processes::<Spinning>(part),
        Peer::ParklinePark => processes::<AlwaysPark<false>>(part),
        Peer::ParklineDefault => processes::<Parked>(part),
        Peer::ParklineBlockOn => processes::<AlwaysPark<true>>(part),
        Peer::ParklineTokio => processes::<OnTokio<tasks::Parkline>>(part),
        Peer::SeqPacket => processes::<SeqPacket>(part),
        Peer::Pipe => processes::<Pipe>(part),
        Peer::AsyncFd => processes::<OnTokio<AsyncFd>>(part),
        Peer::TokioMpsc => threads::<OnTokio<tasks::TokioMpsc>>(part),
        #[cfg(feature = "peers")]
        Peer::ShaqMpmc => processes::<shaq::MpmcWaiting>(part),
        #[cfg(feature = "peers")]
        Peer::IceoryxEvent => processes::<iceoryx::Events>(part),
        #[cfg(feature = "peers")]
        Peer::IpcChannel => processes::<IpcChannel>(part),
        #[cfg(feature = "peers")]
        Peer::Cloudtoid => processes::<super::peers::cloudtoid::Waiting>(part),
        #[cfg(feature = "peers")]
        Peer::PosixMq => processes::<Mq>(part),
        #[cfg(feature = "peers")]
        Peer::CrossbeamChannel => threads::<threads::CrossbeamPark>(part),
        #[cfg(feature = "peers")]
        Peer::Kanal => threads::<threads::KanalPark>(part),
        #[cfg(feature = "peers")]
        Peer::Flume => threads::<threads::FlumePark>(part),
        #[cfg(feature = "peers")]
        Peer::AsyncChannel => threads::<threads::AsyncChannelPark>(part),
        _ => no_such(&part),
    }
}

fn processes<E: Process>(part: Part) -> Result<Outcome> {
    let (spec, mut far) = match part {
        Part::Near(spec) => {
            let mut link = E::create(&spec)?;
            let (control, control_fd) = Control::create()?;
            let started = Started::start(&spec, 0, &control_fd, &link)?;
            spec.pin(false)?;
            let mut end = E::open(&mut link, true)?;
            control.wait_ready(1);
            let outcome = pairs::measure(&mut end, &spec, Some(&started))?;
            crate::finish(&mut end);
            started.end()?;
            return Ok(outcome);
        }
        Part::Far(spec, far) => (spec, far),
    };
    spec.pin(true)?;
    let mut end = E::open(&mut far.link, false)?;
    far.control.get_ready();
    crate::answer(&mut end);
    Ok(Outcome::default())
}

fn threads<E: Threads>(part: Part) -> Result<Outcome> {
    let Part::Near(spec) = part else { bail!("threads have no far process") };
    let (mut near, mut far) = E::pair();
    thread::scope(|scope| {
        let pinned = spec.clone();
        scope.spawn(move || {
            pinned.pin(true).expect("the core was picked from those allowed");
            crate::answer(&mut far);
        });
        spec.pin(false)?;
        let outcome = pairs::measure(&mut near, &spec, None);
        crate::finish(&mut near);
        outcome
    })
}

fn batches(part: Part) -> Result<Outcome> {
    match peer(&part) {
        Peer::PlainRing => many_between::<Ring<true>>(part),
        Peer::PlainRingNoFence => many_between::<Ring<false>>(part),
        Peer::ParklineMany => many_between::<Parkline>(part),
        Peer::ParklinePacked => many_between::<Packed>(part),
        Peer::Pipe => many_between::<Pipe>(part),
        #[cfg(feature = "peers")]
        Peer::ShaqSpsc => many_between::<shaq::Spsc>(part),
        #[cfg(feature = "peers")]
        Peer::ShaqMpmc => many_between::<shaq::Mpmc>(part),
        #[cfg(feature = "peers")]
        Peer::Cloudtoid => many_between::<Cloudtoid>(part),
        #[cfg(feature = "peers")]
        Peer::Rtrb => many_within::<threads::Rtrb>(part),
        #[cfg(feature = "peers")]
        Peer::Kanal => many_within::<threads::KanalTry>(part),
        _ => no_such(&part),
    }
}

fn many_between<E: Process + Many>(part: Part) -> Result<Outcome> {
    match part {
        Part::Near(spec) => {
            let mut link = E::create(&spec)?;
            let (control, control_fd) = Control::create()?;
            let started = Started::start(&spec, 0, &control_fd, &link)?;
            spec.pin(false)?;
            let mut end = E::open(&mut link, true)?;
            control.wait_ready(1);
            let outcome = pairs::batches(&mut end, &spec);
            crate::finish(&mut end);
            started.end()?;
            Ok(outcome)
        }
        Part::Far(spec, mut far) => {
            spec.pin(true)?;
            let mut end = E::open(&mut far.link, false)?;
            far.control.get_ready();
            pairs::answer_batches(&mut end);
            Ok(Outcome::default())
        }
    }
}

#[cfg(feature = "peers")]
fn many_within<E: Threads + Many>(part: Part) -> Result<Outcome> {
    let Part::Near(spec) = part else { bail!("threads have no far process") };
    let (mut near, mut far) = E::pair();
    thread::scope(|scope| {
        let pinned = spec.clone();
        scope.spawn(move || {
            pinned.pin(true).expect("the core was picked from those allowed");
            pairs::answer_batches(&mut far);
        });
        spec.pin(false)?;
        let outcome = pairs::batches(&mut near, &spec);
        crate::finish(&mut near);
        Ok(outcome)
    })
}

fn bytes(part: Part, shape: Shape) -> Result<Outcome> {
    match peer(&part) {
        Peer::Memcpy => match part {
            Part::Near(spec) => pairs::copies(&spec, shape),
            Part::Far(..) => no_such(&part),
        },
        Peer::PlainRing => bytes_between::<BytesRing>(part, shape),
        Peer::Parkline => bytes_between::<parkline::Copied>(part, shape),
        Peer::ParklineInPlace => bytes_between::<parkline::InPlace>(part, shape),
        Peer::SeqPacket => bytes_between::<SeqPacket>(part, shape),
        Peer::Pipe => bytes_between::<Pipe>(part, shape),
        #[cfg(feature = "peers")]
        Peer::Iceoryx => bytes_between::<iceoryx::Slices<false>>(part, shape),
        #[cfg(feature = "peers")]
        Peer::IceoryxInPlace => bytes_between::<iceoryx::Slices<true>>(part, shape),
        #[cfg(feature = "peers")]
        Peer::IpcChannel => bytes_between::<IpcChannel>(part, shape),
        #[cfg(feature = "peers")]
        Peer::Cloudtoid => bytes_between::<Cloudtoid>(part, shape),
        #[cfg(feature = "peers")]
        Peer::PosixMq => bytes_between::<Mq>(part, shape),
        _ => no_such(&part),
    }
}

fn bytes_between<E: Bytes>(part: Part, shape: Shape) -> Result<Outcome> {
    match part {
        Part::Near(spec) => {
            let mut link = E::create(&spec, shape)?;
            let (control, control_fd) = Control::create()?;
            let started = Started::start(&spec, 0, &control_fd, &link)?;
            spec.pin(false)?;
            let mut end = E::open(&mut link, shape, true)?;
            control.wait_ready(1);
            let outcome = pairs::bytes(&mut end, &spec, shape)?;
            started.end()?;
            Ok(outcome)
        }
        Part::Far(spec, mut far) => {
            spec.pin(true)?;
            let mut end = E::open(&mut far.link, shape, false)?;
            far.control.get_ready();
            pairs::answer_bytes(&mut end, shape)?;
            Ok(Outcome::default())
        }
    }
}

fn crowds(part: Part) -> Result<Outcome> {
    match peer(&part) {
        Peer::PlainRing => crowd::processes::<Ring<true>>(part),
        Peer::PlainRingNoFence => crowd::processes::<Ring<false>>(part),
        Peer::Parkline => crowd::processes::<Parkline>(part),
        Peer::ParklineDefault => crowd::processes::<Parked>(part),
        Peer::SeqPacket => crowd::processes::<SeqPacket>(part),
        Peer::Pipe => crowd::processes::<Pipe>(part),
        Peer::ArrayQueue => crowd::threads::<ArrayQueue>(part),
        #[cfg(feature = "peers")]
        Peer::ShaqMpmc => crowd::processes::<shaq::Mpmc>(part),
        #[cfg(feature = "peers")]
        Peer::Cloudtoid => crowd::processes::<Cloudtoid>(part),
        #[cfg(feature = "peers")]
        Peer::PosixMq => crowd::processes::<Mq>(part),
        #[cfg(feature = "peers")]
        Peer::CrossbeamChannel => crowd::threads::<threads::CrossbeamTry>(part),
        #[cfg(feature = "peers")]
        Peer::Kanal => crowd::threads::<threads::KanalTry>(part),
        #[cfg(feature = "peers")]
        Peer::Flume => crowd::threads::<threads::FlumeTry>(part),
        #[cfg(feature = "peers")]
        Peer::AsyncChannel => crowd::threads::<threads::AsyncChannelTry>(part),
        _ => no_such(&part),
    }
}

fn napping(part: Part) -> Result<Outcome> {
    match peer(&part) {
        Peer::Parkline => naps::processes::<Parkline>(part),
        Peer::ParklinePark => naps::processes::<AlwaysPark<false>>(part),
        Peer::ParklineBlockOn => naps::processes::<AlwaysPark<true>>(part),
        Peer::ParklineTokio => naps::processes::<OnTokio<tasks::Parkline>>(part),
        _ => no_such(&part),
    }
}

fn over_tokio(part: Part) -> Result<Outcome> {
    match peer(&part) {
        Peer::ParklineTokio => tasks_between::<tasks::Parkline>(part),
        Peer::AsyncFd => tasks_between::<AsyncFd>(part),
        Peer::TokioMpsc => tasks_within::<tasks::TokioMpsc>(part),
        #[cfg(feature = "peers")]
        Peer::AsyncChannel => tasks_within::<tasks::AsyncChannel>(part),
        #[cfg(feature = "peers")]
        Peer::Flume => tasks_within::<tasks::Flume>(part),
        #[cfg(feature = "peers")]
        Peer::Kanal => tasks_within::<tasks::Kanal>(part),
        _ => no_such(&part),
    }
}

fn tasks_between<T: FarTask>(part: Part) -> Result<Outcome> {
    let runtime = tasks::runtime()?;
    match part {
        Part::Near(spec) => {
            let link = T::create()?;
            let (control, control_fd) = Control::create()?;
            let _started = Started::start(&spec, 0, &control_fd, &link)?;
            spec.pin(false)?;
            control.wait_ready(1);
            runtime.block_on(async { Ok(pairs::tasks(T::open(&link, true)?, spec).await) })
        }
        Part::Far(spec, far) => {
            spec.pin(true)?;
            runtime.block_on(async {
                let task = T::open(&far.link, false)?;
                far.control.get_ready();
                pairs::answer_tasks(task).await;
                Ok(Outcome::default())
            })
        }
    }
}

/// In one runtime of two threads, which the placement pins together or not at all.
fn tasks_within<T: NearTask>(part: Part) -> Result<Outcome> {
    let Part::Near(spec) = part else { bail!("threads have no far process") };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let (near, far) = T::pair();
    runtime.block_on(async {
        tokio::spawn(pairs::answer_tasks(far));
        tokio::spawn(pairs::tasks(near, spec)).await.context("the near task panicked")
    })
}

fn waiting(part: Part, tasks: usize) -> Result<Outcome> {
    match peer(&part) {
        Peer::ParklineTokio => waiters::processes(part, tasks),
        #[cfg(feature = "peers")]
        Peer::AsyncChannel => waiters::threads::<waiters::AsyncChannel>(part, tasks),
        #[cfg(feature = "peers")]
        Peer::Flume => waiters::threads::<waiters::Flume>(part, tasks),
        #[cfg(feature = "peers")]
        Peer::Kanal => waiters::threads::<waiters::Kanal>(part, tasks),
        _ => no_such(&part),
    }
}

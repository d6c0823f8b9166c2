//! What records say of their processes: numbers that peers wrote, of the dead that nothing has reaped,
//! of strangers, and of none. A process holds few descriptors because of them, and none too long, and
//! is not kept awake.
#![expect(unsafe_code, reason = "counts context switches, and makes pid namespaces")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use parkline_core::driver::Side;
use parkline_uring::{
    AsyncReceiver, Backend, Queue, Receiver, RecvTimeoutError, backend, block_on,
};

use crate::deaths::{leaser, until_a_waiter_is_there};
use crate::peer::{Peer, inherited, not_tried};
use crate::runtimes::{current_thread, multi_thread};

/// What a process watches at most.
const MOST: usize = 256;
const WAIT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// In a second of waiting, in which the watchdog makes ten rounds.
const FEW_SLEEPS: f64 = 60.0;
/// Seconds.
const LITTLE_CPU: f64 = 0.03;
const FEW_WAKES: f64 = 20.0;

fn queue(handles: usize, watchdog: Duration) -> Queue<u64> {
    let builder = Queue::builder().capacity(4).handles(handles).leases(1).lazy_memory();
    builder.watchdog(watchdog).create_typed().unwrap()
}

/// A queue that waits as by default.
fn usual(handles: usize) -> Queue<u64> {
    queue(handles, Duration::from_millis(100))
}

/// The words by which the records of a queue name their processes.
struct Pids {
    segment: File,
    at: Vec<u64>,
}

impl Pids {
    /// Those of a queue that has so many free `handles`.
    fn of(queue: &Queue<u64>, handles: usize) -> Self {
        let segment = File::from(queue.try_clone_fd().unwrap());
        let words = || {
            let mut bytes = vec![0; segment.metadata().unwrap().len() as usize];
            segment.read_exact_at(&mut bytes, 0).unwrap();
            let words = bytes.chunks_exact(4).map(|it| u32::from_ne_bytes(it.try_into().unwrap()));
            words.collect::<Vec<_>>()
        };
        let before = words();
        let taken: Vec<_> = (0..handles).map(|_| queue.sender().unwrap()).collect();
        let while_taken = words();
        drop(taken);
        let own = std::process::id();
        // Another word may be the same number.
        let is_pid = |at: &usize| while_taken[*at] == own && before[*at] != own;
        let at: Vec<u64> = (0..before.len()).filter(is_pid).map(|at| 4 * at as u64).collect();
        assert_eq!(at.len(), handles);
        Self { segment, at }
    }

    /// Writes `pids` into the last records, which handles take last.
    fn write(&self, pids: impl IntoIterator<Item = u32>) {
        for (at, pid) in self.at.iter().rev().zip(pids) {
            self.segment.write_all_at(&pid.to_ne_bytes(), *at).unwrap();
        }
    }
}

/// Processes that share nothing with this one.
struct Strangers(Vec<Child>);

impl Strangers {
    fn start(count: usize) -> Self {
        let sleep = || Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
        Self((0..count).map(|_| sleep()).collect())
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(Child::id)
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How many descriptors this process has: all, and those of processes.
fn descriptors() -> (usize, usize) {
    let targets: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    let of_processes = targets.iter().filter(|it| it.to_string_lossy().contains("pidfd")).count();
    (targets.len(), of_processes)
}

/// What happened so far.
struct Used {
    /// How often the threads of this process went to sleep.
    sleeps: i64,
    /// What they computed.
    cpu: Duration,
    /// How often all waiters were woken.
    wakes: u32,
    side: Side,
    at: Instant,
}

impl Used {
    fn so_far(side: Side) -> Self {
        // SAFETY: all zeros are a valid rusage.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is a valid place for the answer.
        let got = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
        assert_eq!(got, 0);
        let micros = |time: libc::timeval| (1_000_000 * time.tv_sec + time.tv_usec) as u64;
        let cpu = Duration::from_micros(micros(usage.ru_utime) + micros(usage.ru_stime));
        // Beside a bit, the word counts wakes.
        let wakes = side.gate().unwrap().word().load(Relaxed) / 2;
        Self { sleeps: usage.ru_nvcsw, cpu, wakes, side, at: Instant::now() }
    }

    /// Fails if there was more since than a quiet wait takes, `times` over.
    fn assert_little(self, times: u32) {
        let now = Self::so_far(self.side);
        let (sleeps, cpu) = (now.sleeps - self.sleeps, now.cpu - self.cpu);
        let wakes = now.wakes.wrapping_sub(self.wakes);
        // On a busy machine a wait may take longer than it should.
        let time = now.at - self.at;
        let used = format!("{sleeps} sleeps, {cpu:?} of CPU time, {wakes} wakes in {time:?}");
        println!("{used}");
        let times = f64::from(times) * time.as_secs_f64();
        assert!(sleeps as f64 <= FEW_SLEEPS * times, "{used}");
        assert!(cpu.as_secs_f64() <= LITTLE_CPU * times, "{used}");
        assert!(f64::from(wakes) <= FEW_WAKES * times, "{used}");
    }
}

async fn times_out(receiver: &mut Receiver<u64>, time: Duration) {
    assert_eq!(receiver.recv_timeout(time).await, Err(RecvTimeoutError::Timeout));
}

/// Waits in each kind of runtime, one after the other, and sleeps seldom.
fn waits_cost_nothing(queue: &Queue<u64>) {
    for run in [
        |receiver: &mut _| block_on(times_out(receiver, WAIT)),
        |receiver: &mut _| current_thread().block_on(times_out(receiver, WAIT)),
    ] as [fn(&mut Receiver<u64>); 2]
    {
        let mut receiver = queue.receiver().unwrap();
        let before = Used::so_far(receiver.side());
        run(&mut receiver);
        before.assert_little(1);
    }
}

fn in_a_process(role: &str) {
    Peer::start(role, &[]).assert_success();
}

/// Waits until `count` processes are watched, where rings watch, and once more.
fn settle(receiver: &mut Receiver<u64>, count: usize) {
    let count = match backend() {
        Backend::IoUring => count,
        Backend::Futex(_) => 0,
    };
    let begun = Instant::now();
    loop {
        let was_settled = descriptors().1 == count;
        block_on(times_out(receiver, Duration::from_millis(20)));
        let is_settled = descriptors().1 == count;
        if was_settled && is_settled {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{:?} and not {count}", descriptors());
    }
}

/// Fails if a place that is refused frees another's (seen failing: 300 descriptors), if descriptors
/// stay when their queue is gone, or if a ring keeps them that no thread drives then (each seen
/// failing).
#[test]
fn pids_that_are_written_once_take_256_descriptors_at_most_and_only_while_their_queue_is_open() {
    in_a_process("many pids");
}

pub(crate) fn many_pids() {
    let strangers = Strangers::start(300);
    let (one, many) = (current_thread(), multi_thread());
    let idle = usual(2);
    let mut receiver = idle.receiver().unwrap();
    let moment = Duration::from_millis(3);
    block_on(times_out(&mut receiver, moment));
    one.block_on(times_out(&mut receiver, moment));
    many.block_on(times_out(&mut receiver, moment));
    let before = descriptors();
    assert_eq!(before.1, 0);
    for _ in 0..3 {
        let lies = queue(310, Duration::from_millis(5));
        Pids::of(&lies, 310).write(strangers.pids());
        let mut receiver = lies.receiver().unwrap();
        settle(&mut receiver, MOST);
        one.block_on(times_out(&mut receiver, moment));
        many.block_on(times_out(&mut receiver, moment));
        settle(&mut receiver, MOST);
        drop((receiver, lies));
        // Other threads may be about to let go of the queue.
        let begun = Instant::now();
        while descriptors() != before && begun.elapsed() < PATIENCE {
            thread::yield_now();
        }
        assert_eq!(descriptors(), before);
    }
}

/// Fails if a descriptor stays although no record names its process (seen failing).
#[test]
fn a_process_is_let_go_when_no_record_is_its_own() {
    in_a_process("not named any more");
}

pub(crate) fn not_named_any_more() {
    let strangers = Strangers::start(5);
    let queue = queue(8, Duration::from_millis(5));
    let pids = Pids::of(&queue, 8);
    pids.write(strangers.pids());
    let mut receiver = queue.receiver().unwrap();
    settle(&mut receiver, 5);
    // As handles do that go.
    pids.write([0; 3]);
    settle(&mut receiver, 2);
}

/// Two queues name the same processes, and a third more than there is place for.
///
/// Fails if each queue has descriptors of its own (seen failing), or if the first that asks keeps all
/// places (seen failing: sleeps for an hour).
#[test]
fn queues_share_descriptors_and_places() {
    in_a_process("shared places");
}

pub(crate) fn shared_places() {
    let strangers = Strangers::start(300);
    let open = |count| {
        let queue = queue(310, Duration::from_millis(5));
        Pids::of(&queue, 310).write(strangers.pids().take(count));
        let receiver = queue.receiver().unwrap();
        (queue, receiver)
    };
    let (mut first, mut second) = (open(40), open(40));
    settle(&mut first.1, 40);
    settle(&mut second.1, 40);
    drop(first);
    settle(&mut second.1, 40);
    drop(second);
    let mut lies = open(300);
    settle(&mut lies.1, MOST);
    // Its own process, which the other queue does not name.
    let queue = queue(4, Duration::from_secs(3600));
    queue.sender().unwrap().try_send(&7).unwrap();
    let peer = leaser(&queue);
    let mut receiver = queue.receiver().unwrap();
    let side = receiver.side();
    if matches!(backend(), Backend::IoUring) {
        let survivor = thread::spawn(move || block_on(receiver.recv()));
        until_a_waiter_is_there(&side);
        drop(peer);
        assert_eq!(survivor.join().unwrap(), Ok(7));
    } else {
        drop(peer);
        queue.recover().unwrap();
        assert_eq!(receiver.try_recv(), Ok(7));
    }
}

/// Fails if a number that no process can have is news (seen failing: 440 times a second).
#[test]
fn pids_that_cannot_be_watched_keep_no_task_awake() {
    in_a_process("impossible pids");
}

pub(crate) fn impossible_pids() {
    let strangers = Strangers::start(300);
    let queue = usual(310);
    Pids::of(&queue, 310).write(strangers.pids().chain([u32::MAX, i32::MAX.cast_unsigned()]));
    waits_cost_nothing(&queue);
}

/// Has a handle, says so, and hangs until it is killed.
pub(crate) fn idle() {
    let _handle = inherited::<u64>(0).receiver().unwrap();
    inherited::<u64>(1).sender().unwrap().try_send(&0).unwrap();
    loop {
        thread::park();
    }
}

/// A process that has an idle handle of `queue`, as the child `start` makes.
fn idler(queue: &Queue<u64>) -> Peer {
    let news = usual(2);
    let peer = Peer::start("idle", &[queue, &news]);
    news.receiver().unwrap().recv_blocking().unwrap();
    peer
}

/// Kills `child`, and leaves it a zombie.
fn kill(child: &mut Child) {
    child.kill().unwrap();
    // SAFETY: all zeros are a valid siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: `info` is a valid place for the answer.
    let ended = unsafe { libc::waitid(libc::P_PID, child.id(), &raw mut info, options) };
    assert_eq!(ended, 0);
}

/// Fails if each search finds the end of the same process anew (seen failing: 5553 times a second).
#[test]
fn a_worker_that_was_killed_while_idle_and_is_not_reaped_keeps_no_task_awake() {
    in_a_process("zombies");
}

pub(crate) fn zombies() {
    let queue = usual(8);
    let mut zombies = [idler(&queue), idler(&queue)];
    zombies.iter_mut().for_each(|it| kill(&mut it.0));
    waits_cost_nothing(&queue);
    // Killed while a task waits.
    let mut doomed = idler(&queue);
    let mut receiver = queue.receiver().unwrap();
    let side = receiver.side();
    let waits = thread::spawn(move || {
        block_on(times_out(&mut receiver, WAIT));
        receiver
    });
    until_a_waiter_is_there(&side);
    kill(&mut doomed.0);
    let before = Used::so_far(side);
    let _receiver = waits.join().unwrap();
    before.assert_little(1);
    assert_eq!(descriptors().1, 0);
}

/// Fails if no process is watched any more once one has ended (seen failing: sleeps for an hour).
#[test]
fn a_death_is_news_although_others_are_dead() {
    in_a_process("one more death");
}

pub(crate) fn one_more_death() {
    let queue = queue(8, crate::deaths::watchdog());
    Pids::of(&queue, 8).write([u32::MAX, i32::MAX.cast_unsigned()]);
    let mut zombie = idler(&queue);
    kill(&mut zombie.0);
    let mut receiver = queue.receiver().unwrap();
    for message in 0..3 {
        queue.sender().unwrap().try_send(&message).unwrap();
        let peer = leaser(&queue);
        let side = receiver.side();
        let survivor = thread::spawn(move || {
            let got = block_on(receiver.recv());
            (got, receiver)
        });
        until_a_waiter_is_there(&side);
        drop(peer);
        let (got, same) = survivor.join().unwrap();
        assert_eq!(got, Ok(message));
        receiver = same;
    }
}

/// Fails if each change of a number causes a search (seen failing: 625 wakes a second).
#[test]
fn a_peer_that_writes_pids_all_the_time_is_looked_at_seldom() {
    in_a_process("scribbled pids");
}

pub(crate) fn scribbled_pids() {
    let queue = usual(16);
    let mut receiver = queue.receiver().unwrap();
    let news = usual(2);
    let _scribbler = Peer::start("scribbler", &[&queue, &news]);
    news.receiver().unwrap().recv_blocking().unwrap();
    for run in [
        |receiver: &mut _| block_on(times_out(receiver, WAIT)),
        |receiver: &mut _| current_thread().block_on(times_out(receiver, WAIT)),
    ] as [fn(&mut Receiver<u64>); 2]
    {
        // The first searches come in a row.
        run(&mut receiver);
        let before = Used::so_far(receiver.side());
        run(&mut receiver);
        // One search each 20 ms, which may wake twice.
        before.assert_little(7);
    }
}

pub(crate) fn scribbler() {
    let queue = inherited::<u64>(0);
    let (arrivals, pids) = (arrivals(&queue), Pids::of(&queue, 15));
    inherited::<u64>(1).sender().unwrap().try_send(&0).unwrap();
    // Of no process, and different each time.
    let mut lies = (1 << 22..i32::MAX.cast_unsigned()).rev();
    for arrived in 1_000_u32.. {
        pids.write(lies.by_ref().take(10));
        pids.segment.write_all_at(&arrived.to_ne_bytes(), arrivals).unwrap();
    }
}

/// Where a queue counts the handles that arrive.
fn arrivals(queue: &Queue<u64>) -> u64 {
    let segment = File::from(queue.try_clone_fd().unwrap());
    let side = queue.joining().side();
    let read = |at: u64| {
        let mut word = [0; 4];
        segment.read_exact_at(&mut word, at).unwrap();
        u32::from_ne_bytes(word)
    };
    let is_it = |at: &u64| {
        read(*at) == side.arrivals() && {
            let _arrives = queue.receiver().unwrap();
            read(*at) == side.arrivals()
        }
    };
    (0..1024).map(|word| 4 * word).find(is_it).unwrap()
}

/// The numbers of processes are those of other processes in another pid namespace.
///
/// Fails if each search finds the end of the same stranger anew (seen failing: 6510 times a second).
#[test]
fn a_zombie_with_the_number_of_a_peer_in_another_namespace_keeps_no_task_awake() {
    in_a_process("a namesake");
}

pub(crate) fn a_namesake() {
    let mut zombie = Command::new("true").spawn().unwrap();
    kill(&mut zombie);
    let (queue, news) = (usual(8), usual(2));
    let mut init = Peer::prepare("init of a namespace", &[&queue, &news]);
    let mut init = Peer(init.env(NAMESAKE, zombie.id().to_string()).spawn().unwrap());
    let mut receiver = news.receiver().unwrap();
    let found = loop {
        match receiver.recv_blocking_timeout(Duration::from_millis(100)) {
            Ok(found) => break found,
            Err(_) if init.0.try_wait().unwrap().is_none() => {}
            Err(_) => return not_tried("pid_namespaces", &"unshare, or the choice of a number"),
        }
    };
    assert_eq!(found, u64::from(zombie.id()));
    waits_cost_nothing(&queue);
    zombie.wait().unwrap();
}

const NAMESAKE: &str = "PARKLINE_TEST_NAMESAKE";

/// Makes a pid namespace, and in it a process with a chosen number that has a handle.
pub(crate) fn init_of_a_namespace() {
    let number: u32 = std::env::var(NAMESAKE).unwrap().parse().unwrap();
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
    // The first in the namespace, which may choose.
    let child = in_a_child(|| {
        fs::write("/proc/sys/kernel/ns_last_pid", (number - 1).to_string()).unwrap();
        in_a_child(|| {
            assert_eq!(std::process::id(), number);
            let _handle = inherited::<u64>(0).receiver().unwrap();
            inherited::<u64>(1).sender().unwrap().try_send(&number.into()).unwrap();
            loop {
                thread::park();
            }
        })
    });
    assert!(child);
}

/// Runs `body` in a forked child, which is killed when this thread ends; whether it came to its end.
fn in_a_child<R>(body: impl FnOnce() -> R) -> bool {
    // SAFETY: the other thread of this process waits for this one, and has nothing locked.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: no memory is passed.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(if ended.is_ok() { 0 } else { 1 }) }
        }
        child => {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the answer.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            waited == child && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

/// An idle process is told nothing, and costs nothing: what the other tests go by.
#[test]
fn a_second_of_waiting_is_quiet() {
    in_a_process("quiet");
}

pub(crate) fn quiet() {
    let begun = Instant::now();
    waits_cost_nothing(&usual(2));
    assert!(begun.elapsed() >= 2 * WAIT);
}

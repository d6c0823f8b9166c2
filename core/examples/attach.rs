//! How long a new handle takes among others, and which part of it is the kernel's.
//!
//! `cargo run --release -p parkline-core --example attach [-- HANDLES...]`
//!
//! The kernel walks the locks of a file one by one, so each of its calls takes longer the more handles
//! there are. The table shows that beside what a handle takes. `search` is one search for the dead by
//! [`Queue::recover`](parkline_core::Queue::recover), with a message in the hands of each handle.
#![expect(unsafe_code, reason = "measures F_OFD_SETLK, which no crate we use wraps")]

use std::env;
use std::error::Error;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use parkline_core::Queue;

const CROWDS: [usize; 5] = [0, 50, 2_000, 10_000, 16_000];
const ROUNDS: usize = 21;

fn main() -> Result<(), Box<dyn Error>> {
    let asked: Vec<usize> = env::args().skip(1).map(|it| it.parse()).collect::<Result<_, _>>()?;
    let crowds = if asked.is_empty() { CROWDS.to_vec() } else { asked };
    println!("medians of {ROUNDS}, in microseconds");
    println!(
        "{:>8} {:>9} {:>9} | {:>8} {:>8} {:>8} {:>8} | {:>10}",
        "handles", "attach", "drop", "getlk", "setlk", "unlock", "close", "search"
    );
    for crowd in crowds {
        measure(crowd)?;
    }
    Ok(())
}

/// Among `crowd` other handles.
fn measure(crowd: usize) -> Result<(), Box<dyn Error>> {
    let queue = Queue::builder().capacity(crowd + 1).max_message(0).handles(crowd + 8).leases(1);
    let queue = queue.create()?;
    let mut others = Vec::new();
    for _ in 0..crowd {
        others.push(queue.receiver()?);
    }
    let (mut attach, mut drops) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let handle = queue.sender()?;
        attach.push(begin.elapsed());
        let begin = Instant::now();
        drop(handle);
        drops.push(begin.elapsed());
    }
    let [getlk, setlk, unlock, close] = kernel(&queue, crowd)?;
    let mut sender = queue.sender()?;
    let mut leases = Vec::new();
    for other in &mut others {
        sender.try_send(b"")?;
        leases.push(other.try_lease()?);
    }
    let mut searches = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        queue.recover()?;
        searches.push(begin.elapsed());
    }
    println!(
        "{crowd:8} {:9.1} {:9.1} | {getlk:8.1} {setlk:8.1} {unlock:8.1} {close:8.1} | {:10.1}",
        median(attach),
        median(drops),
        median(searches)
    );
    Ok(())
}

/// What one call takes: to ask for the owner of a record in the middle, to take a free record, to let
/// go of a byte, and to close a description.
fn kernel(queue: &Queue, crowd: usize) -> Result<[f64; 4], Box<dyn Error>> {
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsFd::as_fd(queue).as_raw_fd());
        let file = File::options().read(true).write(true).open(path)?;
        let calls = [
            (libc::F_OFD_GETLK, libc::F_WRLCK, crowd / 2, 1),
            (libc::F_OFD_SETLK, libc::F_WRLCK, crowd + 4, 2),
            (libc::F_OFD_SETLK, libc::F_UNLCK, crowd + 4, 1),
        ];
        for ((command, kind, record, len), times) in calls.into_iter().zip(&mut times) {
            let mut lock = libc::flock {
                l_type: kind as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: (1 << 40) + 2 * record as i64,
                l_len: len,
                l_pid: 0,
            };
            let begin = Instant::now();
            // SAFETY: `lock` is a valid flock that lives over the call.
            let done = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
            times.push(begin.elapsed());
            if done == -1 {
                return Err(std::io::Error::last_os_error().into());
            }
        }
        // As a handle does, whose mapping keeps the description and the lock.
        let same = file.try_clone()?;
        let begin = Instant::now();
        drop(same);
        times[3].push(begin.elapsed());
    }
    Ok(times.map(median))
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(0.0, |it| it.as_secs_f64() * 1e6)
}

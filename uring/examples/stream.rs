//! A stream of messages from this process to another, and how often the two went to the kernel for
//! it.
//!
//! `cargo run --release -p parkline-uring --example stream [MESSAGES]`; under
//! `strace -fc -e trace=futex,io_uring_enter` the kernel counts, too.
#![expect(unsafe_code, reason = "takes over an inherited descriptor")]

use std::env;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Instant;

use command_fds::{CommandFdExt, FdMapping};
use parkline_uring::{AsyncReceiver, AsyncSender, Queue, block_on};

const CHILD_FD: i32 = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = env::args().nth(1).unwrap_or_else(|| "1000000".into());
    if argument == "receive" {
        return receive();
    }
    let messages: u64 = argument.parse()?;
    let queue = Queue::builder().capacity(1024).create_typed::<[u64; 8]>()?;
    let mapping = FdMapping { parent_fd: queue.try_clone_fd()?, child_fd: CHILD_FD };
    let mut receiver = Command::new(env::current_exe()?);
    let mut receiver = receiver.arg("receive").fd_mappings(vec![mapping])?.spawn()?;
    let mut sender = queue.sender()?;
    let start = Instant::now();
    block_on(async {
        for n in 0..messages {
            sender.send(&[n; 8]).await?;
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    queue.close()?;
    assert!(receiver.wait()?.success());
    let rate = messages as f64 / start.elapsed().as_secs_f64() / 1e6;
    let stats = queue.stats();
    println!("{} messages, {rate:.1} million a second", stats.received);
    println!("{} parks and {} wakes in the kernel", stats.parks, stats.wakes);
    Ok(())
}

fn receive() -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: the parent mapped the queue to this number, and it is taken once.
    let fd = unsafe { OwnedFd::from_raw_fd(CHILD_FD) };
    let mut receiver = Queue::<[u64; 8]>::open_typed(fd)?.receiver()?;
    let mut expected = 0;
    block_on(async {
        while let Ok(message) = receiver.recv().await {
            assert_eq!(message, [expected; 8]);
            expected += 1;
        }
    });
    Ok(())
}

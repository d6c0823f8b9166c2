//! Several kinds of call in one crate, as programs have them, so that the compiler shares code among them.
//! The arguments say which one to run, and how often.
#![forbid(unsafe_code)]

use std::hint::black_box;

use parkline_core::Queue;

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().ok_or("which kind?")?;
    let rounds: u64 = arguments.next().ok_or("how often?")?.parse()?;
    match &*kind {
        "typed" => typed(rounds),
        "bytes" => bytes(rounds),
        "lease" => lease(rounds),
        "vain" => vain(rounds),
        _ => Err("typed, bytes, lease or vain?".into()),
    }
}

fn typed(rounds: u64) -> Result {
    let queue = Queue::builder().capacity(1024).create_typed::<[u64; 8]>()?;
    let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    let message = [7; 8];
    for _ in 0..rounds {
        sender.try_send(black_box(&message))?;
        black_box(receiver.try_recv()?[0]);
    }
    Ok(())
}

fn bytes(rounds: u64) -> Result {
    let queue = Queue::builder().capacity(1024).max_message(64).create()?;
    let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    let message = [7; 64];
    for _ in 0..rounds {
        sender.try_send(black_box(&message))?;
        black_box(receiver.try_recv()?[0]);
    }
    Ok(())
}

fn lease(rounds: u64) -> Result {
    let queue = Queue::builder().capacity(1024).create_typed::<[u64; 8]>()?;
    let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    let message = [7; 8];
    for _ in 0..rounds {
        sender.try_send(black_box(&message))?;
        receiver.try_lease()?.ack();
    }
    Ok(())
}

fn vain(rounds: u64) -> Result {
    let queue = Queue::builder().capacity(1024).create_typed::<[u64; 8]>()?;
    let mut receiver = queue.receiver()?;
    for _ in 0..rounds {
        assert!(receiver.try_recv().is_err());
    }
    Ok(())
}

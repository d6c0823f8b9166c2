//! One kind of call, alone in its crate: a send and a receive of a type of 64 bytes. The argument says how
//! often.
#![forbid(unsafe_code)]

use std::hint::black_box;

use parkline_core::Queue;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rounds: u64 = std::env::args().nth(1).ok_or("how often?")?.parse()?;
    let queue = Queue::builder().capacity(1024).create_typed::<[u64; 8]>()?;
    let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    let message = [7; 8];
    for _ in 0..rounds {
        sender.try_send(black_box(&message))?;
        black_box(receiver.try_recv()?[0]);
    }
    Ok(())
}

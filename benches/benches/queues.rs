//! `cargo bench -p parkline-benches`: what a send and a receive cost on one thread, beside other queues.
//! `compare` measures what they cost between two processes.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Result;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use crossbeam_queue::ArrayQueue;
use parkline_benches::machine::{self, Cores};
use parkline_benches::vyukov::Vyukov;
use parkline_benches::{CAPACITY, Message};
use parkline_core::Queue;
use zerocopy::FromZeros;

fn main() -> Result<()> {
    let cores = Cores::pick()?;
    machine::pin(cores.near)?;
    println!("{}\ncores    {cores}\n", machine::description());

    let queue = Queue::builder().capacity(CAPACITY).create_typed::<Message>()?;
    let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    let ring: Box<Vyukov> = Box::new(Vyukov::new_zeroed());
    let array = ArrayQueue::new(CAPACITY);

    let criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let mut criterion = criterion.configure_from_args();
    let mut group = criterion.benchmark_group("one thread, send + receive");
    group.throughput(Throughput::Elements(1));
    measure(&mut group, "plain Vyukov", |message| {
        assert!(ring.try_push(message), "the ring is empty");
        ring.try_pop().expect("a message was sent")
    });
    measure(&mut group, "parkline, try_send + try_recv", |message| {
        sender.try_send(message).expect("the queue is empty");
        receiver.try_recv().expect("a message was sent")
    });
    measure(&mut group, "crossbeam ArrayQueue", |message| {
        array.push(*message).expect("the queue is empty");
        array.pop().expect("a message was sent")
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut there_and_back: impl FnMut(&Message) -> Message,
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| there_and_back(black_box(&[1; 8])));
    });
}

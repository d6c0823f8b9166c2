//! `cargo bench -p parkline-benches`: what a message costs, beside what one would use otherwise.
//!
//! Criterion measures each contender for itself and compares it with the run before. Then a table
//! sets them side by side: contenders take turns, round by round, so that what disturbs the machine
//! disturbs them all, and a ratio is the median of the ratios within the rounds. `cargo bench -p
//! parkline-benches -- table` prints that alone.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use crossbeam_queue::ArrayQueue;
use parkline_benches::async_ends::{BlockOn, Tokio};
use parkline_benches::ends::{self, Parked, Plain, Spinning, Threads};
use parkline_benches::futex::PingPong;
use parkline_benches::machine::{self, Cores};
use parkline_benches::peer::{self, Peer};
use parkline_benches::vyukov::Vyukov;
use parkline_benches::{Between, CAPACITY, Error, Message, answer, finish, shared};
use parkline_benches::{round_trips, stream};

const ROUNDS: usize = 41;

fn main() -> Result<(), Error> {
    peer::become_far_end();
    let cores = Cores::pick()?;
    machine::pin(cores.near)?;
    println!("{}\ncores    {cores}\n", machine::description());

    let mut groups = groups(cores)?;
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args != ["table"] {
        by_criterion(&mut groups);
    }
    // With a filter or an option of criterion's, its output is what was asked for.
    if args.is_empty() || args == ["table"] {
        side_by_side(&mut groups);
    }
    Ok(())
}

/// Takes so long for so many messages.
type Run = Box<dyn FnMut(u64) -> Duration>;

/// Contenders that do the same work. The first is the yardstick of the ratios.
struct Group {
    name: &'static str,
    /// So many messages take some 5 ms: shorter than a time slice, so that other programs spoil
    /// some rounds and leave the rest alone.
    sample: u64,
    contenders: Vec<(&'static str, Run)>,
}

fn groups(cores: Cores) -> Result<Vec<Group>, Error> {
    Ok(vec![
        Group {
            name: "one thread, send + receive",
            sample: 200_000,
            contenders: vec![
                ("plain Vyukov", plain_alone()?),
                ("parkline, try_send + try_recv", parkline_alone()?),
                ("crossbeam ArrayQueue", array_queue_alone()),
            ],
        },
        Group {
            name: "two processes, one way",
            sample: 100_000,
            contenders: vec![
                far::<Plain>(cores, stream)?,
                far::<Spinning>(cores, stream)?,
                far::<Parked>(cores, stream)?,
                ("crossbeam ArrayQueue, two threads", between_threads(cores, stream)),
            ],
        },
        Group {
            name: "two processes, round trip, spinning",
            sample: 20_000,
            contenders: vec![
                far::<Plain>(cores, round_trips)?,
                far::<Spinning>(cores, round_trips)?,
                ("crossbeam ArrayQueue, two threads", between_threads(cores, round_trips)),
            ],
        },
        Group {
            name: "two processes, round trip, parked",
            sample: 500,
            contenders: vec![
                far::<PingPong>(cores, round_trips)?,
                far::<Parked>(cores, round_trips)?,
                far::<BlockOn>(cores, round_trips)?,
                far::<Tokio>(cores, round_trips)?,
            ],
        },
    ])
}

fn far<E: Between + 'static>(
    cores: Cores,
    measure: fn(&mut E, u64) -> Duration,
) -> Result<(&'static str, Run), Error> {
    let mut peer = Peer::<E>::start(cores)?;
    Ok((E::NAME, Box::new(move |count| peer.measure(|end| measure(end, count)))))
}

fn between_threads(cores: Cores, measure: fn(&mut Threads, u64) -> Duration) -> Run {
    let (mut near, mut far) = Threads::pair();
    Box::new(move |count| {
        thread::scope(|scope| {
            scope.spawn(|| {
                machine::pin(cores.far).expect("the core was picked from those allowed");
                answer(&mut far);
            });
            let took = measure(&mut near, count);
            finish(&mut near);
            took
        })
    })
}

fn alone(mut there_and_back: impl FnMut(&Message) -> Message + 'static) -> Run {
    Box::new(move |count| {
        let start = Instant::now();
        for word in 0..count {
            black_box(there_and_back(black_box(&[word; 8])));
        }
        start.elapsed()
    })
}

fn parkline_alone() -> Result<Run, Error> {
    let queue = ends::parkline()?;
    let (mut sender, mut receiver) = (queue.sender()?, queue.receiver()?);
    Ok(alone(move |message| {
        sender.try_send(message).expect("the queue is empty");
        receiver.try_recv().expect("a message was sent")
    }))
}

fn plain_alone() -> Result<Run, Error> {
    let ring: &Vyukov = shared::map(shared::create::<Vyukov>()?)?;
    Ok(alone(move |message| {
        assert!(ring.try_push(message), "the ring is empty");
        ring.try_pop().expect("a message was sent")
    }))
}

fn array_queue_alone() -> Run {
    let queue = ArrayQueue::new(CAPACITY);
    alone(move |message| {
        queue.push(*message).expect("the queue is empty");
        queue.pop().expect("a message was sent")
    })
}

fn by_criterion(groups: &mut [Group]) {
    let criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let mut criterion = criterion.configure_from_args();
    for group in groups {
        let mut bench = criterion.benchmark_group(group.name);
        bench.throughput(Throughput::Elements(1));
        for (name, run) in &mut group.contenders {
            bench.bench_function(*name, |bencher| bencher.iter_custom(&mut *run));
        }
    }
    criterion.final_summary();
}

fn side_by_side(groups: &mut [Group]) {
    println!(
        "\n{ROUNDS} rounds; ratios are to the first of the group: the median of the ratios within"
    );
    println!("the rounds, their quartiles, and the ratio of the fastest rounds\n");
    println!(
        "{:36} {:>10} {:>10} {:>7}   {:>6} {:>12} {:>8}",
        "ns/message", "median", "fastest", "M/s", "ratio", "quartiles", "fastest",
    );
    for group in groups {
        println!("{}", group.name);
        let rounds: Vec<Vec<f64>> = (0..ROUNDS).map(|_| group.round()).collect();
        let nanos = |contender: usize| sorted(rounds.iter().map(|round| round[contender]));
        let yardstick = nanos(0)[0];
        for (contender, (name, _)) in group.contenders.iter().enumerate() {
            let nanos = nanos(contender);
            let (median, fastest) = (nanos[ROUNDS / 2], nanos[0]);
            let ratios = sorted(rounds.iter().map(|round| round[contender] / round[0]));
            let [low, ratio, high] = [1, 2, 3].map(|quarter| ratios[ROUNDS * quarter / 4]);
            let quartiles = format!("{low:.2}-{high:.2}");
            println!(
                "  {name:34} {median:10.1} {fastest:10.1} {:7.2}   {ratio:6.2} {quartiles:>12} {:8.2}",
                1e3 / median,
                fastest / yardstick,
            );
        }
    }
}

impl Group {
    /// Nanoseconds a message of each contender, measured one right after the other.
    fn round(&mut self) -> Vec<f64> {
        let count = self.sample;
        let nanos = |run: &mut Run| run(count).as_nanos() as f64 / count as f64;
        self.contenders.iter_mut().map(|(_, run)| nanos(run)).collect()
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

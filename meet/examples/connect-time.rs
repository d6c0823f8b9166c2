//! What a connect costs beside what it leads to: `cargo run --release -p parkline-meet --example
//! connect-time`.

use std::time::{Duration, Instant};

use parkline_core::Queue;
use parkline_meet::{connect, serve};

const ROUNDS: usize = 2_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory =
        std::env::temp_dir().join(format!("parkline-connect-time-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let name = directory.join("jobs").display().to_string();
    let queue = Queue::builder().create()?;
    let keeper = serve(&name, &queue)?;
    let (mut attaches, mut connects) = (Vec::new(), Vec::new());
    // In turns, so that what else the machine does meets both.
    for _ in 0..ROUNDS {
        let began = Instant::now();
        drop(Queue::open(queue.try_clone_fd()?)?.sender()?);
        attaches.push(began.elapsed());
        let began = Instant::now();
        drop(connect::<Queue>(&name)?.sender()?);
        connects.push(began.elapsed());
    }
    let show = |what: &str, mut times: Vec<Duration>| {
        times.sort_unstable();
        println!("{what}: median {:?}, 99 % {:?}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
    };
    show("open and attach a sender, with the descriptor at hand", attaches);
    show("the same by name", connects);
    drop(keeper);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

//! Everything is killed, frozen and cut off at random, and afterwards a checker reads what every job left behind.
//!
//! Real PostgreSQL, API and workers, two of these with clocks that are off by an hour; the trainer is a script that keeps the
//! protocol and does in seconds what training does in hours. `make soak` goes on for long, from another seed each time.

mod checker;
mod faults;
mod forged;
mod report;
mod world;

use std::time::{Duration, Instant};

use world::{Action, World};

/// Seconds without a heartbeat after which a job is another worker's.
const LEASE: u64 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_every_job_ends_once_and_nothing_saved_is_lost() {
    run(seed().unwrap_or(1), LEASE, Duration::from_secs(20)).await;
}

/// `make soak`: with the lease of the real thing, for as long as is asked for.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as is asked for: make soak"]
async fn soak() {
    let minutes = std::env::var("DISTILLERY_SOAK_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(30);
    let random = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    run(seed().unwrap_or(random), 15, Duration::from_secs(60 * minutes)).await;
}

fn seed() -> Option<u64> {
    std::env::var("DISTILLERY_CRASH_SEED").ok()?.parse().ok()
}

/// Does all that can be done, in random order, again and again for so long and once at least.
async fn run(seed: u64, lease: u64, long: Duration) {
    println!("seed {seed}");
    let end = Instant::now() + long;
    let mut world = World::new(seed, lease).await;
    world.post("poison", 3).await;
    loop {
        let mut actions = Action::ALL;
        world.random.shuffle(&mut actions);
        for action in actions {
            world.keep_busy().await;
            let began = Instant::now();
            world.act(action).await;
            println!("{action:?}: {:.1} s", began.elapsed().as_secs_f64());
        }
        if Instant::now() >= end {
            break;
        }
    }
    world.all_finished().await;
    let jobs = world.all_jobs().await;
    let posted: std::collections::BTreeSet<String> = world.posted.values().cloned().collect();
    assert_eq!(jobs, posted, "what was accepted is what there is");
    let (mut objections, mut histories) = (Vec::new(), Vec::new());
    for job in &jobs {
        let history = world.history(job).await;
        objections.extend(checker::objections(&history, &world.expected(job)));
        histories.push(history);
    }
    println!("{}", report::of(&world, &histories));
    assert_eq!(objections, Vec::<String>::new(), "seed {seed}");
}

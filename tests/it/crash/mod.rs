//! Kills, freezes and disconnects everything at random, and afterwards checks what every job left behind.
//!
//! PostgreSQL, API and workers are real, and the clocks of two workers are off by an hour. The trainer is a script that
//! keeps the protocol and takes seconds instead of hours. `make soak` runs for longer, with another seed each time.

mod actions;
mod checker;
mod faults;
mod forged;
mod history;
mod losses;
mod random;
mod report;
mod sweeps;
mod world;

use std::time::{Duration, Instant};

use actions::Action;
use world::World;

/// Seconds without a heartbeat after which another worker gets the job.
const LEASE: u64 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn every_job_ends_once_and_nothing_saved_is_lost_whatever_is_killed() {
    run(seed().unwrap_or(1), LEASE, Duration::from_secs(20)).await;
}

/// `make soak`: with the default lease, for as long as DISTILLERY_SOAK_MINUTES says.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour or as long as told: make soak"]
async fn soak() {
    let minutes = std::env::var("DISTILLERY_SOAK_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(30);
    let random = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    run(seed().unwrap_or(random), 15, Duration::from_secs(60 * minutes)).await;
}

fn seed() -> Option<u64> {
    std::env::var("DISTILLERY_CRASH_SEED").ok()?.parse().ok()
}

/// Takes all actions in random order, again and again for this long and at least once.
async fn run(seed: u64, lease: u64, long: Duration) {
    println!("seed {seed}");
    let end = Instant::now() + long;
    let mut world = World::new(seed, lease).await;
    world.post("poison").await;
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
    let mut histories = Vec::new();
    for job in &jobs {
        histories.push(world.history(job).await);
    }
    println!("{}", report::of(&world, &histories));
    let ways = histories.iter().flat_map(|history| losses::on_their_way(history, &world.broken)).collect();
    let (on_its_way, too_slow) = losses::allowed_on_its_way(ways);
    let mut objections: Vec<String> = too_slow.into_iter().collect();
    for history in &histories {
        objections.extend(checker::objections(history, &world.expected(&history.job), on_its_way));
    }
    assert_eq!(objections, Vec::<String>::new(), "seed {seed}");
    assert_eq!(world.misled().await, 0, "jobs went to workers that could not run them");
}

//! A sweep by successive halving whose workers, trainers, API and database are killed.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actions::Action;
use super::checker::value_at;
use super::history::student;
use super::world::{EPOCHS, STEPS_PER_EPOCH, World};
use super::{LEASE, checker, losses, report};
use crate::support::server::quick_job;

/// Batch sizes of the combinations. The stand-in for the trainer makes the largest the best.
const BATCH_SIZES: [u64; 6] = [64, 48, 96, 40, 80, 56];
const SEEDS: u64 = 2;
/// Three of the six combinations go on after the second epoch, and two of these after the fifth.
const KEEP: f64 = 0.5;

/// What is killed or cut off. The rest of the suite's faults leave jobs that fail for good, or lose what was posted.
const KILLS: [Action; 6] = [
    Action::KillWorker,
    Action::KillTrainer,
    Action::KillApi,
    Action::StopWorker,
    Action::CrashDatabase,
    Action::EndConnections,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_has_the_same_winner_and_bytes_whatever_is_killed() {
    run(super::seed().unwrap_or(1), LEASE, 8).await;
}

/// `make soak`: with as many faults as DISTILLERY_SOAK_KILLS says.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes many minutes: make soak"]
async fn soak_sweeps() {
    let kills = std::env::var("DISTILLERY_SOAK_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(100);
    run(super::seed().unwrap_or(7), LEASE, kills).await;
}

/// Runs sweeps until something was killed so many times, and looks at what each came to.
async fn run(seed: u64, lease: u64, kills: usize) {
    println!("seed {seed}");
    let mut world = World::new(seed, lease).await;
    let (mut killed, mut sweeps, mut members) = (0, 0, Vec::new());
    while killed < kills {
        let sweep = world.post_sweep(&format!("sweep-{sweeps}")).await;
        sweeps += 1;
        while killed < kills && !world.has_ended(&sweep).await {
            // Something always runs that can be killed.
            world.keep_busy().await;
            let action = KILLS[world.random.below(KILLS.len())];
            let began = Instant::now();
            world.act(action).await;
            killed += 1;
            println!("{action:?}: {:.1} s", began.elapsed().as_secs_f64());
        }
        world.until_ended(&sweep).await;
        members.extend(world.check_sweep(&sweep).await);
    }
    let mut histories = Vec::new();
    for job in &members {
        histories.push(world.history(job).await);
    }
    println!("{}", report::of(&world, &histories));
    let hit = world.strikes.iter().filter(|strike| members.contains(&strike.job)).count();
    println!("| sweeps | jobs | faults | of them, kills and freezes that hit a running job of a sweep |");
    println!("| --- | --- | --- | --- |\n| {sweeps} | {} | {killed} | {hit} |", members.len());
    let ways = histories.iter().flat_map(|history| losses::on_their_way(history, &world.broken)).collect();
    let (on_its_way, too_slow) = losses::allowed_on_its_way(ways);
    let of_jobs = histories.iter().flat_map(|history| checker::objections_in_sweep(history, on_its_way));
    let objections: Vec<String> = too_slow.into_iter().chain(of_jobs).collect();
    assert_eq!(objections, Vec::<String>::new(), "seed {seed}");
    assert!(hit > 0, "seed {seed}: no job of a sweep was hit");
}

impl World {
    /// Posts a sweep with a key, and again until it is answered.
    async fn post_sweep(&mut self, name: &str) -> String {
        let mut base = quick_job();
        base["training"]["epochs"] = json!(EPOCHS);
        base["max_attempts"] = json!(50);
        let document = json!({
            "name": name,
            "base": base,
            "axes": {"/training/batch_size": BATCH_SIZES},
            "seeds": SEEDS,
            "strategy": {"type": "halving", "rungs": [2, 5, EPOCHS], "keep": KEEP},
        });
        let deadline = Instant::now() + self.patience;
        loop {
            let request = self.http.post(format!("{}/v1/sweeps", self.api_url)).header("Idempotency-Key", name);
            match request.json(&document).send().await {
                Ok(answer) if answer.status().is_success() => {
                    if let Ok(sweep) = answer.json::<Value>().await {
                        return sweep["id"].as_str().unwrap().to_owned();
                    }
                }
                Ok(answer) => {
                    let status = answer.status();
                    let problem = answer.text().await.unwrap_or_default();
                    assert!(status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS, "{status} {problem}");
                }
                Err(_) => {}
            }
            assert!(Instant::now() < deadline, "the API takes no sweep");
            self.revive().await;
            self.pause().await;
        }
    }

    async fn has_ended(&self, sweep: &str) -> bool {
        let query = sqlx::query_scalar("select status = 'finished' from sweeps where id = $1").bind(sweep);
        query.fetch_one(&self.pool).await.unwrap_or(false)
    }

    async fn until_ended(&mut self, sweep: &str) {
        let patience = std::mem::replace(&mut self.patience, Duration::from_secs(600));
        let query = "select status = 'finished' from sweeps where id = $1";
        self.until("the sweep ends", async |pool| sqlx::query_scalar(query).bind(sweep).fetch_one(pool).await).await;
        self.patience = patience;
    }

    /// Each combination was dropped where its accuracy says, and the students of the others have every epoch's bytes.
    /// Returns the sweep's jobs.
    async fn check_sweep(&mut self, sweep: &str) -> Vec<String> {
        let read: Value = serde_json::from_str(&self.read(&format!("sweeps/{sweep}")).await).unwrap();
        let mut order = BATCH_SIZES;
        order.sort_unstable_by_key(|size| std::cmp::Reverse(*size));
        let results = read["results"].as_array().unwrap();
        let size_of = |result: &Value| result["settings"]["/training/batch_size"].as_u64().unwrap();
        assert_eq!(results.iter().map(size_of).collect::<Vec<_>>(), order, "the best first");
        let mut members = Vec::new();
        for (place, result) in results.iter().enumerate() {
            let size = size_of(result);
            let (dropped, rungs) = match place {
                0 | 1 => (Value::Null, 2),
                2 => (json!(5), 2),
                _ => (json!(2), 1),
            };
            assert_eq!(result["dropped_after"], dropped, "{result:#}");
            let last = dropped.as_u64().unwrap_or(EPOCHS);
            assert_eq!(result["top1"].as_f64(), Some(accuracy(size, last)), "{result:#}");
            let decided = result["rungs"].as_array().unwrap();
            assert_eq!(decided.len(), rungs, "{result:#}");
            assert!(decided.iter().all(|rung| rung["jobs"] == SEEDS && rung["deviation"] == 0.0), "{result:#}");
            let status = if dropped.is_null() { "succeeded" } else { "cancelled" };
            let jobs = result["jobs"].as_array().unwrap();
            assert_eq!(jobs.len() as u64, SEEDS, "{result:#}");
            for job in jobs {
                assert_eq!(job["status"], status, "{result:#}");
                let id = job["id"].as_str().unwrap().to_owned();
                self.check_points(&id, size, last).await;
                if dropped.is_null() {
                    let expected = student(&format!("beginning-{}-{}", size - 32, job["seed"]));
                    assert_eq!(self.read(&format!("jobs/{id}/student")).await, expected, "{id}");
                }
                members.push(id);
            }
        }
        let decisions: i64 = sqlx::query_scalar("select count(*) from sweep_rungs where sweep_id = $1")
            .bind(sweep)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        assert_eq!(decisions, 6 + 3, "every rung was decided on once");
        members
    }

    /// A job trained every step and epoch up to its end, or to its rung and no further, once.
    async fn check_points(&self, job: &str, size: u64, last: u64) {
        let query = "select step::bigint, value from metrics where job_id = $1 and name = $2 order by step, id";
        let points = async |name: &str| -> Vec<(i64, f64)> {
            sqlx::query_as(query).bind(job).bind(name).fetch_all(&self.pool).await.unwrap()
        };
        let at = |step: u64| step.cast_signed();
        let expected: Vec<(i64, f64)> = (1..=last * STEPS_PER_EPOCH).map(|step| (at(step), value_at(step))).collect();
        assert_eq!(points("train/loss").await, expected, "{job}");
        let accuracies = (1..=last).map(|epoch| (at(epoch * STEPS_PER_EPOCH), accuracy(size, epoch)));
        assert_eq!(points("eval/top1").await, accuracies.collect::<Vec<_>>(), "{job}");
    }

    /// What the API answers, asked again until it does.
    async fn read(&mut self, path: &str) -> String {
        let deadline = Instant::now() + self.patience;
        loop {
            let answer = self.http.get(format!("{}/v1/{path}", self.api_url)).send().await;
            if let Ok(answer) = answer
                && answer.status().is_success()
                && let Ok(read) = answer.text().await
            {
                return read;
            }
            assert!(Instant::now() < deadline, "the API does not answer");
            self.revive().await;
            self.pause().await;
        }
    }
}

/// What the stand-in for the trainer evaluates to after an epoch with a batch size.
fn accuracy(size: u64, epoch: u64) -> f64 {
    value_at(epoch * STEPS_PER_EPOCH) + (size - 32) as f64
}

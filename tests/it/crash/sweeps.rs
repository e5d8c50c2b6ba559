//! A sweep by successive halving whose workers, trainers, API and database are killed.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::LEASE;
use super::actions::Action;
use super::world::{EPOCHS, World};
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

/// `make soak`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes many minutes: make soak"]
async fn soak_sweeps() {
    run(super::seed().unwrap_or(7), LEASE, 100).await;
}

/// Runs sweeps until something was killed so many times, and looks at what each came to.
async fn run(seed: u64, lease: u64, kills: usize) {
    println!("seed {seed}");
    let mut world = World::new(seed, lease).await;
    let (mut killed, mut sweeps) = (0, 0);
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
        world.check_sweep(&sweep).await;
    }
    println!("{sweeps} sweeps of {} jobs survived {killed} faults", BATCH_SIZES.len() as u64 * SEEDS);
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
    async fn check_sweep(&mut self, sweep: &str) {
        let read = self.read_sweep(sweep).await;
        let mut order = BATCH_SIZES;
        order.sort_unstable_by_key(|size| std::cmp::Reverse(*size));
        let results = read["results"].as_array().unwrap();
        assert_eq!(results.len(), order.len());
        for result in results {
            let size = result["settings"]["/training/batch_size"].as_u64().unwrap();
            let place = order.iter().position(|other| *other == size).unwrap();
            let (dropped, rungs) = match place {
                0 | 1 => (Value::Null, 2),
                2 => (json!(5), 2),
                _ => (json!(2), 1),
            };
            assert_eq!(result["dropped_after"], dropped, "{result:#}");
            let decided = result["rungs"].as_array().unwrap();
            assert_eq!(decided.len(), rungs, "{result:#}");
            assert!(decided.iter().all(|rung| rung["jobs"] == SEEDS && rung["deviation"] == 0.0), "{result:#}");
            let status = if dropped.is_null() { "succeeded" } else { "cancelled" };
            for job in result["jobs"].as_array().unwrap() {
                assert_eq!(job["status"], status, "{result:#}");
                self.check_member(job["id"].as_str().unwrap(), dropped.as_u64()).await;
            }
        }
        let decisions: i64 = sqlx::query_scalar("select count(*) from sweep_rungs where sweep_id = $1")
            .bind(sweep)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        assert_eq!(decisions, 6 + 3, "every rung was decided on once");
    }

    /// A job trained every epoch up to its end, or to its rung and no further.
    async fn check_member(&self, job: &str, dropped_after: Option<u64>) {
        let query = "select coalesce(array_agg(epoch::bigint order by epoch), '{}') from metrics
            where job_id = $1 and name = 'eval/top1'";
        let epochs: Vec<i64> = sqlx::query_scalar(query).bind(job).fetch_one(&self.pool).await.unwrap();
        let last = dropped_after.unwrap_or(EPOCHS).cast_signed();
        assert_eq!(epochs, (1..=last).collect::<Vec<_>>(), "{job}");
        if dropped_after.is_none() {
            let url = format!("{}/v1/jobs/{job}/student", self.api_url);
            let student = self.http.get(url).send().await.unwrap().text().await.unwrap();
            assert_eq!(student, self.expected(job).student, "{job}");
        }
    }

    async fn read_sweep(&mut self, sweep: &str) -> Value {
        let deadline = Instant::now() + self.patience;
        loop {
            let answer = self.http.get(format!("{}/v1/sweeps/{sweep}", self.api_url)).send().await;
            if let Ok(answer) = answer
                && answer.status().is_success()
                && let Ok(read) = answer.json().await
            {
                return read;
            }
            assert!(Instant::now() < deadline, "the API does not answer");
            self.revive().await;
            self.pause().await;
        }
    }
}

//! A worker carries out what is asked, at once, and no trainer that it may meet makes it break a promise.
//!
//! Trainers here are shell scripts, for what the real one does not do on demand.

use std::convert::Infallible;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::db::{TestDb, postgres_options};
use distillery::artifacts::Store;
use distillery::db;
use distillery::db::embedded::Server;
use distillery::worker::{self, Settings};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What all trainers here start with: `train SPEC --output OUT --events --supervised --device D`.
const PRELUDE: &str = r#"#!/bin/bash
spec=$2 out=$4
say() { printf '%s\n' "$1"; }
started() {
    say '{"type":"started","device":"cpu","precision":"float32","threads":1,"train_images":9,"eval_images":9,
        "classes":4,"steps_per_epoch":10,"epochs":5,"resumed_epochs":'$1',"resumed_step":'$2'}' | tr -d '\n'; echo
}
point() {
    line='{"name":"train/loss","step":'$1',"epoch":0.5,"time":"2026-01-01T00:00:00Z","value":1}'
    say "$line" >> "$out/metrics.ndjson"
    say '{"type":"metrics","points":['"$line"']}'
}
checkpoint() {
    say "state $1" > "$out/state/checkpoint.safetensors"
    say '{"type":"checkpoint","epoch":'$1',"step":'$(($1 * 10))'}'
}
stopped() { say '{"type":"stopped","epoch":1,"step":10}'; exit 3; }
finish() {
    for name in student.safetensors student-last.safetensors manifest.json; do say "$name" > "$out/$name"; done
    touch "$out/metrics.ndjson"
    say '{"type":"finished","best_top1":70.5,"best_epoch":2,"last_top1":70,"student":
        {"parameters":1,"size_bytes":20,"sha256":"00"}}' | tr -d '\n'; echo
}
"#;
/// A trainer that runs until it is told otherwise.
const OBEDIENT: &str = r#"
started 0 0; point 1
read -r command
case $command in *pause*) checkpoint 1 ;; esac
stopped
"#;

/// A worker's surroundings.
struct Bench {
    db: TestDb,
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Bench {
    async fn new(trainer: &str) -> Self {
        Self::on(TestDb::new().await, trainer)
    }

    fn on(db: TestDb, trainer: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("datasets/patterns")).unwrap();
        let script = dir.path().join("trainer");
        fs::write(&script, format!("{PRELUDE}{trainer}")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let settings = Settings {
            name: "bench/cpu".into(),
            devices: vec!["cpu".into()],
            trainer: script,
            datasets_dir: dir.path().join("datasets"),
            work_dir: dir.path().join("data/work"),
            cache_dir: dir.path().join("data/cache"),
            cache_mib: 1024,
            lease: Duration::from_secs(60),
            poll: Duration::from_secs(60),
            stop_patience: Duration::from_secs(30),
        };
        Self { db, dir, settings }
    }

    fn store(&self) -> Store {
        Store::open(self.dir.path().join("data/artifacts").to_str().unwrap()).unwrap()
    }

    /// Starts a worker in this process, with a runtime of its own as it would have in another.
    fn start(&self) -> Worker {
        let drain = CancellationToken::new();
        let (url, store, settings, told) = (self.db.url.clone(), self.store(), self.settings.clone(), drain.clone());
        let (tell_end, end) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let outcome = runtime.block_on(async {
                let pool = db::connect(&url).await?;
                worker::run(pool, store, settings, told).await
            });
            let _ = tell_end.send(outcome);
        });
        Worker { drain, end }
    }

    /// Starts a worker of its own process.
    fn start_process(&self) -> Child {
        self.worker_process("cpu").spawn().unwrap()
    }

    fn worker_process(&self, device: &str) -> Command {
        let mut worker = Command::new(env!("CARGO_BIN_EXE_distillery"));
        worker
            .args(["worker", "--device", device])
            .args(["--data-dir".as_ref(), self.dir.path().join("data").as_os_str()])
            .args(["--datasets-dir".as_ref(), self.settings.datasets_dir.as_os_str()])
            .args(["--trainer".as_ref(), self.settings.trainer.as_os_str()])
            .env("DATABASE_URL", &self.db.url)
            .env("DISTILLERY_LEASE_SECONDS", "1")
            .stdin(Stdio::null());
        worker
    }

    /// A driver that knows one GPU.
    fn build_driver(&self) {
        let source = self.note("driver.c");
        fs::write(&source, DRIVER).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(self.note("libnvidia-ml.so.1")).arg(&source);
        assert!(compiler.status().unwrap().success());
    }

    /// A worker that finds its driver there.
    fn worker_with_driver(&self, device: &str, libraries: &Path) -> Child {
        let mut worker = self.worker_process(device);
        worker.env("LD_LIBRARY_PATH", libraries).env("CUDA_VISIBLE_DEVICES", "3").spawn().unwrap()
    }

    /// What a worker on that device tells once it has told twice, and the memory of the device.
    async fn until_usage(&self, device: &str) -> (Value, Option<i64>) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let query =
                "select usage, memory_bytes from workers where device = $1 and usage ->> 'cpu_share' is not null";
            if let Some(told) = sqlx::query_as(query).bind(device).fetch_optional(&self.db.pool).await.unwrap() {
                return told;
            }
            assert!(Instant::now() < deadline, "no worker tells");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A file that the trainer writes for the test.
    fn note(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn job(&self, id: &str) -> Value {
        let query = sqlx::query_scalar("select to_jsonb(jobs) from jobs where id = $1").bind(id);
        query.fetch_one(&self.db.pool).await.unwrap()
    }

    /// Asks every few milliseconds until the job's row is as wanted.
    async fn until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let job = self.job(id).await;
            if wanted(&job) {
                return job;
            }
            assert!(Instant::now() < deadline, "{job:#}\n{:#?}", self.history(id).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_status(&self, id: &str, status: &str) -> Value {
        self.until(id, |job| job["status"] == status).await
    }

    /// Waits until the trainer has recorded its first point.
    async fn until_training(&self, id: &str) {
        until(async || !steps(&self.db.pool, id).await.is_empty()).await;
    }

    /// As the API changes a status on request.
    async fn ask(&self, id: &str, status: &str) {
        let update = "update jobs set status = $1 where id = $2";
        sqlx::query(update).bind(status).bind(id).execute(&self.db.pool).await.unwrap();
    }

    async fn history(&self, id: &str) -> Vec<String> {
        let query = sqlx::query_scalar("select message from events where job_id = $1 order by seq").bind(id);
        query.fetch_all(&self.db.pool).await.unwrap()
    }
}

struct Worker {
    drain: CancellationToken,
    end: oneshot::Receiver<anyhow::Result<()>>,
}

impl Worker {
    /// Tells it to end, and waits until it has.
    async fn drain(self) {
        self.drain.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.end).await;
        ended.expect("the worker ends").unwrap().unwrap();
    }
}

async fn until(condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "it did not come to pass");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn steps(pool: &PgPool, job: &str) -> Vec<i64> {
    let query = sqlx::query_scalar("select step from metrics where job_id = $1 order by id").bind(job);
    query.fetch_all(pool).await.unwrap()
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read_pid(path: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(path).ok()?.trim().parse().ok()?)
}

/// Waits for a process to be gone; one that its parent has not waited for yet is.
async fn until_ended(pid: Pid) {
    until(async || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        test_kill_process(pid).is_err() || stat.contains(") Z ")
    })
    .await;
}

#[tokio::test]
async fn a_job_trains_in_a_directory_of_its_own_and_its_files_are_published() {
    let bench = Bench::new(
        r#"env > "$(dirname "$0")/environment"; cp "$spec" "$(dirname "$0")/spec"
        started 0 0; for step in 1 2 3; do point $step; done
        say '{"type":"teacher","top1":72.5,"top5":91,"loss":1,"images":9}'
        say '{"type":"log","level":"warning","message":"look here"}'
        checkpoint 1
        say '{"type":"progress","epoch":5,"epochs":5,"step":50,"steps":50,"fraction":1,"images_per_second":9,"eta_seconds":0}'
        finish"#,
    )
    .await;
    bench.db.add_job("job_a", json!({})).await;
    let worker = bench.start();
    let job = bench.until_status("job_a", "succeeded").await;
    worker.drain().await;
    assert_eq!(job["result"]["best_top1"], 70.5);
    assert_eq!(job["teacher"]["top1"], 72.5);
    assert_eq!(job["progress"]["fraction"], 1.0);
    assert_eq!(steps(&bench.db.pool, "job_a").await, [1, 2, 3]);
    assert!(bench.history("job_a").await.contains(&"look here".to_owned()));
    let student = db::artifacts::get(&bench.db.pool, "job_a", "student.safetensors").await.unwrap().unwrap();
    let fetched = bench.note("student");
    bench.store().fetch(&student.key, &fetched).await.unwrap();
    assert_eq!(fs::read_to_string(fetched).unwrap(), "student.safetensors\n");
    // The state to resume from and the working directory have served their purpose.
    let stored = files_below(&bench.dir.path().join("data"));
    let expected = ["manifest.json", "metrics.ndjson", "student-last.safetensors", "student.safetensors"];
    assert_eq!(stored, expected.map(|name| format!("artifacts/jobs/job_a/attempts/1/{name}")));

    let spec: Value = serde_json::from_slice(&fs::read(bench.note("spec")).unwrap()).unwrap();
    assert_eq!(spec["dataset"]["path"], bench.settings.datasets_dir.join("patterns").to_str().unwrap());
    assert_eq!(spec["dataset"].get("name"), None);
    let environment = fs::read_to_string(bench.note("environment")).unwrap();
    for secret in ["DATABASE_URL", "AWS_", "CARGO"] {
        assert!(!environment.lines().any(|line| line.starts_with(secret)), "{environment}");
    }
}

#[tokio::test]
async fn an_idle_worker_starts_a_new_job_at_once() {
    let bench = Bench::new("started 0 0; finish").await;
    let worker = bench.start();
    let mut shortest = Duration::MAX;
    for (index, pause) in [200, 0, 50].into_iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let id = format!("job_{index}");
        let posted = Instant::now();
        bench.db.add_job(&id, json!({})).await;
        bench.until(&id, |job| job["attempt"] == 1).await;
        shortest = shortest.min(posted.elapsed());
        bench.until_status(&id, "succeeded").await;
    }
    // It looks every minute by itself. A busy machine may be slow once.
    assert!(shortest < Duration::from_secs(1), "{shortest:?}");
    worker.drain().await;
}

#[tokio::test]
async fn a_worker_with_two_devices_runs_two_jobs_at_once_or_one_on_both_in_their_turn() {
    let mut bench = Bench::new(&format!(
        r#"echo "$@" > "$(dirname "$0")/arguments-$(basename "$(dirname "$(dirname "$spec")")")"{OBEDIENT}"#
    ))
    .await;
    bench.settings.devices = vec!["cuda:0".into(), "cuda:1".into()];
    let worker = bench.start();
    let devices = async |id: &str| {
        bench.until_training(id).await;
        let arguments = fs::read_to_string(bench.note(&format!("arguments-{id}"))).unwrap();
        arguments.split_once("--device ").unwrap().1.split(' ').next().unwrap().to_owned()
    };
    bench.db.add_job("job_a", json!({})).await;
    assert_eq!(devices("job_a").await, "cuda:0");
    bench.db.add_job("job_b", json!({})).await;
    assert_eq!(devices("job_b").await, "cuda:1");
    bench.db.add_job("job_c", json!({"training": {"devices": 2}})).await;
    bench.db.add_job("job_d", json!({})).await;
    // The first device that is free again is kept for the job that needs both.
    bench.ask("job_b", "cancelling").await;
    bench.until_status("job_b", "cancelled").await;
    let kept = async || -> Option<String> {
        sqlx::query_scalar("select waits_for from workers").fetch_one(&bench.db.pool).await.unwrap()
    };
    until(async || kept().await.as_deref() == Some("job_c")).await;
    assert_eq!(bench.job("job_d").await["status"], "queued");
    bench.ask("job_a", "cancelling").await;
    assert_eq!(devices("job_c").await, "cuda:0,cuda:1");
    assert_eq!(bench.job("job_d").await["status"], "queued");
    bench.ask("job_c", "pausing").await;
    bench.until_status("job_c", "paused").await;
    assert_eq!(devices("job_d").await, "cuda:0");
    // It sets down all that it runs.
    bench.db.add_job("job_e", json!({})).await;
    assert_eq!(devices("job_e").await, "cuda:1");
    worker.drain().await;
    for id in ["job_d", "job_e"] {
        assert_eq!(bench.job(id).await["status"], "queued");
    }
}

#[tokio::test]
async fn jobs_that_share_a_cpu_share_its_threads() {
    let mut bench = Bench::new(r#"echo "$@" > "$(dirname "$0")/arguments"; started 0 0; finish"#).await;
    bench.settings.devices = vec!["cpu".into(); 2];
    let worker = bench.start();
    let cores = std::thread::available_parallelism().unwrap().get();
    for (id, devices, threads) in [("job_a", 1, (cores / 2).max(1)), ("job_b", 2, cores)] {
        bench.db.add_job(id, json!({"training": {"devices": devices}})).await;
        bench.until_status(id, "succeeded").await;
        let arguments = fs::read_to_string(bench.note("arguments")).unwrap();
        assert!(arguments.contains(&format!("--threads {threads} ")), "{arguments}");
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_job_that_waits_out_a_back_off_starts_when_that_is_over() {
    let bench =
        Bench::new(r#"[ -e "$(dirname "$0")/again" ] && finish && exit; touch "$(dirname "$0")/again"; exit 1"#).await;
    let worker = bench.start();
    bench.db.add_job("job_a", json!({})).await;
    let job = bench.until_status("job_a", "succeeded").await;
    assert_eq!(job["attempt"], 2);
    worker.drain().await;
}

#[tokio::test]
async fn a_request_to_stop_reaches_the_trainer_at_once() {
    let bench = Bench::new(OBEDIENT).await;
    let worker = bench.start();
    for (id, asked, then) in [("job_a", "cancelling", "cancelled"), ("job_b", "pausing", "paused")] {
        bench.db.add_job(id, json!({})).await;
        bench.until_training(id).await;
        let started = Instant::now();
        bench.ask(id, asked).await;
        let job = bench.until_status(id, then).await;
        // Heartbeats are a quarter of a minute apart.
        assert!(started.elapsed() < Duration::from_secs(7), "{:?}", started.elapsed());
        assert_eq!(job["checkpoint"].is_object(), then == "paused");
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_request_made_while_the_inputs_are_fetched_is_not_lost() {
    let bench = Bench::new(OBEDIENT).await;
    bench.db.add_job("job_a", json!({})).await;
    // As if somebody asked right after the claim, before anybody listened for this job.
    sqlx::raw_sql(
        "create function ask() returns trigger language plpgsql as $$
            begin new.status := 'cancelling'; return new; end $$;
         create trigger ask before update on jobs for each row
            when (old.status = 'queued' and new.status = 'running') execute function ask()",
    )
    .execute(&bench.db.pool)
    .await
    .unwrap();
    let worker = bench.start();
    let started = Instant::now();
    bench.until_status("job_a", "cancelled").await;
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    worker.drain().await;
}

/// Resumes from the second checkpoint if it finds it and the points before it.
const RESUMABLE: &str = r#"
if [ "$(cat "$out/state/checkpoint.safetensors" 2>/dev/null)" = "state 2" ]; then
    [ "$(wc -l < "$out/metrics.ndjson")" -ge 2 ] || exit 1
    started 2 20; point 21; finish; exit
fi
started 0 0; point 1; checkpoint 1; point 11; checkpoint 2; point 21
touch "$(dirname "$0")/trained"
read -r command
stopped
"#;

#[tokio::test]
async fn a_worker_that_ends_gives_its_job_back_and_the_next_one_goes_on() {
    let bench = Bench::new(RESUMABLE).await;
    bench.db.add_job("job_a", json!({"max_attempts": 1})).await;
    let worker = bench.start();
    bench.until("job_a", |job| job["checkpoint"]["epoch"] == 2).await;
    worker.drain().await;
    let job = bench.job("job_a").await;
    assert_eq!((&job["status"], &job["attempt"]), (&json!("queued"), &json!(1)));
    let workers: i64 = sqlx::query_scalar("select count(*) from workers").fetch_one(&bench.db.pool).await.unwrap();
    assert_eq!(workers, 0);

    let successor = bench.start();
    bench.until_status("job_a", "succeeded").await;
    successor.drain().await;
    assert_eq!(steps(&bench.db.pool, "job_a").await, [1, 11, 21]);
    assert!(bench.history("job_a").await.iter().any(|message| message.contains("resumed after epoch 2")));
}

#[tokio::test]
async fn sigterm_ends_a_worker_that_trains_with_success_once_its_job_is_set_down() {
    let bench = Bench::new(RESUMABLE).await;
    bench.db.add_job("job_a", json!({})).await;
    let mut worker = bench.start_process();
    bench.until("job_a", |job| job["checkpoint"]["epoch"] == 2).await;
    kill_process(Pid::from_child(&worker), Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || worker.wait().unwrap());
    let status = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("within a minute").unwrap();
    assert_eq!(status.code(), Some(0));
    let job = bench.job("job_a").await;
    assert_eq!((&job["status"], &job["worker"]), (&json!("queued"), &Value::Null));
}

#[tokio::test]
async fn a_paused_job_goes_on_from_its_checkpoint() {
    let bench = Bench::new(RESUMABLE).await;
    bench.db.add_job("job_a", json!({})).await;
    let worker = bench.start();
    bench.until("job_a", |job| job["checkpoint"]["epoch"] == 2).await;
    bench.ask("job_a", "pausing").await;
    bench.until_status("job_a", "paused").await;
    bench.ask("job_a", "queued").await;
    let job = bench.until_status("job_a", "succeeded").await;
    assert_eq!(job["attempt"], 2);
    worker.drain().await;
}

#[tokio::test]
async fn a_checkpoint_that_went_missing_costs_time_not_the_job() {
    let bench = Bench::new("started 0 0; [ -e \"$out/state/checkpoint.safetensors\" ] || finish").await;
    bench.db.add_job("job_a", json!({})).await;
    let lost =
        json!({"attempt": 7, "epoch": 3, "step": 30, "key": "jobs/job_a/attempts/7/state/checkpoint.safetensors"});
    sqlx::query("update jobs set checkpoint = $1").bind(lost).execute(&bench.db.pool).await.unwrap();
    let worker = bench.start();
    bench.until_status("job_a", "succeeded").await;
    worker.drain().await;
    let warnings = bench.history("job_a").await;
    assert!(warnings.iter().any(|line| line.contains("starts from the beginning")), "{warnings:?}");
}

#[tokio::test]
async fn a_checkpoint_that_was_damaged_in_storage_is_not_resumed_from() {
    let bench = Bench::new("[ -e \"$out/state/checkpoint.safetensors\" ] && fail; started 0 0; finish").await;
    bench.db.add_job("job_a", json!({})).await;
    let key = "jobs/job_a/attempts/7/state/checkpoint.safetensors";
    bench.store().put_stream(key, futures::stream::iter([Ok::<_, Infallible>("torn".into())])).await.unwrap();
    let saved = json!({"attempt": 7, "epoch": 3, "step": 30, "key": key, "sha256": "00".repeat(32)});
    sqlx::query("update jobs set checkpoint = $1").bind(saved).execute(&bench.db.pool).await.unwrap();
    let worker = bench.start();
    bench.until_status("job_a", "succeeded").await;
    worker.drain().await;
    let history = bench.history("job_a").await;
    assert!(history.iter().any(|line| line.contains("is damaged in storage")), "{history:?}");
}

#[tokio::test]
async fn the_last_state_stays_as_the_database_knows_it_until_that_knows_the_next() {
    let bench = Bench::new(
        r#"started 0 0; point 1; checkpoint 1; until [ -e "$(dirname "$0")/go" ]; do sleep 0.02; done; checkpoint 2
        read -r command; stopped"#,
    )
    .await;
    bench.db.add_job("job_a", json!({})).await;
    let worker = bench.start();
    let first = bench.until("job_a", |job| job["checkpoint"]["epoch"] == 1).await["checkpoint"].clone();
    // The worker cannot tell the database of the second one, as if it had been killed just before.
    let mut lock = bench.db.pool.begin().await.unwrap();
    sqlx::query("select from jobs for update").execute(&mut *lock).await.unwrap();
    fs::write(bench.note("go"), "").unwrap();
    let states = async || {
        let files = bench.store().list().await.unwrap();
        files.into_iter().filter(|file| file.key.contains("/state/")).map(|file| file.key).collect::<Vec<_>>()
    };
    until(async || states().await.len() == 2).await;
    let (key, sha256) = (first["key"].as_str().unwrap(), first["sha256"].as_str().unwrap());
    bench.store().fetch_verified(key, &bench.note("fetched"), sha256).await.unwrap();
    lock.rollback().await.unwrap();
    let second = bench.until("job_a", |job| job["checkpoint"]["epoch"] == 2).await["checkpoint"]["key"].clone();
    until(async || states().await == [second.as_str().unwrap()]).await;
    worker.drain().await;
}

#[tokio::test]
async fn a_trainer_that_does_not_listen_is_killed() {
    let mut bench = Bench::new("trap '' TERM INT; started 0 0; point 1; while :; do sleep 1; done").await;
    bench.settings.stop_patience = Duration::from_millis(300);
    let worker = bench.start();
    bench.db.add_job("job_a", json!({})).await;
    bench.until_training("job_a").await;
    bench.ask("job_a", "cancelling").await;
    bench.until_status("job_a", "cancelled").await;
    bench.db.add_job("job_b", json!({})).await;
    bench.until_training("job_b").await;
    worker.drain().await;
    assert_eq!(bench.job("job_b").await["status"], "queued");
}

#[tokio::test]
async fn a_trainer_that_finished_but_does_not_end_is_ended() {
    let mut bench = Bench::new("started 0 0; finish; while :; do sleep 1; done").await;
    bench.settings.stop_patience = Duration::from_millis(300);
    let worker = bench.start();
    bench.db.add_job("job_a", json!({})).await;
    bench.until_status("job_a", "succeeded").await;
    worker.drain().await;
}

#[tokio::test]
async fn what_a_trainer_leaves_running_does_not_hold_up_its_worker() {
    // The child has the trainer's pipes.
    let bench = Bench::new("sleep 600 & echo $! > \"$(dirname \"$0\")/child\"; echo gone >&2; exit 1").await;
    let worker = bench.start();
    bench.db.add_job("job_a", json!({"max_attempts": 1})).await;
    let job = bench.until_status("job_a", "failed").await;
    assert!(job["error"]["message"].as_str().unwrap().contains("gone"), "{job:#}");
    until_ended(read_pid(&bench.note("child")).unwrap()).await;
    worker.drain().await;
}

#[tokio::test]
async fn every_way_to_fail_has_its_class_and_its_reason() {
    let cases = [
        (r#"say '{"type":"failed","class":"numeric","message":"step 7: loss is NaN"}'; exit 1"#, "numeric", "step 7"),
        (r#"say '{"type":"failed","class":"user","message":"no such split"}'; exit 1"#, "user", "no such split"),
        ("echo 'no such library' >&2; exit 127", "internal", "no such library"),
        ("started 0 0; exit 0", "internal", "exited with status 0"),
        ("kill -SEGV $$", "worker_lost", "signal 11"),
        ("kill -KILL $$", "worker_lost", "signal 9"),
        // Says that it finished, but wrote nothing.
        (r#"finish; rm "$out"/*"#, "storage", "student.safetensors"),
    ];
    for (trainer, class, reason) in cases {
        let bench = Bench::new(trainer).await;
        let worker = bench.start();
        bench.db.add_job("job_a", json!({"max_attempts": 1})).await;
        let job = bench.until_status("job_a", "failed").await;
        assert_eq!(job["error"]["class"], class, "{trainer}: {job:#}");
        assert!(job["error"]["message"].as_str().unwrap().contains(reason), "{trainer}: {job:#}");
        worker.drain().await;
        assert_eq!(files_below(&bench.settings.work_dir), [""; 0]);
    }
}

#[tokio::test]
async fn an_input_that_is_gone_is_the_users_to_mend() {
    let bench = Bench::new("finish").await;
    let worker = bench.start();
    let teacher = |teacher| json!({"teacher": teacher, "distillation": {"method": "kd"}});
    bench.db.add_job("job_a", teacher(json!({"architecture": "resnet56", "checkpoint": "ckpt_gone"}))).await;
    bench.db.add_job("job_b", json!({"student": {"architecture": "resnet20", "checkpoint": "ckpt_lost"}})).await;
    bench.db.add_job("job_c", json!({"dataset": {"name": "vanished"}})).await;
    for (id, named) in [("job_a", "ckpt_gone"), ("job_b", "ckpt_lost"), ("job_c", "vanished")] {
        let job = bench.until_status(id, "failed").await;
        assert_eq!(job["error"]["class"], "user");
        assert!(job["error"]["message"].as_str().unwrap().contains(named), "{job:#}");
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_student_becomes_the_teacher_of_the_job_that_waited_for_it() {
    let bench = Bench::new(
        r#"if grep -q '"teacher"' "$spec"; then cp "$spec" "$(dirname "$0")/spec"
            cp "$(sed -n 's/.*"checkpoint": "\(.*\)".*/\1/p' "$spec")" "$(dirname "$0")/teacher"; fi
        started 0 0; finish"#,
    )
    .await;
    bench.db.add_job("job_teacher", json!({})).await;
    bench.db.add_job("job_pupil", json!({"teacher": {"job": "job_teacher"}, "distillation": {"method": "kd"}})).await;
    let worker = bench.start();
    bench.until_status("job_pupil", "succeeded").await;
    worker.drain().await;
    assert_eq!(fs::read_to_string(bench.note("teacher")).unwrap(), "student.safetensors\n");
    let spec: Value = serde_json::from_slice(&fs::read(bench.note("spec")).unwrap()).unwrap();
    assert_eq!(spec["teacher"].get("job"), None);
}

#[tokio::test]
async fn a_teacher_that_was_changed_in_storage_is_not_learned_from() {
    let bench = Bench::new("started 0 0; finish").await;
    bench.db.add_job("job_teacher", json!({})).await;
    let worker = bench.start();
    bench.until_status("job_teacher", "succeeded").await;
    let stored = bench.dir.path().join("data/artifacts/jobs/job_teacher/attempts/1/student.safetensors");
    fs::write(stored, "another student\n").unwrap();
    let pupil = json!({"teacher": {"job": "job_teacher"}, "distillation": {"method": "kd"}, "max_attempts": 1});
    bench.db.add_job("job_pupil", pupil).await;
    let job = bench.until_status("job_pupil", "failed").await;
    assert_eq!(job["error"]["class"], "storage");
    assert!(job["error"]["message"].as_str().unwrap().contains("is damaged in storage"), "{job:#}");
    worker.drain().await;
}

#[tokio::test]
async fn noise_on_the_trainers_output_is_passed_over() {
    let bench = Bench::new(
        r#"echo 'Warning: no JSON'; say '{"type":"new","in":"a later version"}'; printf '\377\376\n'
        head -c 3000000 /dev/zero | tr '\0' x; echo
        started 0 0; point 1; head -c 3000000 /dev/zero >&2; finish"#,
    )
    .await;
    bench.db.add_job("job_a", json!({"max_attempts": 1})).await;
    let worker = bench.start();
    bench.until_status("job_a", "succeeded").await;
    worker.drain().await;
    assert_eq!(steps(&bench.db.pool, "job_a").await, [1]);
}

#[tokio::test]
async fn a_worker_that_lost_its_job_kills_its_trainer_and_leaves_the_successors_things_alone() {
    let mut bench =
        Bench::new("echo $$ > \"$(dirname \"$0\")/pid\"; started 0 0; point 1; while :; do sleep 1; done").await;
    bench.settings.lease = Duration::from_secs(8);
    let worker = bench.start();
    bench.db.add_job("job_a", json!({})).await;
    bench.until_training("job_a").await;
    // Another worker of this machine took over.
    let theirs = bench.settings.work_dir.join("job_a/2/output");
    fs::create_dir_all(&theirs).unwrap();
    let update = "update jobs set attempt = 2, worker = 'wrk_other', lease_expires_at = now() + interval '1 hour'";
    sqlx::query(update).execute(&bench.db.pool).await.unwrap();
    let taken = bench.job("job_a").await;
    until_ended(read_pid(&bench.note("pid")).unwrap()).await;
    until(async || !bench.settings.work_dir.join("job_a/1").exists()).await;
    let refused = "select refused_writes >= 1 from attempts where job_id = 'job_a' and attempt = 1";
    until(async || sqlx::query_scalar(refused).fetch_one(&bench.db.pool).await.unwrap()).await;
    worker.drain().await;
    assert_eq!(bench.job("job_a").await, taken);
    assert!(theirs.is_dir());
}

#[tokio::test]
async fn a_killed_worker_takes_its_trainer_along_and_another_goes_on() {
    let bench = Bench::new(&RESUMABLE.replace("started 0 0", r#"echo $$ > "$(dirname "$0")/pid"; started 0 0"#)).await;
    bench.db.add_job("job_a", json!({})).await;
    let mut first = bench.start_process();
    bench.until("job_a", |job| job["checkpoint"]["epoch"] == 2).await;
    let trainer = read_pid(&bench.note("pid")).unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    until_ended(trainer).await;
    assert!(!files_below(&bench.settings.work_dir).is_empty());

    let mut second = bench.start_process();
    let job = bench.until_status("job_a", "succeeded").await;
    assert_eq!(job["attempt"], 2);
    assert_eq!(steps(&bench.db.pool, "job_a").await, [1, 11, 21]);
    kill_process(Pid::from_child(&second), Signal::TERM).unwrap();
    assert!(second.wait().unwrap().success());
    assert_eq!(files_below(&bench.settings.work_dir), [""; 0]);
}

#[tokio::test]
async fn points_that_a_killed_worker_had_not_written_yet_come_from_its_stored_metrics() {
    let bench = Bench::new(RESUMABLE).await;
    bench.db.add_job("job_a", json!({})).await;
    let mut first = bench.start_process();
    bench.until("job_a", |job| job["checkpoint"]["epoch"] == 2).await;
    first.kill().unwrap();
    first.wait().unwrap();
    // A worker that lags stores its trainer's newer state under the checkpoint that it has just heard of.
    sqlx::query("delete from metrics where step > 1").execute(&bench.db.pool).await.unwrap();

    let mut second = bench.start_process();
    bench.until_status("job_a", "succeeded").await;
    let query = sqlx::query_as("select step, attempt from metrics where job_id = 'job_a' order by id");
    let points: Vec<(i64, i32)> = query.fetch_all(&bench.db.pool).await.unwrap();
    assert_eq!(points, [(1, 1), (11, 1), (21, 2)]);
    kill_process(Pid::from_child(&second), Signal::TERM).unwrap();
    assert!(second.wait().unwrap().success());
}

#[tokio::test]
async fn a_worker_and_a_server_that_start_before_their_database_wait_for_it_and_make_the_schema() {
    let bench = Bench::new("started 0 0; finish").await;
    let data = tempfile::tempdir().unwrap();
    // Its socket's place is known only once it has run.
    let database = Server::start(&postgres_options(data.path().join("database"))).await.unwrap();
    let url = database.url().to_owned();
    database.stop().await;
    let program = |arguments: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_distillery"));
        program
            .args(arguments)
            .args(["--data-dir".as_ref(), bench.dir.path().join("data").as_os_str()])
            .args(["--datasets-dir".as_ref(), bench.settings.datasets_dir.as_os_str()])
            .env("DISTILLERY_TRAINER", &bench.settings.trainer)
            .env("DATABASE_URL", &url)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut program = program.spawn().unwrap();
        let mut lines = BufReader::new(program.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("the database is not there yet")), "it says what it waits for");
        std::thread::spawn(move || lines.for_each(drop));
        program
    };
    let worker = program(&["worker", "--device", "cpu"]);
    let mut server = program(&["serve", "--listen", "127.0.0.1:0", "--workers", "0"]);

    let database = Server::start(&postgres_options(data.path().join("database"))).await.unwrap();
    assert_eq!(database.url(), url);
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().last().unwrap().to_owned();
    let registered = async || {
        distillery::artifacts::install_tls_provider();
        let workers = reqwest::get(format!("{address}/v1/workers")).await.unwrap();
        workers.json::<Value>().await.is_ok_and(|workers| workers["data"].as_array().is_some_and(|all| all.len() == 1))
    };
    until(registered).await;
    for mut program in [worker, server] {
        kill_process(Pid::from_child(&program), Signal::TERM).unwrap();
        assert!(program.wait().unwrap().success());
    }
    database.stop().await;
}

/// As much of NVIDIA's management library as is asked for, with a GPU as number 3.
const DRIVER: &str = r#"
#include <string.h>
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
typedef struct { unsigned gpu, memory; } rates;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)8; return index == 3 ? 0 : 6; }
int nvmlDeviceGetName(void *device, char *name, unsigned size) { strncpy(name, "Test GPU", size); return 0; }
int nvmlDeviceGetMemoryInfo_v2(void *device, memory *told) { told->total = 80ULL << 30; told->used = 3ULL << 30; return 0; }
int nvmlDeviceGetUtilizationRates(void *device, rates *told) { told->gpu = 42; told->memory = 7; return 0; }
"#;

#[tokio::test]
async fn a_worker_tells_what_its_machine_and_its_gpu_have_to_do() {
    let bench = Bench::new(OBEDIENT).await;
    bench.build_driver();
    let told = async |device: &'static str, libraries: &Path| {
        let mut worker = bench.worker_with_driver(device, libraries);
        let told = bench.until_usage(device).await;
        kill_process(Pid::from_child(&worker), Signal::TERM).unwrap();
        assert!(worker.wait().unwrap().success());
        told
    };
    let (usage, memory) = told("cuda:0", bench.dir.path()).await;
    let gpu = json!({"name": "Test GPU", "busy_share": 0.42, "memory_used_bytes": 3_u64 << 30, "memory_total_bytes": 80_u64 << 30});
    assert_eq!((&usage["gpu"], memory), (&gpu, Some(80 << 30)));
    // No driver, no GPU: nothing is made up, and the worker works all the same.
    let (usage, memory) = told("cpu", Path::new("")).await;
    assert_eq!((&usage["gpu"], memory), (&Value::Null, usage["memory_total_bytes"].as_i64()));
    assert!(usage["cpu_share"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{usage}");
}

#[tokio::test]
async fn a_job_on_a_gpu_has_a_series_of_the_memory_in_use_there() {
    let measured = r#"
started 0 0; point 1
for name in memory/resident_bytes train/top1; do
    say '{"type":"metrics","points":[{"name":"'$name'","step":2,"epoch":0.5,"time":"2026-01-01T00:00:00Z","value":7}]}'
done
finish
"#;
    let bench = Bench::new(measured).await;
    bench.build_driver();
    for (device, libraries, in_use) in
        [("cuda:0", bench.dir.path(), vec![(2, (3_u64 << 30) as f64)]), ("cpu", Path::new(""), vec![])]
    {
        let id = format!("job_{}", &device[..3]);
        bench.db.add_job(&id, json!({})).await;
        let mut worker = bench.worker_with_driver(device, libraries);
        bench.until_status(&id, "succeeded").await;
        kill_process(Pid::from_child(&worker), Signal::TERM).unwrap();
        assert!(worker.wait().unwrap().success());
        let query = "select step, value from metrics where job_id = $1 and name = 'memory/gpu_bytes'";
        let told: Vec<(i64, f64)> = sqlx::query_as(query).bind(&id).fetch_all(&bench.db.pool).await.unwrap();
        assert_eq!(told, in_use, "{device}");
    }
}

#[tokio::test]
async fn a_worker_clears_away_what_a_killed_one_left() {
    let bench = Bench::new(OBEDIENT).await;
    for (id, lease) in [("job_held", "now() + interval '1 hour'"), ("job_done", "null")] {
        bench.db.add_job(id, json!({})).await;
        let update = format!(
            "update jobs set attempt = 2, lease_expires_at = {lease},
             status = case when {lease} is null then 'cancelled' else 'running' end where id = $1"
        );
        sqlx::query(sqlx::AssertSqlSafe(update)).bind(id).execute(&bench.db.pool).await.unwrap();
        for attempt in ["1", "2"] {
            fs::create_dir_all(bench.settings.work_dir.join(id).join(attempt)).unwrap();
            fs::write(bench.settings.work_dir.join(id).join(attempt).join("teacher"), "bytes").unwrap();
        }
    }
    let worker = bench.start();
    until(async || files_below(&bench.settings.work_dir) == ["job_held/2/teacher"]).await;
    worker.drain().await;
}

#[tokio::test]
async fn a_running_job_survives_a_crash_of_the_database() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(&postgres_options(data.path().to_owned())).await.unwrap();
    let url = server.url().to_owned();
    let pool = db::connect(&url).await.unwrap();
    db::migrate(&pool).await.unwrap();
    let bench = Bench::on(
        TestDb { url, pool },
        r#"started 0 0; for step in $(seq 1 150); do point $step; sleep 0.01; done; checkpoint 1; finish"#,
    );
    let worker = bench.start();
    bench.db.add_job("job_a", json!({})).await;
    bench.until_training("job_a").await;
    let mut server = server;
    kill_process(Pid::from_raw(server.pid().cast_signed()).unwrap(), Signal::QUIT).unwrap();
    server.exited().await;
    drop(server);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let server = Server::start(&postgres_options(data.path().to_owned())).await.unwrap();
    let job = bench.until_status("job_a", "succeeded").await;
    assert_eq!(job["attempt"], 1);
    assert_eq!(steps(&bench.db.pool, "job_a").await, (1..=150).collect::<Vec<_>>());
    // And it still hears of new ones.
    bench.db.add_job("job_b", json!({})).await;
    bench.until_training("job_b").await;
    bench.ask("job_b", "cancelling").await;
    worker.drain().await;
    server.stop().await;
}

#[tokio::test]
async fn a_worker_that_cannot_renew_its_lease_stops_its_trainer_before_the_lease_ends() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(&postgres_options(data.path().to_owned())).await.unwrap();
    let url = server.url().to_owned();
    let pool = db::connect(&url).await.unwrap();
    db::migrate(&pool).await.unwrap();
    let trainer = "echo $$ > \"$(dirname \"$0\")/pid\"; started 0 0; point 1; while :; do sleep 1; done";
    let mut bench = Bench::on(TestDb { url, pool }, trainer);
    bench.settings.lease = Duration::from_secs(4);
    let _worker = bench.start();
    bench.db.add_job("job_a", json!({})).await;
    bench.until_training("job_a").await;
    let expiry = sqlx::query_scalar("select lease_expires_at from jobs").fetch_one(&bench.db.pool);
    let expiry: chrono::DateTime<chrono::Utc> = expiry.await.unwrap();
    // It neither ends connections nor answers them any more: every process of the server is stopped, as by a machine
    // that hangs.
    let database = Pid::from_raw(server.pid().cast_signed()).unwrap();
    let processes: Vec<Pid> = children_of(database, "").into_iter().chain([database]).collect();
    processes.iter().for_each(|process| kill_process(*process, Signal::STOP).unwrap());
    until_ended(read_pid(&bench.note("pid")).unwrap()).await;
    let ended = chrono::Utc::now();
    for process in processes {
        let _ = kill_process(process, Signal::CONT);
    }
    // A heartbeat may have been on its way between the look and the stop.
    let renewed = sqlx::query_scalar("select lease_expires_at from jobs").fetch_optional(&bench.db.pool).await;
    let last: Option<chrono::DateTime<chrono::Utc>> = renewed.ok().flatten().flatten();
    let end = last.map_or(expiry, |last| last.max(expiry));
    assert!(ended < end, "the trainer ended at {ended}, the lease at {end}");
}

/// The processes that `parent` started, by a word of their command line.
fn children_of(parent: Pid, word: &str) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw)
        .filter(|pid| {
            let read = |file| fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap_or_default();
            let of_parent = format!("PPid:\t{}", parent.as_raw_nonzero());
            read("status").lines().any(|line| line == of_parent) && read("cmdline").split('\0').any(|part| part == word)
        })
        .collect()
}

async fn only_child_of(parent: Pid, word: &str) -> Pid {
    until(async || children_of(parent, word).len() == 1).await;
    children_of(parent, word)[0]
}

#[tokio::test]
async fn a_server_replaces_a_worker_that_died_and_takes_everything_along_when_it_is_killed() {
    let bench = Bench::new(OBEDIENT).await;
    let start = || {
        let mut server = Command::new(env!("CARGO_BIN_EXE_distillery"));
        server
            .args(["serve", "--listen", "127.0.0.1:0", "--workers", "1"])
            .args(["--data-dir".as_ref(), bench.dir.path().join("data").as_os_str()])
            .args(["--datasets-dir".as_ref(), bench.settings.datasets_dir.as_os_str()])
            .env("DISTILLERY_TRAINER", &bench.settings.trainer)
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        server.spawn().unwrap()
    };
    let mut server = start();
    let pid = Pid::from_child(&server);
    let first = only_child_of(pid, "worker").await;
    kill_process(first, Signal::KILL).unwrap();
    until_ended(first).await;
    until(async || children_of(pid, "worker").iter().any(|worker| *worker != first)).await;
    let (second, database) = (only_child_of(pid, "worker").await, only_child_of(pid, "-D").await);
    server.kill().unwrap();
    server.wait().unwrap();
    until_ended(second).await;
    until_ended(database).await;

    // And it starts again on what is left, and stops in order.
    let mut server = start();
    let pid = Pid::from_child(&server);
    let (worker, database) = (only_child_of(pid, "worker").await, only_child_of(pid, "-D").await);
    until(async || {
        fs::read_to_string(bench.dir.path().join("data/postgres.url")).is_ok_and(|url| url.contains("distillery"))
    })
    .await;
    kill_process(pid, Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
    until_ended(worker).await;
    until_ended(database).await;
}

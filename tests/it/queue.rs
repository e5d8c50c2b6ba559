//! Each job is held by one attempt at a time, only that attempt can change it, and every job comes to an end.

use std::time::Duration;

use crate::support::db::TestDb;
use chrono::Utc;
use distillery::db::artifacts::NewArtifact;
use distillery::db::jobs::Status;
use distillery::db::queue::{self, Batch, Claim, DeviceCapacity, FencingToken, SavedCheckpoint};
use distillery::db::workers::{self, NewWorker, Usage};
use distillery::db::{self, attempts};
use distillery::protocol::{ErrorClass, Evaluation, Failure, Level, Outcome, Point, Progress, Started, StudentFacts};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgListener;

const LEASE: Duration = Duration::from_secs(60);
const WORKER: &str = "wrk_1";

async fn claim(pool: &PgPool) -> Option<Claim> {
    queue::claim(pool, WORKER, DeviceCapacity::ONE, LEASE).await.unwrap()
}

async fn claimed_hold(pool: &PgPool) -> FencingToken {
    claim(pool).await.expect("a job to claim").token
}

/// Sets a column as only the passing of time or the API would.
async fn set(pool: &PgPool, job: &str, assignment: &'static str) {
    let update = sqlx::AssertSqlSafe(format!("update jobs set {assignment} where id = $1"));
    sqlx::query(update).bind(job).execute(pool).await.unwrap();
}

/// A job's row as JSON.
async fn row(pool: &PgPool, job: &str) -> Value {
    sqlx::query_scalar("select to_jsonb(jobs) from jobs where id = $1").bind(job).fetch_one(pool).await.unwrap()
}

async fn status(pool: &PgPool, job: &str) -> Status {
    serde_json::from_value(row(pool, job).await["status"].clone()).unwrap()
}

/// All that is known of a job, for comparison.
async fn everything(pool: &PgPool, job: &str) -> Value {
    sqlx::query_scalar(
        "select jsonb_build_array(to_jsonb(jobs),
            (select jsonb_agg(to_jsonb(events) order by seq) from events where job_id = jobs.id),
            (select jsonb_agg(to_jsonb(metrics) order by id) from metrics where job_id = jobs.id),
            (select jsonb_agg(to_jsonb(artifacts)) from artifacts where job_id = jobs.id))
         from jobs where id = $1",
    )
    .bind(job)
    .fetch_one(pool)
    .await
    .unwrap()
}

/// Kind, attempt and message of each event, whose numbers must have no gap.
async fn history(pool: &PgPool, job: &str) -> Vec<(String, i32, String)> {
    let query = sqlx::query_as("select seq, kind, attempt, message from events where job_id = $1 order by seq");
    let events: Vec<(i64, String, i32, String)> = query.bind(job).fetch_all(pool).await.unwrap();
    let seqs: Vec<_> = events.iter().map(|event| event.0).collect();
    assert_eq!(seqs, (1..=i64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(row(pool, job).await["event_seq"], seqs.len());
    events.into_iter().map(|(_, kind, attempt, message)| (kind, attempt, message)).collect()
}

async fn steps(pool: &PgPool, job: &str) -> Vec<i64> {
    let query = sqlx::query_scalar("select step from metrics where job_id = $1 order by id");
    query.bind(job).fetch_all(pool).await.unwrap()
}

fn worker(id: &str, devices: i32) -> NewWorker {
    NewWorker {
        id: id.into(),
        name: "host/cpu".into(),
        device: "cpu".into(),
        devices,
        memory_bytes: None,
        usage: Usage::default(),
    }
}

fn failure(class: ErrorClass) -> Failure {
    Failure { class, message: "it \0 broke".into() }
}

fn outcome() -> Outcome {
    let student = StudentFacts { parameters: 1, size_bytes: 2, sha256: "ab".into() };
    Outcome { teacher_top1: None, best_top1: 70.0, best_epoch: 2, last_top1: 69.0, student }
}

fn artifact(hold: &FencingToken) -> NewArtifact {
    let key = format!("jobs/{}/attempts/{}/student.safetensors", hold.job, hold.attempt);
    NewArtifact { name: "student.safetensors".into(), key, size_bytes: 2, sha256: "ab".into() }
}

fn saved(hold: &FencingToken) -> SavedCheckpoint {
    SavedCheckpoint {
        attempt: hold.attempt,
        epoch: 3,
        step: 30,
        key: "jobs/x/attempts/1/state".into(),
        sha256: None,
        size_bytes: None,
    }
}

fn points(steps: impl IntoIterator<Item = u64>) -> Batch {
    let point = |step| Point { name: "train/loss".into(), step, epoch: 0.5, time: Utc::now(), value: 1.0 };
    Batch { points: steps.into_iter().map(point).collect(), ..Batch::default() }
}

fn started(resumed_epochs: u32, resumed_step: u64) -> Started {
    Started {
        device: "cpu".into(),
        precision: "float32".into(),
        threads: 1,
        train_images: 100,
        eval_images: 10,
        classes: 4,
        steps_per_epoch: 10,
        epochs: 5,
        resumed_epochs,
        resumed_step,
    }
}

#[tokio::test]
async fn the_most_urgent_job_is_taken_first_and_the_oldest_of_those() {
    let db = TestDb::new().await;
    for (id, priority) in [("job_a", 0), ("job_b", 5), ("job_c", 0), ("job_d", -1), ("job_e", 5)] {
        db.add_job(id, json!({"priority": priority})).await;
    }
    let mut order = Vec::new();
    while let Some(claim) = claim(&db.pool).await {
        assert_eq!(claim.token.attempt, 1);
        assert_eq!(claim.spec.name, claim.token.job);
        assert_eq!(claim.checkpoint, None);
        order.push(claim.token.job);
    }
    assert_eq!(order, ["job_b", "job_e", "job_a", "job_c", "job_d"]);
}

/// What a worker with so many devices, and so many of them free, takes.
async fn take(pool: &PgPool, worker: &str, [devices, free]: [i32; 2]) -> Option<String> {
    queue::claim(pool, worker, DeviceCapacity { total: devices, free }, LEASE)
        .await
        .unwrap()
        .map(|claim| claim.token.job)
}

async fn waits_for(pool: &PgPool, worker: &str) -> Option<String> {
    sqlx::query_scalar("select waits_for from workers where id = $1").bind(worker).fetch_one(pool).await.unwrap()
}

async fn add_job_for(db: &TestDb, id: &str, devices: u32, priority: i32) {
    let spec = json!({"priority": priority, "training": {"devices": devices, "batch_size": 64}});
    db.add_job(id, spec).await;
}

#[tokio::test]
async fn a_job_for_several_devices_is_had_by_a_worker_that_has_them_and_all_at_once() {
    let db = TestDb::new().await;
    add_job_for(&db, "job_a", 4, 0).await;
    add_job_for(&db, "job_b", 1, 0).await;
    for (id, devices) in [("wrk_small", 2), ("wrk_large", 4)] {
        workers::register(&db.pool, &worker(id, devices)).await.unwrap();
    }
    // It passes over what it could never run, and does not wait for it.
    assert_eq!(take(&db.pool, "wrk_small", [2, 2]).await.as_deref(), Some("job_b"));
    assert_eq!(waits_for(&db.pool, "wrk_small").await, None);
    let claim =
        queue::claim(&db.pool, "wrk_large", DeviceCapacity { total: 4, free: 4 }, LEASE).await.unwrap().unwrap();
    assert_eq!((claim.token.job.as_str(), claim.spec.training.devices), ("job_a", 4));
}

#[tokio::test]
async fn free_devices_are_kept_for_a_large_job_whose_turn_it_is() {
    let db = TestDb::new().await;
    workers::register(&db.pool, &worker(WORKER, 4)).await.unwrap();
    add_job_for(&db, "job_a", 3, 0).await;
    assert_eq!(take(&db.pool, WORKER, [4, 4]).await.as_deref(), Some("job_a"));
    add_job_for(&db, "job_b", 2, 0).await;
    add_job_for(&db, "job_c", 1, 0).await;
    assert_eq!(take(&db.pool, WORKER, [4, 1]).await, None, "job_c would go before job_b for ever");
    assert_eq!(waits_for(&db.pool, WORKER).await.as_deref(), Some("job_b"));
    // What is more urgent need not wait.
    add_job_for(&db, "job_d", 1, 1).await;
    assert_eq!(take(&db.pool, WORKER, [4, 1]).await.as_deref(), Some("job_d"));
    assert_eq!(waits_for(&db.pool, WORKER).await, None);
    assert_eq!(take(&db.pool, WORKER, [4, 3]).await.as_deref(), Some("job_b"));
    assert_eq!(take(&db.pool, WORKER, [4, 1]).await.as_deref(), Some("job_c"));
    assert_eq!(take(&db.pool, WORKER, [4, 0]).await, None);
}

#[tokio::test]
async fn one_worker_keeps_devices_for_a_job_and_others_go_on_but_any_that_has_enough_takes_it() {
    let db = TestDb::new().await;
    for id in ["wrk_a", "wrk_b", "wrk_c"] {
        workers::register(&db.pool, &worker(id, 4)).await.unwrap();
    }
    for id in ["job_a", "job_b"] {
        add_job_for(&db, id, 4, 0).await;
    }
    add_job_for(&db, "job_c", 1, 0).await;
    // Each large job has one worker that waits for it, and none waits for two.
    assert_eq!(take(&db.pool, "wrk_a", [4, 2]).await, None);
    assert_eq!(take(&db.pool, "wrk_b", [4, 2]).await, None);
    assert_eq!(waits_for(&db.pool, "wrk_a").await.as_deref(), Some("job_a"));
    assert_eq!(waits_for(&db.pool, "wrk_b").await.as_deref(), Some("job_b"));
    assert_eq!(take(&db.pool, "wrk_c", [4, 2]).await.as_deref(), Some("job_c"));
    assert_eq!(take(&db.pool, "wrk_c", [4, 4]).await.as_deref(), Some("job_a"));
    // Whose job is gone waits for no other's, unless that worker is gone.
    assert_eq!(take(&db.pool, "wrk_a", [4, 2]).await, None);
    assert_eq!(waits_for(&db.pool, "wrk_a").await, None);
    sqlx::query("update workers set heartbeat_at = now() - interval '2 minutes' where id = 'wrk_b'")
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(take(&db.pool, "wrk_a", [4, 2]).await, None);
    assert_eq!(waits_for(&db.pool, "wrk_a").await.as_deref(), Some("job_b"));
}

#[tokio::test]
async fn a_claimed_job_says_by_whom_and_since_when() {
    let db = TestDb::new().await;
    let worker = NewWorker { memory_bytes: Some(1), ..worker(WORKER, 1) };
    workers::register(&db.pool, &worker).await.unwrap();
    db.add_job("job_a", json!({})).await;
    claimed_hold(&db.pool).await;
    let job = row(&db.pool, "job_a").await;
    assert_eq!((&job["status"], &job["worker"], &job["attempt"]), (&json!("running"), &json!(WORKER), &json!(1)));
    assert!(job["started_at"].is_string() && job["lease_expires_at"].is_string());
    let history = history(&db.pool, "job_a").await;
    assert!(history[0].0 == "status" && history[0].1 == 1 && history[0].2.contains("host/cpu"), "{history:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_claimers_never_take_the_same_job() {
    let db = TestDb::new().await;
    for index in 0..40 {
        db.add_job(&format!("job_{index:02}"), json!({})).await;
    }
    let claimers = (0..8).map(|_| {
        let pool = db.pool.clone();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Some(claim) = claim(&pool).await {
                taken.push(claim.token.job);
            }
            taken
        })
    });
    let mut taken = futures::future::try_join_all(claimers).await.unwrap().concat();
    taken.sort();
    let all: Vec<_> = (0..40).map(|index| format!("job_{index:02}")).collect();
    assert_eq!(taken, all);
}

#[tokio::test]
async fn a_job_being_claimed_or_changed_is_passed_over_not_waited_for() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({})).await;
    db.add_job("job_b", json!({})).await;
    let mut other = db.pool.begin().await.unwrap();
    sqlx::query("select from jobs where id = 'job_a' for update").execute(&mut *other).await.unwrap();
    assert_eq!(claimed_hold(&db.pool).await.job, "job_b");
    assert!(claim(&db.pool).await.is_none());
    other.rollback().await.unwrap();
    assert_eq!(claimed_hold(&db.pool).await.job, "job_a");
}

#[tokio::test]
async fn only_queued_jobs_whose_time_has_come_are_taken() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({})).await;
    for status in Status::ALL.into_iter().filter(|status| *status != Status::Queued) {
        let update = "update jobs set status = $1, lease_expires_at = case when $2 then now() end where id = 'job_a'";
        sqlx::query(update)
            .bind(status.name())
            .bind(matches!(status, Status::Running | Status::Pausing | Status::Cancelling))
            .execute(&db.pool)
            .await
            .unwrap();
        assert!(claim(&db.pool).await.is_none(), "{status:?}");
    }
    set(&db.pool, "job_a", "status = 'queued', lease_expires_at = null, run_after = now() + interval '1 hour'").await;
    assert!(claim(&db.pool).await.is_none());
    let wait = queue::until_next(&db.pool).await.unwrap().unwrap();
    assert!((3590.0..=3600.0).contains(&wait.as_secs_f64()), "{wait:?}");
    set(&db.pool, "job_a", "run_after = now()").await;
    assert_eq!(queue::until_next(&db.pool).await.unwrap(), None);
    assert!(claim(&db.pool).await.is_some());
}

#[tokio::test]
async fn a_stale_attempt_changes_nothing() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({})).await;
    let stale = claimed_hold(&db.pool).await;
    queue::record(&db.pool, &stale.write(), &points([1, 2])).await.unwrap();
    set(&db.pool, "job_a", "lease_expires_at = now() - interval '1 second'").await;
    assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);

    // Queued again, then held by another, then finished: nothing of the first attempt counts any more.
    for stage in 0..3 {
        let before = everything(&db.pool, "job_a").await;
        let pool = &db.pool;
        assert_eq!(queue::heartbeat(pool, &stale, LEASE).await.unwrap(), None);
        assert!(!queue::started(pool, &stale.write(), &started(0, 0)).await.unwrap());
        let evaluation = Evaluation { top1: 1.0, top5: 2.0, loss: 3.0, images: 4 };
        assert!(!queue::teacher_evaluated(pool, &stale.write(), &evaluation).await.unwrap());
        assert!(!queue::record(pool, &stale.write(), &points([3])).await.unwrap());
        assert!(!queue::checkpoint_saved(pool, &stale.write(), &saved(&stale)).await.unwrap());
        assert!(!queue::publish(pool, &stale.write(), &outcome(), &[artifact(&stale)]).await.unwrap());
        assert_eq!(queue::fail(pool, &stale.write(), &failure(ErrorClass::User)).await.unwrap(), None);
        assert_eq!(queue::stopped(pool, &stale.write()).await.unwrap(), None);
        assert_eq!(everything(pool, "job_a").await, before, "stage {stage}");
        match stage {
            0 => assert_eq!(claimed_hold(pool).await.attempt, 2),
            1 => {
                let hold = FencingToken { attempt: 2, ..stale.clone() };
                assert!(queue::publish(pool, &hold.write(), &outcome(), &[artifact(&hold)]).await.unwrap());
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_lease_that_ran_out_is_not_renewed_even_if_nobody_noticed() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({})).await;
    let hold = claimed_hold(&db.pool).await;
    set(&db.pool, "job_a", "lease_expires_at = now() + interval '1 second'").await;
    assert_eq!(queue::heartbeat(&db.pool, &hold, LEASE).await.unwrap(), Some(Status::Running));
    let held: bool = sqlx::query_scalar("select lease_expires_at > now() + interval '50 seconds' from jobs")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert!(held);
    assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 0);
    set(&db.pool, "job_a", "lease_expires_at = now() - interval '1 second'").await;
    assert_eq!(queue::heartbeat(&db.pool, &hold, LEASE).await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_attempt_was_last_heard_of_at_its_last_heartbeat_or_write() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({})).await;
    for (renewed, written, heard) in [(40, 30, 30_i64), (20, 30, 20)] {
        let hold = claimed_hold(&db.pool).await;
        assert!(queue::record(&db.pool, &hold.write(), &points([1])).await.unwrap());
        let ages = "update jobs set lease_renewed_at = now() - make_interval(secs => $1),
            written_at = now() - make_interval(secs => $2), lease_expires_at = now() - interval '1 second'";
        sqlx::query(ages).bind(f64::from(renewed)).bind(f64::from(written)).execute(&db.pool).await.unwrap();
        assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);
        let attempt = attempts::list(&db.pool, "job_a").await.unwrap().pop().unwrap();
        let silence = attempt.ended_at.unwrap() - attempt.heard_at.unwrap();
        assert!((heard..heard + 10).contains(&silence.num_seconds()), "{silence}");
    }
    let hold = claimed_hold(&db.pool).await;
    assert_eq!(attempts::list(&db.pool, "job_a").await.unwrap()[2].heard_at, None);
    queue::stopped(&db.pool, &hold.write()).await.unwrap();
    let ended = attempts::list(&db.pool, "job_a").await.unwrap().pop().unwrap();
    assert_eq!(ended.heard_at, ended.ended_at, "one that ends in order is heard of to its end");
}

#[tokio::test]
async fn a_lost_worker_costs_an_attempt_until_there_is_none_left() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({"max_attempts": 2})).await;
    for attempt in 1..=2 {
        let claim = claim(&db.pool).await.expect("queued again at once");
        assert_eq!(claim.token.attempt, attempt);
        assert_eq!(claim.checkpoint.is_some(), attempt == 2, "goes on where the last one got to");
        queue::checkpoint_saved(&db.pool, &claim.token.write(), &saved(&claim.token)).await.unwrap();
        set(&db.pool, "job_a", "lease_expires_at = now() - interval '1 second'").await;
        assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);
        assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 0);
    }
    let job = row(&db.pool, "job_a").await;
    assert_eq!((&job["status"], &job["error"]["class"]), (&json!("failed"), &json!("worker_lost")));
    assert!(job["finished_at"].is_string());
    let history = history(&db.pool, "job_a").await;
    assert_eq!(history.iter().filter(|event| event.0 == "status").count(), 4, "{history:#?}");
}

#[tokio::test]
async fn a_request_outlives_the_worker_that_should_have_carried_it_out() {
    let db = TestDb::new().await;
    for (id, asked, then) in
        [("job_a", Status::Cancelling, Status::Cancelled), ("job_b", Status::Pausing, Status::Paused)]
    {
        db.add_job(id, json!({})).await;
        let hold = claimed_hold(&db.pool).await;
        let update = "update jobs set status = $1 where id = $2";
        sqlx::query(update).bind(asked.name()).bind(id).execute(&db.pool).await.unwrap();
        assert_eq!(queue::heartbeat(&db.pool, &hold, LEASE).await.unwrap(), Some(asked));
        set(&db.pool, id, "lease_expires_at = now() - interval '1 second'").await;
        queue::rescue_expired(&db.pool).await.unwrap();
        assert_eq!(status(&db.pool, id).await, then);
    }
}

#[tokio::test]
async fn a_failure_that_may_pass_is_tried_again_later_and_others_are_final() {
    let db = TestDb::new().await;
    for class in [ErrorClass::User, ErrorClass::Oom, ErrorClass::Numeric] {
        let id = format!("job_{class:?}").to_lowercase();
        db.add_job(&id, json!({})).await;
        let hold = claimed_hold(&db.pool).await;
        assert_eq!(queue::fail(&db.pool, &hold.write(), &failure(class)).await.unwrap(), Some(Status::Failed));
        let job = row(&db.pool, &id).await;
        assert_eq!(job["error"]["class"], json!(class));
        assert!(job["error"]["message"].as_str().unwrap().starts_with("it "));
    }
    db.add_job("job_a", json!({"max_attempts": 3})).await;
    let mut waits = Vec::new();
    for class in [ErrorClass::Storage, ErrorClass::Internal] {
        let hold = claimed_hold(&db.pool).await;
        assert_eq!(queue::fail(&db.pool, &hold.write(), &failure(class)).await.unwrap(), Some(Status::Queued));
        assert!(claim(&db.pool).await.is_none(), "not at once");
        waits.push(queue::until_next(&db.pool).await.unwrap().unwrap().as_secs_f64());
        set(&db.pool, "job_a", "run_after = now()").await;
    }
    assert!(waits[0] > 0.3 && waits[1] > waits[0] && waits[1] < 10.0, "{waits:?}");
    let hold = claimed_hold(&db.pool).await;
    let last = queue::fail(&db.pool, &hold.write(), &failure(ErrorClass::Storage)).await.unwrap();
    assert_eq!(last, Some(Status::Failed));
}

#[tokio::test]
async fn a_write_that_comes_again_since_its_answer_was_lost_counts_once() {
    let db = TestDb::new().await;
    let pool = &db.pool;
    db.add_job("job_a", json!({"max_attempts": 1})).await;
    let hold = claimed_hold(pool).await;
    let set_down = hold.write();
    for _ in 0..2 {
        assert_eq!(queue::stopped(pool, &set_down).await.unwrap(), Some(Status::Queued));
    }
    assert_eq!(row(pool, "job_a").await["max_attempts"], 2);
    let hold = claimed_hold(pool).await;
    assert_eq!(queue::stopped(pool, &set_down).await.unwrap(), None, "somebody else's by now");
    let [start, teacher, moment, checkpoint, end] = [(); 5].map(|()| hold.write());
    let evaluation = Evaluation { top1: 50.0, top5: 90.0, loss: 1.0, images: 10 };
    let batch = Batch { logs: vec![(Level::Info, "once".into())], ..points([1, 2]) };
    for _ in 0..2 {
        assert!(queue::started(pool, &start, &started(0, 0)).await.unwrap());
    }
    for _ in 0..2 {
        assert!(queue::teacher_evaluated(pool, &teacher, &evaluation).await.unwrap());
    }
    for _ in 0..2 {
        assert!(queue::record(pool, &moment, &batch).await.unwrap());
    }
    for _ in 0..2 {
        assert!(queue::checkpoint_saved(pool, &checkpoint, &saved(&hold)).await.unwrap());
    }
    for _ in 0..2 {
        assert!(queue::publish(pool, &end, &outcome(), &[artifact(&hold)]).await.unwrap());
    }
    let kinds = sqlx::query_scalar("select kind from events where job_id = 'job_a' and attempt = 2 order by seq");
    let kinds: Vec<String> = kinds.fetch_all(pool).await.unwrap();
    assert_eq!(kinds, ["status", "log", "teacher", "log", "checkpoint", "status"]);
    db.add_job("job_b", json!({})).await;
    let end = claimed_hold(pool).await.write();
    for _ in 0..2 {
        assert_eq!(queue::fail(pool, &end, &failure(ErrorClass::WorkerLost)).await.unwrap(), Some(Status::Queued));
    }
    let entries = sqlx::query_scalar::<_, i64>("select count(*) from events where job_id = 'job_b'");
    assert_eq!(entries.fetch_one(pool).await.unwrap(), 2);
}

#[tokio::test]
async fn lost_workers_do_not_lengthen_the_pause_after_a_failure() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({"max_attempts": 20})).await;
    for _ in 0..8 {
        let hold = claimed_hold(&db.pool).await;
        queue::fail(&db.pool, &hold.write(), &failure(ErrorClass::WorkerLost)).await.unwrap();
    }
    let hold = claimed_hold(&db.pool).await;
    queue::fail(&db.pool, &hold.write(), &failure(ErrorClass::Storage)).await.unwrap();
    let wait = queue::until_next(&db.pool).await.unwrap().unwrap();
    assert!(wait < Duration::from_secs(2), "{wait:?}");
}

#[tokio::test]
async fn a_pause_or_a_drain_costs_no_attempt() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({"max_attempts": 1})).await;
    let drained = claimed_hold(&db.pool).await;
    assert_eq!(queue::stopped(&db.pool, &drained.write()).await.unwrap(), Some(Status::Queued));
    let paused = claimed_hold(&db.pool).await;
    set(&db.pool, "job_a", "status = 'pausing'").await;
    assert_eq!(queue::stopped(&db.pool, &paused.write()).await.unwrap(), Some(Status::Paused));
    assert!(claim(&db.pool).await.is_none());
    set(&db.pool, "job_a", "status = 'queued'").await;
    let hold = claimed_hold(&db.pool).await;
    assert_eq!(hold.attempt, 3);
    set(&db.pool, "job_a", "status = 'cancelling'").await;
    assert_eq!(queue::stopped(&db.pool, &hold.write()).await.unwrap(), Some(Status::Cancelled));
    assert!(row(&db.pool, "job_a").await["finished_at"].is_string());
    // The one attempt that was promised is still there for a failure: the others were set down in order.
    db.add_job("job_b", json!({"max_attempts": 1})).await;
    let hold = claimed_hold(&db.pool).await;
    queue::stopped(&db.pool, &hold.write()).await.unwrap();
    let hold = claimed_hold(&db.pool).await;
    let failed = queue::fail(&db.pool, &hold.write(), &failure(ErrorClass::Internal)).await.unwrap();
    assert_eq!(failed, Some(Status::Failed));
}

#[tokio::test]
async fn points_after_the_state_that_was_resumed_are_dropped() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({})).await;
    let hold = claimed_hold(&db.pool).await;
    queue::started(&db.pool, &hold.write(), &started(0, 0)).await.unwrap();
    queue::record(&db.pool, &hold.write(), &points(1..=35)).await.unwrap();
    queue::stopped(&db.pool, &hold.write()).await.unwrap();
    let hold = claimed_hold(&db.pool).await;
    queue::started(&db.pool, &hold.write(), &started(3, 30)).await.unwrap();
    assert_eq!(steps(&db.pool, "job_a").await, (1..=30).collect::<Vec<_>>());
    queue::record(&db.pool, &hold.write(), &points(31..=50)).await.unwrap();
    assert_eq!(steps(&db.pool, "job_a").await, (1..=50).collect::<Vec<_>>());
    let history = history(&db.pool, "job_a").await;
    assert!(history.iter().any(|event| event.1 == 2 && event.2.contains("resumed after epoch 3")), "{history:#?}");
}

#[tokio::test]
async fn a_batch_that_is_written_twice_counts_once() {
    // The connection can break after the database committed and before it said so; then the worker writes again.
    let db = TestDb::new().await;
    db.add_job("job_a", json!({})).await;
    let hold = claimed_hold(&db.pool).await;
    for _ in 0..2 {
        queue::record(&db.pool, &hold.write(), &points(1..=5)).await.unwrap();
    }
    assert_eq!(steps(&db.pool, "job_a").await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn what_a_trainer_reports_is_on_record() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({})).await;
    let hold = claimed_hold(&db.pool).await;
    let progress = Progress {
        epoch: 1,
        epochs: 5,
        step: 2,
        steps: 50,
        fraction: 0.04,
        images_per_second: f64::NAN,
        eta_seconds: f64::INFINITY,
    };
    let logs = vec![(Level::Info, "one\0".to_owned()), (Level::Warning, "two".to_owned())];
    let mut batch = Batch { progress: Some(progress), logs, ..points([7]) };
    batch.points[0].value = f64::NAN;
    assert!(queue::record(&db.pool, &hold.write(), &batch).await.unwrap());
    let evaluation = Evaluation { top1: 71.5, top5: 90.0, loss: 1.0, images: 10 };
    assert!(queue::teacher_evaluated(&db.pool, &hold.write(), &evaluation).await.unwrap());
    assert!(queue::checkpoint_saved(&db.pool, &hold.write(), &saved(&hold)).await.unwrap());
    let job = row(&db.pool, "job_a").await;
    assert_eq!((&job["progress"]["step"], &job["teacher"]["top1"]), (&json!(2), &json!(71.5)));
    let kinds: Vec<_> = history(&db.pool, "job_a").await.into_iter().map(|event| event.0).collect();
    assert_eq!(kinds, ["status", "log", "warning", "teacher", "checkpoint"]);
}

#[tokio::test]
async fn a_student_is_published_whole() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({})).await;
    let hold = claimed_hold(&db.pool).await;
    queue::checkpoint_saved(&db.pool, &hold.write(), &saved(&hold)).await.unwrap();
    assert_eq!(db::artifacts::get(&db.pool, "job_a", "student.safetensors").await.unwrap(), None);
    // A cancellation that comes too late does not undo a finished student.
    set(&db.pool, "job_a", "status = 'cancelling'").await;
    assert!(queue::publish(&db.pool, &hold.write(), &outcome(), &[artifact(&hold)]).await.unwrap());
    let found = db::artifacts::get(&db.pool, "job_a", "student.safetensors").await.unwrap();
    let found = found.expect("it is published");
    let expected = artifact(&hold);
    assert_eq!((found.name, found.key, found.sha256), (expected.name, expected.key, expected.sha256));
    let job = row(&db.pool, "job_a").await;
    assert_eq!(job["status"], "succeeded");
    assert_eq!(job["result"], json!(outcome()));
    assert_eq!(job["published_attempt"], 1);
    assert!(job["error"].is_null() && job["lease_expires_at"].is_null() && job["finished_at"].is_string());
}

#[tokio::test]
async fn a_job_waits_for_its_teacher() {
    let db = TestDb::new().await;
    db.add_job("job_teacher", json!({})).await;
    let pupil = json!({"teacher": {"job": "job_teacher"}, "distillation": {"method": "kd"}, "priority": 10});
    db.add_job("job_pupil", pupil).await;
    let mut listener = PgListener::connect_with(&db.pool).await.unwrap();
    let hold = claimed_hold(&db.pool).await;
    assert_eq!(hold.job, "job_teacher");
    assert!(claim(&db.pool).await.is_none());
    listener.listen("distillery_queue").await.unwrap();
    queue::publish(&db.pool, &hold.write(), &outcome(), &[artifact(&hold)]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), listener.recv()).await.expect("idle workers are woken").unwrap();
    assert_eq!(claimed_hold(&db.pool).await.job, "job_pupil");
}

#[tokio::test]
async fn a_job_whose_teacher_will_never_come_fails_and_says_so() {
    let db = TestDb::new().await;
    let pupil_of = |teacher: &str| json!({"teacher": {"job": teacher}, "distillation": {"method": "kd"}});
    for (prefix, end) in [("x", "fails"), ("y", "is cancelled"), ("z", "loses its worker")] {
        let [teacher, pupil, grandpupil, paused] =
            ["teacher", "pupil", "grandpupil", "paused"].map(|name| format!("job_{prefix}_{name}"));
        db.add_job(&teacher, json!({"max_attempts": 1})).await;
        db.add_job(&pupil, pupil_of(&teacher)).await;
        db.add_job(&grandpupil, pupil_of(&pupil)).await;
        db.add_job(&paused, pupil_of(&teacher)).await;
        set(&db.pool, &paused, "status = 'paused'").await;
        let hold = claimed_hold(&db.pool).await;
        assert_eq!(hold.job, teacher);
        match end {
            "fails" => drop(queue::fail(&db.pool, &hold.write(), &failure(ErrorClass::User)).await.unwrap()),
            "is cancelled" => {
                set(&db.pool, &teacher, "status = 'cancelling'").await;
                queue::stopped(&db.pool, &hold.write()).await.unwrap();
            }
            _ => {
                set(&db.pool, &teacher, "lease_expires_at = now() - interval '1 second'").await;
                queue::rescue_expired(&db.pool).await.unwrap();
            }
        }
        for (job, of) in [(&pupil, &teacher), (&grandpupil, &pupil), (&paused, &teacher)] {
            let job = row(&db.pool, job).await;
            assert_eq!((&job["status"], &job["error"]["class"]), (&json!("failed"), &json!("user")), "{end}");
            assert!(job["error"]["message"].as_str().unwrap().contains(of), "{job:#}");
        }
        history(&db.pool, &pupil).await;
    }
}

#[tokio::test]
async fn a_teacher_cancelled_while_it_waited_is_noticed_by_the_rescuer() {
    let db = TestDb::new().await;
    db.add_job("job_teacher", json!({})).await;
    db.add_job("job_pupil", json!({"teacher": {"job": "job_teacher"}, "distillation": {"method": "kd"}})).await;
    // The API cancels a queued job by itself.
    set(&db.pool, "job_teacher", "status = 'cancelled'").await;
    assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);
    assert_eq!(status(&db.pool, "job_pupil").await, Status::Failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_history_has_no_gap_however_many_write() {
    let db = TestDb::new().await;
    db.add_job("job_a", json!({})).await;
    let hold = claimed_hold(&db.pool).await;
    let writers = (0..8).map(|writer| {
        let (pool, hold) = (db.pool.clone(), hold.clone());
        tokio::spawn(async move {
            for line in 0..10 {
                let logs = (0..3).map(|index| (Level::Info, format!("{writer}/{line}/{index}"))).collect();
                queue::record(&pool, &hold.write(), &Batch { logs, ..Batch::default() }).await.unwrap();
            }
        })
    });
    futures::future::try_join_all(writers).await.unwrap();
    let history = history(&db.pool, "job_a").await;
    assert_eq!(history.len(), 1 + 8 * 10 * 3);
    // Lines of one batch stay together and in order.
    for batch in history[1..].chunks(3) {
        let of_batch: Vec<_> = batch.iter().map(|event| event.2.rsplit_once('/').unwrap()).collect();
        assert!(of_batch.iter().all(|line| line.0 == of_batch[0].0), "{batch:?}");
        assert_eq!(of_batch.iter().map(|line| line.1).collect::<Vec<_>>(), ["0", "1", "2"]);
    }
}

#[tokio::test]
async fn a_worker_that_was_struck_off_comes_back_with_its_heartbeat() {
    let db = TestDb::new().await;
    let worker = worker(WORKER, 1);
    let count =
        async || -> i64 { sqlx::query_scalar("select count(*) from workers").fetch_one(&db.pool).await.unwrap() };
    workers::register(&db.pool, &worker).await.unwrap();
    workers::register(&db.pool, &worker).await.unwrap();
    assert_eq!(count().await, 1);
    sqlx::query("update workers set heartbeat_at = now() - interval '1 week'").execute(&db.pool).await.unwrap();
    queue::rescue_expired(&db.pool).await.unwrap();
    assert_eq!(count().await, 0);
    workers::register(&db.pool, &worker).await.unwrap();
    assert_eq!(count().await, 1);
    workers::forget(&db.pool, WORKER).await.unwrap();
    assert_eq!(count().await, 0);
}

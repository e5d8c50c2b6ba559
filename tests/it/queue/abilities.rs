//! Workers get only jobs that they can run.

use std::time::Duration;

use distillery::db::jobs::{Change, Status};
use distillery::db::queue::{self, DeviceCapacity};
use distillery::db::workers::{self, Abilities, NewWorker};
use distillery::protocol::ErrorClass;
use serde_json::json;

use super::{LEASE, WORKER, failure, history, status, worker};
use crate::support::db::TestDb;

/// Registers a worker that has these data sets.
async fn register(db: &TestDb, id: &str, datasets: &[(&str, &str)], stopped_because: Option<&str>) {
    let datasets = datasets.iter().map(|(name, fingerprint)| ((*name).to_owned(), (*fingerprint).to_owned())).collect();
    let abilities =
        Some(Abilities { datasets, stopped_because: stopped_because.map(str::to_owned), ..Abilities::default() });
    workers::register(&db.pool, &NewWorker { abilities, ..worker(id, 1) }).await.unwrap();
}

async fn take(db: &TestDb, worker: &str) -> Option<queue::Claim> {
    queue::claim(&db.pool, worker, DeviceCapacity::ONE, LEASE).await.unwrap()
}

/// The job's last message, after everything has waited for a while.
async fn explanation(db: &TestDb, job: &str) -> String {
    let ages = "update workers set started_at = now() - interval '1 minute';
        update jobs set run_after = now() - interval '1 minute'";
    sqlx::raw_sql(ages).execute(&db.pool).await.unwrap();
    queue::explain_waits(&db.pool).await.unwrap();
    history(db, job).await.pop().unwrap().2
}

#[tokio::test]
async fn a_worker_gets_only_jobs_whose_data_set_it_has() {
    let db = TestDb::new().await;
    register(&db, "wrk_empty", &[], None).await;
    register(&db, "wrk_other", &[("patterns", "bb")], None).await;
    register(&db, "wrk_has", &[("patterns", "aa"), ("more", "cc")], None).await;
    let id = db.add_job(json!({})).await;
    db.set(id, "dataset_fingerprint = 'aa'").await;
    for without in ["wrk_empty", "wrk_other"] {
        assert_eq!(take(&db, without).await, None, "{without}");
    }
    let claim = take(&db, "wrk_has").await.expect("it has what the job needs");
    assert_eq!(claim.dataset_fingerprint.as_deref(), Some("aa"));
    // A job without a fingerprint is content with the name.
    db.add_job(json!({})).await;
    assert_eq!(take(&db, "wrk_empty").await, None);
    assert!(take(&db, "wrk_other").await.is_some());
}

#[tokio::test]
async fn a_job_that_no_worker_can_run_says_why_once() {
    let db = TestDb::new().await;
    register(&db, WORKER, &[("patterns", "bb")], None).await;
    let missing = db.add_job(json!({"dataset": {"name": "vanished"}})).await;
    let changed = db.add_job(json!({})).await;
    db.set(changed, "dataset_fingerprint = 'aa'").await;
    let newer = db.add_job(json!({})).await;
    db.set(newer, "spec_version = 1000").await;
    let large = db.add_job(json!({"training": {"devices": 2}})).await;
    let runnable = db.add_job(json!({})).await;
    for (job, words) in [
        (missing, "no running worker has the data set vanished"),
        (changed, "cancel and retry the job to train on what the workers have"),
        (newer, "update the workers"),
        (large, "it asks for 2 devices"),
    ] {
        let said = explanation(&db, job).await;
        assert!(said.starts_with("the job waits: ") && said.contains(words), "{said}");
        assert_eq!(history(&db, job).await.len(), 2);
    }
    assert_eq!(history(&db, runnable).await.len(), 1);
    sqlx::raw_sql("update workers set stopped_because = 'its disk is full'").execute(&db.pool).await.unwrap();
    assert!(explanation(&db, runnable).await.contains("its disk is full"));
    // And the way out that it names.
    db.change(changed, Change::Cancel).await;
    db.change(changed, Change::Retry).await;
    sqlx::raw_sql("update workers set stopped_because = null").execute(&db.pool).await.unwrap();
    let taken = [take(&db, WORKER).await, take(&db, WORKER).await].map(|claim| claim.unwrap().token.job);
    assert_eq!(taken, [changed, runnable]);
}

#[tokio::test]
async fn a_worker_that_still_checks_its_machine_is_no_fault_for_a_jobs_history() {
    let db = TestDb::new().await;
    register(&db, WORKER, &[("patterns", "aa")], Some(workers::BEING_CHECKED)).await;
    let id = db.add_job(json!({})).await;
    let submitted = history(&db, id).await.pop().unwrap().2;
    assert_eq!(explanation(&db, id).await, submitted);
    let large = db.add_job(json!({"training": {"devices": 2}})).await;
    assert!(explanation(&db, large).await.contains("it asks for 2 devices"));
    // Another's fault is one only where the first could not run the job.
    register(&db, "wrk_full", &[("patterns", "aa")], Some("no space left")).await;
    assert_eq!(explanation(&db, id).await, submitted);
    register(&db, WORKER, &[], Some(workers::BEING_CHECKED)).await;
    let said = explanation(&db, id).await;
    assert!(said.contains("the workers that could run it take no jobs: no space left"), "{said}");
}

#[tokio::test]
async fn a_fault_of_the_machine_costs_no_attempt_and_the_job_goes_to_another_worker() {
    let db = TestDb::new().await;
    for id in ["wrk_bad", "wrk_good"] {
        register(&db, id, &[("patterns", "aa")], None).await;
    }
    let id = db.add_job(json!({"max_attempts": 1})).await;
    let fail = async |worker: &str| {
        let token = take(&db, worker).await.expect("it gets the job").token;
        let next = queue::fail(&db.pool, &token.write(), &failure(ErrorClass::Machine)).await.unwrap();
        assert_eq!(next, Some(Status::Queued));
        db.set(id, "run_after = now()").await;
    };
    fail("wrk_bad").await;
    let job = db.job(id).await;
    assert_eq!((&job["error"]["class"], &job["max_attempts"]), (&json!("machine"), &json!(2)));
    assert_eq!(take(&db, "wrk_bad").await, None, "there is another");
    fail("wrk_good").await;
    // Both have failed: there is nobody left to wait for.
    fail("wrk_bad").await;
    let gone = "update workers set stopped_because = 'its disk is full' where id = 'wrk_new'";
    register(&db, "wrk_new", &[("patterns", "aa")], None).await;
    assert_eq!(take(&db, "wrk_bad").await, None, "a third one has come");
    sqlx::raw_sql(gone).execute(&db.pool).await.unwrap();
    fail("wrk_bad").await;
    sqlx::raw_sql("update workers set stopped_because = null").execute(&db.pool).await.unwrap();
    // What a user asks for starts with a clean sheet.
    db.change(id, Change::Pause).await;
    db.change(id, Change::Resume).await;
    assert!(take(&db, "wrk_bad").await.is_some());
    assert_eq!(status(&db, id).await, Status::Running);
}

#[tokio::test]
async fn a_job_does_not_wait_for_another_worker_that_was_silent_for_a_lease() {
    let db = TestDb::new().await;
    for id in ["wrk_bad", "wrk_killed"] {
        register(&db, id, &[("patterns", "aa")], None).await;
    }
    let lease = Duration::from_secs(15);
    let take = async || queue::claim(&db.pool, "wrk_bad", DeviceCapacity::ONE, lease).await.unwrap();
    let id = db.add_job(json!({})).await;
    let token = take().await.expect("it gets the job").token;
    queue::fail(&db.pool, &token.write(), &failure(ErrorClass::Machine)).await.unwrap();
    db.set(id, "run_after = now()").await;
    let silent_for = async |seconds: i32| {
        let update = "update workers set heartbeat_at = now() - make_interval(secs => $1) where id = 'wrk_killed'";
        sqlx::query(update).bind(f64::from(seconds)).execute(&db.pool).await.unwrap();
    };
    // Two heartbeats late, it may still run.
    silent_for(8).await;
    assert_eq!(take().await, None);
    silent_for(16).await;
    assert!(take().await.is_some(), "its own jobs go to others now");
}

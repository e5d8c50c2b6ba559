//! How attempts end, and what becomes of their jobs.

use std::time::Duration;

use distillery::db::jobs::{Change, Status};
use distillery::db::queue::{self, SavedCheckpoint};
use distillery::db::{self, attempts};
use distillery::protocol::ErrorClass;
use serde_json::json;

use super::{artifact, claim, claimed_token, failure, history, outcome, saved};
use crate::support::db::TestDb;

#[tokio::test]
async fn transient_failures_are_retried_later_and_others_are_final() {
    let db = TestDb::new().await;
    for class in [ErrorClass::User, ErrorClass::Oom, ErrorClass::Numeric] {
        let id = db.add_job(json!({})).await;
        let token = claimed_token(&db.pool).await;
        assert_eq!(queue::fail(&db.pool, &token.write(), &failure(class)).await.unwrap(), Some(Status::Failed));
        let job = db.job(id).await;
        assert_eq!(job["error"]["class"], json!(class));
        assert!(job["error"]["message"].as_str().unwrap().starts_with("it "));
    }
    let id = db.add_job(json!({"max_attempts": 3})).await;
    let mut waits = Vec::new();
    for class in [ErrorClass::Storage, ErrorClass::Internal] {
        let token = claimed_token(&db.pool).await;
        assert_eq!(queue::fail(&db.pool, &token.write(), &failure(class)).await.unwrap(), Some(Status::Queued));
        assert!(claim(&db.pool).await.is_none(), "not at once");
        waits.push(queue::until_next(&db.pool).await.unwrap().unwrap().as_secs_f64());
        db.set(id, "run_after = now()").await;
    }
    assert!(waits[0] > 0.3 && waits[1] > waits[0] && waits[1] < 10.0, "{waits:?}");
    let token = claimed_token(&db.pool).await;
    let last = queue::fail(&db.pool, &token.write(), &failure(ErrorClass::Storage)).await.unwrap();
    assert_eq!(last, Some(Status::Failed));
}

#[tokio::test]
async fn lost_workers_do_not_lengthen_the_pause_after_a_failure() {
    let db = TestDb::new().await;
    db.add_job(json!({"max_attempts": 20})).await;
    for _ in 0..8 {
        let token = claimed_token(&db.pool).await;
        queue::fail(&db.pool, &token.write(), &failure(ErrorClass::WorkerLost)).await.unwrap();
    }
    let token = claimed_token(&db.pool).await;
    queue::fail(&db.pool, &token.write(), &failure(ErrorClass::Storage)).await.unwrap();
    let wait = queue::until_next(&db.pool).await.unwrap().unwrap();
    assert!(wait < Duration::from_secs(2), "{wait:?}");
}

#[tokio::test]
async fn a_pause_or_a_drain_costs_no_attempt() {
    let db = TestDb::new().await;
    let job_a = db.add_job(json!({"max_attempts": 1})).await;
    let drained = claimed_token(&db.pool).await;
    assert_eq!(queue::stopped(&db.pool, &drained.write()).await.unwrap(), Some(Status::Queued));
    let paused = claimed_token(&db.pool).await;
    db.change(job_a, Change::Pause).await;
    assert_eq!(queue::stopped(&db.pool, &paused.write()).await.unwrap(), Some(Status::Paused));
    assert!(claim(&db.pool).await.is_none());
    db.change(job_a, Change::Resume).await;
    let token = claimed_token(&db.pool).await;
    assert_eq!(token.attempt, 3);
    db.change(job_a, Change::Cancel).await;
    assert_eq!(queue::stopped(&db.pool, &token.write()).await.unwrap(), Some(Status::Cancelled));
    assert!(db.job(job_a).await["finished_at"].is_string());
    // The one attempt that was promised is still there for a failure: the others were set down in order.
    db.add_job(json!({"max_attempts": 1})).await;
    let token = claimed_token(&db.pool).await;
    queue::stopped(&db.pool, &token.write()).await.unwrap();
    let token = claimed_token(&db.pool).await;
    let failed = queue::fail(&db.pool, &token.write(), &failure(ErrorClass::Internal)).await.unwrap();
    assert_eq!(failed, Some(Status::Failed));
}

#[tokio::test]
async fn a_student_is_published_whole() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let token = claimed_token(&db.pool).await;
    queue::checkpoint_saved(&db.pool, &token.write(), &saved(&token)).await.unwrap();
    assert_eq!(db::artifacts::get(&db.pool, id, "student.safetensors").await.unwrap(), None);
    // A cancellation that comes too late does not undo a finished student.
    db.change(id, Change::Cancel).await;
    assert!(queue::publish(&db.pool, &token.write(), &outcome(), &[artifact(&token)]).await.unwrap());
    let found = db::artifacts::get(&db.pool, id, "student.safetensors").await.unwrap();
    let (found, expected) = (found.expect("it is published"), artifact(&token));
    assert_eq!((found.name, found.key, found.sha256), (expected.name, expected.key, expected.sha256));
    let job = db.job(id).await;
    assert_eq!(job["status"], "succeeded");
    assert_eq!(job["result"], json!(outcome()));
    assert_eq!(job["published_attempt"], 1);
    assert!(job["error"].is_null() && job["lease_expires_at"].is_null() && job["finished_at"].is_string());
}

/// A worker takes the job, saves a checkpoint after an epoch if there is one, and is lost.
async fn lose(db: &TestDb, job: &str, epoch: Option<u32>) {
    let token = claimed_token(&db.pool).await;
    if let Some(epoch) = epoch {
        let saved = SavedCheckpoint { epoch, step: u64::from(epoch) * 10, ..saved(&token) };
        assert!(queue::checkpoint_saved(&db.pool, &token.write(), &saved).await.unwrap());
    }
    db.expire_lease(job).await;
    assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);
}

/// Whether each attempt counts.
async fn counted(db: &TestDb, job: &str) -> Vec<Option<bool>> {
    attempts::list(&db.pool, job).await.unwrap().into_iter().map(|attempt| attempt.counted).collect()
}

#[tokio::test]
async fn losses_count_only_where_the_job_did_not_get_further() {
    let db = TestDb::new().await;
    // With the default number of attempts.
    let id = db.add_job(json!({})).await;
    for epoch in [9, 16, 23, 30] {
        lose(&db, id, Some(epoch)).await;
        assert_eq!(db.job(id).await["status"], "queued", "after epoch {epoch}");
    }
    let said = history(&db, id).await.pop().unwrap().2;
    assert!(said.contains("does not count (it had saved a new checkpoint; 4 of at most 100)"), "{said}");
    // No checkpoint, one that repeats an earlier one, and none: three that got nowhere.
    for epoch in [None, Some(30), None] {
        assert_eq!(db.job(id).await["status"], "queued");
        lose(&db, id, epoch).await;
    }
    assert_eq!(db.job(id).await["status"], "failed");
    let expected = [false, false, false, false, true, true, true].map(Some);
    assert_eq!(counted(&db, id).await, expected);
}

#[tokio::test]
async fn a_history_counts_the_tries_of_the_specification_and_never_more_than_these() {
    let db = TestDb::new().await;
    // With three tries, the default.
    let id = db.add_job(json!({})).await;
    let drained = claimed_token(&db.pool).await;
    queue::stopped(&db.pool, &drained.write()).await.unwrap();
    for (epoch, said) in [
        (Some(1), "attempt 3 follows (tries used: 0 of 3)"),
        (None, "attempt 4 follows (tries used: 1 of 3)"),
        (Some(2), "attempt 5 follows (tries used: 1 of 3)"),
        (None, "attempt 6 follows (tries used: 2 of 3)"),
        (None, "no attempt follows (tries used: 3 of 3)"),
    ] {
        lose(&db, id, epoch).await;
        let message = history(&db, id).await.pop().unwrap().2;
        assert!(message.ends_with(said), "{said:?} at the end of {message:?}");
    }
    assert_eq!(db.job(id).await["status"], "failed");
    db.change(id, Change::Retry).await;
    lose(&db, id, None).await;
    let message = history(&db, id).await.pop().unwrap().2;
    assert!(message.ends_with("attempt 8 follows (tries used: 1 of 3)"), "{message}");
}

#[tokio::test]
async fn failures_of_a_job_that_gets_further_are_retried_too() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({"max_attempts": 1})).await;
    for (epoch, class) in [(1, ErrorClass::Storage), (2, ErrorClass::Internal)] {
        let token = claimed_token(&db.pool).await;
        let saved = SavedCheckpoint { epoch, step: u64::from(epoch) * 10, ..saved(&token) };
        queue::checkpoint_saved(&db.pool, &token.write(), &saved).await.unwrap();
        let next = queue::fail(&db.pool, &token.write(), &failure(class)).await.unwrap();
        assert_eq!(next, Some(Status::Queued));
        db.set(id, "run_after = now()").await;
    }
    let token = claimed_token(&db.pool).await;
    let saved = SavedCheckpoint { epoch: 3, step: 30, ..saved(&token) };
    queue::checkpoint_saved(&db.pool, &token.write(), &saved).await.unwrap();
    let next = queue::fail(&db.pool, &token.write(), &failure(ErrorClass::Numeric)).await.unwrap();
    assert_eq!(next, Some(Status::Failed), "what no attempt can mend is not tried again");
}

#[tokio::test]
async fn failures_that_do_not_count_have_an_end_and_a_retry_starts_over() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({"max_attempts": 1})).await;
    db.set(id, "uncounted = 99").await;
    lose(&db, id, Some(1)).await;
    assert_eq!(db.job(id).await["status"], "queued");
    lose(&db, id, Some(2)).await;
    assert_eq!(db.job(id).await["status"], "failed");
    assert_eq!(counted(&db, id).await, [Some(false), Some(true)]);
    db.change(id, Change::Retry).await;
    lose(&db, id, Some(3)).await;
    assert_eq!(db.job(id).await["status"], "queued");
}

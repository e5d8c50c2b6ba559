//! Leases, heartbeats, and attempts that have lost their job.

use distillery::db::jobs::{Change, Status};
use distillery::db::queue;
use distillery::db::{attempts, workers};
use distillery::protocol::{ErrorClass, Evaluation};
use serde_json::json;

use super::{
    LEASE, WORKER, artifact, claim, claimed_token, everything, failure, history, outcome, points, saved, started,
    status, worker,
};
use crate::support::db::TestDb;

#[tokio::test]
async fn a_stale_attempt_changes_nothing() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let stale = claimed_token(&db.pool).await;
    queue::record(&db.pool, &stale.write(), &points([1, 2])).await.unwrap();
    db.expire_lease(id).await;
    assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);

    let mut holder = None;
    // Queued again, then held by another, then finished: nothing of the first attempt counts any more.
    for stage in 0..3 {
        let before = everything(&db, id).await;
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
        assert_eq!(everything(&db, id).await, before, "stage {stage}");
        match stage {
            0 => holder = Some(claimed_token(pool).await),
            1 => {
                let token = holder.take().expect("it was claimed again");
                assert_eq!(token.attempt, 2);
                assert!(queue::publish(pool, &token.write(), &outcome(), &[artifact(&token)]).await.unwrap());
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_lease_that_ran_out_is_not_renewed_even_if_nobody_noticed() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let token = claimed_token(&db.pool).await;
    db.set(id, "lease_expires_at = now() + interval '1 second'").await;
    assert_eq!(queue::heartbeat(&db.pool, &token, LEASE).await.unwrap(), Some(Status::Running));
    let held: bool = sqlx::query_scalar("select lease_expires_at > now() + interval '50 seconds' from jobs")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert!(held);
    assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 0);
    db.expire_lease(id).await;
    assert_eq!(queue::heartbeat(&db.pool, &token, LEASE).await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_attempt_was_last_seen_at_its_last_heartbeat_or_write() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    for (renewed, written, heard) in [(40, 30, 30_i64), (20, 30, 20)] {
        let token = claimed_token(&db.pool).await;
        assert!(queue::record(&db.pool, &token.write(), &points([1])).await.unwrap());
        let ages = "update jobs set lease_renewed_at = now() - make_interval(secs => $1),
            written_at = now() - make_interval(secs => $2), lease_expires_at = now() - interval '1 second'";
        sqlx::query(ages).bind(f64::from(renewed)).bind(f64::from(written)).execute(&db.pool).await.unwrap();
        assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);
        let attempt = attempts::list(&db.pool, id).await.unwrap().pop().unwrap();
        let silence = attempt.ended_at.unwrap() - attempt.heard_at.unwrap();
        assert!((heard..heard + 10).contains(&silence.num_seconds()), "{silence}");
    }
    let token = claimed_token(&db.pool).await;
    assert_eq!(attempts::list(&db.pool, id).await.unwrap()[2].heard_at, None);
    queue::stopped(&db.pool, &token.write()).await.unwrap();
    let ended = attempts::list(&db.pool, id).await.unwrap().pop().unwrap();
    assert_eq!(ended.heard_at, ended.ended_at, "one that ends in order is heard of to its end");
}

#[tokio::test]
async fn a_lost_worker_costs_an_attempt_until_none_is_left() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({"max_attempts": 2})).await;
    // The first gets further than any before, and does not count.
    for attempt in 1..=3 {
        let claim = claim(&db.pool).await.expect("queued again at once");
        assert_eq!(claim.token.attempt, attempt);
        assert_eq!(claim.checkpoint.is_some(), attempt > 1, "goes on where the last one got to");
        queue::checkpoint_saved(&db.pool, &claim.token.write(), &saved(&claim.token)).await.unwrap();
        db.expire_lease(id).await;
        assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);
        assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 0);
    }
    let job = db.job(id).await;
    assert_eq!((&job["status"], &job["error"]["class"]), (&json!("failed"), &json!("worker_lost")));
    assert!(job["finished_at"].is_string());
    let history = history(&db, id).await;
    assert_eq!(history.iter().filter(|event| event.0 == "status").count(), 7, "{history:#?}");
}

#[tokio::test]
async fn a_request_outlives_the_worker_that_should_have_obeyed_it() {
    let db = TestDb::new().await;
    for (change, asked, then) in
        [(Change::Cancel, Status::Cancelling, Status::Cancelled), (Change::Pause, Status::Pausing, Status::Paused)]
    {
        let id = db.add_job(json!({})).await;
        let token = claimed_token(&db.pool).await;
        db.change(id, change).await;
        assert_eq!(queue::heartbeat(&db.pool, &token, LEASE).await.unwrap(), Some(asked));
        db.expire_lease(id).await;
        queue::rescue_expired(&db.pool).await.unwrap();
        assert_eq!(status(&db, id).await, then);
    }
}

#[tokio::test]
async fn a_worker_that_was_removed_registers_again_with_its_heartbeat() {
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

//! Which job a worker gets.

use distillery::db::jobs::Status;
use distillery::db::queue;
use distillery::db::workers::{self, NewWorker};
use serde_json::json;

use super::{WORKER, claim, claimed_token, history, worker};
use crate::support::db::TestDb;

#[tokio::test]
async fn jobs_are_taken_by_priority_then_by_age() {
    let db = TestDb::new().await;
    let mut ids = Vec::new();
    for priority in [0, 5, 0, -1, 5] {
        ids.push(db.add_job(json!({"priority": priority})).await);
    }
    let mut order = Vec::new();
    while let Some(claim) = claim(&db.pool).await {
        assert_eq!(claim.token.attempt, 1);
        assert_eq!(claim.checkpoint, None);
        order.push(claim.token.job);
    }
    assert_eq!(order, [1, 4, 0, 2, 3].map(|index: usize| ids[index]));
}

#[tokio::test]
async fn a_claimed_job_names_its_worker_and_its_start() {
    let db = TestDb::new().await;
    let worker = NewWorker { memory_bytes: Some(1), ..worker(WORKER, 1) };
    workers::register(&db.pool, &worker).await.unwrap();
    let id = db.add_job(json!({})).await;
    claimed_token(&db.pool).await;
    let job = db.job(id).await;
    assert_eq!((&job["status"], &job["worker"], &job["attempt"]), (&json!("running"), &json!(WORKER), &json!(1)));
    assert!(job["started_at"].is_string() && job["lease_expires_at"].is_string());
    let history = history(&db, id).await;
    let (kind, attempt, message) = history.last().unwrap();
    assert!(kind == "status" && *attempt == 1 && message.contains("host/cpu"), "{history:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_claimers_never_take_the_same_job() {
    let db = TestDb::new().await;
    let mut all = Vec::new();
    for _ in 0..40 {
        all.push(db.add_job(json!({})).await);
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
    assert_eq!(taken, all);
}

#[tokio::test]
async fn a_locked_job_is_skipped_not_waited_for() {
    let db = TestDb::new().await;
    let job_a = db.add_job(json!({})).await;
    let job_b = db.add_job(json!({})).await;
    let mut other = db.pool.begin().await.unwrap();
    sqlx::query("select from jobs where id = $1 for update").bind(job_a).execute(&mut *other).await.unwrap();
    assert_eq!(claimed_token(&db.pool).await.job, job_b);
    assert!(claim(&db.pool).await.is_none());
    other.rollback().await.unwrap();
    assert_eq!(claimed_token(&db.pool).await.job, job_a);
}

#[tokio::test]
async fn only_queued_jobs_whose_time_has_come_are_taken() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    for status in Status::ALL.into_iter().filter(|status| *status != Status::Queued) {
        let update = "update jobs set status = $1, lease_expires_at = case when $2 then now() end";
        sqlx::query(update)
            .bind(status.name())
            .bind(matches!(status, Status::Running | Status::Pausing | Status::Cancelling))
            .execute(&db.pool)
            .await
            .unwrap();
        assert!(claim(&db.pool).await.is_none(), "{status:?}");
    }
    db.set(id, "status = 'queued', lease_expires_at = null, run_after = now() + interval '1 hour'").await;
    assert!(claim(&db.pool).await.is_none());
    let wait = queue::until_next(&db.pool).await.unwrap().unwrap();
    assert!((3590.0..=3600.0).contains(&wait.as_secs_f64()), "{wait:?}");
    db.set(id, "run_after = now()").await;
    assert_eq!(queue::until_next(&db.pool).await.unwrap(), None);
    assert!(claim(&db.pool).await.is_some());
}

//! Jobs that need several devices.

use distillery::db::queue::{self, DeviceCapacity};
use distillery::db::workers;
use serde_json::json;
use sqlx::PgPool;

use super::{LEASE, WORKER, worker};
use crate::support::db::TestDb;

/// The job that a worker with four devices, and so many of them free, gets.
async fn take(pool: &PgPool, worker: &str, free: i32) -> Option<String> {
    queue::claim(pool, worker, DeviceCapacity { total: 4, free }, LEASE).await.unwrap().map(|claim| claim.token.job)
}

async fn waits_for(pool: &PgPool, worker: &str) -> Option<String> {
    sqlx::query_scalar("select waits_for from workers where id = $1").bind(worker).fetch_one(pool).await.unwrap()
}

async fn add_job_for(db: &TestDb, devices: u32, priority: i32) -> &'static str {
    db.add_job(json!({"priority": priority, "training": {"devices": devices, "batch_size": 64}})).await
}

#[tokio::test]
async fn a_job_for_several_devices_goes_to_a_worker_that_has_enough_of_them() {
    let db = TestDb::new().await;
    let job_a = add_job_for(&db, 4, 0).await;
    let job_b = add_job_for(&db, 1, 0).await;
    for (id, devices) in [("wrk_small", 2), ("wrk_large", 4)] {
        workers::register(&db.pool, &worker(id, devices)).await.unwrap();
    }
    // It passes over what it could never run, and does not wait for it.
    let claim =
        queue::claim(&db.pool, "wrk_small", DeviceCapacity { total: 2, free: 2 }, LEASE).await.unwrap().unwrap();
    assert_eq!(claim.token.job, job_b);
    assert_eq!(waits_for(&db.pool, "wrk_small").await, None);
    let claim =
        queue::claim(&db.pool, "wrk_large", DeviceCapacity { total: 4, free: 4 }, LEASE).await.unwrap().unwrap();
    assert_eq!((claim.token.job.as_str(), claim.spec.training.devices), (job_a, 4));
}

#[tokio::test]
async fn free_devices_are_reserved_for_a_large_job_whose_turn_it_is() {
    let db = TestDb::new().await;
    workers::register(&db.pool, &worker(WORKER, 4)).await.unwrap();
    let job_a = add_job_for(&db, 3, 0).await;
    assert_eq!(take(&db.pool, WORKER, 4).await.as_deref(), Some(job_a));
    let job_b = add_job_for(&db, 2, 0).await;
    let job_c = add_job_for(&db, 1, 0).await;
    assert_eq!(take(&db.pool, WORKER, 1).await, None, "otherwise small jobs would go before a large one for ever");
    assert_eq!(waits_for(&db.pool, WORKER).await.as_deref(), Some(job_b));
    // What is more urgent need not wait.
    let job_d = add_job_for(&db, 1, 1).await;
    assert_eq!(take(&db.pool, WORKER, 1).await.as_deref(), Some(job_d));
    assert_eq!(waits_for(&db.pool, WORKER).await, None);
    assert_eq!(take(&db.pool, WORKER, 3).await.as_deref(), Some(job_b));
    assert_eq!(take(&db.pool, WORKER, 1).await.as_deref(), Some(job_c));
    assert_eq!(take(&db.pool, WORKER, 0).await, None);
}

#[tokio::test]
async fn one_worker_reserves_devices_for_a_job_and_any_worker_with_enough_takes_it() {
    let db = TestDb::new().await;
    for id in ["wrk_a", "wrk_b", "wrk_c"] {
        workers::register(&db.pool, &worker(id, 4)).await.unwrap();
    }
    let job_a = add_job_for(&db, 4, 0).await;
    let job_b = add_job_for(&db, 4, 0).await;
    let job_c = add_job_for(&db, 1, 0).await;
    // Each large job has one worker that waits for it, and none waits for two.
    assert_eq!(take(&db.pool, "wrk_a", 2).await, None);
    assert_eq!(take(&db.pool, "wrk_b", 2).await, None);
    assert_eq!(waits_for(&db.pool, "wrk_a").await.as_deref(), Some(job_a));
    assert_eq!(waits_for(&db.pool, "wrk_b").await.as_deref(), Some(job_b));
    assert_eq!(take(&db.pool, "wrk_c", 2).await.as_deref(), Some(job_c));
    assert_eq!(take(&db.pool, "wrk_c", 4).await.as_deref(), Some(job_a));
    // Whose job is gone waits for no other's, unless that worker is gone.
    assert_eq!(take(&db.pool, "wrk_a", 2).await, None);
    assert_eq!(waits_for(&db.pool, "wrk_a").await, None);
    sqlx::query("update workers set heartbeat_at = now() - interval '2 minutes' where id = 'wrk_b'")
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(take(&db.pool, "wrk_a", 2).await, None);
    assert_eq!(waits_for(&db.pool, "wrk_a").await.as_deref(), Some(job_b));
}

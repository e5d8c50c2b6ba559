//! Promise: an attempt's row says where it ran and what it resumed from, and only that attempt can write about its job.

use std::time::Duration;

use distillery::db::attempts::{self, Attempt};
use distillery::db::queue::{self, DeviceCapacity, FencingToken};
use distillery::db::{self, MIGRATIONS};
use distillery::protocol::Started;
use serde_json::json;
use sqlx::PgPool;

use crate::support::db::TestDb;

async fn claim(pool: &PgPool) -> FencingToken {
    let claim = queue::claim(pool, "wrk_1", DeviceCapacity::ONE, Duration::from_secs(60)).await.unwrap();
    claim.expect("a job is queued").token
}

fn started(resumed_epochs: u32, resumed_step: u64) -> Started {
    Started {
        device: "cuda:0".into(),
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

/// What an attempt shows of its trainer, and the worker's name.
fn facts(attempt: &Attempt) -> (Option<&str>, Option<&str>, Option<i32>, Option<i64>) {
    (attempt.worker.as_deref(), attempt.device.as_deref(), attempt.resumed_epochs, attempt.resumed_step)
}

#[tokio::test]
async fn an_attempt_says_where_it_runs_once_its_trainer_has_started() {
    let db = TestDb::new().await;
    let job = db.add_job(json!({})).await;
    let token = claim(&db.pool).await;
    let list = attempts::list(&db.pool, job).await.unwrap();
    assert_eq!(facts(&list[0]), (Some("wrk_1"), None, None, None), "an unknown worker goes by its id");
    assert!(queue::started(&db.pool, &token.write(), &started(2, 20)).await.unwrap());
    let list = attempts::list(&db.pool, job).await.unwrap();
    assert_eq!(facts(&list[0]), (Some("wrk_1"), Some("cuda:0"), Some(2), Some(20)));
}

#[tokio::test]
async fn attempts_of_an_older_database_take_these_facts_from_its_history() {
    let db = TestDb::new().await;
    let claimed = db.add_job(json!({})).await;
    claim(&db.pool).await;
    let started_job = db.add_job(json!({})).await;
    let token = claim(&db.pool).await;
    queue::started(&db.pool, &token.write(), &started(3, 30)).await.unwrap();
    let before =
        [attempts::list(&db.pool, claimed).await.unwrap(), attempts::list(&db.pool, started_job).await.unwrap()];
    let old = "alter table attempts drop column worker_name, drop column device, drop column resumed_epochs,
        drop column resumed_step";
    sqlx::raw_sql(old).execute(&db.pool).await.unwrap();
    let migration = MIGRATIONS.iter().find(|migration| migration.version == 20_261_129_000_001).expect("it is there");
    sqlx::raw_sql(migration.sql.clone()).execute(&db.pool).await.unwrap();
    let pool = db::connect(&db.url).await.unwrap();
    let after = [attempts::list(&pool, claimed).await.unwrap(), attempts::list(&pool, started_job).await.unwrap()];
    assert_eq!(after, before);
    assert_eq!(facts(&after[1][0]), (Some("wrk_1"), Some("cuda:0"), Some(3), Some(30)));
}

#[tokio::test]
async fn an_attempt_whose_claim_the_database_lost_is_refused_even_if_the_same_worker_gets_the_number_again() {
    let db = TestDb::new().await;
    let job = db.add_job(json!({})).await;
    let before = db.job(job).await;
    let lost = claim(&db.pool).await;
    // As a failover or a restored backup would leave it.
    let restore = "delete from attempts; delete from events where attempt > 0";
    sqlx::raw_sql(restore).execute(&db.pool).await.unwrap();
    let columns = "status = 'queued', attempt = 0, worker = null, claim = null, lease_expires_at = null,
        lease_renewed_at = null, started_at = null, event_seq = 1";
    db.set(job, columns).await;
    assert_eq!(db.job(job).await, before);
    let token = claim(&db.pool).await;
    assert_eq!((token.attempt, &token.worker), (lost.attempt, &lost.worker));
    assert_ne!(token.name(), lost.name(), "their files have different keys");
    assert!(!queue::started(&db.pool, &lost.write(), &started(0, 0)).await.unwrap());
    assert_eq!(queue::heartbeat(&db.pool, &lost, Duration::from_secs(60)).await.unwrap(), None);
    assert_eq!(queue::stopped(&db.pool, &lost.write()).await.unwrap(), None);
    assert!(queue::started(&db.pool, &token.write(), &started(0, 0)).await.unwrap());
    // Its refused writes do not count for the attempt that has the number now.
    let refused = async |token: &FencingToken| -> i64 {
        attempts::count_refused(&db.pool, token).await.unwrap();
        sqlx::query_scalar("select refused_writes from attempts where job_id = $1")
            .bind(job)
            .fetch_one(&db.pool)
            .await
            .unwrap()
    };
    assert_eq!((refused(&lost).await, refused(&token).await), (0, 1));
}

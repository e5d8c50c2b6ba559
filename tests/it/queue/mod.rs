//! Promise: each job is held by one attempt at a time, only that attempt can change it, and every job comes to an end.

mod abilities;
mod claims;
mod devices;
mod ends;
mod leases;
mod records;
mod teachers;
mod versions;

use std::time::Duration;

use chrono::Utc;
use distillery::db::artifacts::NewArtifact;
use distillery::db::jobs::Status;
use distillery::db::queue::{self, Claim, DeviceCapacity, FencingToken, ReportBatch, SavedCheckpoint};
use distillery::db::workers::{NewWorker, Usage};
use distillery::protocol::{ErrorClass, Failure, Outcome, Point, Started, StudentFacts};
use serde_json::Value;
use sqlx::PgPool;

use crate::support::db::TestDb;

const LEASE: Duration = Duration::from_secs(60);
const WORKER: &str = "wrk_1";

async fn claim(pool: &PgPool) -> Option<Claim> {
    queue::claim(pool, WORKER, DeviceCapacity::ONE, LEASE).await.unwrap()
}

async fn claimed_token(pool: &PgPool) -> FencingToken {
    claim(pool).await.expect("a job to claim").token
}

async fn status(db: &TestDb, job: &str) -> Status {
    serde_json::from_value(db.job(job).await["status"].clone()).unwrap()
}

/// All rows about a job, for comparison.
async fn everything(db: &TestDb, job: &str) -> Value {
    sqlx::query_scalar(
        "select jsonb_build_array(to_jsonb(jobs),
            (select jsonb_agg(to_jsonb(events) order by seq) from events where job_id = jobs.id),
            (select jsonb_agg(to_jsonb(metrics) order by id) from metrics where job_id = jobs.id),
            (select jsonb_agg(to_jsonb(artifacts)) from artifacts where job_id = jobs.id))
         from jobs where id = $1",
    )
    .bind(job)
    .fetch_one(&db.pool)
    .await
    .unwrap()
}

/// Kind, attempt and message of each event, whose numbers must have no gap.
async fn history(db: &TestDb, job: &str) -> Vec<(String, i32, String)> {
    let query = sqlx::query_as("select seq, kind, attempt, message from events where job_id = $1 order by seq");
    let events: Vec<(i64, String, i32, String)> = query.bind(job).fetch_all(&db.pool).await.unwrap();
    let seqs: Vec<_> = events.iter().map(|event| event.0).collect();
    assert_eq!(seqs, (1..=i64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(db.job(job).await["event_seq"], seqs.len());
    events.into_iter().map(|(_, kind, attempt, message)| (kind, attempt, message)).collect()
}

fn worker(id: &str, devices: i32) -> NewWorker {
    NewWorker {
        id: id.into(),
        name: "host/cpu".into(),
        device: "cpu".into(),
        devices,
        memory_bytes: None,
        usage: Usage::default(),
        abilities: None,
    }
}

fn failure(class: ErrorClass) -> Failure {
    Failure { class, message: "it \0 broke".into() }
}

fn outcome() -> Outcome {
    let student = StudentFacts { parameters: 1, size_bytes: 2, sha256: "ab".into() };
    Outcome { teacher_top1: None, best_top1: 70.0, best_epoch: 2, last_top1: 69.0, student }
}

fn artifact(token: &FencingToken) -> NewArtifact {
    let key = format!("jobs/{}/attempts/{}/student.safetensors", token.job, token.attempt);
    NewArtifact { name: "student.safetensors".into(), key, size_bytes: 2, sha256: "ab".into() }
}

fn saved(token: &FencingToken) -> SavedCheckpoint {
    SavedCheckpoint {
        attempt: token.attempt,
        epoch: 3,
        step: 30,
        key: "jobs/x/attempts/1/state".into(),
        sha256: None,
        size_bytes: None,
    }
}

fn points(steps: impl IntoIterator<Item = u64>) -> ReportBatch {
    let point = |step| Point { name: "train/loss".into(), step, epoch: 0.5, time: Utc::now(), value: 1.0 };
    ReportBatch { points: steps.into_iter().map(point).collect(), ..ReportBatch::default() }
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

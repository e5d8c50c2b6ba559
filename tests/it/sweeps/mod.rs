//! Promise: one request makes all jobs of a sweep or none, the best of them go on, and nothing that dies on the way
//! changes which these are. `crash::` kills a sweep's processes.

mod control;
mod halving;
mod parallel;
mod posting;
mod trained;
mod versions;

use std::collections::BTreeMap;

use chrono::Utc;
use distillery::db::queue::{self, FencingToken, ReportBatch, SavedCheckpoint};
use distillery::protocol::Point;
use serde_json::{Value, json};

use crate::support::api::{Api, plain_job};

/// A sweep over these learning rates.
fn sweep(rates: &[f64], changes: Value) -> Value {
    let mut document = json!({
        "name": "rates",
        "base": plain_job(),
        "axes": {"/training/optimizer/learning_rate": rates},
    });
    document.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    document
}

fn halving(rungs: &[u32], keep: f64) -> Value {
    json!({"type": "halving", "rungs": rungs, "keep": keep})
}

async fn post(api: &Api, document: &Value) -> Value {
    api.post("/v1/sweeps", document).await.expect(201)
}

async fn get(api: &Api, sweep: &Value) -> Value {
    api.get(&format!("/v1/sweeps/{}", id(sweep))).await.expect(200)
}

fn id(value: &Value) -> &str {
    value["id"].as_str().expect("an id")
}

/// The learning rate and the seed of a job.
async fn settings_of(api: &Api, job: &str) -> (f64, u64) {
    let training = api.db.job(job).await["spec"]["training"].clone();
    (training["optimizer"]["learning_rate"].as_f64().unwrap(), training["seed"].as_u64().unwrap())
}

/// Status and number of jobs.
fn statuses(sweep: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(sweep["jobs"].clone()).unwrap()
}

/// A worker trains a job up to an epoch, with this accuracy after each, and saves the state there.
async fn train(api: &Api, token: &FencingToken, epochs: u32, top1: f64) {
    let pool = &api.db.pool;
    let point = |epoch: u32| Point {
        name: "eval/top1".into(),
        step: u64::from(epoch) * 10,
        epoch: f64::from(epoch),
        time: Utc::now(),
        value: top1,
    };
    let batch = ReportBatch { points: (1..=epochs).map(point).collect(), ..ReportBatch::default() };
    assert!(queue::record(pool, &token.write(), &batch).await.unwrap());
    let saved = SavedCheckpoint {
        attempt: token.attempt,
        epoch: epochs,
        step: u64::from(epochs) * 10,
        key: format!("jobs/{}/attempts/{}/state", token.job, token.name()),
        sha256: None,
        size_bytes: None,
    };
    assert!(queue::checkpoint_saved(pool, &token.write(), &saved).await.unwrap());
}

/// Its trainer stops.
async fn stop(api: &Api, token: &FencingToken) {
    queue::stopped(&api.db.pool, &token.write()).await.unwrap().expect("the attempt holds the job");
}

/// Trains every job that can be claimed up to an epoch. The accuracy follows from its learning rate and seed.
async fn train_all(api: &Api, epochs: u32, accuracy: impl Fn(f64, u64) -> f64) -> usize {
    let mut trained = 0;
    while let Some(claim) = claim(api).await {
        let (rate, seed) = settings_of(api, &claim.token.job).await;
        train(api, &claim.token, epochs, accuracy(rate, seed)).await;
        if claim.pause_after.is_some() {
            stop(api, &claim.token).await;
        } else {
            api.publish(&claim.token, &[]).await;
        }
        trained += 1;
    }
    trained
}

async fn claim(api: &Api) -> Option<queue::Claim> {
    let minute = std::time::Duration::from_secs(60);
    queue::claim(&api.db.pool, "wrk_TEST", queue::DeviceCapacity::ONE, minute).await.unwrap()
}

//! The ends of sweeps.

use chrono::Utc;
use distillery::db::jobs::Change;
use distillery::db::queue;
use distillery::protocol::{ErrorClass, Failure};
use serde_json::{Value, json};

use super::{Receiver, Reply, message, start};
use crate::support::api::{Api, plain_job};

/// A sweep of two jobs that names the webhook.
async fn post_sweep(api: &Api) -> Value {
    let document = json!({
        "name": "rates",
        "base": plain_job(),
        "axes": {"/training/optimizer/learning_rate": [0.1, 0.2]},
        "webhooks": ["team"],
    });
    let sweep = api.post("/v1/sweeps", &document).await.expect(201);
    assert_eq!(sweep["webhooks"], json!(["team"]));
    sweep
}

#[tokio::test]
async fn the_end_of_a_sweep_is_told_once_with_its_best_combination() {
    let mut receiver = Receiver::start(&[]).await;
    let (api, _running) = start(&receiver).await;
    let sweep = post_sweep(&api).await;
    let id = sweep["id"].as_str().unwrap();
    assert_eq!(api.get(&format!("/v1/sweeps/{id}/webhooks")).await.expect(200)["data"], json!([]));
    let first = api.claim().await;
    api.publish(&first, &[("student.safetensors", b"student")]).await;
    let second = api.claim().await;
    let failure = Failure { class: ErrorClass::Numeric, message: "step 7: loss is NaN".to_owned() };
    queue::fail(&api.db.pool, &second.write(), &failure).await.unwrap();
    let told = receiver.next().await;
    assert_eq!(told.body["type"], "sweep.finished");
    assert!(told.body["timestamp"].as_str().unwrap().parse::<chrono::DateTime<Utc>>().is_ok());
    let best = json!({
        "number": 1, "settings": {"/training/optimizer/learning_rate": 0.1}, "top1": 76.3, "deviation": null, "n": 1,
        "best": 76.3, "job": first.job,
    });
    let expected = json!({
        "id": id, "name": "rates", "status": "finished", "jobs": {"succeeded": 1, "failed": 1}, "best": best,
    });
    assert_eq!(told.body["data"], expected);
    let noted = message(&api, id, |message| !message["delivered_at"].is_null()).await;
    assert_eq!((&noted["id"], &noted["type"]), (&json!(told.id), &json!("sweep.finished")));
    // Its jobs name no webhook. That one of them is retried does not end the sweep again.
    api.db.change(&second.job, Change::Retry).await;
    api.db.change(&second.job, Change::Cancel).await;
    message(&api, id, |message| message["attempts"] == 1).await;
    assert_eq!(api.get(&format!("/v1/jobs/{}/webhooks", second.job)).await.expect(200)["data"], json!([]));
    api.get("/v1/sweeps/swp_01KB3Z6V0Q2M5K8N1R4T7W9XYZ/webhooks").await.problem(404);
}

#[tokio::test]
async fn a_cancelled_sweep_is_told_with_what_its_jobs_are_then() {
    let mut receiver = Receiver::start(&[]).await;
    let (api, _running) = start(&receiver).await;
    let sweep = post_sweep(&api).await;
    let id = sweep["id"].as_str().unwrap();
    let held = api.claim().await;
    for _ in 0..2 {
        api.ask(&format!("/v1/sweeps/{id}/cancel")).await.expect(202);
    }
    let told = receiver.next().await;
    assert_eq!((&told.body["type"], &told.body["data"]["id"]), (&json!("sweep.cancelled"), &json!(id)));
    assert_eq!(told.body["data"]["jobs"], json!({"cancelling": 1, "cancelled": 1}));
    assert_eq!(told.body["data"]["best"], Value::Null);
    queue::stopped(&api.db.pool, &held.write()).await.unwrap();
    // Also of a sweep that is deleted at once.
    let sweep = post_sweep(&api).await;
    let path = format!("/v1/sweeps/{}", sweep["id"].as_str().unwrap());
    api.ask(&format!("{path}/cancel")).await.expect(202);
    api.delete(&path).await.expect(204);
    let told = receiver.next().await;
    assert_eq!((&told.body["type"], &told.body["data"]["id"]), (&json!("sweep.cancelled"), &sweep["id"]));
}

#[tokio::test]
async fn a_sweep_that_is_deleted_before_its_end_was_noted_has_ended_all_the_same() {
    let mut receiver = Receiver::start(&[]).await;
    let (api, _running) = start(&receiver).await;
    let sweep = post_sweep(&api).await;
    let id = sweep["id"].as_str().unwrap();
    // As by a program that knows no sweeps.
    let end = "update jobs set status = 'cancelled', finished_at = now() where sweep_id = $1";
    sqlx::query(end).bind(id).execute(&api.db.pool).await.unwrap();
    api.delete(&format!("/v1/sweeps/{id}")).await.expect(204);
    let told = receiver.next().await.body;
    assert_eq!((&told["type"], &told["data"]["id"]), (&json!("sweep.finished"), &sweep["id"]));
    assert_eq!(told["data"]["jobs"], json!({"cancelled": 2}));
}

#[tokio::test]
async fn settings_of_many_bytes_are_left_out_of_a_sweeps_message() {
    let mut receiver = Receiver::start(&[]).await;
    let (api, _running) = start(&receiver).await;
    let sweep = post_sweep(&api).await;
    let network = json!({"/student": "x".repeat(8192)}).to_string();
    let update = sqlx::query("update sweep_combinations set settings = $2::json where sweep_id = $1");
    update.bind(sweep["id"].as_str().unwrap()).bind(network).execute(&api.db.pool).await.unwrap();
    for _ in 0..2 {
        api.publish(&api.claim().await, &[]).await;
    }
    let best = receiver.next().await.body["data"]["best"].clone();
    assert_eq!((&best["settings"], &best["number"], &best["n"]), (&Value::Null, &json!(1), &json!(1)));
}

#[tokio::test]
async fn a_sweep_whose_webhook_was_not_told_says_so() {
    let mut receiver = Receiver::start(&[Reply::Status(410)]).await;
    let (api, _running) = start(&receiver).await;
    let sweep = post_sweep(&api).await;
    let id = sweep["id"].as_str().unwrap();
    api.ask(&format!("/v1/sweeps/{id}/cancel")).await.expect(202);
    receiver.next().await;
    message(&api, id, |message| message["next_attempt_at"].is_null()).await;
    let read = api.get(&format!("/v1/sweeps/{id}")).await.expect(200);
    let warning = read["warnings"].as_array().unwrap().last().unwrap().as_str().unwrap();
    assert!(warning.contains("webhook team was not told that this sweep has ended, after 1 attempts"), "{warning}");
}

#[tokio::test]
async fn a_sweep_names_only_webhooks_that_the_operator_has_set() {
    let receiver = Receiver::start(&[]).await;
    let (api, _running) = start(&receiver).await;
    let axes = json!({"/training/optimizer/learning_rate": [0.1]});
    let document = json!({"base": plain_job(), "axes": axes, "webhooks": ["team", "http://evil.example/"]});
    for path in ["/v1/sweeps", "/v1/sweeps?dry_run=true"] {
        let problem = api.post(path, &document).await.problem(422);
        let faults = problem["errors"].as_array().unwrap();
        assert_eq!((faults.len(), &faults[0]["pointer"]), (1, &json!("/webhooks/1")));
        assert!(faults[0]["detail"].as_str().unwrap().contains("there are team"), "{faults:?}");
    }
}

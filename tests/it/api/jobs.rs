//! Promise: a job is found again, and changes only as its status allows.

use crate::support::api::{Api, plain_job, student_job};
use distillery::db::jobs::Status;
use distillery::db::queue;
use distillery::protocol::{ErrorClass, Failure, Started};
use serde_json::{Value, json};

async fn status(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/jobs/{id}")).await.expect(200)["status"].clone()
}

#[tokio::test]
async fn a_history_is_read_page_by_page() {
    let api = Api::start().await;
    let id = api.job().await;
    for what in ["pause", "resume", "pause", "cancel"] {
        api.ask(&format!("/v1/jobs/{id}/{what}")).await.expect(202);
    }
    let page = async |query: &str| {
        let page = api.get(&format!("/v1/jobs/{id}/events{query}")).await.expect(200);
        let seqs: Vec<_> =
            page["data"].as_array().unwrap().iter().map(|event| event["seq"].as_i64().unwrap()).collect();
        (seqs, page["has_more"].as_bool().unwrap())
    };
    assert_eq!(page("").await, (vec![1, 2, 3, 4, 5], false));
    assert_eq!(page("?limit=2").await, (vec![1, 2], true));
    assert_eq!(page("?limit=2&after=3").await, (vec![4, 5], false));
    assert_eq!(page("?after=5").await, (vec![], false));
    for query in ["limit=0", "limit=1001", "after=-1", "before=3"] {
        api.get(&format!("/v1/jobs/{id}/events?{query}")).await.problem(400);
    }
}

#[tokio::test]
async fn the_list_is_newest_first_and_its_pages_are_stable() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.insert(0, api.job().await);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/jobs?limit=2".to_owned();
    loop {
        let page = api.get(&path).await.expect(200);
        seen.extend(page["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        api.job().await;
        let Some(next) = page["next"].as_str() else {
            assert_eq!(page["has_more"], false);
            break;
        };
        assert_eq!(page["has_more"], true);
        path = format!("/v1/jobs?limit=2&after={next}");
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn the_list_is_filtered_by_status_and_label() {
    let api = Api::start().await;
    let post = async |labels: Value| {
        let mut job = plain_job();
        job["labels"] = labels;
        api.post("/v1/jobs", &job).await.expect(201)["id"].as_str().unwrap().to_owned()
    };
    let one = post(json!({"team": "vision", "run": "a:b"})).await;
    let two = post(json!({"team": "vision"})).await;
    let three = post(json!({"team": "audio"})).await;
    api.ask(&format!("/v1/jobs/{two}/cancel")).await.expect(202);
    api.ask(&format!("/v1/jobs/{three}/pause")).await.expect(202);
    let list = async |query: &str| {
        let page = api.get(&format!("/v1/jobs?{query}")).await.expect(200);
        page["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("status=queued").await, [one.as_str()]);
    assert_eq!(list("status=cancelled&status=paused").await, [three.as_str(), &two]);
    assert_eq!(list("label=team:vision").await, [two.as_str(), &one]);
    assert_eq!(list("label=team:vision&label=run:a:b").await, [one.as_str()]);
    assert_eq!(list("label=team:vision&status=cancelled").await, [two.as_str()]);
    assert!(list("label=team:vision&label=team:audio").await.is_empty());
    for (query, word) in [
        ("status=done", "queued"),
        ("label=team", "key:value"),
        ("limit=101", "1 to 100"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("after=1", "after"),
        ("offset=3", "offset"),
    ] {
        api.get(&format!("/v1/jobs?{query}")).await.says(400, &[word]);
    }
}

#[tokio::test]
async fn each_request_is_accepted_or_refused_according_to_the_status() {
    let api = Api::start().await;
    let ask = async |id: &str, what: &str| api.ask(&format!("/v1/jobs/{id}/{what}")).await;
    let id = api.job().await;
    assert_eq!(ask(&id, "pause").await.expect(202)["status"], "paused");
    assert_eq!(ask(&id, "pause").await.expect(202)["status"], "paused", "it is what was asked for");
    ask(&id, "retry").await.says(409, &[&id, "is paused", "retried"]);
    assert_eq!(ask(&id, "resume").await.expect(202)["status"], "queued");
    ask(&id, "resume").await.says(409, &["is queued"]);
    let token = api.claim().await;
    assert_eq!(ask(&id, "pause").await.expect(202)["status"], "pausing");
    queue::stopped(&api.db.pool, &token.write()).await.unwrap();
    assert_eq!(status(&api, &id).await, "paused");
    ask(&id, "resume").await.expect(202);
    let token = api.claim().await;
    let running = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&running["status"], &running["attempt"]), (&json!("running"), &json!(2)));
    assert!(running["started_at"].is_string());
    assert_eq!(ask(&id, "cancel").await.expect(202)["status"], "cancelling");
    queue::stopped(&api.db.pool, &token.write()).await.unwrap();
    let cancelled = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!(cancelled["status"], "cancelled");
    assert!(cancelled["finished_at"].is_string());
    assert_eq!(ask(&id, "cancel").await.expect(202)["status"], "cancelled");
    ask(&id, "pause").await.says(409, &["is cancelled"]);
    let retried = ask(&id, "retry").await.expect(202);
    assert_eq!((&retried["status"], &retried["finished_at"]), (&json!("queued"), &Value::Null));
    let token = api.claim().await;
    let failure = Failure { class: ErrorClass::Numeric, message: "the loss is not finite at step 7".into() };
    assert_eq!(queue::fail(&api.db.pool, &token.write(), &failure).await.unwrap(), Some(Status::Failed));
    let failed = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!(failed["error"], json!({"class": "numeric", "message": "the loss is not finite at step 7"}));
    let retried = ask(&id, "retry").await.expect(202);
    assert_eq!(retried["error"], Value::Null);
    assert_eq!(retried["max_attempts"], retried["attempt"].as_i64().unwrap() + 3, "as often as a new job");
    api.publish(&api.claim().await, &[("student.safetensors", b"abcd")]).await;
    let done = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&done["status"], &done["result"]["best_top1"]), (&json!("succeeded"), &json!(76.3)));
    for what in ["cancel", "pause", "resume", "retry"] {
        ask(&id, what).await.says(409, &["is succeeded"]);
        ask("job_00000000000000000000000000", what).await.problem(404);
        ask("nonsense", what).await.says(404, &["job_ followed by 26"]);
    }
    let events = api.get(&format!("/v1/jobs/{id}/events?limit=1000")).await.expect(200);
    let seqs: Vec<_> = events["data"].as_array().unwrap().iter().map(|event| event["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, (1..=i64::try_from(seqs.len()).unwrap()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_finished_job_is_deleted_with_its_files() {
    let api = Api::start().await;
    let id = api.job().await;
    let path = format!("/v1/jobs/{id}");
    api.delete(&path).await.says(409, &["is queued", "deleted"]);
    let token = api.claim().await;
    api.delete(&path).await.says(409, &["is running"]);
    api.publish(&token, &[("student.safetensors", b"abcd")]).await;
    let files = api.dir.path().join("storage/jobs").join(&id);
    assert!(files.exists());
    // Its student is somebody's teacher.
    let student = api.post("/v1/jobs", &student_job(json!({"job": id}))).await.expect(201);
    let student = student["id"].as_str().unwrap();
    api.delete(&path).await.says(409, &[student]);
    api.ask(&format!("/v1/jobs/{student}/cancel")).await.expect(202);
    assert!(api.delete(&path).await.expect(204).is_null());
    api.get(&path).await.problem(404);
    api.delete(&path).await.problem(404);
    let left = api.store.size(&format!("jobs/{id}/attempts/1/student.safetensors")).await.unwrap();
    assert_eq!(left, None);
    for below in ["events", "metrics", "artifacts", "student", "stream", "artifacts/manifest.json"] {
        api.get(&format!("{path}/{below}")).await.says(404, &["there is no job"]);
    }
    api.ask(&format!("/v1/jobs/{student}/retry")).await.says(409, &["has been deleted"]);
}

#[tokio::test]
async fn requests_for_the_same_job_at_once_are_done_one_after_the_other() {
    let api = Api::start().await;
    let id = api.job().await;
    let ask = |what: &'static str| api.ask(Box::leak(format!("/v1/jobs/{id}/{what}").into_boxed_str()));
    let asked = (0..30).map(|at| ask(["pause", "resume", "cancel"][at % 3]));
    for answer in futures::future::join_all(asked).await {
        assert!([202, 409].contains(&answer.status.as_u16()), "{answer:?}");
    }
    assert_eq!(status(&api, &id).await, "cancelled");
    api.delete(&format!("/v1/jobs/{id}")).await.expect(204);
}

#[tokio::test]
async fn attempts_list_their_worker_their_resumed_step_and_their_outcome() {
    let api = Api::start().await;
    let id = api.job().await;
    let path = format!("/v1/jobs/{id}/attempts");
    assert_eq!(api.get(&path).await.expect(200), json!({"data": []}));

    let token = api.claim().await;
    let running = &api.get(&path).await.expect(200)["data"][0];
    assert_eq!((&running["attempt"], &running["worker"]), (&json!(1), &json!("wrk_TEST")));
    assert_eq!((&running["outcome"], &running["resumed_step"]), (&Value::Null, &Value::Null));

    let started = Started {
        device: "cpu".into(),
        precision: "float32".into(),
        threads: 2,
        train_images: 640,
        eval_images: 64,
        classes: 10,
        steps_per_epoch: 10,
        epochs: 4,
        resumed_epochs: 3,
        resumed_step: 30,
    };
    assert!(queue::started(&api.db.pool, &token.write(), &started).await.unwrap());
    api.publish(&token, &[("student.safetensors", b"x")]).await;
    let ended = &api.get(&path).await.expect(200)["data"][0];
    assert_eq!((&ended["outcome"], &ended["device"]), (&json!("succeeded"), &json!("cpu")));
    assert_eq!((&ended["resumed_epochs"], &ended["resumed_step"]), (&json!(3), &json!(30)));
    let time = |field: &str| chrono::DateTime::parse_from_rfc3339(ended[field].as_str().unwrap()).unwrap();
    assert!(time("runnable_at") <= time("started_at") && time("started_at") <= time("ended_at"));
    api.get(&format!("/v1/jobs/job_{}/attempts", "0".repeat(26))).await.says(404, &["there is no job"]);
}

#[tokio::test]
async fn who_deletes_a_job_that_is_not_finished_is_told_to_cancel_it() {
    let api = Api::start().await;
    let id = api.job().await;
    api.delete(&format!("/v1/jobs/{id}")).await.says(409, &["is queued", "cancel it first"]);
    api.claim().await;
    api.delete(&format!("/v1/jobs/{id}")).await.says(409, &["is running", "cancel it first"]);
    api.ask(&format!("/v1/jobs/{id}/pause")).await.expect(202);
    api.ask(&format!("/v1/jobs/{id}/resume")).await.says(409, &["is pausing", "once it is paused"]);
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    api.delete(&format!("/v1/jobs/{id}")).await.says(409, &["is cancelling", "once it has ended"]);
}

//! Promise: the server describes its networks, data sets, workers and state.

use crate::support::api::{self, Api, checkpoint};
use distillery::db::queue::{self, FencingToken, SavedCheckpoint};
use distillery::db::workers::{self, GpuUsage, NewWorker, Usage};
use distillery::protocol::{ErrorClass, Failure};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn architectures_are_described() {
    let api = Api::start().await;
    let list = api.get("/v1/architectures").await.expect(200);
    let all = list["data"].as_array().unwrap();
    assert_eq!(all.len(), distillery::architecture::all().len());
    let resnet56 = all.iter().find(|one| one["name"] == "resnet56").unwrap();
    assert_eq!(resnet56["input_side"], 32);
    assert_eq!((&resnet56["feature_map_side"], &resnet56["feature_map_channels"]), (&json!(8), &json!(64)));
    let parameters = resnet56["parameters"].as_u64().unwrap();
    assert!((850_000..870_000).contains(&parameters), "{parameters}");
    assert!(resnet56["macs"].as_u64() > Some(100_000_000) && resnet56["family"].is_string());
}

#[tokio::test]
async fn data_sets_are_listed_with_their_splits() {
    let api = Api::start().await;
    let list = api.get("/v1/datasets").await.expect(200);
    assert_eq!(
        list["data"][1],
        json!({
            "name": "ten", "version": null, "format": "cifar10", "images": 8, "classes": 10, "size_bytes": 8 * 3073,
            "splits": [
                {"name": "test", "images": 4, "size_bytes": 4 * 3073},
                {"name": "train", "images": 4, "size_bytes": 4 * 3073},
            ],
            "unlabelled_splits": [],
            "notes": [],
        })
    );
    assert_eq!(list["data"][0]["name"], "hundred");
    let none = Api::start_with(|settings| settings.datasets_dir.push("none")).await;
    assert_eq!(none.get("/v1/datasets").await.expect(200), json!({"data": [], "unusable": [], "unfinished": []}));
    none.post("/v1/jobs", &api::plain_job()).await.says(422, &["/dataset/name", "--datasets-dir does not exist"]);
}

#[tokio::test]
async fn workers_are_listed_with_their_job() {
    let api = Api::start().await;
    let gpu = GpuUsage {
        name: "H100".into(),
        busy_share: Some(0.5),
        memory_used_bytes: 3 << 30,
        memory_total_bytes: 80 << 30,
    };
    let usage = Usage { cpu_share: Some(0.25), gpu: Some(gpu), ..Usage::default() };
    let worker = |id: &str| NewWorker {
        id: id.into(),
        name: "host cpu".into(),
        device: "cpu".into(),
        devices: 1,
        memory_bytes: Some(1 << 30),
        usage: usage.clone(),
        abilities: None,
    };
    for id in ["wrk_TEST", "wrk_UNUSED"] {
        workers::register(&api.db.pool, &worker(id)).await.unwrap();
    }
    let id = api.job().await;
    api.claim().await;
    let list = api.get("/v1/workers").await.expect(200);
    let busy = list["data"].as_array().unwrap().iter().find(|worker| worker["id"] == "wrk_TEST").unwrap();
    assert_eq!((&busy["job"], &busy["online"], &busy["memory_bytes"]), (&json!(id), &json!(true), &json!(1 << 30)));
    assert_eq!(busy["usage"]["cpu_share"], 0.25);
    assert_eq!(busy["usage"]["gpu"]["memory_used_bytes"], 3_u64 << 30);
    assert_eq!(busy["usage"]["memory_used_bytes"], Value::Null);
    assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.expect(200)["worker"], "host cpu");
    let text = api.get("/metrics").await.text();
    assert!(
        text.contains("distillery_workers{state=\"busy\"} 1") && text.contains("distillery_workers{state=\"idle\"} 1")
    );
}

async fn start_worker(api: &Api) {
    let worker = NewWorker {
        id: "wrk_TEST".into(),
        name: "host cpu".into(),
        device: "cpu".into(),
        devices: 1,
        memory_bytes: None,
        usage: Usage::default(),
        abilities: None,
    };
    workers::register(&api.db.pool, &worker).await.unwrap();
}

#[tokio::test]
async fn busy_share_is_the_time_in_attempts_over_the_last_hour() {
    let api = Api::start().await;
    start_worker(&api).await;
    let busy = async || api.get("/v1/workers").await.expect(200)["data"][0]["busy_share"].as_f64().unwrap();
    assert_eq!(busy().await, 0.0);
    api.job().await;
    let token = api.claim().await;
    let pool = &api.db.pool;
    let ages = "update workers set started_at = now() - interval '5 hours'";
    sqlx::query(ages).execute(pool).await.unwrap();
    // Three hours, of which the last counts.
    sqlx::query("update attempts set started_at = now() - interval '3 hours'").execute(pool).await.unwrap();
    assert!((busy().await - 1.0).abs() < 0.01);
    queue::stopped(pool, &token.write()).await.unwrap();
    sqlx::query("update attempts set ended_at = now() - interval '45 minutes'").execute(pool).await.unwrap();
    assert!((busy().await - 0.25).abs() < 0.01);
    // For a worker younger than an hour the share is over its lifetime.
    sqlx::query("update workers set started_at = now() - interval '30 minutes'").execute(pool).await.unwrap();
    sqlx::query(
        "update attempts set started_at = now() - interval '10 minutes', ended_at = now() - interval '5 minutes'",
    )
    .execute(pool)
    .await
    .unwrap();
    assert!((busy().await - 1.0 / 6.0).abs() < 0.01);
}

/// Names a state to resume from, of this many bytes.
async fn save_state(api: &Api, token: &FencingToken, bytes: u64) {
    let state = SavedCheckpoint {
        attempt: token.attempt,
        epoch: 1,
        step: 10,
        key: "jobs/x/attempts/1/state".into(),
        sha256: None,
        size_bytes: Some(bytes),
    };
    queue::checkpoint_saved(&api.db.pool, &token.write(), &state).await.unwrap();
}

#[tokio::test]
async fn the_system_page_counts_the_queue_the_last_day_and_the_storage() {
    let api = Api::start_with(|settings| settings.uploads_limit = Some(1 << 30)).await;
    let empty = api.get("/v1/system").await.expect(200);
    assert_eq!((&empty["queue"]["ready"], &empty["queue"]["longest_wait_seconds"]), (&json!(0), &Value::Null));
    assert_eq!((&empty["last_day"]["begun"], &empty["last_day"]["median_wait_seconds"]), (&json!(0), &Value::Null));
    assert_eq!((&empty["storage"]["artifacts_bytes"], &empty["storage"]["checkpoints"]), (&json!(0), &json!(0)));
    let bytes = checkpoint("resnet8", 10);
    let uploaded = bytes.len();
    api.upload("", bytes).await.expect(201);
    let done = api.job().await;
    let token = api.claim().await;
    api.publish(&token, &[("student.safetensors", b"student")]).await;
    let teacher = api.job().await;
    for job in [done, teacher] {
        api.post("/v1/jobs", &api::student_job(json!({"job": job}))).await.expect(201);
    }
    let resting = api.job().await;
    let later = "update jobs set run_after = now() + interval '1 hour' where id = $1";
    sqlx::query(later).bind(&resting).execute(&api.db.pool).await.unwrap();
    let paused = api.job().await;
    api.ask(&format!("/v1/jobs/{paused}/pause")).await.expect(202);
    let failing = api.claim().await;
    save_state(&api, &failing, 1234).await;
    let failure = Failure { class: ErrorClass::Oom, message: "no memory".into() };
    let system = api.get("/v1/system").await.expect(200);
    let queue = &system["queue"];
    assert_eq!((&queue["ready"], &queue["without_worker"]), (&json!(0), &json!(1)));
    start_worker(&api).await;
    let system = api.get("/v1/system").await.expect(200);
    let queue = &system["queue"];
    assert_eq!(
        (&queue["ready"], &queue["waiting_for_teacher"], &queue["backing_off"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!((&queue["held"], &queue["paused"]), (&json!(1), &json!(1)));
    assert!(queue["longest_wait_seconds"].as_f64() >= Some(0.0));
    queue::fail(&api.db.pool, &failing.write(), &failure).await.unwrap();
    let system = api.get("/v1/system").await.expect(200);
    assert_eq!(
        (&system["last_day"]["begun"], &system["last_day"]["ended"]),
        (&json!(2), &json!({"oom": 1, "succeeded": 1}))
    );
    assert!(system["last_day"]["p95_wait_seconds"].as_f64() <= system["last_day"]["longest_wait_seconds"].as_f64());
    let storage = &system["storage"];
    assert_eq!((&storage["artifacts"], &storage["artifacts_bytes"]), (&json!(1), &json!(7)));
    // The state of a failed job stays for a retry.
    assert_eq!((&storage["states"], &storage["states_bytes"]), (&json!(1), &json!(1234)));
    assert_eq!((&storage["checkpoints"], &storage["checkpoints_bytes"]), (&json!(1), &json!(uploaded)));
    assert_eq!(storage["checkpoints_limit_bytes"], 1 << 30);
    assert!(storage["database_bytes"].as_u64() > Some(1_000_000) && storage["free_bytes"].as_u64() > Some(1_000_000));
}

#[tokio::test]
async fn readiness_depends_on_the_database_and_the_storage() {
    let api = Api::start_with(|settings| settings.ready_memory = std::time::Duration::ZERO).await;
    assert_eq!(api.get("/healthz").await.expect(200), json!({"status": "ok"}));
    assert_eq!(api.get("/readyz").await.expect(200), json!({"status": "ok"}));
    let storage = api.dir.path().join("storage");
    std::fs::remove_dir_all(&storage).unwrap();
    std::fs::write(&storage, "in the way").unwrap();
    api.get("/healthz").await.expect(200);
    let answer = api.get("/readyz").await;
    assert_eq!(answer.header("retry-after"), "2");
    answer.says(503, &["the storage cannot be written"]);
}

#[tokio::test]
async fn everybody_may_ask_whether_the_server_is_ready_and_it_looks_once_in_a_while() {
    let api = Api::start_with(|settings| settings.ready_memory = std::time::Duration::from_secs(3600)).await;
    let ask = || futures::future::join_all((0..50).map(|_| api.get("/readyz")));
    assert!(ask().await.iter().all(|answer| answer.status == 200));
    // A check writes a file there and removes it.
    let changed = || std::fs::metadata(api.dir.path().join("storage/probe")).unwrap().modified().unwrap();
    let before = changed();
    assert!(ask().await.iter().all(|answer| answer.status == 200));
    assert_eq!(changed(), before);
}

#[tokio::test]
async fn a_page_that_has_not_changed_is_not_sent_again() {
    let api = Api::start().await;
    let page = api.get("/").await;
    if page.status == 404 {
        // This checkout has no dashboard.
        page.says(404, &["/docs"]);
        return;
    }
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").starts_with("default-src 'self'"));
    let known = api.request(Method::GET, "/").header("if-none-match", page.header("etag"));
    assert_eq!(api.send(known).await.status, 304);
    let packed = api.send(api.request(Method::GET, "/").header("accept-encoding", "gzip")).await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert_eq!(api.send(api.request(Method::HEAD, "/")).await.status, 200);
}

#[tokio::test]
async fn a_server_that_stops_finishes_what_it_began() {
    let mut api = Api::start().await;
    let id = api.job().await;
    let bytes = vec![7; 20_000_000];
    api.publish(&api.claim().await, &[("student.safetensors", &bytes)]).await;
    let download = api.request(Method::GET, &format!("/v1/jobs/{id}/student")).send().await.unwrap();
    api.stop.cancel();
    assert_eq!(download.bytes().await.unwrap(), bytes);
    api.stopped().await;
    api.client.get(format!("{}/healthz", api.url)).send().await.unwrap_err();
}

//! Promise: the server says what it has, how it is, and what its API is.

use std::collections::BTreeSet;

use crate::support::api::{self, Api, checkpoint};
use distillery::db;
use distillery::db::queue::{self, SavedCheckpoint};
use distillery::db::workers::{self, GpuUsage, NewWorker, Usage};
use distillery::protocol::{ErrorClass, Failure, Progress};
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
async fn data_sets_are_found_as_they_come_and_go() {
    let api = Api::start().await;
    let list = api.get("/v1/datasets").await.expect(200);
    assert_eq!(
        list["data"][1],
        json!({
            "name": "ten", "format": "cifar10", "images": 8, "classes": 10, "size_bytes": 8 * 3073,
            "splits": [{"name": "test", "images": 4}, {"name": "train", "images": 4}],
        })
    );
    assert_eq!(list["data"][0]["name"], "hundred");
    let none = Api::start_with(|settings| settings.datasets_dir.push("none")).await;
    assert_eq!(none.get("/v1/datasets").await.expect(200), json!({"data": []}));
    none.post("/v1/jobs", &api::plain_job()).await.says(422, &["/dataset/name", "holds none"]);
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

#[tokio::test]
async fn a_worker_is_as_busy_as_its_attempts_of_the_last_hour_say() {
    let api = Api::start().await;
    let worker = NewWorker {
        id: "wrk_TEST".into(),
        name: "host cpu".into(),
        device: "cpu".into(),
        devices: 1,
        memory_bytes: None,
        usage: Usage::default(),
    };
    workers::register(&api.db.pool, &worker).await.unwrap();
    let busy = async || api.get("/v1/workers").await.expect(200)["data"][0]["busy_share"].as_f64().unwrap();
    assert_eq!(busy().await, 0.0);
    api.job().await;
    let hold = api.claim().await;
    let pool = &api.db.pool;
    let ages = "update workers set started_at = now() - interval '5 hours'";
    sqlx::query(ages).execute(pool).await.unwrap();
    // Three hours, of which one counts.
    sqlx::query("update attempts set started_at = now() - interval '3 hours'").execute(pool).await.unwrap();
    assert!((busy().await - 1.0).abs() < 0.01);
    queue::stopped(pool, &hold.write()).await.unwrap();
    sqlx::query("update attempts set ended_at = now() - interval '45 minutes'").execute(pool).await.unwrap();
    assert!((busy().await - 0.25).abs() < 0.01);
    // One that is younger than an hour is as busy as it was in its life.
    sqlx::query("update workers set started_at = now() - interval '30 minutes'").execute(pool).await.unwrap();
    sqlx::query(
        "update attempts set started_at = now() - interval '10 minutes', ended_at = now() - interval '5 minutes'",
    )
    .execute(pool)
    .await
    .unwrap();
    assert!((busy().await - 1.0 / 6.0).abs() < 0.01);
}

#[tokio::test]
async fn the_system_tells_what_waits_what_was_done_and_what_is_stored() {
    let api = Api::start_with(|settings| settings.uploads_limit = Some(1 << 30)).await;
    let empty = api.get("/v1/system").await.expect(200);
    assert_eq!((&empty["queue"]["ready"], &empty["queue"]["longest_wait_seconds"]), (&json!(0), &Value::Null));
    assert_eq!((&empty["last_day"]["begun"], &empty["last_day"]["median_wait_seconds"]), (&json!(0), &Value::Null));
    assert_eq!((&empty["storage"]["artifacts_bytes"], &empty["storage"]["checkpoints"]), (&json!(0), &json!(0)));
    let bytes = checkpoint("resnet8", 10);
    let uploaded = bytes.len();
    api.upload("", bytes).await.expect(201);
    let done = api.job().await;
    let hold = api.claim().await;
    api.publish(&hold, &[("student.safetensors", b"student")]).await;
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
    let write = failing.write();
    let state = SavedCheckpoint {
        attempt: failing.attempt,
        epoch: 1,
        step: 10,
        key: "jobs/x/attempts/1/state".into(),
        sha256: None,
        size_bytes: Some(1234),
    };
    queue::checkpoint_saved(&api.db.pool, &write, &state).await.unwrap();
    let failure = Failure { class: ErrorClass::Oom, message: "no memory".into() };
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
    // What failed can be tried again from there.
    assert_eq!((&storage["states"], &storage["states_bytes"]), (&json!(1), &json!(1234)));
    assert_eq!((&storage["checkpoints"], &storage["checkpoints_bytes"]), (&json!(1), &json!(uploaded)));
    assert_eq!(storage["checkpoints_limit_bytes"], 1 << 30);
    assert!(storage["database_bytes"].as_u64() > Some(1_000_000) && storage["free_bytes"].as_u64() > Some(1_000_000));
}

#[tokio::test]
async fn health_is_that_of_what_the_server_needs() {
    let api = Api::start().await;
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
async fn prometheus_reads_requests_and_jobs() {
    let api = Api::start().await;
    let id = api.job().await;
    api.job().await;
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    api.get("/v1/jobs/nonsense").await.problem(404);
    api.get("/made-up").await.problem(404);
    let answer = api.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = answer.text();
    for line in [
        "distillery_jobs{status=\"queued\"} ",
        "distillery_jobs{status=\"cancelled\"} ",
        "distillery_jobs{status=\"running\"} ",
        "distillery_queue_depth ",
        "distillery_database_up 1",
        "distillery_http_request_duration_seconds_bucket{route=\"/v1/jobs\",method=\"POST\",le=",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let counted = |route: &str, method: &str, status: &str| {
        text.lines().any(|line| {
            let labels = [format!("route=\"{route}\""), format!("method=\"{method}\""), format!("status=\"{status}\"")];
            line.starts_with("distillery_http_requests_total{") && labels.iter().all(|label| line.contains(label))
        })
    };
    assert!(counted("/v1/jobs", "POST", "201"), "{text}");
    assert!(counted("/v1/jobs/{id}", "GET", "404"), "{text}");
    assert!(counted("other", "GET", "404"), "{text}");
    assert!(!text.contains("made-up") && !text.contains("nonsense") && !text.contains(&id));
}

#[tokio::test]
async fn prometheus_reads_what_became_of_attempts_and_no_counter_falls() {
    let api = Api::start().await;
    let pool = &api.db.pool;
    let sample = async |name: &str| {
        let text = api.get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.trim().parse::<f64>().unwrap()
    };
    assert_eq!(sample("distillery_attempts_total{outcome=\"oom\"}").await, 0.0);
    assert_eq!(sample("distillery_pickup_latency_seconds_bucket{le=\"+Inf\"}").await, 0.0);

    let first = api.job().await;
    let back_date = "update jobs set run_after = now() - interval '30 seconds' where id = $1";
    sqlx::query(back_date).bind(&first).execute(pool).await.unwrap();
    assert!((30.0..90.0).contains(&sample("distillery_queue_oldest_seconds").await));
    let hold = api.claim().await;
    assert_eq!(sample("distillery_queue_oldest_seconds").await, 0.0);
    assert_eq!(sample("distillery_pickup_latency_seconds_bucket{le=\"10\"}").await, 0.0);
    assert_eq!(sample("distillery_pickup_latency_seconds_bucket{le=\"60\"}").await, 1.0);
    assert!((30.0..90.0).contains(&sample("distillery_pickup_latency_seconds_sum").await));
    let batch = queue::Batch { progress: Some(progress()), ..Default::default() };
    assert!(queue::record(pool, &hold.write(), &batch).await.unwrap());
    assert_eq!(sample("distillery_training_images_per_second").await, 640.0);
    let aged = "update jobs set lease_renewed_at = now() - interval '9 seconds' where id = $1";
    sqlx::query(aged).bind(&first).execute(pool).await.unwrap();
    assert!((9.0..60.0).contains(&sample("distillery_lease_age_seconds_max").await));

    // A minute of training with a checkpoint after three quarters of it, and then the worker is gone.
    let spent =
        "update attempts set started_at = now() - interval '60 seconds', saved_at = now() - interval '15 seconds'";
    sqlx::query(spent).execute(pool).await.unwrap();
    let expired = "update jobs set lease_expires_at = now() - interval '1 second' where id = $1";
    sqlx::query(expired).bind(&first).execute(pool).await.unwrap();
    queue::rescue_expired(pool).await.unwrap();
    assert_eq!(sample("distillery_rescues_total").await, 1.0);
    assert_eq!(sample("distillery_attempts_total{outcome=\"worker_lost\"}").await, 1.0);
    assert!((45.0..46.0).contains(&sample("distillery_device_seconds_total{fate=\"used\"}").await));
    assert!((15.0..30.0).contains(&sample("distillery_device_seconds_total{fate=\"lost\"}").await));
    db::attempts::count_refused(pool, &hold).await.unwrap();
    assert_eq!(sample("distillery_stale_writes_refused_total").await, 1.0);

    let again = api.claim().await;
    let failure = Failure { class: ErrorClass::Oom, message: "too large".into() };
    queue::fail(pool, &again.write(), &failure).await.unwrap();
    assert_eq!(sample("distillery_attempts_total{outcome=\"oom\"}").await, 1.0);
    api.delete(&format!("/v1/jobs/{first}")).await;
    assert_eq!(sample("distillery_attempts_total{outcome=\"oom\"}").await, 1.0);
    assert_eq!(sample("distillery_rescues_total").await, 1.0);
    assert_eq!(sample("distillery_lease_age_seconds_max").await, 0.0);
}

fn progress() -> Progress {
    Progress { epoch: 1, epochs: 2, step: 10, steps: 20, fraction: 0.5, images_per_second: 640.0, eta_seconds: 1.0 }
}

/// Every `$ref` of a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(target)) = object.get("$ref") {
                found.insert(target.clone());
            }
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_openapi_document_describes_every_route() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut found = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            found.insert(format!("{} {path}", method.to_uppercase()));
            assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{method} {path}");
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{method} {path}");
        }
    }
    // Types of the same name would be one schema.
    for (schema, value) in [("CheckpointFormat", "torch_zip"), ("DatasetFormat", "parquet"), ("EventKind", "compacted")]
    {
        let schema = document["components"]["schemas"][schema].to_string();
        assert!(schema.contains(&format!("\"{value}\"")), "{schema}");
    }
    let expected = [
        "POST /v1/jobs",
        "GET /v1/jobs",
        "GET /v1/jobs/{id}",
        "DELETE /v1/jobs/{id}",
        "POST /v1/jobs/{id}/cancel",
        "POST /v1/jobs/{id}/pause",
        "POST /v1/jobs/{id}/resume",
        "POST /v1/jobs/{id}/retry",
        "GET /v1/jobs/{id}/submitted",
        "GET /v1/jobs/{id}/attempts",
        "GET /v1/jobs/{id}/metrics",
        "GET /v1/jobs/{id}/events",
        "GET /v1/jobs/{id}/stream",
        "GET /v1/stream",
        "GET /v1/summaries",
        "GET /v1/labels",
        "GET /v1/changes",
        "GET /v1/jobs/{id}/student",
        "GET /v1/jobs/{id}/artifacts",
        "GET /v1/jobs/{id}/artifacts/{name}",
        "PUT /v1/checkpoints",
        "POST /v1/checkpoints",
        "GET /v1/checkpoints",
        "GET /v1/checkpoints/{id}",
        "DELETE /v1/checkpoints/{id}",
        "GET /v1/architectures",
        "GET /v1/datasets",
        "GET /v1/workers",
        "GET /v1/system",
        "GET /v1/session",
        "POST /v1/session",
        "DELETE /v1/session",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
    ];
    assert_eq!(found, expected.into_iter().map(str::to_owned).collect());
    let mut used = BTreeSet::new();
    references(&document, &mut used);
    for target in used {
        assert!(document.pointer(&target[1..]).is_some(), "{target} is not there");
    }
    // Every operation answers, if only that there is no such thing.
    for path in expected {
        let (method, path) = path.split_once(' ').unwrap();
        let path = path.replace("{id}", "job_00000000000000000000000000").replace("{name}", "x");
        if ["/v1/stream", "/v1/changes"].contains(&path.as_str()) {
            continue;
        }
        let answer = api.send(api.request(method.parse().unwrap(), &path)).await;
        assert!(answer.status != 405 && !answer.status.is_server_error(), "{method} {path}: {}", answer.status);
    }
}

#[tokio::test]
async fn a_request_needs_less_than_an_answer_has() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.expect(200);
    let schemas = &document["components"]["schemas"];
    let body = &document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(body, "#/components/schemas/JobSpecRequest");
    assert_eq!(schemas["JobSpecRequest"]["required"], json!(["student", "dataset"]));
    assert_eq!(schemas["JobSpecRequest"]["additionalProperties"], false);
    assert!(schemas["DatasetSpecRequest"]["properties"].get("path").is_none());
    assert!(schemas["TrainingSpecRequest"].get("required").is_none());
    assert!(schemas["OptimizerSpecRequest"].get("oneOf").is_none());
    assert!(schemas["JobSpec"]["required"].as_array().unwrap().contains(&json!("training")));
    // What the document lists of a job, a job has.
    let id = api.job().await;
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    let listed: BTreeSet<_> = schemas["Job"]["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(job.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), listed);
    let checkpoint = api.upload("", checkpoint("resnet8", 3)).await.expect(201);
    let listed: BTreeSet<_> = schemas["Checkpoint"]["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(checkpoint.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), listed);
}

#[tokio::test]
async fn the_documents_page_is_served_from_here() {
    let api = Api::start().await;
    let redirect = api.get("/docs").await;
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (308, "/docs/"));
    let page = api.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").contains("default-src 'self'"));
    let html = page.text();
    assert!(!html.contains("http://") && !html.contains("https://"), "{html}");
    for file in html.split('"').filter_map(|part| part.strip_prefix("./")) {
        assert_eq!(api.get(&format!("/docs/{file}")).await.status, 200, "{file}");
    }
    assert!(api.get("/docs/swagger-initializer.js").await.text().contains("/openapi.json"));
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
    let api = Api::start().await;
    let id = api.job().await;
    let bytes = vec![7; 20_000_000];
    api.publish(&api.claim().await, &[("student.safetensors", &bytes)]).await;
    let download = api.request(Method::GET, &format!("/v1/jobs/{id}/student")).send().await.unwrap();
    api.stop.cancel();
    assert_eq!(download.bytes().await.unwrap(), bytes);
    let refused = async {
        while api.client.get(format!("{}/healthz", api.url)).send().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), refused).await.expect("it stops");
}

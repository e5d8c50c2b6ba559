//! Promise: a queued job says what it waits for, and what is new about a job can be asked for.

use std::time::Duration;

use crate::support::api::{self, Api};
use chrono::Utc;
use distillery::db::queue::{self, DeviceCapacity, ReportBatch};
use distillery::db::workers::{self, Abilities, NewWorker, Usage};
use distillery::protocol::{ErrorClass, Failure, Point, Progress};
use distillery::spec::JobSpec;
use serde_json::{Value, json};

async fn start_worker(api: &Api, id: &str, devices: i32, abilities: Option<Abilities>) {
    let worker = NewWorker {
        id: id.into(),
        name: "host cpu".into(),
        device: "cpu".into(),
        devices,
        memory_bytes: None,
        usage: Usage::default(),
        abilities,
    };
    workers::register(&api.db.pool, &worker).await.unwrap();
}

async fn summary(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/summaries?id={id}")).await.expect(200)["data"][0].clone()
}

async fn waiting(api: &Api, id: &str) -> (String, String, Value) {
    let waiting = &summary(api, id).await["waiting"];
    let text = |key: &str| waiting[key].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("detail"), waiting["position"].clone())
}

#[tokio::test]
async fn a_queued_job_says_what_it_waits_for() {
    let api = Api::start().await;
    let first = api.job().await;
    let (reason, detail, position) = waiting(&api, &first).await;
    assert_eq!((reason.as_str(), position), ("no_worker", Value::Null));
    assert!(detail.starts_with("no worker is running: start one"), "{detail}");
    let mut large = api::plain_job();
    large["training"]["devices"] = json!(4);
    let large = api.post("/v1/jobs", &large).await.expect(201)["id"].as_str().unwrap().to_owned();
    let broken = Abilities { stopped_because: Some("its disk is full".into()), ..Abilities::default() };
    start_worker(&api, "wrk_TEST", 1, Some(broken)).await;
    let (reason, detail, _) = waiting(&api, &first).await;
    assert_eq!(reason, "no_worker");
    assert_eq!(detail, "no running worker takes jobs: its disk is full");
    start_worker(&api, "wrk_TEST", 1, Some(Abilities::default())).await;
    let (reason, detail, _) = waiting(&api, &first).await;
    assert_eq!(reason, "dataset");
    assert_eq!(detail, "no running worker has the data set ten: copy it into the --datasets-dir of one");
    let queue = &api.get("/v1/system").await.expect(200)["queue"];
    assert_eq!((&queue["ready"], &queue["without_worker"]), (&json!(0), &json!(2)));
    sqlx::query("delete from workers").execute(&api.db.pool).await.unwrap();
    start_worker(&api, "wrk_TEST", 1, None).await;
    let (reason, detail, position) = waiting(&api, &large).await;
    assert_eq!((reason.as_str(), position), ("devices", Value::Null));
    assert!(detail.starts_with("it asks for 4 devices, and the largest running worker has 1: "), "{detail}");
    let queue = &api.get("/v1/system").await.expect(200)["queue"];
    assert_eq!((&queue["ready"], &queue["without_worker"]), (&json!(1), &json!(1)), "no worker can take the large one");
    assert_eq!(waiting(&api, &first).await.0, "start");
    let pupil = api.post("/v1/jobs", &api::student_job(json!({"job": first}))).await.expect(201);
    let pupil = pupil["id"].as_str().unwrap();
    let (reason, detail, _) = waiting(&api, pupil).await;
    assert_eq!(reason, "teacher");
    assert!(detail.ends_with("which is queued"), "{detail}");
    let token = api.claim().await;
    assert_eq!(token.job, first);
    assert_eq!(summary(&api, &first).await["waiting"], Value::Null);
    let (second, third) = (api.job().await, api.job().await);
    assert_eq!(waiting(&api, &second).await.2, json!(1));
    let (_, detail, position) = waiting(&api, &third).await;
    assert_eq!((detail.as_str(), position), ("one job is ahead of it", json!(2)));
    // Nothing says how long a job takes yet.
    assert_eq!(summary(&api, &third).await["waiting"]["starts_in_seconds"], Value::Null);
    let progress =
        Progress { epoch: 1, epochs: 2, step: 1, steps: 2, fraction: 0.5, images_per_second: 10.0, eta_seconds: 600.0 };
    let batch = ReportBatch { progress: Some(progress), ..ReportBatch::default() };
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
    assert_eq!(summary(&api, &second).await["waiting"]["starts_in_seconds"], 600.0);
    let failure = Failure { class: ErrorClass::Oom, message: "no memory".into() };
    queue::fail(&api.db.pool, &token.write(), &failure).await.unwrap();
    let later =
        "update jobs set run_after = now() + interval '1 hour', error = '{\"class\": \"storage\"}' where id = $1";
    sqlx::query(later).bind(&second).execute(&api.db.pool).await.unwrap();
    let (reason, detail, position) = waiting(&api, &second).await;
    assert_eq!((reason.as_str(), position), ("backoff", Value::Null));
    assert!(detail.starts_with("its last attempt failed (storage), and it is tried again at "), "{detail}");
}

#[tokio::test]
async fn a_job_of_a_newer_format_waits_for_a_worker_that_knows_it() {
    let api = Api::start().await;
    start_worker(&api, "wrk_TEST", 1, None).await;
    let (newer, known) = (api.job().await, api.job().await);
    api.db.set(&newer, "spec_version = 1000").await;
    let (reason, detail, position) = waiting(&api, &newer).await;
    assert_eq!((reason.as_str(), position), ("version", Value::Null));
    let version = 1000;
    assert!(JobSpec::VERSION < version);
    assert_eq!(detail, format!("no running worker knows version {version} of specifications: update the workers"));
    let (reason, _, position) = waiting(&api, &known).await;
    assert_eq!((reason.as_str(), position), ("start", json!(1)));
    let queue = &api.get("/v1/system").await.expect(200)["queue"];
    assert_eq!((&queue["ready"], &queue["without_worker"]), (&json!(1), &json!(1)));
    start_worker(&api, "wrk_NEW", 1, None).await;
    let update = sqlx::query("update workers set spec_version = $1 where id = 'wrk_NEW'").bind(version);
    update.execute(&api.db.pool).await.unwrap();
    assert_eq!(waiting(&api, &newer).await.0, "start");
    // The worker that is free then is not the one that knows it.
    let claim = queue::claim(&api.db.pool, "wrk_NEW", DeviceCapacity::ONE, Duration::from_secs(60)).await.unwrap();
    assert_eq!(claim.unwrap().token.job, known);
    let (reason, detail, position) = waiting(&api, &newer).await;
    assert_eq!((reason.as_str(), position), ("turn", json!(1)));
    assert_eq!(detail, "it is next, and every worker that could take it is busy");
}

#[tokio::test]
async fn the_start_is_estimated_from_the_lengths_of_past_jobs() {
    let api = Api::start().await;
    start_worker(&api, "wrk_TEST", 1, None).await;
    api.job().await;
    let token = api.claim().await;
    api.publish(&token, &[]).await;
    let took = "update attempts set started_at = now() - interval '100 seconds', ended_at = now()";
    sqlx::query(took).execute(&api.db.pool).await.unwrap();
    let ids = [api.job().await, api.job().await, api.job().await];
    let mut starts = Vec::new();
    for id in &ids {
        starts.push(summary(&api, id).await["waiting"]["starts_in_seconds"].as_f64().unwrap().round());
    }
    assert_eq!(starts, [0.0, 100.0, 200.0]);
    let ran = summary(&api, &token.job).await["ran_seconds"].as_f64().unwrap();
    assert!((ran - 100.0).abs() < 1.0, "{ran}");
}

#[tokio::test]
async fn a_summary_counts_the_students_of_its_job() {
    let api = Api::start().await;
    let teacher = api.job().await;
    let mut pupils = Vec::new();
    for _ in 0..2 {
        let pupil = api.post("/v1/jobs", &api::student_job(json!({"job": teacher}))).await.expect(201);
        pupils.push(pupil["id"].as_str().unwrap().to_owned());
    }
    api.ask(&format!("/v1/jobs/{}/cancel", pupils[0])).await.expect(202);
    let summary = summary(&api, &teacher).await;
    assert_eq!((&summary["students"], &summary["unfinished_students"]), (&json!(2), &json!(1)));
    assert_eq!(summary["student_names"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn updates_continue_where_the_last_answer_ended() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    let point = |step| Point { name: "eval/top1".into(), step, epoch: 1.0, time: Utc::now(), value: step as f64 };
    let batch = ReportBatch { points: (1..=501).map(point).collect(), ..ReportBatch::default() };
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
    let updates = async |after: &str| api.get(&format!("/v1/jobs/{id}/updates{after}")).await.expect(200);
    let first = updates("").await;
    assert_eq!((&first["job"]["status"], &first["events"][0]["seq"]), (&json!("running"), &json!(1)));
    assert_eq!((first["points"].as_array().unwrap().len(), &first["has_more"]), (500, &json!(true)));
    let next = first["next"].as_str().unwrap();
    let second = updates(&format!("?after={next}")).await;
    assert_eq!((&second["events"], &second["points"][0]["step"]), (&json!([]), &json!(501)));
    assert_eq!(second["has_more"], false);
    let next = second["next"].as_str().unwrap();
    let nothing = updates(&format!("?after={next}")).await;
    assert_eq!((&nothing["points"], &nothing["next"]), (&json!([]), &json!(next)));
    // An id of the job's stream is a position too.
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    let later = updates(&format!("?after={next}-running")).await;
    assert_eq!(later["job"]["status"], "cancelling");
    api.get(&format!("/v1/jobs/{id}/updates?after=x")).await.says(400, &["\"x\" is not a position"]);
    api.get(&format!("/v1/jobs/job_{}/updates", "0".repeat(26))).await.says(404, &["there is no job"]);
}

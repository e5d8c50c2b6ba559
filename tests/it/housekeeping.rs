//! Promise: an unattended server compacts old jobs without changing what they say, and removes jobs and files as its
//! rules say.

use std::process::Stdio;

use crate::support::api::{Api, plain_job};
use crate::support::process::{Process, distillery};
use chrono::{TimeDelta, Utc};
use distillery::db::compaction::{Compacted, compact_one};
use distillery::db::queue::{self, FencingToken, ReportBatch, SavedCheckpoint};
use distillery::protocol::{Level, Point};
use serde_json::{Value, json};

/// Steps of the long series: more points than compaction keeps, and than it deletes at once.
const STEPS: u64 = 6000;

/// Steps of the lowest and the highest value of the long series.
const PEAKS: [u64; 2] = [777, 1888];

async fn record(api: &Api, token: &FencingToken, batch: ReportBatch) {
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
}

fn logs(level: Level, lines: &[&str]) -> ReportBatch {
    ReportBatch { logs: lines.iter().map(|line| (level, (*line).to_owned())).collect(), ..ReportBatch::default() }
}

async fn ended(api: &Api, id: &str, days: i32) {
    let update = "update jobs set finished_at = now() - make_interval(days => $1) where id = $2";
    sqlx::query(update).bind(days).bind(id).execute(&api.db.pool).await.unwrap();
}

/// A job with a long and a short series and a long history that ended this many days ago.
async fn long_job(api: &Api, days: i32) -> String {
    let id = api.job().await;
    let token = api.claim().await;
    record(api, &token, logs(Level::Info, &["reading", "still reading"])).await;
    record(api, &token, logs(Level::Warning, &["an image is broken"])).await;
    let start = Utc::now();
    let point = |name: &str, step: u64, value: f64| Point {
        name: name.to_owned(),
        step,
        epoch: step as f64 / 10.0,
        time: start + TimeDelta::milliseconds(step as i64),
        value,
    };
    let loss = |step: u64| match PEAKS.iter().position(|&peak| peak == step) {
        Some(0) => -5.0,
        Some(_) => 50.0,
        None => 1.0 + (step % 7) as f64,
    };
    let mut points: Vec<_> = (1..=STEPS).map(|step| point("train/loss", step, loss(step))).collect();
    points.extend((1..=240).map(|epoch| point("eval/top1", epoch * 10, epoch as f64 / 4.0)));
    record(api, &token, ReportBatch { points, ..ReportBatch::default() }).await;
    for epoch in 1..=3 {
        let key = format!("jobs/{id}/attempts/1/state/checkpoint.safetensors");
        let saved =
            SavedCheckpoint { attempt: 1, epoch, step: u64::from(epoch) * 10, key, sha256: None, size_bytes: None };
        assert!(queue::checkpoint_saved(&api.db.pool, &token.write(), &saved).await.unwrap());
        record(api, &token, logs(Level::Info, &["an epoch is done"])).await;
    }
    api.publish(&token, &[("student.safetensors", b"student"), ("metrics.ndjson", b"{}")]).await;
    ended(api, &id, days).await;
    id
}

async fn history(api: &Api, id: &str) -> Vec<Value> {
    api.get(&format!("/v1/jobs/{id}/events?limit=1000")).await.expect(200)["data"].as_array().unwrap().clone()
}

async fn series(api: &Api, id: &str, name: &str) -> Vec<(u64, f64)> {
    let series = api.get(&format!("/v1/jobs/{id}/metrics?name={name}&max_points=10000")).await.expect(200);
    let points = series["series"][0]["points"].as_array().unwrap().clone();
    points.iter().map(|point| (point["step"].as_u64().unwrap(), point["value"].as_f64().unwrap())).collect()
}

/// Whether every sequence number occurs once, as an event or in the range of a compacted one.
fn is_gapless(history: &[Value]) -> bool {
    let mut next = 1;
    history.iter().all(|event| {
        let (first, last) = match event["kind"].as_str() {
            Some("compacted") => (event["data"]["from"].as_u64(), event["data"]["to"].as_u64()),
            _ => (event["seq"].as_u64(), event["seq"].as_u64()),
        };
        let fits = first == Some(next) && event["seq"].as_u64() == first;
        next = last.unwrap() + 1;
        fits
    })
}

#[tokio::test]
async fn a_compacted_job_keeps_peaks_ends_evaluations_and_all_that_its_history_says() {
    let api = Api::start().await;
    let id = long_job(&api, 40).await;
    let before = history(&api, &id).await;
    let (loss, top1) = (series(&api, &id, "train/loss").await, series(&api, &id, "eval/top1").await);
    let chart = format!("/v1/jobs/{id}/metrics?max_points=100");
    let charted = api.get(&chart).await.expect(200);

    assert_eq!(compact_one(&api.db.pool, 41).await.unwrap(), None);
    let compacted = compact_one(&api.db.pool, 40).await.unwrap().expect("a job is old enough");
    assert_eq!(compact_one(&api.db.pool, 40).await.unwrap(), None);

    let left = series(&api, &id, "train/loss").await;
    assert!((500..=1000).contains(&left.len()), "{}", left.len());
    assert!(left.iter().all(|point| loss.contains(point)) && left.is_sorted_by_key(|&(step, _)| step));
    for step in [1, PEAKS[0], PEAKS[1], STEPS] {
        assert!(left.iter().any(|&(of, _)| of == step), "{step}");
    }
    assert_eq!(series(&api, &id, "eval/top1").await, top1);
    let after = history(&api, &id).await;
    assert_eq!(
        compacted,
        Compacted {
            job: id.clone(),
            points: (loss.len() - left.len()) as u64,
            events: (before.len() - after.len()) as u64
        }
    );
    assert!(is_gapless(&before) && is_gapless(&after), "{after:#?}");
    let says = |history: &[Value], small: bool| -> Vec<Value> {
        let is_small = |event: &Value| match event["kind"].as_str().unwrap() {
            "checkpoint" | "compacted" => true,
            "log" => event.get("data").is_none_or(Value::is_null),
            _ => false,
        };
        history.iter().filter(|event| is_small(event) == small).cloned().collect()
    };
    assert_eq!(says(&after, false), says(&before, false));
    let stand: Vec<_> = says(&after, true);
    assert_eq!(stand.len(), 2, "{stand:#?}");
    assert_eq!(stand[0]["message"], "2 lines of the log and checkpoints");
    assert_eq!(stand[1]["message"], "6 lines of the log and checkpoints");
    // A chart of it looks the same: same names, ends and extremes.
    let again = api.get(&chart).await.expect(200);
    assert_eq!(again["series"][0], charted["series"][0]);
    assert_eq!(api.get(&format!("/v1/jobs/{id}/student")).await.body, b"student");
    // A client that has read a part of the history before continues after the range of a compacted event.
    let inside = stand[1]["data"]["to"].as_u64().unwrap() - 1;
    let rest = api.get(&format!("/v1/jobs/{id}/events?after={inside}")).await.expect(200)["data"].clone();
    assert_eq!(rest.as_array().unwrap().last(), after.last());
}

#[tokio::test]
async fn a_compacted_event_of_another_form_stands_for_itself() {
    let api = Api::start().await;
    let id = long_job(&api, 40).await;
    let foreign = "update events set kind = 'compacted', data = '{\"to\": 1e400}'
        where job_id = $1 and seq = (select min(seq) from events where job_id = $1 and kind = 'log' and data is null)";
    assert_eq!(sqlx::query(foreign).bind(&id).execute(&api.db.pool).await.unwrap().rows_affected(), 1);
    assert!(history(&api, &id).await.iter().any(|event| event["kind"] == "compacted" && event["data"].is_null()));
    compact_one(&api.db.pool, 40).await.unwrap().expect("a job is old enough");
    assert!(is_gapless(&history(&api, &id).await));
}

#[tokio::test]
async fn a_job_that_failed_or_was_cancelled_keeps_everything_and_is_compacted_once_it_has_succeeded() {
    let api = Api::start().await;
    let id = api.post("/v1/jobs", &plain_job()).await.expect(201)["id"].as_str().unwrap().to_owned();
    let cancelled = api.post("/v1/jobs", &plain_job()).await.expect(201)["id"].as_str().unwrap().to_owned();
    api.ask(&format!("/v1/jobs/{cancelled}/cancel")).await.expect(202);
    let now = Utc::now();
    let points = |first: u64| {
        let point = |step| Point { name: "train/loss".to_owned(), step, epoch: 1.0, time: now, value: step as f64 };
        ReportBatch { points: (first..first + STEPS).map(point).collect(), ..ReportBatch::default() }
    };
    let token = api.claim().await;
    record(&api, &token, points(1)).await;
    record(&api, &token, logs(Level::Info, &["one", "two", "three"])).await;
    queue::fail(&api.db.pool, &token.write(), &user_failure()).await.unwrap();
    let (before, loss) = (history(&api, &id).await, series(&api, &id, "train/loss").await);
    assert_eq!(compact_one(&api.db.pool, 0).await.unwrap(), None);
    assert_eq!((history(&api, &id).await, series(&api, &id, "train/loss").await), (before, loss));

    api.ask(&format!("/v1/jobs/{id}/retry")).await.expect(202);
    let token = api.claim().await;
    record(&api, &token, points(1 + STEPS)).await;
    assert_eq!(compact_one(&api.db.pool, 0).await.unwrap(), None);
    api.publish(&token, &[("student.safetensors", b"student"), ("metrics.ndjson", b"{}")]).await;
    let compacted = compact_one(&api.db.pool, 0).await.unwrap().expect("it has succeeded");
    assert_eq!(compacted.job, id);
    assert!(compacted.points > STEPS && compacted.events == 2, "{compacted:?}");
    assert!(is_gapless(&history(&api, &id).await));
    assert_eq!(compact_one(&api.db.pool, 0).await.unwrap(), None);
}

#[tokio::test]
async fn a_job_without_its_file_of_metrics_keeps_its_points() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    record(&api, &token, logs(Level::Info, &["one", "two"])).await;
    api.publish(&token, &[("student.safetensors", b"student")]).await;
    let before = history(&api, &id).await;
    assert_eq!(compact_one(&api.db.pool, 0).await.unwrap(), None);
    assert_eq!(history(&api, &id).await, before);
}

#[tokio::test]
async fn the_series_that_is_in_no_file_is_not_thinned() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    let now = Utc::now();
    let point = |step| Point { name: "memory/gpu_bytes".to_owned(), step, epoch: 1.0, time: now, value: step as f64 };
    record(&api, &token, ReportBatch { points: (1..=STEPS).map(point).collect(), ..ReportBatch::default() }).await;
    api.publish(&token, &[("student.safetensors", b"student"), ("metrics.ndjson", b"{}")]).await;
    assert_eq!(compact_one(&api.db.pool, 0).await.unwrap().expect("it has succeeded").points, 0);
    assert_eq!(series(&api, &id, "memory/gpu_bytes").await.len() as u64, STEPS);
}

fn user_failure() -> distillery::protocol::Failure {
    serde_json::from_value(json!({"class": "user", "message": "no such column"})).unwrap()
}

#[tokio::test]
async fn a_server_compacts_and_removes_jobs_as_its_rules_say() {
    let api = Api::start().await;
    let (ancient, old, young) = (long_job(&api, 100).await, long_job(&api, 40).await, long_job(&api, 3).await);
    let orphan = format!("jobs/{old}/attempts/9/student.safetensors");
    let bytes = futures::stream::iter([Ok::<_, std::convert::Infallible>(bytes::Bytes::from_static(b"bytes"))]);
    api.store.put_stream(&orphan, bytes).await.unwrap();
    let storage = api.dir.path().join("storage");
    let data = tempfile::tempdir().unwrap();
    let start = |rules: &[(&str, &str)]| {
        let mut command = distillery();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--workers", "0"])
            .args(["--storage".as_ref(), storage.as_os_str(), "--data-dir".as_ref(), data.path().as_os_str()])
            .env("DATABASE_URL", &api.db.url)
            .envs(rules.iter().copied())
            .stderr(Stdio::piped());
        let mut server = Process::start(command);
        let log = server.stderr();
        (server, log)
    };
    // Without rules old jobs are compacted, and nothing is removed.
    let (server, mut log) = start(&[]);
    for _ in [&ancient, &old] {
        log.until("compacted a job").await;
    }
    server.terminate().await;
    assert_eq!(series(&api, &young, "train/loss").await.len(), STEPS as usize);
    assert!(series(&api, &old, "train/loss").await.len() <= 1000);
    assert!(api.store.list().await.unwrap().iter().any(|file| file.key == orphan));
    // Zero days mean never.
    let (server, mut log) = start(&[
        ("DISTILLERY_COMPACT_AFTER_DAYS", "0"),
        ("DISTILLERY_OLDER_THAN_DAYS", "60"),
        ("DISTILLERY_ORPHAN_MINUTES", "0"),
    ]);
    log.until("removed 1 of ").await;
    server.terminate().await;
    let keys: Vec<String> = api.store.list().await.unwrap().into_iter().map(|file| file.key).collect();
    assert!(!keys.contains(&orphan), "{keys:?}");
    assert!(!keys.iter().any(|key| key.contains(&ancient)), "{keys:?}");
    api.get(&format!("/v1/jobs/{ancient}")).await.problem(404);
    assert_eq!(api.get(&format!("/v1/jobs/{old}/student")).await.body, b"student");
}

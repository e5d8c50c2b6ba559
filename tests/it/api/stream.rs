//! Promise: a stream sends every message once and in order, also after an interruption, and ends with the job.

use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::api::{Api, Message};
use chrono::Utc;
use distillery::db::queue::{self, FencingToken, ReportBatch};
use distillery::protocol::{Level, Point, Progress};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Executor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn point(step: u64) -> Point {
    Point { name: "train/loss".into(), step, epoch: 0.1, time: Utc::now(), value: step as f64 }
}

fn progress(step: u64) -> Progress {
    let steps = 1000;
    let fraction = step as f64 / steps as f64;
    Progress { epoch: 1, epochs: 2, step, steps, fraction, images_per_second: 100.0, eta_seconds: 1.0 }
}

/// What a trainer reports at a step: its progress, a point and a line.
async fn report(api: &Api, token: &FencingToken, step: u64) {
    let logs = vec![(Level::Info, format!("line {step}"))];
    let batch = ReportBatch { progress: Some(progress(step)), points: vec![point(step)], logs };
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
}

fn of<'a>(messages: &'a [Message], name: &str) -> Vec<&'a Value> {
    messages.iter().filter(|message| message.name == name).map(|message| &message.data).collect()
}

fn steps(messages: &[Message]) -> Vec<u64> {
    of(messages, "metric").iter().map(|data| data["step"].as_u64().unwrap()).collect()
}

fn seqs(messages: &[Message]) -> Vec<u64> {
    of(messages, "event").iter().map(|data| data["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_stream_follows_a_job_from_its_post_to_its_end() {
    let api = Api::start().await;
    let id = api.job().await;
    let mut stream = api.stream(&format!("/v1/jobs/{id}/stream"), None).await;
    let first = stream.next().await.unwrap();
    assert_eq!(
        (first.name.as_str(), &first.data["status"], &first.data["id"]),
        ("status", &json!("queued"), &json!(id))
    );
    assert_eq!(first.data, api.get(&format!("/v1/jobs/{id}")).await.expect(200));
    let token = api.claim().await;
    let running = stream.until(|message| message.name == "status" && message.data["status"] == "running").await;
    assert_eq!(seqs(&running), [1, 2]);
    for step in 1..=5 {
        report(&api, &token, step).await;
    }
    api.publish(&token, &[("student.safetensors", b"abcd")]).await;
    let rest = stream.rest().await;
    assert_eq!(steps(&rest), [1, 2, 3, 4, 5]);
    assert_eq!(seqs(&rest), [3, 4, 5, 6, 7, 8]);
    let last = rest.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["status"]), ("status", &json!("succeeded")));
    assert_eq!(last.data["result"]["best_top1"], 76.3);
    let progress = of(&rest, "progress");
    assert_eq!((&progress.last().unwrap()["step"], &progress[0]["id"]), (&json!(5), &json!(id)));
    // A browser that reconnects is told to stop.
    let request = api.request(Method::GET, &format!("/v1/jobs/{id}/stream"));
    let again = api.send(request.header("last-event-id", last.id.as_deref().unwrap())).await;
    assert_eq!(again.status, 204);
    // A late client gets everything.
    let late = api.stream(&format!("/v1/jobs/{id}/stream"), None).await.rest().await;
    assert_eq!((steps(&late), seqs(&late)), ((1..=5).collect(), (1..=8).collect()));
    assert_eq!(of(&late, "status").len(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_anywhere_goes_on_without_loss_or_repetition() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    let path = format!("/v1/jobs/{id}/stream");
    let (mut seen, mut place) = (Vec::new(), None::<String>);
    for step in 1..=30 {
        report(&api, &token, step).await;
        // The connection breaks after a varying number of messages.
        let mut stream = api.stream(&path, place.as_deref()).await;
        for _ in 0..step % 7 {
            let Some(message) = stream.next().await else { break };
            place = message.id.clone().or(place);
            seen.push(message);
            let known = (seqs(&seen).len() as u64, steps(&seen).len() as u64);
            if known == (step + 2, step) {
                break;
            }
        }
    }
    api.publish(&token, &[("student.safetensors", b"abcd")]).await;
    seen.extend(api.stream(&format!("{path}?after={}", place.unwrap()), None).await.rest().await);
    assert_eq!(steps(&seen), (1..=30).collect::<Vec<_>>());
    assert_eq!(seqs(&seen), (1..=33).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_page_goes_on_from_what_it_has_read() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    for step in 1..=3 {
        report(&api, &token, step).await;
    }
    let metrics = api.get(&format!("/v1/jobs/{id}/metrics")).await.expect(200);
    let events = api.get(&format!("/v1/jobs/{id}/events")).await.expect(200);
    let seq = &events["data"].as_array().unwrap().last().unwrap()["seq"];
    report(&api, &token, 4).await;
    let after = format!("{seq}-{}", metrics["last_id"]);
    let mut stream = api.stream(&format!("/v1/jobs/{id}/stream?after={after}"), None).await;
    let messages = stream.until(|message| message.name == "metric").await;
    assert_eq!((steps(&messages), seqs(&messages)), (vec![4], vec![6]));
}

#[tokio::test]
async fn a_client_that_saw_the_end_sees_the_events_of_a_retry() {
    let api = Api::start().await;
    let id = api.job().await;
    let path = format!("/v1/jobs/{id}/stream");
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    let end = api.stream(&path, None).await.rest().await.pop().unwrap().id.unwrap();
    api.ask(&format!("/v1/jobs/{id}/retry")).await.expect(202);
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    let messages = api.stream(&path, Some(&end)).await.rest().await;
    let told: Vec<_> = of(&messages, "event").iter().map(|data| data["data"]["status"].clone()).collect();
    assert_eq!(told, ["queued", "cancelled"]);
}

#[tokio::test]
async fn a_fast_trainer_is_told_of_a_few_times_a_second() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    let mut stream = api.stream(&format!("/v1/jobs/{id}/stream"), None).await;
    let start = Instant::now();
    for step in 1..=100 {
        report(&api, &token, step).await;
    }
    api.publish(&token, &[("student.safetensors", b"abcd")]).await;
    let messages = stream.rest().await;
    // At most one message per fifth of a second, and one at either end. A slow machine may send fewer.
    let looks = start.elapsed().as_millis() / 200 + 2;
    let told = of(&messages, "progress").len();
    assert!(told >= 1 && told as u128 <= looks, "{told} messages, at most {looks} expected");
    assert_eq!(steps(&messages), (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn more_than_a_page_of_history_comes_in_order() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    let logs = (0..1200).map(|line| (Level::Info, line.to_string())).collect();
    let batch = ReportBatch { points: (0..1300).map(point).collect(), logs, progress: None };
    queue::record(&api.db.pool, &token.write(), &batch).await.unwrap();
    let mut stream = api.stream(&format!("/v1/jobs/{id}/stream"), None).await;
    let messages = stream.until(|message| message.name == "metric" && message.data["step"] == 1299).await;
    assert_eq!((steps(&messages), seqs(&messages)), ((0..1300).collect(), (1..=1202).collect()));
}

#[tokio::test]
async fn a_stream_that_has_nothing_to_say_sends_comments_so_that_proxies_keep_it() {
    let api = Api::start_with(|settings| settings.keep_alive = Duration::from_millis(100)).await;
    let id = api.job().await;
    for path in [format!("/v1/jobs/{id}/stream"), "/v1/stream".to_owned()] {
        let mut answer = api.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-cache");
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        let mut text = String::new();
        while text.lines().filter(|line| line.starts_with(':')).count() < 3 {
            text.push_str(std::str::from_utf8(&answer.chunk().await.unwrap().expect("it goes on")).unwrap());
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_dropped_and_can_resume_and_others_are_not_disturbed() {
    let api = Api::start_with(|settings| settings.reader_patience = Duration::from_secs(2)).await;
    let id = api.job().await;
    let token = api.claim().await;
    // More than the kernel buffers for a client that does not read.
    let lines = 3000;
    for first in (0..lines).step_by(300) {
        let logs = (first..first + 300).map(|line| (Level::Info, format!("{line} {}", "x".repeat(8000)))).collect();
        assert!(
            queue::record(&api.db.pool, &token.write(), &ReportBatch { logs, ..ReportBatch::default() }).await.unwrap()
        );
    }
    let path = format!("/v1/jobs/{id}/stream");
    let mut idle = TcpStream::connect(api.url.strip_prefix("http://").unwrap()).await.unwrap();
    let host = api.url.strip_prefix("http://").unwrap();
    idle.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    let mut start = [0; 15];
    idle.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    // It reads nothing more, while another client reads everything.
    let mut reader = api.stream(&path, None).await;
    let history = reader.until(|message| message.name == "event" && message.data["seq"] == lines + 2).await;
    assert_eq!(seqs(&history), (1..=lines + 2).collect::<Vec<_>>());
    // More than the kernel buffers for a server that does not read: the write ends when the connection is closed.
    let noise = vec![b'\n'; 64 << 20];
    let dropped = tokio::time::timeout(PATIENCE, idle.write_all(&noise)).await;
    dropped.expect("the connection is closed").unwrap_err();
    report(&api, &token, 1).await;
    let news = reader.until(|message| message.name == "metric").await;
    assert_eq!(steps(&news), [1]);
    // The dropped client resumes from the last message that it has.
    let mut again = api.stream(&path, Some("1500-0")).await;
    let rest = again.until(|message| message.name == "metric").await;
    assert_eq!(seqs(&rest), (1501..=lines + 3).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_lost_connection_to_the_database_loses_no_message() {
    let api = Api::start().await;
    let id = api.job().await;
    let token = api.claim().await;
    let mut stream = api.stream(&format!("/v1/jobs/{id}/stream"), None).await;
    stream.until(|message| message.name == "event" && message.data["seq"] == 2).await;
    let others = "select pg_terminate_backend(pid) from pg_stat_activity
        where query like 'LISTEN%' and datname = current_database()";
    api.db.pool.execute(others).await.unwrap();
    report(&api, &token, 1).await;
    let messages = stream.until(|message| message.name == "metric").await;
    assert_eq!((steps(&messages), seqs(&messages)), (vec![1], vec![3]));
}

#[tokio::test]
async fn the_stream_of_all_jobs_follows_each_of_them() {
    let api = Api::start().await;
    let old = api.job().await;
    let done = api.job().await;
    api.ask(&format!("/v1/jobs/{done}/cancel")).await.expect(202);
    let mut stream = api.stream("/v1/stream", None).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.name.as_str(), &first.data["id"]), ("status", &json!(old)));
    let new = api.job().await;
    // The server may hear late of the job that was cancelled, and tell of it again.
    let messages = stream.until(|message| message.data["id"] == new).await;
    assert_eq!(messages.last().unwrap().data["status"], "queued");
    let token = api.claim().await;
    assert_eq!(token.job, old);
    report(&api, &token, 7).await;
    let messages = stream.until(|message| message.name == "progress").await;
    assert_eq!(messages.last().unwrap().data["step"], 7);
    assert_eq!(messages.last().unwrap().data["id"], json!(old));
    api.delete(&format!("/v1/jobs/{done}")).await.expect(204);
    let messages = stream.until(|message| message.name == "deleted").await;
    assert_eq!(messages.last().unwrap().data, json!({"id": done}));
}

#[tokio::test]
async fn a_reconnected_list_is_told_of_jobs_that_ended_meanwhile() {
    let api = Api::start().await;
    let id = api.job().await;
    let since = (Utc::now().timestamp_micros() - 1_000_000).to_string();
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    let mut stream = api.stream("/v1/stream", Some(&since)).await;
    assert_eq!(stream.next().await.unwrap().data["status"], "cancelled");
    let later = (Utc::now().timestamp_micros() + 3_600_000_000).to_string();
    let new = api.job().await;
    let mut stream = api.stream("/v1/stream", Some(&later)).await;
    stream.until(|message| message.data["id"] == new).await;
}

#[tokio::test]
async fn an_id_of_another_stream_is_refused() {
    let api = Api::start().await;
    let id = api.job().await;
    api.get(&format!("/v1/jobs/{id}/stream?after=12")).await.says(400, &["not an id of this stream"]);
    api.get("/v1/stream?after=1-2").await.says(400, &["not an id of this stream"]);
    api.get("/v1/stream?from=1").await.says(400, &["from"]);
    let request = api.request(Method::GET, &format!("/v1/jobs/{id}/stream"));
    api.send(request.header("last-event-id", "x-y")).await.problem(400);
    api.get("/v1/jobs/job_00000000000000000000000000/stream").await.problem(404);
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams() {
    let api = Api::start().await;
    let id = api.job().await;
    let mut job = api.stream(&format!("/v1/jobs/{id}/stream"), None).await;
    let mut all = api.stream("/v1/stream", None).await;
    job.next().await.unwrap();
    all.next().await.unwrap();
    api.stop.cancel();
    job.rest().await;
    all.rest().await;
}

//! Promise: everybody who watches all jobs is told of each of them, however many watch.

use std::collections::BTreeMap;

use crate::support::api::{Api, Events, Message};
use distillery::db::queue::{self, ReportBatch};
use distillery::protocol::Progress;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};

/// Queues copies of a job, faster than by posting them.
async fn many(api: &Api, count: u32) {
    let id = api.job().await;
    let copies = format!(
        "insert into jobs (id, name, spec, max_attempts)
             select 'job_' || lpad(number::text, 26, '0'), name, spec, max_attempts
             from jobs, generate_series(1, {count}) as number where id = '{id}'"
    );
    api.db.pool.execute(AssertSqlSafe(copies)).await.unwrap();
}

/// What a client knows of each job after these messages.
fn known(messages: &[Message]) -> BTreeMap<String, Value> {
    let mut jobs = BTreeMap::new();
    for message in messages {
        let id = message.data["id"].as_str().unwrap().to_owned();
        match message.name.as_str() {
            "status" => drop(jobs.insert(id, message.data["status"].clone())),
            "deleted" => drop(jobs.remove(&id)),
            _ => {}
        }
    }
    jobs
}

async fn until_cancelled(stream: &mut Events, id: &str) -> Vec<Message> {
    stream.until(|message| message.data["id"] == id && message.data["status"] == "cancelled").await
}

#[tokio::test]
async fn who_comes_early_and_who_comes_late_know_the_same() {
    let api = Api::start().await;
    many(&api, 450).await;
    let mut early = api.stream("/v1/stream", None).await;
    let mut seen = early.until(|message| message.data["id"] == format!("job_{:0>26}", 450)).await;
    assert_eq!(known(&seen).len(), 450, "and one more, whose id comes after these");
    let token = api.claim().await;
    let progress = |step| Progress {
        epoch: 1,
        epochs: 2,
        step,
        steps: 1000,
        fraction: 0.5,
        images_per_second: 100.0,
        eta_seconds: 1.0,
    };
    let told = ReportBatch { progress: Some(progress(7)), ..ReportBatch::default() };
    assert!(queue::record(&api.db.pool, &token.write(), &told).await.unwrap());
    seen.extend(early.until(|message| message.name == "progress").await);
    let gone = format!("job_{:0>26}", 3);
    api.ask(&format!("/v1/jobs/{gone}/cancel")).await.expect(202);
    seen.extend(until_cancelled(&mut early, &gone).await);
    api.delete(&format!("/v1/jobs/{gone}")).await.expect(204);
    seen.extend(early.until(|message| message.name == "deleted").await);
    let last = api.job().await;
    seen.extend(early.until(|message| message.data["id"] == json!(last)).await);
    // Only what changed was sent again.
    assert!(seen.len() < 470, "{}", seen.len());

    let mut late = api.stream("/v1/stream", None).await;
    let all = late.until(|message| message.data["id"] == json!(last)).await;
    assert!(all.iter().any(|message| message.name == "progress" && message.data["step"] == 7));
    let running = all.iter().find(|message| message.name == "status" && message.data["status"] == "running").unwrap();
    assert_eq!(running.data["progress"]["step"], 7, "the job is sent as it is now");
    let (early, late) = (known(&seen), known(&all));
    assert_eq!(early, late);
    assert_eq!(late.len(), 451);
}

#[tokio::test]
async fn who_reconnects_far_behind_is_told_of_every_job_that_ended() {
    let api = Api::start().await;
    many(&api, 1200).await;
    let mut stream = api.stream("/v1/stream", None).await;
    let first = stream.until(|message| message.data["status"] == "queued").await;
    assert_eq!(first.len(), 1);
    let since = (chrono::Utc::now().timestamp_micros() - 1_000_000).to_string();
    api.db.pool.execute("update jobs set status = 'cancelled', finished_at = now()").await.unwrap();
    // The client has been away and has heard of none.
    drop(stream);
    let mut again = api.stream("/v1/stream", Some(&since)).await;
    let mut ended = BTreeMap::new();
    while ended.len() < 1201 {
        let message = again.next().await.unwrap();
        if message.data["status"] == "cancelled" {
            ended.insert(message.data["id"].to_string(), ());
        }
    }
}

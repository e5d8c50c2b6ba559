//! Promise: a key makes one job, however often it is sent.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use crate::support::api::{self, Api, plain_job};
use crate::support::db::TestDb;
use crate::support::http_client;
use crate::support::process::{Process, distillery};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_key_makes_one_job_however_often_it_is_sent() {
    let api = Api::start().await;
    let post = |key: &'static str, body: Value| {
        api.send(api.request(Method::POST, "/v1/jobs").header("idempotency-key", key).json(&body))
    };
    let first = post("key-1", plain_job()).await.expect(201);
    let again = post("key-1", plain_job()).await;
    assert_eq!(again.header("location"), format!("/v1/jobs/{}", first["id"].as_str().unwrap()));
    assert_eq!(again.expect(200), first);
    let mut other = plain_job();
    other["priority"] = json!(1);
    post("key-1", other.clone()).await.says(422, &["Idempotency-Key", first["id"].as_str().unwrap()]);
    assert_ne!(post("key-2", other.clone()).await.expect(201)["id"], first["id"]);
    // A replay returns the job as it is now, even if it could no longer be posted.
    let id = first["id"].as_str().unwrap();
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    std::fs::remove_dir_all(api.dir.path().join("datasets")).unwrap();
    assert_eq!(post("key-1", plain_job()).await.expect(200)["status"], "cancelled");
    // Deleting the job frees the key.
    api.delete(&format!("/v1/jobs/{id}")).await.expect(204);
    post("key-1", other).await.problem(422);
    let twice = api.request(Method::POST, "/v1/jobs").header("idempotency-key", "a").header("idempotency-key", "b");
    api.send(twice.json(&plain_job())).await.says(400, &["one value"]);
    for key in ["", "with space", "ü", &"k".repeat(256)] {
        let request = api.request(Method::POST, "/v1/jobs").header("idempotency-key", key.as_bytes());
        api.send(request.json(&plain_job())).await.says(400, &["Idempotency-Key"]);
    }
}

#[tokio::test]
async fn a_key_that_is_sent_a_hundred_times_at_once_makes_one_job() {
    let api = Api::start().await;
    let post =
        || api.send(api.request(Method::POST, "/v1/jobs").header("idempotency-key", "at-once").json(&plain_job()));
    let answers = futures::future::join_all((0..100).map(|_| post())).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    let ids: BTreeSet<_> = answers.iter().map(|answer| answer.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    assert!(answers.iter().all(|answer| [200, 201].contains(&answer.status.as_u16())));
    assert_eq!(api.get("/v1/jobs").await.expect(200)["data"].as_array().unwrap().len(), 1);
}

/// A server process without workers, and its address.
async fn start_server(db: &TestDb, dir: &Path) -> (Process, String) {
    let mut command = distillery();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--workers", "0"])
        .args(["--data-dir".as_ref(), dir.join("data").as_os_str()])
        .args(["--datasets-dir".as_ref(), dir.join("datasets").as_os_str()])
        .env("DATABASE_URL", &db.url)
        .stdout(Stdio::piped());
    let mut server = Process::start(command);
    let url = server.stdout().address().await.expect("the server prints its address");
    (server, url)
}

#[tokio::test]
async fn a_key_makes_one_job_although_the_server_is_killed_while_it_is_sent_a_hundred_times() {
    let db = TestDb::new().await;
    let dir = tempfile::tempdir().unwrap();
    api::write_datasets(&dir.path().join("datasets"));
    let (_other, other) = start_server(&db, dir.path()).await;
    let client = http_client().build().unwrap();
    for round in 0..4 {
        let (doomed, url) = start_server(&db, dir.path()).await;
        let key = format!("round-{round}");
        let post = async |url: &str| {
            let request = client.post(format!("{url}/v1/jobs")).header("idempotency-key", &key).json(&plain_job());
            let answer = request.send().await?.error_for_status()?;
            answer.json::<Value>().await.map(|job| job["id"].as_str().expect("an id").to_owned())
        };
        // The server is killed after a few answers, while most requests or answers are still on their way.
        let (answered, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let posts = futures::future::join_all((0..100).map(async |_| {
            let outcome = post(&url).await;
            let _ = answered.send(());
            outcome
        }));
        let kill = async {
            for _ in 0..=round * 5 {
                seen.recv().await;
            }
            doomed.kill().await;
        };
        let (outcomes, ()) = tokio::join!(posts, kill);
        // A client without an answer repeats its request at another server.
        let mut ids = BTreeSet::new();
        for outcome in outcomes {
            ids.insert(match outcome {
                Ok(id) => id,
                Err(_) => post(&other).await.unwrap(),
            });
        }
        assert_eq!(ids.len(), 1, "round {round}: {ids:?}");
        let jobs: i64 = sqlx::query_scalar("select count(*) from jobs").fetch_one(&db.pool).await.unwrap();
        assert_eq!(jobs, round + 1);
    }
}

//! Promise: a webhook hears of the end of each job and sweep that names it: signed, at least once, with the same id in
//! every attempt, whatever dies meanwhile.

mod example;
mod sweeps;

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::Utc;
use distillery::db::jobs::Change;
use distillery::db::queue;
use distillery::protocol::{ErrorClass, Failure};
use distillery::webhooks::{self, Endpoints};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::api::{Api, plain_job};
use crate::support::db::TestDb;
use crate::support::process::{Process, distillery};
use crate::support::server::{quick_job, write_patterns};
use crate::support::{PATIENCE, eventually};

const SECRET: [u8; 32] = [7; 32];

/// What a receiver does with a request.
#[derive(Clone, Copy)]
enum Reply {
    Status(u16),
    /// Redirects to another address.
    Redirect,
    /// Never answers.
    Hang,
}

/// One request to a receiver, whose signature was right.
struct Received {
    id: String,
    body: Value,
}

type Told = (mpsc::UnboundedSender<Received>, Arc<Mutex<VecDeque<Reply>>>);

/// A receiver, which checks signatures.
struct Receiver {
    url: String,
    requests: mpsc::UnboundedReceiver<Received>,
}

impl Receiver {
    /// Replies in this order, and then with 204.
    async fn start(replies: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::unbounded_channel();
        let replies = Arc::new(Mutex::new(replies.iter().copied().collect()));
        let routes = Router::new().route("/hook", axum::routing::post(receive)).with_state((sender, replies));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, requests }
    }

    async fn next(&mut self) -> Received {
        tokio::time::timeout(PATIENCE, self.requests.recv()).await.expect("a message comes").expect("it runs")
    }
}

async fn receive(State((sender, replies)): State<Told>, headers: HeaderMap, body: String) -> Response {
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, timestamp) = (text("webhook-id"), text("webhook-timestamp"));
    let age = Utc::now().timestamp() - timestamp.parse::<i64>().unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&SECRET).unwrap();
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
    let is_right = text("webhook-signature").split(' ').any(|signature| signature == expected);
    if !is_right || age.abs() > 300 || text("content-type") != "application/json" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let reply = replies.lock().unwrap().pop_front().unwrap_or(Reply::Status(204));
    sender.send(Received { id, body: serde_json::from_str(&body).unwrap() }).unwrap();
    match reply {
        Reply::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Reply::Redirect => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/hook")]).into_response(),
        Reply::Hang => std::future::pending().await,
    }
}

/// The operator's file, with one webhook.
fn write_webhooks(directory: &Path, url: &str) -> PathBuf {
    let path = directory.join("webhooks.json");
    let secrets = [[1; 24].as_slice(), &SECRET].map(|secret| format!("whsec_{}", BASE64_STANDARD.encode(secret)));
    std::fs::write(&path, json!({"team": {"url": url, "secrets": secrets}}).to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// An API whose jobs may name a webhook, and what sends its messages.
async fn start(receiver: &Receiver) -> (Api, DropGuard) {
    let api = Api::start_with(|settings| settings.webhooks = vec!["team".to_owned()]).await;
    let endpoints = Endpoints::read(&write_webhooks(api.dir.path(), &receiver.url)).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(webhooks::deliver(api.db.pool.clone(), Arc::new(endpoints), stop.clone()));
    (api, stop.drop_guard())
}

async fn post(api: &Api) -> String {
    let job = api.post("/v1/jobs?webhook=team", &plain_job()).await.expect(201);
    assert_eq!(job["webhooks"], json!(["team"]));
    job["id"].as_str().unwrap().to_owned()
}

/// The only message of a job or sweep as the API shows it, once `wanted` holds.
async fn message(api: &Api, subject: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let list = if subject.starts_with("swp_") { "sweeps" } else { "jobs" };
    // The receiver has its request before the sender has noted the answer.
    eventually("the message becomes as wanted", async || {
        let messages = api.get(&format!("/v1/{list}/{subject}/webhooks")).await.expect(200);
        let messages = messages["data"].as_array().unwrap();
        assert_eq!(messages.len(), 1, "{messages:?}");
        wanted(&messages[0]).then(|| messages[0].clone())
    })
    .await
}

/// Makes the next attempt due now.
async fn make_due(db: &TestDb) {
    sqlx::raw_sql(
        "update webhook_messages set next_attempt_at = now() where next_attempt_at is not null;
         select pg_notify('distillery_webhook', '')",
    )
    .execute(&db.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn every_end_of_a_job_is_told_with_its_outcome() {
    let mut receiver = Receiver::start(&[]).await;
    let (api, _running) = start(&receiver).await;
    // No message is sent for a job that names no webhook.
    let silent = api.job().await;
    api.db.change(&silent, Change::Cancel).await;

    let succeeded = post(&api).await;
    api.publish(&api.claim().await, &[("student.safetensors", b"student")]).await;
    let told = receiver.next().await;
    assert_eq!((&told.body["type"], &told.body["data"]["id"]), (&json!("job.succeeded"), &json!(succeeded)));
    assert_eq!(told.body["data"]["result"]["best_top1"], 76.3);
    assert!(told.body["timestamp"].as_str().unwrap().parse::<chrono::DateTime<Utc>>().is_ok());
    let noted = message(&api, &succeeded, |message| !message["delivered_at"].is_null()).await;
    assert_eq!((&noted["id"], &noted["attempts"], &noted["webhook"]), (&json!(told.id), &json!(1), &json!("team")));

    let failed = post(&api).await;
    let failure = Failure { class: ErrorClass::Numeric, message: "step 7: loss is NaN".to_owned() };
    queue::fail(&api.db.pool, &api.claim().await.write(), &failure).await.unwrap();
    let told = receiver.next().await;
    assert_eq!((&told.body["type"], &told.body["data"]["id"]), (&json!("job.failed"), &json!(failed)));
    assert_eq!(told.body["data"]["error"], json!(failure));

    let cancelled = post(&api).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        api.db.change(&cancelled, Change::Cancel).await;
        let told = receiver.next().await;
        assert_eq!((&told.body["type"], &told.body["data"]["id"]), (&json!("job.cancelled"), &json!(cancelled)));
        ids.push(told.id);
        api.db.change(&cancelled, Change::Retry).await;
    }
    assert_ne!(ids[0], ids[1], "it ended twice");
    assert_eq!(api.get(&format!("/v1/jobs/{silent}/webhooks")).await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn a_message_that_was_not_accepted_is_sent_again_with_the_same_id() {
    let mut receiver = Receiver::start(&[Reply::Status(500), Reply::Redirect, Reply::Status(200)]).await;
    let (api, _running) = start(&receiver).await;
    let job = post(&api).await;
    api.db.change(&job, Change::Cancel).await;
    let first = receiver.next().await;
    let noted = message(&api, &job, |message| !message["last_error"].is_null()).await;
    assert_eq!((&noted["attempts"], &noted["last_error"]), (&json!(1), &json!("the receiver answered 500")));
    let due: chrono::DateTime<Utc> = noted["next_attempt_at"].as_str().unwrap().parse().unwrap();
    assert!(due > noted["created_at"].as_str().unwrap().parse::<chrono::DateTime<Utc>>().unwrap());
    // The second attempt is made without any help.
    let second = receiver.next().await;
    message(&api, &job, |message| message["last_error"] == "the receiver answered 307").await;
    make_due(&api.db).await;
    let third = receiver.next().await;
    assert_eq!([&second.id, &third.id], [&first.id, &first.id]);
    assert_eq!([&second.body, &third.body], [&first.body, &first.body]);
    let noted = message(&api, &job, |message| !message["delivered_at"].is_null()).await;
    assert_eq!((&noted["attempts"], &noted["next_attempt_at"]), (&json!(3), &Value::Null));
}

#[tokio::test]
async fn a_message_that_nobody_wants_is_given_up_and_the_job_says_so() {
    let mut receiver = Receiver::start(&[Reply::Status(410), Reply::Status(500)]).await;
    let (api, _running) = start(&receiver).await;
    let refused = post(&api).await;
    api.db.change(&refused, Change::Cancel).await;
    receiver.next().await;
    let noted = message(&api, &refused, |message| message["next_attempt_at"].is_null()).await;
    assert_eq!((&noted["delivered_at"], &noted["attempts"]), (&Value::Null, &json!(1)));
    let warning = api.db.messages(&refused).await.pop().unwrap();
    assert!(warning.contains("webhook team was not told") && warning.contains("410"), "{warning}");
    // Also after the last attempt.
    let job = post(&api).await;
    sqlx::raw_sql("alter table webhook_messages alter column attempts set default 9")
        .execute(&api.db.pool)
        .await
        .unwrap();
    api.db.change(&job, Change::Cancel).await;
    receiver.next().await;
    message(&api, &job, |message| message["next_attempt_at"].is_null() && message["attempts"] == 10).await;
    let warning = api.db.messages(&job).await.pop().unwrap();
    assert!(warning.contains("after 10 attempts: the receiver answered 500"), "{warning}");
}

#[tokio::test]
async fn a_job_names_only_webhooks_that_the_operator_has_set() {
    let receiver = Receiver::start(&[]).await;
    let (api, _running) = start(&receiver).await;
    assert_eq!(api.get("/v1/webhooks").await.expect(200)["data"], json!([{"name": "team"}]));
    for named in ["other", "http://evil.example/", "team&webhook=other"] {
        let answer = api.post(&format!("/v1/jobs?webhook={named}"), &plain_job()).await;
        answer.says(400, &["there is no webhook", "there are team"]);
    }
    let many = (0..11).map(|number| format!("webhook={number}")).collect::<Vec<_>>().join("&");
    api.post(&format!("/v1/jobs?{many}"), &plain_job()).await.says(400, &["at most 10"]);
    let job = api.post("/v1/jobs?webhook=team&webhook=team", &plain_job()).await.expect(201);
    assert_eq!(job["webhooks"], json!(["team"]));
    let without = Api::start().await;
    without.post("/v1/jobs?webhook=team", &plain_job()).await.says(400, &["this server has none", "--webhooks"]);
}

/// The real server, without workers.
async fn serve(
    db: &TestDb,
    directory: &Path,
    webhooks: &Path,
) -> (Process, Option<String>, crate::support::process::Lines) {
    let mut command = distillery();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--workers", "0", "--webhooks"])
        .arg(webhooks)
        .args(["--data-dir".as_ref(), directory.join("data").as_os_str()])
        .args(["--datasets-dir".as_ref(), directory.join("datasets").as_os_str()])
        .env("DATABASE_URL", &db.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process::start(command);
    let log = process.stderr();
    let url = process.stdout().address().await;
    (process, url, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_while_it_sends_leaves_the_message_to_the_next() {
    let (db, directory) = (TestDb::new().await, tempfile::tempdir().unwrap());
    write_patterns(&directory.path().join("datasets/patterns"), 24, 10);
    let mut receiver = Receiver::start(&[Reply::Hang]).await;
    let webhooks = write_webhooks(directory.path(), &receiver.url);
    let (first, url, _log) = serve(&db, directory.path(), &webhooks).await;
    let client = crate::support::http_client().build().unwrap();
    let posted = client.post(format!("{}/v1/jobs?webhook=team", url.unwrap())).json(&quick_job()).send().await.unwrap();
    let job = posted.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    db.change(&job, Change::Cancel).await;
    let told = receiver.next().await;
    first.kill().await;
    let (second, _, _log) = serve(&db, directory.path(), &webhooks).await;
    make_due(&db).await;
    let again = receiver.next().await;
    assert_eq!((again.id, again.body), (told.id, told.body));
    second.terminate().await;
}

#[tokio::test]
async fn a_server_does_not_start_with_secrets_that_others_can_read() {
    let (db, directory) = (TestDb::new().await, tempfile::tempdir().unwrap());
    let webhooks = write_webhooks(directory.path(), "https://hooks.example/hidden");
    std::fs::set_permissions(&webhooks, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (mut process, url, mut log) = serve(&db, directory.path(), &webhooks).await;
    assert_eq!(url, None);
    log.until("chmod 600").await;
    assert!(!process.ended().await.success());
    std::fs::set_permissions(&webhooks, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&webhooks, r#"{"team": {"url": "https://hooks.example/hidden", "secrets": []}}"#).unwrap();
    let (mut process, _, mut log) = serve(&db, directory.path(), &webhooks).await;
    let said = log.until("no file of webhooks").await;
    assert!(said.contains("webhook \"team\"") && !said.contains("hidden"), "{said}");
    assert!(!process.ended().await.success());
    let (mut process, _, mut log) = serve(&db, directory.path(), Path::new("missing")).await;
    log.until("there is no file missing").await;
    assert!(!process.ended().await.success());
}

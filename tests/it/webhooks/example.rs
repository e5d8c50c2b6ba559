//! The example of a receiver, run as its users run it.

use std::path::Path;
use std::process::Stdio;

use chrono::Utc;
use distillery::db::jobs::Change;
use serde_json::Value;

use super::{make_due, serve, write_webhooks};
use crate::support::db::TestDb;
use crate::support::process::{Lines, Process};
use crate::support::server::{quick_job, write_patterns};

/// The receiver with the secrets of the operator's file, its address, and what it prints.
async fn start(webhooks: &Path) -> (Process, String, Lines) {
    let mut command = distillery::process::command("KILL", Path::new("python3"));
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/webhook_receiver.py"))
        .arg(webhooks)
        .args(["team", "--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut process = Process::start(command);
    let mut said = process.stdout();
    let url = said.address().await.expect("it listens");
    (process, url, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_a_receiver_checks_signatures_and_handles_a_message_once_although_the_server_is_killed() {
    let (db, directory) = (TestDb::new().await, tempfile::tempdir().unwrap());
    write_patterns(&directory.path().join("datasets/patterns"), 24, 10);
    let (_running, receiver, mut said) = start(&write_webhooks(directory.path(), "http://127.0.0.1:9/")).await;
    let webhooks = write_webhooks(directory.path(), &receiver);
    let (first, url, _log) = serve(&db, directory.path(), &webhooks).await;
    let client = crate::support::http_client().build().unwrap();
    let posted = client.post(format!("{}/v1/jobs?webhook=team", url.unwrap())).json(&quick_job()).send().await.unwrap();
    let job = posted.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    db.change(&job, Change::Cancel).await;
    let told = said.until("job.cancelled").await;
    assert!(told.contains(&job), "{told}");
    let id = told.split(' ').next().unwrap();
    first.kill().await;
    // As it is if the server was killed before it had noted the answer.
    let unnoted = "update webhook_messages set delivered_at = null, next_attempt_at = now()";
    sqlx::raw_sql(unnoted).execute(&db.pool).await.unwrap();
    let (second, _, _log) = serve(&db, directory.path(), &webhooks).await;
    make_due(&db).await;
    assert_eq!(said.until("msg_").await, format!("{id} again"));
    // What the server did not sign, or did not sign today, is not believed.
    assert_eq!(client.post(&receiver).body("{}").send().await.unwrap().status(), 400);
    let forged = client.post(&receiver).header("webhook-id", id).header("webhook-timestamp", Utc::now().timestamp());
    let forged = forged.header("webhook-signature", "v1,AAAA").body("{}");
    assert_eq!(forged.send().await.unwrap().status(), 401);
    second.terminate().await;
}

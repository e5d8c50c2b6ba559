//! Promise: a server that is told to stop does so in order, and its log has nothing to worry about.

use std::path::Path;
use std::process::{Command, Stdio};

use distillery::process;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::Connection;

use crate::support::db::connection;
use crate::support::process::{Process, distillery};
use crate::support::server::write_patterns;
use crate::support::{PATIENCE, http_client};

/// A server in `dir` that runs its own PostgreSQL.
fn server(dir: &Path, workers: &str) -> Command {
    let mut command = distillery();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--workers", workers])
        .args(["--data-dir".as_ref(), dir.join("data").as_os_str()])
        .args(["--datasets-dir".as_ref(), dir.join("datasets").as_os_str()])
        // Not how long queries take on a busy machine.
        .env("RUST_LOG", "info,sqlx::query=error,sqlx::pool::acquire=error")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_server_that_is_told_to_stop_warns_of_nothing() {
    // `timeout` tells it twice.
    for times in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        write_patterns(&dir.path().join("datasets/patterns"), 8, 8);
        let mut server = Process::start(server(dir.path(), "1"));
        // The worker writes there too.
        let mut log = server.stderr();
        let url = server.stdout().address().await.expect("the server prints its address");
        log.until("ready for jobs").await;
        let client = http_client().build().unwrap();
        let _stream = client.get(format!("{url}/v1/stream")).send().await.unwrap();
        for _ in 0..times {
            server.signal(Signal::TERM);
        }
        let status = server.ended().await;
        let worry = ["WARN", "ERROR"];
        let told = log.find(|line| worry.iter().any(|word| line.contains(word)).then(|| line.to_owned())).await;
        assert_eq!((status.code(), told), (Some(0), None), "told {times} times");
    }
}

/// The process of the database that tells the server of changes.
async fn notifier(url: &str) -> Pid {
    let mut client = connection(url).await;
    // The second is how the server asks whether a silent connection lives.
    let query = "select pid from pg_stat_activity where query like 'LISTEN%' or query = 'select 1 as one'";
    let found = async {
        loop {
            let found: Option<i32> = sqlx::query_scalar(query).fetch_optional(&mut client).await.unwrap();
            if let Some(pid) = found {
                return pid;
            }
        }
    };
    let pid = tokio::time::timeout(PATIENCE, found).await.expect("the server listens");
    client.close().await.unwrap();
    Pid::from_raw(pid).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_with_the_database_is_not_tested_for_another_use() {
    let dir = tempfile::tempdir().unwrap();
    write_patterns(&dir.path().join("datasets/patterns"), 8, 8);
    let mut server = Process::start(server(dir.path(), "0"));
    let mut log = server.stderr();
    server.stdout().address().await.expect("the server prints its address");
    let data = dir.path().join("data");
    let notifier = notifier(&std::fs::read_to_string(data.join("postgres.url")).unwrap()).await;

    // It answers nothing until the database stops, as on a busy machine.
    kill_process(notifier, Signal::STOP).unwrap();
    server.signal(Signal::TERM);
    let mut tail = process::command("KILL", Path::new("tail"));
    tail.args(["-n", "+1", "-F"]).arg(data.join("postgres.log")).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut tail = Process::start(tail);
    tail.stdout().until("received fast shutdown request").await;
    kill_process(notifier, Signal::CONT).unwrap();

    let status = server.ended().await;
    let told = log.find(|line| line.contains("testing the connection").then(|| line.to_owned())).await;
    assert_eq!((status.code(), told), (Some(0), None));
}

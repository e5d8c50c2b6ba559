//! Promise: no process works with another storage than that whose files the database names.

use std::path::Path;

use distillery::db::storage;
use distillery::storage_check::{self, Opener};

use crate::support::api::Api;
use crate::support::db::TestDb;
use crate::support::process::distillery;
use crate::support::server::{Options, Server};

fn id_in(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("storage-id")).unwrap().trim().to_owned()
}

/// Why a program refuses to start.
async fn refused(mut command: tokio::process::Command) -> String {
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_worker_a_server_and_a_prune_with_another_storage_do_not_start() {
    let server = Server::start(Options { workers: Some(0), ..Options::default() }).await;
    let data = server.dir.path().join("data");
    let id = id_in(&data.join("artifacts"));
    let elsewhere = tempfile::tempdir().unwrap();
    let other = elsewhere.path().join("other");
    let start = |name: &str, arguments: &[&str]| {
        let mut command = tokio::process::Command::from(distillery());
        command
            .arg(name)
            .args(arguments)
            .args(["--data-dir".as_ref(), data.as_os_str(), "--storage".as_ref(), other.as_os_str()])
            .env("DATABASE_URL", server.database_url());
        command
    };
    let worker: &[&str] = &["--device", "cpu"];
    let serve: &[&str] = &["--listen", "127.0.0.1:0", "--workers", "0"];
    // The other one is empty, as a directory that is not mounted.
    let all: [(&str, &[&str]); 3] = [("worker", worker), ("serve", serve), ("prune", &[])];
    let refusals =
        async || futures::future::join_all(all.map(|(name, arguments)| refused(start(name, arguments)))).await;
    for said in refusals().await {
        let home = data.join("artifacts");
        let words = ["has no id", &id, other.to_str().unwrap(), home.to_str().unwrap(), "--storage", "storage-id"];
        assert!(words.iter().all(|words| said.contains(words)), "{said}");
        assert!(!other.exists(), "a directory that was refused is left behind");
    }
    // The other one is that of another database.
    let database = TestDb::new().await;
    storage_check::open(other.to_str().unwrap(), &database.pool, Opener::Server).await.unwrap();
    let theirs = id_in(&other);
    assert_ne!(theirs, id);
    for said in refusals().await {
        assert!(said.contains(&id) && said.contains(&theirs) && said.contains("--storage"), "{said}");
    }
    // What the message says helps.
    std::fs::write(other.join("storage-id"), &id).unwrap();
    let output = start("prune", &[]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_database_from_before_there_were_ids_accepts_only_the_storage_with_its_files() {
    let api = Api::start().await;
    let id = api.job().await;
    api.publish(&api.claim().await, &[("student.safetensors", b"student")]).await;
    let directory = |name: &str| api.dir.path().join(name).to_str().unwrap().to_owned();
    for role in [Opener::Worker, Opener::Server] {
        let error = storage_check::open(&directory("wrong"), &api.db.pool, role).await.unwrap_err().to_string();
        assert!(error.contains("none of the files") && error.contains(&id), "{error}");
    }
    storage_check::open(&directory("storage"), &api.db.pool, Opener::Worker).await.unwrap();
    let known = storage::get(&api.db.pool).await.unwrap();
    assert_eq!(known.id, id_in(&api.dir.path().join("storage")));
    assert!(known.address.unwrap().ends_with(&directory("storage")));
}

#[tokio::test]
async fn servers_that_start_at_once_agree_on_one_storage() {
    let db = TestDb::new().await;
    let dir = tempfile::tempdir().unwrap();
    let address = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (same, other) = (address("one"), address("other"));
    let open = |address: &str| {
        let (address, pool) = (address.to_owned(), db.pool.clone());
        async move { storage_check::open(&address, &pool, Opener::Server).await }
    };
    let outcomes = futures::future::join_all([open(&same), open(&same), open(&other), open(&same)]).await;
    let decided = storage::get(&db.pool).await.unwrap().address.unwrap();
    let is_same = decided.ends_with(&same);
    let accepted: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(accepted, [is_same, is_same, !is_same, is_same], "{decided}");
}

#[tokio::test]
async fn a_worker_waits_for_the_first_server_to_decide_on_the_storage() {
    let db = TestDb::new().await;
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().to_str().unwrap().to_owned();
    let worker = {
        let (address, pool) = (address.clone(), db.pool.clone());
        tokio::spawn(async move { storage_check::open(&address, &pool, Opener::Worker).await })
    };
    storage_check::open(&address, &db.pool, Opener::Server).await.unwrap();
    worker.await.unwrap().unwrap();
    assert_eq!(id_in(dir.path()), storage::get(&db.pool).await.unwrap().id);
}

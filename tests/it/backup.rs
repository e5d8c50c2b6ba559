//! Promise: what the documents say about backup and restore works, command for command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::api::checkpoint;
use crate::support::http_client;
use crate::support::process::{Process, distillery};
use crate::support::server::{Options, Server, quick_job};
use distillery::db::embedded;
use distillery::process;
use serde_json::Value;

/// The commands of the section on backups, one text for each block.
fn documented() -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let (_, section) = text.split_once("\n## Backup and restore\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    section.split("```").skip(1).step_by(2).map(str::to_owned).collect()
}

/// Runs commands in a directory, with this program and PostgreSQL's in the path.
fn run(directory: &Path, commands: &str) -> Output {
    let own: PathBuf = Path::new(env!("CARGO_BIN_EXE_distillery")).parent().unwrap().to_owned();
    let clients = embedded::find_programs(None).unwrap();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path: OsString =
        std::env::join_paths([own, clients].into_iter().chain(std::env::split_paths(&others))).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-euc", commands]).current_dir(directory).env("PATH", path).env_remove("DATABASE_URL");
    shell.stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn succeed(directory: &Path, commands: &str) -> String {
    let Output { status, stdout, stderr } = run(directory, commands);
    let (said, errors) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{commands}: {}\n{said}{errors}", process::describe(status));
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_and_restored_as_documented_has_every_job_and_file() {
    let [backup, restore]: [String; 2] =
        documented().try_into().expect("a block for the backup and one for the restore");
    let server = Server::start(Options { workers: Some(0), embedded_database: true, ..Options::default() }).await;
    let bytes = checkpoint("resnet8", 4);
    let upload = server.http.put(format!("{}/v1/checkpoints", server.url)).body(bytes.clone());
    let (status, uploaded) = server.call(upload).await;
    assert_eq!(status, 201, "{uploaded}");
    let job = server.post(&quick_job()).await;
    let there = server.dir.path().to_owned();
    succeed(&there, &backup);
    // Any client of PostgreSQL reads the URL.
    let count = succeed(&there, r#"psql --tuples-only --no-align "$(cat data/postgres.url)" -c 'select id from jobs'"#);
    assert_eq!(count.trim(), job);
    succeed(&there, r#"pg_dump --file=plain.sql "$(cat data/postgres.url)""#);

    succeed(&there, &restore);
    let mut command = distillery();
    command.args(["serve", "--listen", "127.0.0.1:0", "--workers", "0", "--data-dir"]).arg(there.join("restored"));
    command.arg("--datasets-dir").arg(there.join("datasets")).stdout(Stdio::piped());
    let mut restored = Process::start(command);
    let url = restored.stdout().address().await.expect("the server starts");
    let http = http_client().build().unwrap();
    let get =
        async |path: String| http.get(format!("{url}{path}")).send().await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(get(format!("/v1/jobs/{job}")).await, server.get(&format!("/v1/jobs/{job}")).await);
    let id = uploaded["id"].as_str().unwrap();
    assert_eq!(get(format!("/v1/checkpoints/{id}")).await, uploaded);
    let mut files = std::fs::read_dir(there.join("restored/artifacts/checkpoints")).unwrap();
    let file = files.next().unwrap().unwrap();
    assert!(file.file_name().to_str().unwrap().starts_with(uploaded["sha256"].as_str().unwrap()));
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    restored.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_runs_on_the_servers_own_database_and_on_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |commands: &str, words: &[&str]| {
        let output = run(dir.path(), commands);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && words.iter().all(|word| said.contains(word)), "{commands}: {said}");
    };
    // A dump of a database that is not there would look like a backup.
    refused("distillery database pg_dump", &["there is no database in data", "--data-dir", "--create"]);
    assert!(!dir.path().join("data").exists());
    let count = "psql --tuples-only --no-align -c \"select count(*) from pg_class where relname = 'jobs'\"";
    assert_eq!(succeed(dir.path(), &format!("distillery database --create {count}")).trim(), "0", "it is empty");
    refused("distillery database --create psql", &["there is a database in data already"]);
    let other = "PGHOST=nowhere.invalid PGUSER=other PGSSLMODE=verify-full";
    assert_eq!(succeed(dir.path(), &format!("{other} distillery database {count}")).trim(), "0");
    refused("DATABASE_URL=postgresql:///other distillery database psql", &["DATABASE_URL names another"]);
    refused("distillery database no-such-client", &["cannot start no-such-client"]);
    // What the client says of its success is kept.
    assert_eq!(run(dir.path(), "distillery database sh -c 'exit 7'").status.code(), Some(7));
    assert_eq!(run(dir.path(), "distillery database psql -c 'select nothing'").status.code(), Some(1));
}

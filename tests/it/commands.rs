//! Promise: a command beside the server waits a little for a database that starts or takes no writes, and says so.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use distillery::db::embedded;
use distillery::onnx_runtime::EXIT_NO_RUNTIME;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::support::db::{TestDb, is_root, postgres_options};
use crate::support::process::{Lines, Process, distillery};

/// Starts a command on a database at a URL, or on the one of a data directory.
fn start(arguments: &[&str], data_dir: &Path, url: Option<&str>) -> (Process, Lines) {
    let mut command = distillery();
    command.args(&arguments[..1]).arg("--data-dir").arg(data_dir).args(&arguments[1..]);
    command.envs(url.map(|url| ("DATABASE_URL", url))).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = Process::start(command);
    let log = process.stderr();
    (process, log)
}

#[tokio::test]
async fn a_command_waits_for_a_database_that_is_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let server = embedded::Server::start(&postgres_options(dir.path().join("server"))).await.unwrap();
    let db = TestDb::of(&server).await;
    for arguments in [&["prune"][..], &["token", "create", "ops", "--scope", "admin"]] {
        db.set_read_only(true).await;
        let data_dir = dir.path().join("command");
        let (mut process, mut log) = start(arguments, &data_dir, Some(&db.url));
        log.until("waiting up to 30 seconds for the database: ").await;
        db.set_read_only(false).await;
        assert!(process.ended().await.success(), "{arguments:?}");
    }
    let tokens: i64 = sqlx::query_scalar("select count(*) from tokens").fetch_one(&db.pool).await.unwrap();
    assert_eq!(tokens, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_command_waits_for_a_server_that_starts() {
    let dir = tempfile::tempdir().unwrap();
    embedded::Server::start(&postgres_options(dir.path().to_owned())).await.unwrap().stop().await;
    for arguments in [&["token", "list"][..], &["database", "--", "true"]] {
        // As a server that has not come so far that anybody could connect.
        let lock = File::create(dir.path().join("postgres.lock")).unwrap();
        lock.lock().unwrap();
        let (mut process, mut log) = start(arguments, dir.path(), None);
        log.until("another distillery uses the data directory").await;
        drop(lock);
        assert!(process.ended().await.success(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_url_of_another_database_is_refused_at_once_and_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let url = "mysql://ada:secret@127.0.0.1:1/distillery";
    let serve = ["serve", "--listen", "127.0.0.1:0", "--workers", "0"];
    for arguments in [&serve[..], &["worker", "--device", "cpu"], &["token", "list"], &["prune"]] {
        let (mut process, mut log) = start(arguments, dir.path(), Some(url));
        let line = log.until("the database URL has the scheme mysql").await;
        assert!(line.contains("expected postgresql://") && !line.contains("secret"), "{line}");
        assert!(!process.ended().await.success(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_command_makes_no_database_where_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let mistyped = dir.path().join("dta");
    for arguments in [
        &["token", "create", "ops", "--scope", "admin"][..],
        &["token", "list"],
        &["token", "revoke", "tok_1"],
        &["prune"],
        &["prune", "--dry-run"],
    ] {
        let (mut process, mut log) = start(arguments, &mistyped, None);
        log.until("there is no database in").await;
        assert!(!process.ended().await.success() && !mistyped.exists(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_server_or_worker_that_does_not_start_leaves_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let other = "mysql://127.0.0.1:1/distillery";
    let serve = ["serve", "--listen", "127.0.0.1:0", "--workers", "0"];
    for (arguments, url, says) in [
        (&["serve", "--listen", address.as_str(), "--workers", "0"][..], None, "cannot listen on"),
        (&serve[..], Some(other), "the database URL has the scheme"),
        (&["worker", "--device", "cpu"][..], Some(other), "the database URL has the scheme"),
        (&["worker", "--device", "cpu", "--trainer", "/nowhere"][..], Some(other), "there is no trainer at /nowhere"),
    ] {
        let data_dir = dir.path().join("data");
        let (mut process, mut log) = start(arguments, &data_dir, url);
        log.until(says).await;
        assert!(!process.ended().await.success() && !data_dir.exists(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_token_without_a_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", "  "] {
        let (mut process, mut log) = start(&["token", "create", name, "--scope", "read"], dir.path(), None);
        log.until("say who it is for").await;
        assert!(!process.ended().await.success(), "{name:?}");
    }
}

#[tokio::test]
async fn a_token_whose_name_would_break_the_list_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["ops\nroot", "\u{1b}[31mops", &"o".repeat(201)] {
        let (mut process, mut log) = start(&["token", "create", name, "--scope", "read"], dir.path(), None);
        log.until("without line breaks and other control characters").await;
        assert!(!process.ended().await.success(), "{name:?}");
    }
}

#[tokio::test]
async fn a_command_whose_user_may_not_see_the_database_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("data");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    for arguments in [&["database", "psql"][..], &["token", "list"]] {
        // Root may enter every directory, unless it gives that up.
        let mut command = distillery();
        if is_root() {
            command = Command::new("setpriv");
            command
                .args(["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]);
            command.args(["--", env!("CARGO_BIN_EXE_distillery")]);
        }
        command.arg(arguments[0]).arg("--data-dir").arg(&closed).args(&arguments[1..]).env_remove("DATABASE_URL");
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("run this as the server's user"), "{arguments:?}: {said}");
        assert!(!said.contains("--create"), "{said}");
    }
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn a_command_does_not_wait_for_what_waiting_cannot_mend() {
    let dir = tempfile::tempdir().unwrap();
    let db = TestDb::new().await;
    let options: PgConnectOptions = db.url.parse().unwrap();
    let elsewhere = options.database("not_there").to_url_lossy().to_string();
    let (mut process, mut log) = start(&["token", "list"], dir.path(), Some(&elsewhere));
    let first = log.find(|line| Some(line.to_owned())).await.unwrap();
    assert!(first.contains("\"not_there\" does not exist"), "{first}");
    assert!(!process.ended().await.success());
}

#[test]
fn a_command_whose_output_nobody_reads_ends_as_usual() {
    let home = tempfile::tempdir().unwrap();
    for (arguments, codes) in [
        (&["jobs", "--server", "http://127.0.0.1:1"][..], &[4][..]),
        // It ends for want of ONNX Runtime, or of such a network.
        (&["measure", "--architecture", "none", "--num-classes", "10"], &[1, i32::from(EXIT_NO_RUNTIME)]),
        (&["completions", "bash"], &[1]),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = distillery();
        command.args(arguments).env("HOME", home.path()).env_remove("XDG_CONFIG_HOME");
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let code = command.status().unwrap().code();
        assert!(code.is_some_and(|code| codes.contains(&code)), "{arguments:?}: {code:?}");
    }
}

//! Promise: the embedded database starts for every user, dies with its process, and recovers from crashes.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::db::{TestDb, connection, is_root, postgres_options};
use crate::support::process::until_ended;
use distillery::db::embedded::Server;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::PgConnection;

/// Set for [`hold_a_server`] only.
const HOLD: &str = "DISTILLERY_TEST_HOLD_A_SERVER";

/// A user that every system has; initdb wants to know its name.
const DAEMON: u32 = 1;

async fn start(data_dir: &Path) -> Server {
    Server::start(&postgres_options(data_dir.to_owned())).await.unwrap()
}

async fn refusal(data_dir: &Path) -> String {
    let refused = Server::start(&postgres_options(data_dir.to_owned())).await;
    format!("{:#}", refused.expect_err("the server is refused"))
}

async fn count(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("select count(*) from kept").fetch_one(connection).await.unwrap()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).unwrap()
}

/// One line of `/proc/PID/status`.
fn status_line(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap().trim().to_owned()
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, two) = (TestDb::new().await, TestDb::new().await);
    one.add_job(json!({})).await;
    let count: i64 = sqlx::query_scalar("select count(*) from jobs").fetch_one(&two.pool).await.unwrap();
    assert_eq!(count, 0);
}

#[tokio::test]
async fn what_is_stored_survives_a_stop_and_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut client = connection(server.url()).await;
    sqlx::raw_sql("create table kept (); insert into kept default values").execute(&mut client).await.unwrap();
    server.stop().await;

    let mut server = start(dir.path()).await;
    assert_eq!(count(&mut connection(server.url()).await).await, 1);
    kill_process(pid(server.pid()), Signal::KILL).unwrap();
    server.exited().await;
    drop(server);
    assert!(dir.path().join("postgres/postmaster.pid").exists());

    let server = start(dir.path()).await;
    assert_eq!(count(&mut connection(server.url()).await).await, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_stale_lock_file_whose_process_id_was_reused_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.stop().await;
    // Of the same user, since PostgreSQL itself ignores a process of another user.
    let mut command = Command::new("sleep");
    if is_root() {
        command.uid(65534);
    }
    let mut other = command.arg("600").spawn().unwrap();
    let lock = format!("{}\n{}\n1\n5432\n\n\n1 1\nready\n", other.id(), dir.path().join("postgres").display());
    std::fs::write(dir.path().join("postgres/postmaster.pid"), lock).unwrap();
    let started = Server::start(&postgres_options(dir.path().to_owned())).await;
    other.kill().unwrap();
    other.wait().unwrap();
    started.unwrap().stop().await;
}

#[tokio::test]
async fn a_data_directory_is_used_by_one_server_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let error = refusal(dir.path()).await;
    assert!(error.contains("another distillery uses the data directory"), "{error}");
    server.stop().await;
    start(dir.path()).await.stop().await;
}

#[tokio::test]
async fn a_failed_start_shows_the_log_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = postgres_options(dir.path().to_owned());
    options.settings.push(("max_connections".into(), "plenty".into()));
    let error = format!("{:#}", Server::start(&options).await.unwrap_err());
    assert!(error.contains("max_connections") && error.contains("postgres.log"), "{error}");
}

#[tokio::test]
async fn a_directory_without_postgresql_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = postgres_options(dir.path().to_owned());
    options.bin_dir = Some(dir.path().to_owned());
    let error = format!("{:#}", Server::start(&options).await.unwrap_err());
    assert!(error.contains("--postgres-bin-dir"), "{error}");
}

#[tokio::test]
async fn a_long_path_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("a directory, with a \"long\" name ".repeat(4));
    start(&data_dir).await.stop().await;
    assert!(!data_dir.join("socket").exists());
    let quoted = dir.path().join("a, \"b\"");
    start(&quoted).await.stop().await;
    assert!(quoted.join("socket").exists());
}

#[tokio::test]
async fn the_server_drops_all_capabilities_that_it_does_not_need() {
    if !is_root() {
        return;
    }
    let dir_with =
        |mode| tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(mode)).tempdir().unwrap();
    let (closed, open) = (dir_with(0o700), dir_with(0o755));
    for (dir, is_open) in [(&closed, false), (&open, true)] {
        let server = start(dir.path()).await;
        // If PostgreSQL itself is installed below a closed directory, it needs the capability to read past that too.
        let program = std::fs::read_link(format!("/proc/{}/exe", server.pid())).unwrap();
        let mut ls = Command::new("setpriv");
        ls.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "ls"]).arg(program);
        let program_is_open = ls.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success();
        let rights = if is_open && program_is_open { 0 } else { 1 << 2 };
        assert_eq!(status_line(server.pid(), "Uid"), "65534\t65534\t65534\t65534");
        assert_eq!(status_line(server.pid(), "Groups"), "");
        for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&status_line(server.pid(), set), 16).unwrap(), rights, "{set} {dir:?}");
        }
        server.stop().await;
    }
}

/// Not a test: other tests start this process and kill it.
#[tokio::test]
async fn hold_a_server() {
    if let Some(dir) = std::env::var_os(HOLD) {
        let mut server = start(Path::new(&dir)).await;
        println!("\nserver {}", server.pid());
        server.exited().await;
    }
}

/// Starts a server in another process, as another user if given.
fn server_of_another_process(dir: &Path, user: Option<u32>) -> (Child, u32) {
    let program = std::env::current_exe().unwrap();
    let mut command = match user {
        None => Command::new(&program),
        Some(uid) => {
            // The project may be below a directory that only root may enter.
            let caps = "-all,+dac_read_search";
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
            command.args(["inh-caps", "ambient-caps", "bounding-set"].map(|set| format!("--{set}={caps}")));
            command.arg("--securebits=+no_setuid_fixup").arg(&program);
            command
        }
    };
    command.args(["--exact", "postgres::hold_a_server", "--nocapture"]).env(HOLD, dir).stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pid = lines.find_map(|line| line.strip_prefix("server ")?.parse().ok()).expect("the server starts");
    (process, pid)
}

#[tokio::test]
async fn the_server_dies_with_a_process_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut process, server) = server_of_another_process(dir.path(), None);
    process.kill().unwrap();
    process.wait().unwrap();
    // The next start waits for the end of the orphaned server.
    start(dir.path()).await.stop().await;
    until_ended(pid(server)).await;
}

#[tokio::test]
async fn a_user_who_is_not_root_can_start_it() {
    if !is_root() {
        // Then every other test shows this.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(DAEMON), Some(DAEMON)).unwrap();
    let (mut process, server) = server_of_another_process(dir.path(), Some(DAEMON));
    assert_eq!(status_line(server, "Uid"), "1\t1\t1\t1");
    process.kill().unwrap();
    process.wait().unwrap();
    until_ended(pid(server)).await;
    // Root can use the cluster of another user, and leaves it usable for that user.
    let root = start(dir.path()).await;
    assert_eq!(status_line(root.pid(), "Uid"), "1\t1\t1\t1");
    root.stop().await;
}

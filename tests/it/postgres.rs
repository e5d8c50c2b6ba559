//! Promise: the embedded database starts for every user, dies with its process, and recovers from crashes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::db::{TestDb, connection, is_root, postgres_options};
use crate::support::eventually;
use crate::support::process::{Process, distillery, until_ended, write_script};
use crate::support::server::{Options, Server as RealServer};
use clap::Parser;
use distillery::cli::{self, Cli};
use distillery::db::embedded::Server;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

/// Set for [`hold_a_server`] only.
const HOLD: &str = "DISTILLERY_TEST_HOLD_A_SERVER";
/// Set for [`knock_at_a_server`] only.
const KNOCK: &str = "DISTILLERY_TEST_KNOCK_AT_A_SERVER";

/// A user that every system has; initdb wants to know its name.
const DAEMON: u32 = 1;
/// A user that many programs run as.
const NOBODY: u32 = 65534;

/// Whether root runs the tests; if not, says that a test is not run. To standard error itself, since what a test prints
/// is not shown when it passes.
fn runs_as_root(test: &str) -> bool {
    if !is_root() {
        let mut errors = std::io::stderr();
        writeln!(errors, "not run: postgres::{test}: it needs root").unwrap();
    }
    is_root()
}

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

fn owner(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().uid()
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
        command.uid(owner(&dir.path().join("postgres")));
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
async fn an_initdb_that_fails_without_a_word_is_said_to_have_written_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for program in ["initdb", "postgres"] {
        write_script(&dir.path().join(program), "#!/bin/sh\nexit 1\n");
    }
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = postgres_options(dir.path().join("data"));
    options.bin_dir = Some(dir.path().to_owned());
    let error = format!("{:#}", Server::start(&options).await.unwrap_err());
    assert!(error.contains("initdb exited with status 1 and wrote nothing to "), "{error}");
    assert!(error.contains("data/postgres.log"), "{error}");
}

#[tokio::test]
async fn a_directory_without_postgresql_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = postgres_options(dir.path().join("data"));
    options.bin_dir = Some(dir.path().to_owned());
    let error = format!("{:#}", Server::start(&options).await.unwrap_err());
    assert!(error.contains("--postgres-bin-dir"), "{error}");
    assert!(!options.data_dir.exists(), "a directory is made for nothing");
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
    if !runs_as_root("the_server_drops_all_capabilities_that_it_does_not_need") {
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
        let user = owner(&dir.path().join("postgres"));
        assert_eq!(status_line(server.pid(), "Uid"), format!("{user}\t{user}\t{user}\t{user}"));
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

/// Not a test: other tests start this process as another user.
#[tokio::test]
async fn knock_at_a_server() {
    if let Ok(url) = std::env::var(KNOCK) {
        let options: PgConnectOptions = url.parse().unwrap();
        match options.connect().await {
            Ok(_) => println!("\nknock: let in"),
            Err(error) => println!("\nknock: {error}"),
        }
    }
}

/// A part of this program, in a process of another user.
fn this_program_as(uid: u32, part: &str) -> Command {
    // The project may be below a directory that only root may enter.
    let caps = "-all,+dac_read_search";
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
    command.args(["inh-caps", "ambient-caps", "bounding-set"].map(|set| format!("--{set}={caps}")));
    command.arg("--securebits=+no_setuid_fixup").arg(std::env::current_exe().unwrap());
    command.args(["--exact", part, "--nocapture"]);
    command
}

/// Starts a server in another process, as another user if given.
fn server_of_another_process(dir: &Path, user: Option<u32>) -> (Child, u32) {
    let part = "postgres::hold_a_server";
    let mut command = match user {
        None => {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", part, "--nocapture"]);
            command
        }
        Some(uid) => this_program_as(uid, part),
    };
    let mut process = command.env(HOLD, dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pid = lines.find_map(|line| line.strip_prefix("server ")?.parse().ok()).expect("the server starts");
    (process, pid)
}

/// What a user who knocks at the server is told.
fn knock(url: &str, user: u32) -> String {
    let output = this_program_as(user, "postgres::knock_at_a_server").env(KNOCK, url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = said.lines().find_map(|line| line.strip_prefix("knock: "));
    told.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr))).to_owned()
}

/// Whether a shell command succeeds as a user without any rights.
fn succeeds_as(user: u32, script: &str) -> bool {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={user}")]);
    command.args(["--clear-groups", "--inh-caps=-all", "sh", "-c", script]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

/// Nobody but root and its own user reaches the server, its files and its processes.
async fn is_closed_to_others(data_dir: &Path, server: &Server) {
    let cluster = data_dir.join("postgres");
    let user = owner(&cluster);
    let known = std::fs::read_to_string("/etc/passwd").unwrap();
    assert!(known.lines().all(|line| line.split(':').nth(2) != Some(&user.to_string())), "{user} has a name");
    for other in [NOBODY, DAEMON] {
        assert!(knock(server.url(), other).contains("Permission denied"), "user {other} knocked");
        assert!(!succeeds_as(other, &format!("cat '{}'", cluster.join("PG_VERSION").display())), "{other} reads");
        assert!(!succeeds_as(other, &format!("kill -0 {}", server.pid())), "{other} can stop it");
    }
    assert_eq!(knock(server.url(), user), "let in");
    connection(server.url()).await;
}

#[tokio::test]
async fn no_other_user_gets_into_the_database_of_root() {
    if !runs_as_root("no_other_user_gets_into_the_database_of_root") {
        return;
    }
    // Nothing around the cluster keeps others out.
    let open = || tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let dir = open();
    let server = start(dir.path()).await;
    is_closed_to_others(dir.path(), &server).await;
    server.stop().await;
    // The socket is in a directory for temporary files, as its path would be too long.
    let data_dir = dir.path().join("long ".repeat(20));
    let server = start(&data_dir).await;
    is_closed_to_others(&data_dir, &server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_cluster_of_nobody_gets_a_user_of_its_own_and_keeps_what_is_in_it() {
    if !runs_as_root("a_cluster_of_nobody_gets_a_user_of_its_own_and_keeps_what_is_in_it") {
        return;
    }
    let dir = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut client = connection(server.url()).await;
    sqlx::raw_sql("create table kept (); insert into kept default values").execute(&mut client).await.unwrap();
    server.stop().await;
    let own = owner(&dir.path().join("postgres"));
    // As an earlier version left it.
    let given = Command::new("chown").args(["-R", "65534:65534"]).arg(dir.path().join("postgres")).status();
    assert!(given.unwrap().success());
    let server = start(dir.path()).await;
    is_closed_to_others(dir.path(), &server).await;
    assert_eq!(count(&mut connection(server.url()).await).await, 1);
    server.stop().await;
    let now = owner(&dir.path().join("postgres"));
    let found = Command::new("find").arg(dir.path().join("postgres")).args(["!", "-uid", &now.to_string()]).output();
    assert_eq!(String::from_utf8(found.unwrap().stdout).unwrap(), "", "besides {own} and {now}");
}

#[tokio::test]
async fn only_its_owner_may_enter_a_data_directory_that_is_made_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("above/data");
    let mut command = distillery();
    command.args(["serve", "--listen", "127.0.0.1:0", "--workers", "0", "--data-dir"]).arg(&data_dir);
    let mut server = Process::start({
        command.stdout(Stdio::piped());
        command
    });
    server.stdout().address().await.expect("the server starts");
    for (path, mode) in [("above", 0o40700), ("above/data", 0o40700), ("above/data/postgres.url", 0o100_600)] {
        assert_eq!(std::fs::metadata(dir.path().join(path)).unwrap().mode(), mode, "{path}");
    }
    server.terminate().await;
    let by_itself = dir.path().join("of a command");
    let mut command = distillery();
    let made = command.args(["database", "--create", "--data-dir"]).arg(&by_itself).arg("true").output().unwrap();
    assert!(made.status.success());
    assert_eq!(std::fs::metadata(&by_itself).unwrap().mode(), 0o40700);
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
    if !runs_as_root("a_user_who_is_not_root_can_start_it") {
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

#[tokio::test]
async fn the_servers_own_database_has_connections_for_every_worker() {
    for (workers, least) in [("auto", 100), ("3", 120), ("64", 1200)] {
        let args = Cli::parse_from(["distillery", "serve", "--workers", workers]);
        let cli::Command::Serve(args) = args.command else { panic!("not serve") };
        assert!(args.database_connections() >= least, "{workers}: {}", args.database_connections());
    }
    // Trainers say that they can run, without libtorch for each of 64.
    let dir = tempfile::tempdir().unwrap();
    let trainer = dir.path().join("trainer");
    write_script(&trainer, "#!/bin/sh\n[ \"$1\" = probe ] && echo \"distillery-trainer computes on $3\"\n");
    let environment = vec![("DISTILLERY_TRAINER", trainer.display().to_string())];
    let options = Options { workers: Some(64), embedded_database: true, environment };
    let server = RealServer::start(options).await;
    let url = std::fs::read_to_string(server.dir.path().join("data/postgres.url")).unwrap();
    let mut database = connection(&url).await;
    let most: String = sqlx::query_scalar("show max_connections").fetch_one(&mut database).await.unwrap();
    assert!(most.parse::<u32>().unwrap() >= 1200, "{most}");
    // Nothing tells when a worker is there: this test's triggers are in another database.
    eventually("64 workers start", async || {
        let workers = sqlx::query_scalar("select count(*) from workers").fetch_one(&mut database).await;
        (workers.unwrap_or(0_i64) >= 64).then_some(())
    })
    .await;
    // With all of them connected, others still are served.
    assert_eq!(server.get("/v1/jobs").await["data"], json!([]));
}

//! What a worker does while its database takes no writes.

use std::process::Stdio;

use distillery::db::embedded::Server;
use serde_json::json;

use crate::support::db::{TestDb, postgres_options};
use crate::support::process::Process;
use crate::support::worker::Surroundings;

#[tokio::test]
async fn a_database_that_is_read_only_for_a_while_ends_no_attempt() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(&postgres_options(data.path().to_owned())).await.unwrap();
    let it = Surroundings::on(
        TestDb::of(&server).await,
        r#"started 0 0; point 1; read -r < "$here/failover"; point 2; checkpoint 1; finish"#,
    );
    it.make_pipe("failover");
    let mut command = it.worker_command("cpu");
    command.env("DISTILLERY_LEASE_SECONDS", "600").stderr(Stdio::piped());
    let mut worker = Process::start(command);
    let mut log = worker.stderr();
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    it.db.until_training(id).await;
    it.db.set_read_only(true).await;
    it.let_go("failover").await;
    log.until("the database is unavailable; trying again").await;
    it.db.set_read_only(false).await;
    let job = it.db.until_status(id, "succeeded").await;
    assert_eq!(job["attempt"], 1);
    assert_eq!(it.db.steps(id).await, [1, 2]);
    worker.terminate().await;
    server.stop().await;
}

#[tokio::test]
async fn a_worker_that_starts_while_its_database_is_read_only_waits() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(&postgres_options(data.path().to_owned())).await.unwrap();
    let it = Surroundings::on(TestDb::of(&server).await, "started 0 0; finish");
    let id = it.db.add_job(json!({})).await;
    it.db.set_read_only(true).await;
    let mut command = it.worker_command("cpu");
    command.stderr(Stdio::piped());
    let mut worker = Process::start(command);
    let mut log = worker.stderr();
    log.until("waiting for the database").await;
    it.db.set_read_only(false).await;
    log.until("ready for jobs").await;
    it.db.until_status(id, "succeeded").await;
    worker.terminate().await;
    server.stop().await;
}

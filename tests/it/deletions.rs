//! Promise: what is deleted is gone at once for everybody, and its files follow, however slow storage is and whatever
//! dies meanwhile. No later upload loses its bytes.

use std::process::Stdio;

use distillery::db::artifacts::NewArtifact;
use distillery::db::queue;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::api::{checkpoint, claim, outcome, plain_job, student_job, write_datasets};
use crate::support::db::TestDb;
use crate::support::process::{Process, distillery};
use crate::support::s3::Bucket;
use crate::support::{PATIENCE, http_client};

/// A database and a bucket, for servers and commands.
struct Deployment {
    db: TestDb,
    bucket: Bucket,
    dir: tempfile::TempDir,
    http: Client,
}

/// The real server.
struct Server {
    process: Process,
    url: String,
}

impl Deployment {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_datasets(&dir.path().join("datasets"));
        let http = http_client().build().unwrap();
        Self { db: TestDb::new().await, bucket: Bucket::serve().await, dir, http }
    }

    fn command(&self, name: &str) -> std::process::Command {
        let mut command = distillery();
        command
            .arg(name)
            .args(["--data-dir".as_ref(), self.dir.path().join("data").as_os_str()])
            .env("DATABASE_URL", &self.db.url)
            .env("DISTILLERY_STORAGE", "s3://bucket/distillery")
            .envs(self.bucket.environment());
        command
    }

    async fn serve(&self) -> Server {
        let mut command = self.command("serve");
        command
            .args(["--listen", "127.0.0.1:0", "--workers", "0"])
            .args(["--datasets-dir".as_ref(), self.dir.path().join("datasets").as_os_str()])
            .stdout(Stdio::piped());
        let mut process = Process::start(command);
        let url = process.stdout().address().await.expect("the server prints its address");
        Server { process, url }
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> (StatusCode, Value) {
        let answer = request.send().await.expect("the server answers");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn upload(&self, server: &Server, bytes: &[u8]) -> (StatusCode, Value) {
        self.call(self.http.put(format!("{}/v1/checkpoints", server.url)).body(bytes.to_vec())).await
    }

    async fn delete(&self, server: &Server, path: &str) -> (StatusCode, Value) {
        self.call(self.http.delete(format!("{}{path}", server.url))).await
    }

    async fn get(&self, server: &Server, path: &str) -> (StatusCode, Value) {
        self.call(self.http.get(format!("{}{path}", server.url))).await
    }

    async fn post(&self, server: &Server, job: &Value) -> (StatusCode, Value) {
        self.call(self.http.post(format!("{}/v1/jobs", server.url)).json(job)).await
    }

    /// A job that has succeeded with five files.
    async fn succeeded(&self, server: &Server) -> String {
        let (status, job) = self.post(server, &plain_job()).await;
        assert_eq!(status, 201, "{job}");
        let token = claim(&self.db.pool).await;
        let names =
            ["manifest.json", "metrics.ndjson", "regions.json", "student-last.safetensors", "student.safetensors"];
        let files: Vec<_> = names
            .iter()
            .map(|name| {
                let key = format!("jobs/{}/attempts/1/{name}", token.job);
                self.bucket.put(&format!("distillery/{key}"), b"bytes");
                let sha256 = hex::encode(Sha256::digest(b"bytes"));
                NewArtifact { name: (*name).to_owned(), key, size_bytes: 5, sha256 }
            })
            .collect();
        assert!(queue::publish(&self.db.pool, &token.write(), &outcome(), &files).await.unwrap());
        token.job
    }

    /// The keys of the files of jobs and checkpoints.
    fn files(&self) -> Vec<String> {
        let mut files = self.bucket.files();
        files.retain(|key| key.contains("/jobs/") || key.contains("/checkpoints/"));
        files
    }

    /// Waits until no deletion is left.
    async fn until_carried_out(&self) {
        let left = "select (select count(*) from file_deletions) + (select count(*) from deleted_jobs)";
        let done = async || {
            let left: i64 = sqlx::query_scalar(left).fetch_one(&self.db.pool).await.unwrap();
            (left == 0).then_some(())
        };
        assert!(self.db.until(done).await.is_some(), "something is left, or these files are: {:?}", self.files());
    }

    /// Lets the time pass after which another server goes on with a deletion.
    async fn make_due(&self) {
        let make_due = "update file_deletions set due_at = now(); update deleted_jobs set due_at = now()";
        sqlx::raw_sql(make_due).execute(&self.db.pool).await.unwrap();
    }

    /// Gives a job so many points, and half as many lines.
    async fn lengthen(&self, job: &str, points: i32) {
        let add = "insert into metrics (job_id, attempt, name, step, epoch, time, value)
            select $1, 1, 'train/loss', step, 0, now(), 1 from generate_series(1, $2) as step";
        sqlx::query(add).bind(job).bind(points).execute(&self.db.pool).await.unwrap();
        let add = "insert into events (job_id, seq, kind, message, attempt)
            select id, event_seq + line, 'log', 'a line', 1 from jobs, generate_series(1, $2) as line where id = $1";
        sqlx::query(add).bind(job).bind(points / 2).execute(&self.db.pool).await.unwrap();
    }

    /// How many points and events there are of all jobs.
    async fn rows(&self) -> (i64, i64) {
        let query = "select (select count(*) from metrics), (select count(*) from events)";
        sqlx::query_as(query).fetch_one(&self.db.pool).await.unwrap()
    }
}

#[tokio::test]
async fn a_checkpoint_uploaded_again_while_its_file_goes_slowly_keeps_its_bytes() {
    let it = Deployment::new().await;
    let server = it.serve().await;
    let bytes = checkpoint("resnet8", 10);
    let (status, uploaded) = it.upload(&server, &bytes).await;
    assert_eq!(status, 201, "{uploaded}");
    let path = format!("/v1/checkpoints/{}", uploaded["id"].as_str().unwrap());
    it.bucket.hold("DELETE /bucket/distillery/checkpoints/");
    let (status, answer) = it.delete(&server, &path).await;
    assert_eq!(status, 204, "{answer}");
    it.bucket.until_waiting(1).await;
    assert_eq!(it.get(&server, &path).await.0, 404);

    let (status, again) = it.upload(&server, &bytes).await;
    assert_eq!(status, 201, "{again}");
    it.bucket.release();
    it.until_carried_out().await;
    let files = it.files();
    let [only] = files.as_slice() else { panic!("{files:?}") };
    assert!(std::fs::read(it.bucket.path(only)).unwrap() == bytes);
    let teacher = json!({"checkpoint": again["id"], "architecture": "resnet8"});
    let (status, job) = it.post(&server, &student_job(teacher)).await;
    assert_eq!(status, 201, "{job}");
    server.process.terminate().await;
}

#[tokio::test]
async fn a_job_whose_files_go_slowly_is_gone_at_once_and_the_next_server_goes_on_after_a_crash() {
    let it = Deployment::new().await;
    let server = it.serve().await;
    let job = it.succeeded(&server).await;
    assert_eq!(it.files().len(), 5);
    let path = format!("/v1/jobs/{job}");
    // One file goes, the others wait.
    it.bucket.hold("student");
    let (status, answer) = it.delete(&server, &path).await;
    assert_eq!(status, 204, "{answer}");
    it.bucket.until_waiting(2).await;
    for path in [path.clone(), format!("{path}/student"), format!("{path}/artifacts")] {
        assert_eq!(it.get(&server, &path).await.0, 404, "{path}");
    }
    let (status, refused) = it.post(&server, &student_job(json!({"job": job}))).await;
    assert_eq!((status, &refused["errors"][0]["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("/teacher/job")));
    server.process.kill().await;
    assert!(!it.files().is_empty());

    it.bucket.release();
    it.make_due().await;
    let server = it.serve().await;
    it.until_carried_out().await;
    assert_eq!(it.files(), [""; 0]);
    server.process.terminate().await;
}

#[tokio::test]
async fn the_points_and_events_of_a_deleted_job_go_in_small_transactions() {
    let it = Deployment::new().await;
    // What a transaction deletes, whether a statement or a constraint asks for it.
    let count = "
        create table counted (transaction xid8, deleted bigint);
        create function count_deleted() returns trigger language plpgsql as $$ begin
            insert into counted select pg_current_xact_id(), count(*) from gone; return null;
        end $$;
        create trigger count_deleted after delete on metrics referencing old table as gone
            for each statement execute function count_deleted();
        create trigger count_deleted after delete on events referencing old table as gone
            for each statement execute function count_deleted();";
    sqlx::raw_sql(count).execute(&it.db.pool).await.unwrap();
    let server = it.serve().await;
    let (job, other) = (it.succeeded(&server).await, it.succeeded(&server).await);
    it.lengthen(&job, 12_000).await;
    it.lengthen(&other, 10).await;
    assert_eq!(it.delete(&server, &format!("/v1/jobs/{job}")).await.0, 204);
    it.until_carried_out().await;
    let query = "select max(deleted)::bigint, sum(deleted)::bigint
        from (select sum(deleted) as deleted from counted group by transaction) as transactions";
    let (most, all): (i64, i64) = sqlx::query_as(query).fetch_one(&it.db.pool).await.unwrap();
    // With the three events of its life.
    assert_eq!(all, 12_000 + 6000 + 3);
    assert!(most <= 5000, "{most} rows were deleted in one transaction");
    assert_eq!(it.rows().await, (10, 5 + 3), "what is another job's stays");
    server.process.terminate().await;
}

#[tokio::test]
async fn the_points_and_events_that_a_crash_leaves_are_shown_to_nobody_and_deleted_by_the_next_server() {
    let it = Deployment::new().await;
    let server = it.serve().await;
    let job = it.succeeded(&server).await;
    it.lengthen(&job, 100).await;
    // As a server leaves it that dies at once, or one of an earlier version, which did no more.
    sqlx::query("delete from jobs").execute(&it.db.pool).await.unwrap();
    assert_eq!(it.rows().await, (100, 50 + 3));
    for below in ["events", "metrics", "updates", "stream"] {
        assert_eq!(it.get(&server, &format!("/v1/jobs/{job}/{below}")).await.0, 404, "{below}");
    }
    server.process.kill().await;
    it.make_due().await;
    let server = it.serve().await;
    it.until_carried_out().await;
    assert_eq!(it.rows().await, (0, 0));
    server.process.terminate().await;

    // Or by a round of pruning, where no server runs.
    let server = it.serve().await;
    let job = it.succeeded(&server).await;
    server.process.terminate().await;
    it.lengthen(&job, 100).await;
    sqlx::query("delete from jobs").execute(&it.db.pool).await.unwrap();
    it.make_due().await;
    let output = tokio::process::Command::from(it.command("prune")).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("events and points of 1 deleted job"), "{said}");
    assert_eq!(it.rows().await, (0, 0));
}

#[tokio::test]
async fn a_deletion_that_storage_refuses_is_made_later() {
    let it = Deployment::new().await;
    let server = it.serve().await;
    let job = it.succeeded(&server).await;
    it.bucket.refuse(Some("DELETE"));
    assert_eq!(it.delete(&server, &format!("/v1/jobs/{job}")).await.0, 204);
    assert_eq!(it.files().len(), 5);
    it.bucket.refuse(None);
    it.make_due().await;
    it.until_carried_out().await;
    assert_eq!(it.files(), [""; 0]);
    server.process.terminate().await;
}

#[tokio::test]
async fn one_failed_deletion_does_not_end_a_round_of_pruning() {
    let it = Deployment::new().await;
    let server = it.serve().await;
    let (first, second) = (it.succeeded(&server).await, it.succeeded(&server).await);
    // The first is the oldest, with which the round begins.
    it.db.set(&first, "finished_at = now() - interval '9 days'").await;
    it.db.set(&second, "finished_at = now() - interval '8 days'").await;
    it.bucket.refuse(Some(&format!("DELETE /bucket/distillery/jobs/{first}")));
    let prune = async || {
        let mut command = tokio::process::Command::from(it.command("prune"));
        command.args(["--older-than-days", "1"]).output().await.unwrap()
    };
    let output = prune().await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(&format!("could not remove the files of job {first}")), "{said}");
    assert!(said.contains(&format!("removed job {second}")), "{said}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 job, data set or file could not be removed"));
    assert!(!it.files().iter().any(|key| key.contains(&second)));
    // A job without its files is shown to nobody.
    assert_eq!(it.get(&server, &format!("/v1/jobs/{first}")).await.0, 404);

    it.bucket.refuse(None);
    it.make_due().await;
    let output = prune().await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    it.until_carried_out().await;
    assert_eq!(it.files(), [""; 0]);
    server.process.terminate().await;
}

#[tokio::test]
async fn a_round_of_pruning_ends_where_storage_takes_longer_to_fail_than_a_deletion_waits() {
    let it = Deployment::new().await;
    let server = it.serve().await;
    let job = it.succeeded(&server).await;
    it.bucket.refuse(Some("DELETE"));
    assert_eq!(it.delete(&server, &format!("/v1/jobs/{job}")).await.0, 204);
    server.process.terminate().await;
    // As if each attempt at it took a minute.
    let slowness = "create function be_slow() returns trigger language plpgsql as
            $$ begin new.due_at = now(); return new; end $$;
        create trigger be_slow before update on file_deletions for each row execute function be_slow();";
    sqlx::raw_sql(slowness).execute(&it.db.pool).await.unwrap();
    it.make_due().await;
    let output = tokio::process::Command::from(it.command("prune")).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("the round ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("1 job, data set or file could not be removed"), "{said}");
    assert_eq!(it.files().len(), 5);

    it.bucket.refuse(None);
    let output = tokio::process::Command::from(it.command("prune")).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(it.files(), [""; 0]);
}

#[tokio::test]
async fn pruning_into_a_closed_pipe_goes_on() {
    let it = Deployment::new().await;
    let server = it.serve().await;
    for _ in 0..3 {
        it.succeeded(&server).await;
    }
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let mut command = it.command("prune");
    command.args(["--older-than-days", "0"]).stdout(write);
    let status = tokio::process::Command::from(command).status().await.unwrap();
    assert!(status.success());
    assert_eq!(it.files(), [""; 0]);
    server.process.terminate().await;
}

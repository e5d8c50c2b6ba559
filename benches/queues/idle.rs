//! The time until an idle worker of each queue starts a job.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use distillery::db;
use distillery::spec::JobSpec;
use sqlx::PgPool;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::common::{write_dataset, write_trainer};
use super::{Database, System, create, spec};

/// A worker that waits for jobs.
pub struct Idle<'a> {
    database: &'a Database,
    pool: PgPool,
    spec: JobSpec,
    /// The file to which our trainer writes its start time.
    starts: PathBuf,
    lines: Lines<BufReader<ChildStdout>>,
    _program: Child,
}

impl<'a> Idle<'a> {
    pub async fn start(database: &'a Database, dir: &Path) -> anyhow::Result<Self> {
        database.queue(0).await?;
        let starts = dir.join("starts");
        let mut program = database.program();
        if database.system == System::Distillery {
            let trainer = write_trainer(dir, &format!("echo ${{EPOCHREALTIME/[.,]/}} > '{}'", starts.display()))?;
            program.env("DATABASE_URL", database.url());
            program.args(["worker", "--device", "cpu"]).arg("--trainer").arg(trainer);
            program.arg("--data-dir").arg(dir.join("data")).arg("--datasets-dir").arg(write_dataset(dir)?);
        } else {
            program.arg("work");
        }
        let mut program = program.stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(program.stdout.take().expect("piped")).lines();
        let pool = db::connect_at_most(&database.url(), 1).await?;
        Ok(Self { database, pool, spec: spec()?, starts, lines, _program: program })
    }

    /// Adds a job and waits until it has started. Returns the times, in microseconds, when it was added, claimed (ours
    /// only) and started.
    pub async fn pick_up(&mut self) -> anyhow::Result<[i64; 3]> {
        let add = match self.database.system {
            System::Distillery => return self.pick_up_ours().await,
            System::Graphile => "select pg_current_xact_id()::text from graphile_worker.add_job('nothing')",
            System::Procrastinate => {
                "select pg_current_xact_id()::text from procrastinate_defer_jobs_v1(array[
                    row('default', 'nothing', 0, null, null, '{}', null)::procrastinate_job_to_defer_v1])"
            }
        };
        let transaction: String = sqlx::query_scalar(add).fetch_one(&self.pool).await?;
        let started = tokio::time::timeout(Duration::from_secs(30), self.started()).await??;
        let committed = "select (extract(epoch from pg_xact_commit_timestamp($1::xid)) * 1000000)::bigint";
        let added = sqlx::query_scalar(committed).bind(transaction).fetch_one(&self.pool).await?;
        Ok([added, added, started])
    }

    /// The next time that the program prints, among its log lines.
    async fn started(&mut self) -> anyhow::Result<i64> {
        loop {
            let line = self.lines.next_line().await?.context("the worker has ended")?;
            if let Ok(started) = line.parse() {
                return Ok(started);
            }
        }
    }

    async fn pick_up_ours(&self) -> anyhow::Result<[i64; 3]> {
        let id = create(&self.pool, &self.spec).await?;
        while db::jobs::get(&self.pool, &id).await?.is_some_and(|job| !job.status.is_final()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let started = tokio::fs::read_to_string(&self.starts).await?.trim().parse()?;
        // The first two events are `queued` and `running`.
        let committed = "select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint from events
            where job_id = $1 and seq <= 2 order by seq";
        let times: Vec<i64> = sqlx::query_scalar(committed).bind(&id).fetch_all(&self.pool).await?;
        anyhow::ensure!(times.len() == 2, "job {id} has not been claimed");
        Ok([times[0], times[1], started])
    }
}

//! Compares the queue with two others: `cargo bench --bench queues`, after `scripts/setup queues_bench`.
//!
//! graphile-worker (Node.js) and procrastinate (Python) also keep their jobs in PostgreSQL. All three use one server,
//! the embedded one with fsync, each with its own database and in its own process, one after the other in alternating
//! order. Each is used as its documentation says, with its defaults. Measured are
//!
//! - jobs drained per second: several workers at once each take a job, do nothing and complete it, until the queue is
//!   empty. Every drain starts with a copy of the same full queue. All systems have the same number of connections for
//!   this; procrastinate has one more for listening;
//! - the time until an idle worker starts a job: from the commit of its insertion, which PostgreSQL notes just before
//!   it waits for the disk, to the start of the task's function. distillery's task is a process, here a shell, so its
//!   start counts, and the commit of the claim is reported too. Both ends use the machine's CLOCK_REALTIME.
//!
//! The systems do different work per job. distillery makes two transactions of several statements, which keep a ledger
//! of attempts and an event per status, and notify every watcher. procrastinate makes two transactions of one
//! statement, keeps the job, writes events with triggers, and, like distillery, checks the connection before each.
//! graphile-worker makes two single statements, the second of which deletes the job.

mod common;
#[path = "queues/idle.rs"]
mod idle;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::{print_latencies, quantile};
use distillery::db::embedded;
use distillery::db::jobs::{Created, NetworkNames, NewJob};
use distillery::db::{self, queue};
use distillery::protocol::{Outcome, StudentFacts};
use distillery::spec::{JobSpec, Request};
use futures::future::try_join_all;
use idle::Idle;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool};
use tokio::process::Command;

const JOBS: usize = 1000;
const WORKERS: [usize; 4] = [1, 4, 16, 64];
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 3;
const PICKUPS: usize = 200;
/// Time for a worker to become idle again after a job.
const PAUSE: Duration = Duration::from_millis(50);
const SYSTEMS: [System; 3] = [System::Distillery, System::Graphile, System::Procrastinate];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    Distillery,
    Graphile,
    Procrastinate,
}

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Distillery => "distillery",
            Self::Graphile => "graphile-worker",
            Self::Procrastinate => "procrastinate",
        }
    }

    /// Counts the jobs that are not done.
    fn left(self) -> &'static str {
        match self {
            Self::Distillery => "select count(*) from jobs where status <> 'succeeded'",
            Self::Graphile => "select count(*) from graphile_worker.jobs",
            Self::Procrastinate => "select count(*) from procrastinate_jobs where status <> 'succeeded'",
        }
    }
}

/// A database of one system.
struct Database {
    options: PgConnectOptions,
    system: System,
}

impl Database {
    fn url(&self) -> String {
        self.options.to_url_lossy().to_string()
    }

    /// The other system's program, connected to this database.
    fn program(&self) -> Command {
        let (program, script) = match self.system {
            System::Distillery => (env!("CARGO_BIN_EXE_distillery").into(), None),
            System::Graphile => (installed().join("node"), Some("worker.mjs")),
            System::Procrastinate => (installed().join("python"), Some("worker.py")),
        };
        let mut command = Command::new(program);
        if let Some(script) = script {
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/queues").join(script));
        }
        command
            .env("PGHOST", self.options.get_socket().expect("the embedded server has a socket"))
            .env("PGPORT", self.options.get_port().to_string())
            .env("PGUSER", self.options.get_username())
            .env("PGDATABASE", self.options.get_database().expect("it was named"))
            .env_remove("DATABASE_URL")
            // Neither writes a line for each job.
            .env("NO_LOG_SUCCESS", "1")
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Creates the schema and jobs with the system's own tools.
    async fn queue(&self, jobs: usize) -> anyhow::Result<()> {
        if self.system != System::Distillery {
            let status = self.program().args(["queue", &jobs.to_string()]).status().await?;
            anyhow::ensure!(status.success(), "{} cannot queue jobs", self.system.name());
            return Ok(());
        }
        let pool = db::connect(&self.url()).await?;
        db::migrate(&pool).await?;
        let spec = spec()?;
        for _ in 0..jobs / CONNECTIONS + 1 {
            try_join_all((0..CONNECTIONS).map(|_| create(&pool, &spec))).await?;
        }
        sqlx::query("delete from jobs where id in (select id from jobs order by id offset $1)")
            .bind(i64::try_from(jobs)?)
            .execute(&pool)
            .await?;
        pool.close().await;
        Ok(())
    }

    /// Runs all jobs and returns how many per second.
    async fn drain(&self, workers: usize) -> anyhow::Result<f64> {
        let connections = workers.min(CONNECTIONS);
        let (seconds, done) = match self.system {
            System::Distillery => drain(&self.url(), workers, connections).await?,
            _ => {
                let mut program = self.program();
                let output = program.args(["drain", &workers.to_string(), &connections.to_string()]).output().await?;
                let said = String::from_utf8_lossy(&output.stdout);
                let last = said.lines().last().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
                let drained = last.and_then(|last| Some((last["seconds"].as_f64()?, last["done"].as_u64()?)));
                drained.with_context(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?
            }
        };
        let mut connection = self.options.connect().await?;
        let left: i64 = sqlx::query_scalar(self.system.left()).fetch_one(&mut connection).await?;
        anyhow::ensure!(done == JOBS as u64 && left == 0, "{} did {done} jobs, {left} are left", self.system.name());
        Ok(done as f64 / seconds)
    }
}

/// The server and its administrator.
struct Cluster {
    options: PgConnectOptions,
    admin: PgPool,
}

impl Cluster {
    async fn run(&self, statement: String) -> sqlx::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&self.admin).await.map(drop)
    }

    async fn create(&self, name: &str, system: System, template: &str) -> anyhow::Result<Database> {
        self.run(format!("create database {name} template {template}")).await?;
        // Everything before this is on disk now.
        self.run("checkpoint".into()).await?;
        Ok(Database { options: self.options.clone().database(name), system })
    }

    /// A full queue, whose copies are drained.
    async fn fill(&self, system: System) -> anyhow::Result<()> {
        let full = self.create(&full(system), system, "template1").await?;
        full.queue(JOBS).await?;
        sqlx::raw_sql("vacuum analyze").execute(&mut full.options.connect().await?).await?;
        Ok(())
    }

    async fn drain(&self, system: System, workers: usize) -> anyhow::Result<f64> {
        let copy = self.create("copy", system, &full(system)).await?;
        let rate = copy.drain(workers).await?;
        self.run("drop database copy with (force)".into()).await?;
        println!("{:<16} {workers:>2} workers: {rate:>6.0} jobs per second", system.name());
        Ok(rate)
    }
}

fn full(system: System) -> String {
    format!("full_{}", system.name().replace('-', "_"))
}

fn installed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/queues")
}

/// The systems in the order of a round, which alternates.
fn order(round: usize) -> Vec<System> {
    let mut systems = SYSTEMS.to_vec();
    if round % 2 == 1 {
        systems.reverse();
    }
    systems
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    anyhow::ensure!(
        installed().join("python").is_file(),
        "there is nothing to compare with: run scripts/setup queues_bench"
    );
    let dir = tempfile::tempdir()?;
    let settings = vec![("track_commit_timestamp".into(), "on".into())];
    let options = embedded::PostgresOptions { data_dir: dir.path().join("postgres"), bin_dir: None, settings };
    let server = embedded::Server::start(&options).await?;
    let options: PgConnectOptions = server.url().parse()?;
    let cluster = Cluster { admin: db::connect_at_most(server.url(), 1).await?, options };
    let version: String = sqlx::query_scalar("select version()").fetch_one(&cluster.admin).await?;
    let cores = std::thread::available_parallelism()?;
    println!("{cores} cores; {version}");

    for system in SYSTEMS {
        cluster.fill(system).await?;
    }
    for workers in WORKERS {
        let mut rates = SYSTEMS.map(|_| Vec::new());
        for round in 0..ROUNDS {
            for system in order(round) {
                rates[system as usize].push(cluster.drain(system, workers).await?);
            }
        }
        for (system, mut rates) in SYSTEMS.into_iter().zip(rates) {
            rates.sort_by(f64::total_cmp);
            println!(
                "median: {:<16} {workers:>2} workers: {:>6.0} jobs a second",
                system.name(),
                quantile(&rates, 0.5)
            );
        }
    }
    let mut waits = Waits::default();
    for round in 0..2 {
        for system in order(round) {
            let database = cluster.create(&format!("idle_{round}_{}", system as u8), system, "template1").await?;
            waits.measure(&database, dir.path()).await?;
        }
    }
    waits.print();
    cluster.admin.close().await;
    server.stop().await;
    Ok(())
}

fn spec() -> anyhow::Result<JobSpec> {
    let document = json!({"student": {"architecture": "resnet8"}, "dataset": {"name": "ten"},
        "distillation": {"method": "none"}});
    Request::read(&document).complete().map_err(|faults| anyhow::anyhow!("{faults:?}"))
}

async fn create(pool: &PgPool, spec: &JobSpec) -> anyhow::Result<String> {
    let submitted = serde_json::to_string(spec)?;
    let new = NewJob {
        spec,
        submitted: &submitted,
        idempotency: None,
        warnings: &[],
        notes: &[],
        dataset_fingerprint: None,
        dataset: None,
        networks: NetworkNames::default(),
        webhooks: &[],
    };
    match db::jobs::create(pool, &new).await? {
        Created::New(job) => Ok(job.id),
        other => anyhow::bail!("{other:?}"),
    }
}

/// Claims and completes jobs as workers do, without a trainer. Returns the time and the number of jobs.
async fn drain(url: &str, workers: usize, connections: usize) -> anyhow::Result<(f64, u64)> {
    let pool = db::connect_at_most(url, u32::try_from(connections)?).await?;
    drop(try_join_all((0..connections).map(|_| pool.acquire())).await?);
    let student = StudentFacts { parameters: 1, size_bytes: 20, sha256: "00".into() };
    let outcome = Outcome { teacher_top1: None, best_top1: 70.5, best_epoch: 2, last_top1: 70.0, student };
    let began = Instant::now();
    let done = try_join_all((0..workers).map(|worker| {
        let (pool, outcome) = (pool.clone(), outcome.clone());
        tokio::spawn(async move {
            let mut done = 0;
            let worker = format!("wrk_{worker}");
            while let Some(claim) =
                queue::claim(&pool, &worker, queue::DeviceCapacity::ONE, Duration::from_secs(60)).await?
            {
                if queue::publish(&pool, &claim.token.write(), &outcome, &[]).await? {
                    done += 1;
                }
            }
            Ok::<u64, sqlx::Error>(done)
        })
    }))
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    pool.close().await;
    Ok((seconds, done.into_iter().sum::<sqlx::Result<u64>>()?))
}

/// The times that jobs waited for an idle worker.
#[derive(Default)]
struct Waits {
    claimed: Vec<Duration>,
    started: [Vec<Duration>; 3],
}

impl Waits {
    /// Half of the jobs, and one before them that waits until the worker has started.
    async fn measure(&mut self, database: &Database, dir: &Path) -> anyhow::Result<()> {
        let mut idle = Idle::start(database, dir).await?;
        for number in 0..=PICKUPS / 2 {
            let [added, claimed, started] = idle.pick_up().await?;
            let since = |time: i64| Duration::from_micros(u64::try_from(time - added).unwrap_or(0));
            if number > 0 {
                self.started[database.system as usize].push(since(started));
                if database.system == System::Distillery {
                    self.claimed.push(since(claimed));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    fn print(&self) {
        for (system, started) in SYSTEMS.into_iter().zip(&self.started) {
            print_latencies(&format!("{} starts a job", system.name()), started, 0);
        }
        print_latencies("distillery has claimed it", &self.claimed, 0);
    }
}

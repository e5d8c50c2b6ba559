//! PostgreSQL, the API and workers as processes, restarted when they end as a supervisor would.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use distillery::db;
use distillery::db::embedded::{self, Server};
use distillery::process::{self, Child};
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};

use super::actions::{Act, Action, Strike};
use super::checker::Period;
use super::faults::Faults;
use super::random::Random;
use crate::support::db::postgres_options;
use crate::support::http_client;
use crate::support::process::{Lines, distillery, write_script};
use crate::support::server::{quick_job, write_patterns};

pub const EPOCHS: u64 = 10;
pub const STEPS_PER_EPOCH: u64 = 20;
/// The default of a specification.
pub const MAX_ATTEMPTS: usize = 3;
const WORKERS: usize = 3;
/// Unfinished jobs while faults are caused: more than workers, so that a lost job has to wait its turn.
const UNFINISHED: usize = 5;
/// Seconds by which the clocks of the workers' machines are off.
const CLOCKS: [i64; WORKERS] = [-3600, 0, 3600];
const TRAINER: &str = include_str!("trainer.sh");
/// How long to wait for a change of a job before looking again. There is no event to wait for instead: processes end
/// without a change, and the database goes away, which ends the connection that listens.
const CHECK_AGAIN: Duration = Duration::from_millis(250);

/// Why a worker can run nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misconfigured {
    EmptyDatasets,
    BrokenTrainer,
    UnusableWorkDirectory,
    DiskWithoutSpace,
}

impl Misconfigured {
    pub const ALL: [Self; 4] =
        [Self::EmptyDatasets, Self::BrokenTrainer, Self::UnusableWorkDirectory, Self::DiskWithoutSpace];
    /// The kinds that get no job at all.
    pub const IDLE: [Self; 3] = [Self::EmptyDatasets, Self::BrokenTrainer, Self::UnusableWorkDirectory];

    pub fn name(self) -> String {
        format!("crash/{self:?}")
    }

    /// The query that says whether the worker of this name, started since then, has been found out.
    pub fn found_out(self) -> &'static str {
        match self {
            Self::EmptyDatasets => {
                "select exists (select from workers where name = $1 and started_at > $2
                    and stopped_because is null and datasets = '{}')"
            }
            Self::BrokenTrainer => {
                "select exists (select from workers where name = $1 and started_at > $2
                    and stopped_because like '%trainer cannot run%')"
            }
            Self::UnusableWorkDirectory => {
                "select exists (select from workers where name = $1 and started_at > $2
                    and stopped_because like 'cannot write to%')"
            }
            Self::DiskWithoutSpace => {
                "select exists (select from attempts where worker_name = $1 and started_at > $2
                    and outcome = 'machine' and not counted)"
            }
        }
    }
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub faults: Faults,
    pub database: Option<Server>,
    pub url: String,
    pub pool: PgPool,
    changes: PgListener,
    pub api: Option<Child>,
    pub api_url: String,
    pub http: reqwest::Client,
    pub workers: Vec<Option<Child>>,
    lease: u64,
    pub patience: Duration,
    pub random: Random,
    /// Key of each posted job, and the job.
    pub posted: BTreeMap<String, String>,
    pub strikes: Vec<Strike>,
    /// Every fault, in the order of their ends.
    pub acts: Vec<Act>,
    /// When something was broken that affects every job.
    pub broken: Vec<Period>,
    /// When the database lost commits.
    pub losses: Vec<Period>,
    pub done: BTreeMap<Action, u32>,
    /// Processes that ended without being killed.
    pub ended_by_themselves: u32,
    /// From each kill of the API to its next answer.
    pub api_back: Vec<Duration>,
}

impl World {
    pub async fn new(seed: u64, lease: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_patterns(&dir.path().join("datasets/patterns"), 240, 100);
        for part in ["notes", "storage/jobs", "database"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        write_script(&dir.path().join("trainer"), TRAINER);
        fs::write(dir.path().join("steps"), STEPS_PER_EPOCH.to_string()).unwrap();
        let database = Server::start(&Self::postgres(dir.path())).await.expect("PostgreSQL starts");
        let url = database.url().to_owned();
        let migrator = db::connect(&url).await.unwrap();
        db::migrate(&migrator).await.unwrap();
        migrator.close().await;
        let options: PgConnectOptions = url.parse().unwrap();
        // Another application name than the program's, whose connections are terminated.
        let pool = PgPoolOptions::new().max_connections(3).connect_lazy_with(options.application_name("observer"));
        let mut changes = PgListener::connect_with(&pool).await.unwrap();
        changes.listen("distillery_job").await.unwrap();
        let http = http_client().timeout(Duration::from_secs(10)).build().unwrap();
        let mut world = Self {
            faults: Faults::new(dir.path()),
            dir,
            database: Some(database),
            url,
            pool,
            changes,
            api: None,
            api_url: String::new(),
            http,
            workers: (0..WORKERS).map(|_| None).collect(),
            lease,
            // Long enough for a transaction of a stopped worker to be ended by the database.
            patience: Duration::from_secs(90 + 4 * lease),
            random: Random(seed),
            posted: BTreeMap::new(),
            strikes: Vec::new(),
            acts: Vec::new(),
            broken: Vec::new(),
            losses: Vec::new(),
            done: BTreeMap::new(),
            ended_by_themselves: 0,
            api_back: Vec::new(),
        };
        world.revive().await;
        world.ended_by_themselves = 0;
        world
    }

    pub fn postgres(dir: &Path) -> embedded::PostgresOptions {
        postgres_options(dir.join("database"))
    }

    /// Starts every process that has ended.
    pub async fn revive(&mut self) {
        for index in 0..WORKERS {
            let ended = self.workers[index].as_ref().map(|worker| worker.exit_status().is_some());
            if ended != Some(false) {
                self.ended_by_themselves += u32::from(ended == Some(true));
                self.workers[index] = Some(self.start_worker(index));
            }
        }
        let ended = self.api.as_ref().map(|api| api.exit_status().is_some());
        if ended != Some(false) {
            self.ended_by_themselves += u32::from(ended == Some(true));
            self.start_api().await;
        }
    }

    fn program(&self, command: &str, datasets: &str) -> std::process::Command {
        let mut program = distillery();
        program
            .arg(command)
            .args(["--datasets-dir".as_ref(), self.dir.path().join(datasets).as_os_str()])
            .args(["--storage".as_ref(), self.dir.path().join("storage").as_os_str()])
            .env("DATABASE_URL", &self.url)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "off".to_owned()));
        program
    }

    fn start_worker(&self, index: usize) -> Child {
        // Two of them share a machine, and so its directory of work in progress; the third has one of its own.
        let data = self.dir.path().join(if index < 2 { "data-shared" } else { "data-alone" });
        let mut program = self.worker(&format!("crash/{index}"), "datasets", &data, "trainer");
        self.faults.give(&mut program, CLOCKS[index]);
        process::spawn(program).unwrap()
    }

    fn worker(&self, name: &str, datasets: &str, data: &Path, trainer: &str) -> std::process::Command {
        let mut program = self.program("worker", datasets);
        program
            .args(["--device", "cpu", "--name", name, "--lease-seconds", &self.lease.to_string()])
            .args(["--data-dir".as_ref(), data.as_os_str()])
            .args(["--trainer".as_ref(), self.dir.path().join(trainer).as_os_str()])
            .stdout(Stdio::null());
        program
    }

    /// A worker that can run no job.
    pub fn misconfigured_worker(&self, kind: Misconfigured) -> std::process::Command {
        let at = |name: &str| self.dir.path().join(name);
        let (mut datasets, data, mut trainer) = ("datasets", at(&format!("data-{kind:?}")), "trainer");
        let says = r#"{"type":"failed","class":"storage","message":"no space left on device"}"#;
        match kind {
            Misconfigured::EmptyDatasets => {
                datasets = "no-datasets";
                fs::create_dir_all(at(datasets)).unwrap();
            }
            Misconfigured::BrokenTrainer => {
                trainer = "trainer-without-library";
                write_script(&at(trainer), "#!/bin/sh\necho no such library >&2; exit 127\n");
            }
            Misconfigured::UnusableWorkDirectory => {
                fs::create_dir_all(&data).unwrap();
                fs::write(data.join("work"), "not a directory").unwrap();
            }
            Misconfigured::DiskWithoutSpace => {
                trainer = "trainer-without-space";
                let answers = r#"[ $1 = probe ] && echo "distillery-trainer computes on $3" && exit"#;
                write_script(&at(trainer), &format!("#!/bin/sh\n{answers}\necho '{says}'; exit 1\n"));
            }
        }
        self.worker(&kind.name(), datasets, &data, trainer)
    }

    /// How many attempts were begun by workers that could not run them, and should have known.
    pub async fn misled(&self) -> i64 {
        let idle = Misconfigured::IDLE.map(Misconfigured::name);
        let query = "select count(*) from attempts where worker_name = any($1)";
        sqlx::query_scalar(query).bind(&idle[..]).fetch_one(&self.pool).await.unwrap()
    }

    async fn start_api(&mut self) {
        let deadline = Instant::now() + self.patience;
        loop {
            let mut program = self.program("serve", "datasets");
            program.args(["--listen", "127.0.0.1:0", "--workers", "0"]).stdout(Stdio::piped());
            program.args(["--data-dir".as_ref(), self.dir.path().join("data-api").as_os_str()]);
            let mut api = process::spawn(program).unwrap();
            let mut output = Lines::of(api.stdout.take().unwrap());
            self.api = Some(api);
            // It ends without an address where the database goes away meanwhile.
            if let Some(address) = output.address().await {
                self.api_url = address;
                return;
            }
            assert!(Instant::now() < deadline, "the API does not start");
            tokio::time::sleep(CHECK_AGAIN).await;
        }
    }

    /// Waits until a job changes, but not for long.
    pub async fn pause(&mut self) {
        if let Ok(Err(_)) = tokio::time::timeout(CHECK_AGAIN, self.changes.recv()).await {
            // The database is away.
            tokio::time::sleep(CHECK_AGAIN).await;
        }
    }

    /// Waits until a condition holds, and keeps everything running meanwhile.
    pub async fn until(&mut self, what: &str, condition: impl AsyncFn(&PgPool) -> sqlx::Result<bool>) {
        let deadline = Instant::now() + self.patience;
        while !condition(&self.pool).await.unwrap_or(false) {
            if Instant::now() > deadline {
                panic!("still waiting until {what}\n{}", self.overview().await);
            }
            self.revive().await;
            self.pause().await;
        }
    }

    pub async fn overview(&self) -> String {
        let query =
            "select coalesce(string_agg(concat_ws(' ', id, name, status, attempt, worker, error, run_after - now(),
            lease_expires_at - now()), E'\\n' order by id), '') from jobs where finished_at is null";
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap_or_else(|error| error.to_string())
    }

    /// Posts a job with a key, and again until it is answered.
    pub async fn post(&mut self, name: &str) {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.request(name).send().await {
                Ok(answer) if answer.status().is_success() => {
                    if let Ok(job) = answer.json::<Value>().await {
                        self.posted.insert(name.to_owned(), job["id"].as_str().unwrap().to_owned());
                        return;
                    }
                }
                Ok(answer) => {
                    let status = answer.status();
                    let problem = answer.text().await.unwrap_or_default();
                    assert!(status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS, "{status} {problem}");
                }
                Err(_) => {}
            }
            assert!(Instant::now() < deadline, "the API takes no job");
            self.revive().await;
            self.pause().await;
        }
    }

    /// A job with as many attempts as a job has unless its user says otherwise.
    pub fn request(&self, name: &str) -> reqwest::RequestBuilder {
        let mut spec = quick_job();
        spec["name"] = json!(name);
        spec["training"]["epochs"] = json!(EPOCHS);
        self.http.post(format!("{}/v1/jobs", self.api_url)).header("Idempotency-Key", name).json(&spec)
    }

    /// Posts jobs until enough are unfinished.
    pub async fn keep_busy(&mut self) {
        let query = "select count(*) from jobs where finished_at is null";
        let unfinished: i64 = sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap_or(0);
        for _ in usize::try_from(unfinished).unwrap_or(0)..UNFINISHED {
            self.post(&format!("job-{}", self.posted.len())).await;
        }
    }

    /// Posts a job unless there is one that a worker could take now.
    pub async fn keep_queued(&mut self) {
        let query = "select exists (select from jobs where status = 'queued' and run_after <= now())";
        if !sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap_or(true) {
            self.post(&format!("job-{}", self.posted.len())).await;
        }
    }

    pub async fn all_finished(&mut self) {
        // A back-off after many attempts takes minutes.
        let patience = std::mem::replace(&mut self.patience, Duration::from_secs(600));
        let query = "select not exists (select from jobs where finished_at is null)";
        self.until("all jobs finish", async |pool| sqlx::query_scalar(query).fetch_one(pool).await).await;
        self.patience = patience;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in self.workers.iter().flatten().chain(&self.api) {
            process.signal(Signal::KILL);
        }
    }
}

//! The real PostgreSQL, API and workers as processes, and everything that is done to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use distillery::db::embedded::Server;
use distillery::db::{self, embedded};
use distillery::process::{self, Child};
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};

use super::checker::{Artifact, Attempt, CleanKill, Event, Expected, History, Point, Written};
use super::faults::Faults;
use crate::support::db::postgres_options;
use crate::support::server::{quick_job, write_patterns};

const EPOCHS: u64 = 10;
const STEPS_PER_EPOCH: u64 = 20;
const WORKERS: usize = 3;
/// Jobs that are not finished, as long as chaos goes on: more than workers, so that a lost job has to wait its turn.
const UNFINISHED: usize = 5;
/// Seconds by which the clocks of the workers' machines are off.
const CLOCKS: [i64; WORKERS] = [-3600, 0, 3600];
const TRAINER: &str = include_str!("trainer.sh");

/// What is done to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    KillWorker,
    KillTrainer,
    KillApi,
    StopWorker,
    CrashDatabase,
    EndConnections,
    RefuseStorage,
    FillDisk,
}

impl Action {
    pub const ALL: [Self; 8] = [
        Self::KillWorker,
        Self::KillTrainer,
        Self::KillApi,
        Self::StopWorker,
        Self::CrashDatabase,
        Self::EndConnections,
        Self::RefuseStorage,
        Self::FillDisk,
    ];
}

/// SplitMix64: a seed means the same for ever.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    pub fn millis(&mut self, most: usize) -> Duration {
        Duration::from_millis(self.below(most + 1) as u64)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// An attempt that was struck, and when.
#[derive(Debug, Clone)]
pub struct Strike {
    pub action: Action,
    pub job: String,
    pub attempt: i32,
    pub time: DateTime<Utc>,
}

/// An attempt that runs now.
#[derive(Debug, Clone)]
struct Running {
    job: String,
    attempt: i32,
    worker: usize,
    trainer: Pid,
}

pub struct World {
    dir: tempfile::TempDir,
    faults: Faults,
    database: Option<Server>,
    url: String,
    pub pool: PgPool,
    api: Option<Child>,
    api_url: String,
    http: reqwest::Client,
    workers: Vec<Option<Child>>,
    lease: u64,
    patience: Duration,
    pub random: Random,
    /// Key of each posted job, and the job.
    pub posted: BTreeMap<String, String>,
    pub strikes: Vec<Strike>,
    /// When something was broken that concerns every job.
    broken: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    pub done: BTreeMap<Action, u32>,
    /// Processes that ended though nobody killed them.
    pub ended_by_themselves: u32,
    /// From a kill of the API to its next answer.
    pub api_back: Vec<Duration>,
}

impl World {
    pub async fn new(seed: u64, lease: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_patterns(&dir.path().join("datasets/patterns"), 240, 100);
        for part in ["notes", "storage/jobs", "database"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        fs::write(dir.path().join("trainer"), TRAINER).unwrap();
        fs::write(dir.path().join("steps"), STEPS_PER_EPOCH.to_string()).unwrap();
        fs::set_permissions(dir.path().join("trainer"), fs::Permissions::from_mode(0o755)).unwrap();
        let database = Server::start(&Self::postgres(dir.path())).await.expect("PostgreSQL starts");
        let url = database.url().to_owned();
        let migrator = db::connect(&url).await.unwrap();
        db::migrate(&migrator).await.unwrap();
        migrator.close().await;
        let options: PgConnectOptions = url.parse().unwrap();
        // Not that of the program, whose connections are ended.
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(options.application_name("observer"));
        distillery::artifacts::install_tls_provider();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
        let mut world = Self {
            faults: Faults::new(dir.path()),
            dir,
            database: Some(database),
            url,
            pool,
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
            broken: Vec::new(),
            done: BTreeMap::new(),
            ended_by_themselves: 0,
            api_back: Vec::new(),
        };
        world.revive().await;
        world.ended_by_themselves = 0;
        world
    }

    fn postgres(dir: &Path) -> embedded::Options {
        postgres_options(dir.join("database"))
    }

    /// Starts what does not run, as a supervisor would.
    async fn revive(&mut self) {
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

    fn program(&self, command: &str) -> std::process::Command {
        // Whatever becomes of the test, they end with it.
        let mut program = process::command("KILL", Path::new(env!("CARGO_BIN_EXE_distillery")));
        program
            .arg(command)
            .args(["--datasets-dir".as_ref(), self.dir.path().join("datasets").as_os_str()])
            .args(["--storage".as_ref(), self.dir.path().join("storage").as_os_str()])
            .env("DATABASE_URL", &self.url)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "off".to_owned()))
            .stdin(Stdio::null());
        program
    }

    fn start_worker(&self, index: usize) -> Child {
        // Two of them share a machine, and so its directory of work in progress; the third has one of its own.
        let data = self.dir.path().join(if index < 2 { "data-shared" } else { "data-alone" });
        let mut program = self.program("worker");
        program
            .args(["--device", "cpu", "--name", &format!("crash/{index}")])
            .args(["--lease-seconds", &self.lease.to_string()])
            .args(["--data-dir".as_ref(), data.as_os_str()])
            .args(["--trainer".as_ref(), self.dir.path().join("trainer").as_os_str()])
            .stdout(Stdio::null());
        self.faults.give(&mut program, CLOCKS[index]);
        process::spawn(program).unwrap()
    }

    async fn start_api(&mut self) {
        let deadline = Instant::now() + self.patience;
        loop {
            let mut program = self.program("serve");
            program.args(["--listen", "127.0.0.1:0", "--workers", "0"]).stdout(Stdio::piped());
            program.args(["--data-dir".as_ref(), self.dir.path().join("data-api").as_os_str()]);
            let mut api = process::spawn(program).unwrap();
            let output = api.stdout.take().unwrap();
            let address = tokio::task::spawn_blocking(move || {
                let mut lines = BufReader::new(output).lines().map_while(Result::ok);
                let address = lines.find_map(|line| Some(line[line.find("http://")?..].trim().to_owned()));
                std::thread::spawn(move || lines.for_each(drop));
                address
            });
            self.api = Some(api);
            // It ends without an address where the database is away.
            if let Some(address) = address.await.unwrap() {
                self.api_url = address;
                return;
            }
            assert!(Instant::now() < deadline, "the API does not start");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks every few milliseconds, and keeps everything running meanwhile.
    pub async fn until(&mut self, what: &str, condition: impl AsyncFn(&PgPool) -> sqlx::Result<bool>) {
        let deadline = Instant::now() + self.patience;
        while !condition(&self.pool).await.unwrap_or(false) {
            if Instant::now() > deadline {
                panic!("it did not come to pass: {what}\n{}", self.overview().await);
            }
            self.revive().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn overview(&self) -> String {
        let query =
            "select coalesce(string_agg(concat_ws(' ', id, name, status, attempt, worker, error, run_after - now(),
            lease_expires_at - now()), E'\\n' order by id), '') from jobs where finished_at is null";
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap_or_else(|error| error.to_string())
    }

    /// A job by its key, whatever happens to the answers.
    pub async fn post(&mut self, name: &str, max_attempts: u32) {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.request(name, max_attempts).send().await {
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
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn request(&self, name: &str, max_attempts: u32) -> reqwest::RequestBuilder {
        let mut spec = quick_job();
        spec["name"] = json!(name);
        spec["max_attempts"] = json!(max_attempts);
        spec["training"]["epochs"] = json!(EPOCHS);
        self.http.post(format!("{}/v1/jobs", self.api_url)).header("Idempotency-Key", name).json(&spec)
    }

    /// Posts until so many jobs are not finished.
    pub async fn keep_busy(&mut self) {
        let query = "select count(*) from jobs where finished_at is null";
        let unfinished: i64 = sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap_or(0);
        for _ in usize::try_from(unfinished).unwrap_or(0)..UNFINISHED {
            self.post(&format!("job-{}", self.posted.len()), 100).await;
        }
    }

    pub async fn all_finished(&mut self) {
        // A back-off after many attempts takes minutes.
        let patience = std::mem::replace(&mut self.patience, Duration::from_secs(600));
        let query = "select not exists (select from jobs where finished_at is null)";
        self.until("all jobs finish", async |pool| sqlx::query_scalar(query).fetch_one(pool).await).await;
        self.patience = patience;
    }

    /// An attempt whose trainer trains: any, or the one that got furthest.
    async fn running(&mut self, furthest: bool) -> Running {
        let deadline = Instant::now() + self.patience;
        loop {
            self.revive().await;
            let query = "select jobs.id, attempt, workers.name from jobs join workers on workers.id = jobs.worker
                where status = 'running'
                order by coalesce((select max(step) from metrics where job_id = jobs.id), 0) desc";
            let rows: Vec<(String, i32, String)> =
                sqlx::query_as(query).fetch_all(&self.pool).await.unwrap_or_default();
            let mut found: Vec<Running> = rows
                .into_iter()
                .filter_map(|(job, attempt, worker)| {
                    let trainer = self.trainer_of(&job, attempt)?;
                    let worker = worker.strip_prefix("crash/")?.parse().ok()?;
                    Some(Running { job, attempt, worker, trainer })
                })
                .collect();
            if !found.is_empty() {
                let chosen = if furthest { 0 } else { self.random.below(found.len()) };
                return found.swap_remove(chosen);
            }
            assert!(Instant::now() < deadline, "nothing runs\n{}", self.overview().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn trainer_of(&self, job: &str, attempt: i32) -> Option<Pid> {
        let noted = fs::read_to_string(self.dir.path().join(format!("notes/{job}.{attempt}.pid"))).ok()?;
        let pid: i32 = noted.trim().parse().ok()?;
        // The number may have become another process's.
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let pid = Pid::from_raw(pid)?;
        (command.contains(job) && test_kill_process(pid).is_ok()).then_some(pid)
    }

    fn strike(&mut self, action: Action, running: &Running) {
        let Running { job, attempt, .. } = running.clone();
        self.strikes.push(Strike { action, job, attempt, time: Utc::now() });
    }

    /// Waits until the attempt's job has gone on without it.
    async fn gone_on(&mut self, running: &Running) {
        let Running { job, attempt, .. } = running.clone();
        let query = "select finished_at is not null or (attempt > $2 and status = 'running') from jobs where id = $1";
        self.until("the job goes on in another attempt", async |pool| {
            sqlx::query_scalar(query).bind(&job).bind(attempt).fetch_one(pool).await
        })
        .await;
    }

    pub async fn act(&mut self, action: Action) {
        *self.done.entry(action).or_default() += 1;
        let began = Utc::now();
        match action {
            Action::KillWorker => {
                self.later().await;
                let running = self.running(false).await;
                self.strike(action, &running);
                self.kill_worker(running.worker).await;
                self.perhaps_wait(&running).await;
            }
            Action::KillTrainer => {
                self.later().await;
                let running = self.running(false).await;
                self.strike(action, &running);
                let _ = kill_process(running.trainer, Signal::KILL);
                self.perhaps_wait(&running).await;
            }
            Action::KillApi => self.kill_api().await,
            Action::StopWorker => self.stop_worker().await,
            Action::CrashDatabase => self.crash_database().await,
            Action::EndConnections => self.end_connections().await,
            Action::RefuseStorage => self.refuse_storage().await,
            Action::FillDisk => self.fill_disk().await,
        }
        if ![Action::KillWorker, Action::KillTrainer, Action::KillApi].contains(&action) {
            self.broken.push((began, Utc::now()));
        }
    }

    /// Somewhere in the middle of what has been begun.
    async fn later(&mut self) {
        let pause = self.random.millis(2000);
        tokio::time::sleep(pause).await;
    }

    /// The next blow may fall before this one is mended.
    async fn perhaps_wait(&mut self, running: &Running) {
        if self.random.below(2) == 0 {
            self.gone_on(running).await;
        }
    }

    async fn kill_worker(&mut self, index: usize) {
        let mut worker = self.workers[index].take().unwrap();
        worker.signal(Signal::KILL);
        worker.wait().await;
        self.revive().await;
    }

    /// In the middle of a request, which is sent again with its key.
    async fn kill_api(&mut self) {
        let name = format!("job-{}", self.posted.len());
        let request = tokio::spawn(self.request(&name, 100).send());
        let pause = Duration::from_micros(self.random.below(12_000) as u64);
        tokio::time::sleep(pause).await;
        let mut api = self.api.take().unwrap();
        let killed = Instant::now();
        api.signal(Signal::KILL);
        api.wait().await;
        // Whether it was answered is a matter of luck; that it is one job is not.
        let _ = request.await;
        self.revive().await;
        self.post(&name, 100).await;
        self.api_back.push(killed.elapsed());
    }

    /// Until its lease has passed and another worker has the job: then two work on one.
    async fn stop_worker(&mut self) {
        // Half of the time the trainer finishes meanwhile, and the stale worker finds a student to publish.
        let furthest = self.random.below(2) == 0;
        let running = self.running(furthest).await;
        let worker = self.workers[running.worker].as_ref().unwrap();
        let process = Pid::from_raw(worker.id.cast_signed()).unwrap();
        kill_process(process, Signal::STOP).unwrap();
        self.strike(Action::StopWorker, &running);
        self.gone_on(&running).await;
        tokio::time::sleep(self.random.millis(500)).await;
        kill_process(process, Signal::CONT).unwrap();
        // It notices, and gets rid of its trainer.
        let notes = self.dir.path().join("notes");
        let (job, attempt) = (running.job.clone(), running.attempt);
        self.until("the stale worker gives up", async |_| Ok(!is_alive(&notes, &job, attempt))).await;
    }

    async fn crash_database(&mut self) {
        let mut server = self.database.take().unwrap();
        // What `pg_ctl stop -m immediate` sends.
        kill_process(Pid::from_raw(server.pid().cast_signed()).unwrap(), Signal::QUIT).unwrap();
        server.exited().await;
        drop(server);
        let pause = self.random.millis(1500);
        tokio::time::sleep(pause).await;
        self.database = Some(Server::start(&Self::postgres(self.dir.path())).await.unwrap());
        self.until("the database answers", async |pool| sqlx::query_scalar("select true").fetch_one(pool).await).await;
    }

    async fn end_connections(&mut self) {
        let end = Instant::now() + Duration::from_millis(500) + self.random.millis(1000);
        while Instant::now() < end {
            let query = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and application_name = 'distillery'";
            let _: Result<i64, _> = sqlx::query_scalar(query).fetch_one(&self.pool).await;
            let pause = self.random.millis(60);
            tokio::time::sleep(pause).await;
        }
    }

    /// A file stands where the directory of all jobs' files was: even root cannot write below it.
    async fn refuse_storage(&mut self) {
        let (place, away) = (self.dir.path().join("storage/jobs"), self.dir.path().join("storage/jobs-away"));
        fs::rename(&place, &away).unwrap();
        fs::write(&place, "not a directory").unwrap();
        self.storage_failed().await;
        fs::remove_file(&place).unwrap();
        fs::rename(&away, &place).unwrap();
    }

    /// That of work in progress and of storage, or that of storage alone.
    async fn fill_disk(&mut self) {
        let scratch = self.dir.path().join("scratch-full");
        let both = self.random.below(2) == 0;
        let full = self.faults.fill_disk();
        if both {
            fs::write(&scratch, []).unwrap();
        }
        self.storage_failed().await;
        drop(full);
        if both {
            fs::remove_file(&scratch).unwrap();
        }
    }

    /// Waits until an attempt has failed for it.
    async fn storage_failed(&mut self) {
        let began = Utc::now();
        let query = "select exists (select from attempts where ended_at > $1 and outcome = 'storage')";
        self.until("storage fails", async |pool| sqlx::query_scalar(query).bind(began).fetch_one(pool).await).await;
        self.later().await;
    }

    /// All that is known of a job that has finished.
    pub async fn history(&self, job: &str) -> History {
        let row: Value = self.scalar("select to_jsonb(jobs) from jobs where id = $1", job).await;
        let notes = fs::read_to_string(self.dir.path().join("notes").join(job)).unwrap_or_default();
        let (mut written, mut trained) = (Vec::new(), BTreeMap::new());
        for line in notes.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, _, attempt, step, time] = words[..] else { panic!("{line}") };
            let (attempt, step): (i32, u64) = (attempt.parse().unwrap(), step.parse().unwrap());
            trained.insert(attempt, step);
            if kind == "checkpoint" {
                let micros: i64 = time.replace('.', "").parse().unwrap();
                written.push(Written { attempt, step, time: DateTime::from_timestamp_micros(micros).unwrap() });
            }
        }
        let attempts: Vec<Attempt> = self.rows("attempts", job, "attempt").await;
        let mut artifacts: Vec<Artifact> = self.rows("artifacts", job, "attempt, name").await;
        for artifact in &mut artifacts {
            let stored = fs::read(self.dir.path().join("storage").join(&artifact.key)).ok();
            artifact.stored_sha256 = stored.map(|bytes| hex::encode(Sha256::digest(bytes)));
        }
        let succeeded = row["status"] == "succeeded";
        let metrics = if succeeded { self.download(job, "artifacts/metrics.ndjson").await } else { None };
        let points = metrics.unwrap_or_default();
        let points = points.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
        let listing = self.download(job, "artifacts").await.unwrap_or_default();
        let listing: Value = serde_json::from_str(&listing).unwrap_or_default();
        let listed = listing["data"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        History {
            job: job.to_owned(),
            status: text(&row["status"]),
            attempt: serde_json::from_value(row["attempt"].clone()).unwrap(),
            published_attempt: serde_json::from_value(row["published_attempt"].clone()).unwrap(),
            event_seq: row["event_seq"].as_i64().unwrap(),
            events: self.rows::<Event>("events", job, "seq").await,
            points: self.rows::<Point>("metrics", job, "id").await,
            artifacts,
            listed: listed.map(|one| (text(&one["name"]), text(&one["sha256"]))).collect(),
            clean_kills: self.clean_kills(job, &attempts),
            attempts,
            student: if succeeded { self.download(job, "student").await } else { None },
            metrics_file: points.map(|point| (text(&point["name"]), point["step"].as_u64().unwrap_or(0))).collect(),
            written,
            trained,
        }
    }

    fn clean_kills(&self, job: &str, attempts: &[Attempt]) -> Vec<CleanKill> {
        let kills = self.strikes.iter().filter(|strike| strike.job == job && strike.action != Action::StopWorker);
        let is_clean = |strike: &&Strike| {
            let Some(attempt) = attempts.iter().find(|attempt| attempt.attempt == strike.attempt) else { return false };
            let lost = attempt.outcome.as_deref() == Some("worker_lost");
            lost && !self.broken.iter().any(|(from, to)| *from < strike.time && *to > attempt.started_at)
        };
        kills.filter(is_clean).map(|strike| CleanKill { attempt: strike.attempt, time: strike.time }).collect()
    }

    pub fn expected(&self, job: &str) -> Expected {
        let is_poison = self.posted.iter().any(|(key, id)| id == job && key.starts_with("poison"));
        let student = (1..=EPOCHS)
            .fold("beginning".to_owned(), |hash, epoch| hex::encode(Sha256::digest(format!("{hash} {epoch}"))));
        let status = if is_poison { "failed" } else { "succeeded" };
        Expected { status, epochs: EPOCHS, steps_per_epoch: STEPS_PER_EPOCH, student }
    }

    pub async fn all_jobs(&self) -> BTreeSet<String> {
        let found: Vec<String> = sqlx::query_scalar("select id from jobs").fetch_all(&self.pool).await.unwrap();
        found.into_iter().collect()
    }

    async fn scalar(&self, query: &'static str, job: &str) -> Value {
        sqlx::query_scalar(query).bind(job).fetch_one(&self.pool).await.unwrap()
    }

    async fn rows<T: DeserializeOwned>(&self, table: &str, job: &str, order: &str) -> Vec<T> {
        let query = format!("select to_jsonb(t) from {table} as t where job_id = $1 order by {order}");
        let rows: Vec<Value> = sqlx::query_scalar(AssertSqlSafe(query)).bind(job).fetch_all(&self.pool).await.unwrap();
        rows.into_iter().map(|row| serde_json::from_value(row).unwrap()).collect()
    }

    async fn download(&self, job: &str, what: &str) -> Option<String> {
        let answer = self.http.get(format!("{}/v1/jobs/{job}/{what}", self.api_url)).send().await.unwrap();
        if answer.status().is_success() { Some(answer.text().await.unwrap()) } else { None }
    }
}

fn is_alive(notes: &Path, job: &str, attempt: i32) -> bool {
    let noted: PathBuf = notes.join(format!("{job}.{attempt}.pid"));
    let pid = fs::read_to_string(noted).unwrap_or_default();
    // One that nobody has waited for yet has no command line any more.
    fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).is_ok_and(|command| command.contains(job))
}

impl Drop for World {
    fn drop(&mut self) {
        for process in self.workers.iter().flatten().chain(&self.api) {
            process.signal(Signal::KILL);
        }
    }
}

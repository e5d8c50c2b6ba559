//! The faults that the crash suite causes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use distillery::db::embedded::Server;
use distillery::process;
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use super::world::{Misconfigured, World};
use crate::support::process::until_ended;

/// Most crashes of the database until one loses a commit: its own processes may just have written it.
const MOST_CRASHES: u32 = 3;

/// A fault.
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
    MakeReadOnly,
    LoseCommits,
    Misconfigure,
}

impl Action {
    pub const ALL: [Self; 11] = [
        Self::KillWorker,
        Self::KillTrainer,
        Self::KillApi,
        Self::StopWorker,
        Self::CrashDatabase,
        Self::EndConnections,
        Self::RefuseStorage,
        Self::FillDisk,
        Self::MakeReadOnly,
        Self::LoseCommits,
        Self::Misconfigure,
    ];
}

/// A fault that hit one attempt.
#[derive(Debug, Clone)]
pub struct Strike {
    pub action: Action,
    pub job: String,
    pub attempt: i32,
    pub time: DateTime<Utc>,
    /// When the files were written that its worker left in storage, finished or not, where the worker was killed.
    pub stored: Vec<DateTime<Utc>>,
}

/// A fault, and when it was caused and over.
#[derive(Debug, Clone, Copy)]
pub struct Act {
    pub action: Action,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

/// An attempt whose trainer is running.
#[derive(Debug, Clone)]
struct Running {
    job: String,
    attempt: i32,
    worker: usize,
    trainer: Pid,
}

impl World {
    /// Waits for a running attempt: any, or the one with the most steps; of a sweep's jobs if any of these runs.
    async fn running(&mut self, furthest: bool) -> Running {
        let deadline = Instant::now() + self.patience;
        loop {
            self.revive().await;
            let query = "select jobs.id, attempt, workers.name, sweep_id is not null
                from jobs join workers on workers.id = jobs.worker
                where status = 'running'
                order by coalesce((select max(step) from metrics where job_id = jobs.id), 0) desc";
            let rows: Vec<(String, i32, String, bool)> =
                sqlx::query_as(query).fetch_all(&self.pool).await.unwrap_or_default();
            let mut found: Vec<(bool, Running)> = rows
                .into_iter()
                .filter_map(|(job, attempt, worker, of_sweep)| {
                    let trainer = self.trainer_of(&job, attempt)?;
                    let worker = worker.strip_prefix("crash/")?.parse().ok()?;
                    Some((of_sweep, Running { job, attempt, worker, trainer }))
                })
                .collect();
            if found.iter().any(|(of_sweep, _)| *of_sweep) {
                found.retain(|(of_sweep, _)| *of_sweep);
            }
            if !found.is_empty() {
                let chosen = if furthest { 0 } else { self.random.below(found.len()) };
                return found.swap_remove(chosen).1;
            }
            assert!(Instant::now() < deadline, "nothing runs\n{}", self.overview().await);
            self.pause().await;
        }
    }

    fn strike(&mut self, action: Action, running: &Running) {
        let Running { job, attempt, .. } = running.clone();
        self.strikes.push(Strike { action, job, attempt, time: Utc::now(), stored: Vec::new() });
    }

    /// Waits until the job has finished or runs in a later attempt.
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
                self.kill_worker(&running).await;
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
            Action::MakeReadOnly => self.make_read_only().await,
            Action::LoseCommits => self.lose_commits().await,
            Action::Misconfigure => self.misconfigure().await,
        }
        let ended = Utc::now();
        self.acts.push(Act { action, from: began, to: ended });
        let harmless = [Action::KillWorker, Action::KillTrainer, Action::KillApi, Action::Misconfigure];
        if !harmless.contains(&action) {
            self.broken.push((began, ended));
        }
    }

    /// Lets work go on for a random time.
    async fn later(&mut self) {
        let pause = self.random.millis(2000);
        tokio::time::sleep(pause).await;
    }

    /// Waits for recovery or not, so that the next fault may come before it.
    async fn perhaps_wait(&mut self, running: &Running) {
        if self.random.below(2) == 0 {
            self.gone_on(running).await;
        }
    }

    async fn kill_worker(&mut self, running: &Running) {
        let mut worker = self.workers[running.worker].take().unwrap();
        worker.signal(Signal::KILL);
        worker.wait().await;
        let attempts = self.dir.path().join("storage/jobs").join(&running.job).join("attempts");
        self.strikes.last_mut().expect("this one").stored = written_at(&attempts, running.attempt);
        self.revive().await;
    }

    /// Kills the API in the middle of a request, which is then sent again with its key.
    async fn kill_api(&mut self) {
        let name = format!("job-{}", self.posted.len());
        let request = tokio::spawn(self.request(&name).send());
        let pause = Duration::from_micros(self.random.below(12_000) as u64);
        tokio::time::sleep(pause).await;
        let mut api = self.api.take().unwrap();
        let killed = Instant::now();
        api.signal(Signal::KILL);
        api.wait().await;
        // It may have been answered or not; in both cases there must be one job.
        let _ = request.await;
        self.revive().await;
        self.post(&name).await;
        self.api_back.push(killed.elapsed());
    }

    /// Freezes a worker until its lease has expired and another worker has its job, so that two work on one job.
    async fn stop_worker(&mut self) {
        // Half of the time the trainer finishes meanwhile, and the stale worker has a student to publish.
        let furthest = self.random.below(2) == 0;
        let running = self.running(furthest).await;
        let worker = self.workers[running.worker].as_ref().unwrap();
        let process = Pid::from_raw(worker.id.cast_signed()).unwrap();
        kill_process(process, Signal::STOP).unwrap();
        self.strike(Action::StopWorker, &running);
        self.gone_on(&running).await;
        tokio::time::sleep(self.random.millis(500)).await;
        kill_process(process, Signal::CONT).unwrap();
        // The worker notices, and kills its trainer.
        until_ended(running.trainer).await;
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

    /// As in a failover: for a while the database answers, and takes no writes. A job is refused meanwhile, whose
    /// client sends it again.
    async fn make_read_only(&mut self) {
        self.configure("alter system set default_transaction_read_only = on").await;
        let refused = self.refused_as_read_only().await;
        let pause = Duration::from_millis(500) + self.random.millis(2000);
        tokio::time::sleep(pause).await;
        self.configure("alter system reset default_transaction_read_only").await;
        self.post(&refused).await;
    }

    /// Posts jobs until the API refuses one because the database takes no writes, and returns its name.
    async fn refused_as_read_only(&mut self) -> String {
        let deadline = Instant::now() + self.patience;
        loop {
            let name = format!("job-{}", self.posted.len());
            if let Ok(answer) = self.request(&name).send().await {
                let (status, said) = (answer.status(), answer.text().await.unwrap_or_default());
                if status == StatusCode::SERVICE_UNAVAILABLE && said.contains("read-only") {
                    return name;
                }
                if status.is_success() {
                    let job: Value = serde_json::from_str(&said).expect("a job");
                    self.posted.insert(name, job["id"].as_str().expect("an id").to_owned());
                }
            }
            assert!(Instant::now() < deadline, "the API does not notice that the database is read-only");
            self.revive().await;
            self.pause().await;
        }
    }

    /// As in a failover to a standby that lagged behind: the database comes back without its last commits. One of them
    /// has accepted a job, whose client sends it again.
    async fn lose_commits(&mut self) {
        let began = Utc::now();
        self.configure("alter system set wal_writer_delay = '10s'").await;
        self.configure("alter system set synchronous_commit = off").await;
        let name = format!("job-{}", self.posted.len());
        let mut was_lost = false;
        for _ in 0..MOST_CRASHES {
            let pause = Duration::from_millis(500) + self.random.millis(2000);
            tokio::time::sleep(pause).await;
            self.post(&name).await;
            let accepted = self.posted[&name].clone();
            self.crash_database().await;
            self.post(&name).await;
            was_lost = self.posted[&name] != accepted;
            if was_lost {
                break;
            }
        }
        assert!(was_lost, "{MOST_CRASHES} crashes lost no commit");
        self.configure("alter system reset synchronous_commit").await;
        self.configure("alter system reset wal_writer_delay").await;
        self.losses.push((began, Utc::now()));
    }

    async fn configure(&self, statement: &'static str) {
        let options: PgConnectOptions = self.url.parse().unwrap();
        let options = options.application_name("observer").options([("default_transaction_read_only", "off")]);
        let mut connection = options.connect().await.unwrap();
        for statement in [statement, "select pg_reload_conf()"] {
            sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        }
    }

    /// Starts more workers, each of which can run nothing for another reason, until each has been found out.
    async fn misconfigure(&mut self) {
        let began = Utc::now();
        let mut workers = Misconfigured::ALL.map(|kind| process::spawn(self.misconfigured_worker(kind)).unwrap());
        let deadline = Instant::now() + self.patience;
        loop {
            let mut trusted = Vec::new();
            for kind in Misconfigured::ALL {
                let found = sqlx::query_scalar(kind.found_out()).bind(kind.name()).bind(began);
                if !found.fetch_one(&self.pool).await.unwrap_or(false) {
                    trusted.push(kind);
                }
            }
            if trusted.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "not found out: {trusted:?}\n{}", self.overview().await);
            self.revive().await;
            self.keep_queued().await;
            self.pause().await;
        }
        self.later().await;
        for worker in &mut workers {
            worker.signal(Signal::TERM);
            worker.wait().await;
        }
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

    /// Puts a file in the place of the storage directory: even root cannot write below it.
    async fn refuse_storage(&mut self) {
        // Workers that find the fault when they check themselves begin nothing that could fail.
        self.running(false).await;
        let (place, away) = (self.dir.path().join("storage/jobs"), self.dir.path().join("storage/jobs-away"));
        fs::rename(&place, &away).unwrap();
        fs::write(&place, "not a directory").unwrap();
        self.storage_failed().await;
        fs::remove_file(&place).unwrap();
        fs::rename(&away, &place).unwrap();
    }

    /// Fills the disk of storage, and half of the time that of the working directories too.
    async fn fill_disk(&mut self) {
        self.running(false).await;
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

    /// Waits until an attempt has failed because of storage.
    async fn storage_failed(&mut self) {
        let began = Utc::now();
        let query = "select exists (select from attempts where ended_at > $1 and outcome in ('machine', 'storage'))";
        self.until("storage fails", async |pool| sqlx::query_scalar(query).bind(began).fetch_one(pool).await).await;
        self.later().await;
    }

    fn trainer_of(&self, job: &str, attempt: i32) -> Option<Pid> {
        let noted = fs::read_to_string(self.dir.path().join(format!("notes/{job}.{attempt}.pid"))).ok()?;
        let pid: i32 = noted.trim().parse().ok()?;
        // The id may have been given to another process.
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let pid = Pid::from_raw(pid)?;
        (command.contains(job) && test_kill_process(pid).is_ok()).then_some(pid)
    }
}

/// When the files of an attempt in storage were written, finished or not. The kernel says so: its clock is right.
fn written_at(attempts: &Path, attempt: i32) -> Vec<DateTime<Utc>> {
    let entries =
        |directory: &Path| -> Vec<fs::DirEntry> { fs::read_dir(directory).into_iter().flatten().flatten().collect() };
    let own = format!("{attempt}-");
    let mut times = Vec::new();
    for directory in entries(attempts) {
        if directory.file_name().to_string_lossy().starts_with(&own) {
            let path = directory.path();
            let files = entries(&path).into_iter().chain(entries(&path.join("state")));
            let files = files.filter_map(|file| file.metadata().ok()).filter(fs::Metadata::is_file);
            times.extend(files.filter_map(|file| file.modified().ok()).map(DateTime::<Utc>::from));
        }
    }
    times
}

//! The real server with its worker and trainer, on a free port and in a directory of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures::StreamExt;
use reqwest::StatusCode;
use rustix::process::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::db::TestDb;
use super::process::{Process, children_of, distillery, write_script};
use super::{PATIENCE, http_client};

/// A running server; dropping it stops it.
pub struct Server {
    process: Process,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// For requests.
    pub http: reqwest::Client,
    /// Its data directory `data` and the data sets in `datasets`.
    pub dir: TempDir,
    /// None if it runs a PostgreSQL of its own, in its data directory.
    db: Option<TestDb>,
}

/// How a server is started.
#[derive(Default)]
pub struct Options {
    /// Worker processes; 1 by default.
    pub workers: Option<u32>,
    /// Further environment variables.
    pub environment: Vec<(&'static str, String)>,
    /// Whether it starts its own PostgreSQL instead of using this run's.
    pub embedded_database: bool,
}

impl Server {
    /// Starts a server that has the data set `patterns`.
    pub async fn start(options: Options) -> Self {
        let db = if options.embedded_database { None } else { Some(TestDb::new().await) };
        let dir = tempfile::tempdir().expect("a temporary directory");
        write_patterns(&dir.path().join("datasets/patterns"), 240, 100);
        let mut command = distillery();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--workers", &options.workers.unwrap_or(1).to_string()])
            .args(["--data-dir".as_ref(), dir.path().join("data").as_os_str()])
            .args(["--datasets-dir".as_ref(), dir.path().join("datasets").as_os_str()])
            .envs(db.iter().map(|db| ("DATABASE_URL", &db.url)))
            .envs(options.environment)
            .stdout(Stdio::piped());
        let mut process = Process::start(command);
        let url = process.stdout().address().await.expect("the server prints its address");
        Self { process, url, http: http_client().build().expect("a client"), dir, db }
    }

    /// A worker process beside the server's own.
    pub fn start_worker(&self, environment: &[(&str, &str)]) -> Worker {
        self.start_worker_on("cpu", environment)
    }

    /// A worker process that has these devices, separated by commas.
    pub fn start_worker_on(&self, devices: &str, environment: &[(&str, &str)]) -> Worker {
        let mut command = distillery();
        command
            .args(["worker", "--device", devices])
            .args(["--data-dir".as_ref(), self.dir.path().join("data").as_os_str()])
            .args(["--datasets-dir".as_ref(), self.dir.path().join("datasets").as_os_str()])
            .env("DATABASE_URL", self.database_url())
            .envs(environment.iter().copied());
        Worker(Process::start(command))
    }

    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    pub fn database_url(&self) -> String {
        match &self.db {
            Some(db) => db.url.clone(),
            None => std::fs::read_to_string(self.dir.path().join("data/postgres.url")).expect("the server notes it"),
        }
    }

    /// Sends a request and reads the JSON answer.
    pub async fn call(&self, request: reqwest::RequestBuilder) -> (StatusCode, Value) {
        let answer = request.send().await.expect("the server answers");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// `GET path`, which must succeed.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(self.http.get(format!("{}{path}", self.url))).await;
        assert!(status.is_success(), "GET {path}: {status} {body}");
        body
    }

    /// Posts a job, which must be accepted, and returns its id.
    pub async fn post(&self, spec: &Value) -> String {
        let (status, body) = self.call(self.http.post(format!("{}/v1/jobs", self.url)).json(spec)).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        body["id"].as_str().expect("an id").to_owned()
    }

    /// Follows the job's stream and looks at each message, until something is found.
    async fn until<T>(&self, id: &str, look: impl AsyncFn() -> Option<T>) -> Option<T> {
        let follow = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                let stream = self.http.get(format!("{}/v1/jobs/{id}/stream", self.url)).send().await.expect("a stream");
                let mut chunks = stream.bytes_stream();
                while let Some(Ok(_)) = chunks.next().await {
                    if let Some(found) = look().await {
                        return found;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, follow).await.ok()
    }

    /// Waits until the job is as wanted.
    pub async fn wait_until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/jobs/{id}");
        let found = self.until(id, async || Some(self.get(&path).await).filter(|job| wanted(job))).await;
        match found {
            Some(job) => job,
            None => panic!("the job stayed {:#}", self.get(&path).await),
        }
    }

    /// Waits until the job's history has a message that begins so, and returns it.
    pub async fn until_message(&self, id: &str, start: &str) -> String {
        let path = format!("/v1/jobs/{id}/events?limit=1000");
        let look = async || {
            let events = self.get(&path).await;
            let messages = events["data"].as_array()?.iter().filter_map(|event| event["message"].as_str());
            messages.map(str::to_owned).find(|message| message.starts_with(start))
        };
        match self.until(id, look).await {
            Some(message) => message,
            None => panic!("no message begins with {start:?}: {:#}", self.get(&path).await),
        }
    }

    /// Waits for the job's end, which must be a success.
    pub async fn succeeded(&self, id: &str) -> Value {
        let job = self.finished(id).await;
        assert_eq!(job["status"], "succeeded", "{job:#}");
        job
    }

    /// Waits for the job's end, which must be a failure of that class.
    pub async fn failed(&self, id: &str, class: &str) -> String {
        let job = self.finished(id).await;
        assert_eq!(job["status"], "failed", "{job:#}");
        assert_eq!(job["error"]["class"], class, "{job:#}");
        job["error"]["message"].as_str().expect("a message").to_owned()
    }

    /// Waits for the job's end.
    pub async fn finished(&self, id: &str) -> Value {
        self.wait_until(id, |job| ["succeeded", "failed", "cancelled"].contains(&job["status"].as_str().unwrap_or("")))
            .await
    }
}

/// A worker process; dropping it stops it.
pub struct Worker(Process);

impl Worker {
    /// Ends it without a chance to set anything down.
    pub async fn kill(self) {
        self.0.kill().await;
    }

    /// The processes, besides their trainers, of jobs that run on several devices.
    pub fn ranks(&self) -> Vec<Pid> {
        children_of(self.0.pid()).into_iter().flat_map(children_of).collect()
    }
}

/// A job that trains in a second or two, without a teacher.
pub fn quick_job() -> Value {
    json!({
        "student": {"architecture": "resnet8"},
        "dataset": {"name": "patterns", "image_size": 16},
        "distillation": {"method": "none"},
        "training": {"epochs": 2, "batch_size": 32, "augmentation": "none"}
    })
}

/// Writes an IDX data set of four classes that a small network learns at once: a bright quarter on noise.
pub fn write_patterns(dir: &Path, train: u32, test: u32) {
    std::fs::create_dir_all(dir).expect("a directory");
    for (split, count) in [("train", train), ("t10k", test)] {
        let mut images = idx_header(&[count, 8, 8]);
        let mut labels = idx_header(&[count]);
        for index in 0..count {
            let class = (index.wrapping_mul(2_654_435_761) >> 16) % 4;
            labels.push(u8::try_from(class).expect("below 4"));
            for pixel in 0..64u32 {
                let quarter = pixel / 32 * 2 + pixel % 8 / 4;
                let noise = (index * 64 + pixel).wrapping_mul(2_246_822_519) >> 26;
                images.push(u8::try_from(noise + if quarter == class { 160 } else { 20 }).expect("below 256"));
            }
        }
        std::fs::write(dir.join(format!("{split}-images-idx3-ubyte")), images).expect("written");
        std::fs::write(dir.join(format!("{split}-labels-idx1-ubyte")), labels).expect("written");
    }
}

fn idx_header(shape: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, u8::try_from(shape.len()).expect("few dimensions")];
    for length in shape {
        bytes.extend(length.to_be_bytes());
    }
    bytes
}

/// The real trainer, which `cargo test` and `cargo build` put beside the server's program.
fn trainer() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_distillery")).with_file_name("distillery-trainer");
    assert!(path.is_file(), "there is no {}: `cargo build` makes it", path.display());
    path
}

/// A trainer that runs `prelude` in a shell and then becomes the real one.
pub fn trainer_after(dir: &Path, prelude: &str) -> PathBuf {
    let path = dir.join("trainer-wrapper");
    write_script(&path, &format!("#!/bin/bash\n{prelude}\nexec {} \"$@\"\n", trainer().display()));
    path
}

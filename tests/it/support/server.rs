//! Starts the real server, with its own PostgreSQL, worker and trainer, on a free port and in a directory of its own.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// No event that a test waits for takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// A running server; dropping it stops it.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// For requests.
    pub http: reqwest::Client,
    /// Everything that it keeps.
    pub dir: TempDir,
}

/// How a server is started.
#[derive(Default)]
pub struct Options {
    /// Worker processes; 1 by default.
    pub workers: Option<u32>,
    /// Further environment variables.
    pub environment: Vec<(&'static str, String)>,
    /// A data directory that another server has used.
    pub dir: Option<TempDir>,
}

impl Server {
    /// Starts a server that has the data set `patterns`.
    pub fn start(options: Options) -> Self {
        let dir = options.dir.unwrap_or_else(|| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            write_patterns(&dir.path().join("datasets/patterns"), 240, 100);
            dir
        });
        let mut child = Command::new(env!("CARGO_BIN_EXE_distillery"))
            .args(["serve", "--listen", "127.0.0.1:0", "--workers", &options.workers.unwrap_or(1).to_string()])
            .args(["--data-dir".as_ref(), dir.path().join("data").as_os_str()])
            .args(["--datasets-dir".as_ref(), dir.path().join("datasets").as_os_str()])
            .env("DISTILLERY_THREADS", "1")
            .envs(options.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let url = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned))
            .expect("the server prints its address");
        // Whatever else it prints must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        distillery::artifacts::install_tls_provider();
        Self { child, url, http: reqwest::Client::new(), dir }
    }

    /// The id of the server process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A worker process beside the server's own.
    pub fn start_worker(&self, environment: &[(&str, String)]) -> Worker {
        self.start_worker_on("cpu", environment)
    }

    /// The same with those devices.
    pub fn start_worker_on(&self, devices: &str, environment: &[(&str, String)]) -> Worker {
        let socket_url = self.database_url();
        let child = Command::new(env!("CARGO_BIN_EXE_distillery"))
            .arg("worker")
            .args(["--device", devices])
            .args(["--data-dir".as_ref(), self.dir.path().join("data").as_os_str()])
            .args(["--datasets-dir".as_ref(), self.dir.path().join("datasets").as_os_str()])
            .env("DATABASE_URL", socket_url)
            .env("DISTILLERY_THREADS", "1")
            .envs(environment.iter().map(|(key, value)| (*key, value.clone())))
            .stdin(Stdio::null())
            .spawn()
            .expect("the worker starts");
        Worker(child)
    }

    /// The server's own PostgreSQL, as it tells other processes of this machine.
    pub fn database_url(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("data/postgres.url")).expect("the server notes its database")
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

    /// Follows the job's stream until `wanted` holds of the job, asked for anew at each message.
    pub async fn wait_until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/jobs/{id}");
        let follow = async {
            loop {
                let job = self.get(&path).await;
                if wanted(&job) {
                    return job;
                }
                let stream = self.http.get(format!("{}{path}/stream", self.url)).send().await.expect("a stream");
                let mut chunks = stream.bytes_stream();
                while let Some(Ok(_)) = chunks.next().await {
                    let job = self.get(&path).await;
                    if wanted(&job) {
                        return job;
                    }
                }
            }
        };
        match tokio::time::timeout(PATIENCE, follow).await {
            Ok(job) => job,
            Err(_) => panic!("nothing came of it: {}", self.get(&path).await),
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

impl Drop for Server {
    fn drop(&mut self) {
        terminate(&mut self.child);
    }
}

/// A worker process; dropping it kills it.
pub struct Worker(Child);

impl Worker {
    /// SIGKILL: no drain, no farewell.
    pub fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }

    /// The processes, besides their trainers, of jobs that run on several devices.
    pub fn ranks(&self) -> Vec<Pid> {
        let children = |parent: i32| -> Vec<i32> {
            let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
            let of_task = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).ok();
            tasks
                .filter_map(of_task)
                .flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
                .collect()
        };
        let trainers = children(self.0.id().cast_signed());
        trainers.into_iter().flat_map(children).filter_map(Pid::from_raw).collect()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        terminate(&mut self.0);
    }
}

/// SIGTERM, and the end.
fn terminate(child: &mut Child) {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        kill_process(pid, Signal::TERM).ok();
    }
    child.wait().ok();
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

/// A script that stands in for the trainer: runs `prelude` in a shell, then becomes the real one.
pub fn trainer_after(dir: &Path, prelude: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("trainer-wrapper");
    let mut file = std::fs::File::create(&path).expect("created");
    write!(file, "#!/bin/bash\n{prelude}\nexec {} \"$@\"\n", trainer().display()).expect("written");
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

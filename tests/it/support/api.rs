//! What the tests of the API share: a server on a port of its own, with a database, storage and data sets of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use distillery::artifacts::Store;
use distillery::checkpoint::{Dtype, NewTensor};
use distillery::db::artifacts::NewArtifact;
use distillery::db::queue::{self, FencingToken};
use distillery::http::{self, AppState, ServerSettings};
use distillery::protocol::{Outcome, StudentFacts};
use futures::StreamExt;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::db::TestDb;
use super::{PATIENCE, eventually, http_client};

/// A running API; it stops when it is dropped.
pub struct Api {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    /// The database behind it.
    pub db: TestDb,
    /// The storage behind it.
    pub store: Store,
    /// `datasets`, `spool` and `storage`.
    pub dir: TempDir,
    /// A client without surprises.
    pub client: reqwest::Client,
    /// Stops it.
    pub stop: CancellationToken,
    served: JoinHandle<()>,
    _guard: DropGuard,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub async fn read(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, body: response.bytes().await.expect("a whole body").to_vec() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON, not {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// The body of a success of this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The problem document, whose every member is as RFC 9457 and the contract have it.
    #[track_caller]
    pub fn problem(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        assert!(!self.header("x-request-id").is_empty());
        let problem = self.json();
        assert_eq!(problem["status"], status);
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
        }
        for error in problem["errors"].as_array().into_iter().flatten() {
            assert!(error["pointer"].is_string() && error["detail"].is_string(), "{problem}");
        }
        problem
    }

    /// The detail of a problem, which must mention all of these.
    #[track_caller]
    pub fn says(self, status: u16, words: &[&str]) {
        let problem = self.problem(status);
        let detail = problem["detail"].as_str().expect("a text");
        for word in words {
            assert!(detail.contains(word), "{word:?} in {detail:?}");
        }
    }
}

impl Api {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub async fn start_with(change: impl FnOnce(&mut ServerSettings)) -> Self {
        let db = TestDb::new().await;
        let pool = db.pool.clone();
        Self::start_on(db, pool, change).await
    }

    pub async fn start_on(db: TestDb, pool: sqlx::PgPool, change: impl FnOnce(&mut ServerSettings)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        write_datasets(&at("datasets"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let store = Store::open(at("storage").to_str().expect("text")).expect("storage");
        let mut settings = ServerSettings::new(address, at("datasets"), at("spool"));
        settings.program = env!("CARGO_BIN_EXE_distillery").into();
        settings.grace = Duration::from_secs(5);
        change(&mut settings);
        let state = AppState::new(pool, store.clone(), settings);
        let stop = CancellationToken::new();
        let served = tokio::spawn(http::serve(listener, state, stop.clone()));
        let client = http_client().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        let guard = stop.clone().drop_guard();
        Self { url: format!("http://{address}"), db, store, dir, client, stop, served, _guard: guard }
    }

    /// Waits until it has stopped, once it was told to.
    pub async fn stopped(&mut self) {
        let served = tokio::time::timeout(PATIENCE, &mut self.served).await;
        served.expect("the server stops").expect("the server does not panic");
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// `POST` without a body.
    pub async fn ask(&self, path: &str) -> Answer {
        self.send(self.request(Method::POST, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        Answer::read(request.send().await.expect("the server answers")).await
    }

    pub async fn upload(&self, query: &str, bytes: impl Into<reqwest::Body>) -> Answer {
        self.send(self.request(Method::PUT, &format!("/v1/checkpoints{query}")).body(bytes)).await
    }

    pub async fn upload_dataset(&self, name: &str, bytes: impl Into<reqwest::Body>) -> Answer {
        self.send(self.request(Method::PUT, &format!("/v1/datasets/{name}")).body(bytes)).await
    }

    /// The details of a data set once its images were decoded.
    pub async fn decoded(&self, name: &str) -> Value {
        eventually("the images are decoded", async || {
            let details = self.get(&format!("/v1/datasets/{name}")).await.expect(200);
            if details["statistics"].is_null() {
                assert_eq!(details["statistics_fault"], Value::Null);
                return None;
            }
            Some(details)
        })
        .await
    }

    /// A queued job that trains without a teacher.
    pub async fn job(&self) -> String {
        let answer = self.post("/v1/jobs", &plain_job()).await;
        answer.expect(201)["id"].as_str().expect("an id").to_owned()
    }

    /// A worker takes the next job.
    pub async fn claim(&self) -> FencingToken {
        claim(&self.db.pool).await
    }

    /// A worker finishes a job with these files.
    pub async fn publish(&self, token: &FencingToken, files: &[(&str, &[u8])]) {
        let mut artifacts = Vec::new();
        for (name, bytes) in files {
            let path = self.dir.path().join("to-publish");
            std::fs::write(&path, bytes).expect("a file");
            let key = format!("jobs/{}/attempts/{}/{name}", token.job, token.attempt);
            let stored = self.store.put_file(&key, &path).await.expect("stored");
            let (size_bytes, sha256) = (stored.size_bytes, stored.sha256);
            artifacts.push(NewArtifact { name: (*name).to_owned(), key, size_bytes, sha256 });
        }
        assert!(
            queue::publish(&self.db.pool, &token.write(), &outcome(), &artifacts).await.expect("the queue answers")
        );
    }

    /// A stream of Server-Sent Events.
    pub async fn stream(&self, path: &str, last_event_id: Option<&str>) -> Events {
        let request = self.request(Method::GET, path);
        let request = if let Some(id) = last_event_id { request.header("last-event-id", id) } else { request };
        let response = request.send().await.expect("the server answers");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { chunks: response.bytes_stream().boxed(), buffer: String::new() }
    }
}

/// A worker takes the next job.
pub async fn claim(pool: &sqlx::PgPool) -> FencingToken {
    let claim = queue::claim(pool, "wrk_TEST", queue::DeviceCapacity::ONE, Duration::from_secs(60)).await;
    claim.expect("the queue answers").expect("a job is queued").token
}

/// One message of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub name: String,
    pub id: Option<String>,
    pub data: Value,
}

/// The messages of a stream.
pub struct Events {
    chunks: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: String,
}

impl Events {
    /// The next message; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Message> {
        let next = async {
            loop {
                while let Some((block, rest)) = self.buffer.split_once("\n\n") {
                    let message = parse(block);
                    self.buffer = rest.to_owned();
                    if message.is_some() {
                        return message;
                    }
                }
                let chunk = self.chunks.next().await?.ok()?;
                self.buffer.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("a message comes")
    }

    /// Everything up to and with the first message that is wanted.
    pub async fn until(&mut self, wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("the stream ended after {messages:#?}"));
            messages.push(message);
            if messages.last().is_some_and(&wanted) {
                return messages;
            }
        }
    }

    /// Everything up to the end.
    pub async fn rest(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await {
            messages.push(message);
        }
        messages
    }
}

fn parse(block: &str) -> Option<Message> {
    let (mut name, mut id, mut data) = ("message".to_owned(), None, None);
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("event", value)) => name = value.to_owned(),
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("data", value)) => data = Some(serde_json::from_str(value).expect("JSON")),
            _ => {}
        }
    }
    Some(Message { name, id, data: data? })
}

/// The smallest job: no teacher.
pub fn plain_job() -> Value {
    json!({
        "student": {"architecture": "resnet8"},
        "dataset": {"name": "ten"},
        "distillation": {"method": "none"},
    })
}

/// A job that learns from a teacher.
pub fn student_job(teacher: Value) -> Value {
    json!({"teacher": teacher, "student": {"architecture": "resnet8"}, "dataset": {"name": "ten"}})
}

pub fn outcome() -> Outcome {
    let student = StudentFacts { parameters: 3, size_bytes: 4, sha256: "00".repeat(32) };
    Outcome { teacher_top1: None, best_top1: 76.3, best_epoch: 239, last_top1: 76.1, student }
}

/// `ten`, with the 10 classes of CIFAR-10, and `hundred`, with the 100 of CIFAR-100.
pub fn write_datasets(directory: &Path) {
    let write = |name: &str, labels: usize, grey: u8| {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("a directory");
        let record = [vec![1; labels], vec![grey; 3072]].concat();
        std::fs::write(path, record.repeat(4)).expect("a file");
    };
    // No image is in two splits.
    write("ten/data_batch_1.bin", 1, 1);
    write("ten/test_batch.bin", 1, 2);
    write("hundred/train.bin", 2, 1);
    write("hundred/test.bin", 2, 2);
}

/// A safetensors file with the keys and shapes of a network.
pub fn checkpoint(architecture: &str, classes: u32) -> Vec<u8> {
    let layout = distillery::architecture::find(architecture).expect("a known network").layout(classes);
    let bytes: Vec<_> = layout.entries.iter().map(|entry| vec![0; 4 * elements(&entry.shape)]).collect();
    let tensors = layout.entries.iter().zip(&bytes).map(|(entry, bytes)| NewTensor {
        name: &entry.key,
        dtype: Dtype::F32,
        shape: &entry.shape,
        bytes,
    });
    let tensors: Vec<_> = tensors.collect();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    distillery::checkpoint::write(file.path(), &tensors, &BTreeMap::new()).expect("written");
    std::fs::read(file.path()).expect("read")
}

fn elements(shape: &[u64]) -> usize {
    usize::try_from(shape.iter().product::<u64>()).expect("small")
}

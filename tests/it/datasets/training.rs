//! Jobs on uploaded data sets, with the real server, worker and trainer.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::archives::{tar, zip};
use crate::support::process::{Process, distillery};
use crate::support::server::{Options, Server, quick_job, write_patterns};
use crate::support::worker::files_below;

/// The files of a data set that a small network learns at once.
fn patterns(train: u32) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    write_patterns(dir.path(), train, 100);
    let read = |name: String| {
        let content = std::fs::read(dir.path().join(&name)).unwrap();
        (name, content)
    };
    files_below(dir.path()).into_iter().map(read).collect()
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, Vec<u8>)> {
    files.iter().map(|(name, content)| (name.as_str(), content.clone())).collect()
}

async fn upload(server: &Server, name: &str, bytes: Vec<u8>) -> Value {
    let (status, body) = server.call(server.http.put(format!("{}/v1/datasets/{name}", server.url)).body(bytes)).await;
    assert_eq!(status, 201, "{body}");
    body
}

fn job_on(dataset: &str) -> Value {
    let mut job = quick_job();
    job["dataset"]["name"] = json!(dataset);
    job
}

/// A worker that shares nothing with the server but database and storage, and has no data sets.
fn start_elsewhere(server: &Server, dir: &Path) -> Process {
    let mut command = distillery();
    command.args(["worker", "--device", "cpu"]);
    command.arg("--data-dir").arg(dir.join("data")).arg("--datasets-dir").arg(dir.join("none"));
    command.arg("--storage").arg(server.dir.path().join("data/artifacts")).env("DATABASE_URL", server.database_url());
    Process::start(command)
}

async fn messages(server: &Server, id: &str) -> Vec<String> {
    let events = server.get(&format!("/v1/jobs/{id}/events?limit=1000")).await;
    let events = events["data"].as_array().unwrap();
    events.iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_an_empty_disk_fetches_the_data_set_once_and_trains_on_it() {
    let server = Server::start(Options { workers: Some(0), ..Options::default() }).await;
    let files = patterns(240);
    let version = upload(&server, "uploaded", zip(&borrowed(&files))).await;
    let id = version["id"].as_str().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let _worker = start_elsewhere(&server, elsewhere.path());
    let first = server.post(&job_on("uploaded")).await;
    server.succeeded(&first).await;
    let said = messages(&server, &first).await;
    let fetched = format!("fetched the data set {id} from storage: ");
    assert!(said.iter().any(|line| line.starts_with(&fetched) && line.contains("right SHA-256")), "{said:#?}");
    let second = server.post(&job_on(id)).await;
    server.succeeded(&second).await;
    let said = messages(&server, &second).await;
    assert!(said.contains(&format!("this machine has a copy of the data set {id}")), "{said:#?}");
    let copies = files_below(&elsewhere.path().join("data/dataset-cache"));
    assert!(copies.iter().any(|file| file.ends_with("/uploaded/train-images-idx3-ubyte")), "{copies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_worker_needs_no_copy_of_its_own() {
    let server = Server::start(Options::default()).await;
    let files = patterns(240);
    let version = upload(&server, "uploaded", tar(&borrowed(&files))).await;
    let job = server.post(&job_on("uploaded")).await;
    let job = server.succeeded(&job).await;
    assert_eq!(job["spec"]["dataset"]["name"], version["id"]);
    let said = messages(&server, job["id"].as_str().unwrap()).await;
    assert!(said.iter().any(|line| line.starts_with("this machine has a copy of the data set")), "{said:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_a_worker_that_has_room_and_says_so() {
    let server = Server::start(Options { workers: Some(0), ..Options::default() }).await;
    let files = patterns(20_000);
    let version = upload(&server, "large", zip(&borrowed(&files))).await;
    let _small = server.start_worker(&[("DISTILLERY_DATASET_CACHE_MIB", "1")]);
    let job = server.post(&job_on("large")).await;
    let start = "the job waits: no running worker has room for the ";
    let said = server.until_message(&job, start).await;
    assert!(said.contains(version["id"].as_str().unwrap()) && said.ends_with("--dataset-cache-mib"), "{said}");
}

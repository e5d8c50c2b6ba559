//! Jobs on uploaded data sets, with the real server, worker and trainer.

use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::support::archives::{tar, zip};
use crate::support::process::{Process, distillery};
use crate::support::server::{Options, Server, quick_job, write_patterns};
use crate::support::worker::files_below;
use crate::support::{PATIENCE, eventually};

/// The files of a data set that a small network learns at once.
pub(super) fn patterns(train: u32) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    write_patterns(dir.path(), train, 100);
    let read = |name: String| {
        let content = std::fs::read(dir.path().join(&name)).unwrap();
        (name, content)
    };
    files_below(dir.path()).into_iter().map(read).collect()
}

pub(super) fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, Vec<u8>)> {
    files.iter().map(|(name, content)| (name.as_str(), content.clone())).collect()
}

async fn upload(server: &Server, name: &str, bytes: Vec<u8>) -> Value {
    let (status, body) = server.call(server.http.put(format!("{}/v1/datasets/{name}", server.url)).body(bytes)).await;
    assert_eq!(status, 201, "{body}");
    body
}

pub(super) fn job_on(dataset: &str) -> Value {
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

pub(super) async fn messages(server: &Server, id: &str) -> Vec<String> {
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

/// Runs curl in a directory. Returns what it prints.
async fn curl(dir: &Path, arguments: &[&str]) -> String {
    let command = tokio::process::Command::new("curl").current_dir(dir).args(["-fsS"]).args(arguments).output();
    let ran = tokio::time::timeout(PATIENCE, command).await.expect("curl ends").expect("curl is installed");
    assert!(ran.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

async fn curl_json(dir: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&curl(dir, arguments).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_alone_uploads_looks_trains_downloads_and_deletes_while_an_empty_worker_does_the_work() {
    let server = Server::start(Options { workers: Some(0), ..Options::default() }).await;
    let (mine, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _worker = start_elsewhere(&server, elsewhere.path());
    let at = |path: &str| format!("{}/v1/{path}", server.url);
    std::fs::write(mine.path().join("mine.zip"), zip(&borrowed(&patterns(240)))).unwrap();
    std::fs::write(mine.path().join("job.json"), job_on("mine").to_string()).unwrap();

    let version = curl_json(mine.path(), &["-T", "mine.zip", &at("datasets/mine")]).await;
    assert_eq!(version["images"], 340);
    let details = eventually("the images are decoded", async || {
        let details = curl_json(mine.path(), &[&at("datasets/mine")]).await;
        (!details["statistics"].is_null()).then_some(details)
    })
    .await;
    assert_eq!((&details["id"], details["statistics"]["mean"].is_array()), (&version["id"], true));
    let page = curl_json(mine.path(), &[&at("datasets/mine/images?split=train&class=1&limit=2")]).await;
    assert_eq!(page["data"].as_array().unwrap().len(), 2);

    let json = "content-type: application/json";
    let job = curl_json(mine.path(), &["-H", json, "-d", "@job.json", &at("jobs")]).await;
    let id = job["id"].as_str().unwrap();
    let stream = curl(mine.path(), &["-N", &at(&format!("jobs/{id}/stream"))]).await;
    assert!(stream.contains(r#""status":"succeeded""#), "{stream}");
    curl(mine.path(), &["-OJ", &at(&format!("jobs/{id}/student"))]).await;
    let files = files_below(mine.path());
    let student = files.iter().find(|name| name.ends_with(".safetensors")).unwrap_or_else(|| panic!("{files:?}"));
    let student = std::fs::read(mine.path().join(student)).unwrap();
    assert!(SafeTensors::deserialize(&student).unwrap().len() > 10);

    curl(mine.path(), &["-X", "DELETE", &at("datasets/mine")]).await;
    let (status, _) = server.call(server.http.get(at("datasets/mine"))).await;
    assert_eq!(status, 404);
}

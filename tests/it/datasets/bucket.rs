//! A data set in S3, with the real server, worker and trainer.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use crate::support::archives::zip;
use crate::support::eventually;
use crate::support::process::{Process, distillery};
use crate::support::s3::Bucket;
use crate::support::server::{Options, Server};

use super::training::{borrowed, job_on, messages, patterns};

/// The keys of the data sets, and of the pieces of their uploads.
fn files(bucket: &Bucket) -> Vec<String> {
    let mut files = bucket.files();
    files.retain(|key| key.contains("/datasets/"));
    files
}

/// A server without workers that stores in the bucket.
fn options(bucket: &Bucket) -> Options {
    let mut environment = bucket.environment();
    environment.push(("DISTILLERY_STORAGE", "s3://bucket/distillery".to_owned()));
    Options { workers: Some(0), environment, ..Options::default() }
}

/// A worker that shares nothing with the server but database and storage, and has no data sets.
fn start_elsewhere(server: &Server, bucket: &Bucket, dir: &Path) -> Process {
    let mut worker = distillery();
    worker.args(["worker", "--device", "cpu"]).env("DATABASE_URL", server.database_url());
    worker.envs(options(bucket).environment);
    worker.arg("--data-dir").arg(dir.join("data")).arg("--datasets-dir").arg(dir.join("none"));
    Process::start(worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_is_stored_in_a_bucket_fetched_by_a_worker_and_deleted() {
    let bucket = Bucket::serve().await;
    let server = Server::start(options(&bucket)).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let _worker = start_elsewhere(&server, &bucket, elsewhere.path());

    let archive = zip(&borrowed(&patterns(240)));
    let (half, end) = (archive.len() / 2, archive.len());
    let url = format!("{}/v1/datasets/stored", server.url);
    for (first, last, status) in [(0, half, 202), (half, end, 201)] {
        let range = format!("bytes {first}-{}/{end}", last - 1);
        let request = server.http.put(format!("{url}?upload=mine")).header("content-range", range);
        let (answered, body) = server.call(request.body(archive[first..last].to_vec())).await;
        assert_eq!(answered, status, "{body}");
    }
    // The version alone: its pieces are gone.
    gone_but_for(&bucket, 1).await;
    let job = server.post(&job_on("stored")).await;
    server.succeeded(&job).await;
    let said = messages(&server, &job).await;
    assert!(said.iter().any(|line| line.starts_with("fetched the data set stored@")), "{said:#?}");

    let (status, body) = server.call(server.http.delete(&url)).await;
    assert_eq!(status, 204, "{body}");
    gone_but_for(&bucket, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_how_far_the_fetching_of_its_data_set_is_while_the_storage_is_slow() {
    let bucket = Bucket::serve().await;
    let server = Server::start(options(&bucket)).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let upload = server.http.put(format!("{}/v1/datasets/stored", server.url)).body(zip(&borrowed(&patterns(240))));
    let (status, version) = server.call(upload).await;
    assert_eq!(status, 201, "{version}");
    let file = "GET /bucket/distillery/datasets/";
    bucket.hold(file);
    bucket.halve(file);
    let job = server.post(&job_on("stored")).await;
    let mut watch = distillery();
    watch.args(["watch", &job]).env("DISTILLERY_URL", &server.url).env("HOME", elsewhere.path()).stdout(Stdio::piped());
    let mut watch = Process::start(watch);
    let mut lines = watch.stdout();
    let _worker = start_elsewhere(&server, &bucket, elsewhere.path());

    let fetching = format!("fetching the data set {} from storage: ", version["id"].as_str().unwrap());
    let first = server.until_message(&job, &format!("{fetching}0 of ")).await;
    bucket.release();
    let size: u64 = first.split(' ').rev().nth(1).and_then(|size| size.parse().ok()).expect("a number of bytes");
    let half = format!("{fetching}{} of {size} bytes", size / 2);
    server.until_message(&job, &half).await;
    // The dashboard's page of the job reads this.
    let updates = server.get(&format!("/v1/jobs/{job}/updates")).await;
    let shown = updates["events"].as_array().unwrap().iter().any(|event| event["message"] == half);
    assert!(shown && updates["job"]["status"] == "running", "{updates:#}");
    bucket.complete();
    server.succeeded(&job).await;
    for said in [first.as_str(), &half, "fetched the data set "] {
        lines.until(said).await;
    }
    assert!(watch.ended().await.success());
}

/// Number of uploads of so many bytes that the server has received and not stored yet. Its files for them have no name,
/// and it may have opened them twice.
fn received(server: &Server, bytes: u64) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero())).unwrap().flatten();
    let is_upload = |path: &Path| {
        let file = std::fs::read_link(path).unwrap_or_default();
        file.to_string_lossy().contains("/data/uploads/")
    };
    let uploads = open.map(|entry| entry.path()).filter(|path| is_upload(path));
    let facts = uploads.filter_map(|path| std::fs::metadata(path).ok()).filter(|facts| facts.len() == bytes);
    facts.map(|facts| facts.ino()).collect::<BTreeSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn few_pieces_are_stored_at_a_time() {
    let bucket = Bucket::serve().await;
    let server = Server::start(options(&bucket)).await;
    bucket.hold("PUT /bucket/distillery/datasets/");
    let puts = (0..6).map(|number| {
        let url = format!("{}/v1/datasets/stored?upload=upload-{number}", server.url);
        let request = server.http.put(url).header("content-range", "bytes 0-9/20");
        server.call(request.body(vec![number; 10]))
    });
    let hold = async {
        eventually("the server has all pieces", async || (received(&server, 10) == 6).then_some(())).await;
        bucket.until_waiting(4).await;
        // The others come one by one, for those that end.
        for count in [5, 6] {
            server.get("/v1/datasets").await;
            bucket.release_one();
            bucket.until_waited(count).await;
        }
        bucket.release();
        assert_eq!(bucket.most_waiting(), 4, "more than four take memory");
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(puts), hold);
    for (status, body) in answers {
        assert_eq!(status, 202, "{body}");
    }
}

/// Waits until the bucket has so few files of data sets. They may be removed a little later than their rows.
async fn gone_but_for(bucket: &Bucket, count: usize) {
    eventually("the files are removed", async || (files(bucket).len() <= count).then_some(())).await;
    assert_eq!(files(bucket).len(), count);
}

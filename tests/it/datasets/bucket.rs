//! A data set in S3, with the real server, worker and trainer.

use std::time::Duration;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_is_stored_in_a_bucket_fetched_by_a_worker_and_deleted() {
    let bucket = Bucket::serve().await;
    let mut environment = bucket.environment();
    environment.push(("DISTILLERY_STORAGE", "s3://bucket/distillery".to_owned()));
    let options = Options { workers: Some(0), environment: environment.clone(), ..Options::default() };
    let server = Server::start(options).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let mut worker = distillery();
    worker.args(["worker", "--device", "cpu"]).env("DATABASE_URL", server.database_url()).envs(environment);
    worker.arg("--data-dir").arg(elsewhere.path().join("data"));
    worker.arg("--datasets-dir").arg(elsewhere.path().join("none"));
    let _worker = Process::start(worker);

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
async fn few_pieces_are_stored_at_a_time() {
    let bucket = Bucket::serve().await;
    let mut environment = bucket.environment();
    environment.push(("DISTILLERY_STORAGE", "s3://bucket/distillery".to_owned()));
    let server = Server::start(Options { workers: Some(0), environment, ..Options::default() }).await;
    bucket.hold("PUT /bucket/distillery/datasets/");
    let puts = (0..6).map(|number| {
        let url = format!("{}/v1/datasets/stored?upload=upload-{number}", server.url);
        let request = server.http.put(url).header("content-range", "bytes 0-9/20");
        server.call(request.body(vec![number; 10]))
    });
    let hold = async {
        bucket.until_waiting(4).await;
        let more = tokio::time::timeout(Duration::from_secs(2), bucket.until_waiting(5)).await;
        bucket.release();
        assert!(more.is_err(), "more than four take memory");
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

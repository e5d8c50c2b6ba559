//! Promise: storage in S3 behaves like storage in a directory.

use std::process::Stdio;

use crate::support::s3::Bucket;
use crate::support::server::{Options, Server, quick_job};
use bytes::Bytes;
use distillery::artifacts::{Error, Store};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};

/// What the client does: the name of a test below.
const PART: &str = "DISTILLERY_TEST_S3_PART";
const KEY: &str = "jobs/job_1/attempts/1/student.safetensors";

/// The client reads AWS's environment variables, so it is a process of its own.
fn client(bucket: &Bucket, part: &str) -> tokio::process::Command {
    let mut client = tokio::process::Command::new(std::env::current_exe().unwrap());
    client
        .args(["--exact", &format!("artifacts::s3::{part}"), "--nocapture"])
        .env(PART, part)
        .envs(bucket.environment());
    client
}

async fn run_client(bucket: &Bucket, part: &str, secret: &str) -> std::process::Output {
    client(bucket, part).env("AWS_SECRET_ACCESS_KEY", secret).output().await.unwrap()
}

/// A client as S3's own service has it, which removes files by the request to delete many.
async fn run_client_of_s3(bucket: &Bucket, part: &str) -> std::process::Output {
    client(bucket, part).env_remove("AWS_DISABLE_BULK_DELETE").output().await.unwrap()
}

#[tokio::test]
async fn s3_keeps_what_a_directory_keeps() {
    let bucket = Bucket::serve().await;
    let client = run_client(&bucket, "what_the_client_does", "secret").await;
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    // No part of the interrupted upload is left: it would be charged for.
    assert_eq!(bucket.files(), ["deep/prefix/jobs/job_12/attempts/1/a"]);
    assert_eq!(bucket.open_uploads(), [""; 0]);
}

#[tokio::test]
async fn files_go_by_the_request_that_deletes_many_unless_it_is_turned_off() {
    let bucket = Bucket::serve().await;
    // A request for one of the files alone would fail.
    bucket.refuse(Some("DELETE /bucket/deep/prefix/jobs/job_1/attempts/2/a"));
    let client = run_client_of_s3(&bucket, "what_the_client_does").await;
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    assert_eq!(bucket.files(), ["deep/prefix/jobs/job_12/attempts/1/a"]);
}

#[tokio::test]
async fn a_file_that_the_request_for_many_does_not_remove_is_an_error_and_keeps_no_other() {
    let bucket = Bucket::serve().await;
    // S3 answers 200, and names the file in the answer.
    bucket.refuse(Some("POST /bucket?delete deep/prefix/jobs/job_1/attempts/1/b"));
    let client = run_client_of_s3(&bucket, "what_a_client_with_a_refused_deletion_does").await;
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    assert_eq!(bucket.files(), ["deep/prefix/jobs/job_1/attempts/1/b"]);
}

#[tokio::test]
async fn what_a_client_with_a_refused_deletion_does() {
    if std::env::var(PART).is_err() {
        return;
    }
    let store = Store::open("s3://bucket/deep/prefix").unwrap();
    for name in ["a", "b", "c"] {
        let key = format!("jobs/job_1/attempts/1/{name}");
        store.put_stream(&key, futures::stream::iter([Ok::<_, Error>(Bytes::from_static(b"a"))])).await.unwrap();
    }
    let error = store.delete_directory("jobs/job_1").await.unwrap_err().to_string();
    assert!(error.contains("AccessDenied") && error.contains("attempts/1/b"), "{error}");
}

#[tokio::test]
async fn a_wrong_secret_is_reported_with_the_error_of_s3() {
    let bucket = Bucket::serve().await;
    let client = run_client(&bucket, "what_the_client_does", "another secret").await;
    assert!(!client.status.success());
    let log = String::from_utf8_lossy(&client.stderr).into_owned();
    assert!(log.contains("SignatureDoesNotMatch"), "{log}");
    assert_eq!(bucket.files(), [""; 0]);
}

#[tokio::test]
async fn a_job_trains_and_downloads_with_its_files_in_s3() {
    let bucket = Bucket::serve().await;
    let mut variables = bucket.environment();
    variables.push(("DISTILLERY_STORAGE", "s3://bucket/distillery".to_owned()));
    let server = Server::start(Options { environment: variables, ..Options::default() }).await;
    let id = server.post(&quick_job()).await;
    let job = server.succeeded(&id).await;
    let url = format!("{}/v1/jobs/{id}/student", server.url);
    let student = server.http.get(&url).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(hex::encode(Sha256::digest(&student)), job["result"]["student"]["sha256"]);
    let part = server.http.get(&url).header("range", "bytes=100-299").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.unwrap(), student[100..300]);
    let stored = bucket.files();
    let attempt = format!("distillery/jobs/{id}/attempts/1-");
    let is_student = |file: &String| file.starts_with(&attempt) && file.ends_with("/student.safetensors");
    assert!(stored.iter().any(is_student), "{stored:?}");
    // Everything is there, and nowhere else.
    assert!(!server.dir.path().join("data/artifacts").exists());
    assert!(!stored.iter().any(|file| file.contains("checkpoint.safetensors")), "{stored:?}");
}

#[tokio::test]
async fn what_the_client_does() {
    if std::env::var(PART).is_err() {
        return;
    }
    let store = Store::open("s3://bucket/deep/prefix").unwrap();
    store.probe().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..20_000_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for content in [b"short".to_vec(), large.clone()] {
        let path = dir.path().join("file");
        std::fs::write(&path, &content).unwrap();
        let stored = store.put_file(KEY, &path).await.unwrap();
        assert_eq!(stored.size_bytes, content.len() as u64);
        assert_eq!(stored.sha256, hex::encode(Sha256::digest(&content)));
        assert_eq!(store.size(KEY).await.unwrap(), Some(stored.size_bytes));
        store.fetch(KEY, &dir.path().join("fetched")).await.unwrap();
        assert!(std::fs::read(dir.path().join("fetched")).unwrap() == content);
    }
    let part: Vec<Bytes> = store.read(KEY, 9_000_000..9_000_010).await.unwrap().try_collect().await.unwrap();
    assert_eq!(part.concat(), large[9_000_000..9_000_010]);
    // An interrupted upload leaves the old file.
    let broken = [Ok(Bytes::from(large)), Err(std::io::Error::other("the client went away"))];
    let broken = broken.map(|chunk| chunk.map_err(|error| Error::Storage(error.into())));
    store.put_stream(KEY, futures::stream::iter(broken)).await.unwrap_err();
    assert_eq!(store.size(KEY).await.unwrap(), Some(20_000_000));

    for key in ["jobs/job_1/attempts/1/a", "jobs/job_1/attempts/2/a", "jobs/job_12/attempts/1/a"] {
        store.put_stream(key, futures::stream::iter([Ok::<_, Error>(Bytes::from_static(b"a"))])).await.unwrap();
    }
    store.delete_below("jobs/job_1", |key| key == KEY).await.unwrap();
    assert_eq!(store.size("jobs/job_1/attempts/2/a").await.unwrap(), None);
    assert_eq!(store.size(KEY).await.unwrap(), Some(20_000_000));
    store.delete(KEY).await.unwrap();
    store.delete(KEY).await.unwrap();
    assert!(matches!(store.fetch(KEY, &dir.path().join("fetched")).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn an_upload_whose_part_is_refused_is_aborted() {
    let bucket = Bucket::serve().await;
    bucket.refuse(Some("partNumber=2"));
    let client = run_client(&bucket, "what_a_client_with_a_refused_part_does", "secret").await;
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    assert_eq!(bucket.open_uploads(), [""; 0]);
    assert_eq!(bucket.files(), [""; 0]);
}

#[tokio::test]
async fn what_a_client_with_a_refused_part_does() {
    if std::env::var(PART).is_err() {
        return;
    }
    let store = Store::open("s3://bucket/deep/prefix").unwrap();
    // The source is read to its end by an upload that does not notice the failure of an early part.
    let pieces = (0..12).map(|_| Ok::<_, Error>(Bytes::from(vec![7; 8 << 20])));
    store.put_stream(KEY, futures::stream::iter(pieces)).await.unwrap_err();
}

/// The keys of more uploads than the service lists on one page.
fn interrupted() -> [String; 5] {
    std::array::from_fn(|number| format!("{KEY}-{number}"))
}

#[tokio::test]
async fn uploads_whose_client_was_killed_are_found_page_by_page_and_removed() {
    let bucket = Bucket::serve().await;
    // Every part but the first waits.
    bucket.hold("partNumber=2");
    let mut killed = client(&bucket, "what_a_client_that_is_killed_does");
    killed.env("AWS_SECRET_ACCESS_KEY", "secret").stdout(Stdio::null()).stderr(Stdio::null());
    let mut killed = killed.spawn().unwrap();
    bucket.until_waiting(interrupted().len()).await;
    killed.kill().await.unwrap();
    assert_eq!(bucket.open_uploads(), interrupted().map(|key| format!("deep/prefix/{key}")));
    bucket.release();
    let client = run_client(&bucket, "what_the_client_after_it_does", "secret").await;
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    assert_eq!(bucket.open_uploads(), [""; 0]);
}

#[tokio::test]
async fn what_a_client_that_is_killed_does() {
    if std::env::var(PART).is_err() {
        return;
    }
    let store = Store::open("s3://bucket/deep/prefix").unwrap();
    let uploads = interrupted().map(|key| {
        let store = &store;
        async move {
            let pieces = (0..12).map(|_| Ok::<_, Error>(Bytes::from(vec![7; 8 << 20])));
            store.put_stream(&key, futures::stream::iter(pieces)).await.unwrap();
        }
    });
    futures::future::join_all(uploads).await;
}

#[tokio::test]
async fn what_the_client_after_it_does() {
    if std::env::var(PART).is_err() {
        return;
    }
    let others = Store::open("s3://bucket/deep/pre").unwrap();
    assert_eq!(others.unfinished().await.unwrap(), []);
    let store = Store::open("s3://bucket/deep/prefix").unwrap();
    let unfinished = store.unfinished().await.unwrap();
    let keys: Vec<&str> = unfinished.iter().map(|file| file.key.as_str()).collect();
    assert_eq!(keys, interrupted());
    for file in &unfinished {
        store.remove_unfinished(file).await.unwrap();
    }
    assert_eq!(store.unfinished().await.unwrap(), []);
}

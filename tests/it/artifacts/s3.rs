//! Promise: storage in S3 behaves like storage in a directory. The service is `s3s-fs`, which runs in the test, checks
//! signatures and keeps its buckets in a directory. Of the S3 services in package registries it is the one that is
//! maintained and needs no other process or language.

use std::path::Path;

use crate::support::server::{Options, Server, quick_job};
use crate::support::worker::files_below;
use bytes::Bytes;
use distillery::artifacts::{Error, Store};
use futures::TryStreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use sha2::{Digest, Sha256};

/// Where the service of [`what_the_client_does`] is.
const ENDPOINT: &str = "DISTILLERY_TEST_S3_ENDPOINT";
const KEY: &str = "jobs/job_1/attempts/1/student.safetensors";

/// A bucket called `bucket`, served until the runtime ends. Returns the endpoint.
async fn serve_bucket(root: &Path) -> String {
    std::fs::create_dir(root.join("bucket")).unwrap();
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    service.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = service.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let connection = Builder::new(TokioExecutor::new());
            let service = service.clone();
            tokio::spawn(async move {
                drop(connection.serve_connection(TokioIo::new(socket), service).await);
            });
        }
    });
    endpoint
}

/// What tells a process where the service is.
fn environment(endpoint: &str) -> Vec<(&'static str, String)> {
    let variables = [
        ("AWS_ENDPOINT", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    variables.map(|(name, value)| (name, value.to_owned())).into()
}

/// Paths of the files in the bucket, without those that the service keeps for itself, whose names begin with a dot.
fn files_in_bucket(root: &Path) -> Vec<String> {
    let mut found = files_below(&root.join("bucket"));
    found.retain(|path| !path.rsplit('/').next().is_some_and(|name| name.starts_with('.')));
    found
}

/// The client reads AWS's environment variables, so it is a process of its own.
async fn run_client(endpoint: &str, secret: &str) -> std::process::Output {
    tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "artifacts::s3::what_the_client_does", "--nocapture"])
        .env(ENDPOINT, endpoint)
        .envs(environment(endpoint))
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .output()
        .await
        .unwrap()
}

#[tokio::test]
async fn s3_keeps_what_a_directory_keeps() {
    let root = tempfile::tempdir().unwrap();
    let endpoint = serve_bucket(root.path()).await;
    let client = run_client(&endpoint, "secret").await;
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    // No part of the interrupted upload is left: it would be charged for.
    assert_eq!(files_in_bucket(root.path()), ["deep/prefix/jobs/job_12/attempts/1/a"]);
}

#[tokio::test]
async fn a_wrong_secret_is_reported_with_the_error_of_s3() {
    let root = tempfile::tempdir().unwrap();
    let endpoint = serve_bucket(root.path()).await;
    let client = run_client(&endpoint, "another secret").await;
    assert!(!client.status.success());
    let log = String::from_utf8_lossy(&client.stderr).into_owned();
    assert!(log.contains("SignatureDoesNotMatch"), "{log}");
    assert_eq!(files_in_bucket(root.path()), [""; 0]);
}

#[tokio::test]
async fn a_job_trains_and_downloads_with_its_files_in_s3() {
    let root = tempfile::tempdir().unwrap();
    let mut variables = environment(&serve_bucket(root.path()).await);
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
    let stored = files_in_bucket(root.path());
    let attempt = format!("distillery/jobs/{id}/attempts/1-");
    let is_student = |file: &String| file.starts_with(&attempt) && file.ends_with("/student.safetensors");
    assert!(stored.iter().any(is_student), "{stored:?}");
    // Everything is there, and nowhere else.
    assert!(!server.dir.path().join("data/artifacts").exists());
    assert!(!stored.iter().any(|file| file.contains("checkpoint.safetensors")), "{stored:?}");
}

#[tokio::test]
async fn what_the_client_does() {
    if std::env::var_os(ENDPOINT).is_none() {
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

//! Storage in S3 keeps what the directory keeps. The service here is a small one of the test's own, which knows the
//! requests that are needed and checks that they are signed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use distillery::artifacts::{Error, Store};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};

/// Where the service of [`what_the_client_does`] is.
const ENDPOINT: &str = "DISTILLERY_TEST_S3_ENDPOINT";
const KEY: &str = "jobs/job_1/attempts/1/student.safetensors";

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    multipart_uploads: u32,
}

type Service = Arc<Mutex<Bucket>>;

async fn answer(
    State(service): State<Service>,
    method: Method,
    path: Option<Path<String>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let signed = headers
        .get(header::AUTHORIZATION)
        .is_some_and(|value| value.to_str().is_ok_and(|value| value.starts_with("AWS4-HMAC-SHA256 Credential=key/")));
    if !signed {
        return StatusCode::FORBIDDEN.into_response();
    }
    let mut bucket = service.lock().unwrap();
    let key = path.map_or_else(String::new, |Path(key)| key);
    let upload = query.get("uploadId").cloned();
    let etag = [(header::ETAG, "\"tag\"")];
    let xml = |text: String| ([(header::CONTENT_TYPE, "application/xml")], text).into_response();
    match (method, upload, key.as_str()) {
        (Method::GET, None, "") => {
            let prefix = &query["prefix"];
            let found = bucket.objects.iter().filter(|(key, _)| key.starts_with(prefix.as_str()));
            let entries = found.map(|(key, bytes)| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                     <ETag>tag</ETag><Size>{}</Size></Contents>",
                    bytes.len()
                )
            });
            xml(format!("<ListBucketResult>{}</ListBucketResult>", entries.collect::<String>()))
        }
        (Method::POST, None, "") if query.contains_key("delete") => {
            let text = String::from_utf8(body.into()).unwrap();
            let keys: Vec<_> = text.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap()).collect();
            keys.iter().for_each(|key| drop(bucket.objects.remove(*key)));
            let deleted = keys.iter().map(|key| format!("<Deleted><Key>{key}</Key></Deleted>")).collect::<String>();
            xml(format!("<DeleteResult>{deleted}</DeleteResult>"))
        }
        (Method::POST, None, _) if query.contains_key("uploads") => {
            bucket.multipart_uploads += 1;
            let id = format!("upload{}", bucket.multipart_uploads);
            bucket.uploads.insert(id.clone(), BTreeMap::new());
            xml(format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
        }
        (Method::PUT, Some(id), _) => {
            let number = query["partNumber"].parse().unwrap();
            bucket.uploads.get_mut(&id).unwrap().insert(number, body);
            etag.into_response()
        }
        (Method::POST, Some(id), key) => {
            let parts: Vec<Bytes> = bucket.uploads.remove(&id).unwrap().into_values().collect();
            let all_but_last = &parts[..parts.len() - 1];
            assert!(all_but_last.iter().all(|part| part.len() >= 5 << 20), "S3 refuses smaller parts");
            bucket.objects.insert(key.to_owned(), parts.concat().into());
            xml("<CompleteMultipartUploadResult><ETag>tag</ETag></CompleteMultipartUploadResult>".to_owned())
        }
        (Method::DELETE, Some(id), _) => {
            bucket.uploads.remove(&id);
            StatusCode::NO_CONTENT.into_response()
        }
        (Method::PUT, None, key) => {
            bucket.objects.insert(key.to_owned(), body);
            etag.into_response()
        }
        (Method::DELETE, None, key) => {
            bucket.objects.remove(key);
            StatusCode::NO_CONTENT.into_response()
        }
        (method @ (Method::GET | Method::HEAD), None, key) => {
            let Some(bytes) = bucket.objects.get(key) else { return StatusCode::NOT_FOUND.into_response() };
            read(bytes, &headers, method == Method::HEAD)
        }
        _ => StatusCode::NOT_IMPLEMENTED.into_response(),
    }
}

fn read(bytes: &Bytes, headers: &HeaderMap, head: bool) -> Response {
    let facts = [
        (header::ETAG, "\"tag\"".to_owned()),
        (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT".to_owned()),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
    ];
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
    match range.and_then(|range| range.split_once('-')) {
        _ if head => facts.into_response(),
        None => (facts, bytes.clone()).into_response(),
        Some((first, last)) => {
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let content = (header::CONTENT_RANGE, format!("bytes {first}-{last}/{}", bytes.len()));
            let [etag, modified, _] = facts;
            (StatusCode::PARTIAL_CONTENT, [etag, modified, content], bytes.slice(first..=last)).into_response()
        }
    }
}

/// The client reads the usual variables, so it is a process of its own.
#[tokio::test]
async fn s3_keeps_what_a_directory_keeps() {
    let service = Service::default();
    let app = Router::new().route("/bucket", any(answer)).route("/bucket/{*key}", any(answer));
    let app = app.layer(axum::extract::DefaultBodyLimit::disable()).with_state(service.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    let client = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_the_client_does", "--nocapture"])
        .env(ENDPOINT, &endpoint)
        .env("AWS_ENDPOINT", &endpoint)
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .output()
        .await
        .unwrap();
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    let bucket = service.lock().unwrap();
    assert_eq!(bucket.objects.keys().collect::<Vec<_>>(), ["deep/prefix/jobs/job_12/attempts/1/a"]);
    assert!(bucket.uploads.is_empty(), "an upload that broke off is paid for until it is aborted");
    assert_eq!(bucket.multipart_uploads, 2);
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
    // An upload that breaks off leaves what was there.
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

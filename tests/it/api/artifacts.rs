//! Promise: a job's files can be downloaded whole or in parts, with a name and a digest.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::api::{Answer, Api};
use crate::support::worker::files_below;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde_json::json;
use sha2::{Digest, Sha256};

const BEST: &[u8] = b"the best student's bytes";
const LAST: &[u8] = b"the last";

/// A job that has published its files, and its path.
async fn published(api: &Api) -> String {
    let id = api.job().await;
    let files: [(&str, &[u8]); 4] = [
        ("student.safetensors", BEST),
        ("student-last.safetensors", LAST),
        ("manifest.json", b"{}"),
        ("metrics.ndjson", b""),
    ];
    api.publish(&api.claim().await, &files).await;
    format!("/v1/jobs/{id}")
}

async fn with(api: &Api, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request =
        headers.iter().fold(api.request(Method::GET, path), |request, (name, value)| request.header(*name, *value));
    api.send(request).await
}

#[tokio::test]
async fn the_student_comes_with_its_name_and_digest() {
    let api = Api::start().await;
    let job = published(&api).await;
    let id = &job["/v1/jobs/".len()..];
    let student = api.get(&format!("{job}/student")).await;
    let digest = Sha256::digest(BEST);
    assert_eq!((student.status.as_u16(), student.body.as_slice()), (200, BEST));
    assert_eq!(student.header("etag"), format!("\"{}\"", hex::encode(digest)));
    assert_eq!(student.header("repr-digest"), format!("sha-256=:{}:", BASE64_STANDARD.encode(digest)));
    assert_eq!(student.header("content-disposition"), format!("attachment; filename=\"resnet8-{id}.safetensors\""));
    assert_eq!(student.header("content-type"), "application/octet-stream");
    assert_eq!(student.header("content-length"), BEST.len().to_string());
    assert_eq!(student.header("accept-ranges"), "bytes");
    let last = api.get(&format!("{job}/student?which=last&format=safetensors")).await;
    assert_eq!(last.body, LAST);
    assert!(last.header("content-disposition").ends_with("-last.safetensors\""));
    for query in ["which=worst", "format=tflite", "wich=last"] {
        api.get(&format!("{job}/student?{query}")).await.problem(400);
    }
}

#[tokio::test]
async fn a_job_that_has_not_succeeded_has_no_student() {
    let api = Api::start().await;
    let id = api.job().await;
    for path in ["student", "student?which=last", "artifacts/manifest.json"] {
        api.get(&format!("/v1/jobs/{id}/{path}")).await.says(404, &["is queued"]);
    }
    assert_eq!(api.get(&format!("/v1/jobs/{id}/artifacts")).await.expect(200), json!({"data": []}));
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    api.get(&format!("/v1/jobs/{id}/student")).await.says(404, &["is cancelled"]);
}

#[tokio::test]
async fn everything_that_a_job_wrote_is_listed_and_downloads() {
    let api = Api::start().await;
    let job = published(&api).await;
    let list = api.get(&format!("{job}/artifacts")).await.expect(200);
    let list = list["data"].as_array().unwrap();
    let names: Vec<_> = list.iter().map(|artifact| artifact["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["manifest.json", "metrics.ndjson", "student-last.safetensors", "student.safetensors"]);
    for artifact in list {
        let answer = api.get(&format!("{job}/artifacts/{}", artifact["name"].as_str().unwrap())).await;
        assert_eq!(answer.status, 200);
        assert_eq!(hex::encode(Sha256::digest(&answer.body)), artifact["sha256"].as_str().unwrap());
        assert_eq!(json!(answer.body.len()), artifact["size_bytes"]);
        assert!(artifact.get("key").is_none());
    }
    let manifest = api.get(&format!("{job}/artifacts/manifest.json")).await;
    assert_eq!(manifest.header("content-type"), "application/json");
    let empty = with(&api, &format!("{job}/artifacts/metrics.ndjson"), &[("range", "bytes=0-")]).await;
    assert_eq!(empty.header("content-range"), "bytes */0");
    empty.problem(416);
    api.get(&format!("{job}/artifacts/other")).await.says(404, &["no artifact \"other\"", "manifest.json"]);
    api.get(&format!("{job}/artifacts/..%2f..%2fx")).await.problem(404);
    api.get(&format!("{job}/artifacts/%ff")).await.problem(400);
}

#[tokio::test]
async fn a_range_request_gets_that_range() {
    let api = Api::start().await;
    let job = published(&api).await;
    let path = format!("{job}/student");
    let size = BEST.len();
    for (range, bytes, content_range) in [
        ("bytes=0-3", &BEST[..4], format!("bytes 0-3/{size}")),
        ("bytes=4-", &BEST[4..], format!("bytes 4-{}/{size}", size - 1)),
        ("bytes=-5", &BEST[size - 5..], format!("bytes {}-{}/{size}", size - 5, size - 1)),
        ("bytes=0-1000", BEST, format!("bytes 0-{}/{size}", size - 1)),
    ] {
        let part = with(&api, &path, &[("range", range)]).await;
        assert_eq!((part.status.as_u16(), part.body.as_slice()), (206, bytes), "{range}");
        assert_eq!(part.header("content-range"), content_range);
        assert_eq!(part.header("content-length"), bytes.len().to_string());
    }
    let beyond = with(&api, &path, &[("range", "bytes=1000-")]).await;
    assert_eq!(beyond.header("content-range"), format!("bytes */{size}"));
    beyond.problem(416);
    for range in ["bytes=0-1,3-4", "bytes=x", "lines=0-1", "bytes=5-2"] {
        let whole = with(&api, &path, &[("range", range)]).await;
        assert_eq!((whole.status.as_u16(), whole.body.as_slice()), (200, BEST), "{range}");
    }
}

#[tokio::test]
async fn conditional_requests_compare_the_etag() {
    let api = Api::start().await;
    let job = published(&api).await;
    let path = format!("{job}/student");
    let tag = format!("\"{}\"", hex::encode(Sha256::digest(BEST)));
    let weak = format!("W/{tag}");
    let among = format!("\"other\", {tag}");
    for known in [tag.as_str(), &weak, &among, "*"] {
        let answer = with(&api, &path, &[("if-none-match", known)]).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0), "{known}");
        assert_eq!(answer.header("etag"), tag);
    }
    assert_eq!(with(&api, &path, &[("if-none-match", "\"other\"")]).await.body, BEST);
    assert_eq!(with(&api, &path, &[("if-match", &tag)]).await.status, 200);
    with(&api, &path, &[("if-match", "\"other\"")]).await.problem(412);
    for (version, status) in
        [(tag.as_str(), 206), (&weak, 200), ("\"other\"", 200), ("Mon, 23 Nov 2026 20:45:34 GMT", 200)]
    {
        let answer = with(&api, &path, &[("range", "bytes=0-3"), ("if-range", version)]).await;
        assert_eq!(answer.status, status, "{version}");
    }
}

#[tokio::test]
async fn head_returns_the_headers_of_get() {
    let api = Api::start().await;
    let job = published(&api).await;
    let path = format!("{job}/student");
    let head = api.send(api.request(Method::HEAD, &path)).await;
    let get = api.get(&path).await;
    assert_eq!((head.status, head.body.len()), (get.status, 0));
    for name in ["etag", "repr-digest", "content-length", "content-disposition", "content-type", "accept-ranges"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
    let part = api.send(api.request(Method::HEAD, &path).header("range", "bytes=0-3")).await;
    assert_eq!((part.status.as_u16(), part.header("content-length")), (206, "4"));
}

#[tokio::test]
async fn a_large_file_is_streamed_and_never_compressed() {
    let api = Api::start().await;
    let id = api.job().await;
    let large: Vec<u8> = (0..8_000_000_u32).map(|at| (at >> 8) as u8).collect();
    api.publish(&api.claim().await, &[("student.safetensors", &large)]).await;
    let answer = with(&api, &format!("/v1/jobs/{id}/student"), &[("accept-encoding", "gzip")]).await;
    assert_eq!(answer.header("content-encoding"), "");
    assert_eq!(answer.header("content-length"), large.len().to_string());
    assert_eq!(answer.body, large);
}

#[tokio::test]
async fn a_file_that_somebody_removed_from_storage_is_gone_and_the_answer_says_what_to_do() {
    let api = Api::start().await;
    let job = published(&api).await;
    std::fs::remove_dir_all(api.dir.path().join("storage/jobs")).unwrap();
    for path in ["student", "artifacts/manifest.json"] {
        let path = format!("{job}/{path}");
        api.get(&path).await.says(410, &["gone from storage", "from a backup", "/submitted"]);
        with(&api, &path, &[("range", "bytes=1-")]).await.problem(410);
        let problem = api.get(&path).await.problem(410);
        assert!(!problem.to_string().contains("attempts"), "where storage has it is nobody's business: {problem}");
        assert_eq!(api.send(api.request(Method::HEAD, &path)).await.status, 410);
    }
    // What is still known of the job is told.
    api.get(&job).await.expect(200);
    api.get(&format!("{job}/artifacts")).await.expect(200);
}

#[tokio::test]
async fn a_file_that_was_damaged_in_storage_is_never_delivered_whole() {
    let api = Api::start().await;
    let id = api.job().await;
    let whole = unlike_anywhere(3_000_000);
    api.publish(&api.claim().await, &[("student.safetensors", &whole)]).await;
    let storage = api.dir.path().join("storage");
    let stored = files_below(&storage).into_iter().find(|path| path.ends_with("/student.safetensors")).unwrap();
    let (stored, path) = (storage.join(stored), format!("/v1/jobs/{id}/student"));
    for at in [0, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        rewrite(&stored, &damaged);
        assert!(is_cut_off(&api, &path).await, "byte {at} is another");
    }
    rewrite(&stored, &whole[1..]);
    api.get(&path).await.says(410, &["damaged in storage", "from a backup", "/submitted"]);
    assert_eq!(api.send(api.request(Method::HEAD, &path)).await.status, 410);
    rewrite(&stored, &whole);
    assert!(api.get(&path).await.body == whole);
}

/// Whether a download ends before the end of the file.
async fn is_cut_off(api: &Api, path: &str) -> bool {
    let body = match api.request(Method::GET, path).send().await {
        Ok(answer) => answer.bytes().await.ok(),
        Err(_) => None,
    };
    body.is_none()
}

/// Replaces a file's content and keeps its time of modification, as `cp -a` and failing disks do. That it was changed
/// can be seen, although the clock of a file system goes in steps.
fn rewrite(path: &Path, content: &[u8]) {
    let before = std::fs::metadata(path).unwrap();
    let changed = |facts: &Metadata| (facts.ctime(), facts.ctime_nsec());
    loop {
        std::fs::write(path, content).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        if changed(&file.metadata().unwrap()) != changed(&before) {
            return;
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_damaged_file_is_not_delivered_to_who_has_its_beginning() {
    let api = Api::start().await;
    let id = api.job().await;
    let whole = unlike_anywhere(3_000_000);
    api.publish(&api.claim().await, &[("student.safetensors", &whole)]).await;
    let storage = api.dir.path().join("storage");
    let stored = files_below(&storage).into_iter().find(|path| path.ends_with("/student.safetensors")).unwrap();
    let (stored, path) = (storage.join(stored), format!("/v1/jobs/{id}/student"));
    let mut damaged = whole.clone();
    damaged[2_000_000] ^= 1;
    let (beginning, rest) = ([("range", "bytes=0-999999")], [("range", "bytes=1000000-")]);
    // Nobody has read the whole before.
    rewrite(&stored, &damaged);
    with(&api, &path, &rest).await.says(410, &["damaged in storage", "from a backup", "/submitted"]);
    rewrite(&stored, &whole);
    let part = with(&api, &path, &rest).await;
    assert!(part.status == 206 && part.body == whole[1_000_000..], "what was put back is read again");
    // A whole download has found the damage.
    rewrite(&stored, &damaged);
    assert!(is_cut_off(&api, &path).await);
    for headers in [&beginning[..], &rest, &[]] {
        with(&api, &path, headers).await.says(410, &["damaged in storage", "from a backup", "/submitted"]);
    }
    assert_eq!(api.send(api.request(Method::HEAD, &path)).await.status, 410);
    rewrite(&stored, &whole);
    assert!(api.get(&path).await.body == whole);
    assert_eq!(with(&api, &path, &beginning).await.status, 206);
}

#[tokio::test]
async fn curl_does_not_take_a_resumed_download_of_a_damaged_file_for_a_success() {
    let api = Api::start().await;
    let id = api.job().await;
    let whole = unlike_anywhere(3_000_000);
    api.publish(&api.claim().await, &[("student.safetensors", &whole)]).await;
    let storage = api.dir.path().join("storage");
    let stored = files_below(&storage).into_iter().find(|path| path.ends_with("/student.safetensors")).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    rewrite(&storage.join(stored), &damaged);
    let file = api.dir.path().join("student");
    for _ in 0..3 {
        let status = tokio::process::Command::new("curl")
            .args(["--fail", "--silent", "--continue-at", "-", "--output"])
            .arg(&file)
            .arg(format!("{}/v1/jobs/{id}/student", api.url))
            .status()
            .await
            .expect("curl is installed");
        assert!(!status.success());
    }
}

/// Bytes in which no two ranges are alike.
fn unlike_anywhere(size: u32) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test]
async fn an_interrupted_download_resumes_and_a_changed_file_starts_over() {
    let api = Api::start().await;
    let id = api.job().await;
    let whole = unlike_anywhere(3_000_000);
    api.publish(&api.claim().await, &[("student.safetensors", &whole)]).await;
    let path = format!("/v1/jobs/{id}/student");
    let etag = format!("\"{}\"", hex::encode(Sha256::digest(&whole)));
    let mut seed = 20_261_124_u64;
    for _ in 0..8 {
        let mut received = Vec::new();
        while received.len() < whole.len() {
            let from = format!("bytes={}-", received.len());
            let request = api.request(Method::GET, &path).header("range", from).header("if-range", &etag);
            let mut answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 206);
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let cut = received.len() + 1 + (seed >> 33) as usize % whole.len();
            // Dropping the answer closes the connection, wherever the server is with it.
            while received.len() < cut {
                let Some(chunk) = answer.chunk().await.unwrap() else { break };
                let wanted = (cut - received.len()).min(chunk.len());
                received.extend_from_slice(&chunk[..wanted]);
            }
        }
        assert!(received == whole);
    }
    // A download of another file is not continued with this one.
    let other = with(&api, &path, &[("range", "bytes=1000-"), ("if-range", "\"another\"")]).await;
    assert_eq!(other.status, 200);
    assert!(other.body == whole);
}

#[tokio::test]
async fn curl_resumes_an_interrupted_download_at_any_byte() {
    let api = Api::start().await;
    let id = api.job().await;
    let whole = unlike_anywhere(1_000_000);
    api.publish(&api.claim().await, &[("student.safetensors", &whole)]).await;
    let file = api.dir.path().join("student");
    for cut in [0, 1, 4095, 4096, 777_777, whole.len() - 1] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let curl = tokio::process::Command::new("curl")
            .args(["--fail", "--silent", "--show-error", "--continue-at", "-", "--output"])
            .arg(&file)
            .arg(format!("{}/v1/jobs/{id}/student", api.url))
            .output()
            .await
            .expect("curl is installed");
        assert!(curl.status.success(), "{}", String::from_utf8_lossy(&curl.stderr));
        assert!(std::fs::read(&file).unwrap() == whole, "cut at {cut}");
    }
}

//! Downloads, and uploads of checkpoints: complete, interrupted and damaged.

use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::proxy::Proxy;
use super::run;
use crate::support::api::{Api, checkpoint};
use crate::support::worker::files_below;

/// A student several times as large as what a connection buffers. Each byte depends on its position.
fn student() -> Vec<u8> {
    (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect()
}

/// A job with published files.
async fn published(api: &Api, student: &[u8]) -> String {
    let id = api.job().await;
    let files: [(&str, &[u8]); 4] = [
        ("student.safetensors", student),
        ("student-last.safetensors", b"the last"),
        ("manifest.json", b"{}"),
        ("metrics.ndjson", b""),
    ];
    api.publish(&api.claim().await, &files).await;
    id
}

#[tokio::test]
async fn a_download_has_the_servers_name_and_bytes_and_leaves_nothing_else() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = published(&api, b"the best").await;
    let name = format!("resnet8-{id}.safetensors");
    assert_eq!(run(&api.url, home.path(), &["download", &id]).await.expect(0), format!("{name}\n"));
    assert_eq!(std::fs::read(home.path().join(&name)).unwrap(), b"the best");
    std::fs::create_dir(home.path().join("out")).unwrap();
    let answer = run(&api.url, home.path(), &["download", &id, "--which", "last", "-o", "out", "--json"]).await.json();
    let last = format!("out/resnet8-{id}-last.safetensors");
    assert_eq!(answer, json!({"path": last, "sha256": hex::encode(Sha256::digest(b"the last"))}));
    run(&api.url, home.path(), &["download", &id, "--artifact", "metrics.ndjson", "-o", "empty"]).await.expect(0);
    assert_eq!(std::fs::read(home.path().join("empty")).unwrap(), b"");
    assert_eq!(run(&api.url, home.path(), &["download", &id, "-o", "-"]).await.expect(0), "the best");
    assert_eq!(files_below(home.path()), ["empty".to_owned(), last, name]);
    let said = run(&api.url, home.path(), &["download", &id, "--artifact", "weights.bin"]).await.fails(3);
    assert!(said.contains("it has") && said.contains("manifest.json"), "{said}");
}

#[tokio::test]
async fn the_event_file_of_a_job_is_downloaded_while_it_runs() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = api.job().await;
    let said = run(&api.url, home.path(), &["download", &id, "--artifact", "tensorboard"]).await.expect(0);
    assert!(said.starts_with("events.out.tfevents.") && said.trim_end().ends_with(&id), "{said}");
    let file = std::fs::read(home.path().join(said.trim_end())).unwrap();
    assert!(!file.is_empty() && file == api.get(&format!("/v1/jobs/{id}/tensorboard")).await.body);
}

#[tokio::test]
async fn a_download_that_is_cut_off_goes_on_where_it_stopped() {
    let (api, home, bytes) = (Api::start().await, tempfile::tempdir().unwrap(), student());
    let id = published(&api, &bytes).await;
    let proxy = Proxy::start(&api.url, &[1_000_000, 700_000, 0, 2_000_000]).await;
    let ran = run(&proxy.url, home.path(), &["download", &id, "-o", "student"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(std::fs::read(home.path().join("student")).unwrap() == bytes);
    assert_eq!(files_below(home.path()), ["student"]);
    // Each part began where the one before it ended, and only if the file was the same.
    let requests = proxy.requests();
    assert_eq!(requests.matches("range: bytes=").count(), 4, "{requests}");
    assert_eq!(requests.matches(&format!("if-range: \"{}\"", hex::encode(Sha256::digest(&bytes)))).count(), 4);
    assert!(ran.stderr.contains("continuing after"), "{}", ran.stderr);
    // To standard output as well.
    let proxy = Proxy::start(&api.url, &[1_000_000]).await;
    let mut command = super::command(&proxy.url, home.path(), &["download", &id, "-o", "-"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success() && output.stdout == bytes);
}

/// The partial file that a download has left in a directory.
fn part(dir: &Path) -> String {
    let files = files_below(dir);
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0].starts_with(".student.") && files[0].ends_with(".part"), "{files:?}");
    files[0].clone()
}

#[tokio::test]
async fn a_later_command_goes_on_with_what_an_earlier_one_left() {
    let (api, home, bytes) = (Api::start().await, tempfile::tempdir().unwrap(), student());
    let id = published(&api, &bytes).await;
    let arguments = ["download", &id, "-o", "student", "--reconnect", "0"];
    let proxy = Proxy::start(&api.url, &[1_000_000]).await;
    let said = run(&proxy.url, home.path(), &arguments).await.fails(4);
    let part = part(home.path());
    assert!(said.contains(&part) && said.contains("the same command continues after them"), "{said}");
    let length = std::fs::metadata(home.path().join(&part)).unwrap().len();
    assert!((900_000..1_000_000).contains(&length), "{length}");
    let ran = run(&proxy.url, home.path(), &arguments).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(proxy.requests().contains(&format!("range: bytes={length}-")), "{}", proxy.requests());
    assert!(std::fs::read(home.path().join("student")).unwrap() == bytes);
    assert_eq!(files_below(home.path()), ["student"]);
}

#[tokio::test]
async fn a_part_that_was_changed_is_noticed_and_downloaded_again() {
    let (api, home, bytes) = (Api::start().await, tempfile::tempdir().unwrap(), student());
    let id = published(&api, &bytes).await;
    let arguments = ["download", &id, "-o", "student", "--reconnect", "0"];
    let proxy = Proxy::start(&api.url, &[1_000_000]).await;
    run(&proxy.url, home.path(), &arguments).await.fails(4);
    let part = home.path().join(part(home.path()));
    let mut changed = std::fs::read(&part).unwrap();
    changed[1000] ^= 1;
    std::fs::write(&part, changed).unwrap();
    let ran = run(&proxy.url, home.path(), &arguments).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("does not belong to the file: downloading all of it"), "{}", ran.stderr);
    assert!(std::fs::read(home.path().join("student")).unwrap() == bytes);
}

#[tokio::test]
async fn another_file_is_not_replaced_unless_that_is_asked_for() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let id = published(&api, b"the best").await;
    let path = home.path().join("student");
    std::fs::write(&path, "mine").unwrap();
    let said = run(&api.url, home.path(), &["download", &id, "-o", "student"]).await.fails(1);
    assert!(said.contains("--force"), "{said}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    run(&api.url, home.path(), &["download", &id, "-o", "student", "--force"]).await.expect(0);
    let again = run(&api.url, home.path(), &["download", &id, "-o", "student"]).await;
    assert!(again.code == 0 && again.stderr.contains("is there already, with the same bytes"), "{again:?}");
    assert_eq!(files_below(home.path()), ["student"]);
}

/// A server that sends bytes with another SHA-256 than it says.
async fn lying() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\netag: \"{}\"\r\n\r\n", "ab".repeat(32));
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = connection.read(&mut request).await;
            let _ = connection.write_all(format!("{head}bytes").as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_server_are_no_download() {
    let home = tempfile::tempdir().unwrap();
    let url = lying().await;
    let said = run(&url, home.path(), &["download", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "-o", "student"]).await.fails(8);
    assert!(said.contains(&"ab".repeat(32)) && said.contains(&hex::encode(Sha256::digest(b"bytes"))), "{said}");
    assert_eq!(files_below(home.path()), Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_prints_the_id_and_is_sent_again_if_it_is_cut_off() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let bytes = checkpoint("resnet20", 10);
    std::fs::write(home.path().join("teacher.safetensors"), &bytes).unwrap();
    let expected = format!("ckpt_{}\n", &hex::encode(Sha256::digest(&bytes))[..32]);
    // The answer to the first request is lost.
    let proxy = Proxy::start(&api.url, &[0]).await;
    let arguments = ["upload", "teacher.safetensors", "--architecture", "resnet20", "--num-classes", "10"];
    let ran = run(&proxy.url, home.path(), &arguments).await;
    assert_eq!((ran.code, &ran.stdout), (0, &expected), "{ran:?}");
    assert!(ran.stderr.contains("sending all of it again") && ran.stderr.contains("resnet20"), "{}", ran.stderr);
    let stored = api.get("/v1/checkpoints").await.expect(200);
    assert_eq!(
        (stored["data"].as_array().unwrap().len(), &stored["data"][0]["name"]),
        (1, &json!("teacher.safetensors"))
    );
    let said = run(&api.url, home.path(), &["upload", "teacher.safetensors", "--architecture", "vgg8"]).await.fails(3);
    assert!(said.contains("teacher.safetensors: ") && said.contains("vgg8"), "{said}");
    for (name, says) in [("missing", "cannot read missing"), ("/dev/null", "not a regular file")] {
        let said = run(&api.url, home.path(), &["upload", name]).await.fails(1);
        assert!(said.contains(says), "{said}");
    }
}

//! Uploads of data sets: archives, directories and shards, complete and interrupted.

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use zip::CompressionMethod;

use super::proxy::Proxy;
use super::{command, run};
use crate::support::api::Api;
use crate::support::archives::{gzip, parquet, pets, ppm, tar, zip, zip_with, zstd};
use crate::support::process::Process;

/// A piece as the tests send it: the smallest.
const PIECE: usize = 1 << 20;

/// The pets, and an image of several pieces. Each byte depends on its position.
fn large() -> Vec<(&'static str, Vec<u8>)> {
    let pixels =
        (0..1024 * 1024_u32).flat_map(|pixel| pixel.wrapping_mul(2_654_435_761).to_le_bytes().into_iter().skip(1));
    let image = b"P6 1024 1024 255\n".iter().copied().chain(pixels).collect();
    [pets(), vec![("train/cat/large.ppm", image)]].concat()
}

/// Writes files below a directory.
fn write(root: &Path, files: &[(&str, Vec<u8>)]) {
    for (path, content) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

async fn unfinished(api: &Api) -> Value {
    api.get("/v1/datasets").await.expect(200)["unfinished"].clone()
}

#[tokio::test]
async fn every_archive_and_a_directory_of_the_same_files_is_the_same_version() {
    let (api, home, files) = (Api::start().await, tempfile::tempdir().unwrap(), pets());
    let whole = tar(&files);
    for (name, bytes) in [
        ("pets.zip", zip(&files)),
        ("pets.tar", whole.clone()),
        ("pets.tar.gz", gzip(&whole)),
        ("pets.tar.zst", zstd(&whole)),
    ] {
        std::fs::write(home.path().join(name), bytes).unwrap();
    }
    write(&home.path().join("pets"), &files);
    write(&home.path().join("pets"), &[(".git/config", b"hidden".to_vec())]);
    let expected = api.upload_dataset("pets", zip(&files)).await.expect(201)["id"].as_str().unwrap().to_owned();
    for name in ["pets.zip", "pets.tar", "pets.tar.gz", "pets.tar.zst", "pets", "pets/"] {
        let ran = run(&api.url, home.path(), &["upload", name]).await;
        assert_eq!((ran.code, ran.stdout.trim()), (0, expected.as_str()), "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains("folder, 8 images of 2 classes (test 2, train 6)"), "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("left out: 1 entry"), name.starts_with("pets/") || name == "pets", "{name}");
    }
    let document = run(&api.url, home.path(), &["upload", "pets", "--name", "animals", "--json"]).await.json();
    assert_eq!((&document["name"], &document["images"]), (&json!("animals"), &json!(8)));
}

#[tokio::test]
async fn an_upload_that_is_cut_off_goes_on_where_the_server_has_got_to() {
    let (api, home, files) = (Api::start().await, tempfile::tempdir().unwrap(), large());
    let bytes = zip_with(&files, CompressionMethod::Stored);
    std::fs::write(home.path().join("large.zip"), &bytes).unwrap();
    // Twice in the middle of the second piece.
    let proxy = Proxy::cutting_requests(&api.url, &[PIECE + PIECE / 2, 2 * PIECE]).await;
    let ran = run(&proxy.url, home.path(), &["upload", "large.zip", "--piece-mib", "1"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stderr.matches("trying again").count(), 2, "{}", ran.stderr);
    assert_eq!(api.upload_dataset("large", bytes).await.expect(200)["id"], ran.stdout.trim());
    let requests = proxy.requests();
    let sent = |start: usize| requests.matches(&format!("content-range: bytes {start}-")).count();
    assert_eq!([sent(0), sent(PIECE), sent(2 * PIECE)], [1, 3, 1]);
    assert_eq!(unfinished(&api).await, json!([]));
}

#[tokio::test]
async fn a_later_command_goes_on_with_the_upload_of_an_earlier_one() {
    let (api, home, files) = (Api::start().await, tempfile::tempdir().unwrap(), large());
    std::fs::write(home.path().join("large.tar"), tar(&files)).unwrap();
    write(&home.path().join("large"), &files);
    for source in ["large.tar", "large"] {
        let arguments = ["upload", source, "--piece-mib", "1", "--reconnect", "0"];
        let proxy = Proxy::cutting_requests(&api.url, &[PIECE + PIECE / 2]).await;
        let said = run(&proxy.url, home.path(), &arguments).await.fails(4);
        assert!(said.contains(&format!("{PIECE} of ")) && said.contains("the same command continues"), "{said}");
        assert_eq!(unfinished(&api).await[0]["received_bytes"], PIECE);
        let proxy = Proxy::start(&api.url, &[]).await;
        let ran = run(&proxy.url, home.path(), &arguments).await;
        assert_eq!(ran.code, 0, "{source}: {ran:?}");
        assert!(ran.stderr.contains(&format!("the server has {PIECE} bytes")), "{}", ran.stderr);
        let requests = proxy.requests();
        assert!(!requests.contains("content-range: bytes 0-"), "{source}");
        assert!(requests.contains(&format!("content-range: bytes {PIECE}-")), "{source}");
    }
    // The archive and the directory are the same files.
    let details = api.get("/v1/datasets/large").await.expect(200);
    assert_eq!((details["versions"].as_array().unwrap().len(), &details["images"]), (1, &json!(9)));
}

#[tokio::test]
async fn who_interrupts_an_upload_learns_how_to_continue_and_how_to_give_it_up() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    write(&home.path().join("large"), &large());
    let proxy = Proxy::stalling(&api.url, PIECE + PIECE / 2).await;
    let mut process = Process::start(command(&proxy.url, home.path(), &["upload", "large", "--piece-mib", "1"]));
    let mut errors = process.stderr();
    proxy.stalled().await;
    process.signal(Signal::INT);
    let said = errors.until("the same command continues after them").await;
    assert_eq!(process.ended().await.code(), Some(130));
    assert_eq!(unfinished(&api).await[0]["received_bytes"], PIECE);
    let path = said.split_once(&format!("DELETE {}", proxy.url)).and_then(|(_, rest)| rest.split(' ').next());
    api.delete(path.unwrap_or_else(|| panic!("{said}"))).await.expect(204);
    assert_eq!(unfinished(&api).await, json!([]));
}

#[tokio::test]
async fn shards_replace_their_split_and_those_that_wait_are_not_sent_again() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let shard = |red: u8| parquet(&[(ppm([red, 1, 2]), 0), (ppm([red, 2, 1]), 1)]);
    for (number, name) in ["a.parquet", "b.parquet", "c.parquet"].into_iter().enumerate() {
        std::fs::write(home.path().join(name), shard(u8::try_from(number).unwrap())).unwrap();
    }
    // What an interrupted command would have left: the first shard, and another one in the place of the second.
    api.upload_dataset("pets?split=train&shard=0&shards=3", shard(0)).await.expect(202);
    api.upload_dataset("pets?split=train&shard=1&shards=3", shard(9)).await.expect(202);
    let proxy = Proxy::start(&api.url, &[]).await;
    let arguments = ["upload", "a.parquet", "b.parquet", "c.parquet", "--split", "train", "--name", "pets"];
    let ran = run(&proxy.url, home.path(), &arguments).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("a.parquet is on the server already"), "{}", ran.stderr);
    assert!(ran.stderr.contains("parquet, 6 images of 2 classes (train 6)"), "{}", ran.stderr);
    let requests = proxy.requests();
    let sent = [0, 1, 2].map(|shard| requests.matches(&format!("&shard={shard}&shards=3 http")).count());
    assert_eq!(sent, [0, 1, 1], "{requests}");
    // A single shard replaces its split.
    let test = ["upload", "a.parquet", "--split", "test", "--name", "pets"];
    let ran = run(&api.url, home.path(), &test).await;
    assert!(ran.code == 0 && ran.stderr.contains("(test 2, train 6)"), "{ran:?}");
}

#[tokio::test]
async fn links_are_named_and_nothing_is_sent() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    write(&home.path().join("pets"), &pets());
    std::os::unix::fs::symlink("1.ppm", home.path().join("pets/train/cat/link.ppm")).unwrap();
    let proxy = Proxy::start(&api.url, &[]).await;
    let said = run(&proxy.url, home.path(), &["upload", "pets"]).await.fails(1);
    assert!(said.contains("train/cat/link.ppm is a symbolic link") && said.contains("cp -rL"), "{said}");
    assert_eq!(proxy.requests(), "");
    std::fs::create_dir(home.path().join("empty")).unwrap();
    let said = run(&proxy.url, home.path(), &["upload", "empty"]).await.fails(1);
    assert!(said.contains("it holds no file"), "{said}");
}

#[tokio::test]
async fn arguments_that_do_not_belong_together_are_a_usage_failure() {
    let home = tempfile::tempdir().unwrap();
    write(&home.path().join("pets"), &pets());
    std::fs::write(home.path().join("a.parquet"), parquet(&[(ppm([1, 2, 3]), 0)])).unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["a.parquet", "a.parquet", "--name", "pets"], "name it with --split"),
        (&["a.parquet", "--split", "train"], "name the data set with --name"),
        (&["pets", "--split", "train", "--name", "pets"], "pets is a directory"),
        (&["pets", "--architecture", "resnet8"], "--architecture is about checkpoints"),
    ];
    for (arguments, says) in cases {
        let arguments = [&["upload"][..], arguments].concat();
        let said = run("http://127.0.0.1:1", home.path(), &arguments).await.fails(2);
        assert!(said.contains(says), "{said}");
    }
}

#[tokio::test]
async fn a_zip_of_torch_is_a_checkpoint_and_what_is_no_data_set_is_refused_with_its_faults() {
    let (api, home) = (Api::start().await, tempfile::tempdir().unwrap());
    let weights = [("net/data.pkl", b"no pickle".to_vec()), ("net/version", b"3".to_vec())];
    std::fs::write(home.path().join("net.pth"), zip_with(&weights, CompressionMethod::Stored)).unwrap();
    let proxy = Proxy::start(&api.url, &[]).await;
    run(&proxy.url, home.path(), &["upload", "net.pth"]).await.fails(3);
    assert!(proxy.requests().contains("put /v1/checkpoints?"), "{}", proxy.requests());
    write(&home.path().join("notes"), &pets());
    write(&home.path().join("notes"), &[("train/cow/readme.txt", b"no image".to_vec())]);
    let said = run(&api.url, home.path(), &["upload", "notes"]).await.fails(3);
    assert!(said.contains("notes: ") && said.contains("contains no image"), "{said}");
    assert_eq!(unfinished(&api).await, json!([]));
}

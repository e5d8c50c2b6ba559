//! Promise: what the server lists can be named in a job, what it does not list has a reason, and a dry run refuses what
//! a worker would refuse.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::api::{Api, plain_job};
use crate::support::process::{Process, distillery};
use crate::support::server::write_patterns;

/// A PNG of 1×1 pixel.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\x02\0\x01H\xaf\xa4q\0\0\0\0IEND\xaeB`\x82";

fn put(directory: &Path, paths: &[&str], content: &[u8]) {
    for path in paths {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

fn on(name: &str, changes: &Value) -> Value {
    let mut job = plain_job();
    job["dataset"] = json!({"name": name});
    for (field, value) in changes.as_object().unwrap() {
        job["dataset"][field] = value.clone();
    }
    job
}

/// The one fault of a job, which a dry run and a posting both find.
async fn fault(api: &Api, job: &Value) -> (String, String) {
    let mut found = Vec::new();
    for path in ["/v1/jobs?dry_run=true", "/v1/jobs"] {
        let problem = api.post(path, job).await.problem(422);
        let [fault] = problem["errors"].as_array().unwrap().as_slice() else { panic!("{problem}") };
        let text = |member: &str| fault[member].as_str().unwrap().to_owned();
        found.push((text("pointer"), text("detail")));
    }
    assert_eq!(found[0], found[1]);
    found.remove(0)
}

#[tokio::test]
async fn a_dry_run_refuses_what_a_worker_would() {
    let api = Api::start().await;
    let datasets = api.dir.path().join("datasets");
    put(
        &datasets,
        &["extra/train/cat/1.png", "extra/train/dog/1.png", "extra/test/cat/1.png", "extra/test/zebra/1.png"],
        PNG,
    );
    put(&datasets, &["one-label/train.bin", "one-label/test.bin"], &[1; 3 * 3073]);
    put(&datasets, &["empty/data_batch_1.bin"], &[1; 3073]);
    put(&datasets, &["empty/test_batch.bin"], b"");
    put(&datasets, &["range/data_batch_1.bin"], &[1; 3073]);
    put(&datasets, &["range/test_batch.bin"], &[77; 3073]);
    put(&datasets, &["flat/cat/1.png", "flat/cat/2.png", "flat/dog/1.png", "flat/dog/2.png"], PNG);
    for (name, pointer, detail) in [
        ("extra", "/dataset/name", "extra/test/zebra: has the class \"zebra\", which the train split does not have"),
        ("one-label", "/dataset/name", "one-label/train.bin: has one label per image, as CIFAR-10 has"),
        ("empty", "/dataset/name", "the test split is empty"),
        ("range", "/dataset/name", "image 0 of the test split has label 77, out of range"),
        ("flat", "/dataset/eval_split", "to evaluate on a part of the training split, set eval_fraction"),
    ] {
        let found = fault(&api, &on(name, &json!({}))).await;
        assert!(found.0 == pointer && found.1.contains(detail), "{name}: {found:?}");
        assert!(!found.1.contains(datasets.to_str().unwrap()), "{found:?}");
    }
    // A fault of a split that the job does not use is none of its faults.
    let dry = api.post("/v1/jobs?dry_run=true", &on("extra", &json!({"eval_split": "train"}))).await.expect(200);
    assert_eq!((&dry["train_images"], &dry["eval_images"]), (&json!(2), &json!(2)));
    let dry = api.post("/v1/jobs?dry_run=true", &on("flat", &json!({"eval_fraction": 0.5}))).await.expect(200);
    assert_eq!((&dry["train_images"], &dry["eval_images"]), (&json!(2), &json!(2)));
    let warnings = dry["warnings"].as_array().unwrap();
    for said in ["the directory has no splits", "eval_fraction 0.5 holds out 2 of the 4 images"] {
        assert!(warnings.iter().any(|warning| warning.as_str().unwrap().contains(said)), "{said}: {warnings:?}");
    }
    let limited = on("flat", &json!({"eval_fraction": 0.5, "limit": 1}));
    let dry = api.post("/v1/jobs?dry_run=true", &limited).await.expect(200);
    let warnings = dry["warnings"].to_string();
    assert!(warnings.contains("lack 1 of the 2 classes that the evaluation has (dog)"), "{warnings}");
    assert!(warnings.contains("limit takes 1 of 2 training images"), "{warnings}");
}

#[tokio::test]
async fn a_directory_of_data_sets_that_does_not_exist_is_named_in_the_log_and_in_the_refusal() {
    let api = Api::start_with(|settings| settings.datasets_dir = "/nowhere/datasets".into()).await;
    let (pointer, detail) = fault(&api, &on("ten", &json!({}))).await;
    assert_eq!(pointer, "/dataset/name");
    assert!(detail.contains("--datasets-dir does not exist") && !detail.contains("/nowhere"), "{detail}");
    let dir = tempfile::tempdir().unwrap();
    let mut command = distillery();
    command.args(["serve", "--listen", "127.0.0.1:0", "--workers", "0", "--datasets-dir", "/nowhere/datasets"]);
    command.arg("--data-dir").arg(dir.path().join("data")).env("DATABASE_URL", &api.db.url);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut server = Process::start(command);
    server.stderr().until("cannot read --datasets-dir /nowhere/datasets").await;
    server.terminate().await;
}

#[tokio::test]
async fn a_list_says_of_which_splits_every_job_would_be_refused() {
    let api = Api::start().await;
    let datasets = api.dir.path().join("datasets");
    put(&datasets, &["extra/train/cat/1.png", "extra/train/dog/1.png", "extra/test/zebra/1.png"], PNG);
    write_patterns(&datasets.join("short"), 20, 10);
    let images = datasets.join("short/train-images-idx3-ubyte");
    let bytes = std::fs::read(&images).unwrap();
    std::fs::write(&images, &bytes[..bytes.len() - 1]).unwrap();
    let list = api.get("/v1/datasets").await.expect(200);
    let extra = list["data"].as_array().unwrap().iter().find(|dataset| dataset["name"] == "extra").unwrap();
    let note = extra["notes"][0].as_str().unwrap();
    assert!(note.starts_with("no job can use the test split: extra/test/zebra: has the class \"zebra\""), "{note}");
    let [short] = list["unusable"].as_array().unwrap().as_slice() else { panic!("{list}") };
    let reason = short["reason"].as_str().unwrap();
    assert!(reason.starts_with("short/train-images-idx3-ubyte: is truncated"), "{reason}");
}

#[tokio::test]
async fn what_is_listed_can_be_named_and_what_is_not_has_a_reason() {
    let api = Api::start().await;
    let datasets = api.dir.path().join("datasets");
    for name in ["my data", "c++", "日本", "_x"] {
        put(&datasets.join(name), &["train/a/1.png", "train/b/1.png", "test/a/1.png"], PNG);
    }
    put(&datasets, &["notes/readme.txt", "notes/images.zip", "_x/train/a/1.gif", "a\\b/train/a/1.png"], b"");
    let list = api.get("/v1/datasets").await.expect(200);
    let names: Vec<&str> = list["data"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["_x", "c++", "hundred", "my data", "ten", "日本"]);
    for name in names.iter().filter(|name| !["hundred", "ten"].contains(name)) {
        api.post("/v1/jobs?dry_run=true", &on(name, &json!({}))).await.expect(200);
    }
    let noted = list["data"][0]["notes"][0].as_str().unwrap();
    assert!(noted.starts_with("1 file (.gif 1) of the train split are passed over"), "{noted}");
    let dry = api.post("/v1/jobs?dry_run=true", &on("_x", &json!({}))).await.expect(200);
    assert!(dry["warnings"].as_array().unwrap().contains(&json!(noted)), "{dry:#}");
    let [unnamed, notes] = list["unusable"].as_array().unwrap().as_slice() else { panic!("{list}") };
    assert!(unnamed["reason"].as_str().unwrap().starts_with("its name cannot be written in a job"), "{unnamed}");
    assert_eq!(notes["name"], "notes");
    let reason = notes["reason"].as_str().unwrap();
    assert!(reason.starts_with("notes: the format of this data set is unknown: it holds 2 files"), "{reason}");
    assert!(reason.contains("unpack the archive"), "{reason}");
}

#[tokio::test]
async fn links_out_of_a_data_set_are_followed_only_where_the_operator_says_so() {
    for follow_links in [false, true] {
        let api = Api::start_with(|settings| settings.follow_links = follow_links).await;
        let (datasets, outside) = (api.dir.path().join("datasets"), tempfile::tempdir().unwrap());
        put(outside.path(), &["1.png"], PNG);
        put(&datasets, &["linked/test/a/1.png", "linked/train/b/1.png"], PNG);
        symlink(outside.path(), datasets.join("linked/train/a")).unwrap();
        let list = api.get("/v1/datasets").await.expect(200);
        let is_listed = list["data"].as_array().unwrap().iter().any(|dataset| dataset["name"] == "linked");
        assert_eq!(is_listed, follow_links);
        if follow_links {
            api.post("/v1/jobs?dry_run=true", &on("linked", &json!({}))).await.expect(200);
        } else {
            let (_, detail) = fault(&api, &on("linked", &json!({}))).await;
            assert!(
                detail.contains("linked/train/a: is a link that leads out") && detail.contains("--follow-links"),
                "{detail}"
            );
            assert!(list["unusable"][0]["reason"].as_str().unwrap().contains("--follow-links"));
        }
    }
}

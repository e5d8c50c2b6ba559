//! Promise: a student downloads in other formats, as a file like any other, and a report says how it was checked.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;

use distillery::checkpoint::{self, Dtype, NewTensor};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::PATIENCE;
use crate::support::api::{Answer, Api, checkpoint};
use crate::support::process::write_script;

/// A job that has published a student of 10 classes, and its id.
async fn published(api: &Api, more: &[(&str, &[u8])]) -> String {
    published_as(api, &checkpoint("resnet8", 10), more).await
}

async fn published_as(api: &Api, student: &[u8], more: &[(&str, &[u8])]) -> String {
    let id = api.job().await;
    let mut files: Vec<(&str, &[u8])> = vec![
        ("student.safetensors", student),
        ("student-last.safetensors", student),
        ("manifest.json", br#"{"specification": {"distillation": {"method": "none"}}, "seed": 5}"#),
    ];
    files.extend(more);
    api.publish(&api.claim().await, &files).await;
    id
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

async fn get(api: &Api, id: &str, query: &str) -> Answer {
    api.get(&format!("/v1/jobs/{id}/student?{query}")).await
}

#[tokio::test]
async fn onnx_downloads_like_any_other_file() {
    let api = Api::start().await;
    let id = published(&api, &[]).await;
    let whole = get(&api, &id, "format=onnx").await;
    assert_eq!(whole.status, 200, "{}", whole.text());
    assert_eq!(whole.header("etag"), format!("\"{}\"", sha256(&whole.body)));
    assert_eq!(whole.header("content-disposition"), format!("attachment; filename=\"resnet8-{id}.onnx\""));
    assert_eq!(whole.header("content-length"), whole.body.len().to_string());
    // The version of the format, then the producer.
    assert!(whole.body.starts_with(b"\x08\x08\x12\x0adistillery"), "{:?}", &whole.body[..16]);

    let path = format!("/v1/jobs/{id}/student?format=onnx");
    let head = api.send(api.request(Method::HEAD, &path)).await;
    assert_eq!((head.status.as_u16(), head.body.len(), head.header("etag")), (200, 0, whole.header("etag")));
    let part = api.send(api.request(Method::GET, &path).header("range", "bytes=1000-1999")).await;
    assert_eq!((part.status.as_u16(), part.body.as_slice()), (206, &whole.body[1000..2000]));
    let known = api.send(api.request(Method::GET, &path).header("if-none-match", whole.header("etag"))).await;
    assert_eq!(known.status, 304);

    let last = get(&api, &id, "format=onnx&which=last&preprocess=false").await;
    assert!(last.header("content-disposition").ends_with("-last.onnx\""));
    assert_eq!(last.body, whole.body, "the same weights give the same bytes");
}

#[tokio::test]
async fn the_report_says_that_nothing_checked_the_file() {
    let api = Api::start().await;
    let id = published(&api, &[]).await;
    let file = get(&api, &id, "format=onnx").await;
    let report = api.get(&format!("/v1/jobs/{id}/artifacts/export-onnx.json")).await.expect(200);
    assert_eq!((&report["format"], &report["opset"]), (&json!("onnx"), &json!(17)));
    assert_eq!((&report["runtime"], &report["parity"]), (&Value::Null, &Value::Null));
    assert!(report["not_checked"].as_str().unwrap().contains("no samples"), "{report}");
    assert_eq!((&report["sha256"], &report["size_bytes"]), (&json!(sha256(&file.body)), &json!(file.body.len())));
}

#[tokio::test]
async fn a_format_that_there_is_not_is_refused_and_those_that_there_are_are_named() {
    let api = Api::start().await;
    let id = published(&api, &[]).await;
    get(&api, &id, "format=tflite").await.says(400, &["format", "safetensors", "pt2", "onnx", "int8", "bundle"]);
    get(&api, &id, "preprocess=true").await.says(400, &["preprocess", "onnx"]);
    get(&api, &id, "format=bundle&with=safetensors&preprocess=true").await.says(400, &["preprocess", "onnx"]);
    get(&api, &id, "format=onnx&with=pt2").await.says(400, &["with", "bundle"]);
    get(&api, &id, "format=bundle&with=onnx&with=onnx").await.says(400, &["with", "at most once"]);
    get(&api, &id, "format=bundle&with=bundle").await.says(400, &["with"]);
    get(&api, &id, "format=pt2").await.says(422, &["resnet8", "safetensors"]);
    get(&api, &id, "format=int8").await.says(422, &["ONNX Runtime", "no samples"]);
    get(&api, &id, "format=onnx&preprocess=true").await.says(422, &["no mean and std"]);
    api.get(&format!("/v1/jobs/{id}/artifacts/export-tflite.json")).await.says(404, &["no artifact"]);
    let waiting = api.job().await;
    get(&api, &waiting, "format=onnx").await.says(404, &["is queued"]);
}

#[tokio::test]
async fn a_bundle_has_the_asked_formats_and_a_card() {
    let api = Api::start().await;
    let id = published(&api, &[]).await;
    let names = async |query: &str| {
        let bundle = get(&api, &id, query).await;
        assert_eq!(bundle.status, 200, "{}", bundle.text());
        assert!(bundle.header("content-disposition").ends_with(".zip\""));
        let mut zip = zip::ZipArchive::new(Cursor::new(bundle.body)).unwrap();
        let mut card = String::new();
        zip.by_name("README.md").unwrap().read_to_string(&mut card).unwrap();
        assert!(card.contains(&format!("# resnet8-{id}")) && card.contains("| method | none |"), "{card}");
        zip.file_names().map(|name| name.unwrap().into_owned()).collect::<Vec<_>>()
    };
    let texts = ["README.md", "labels.json", "preprocess.json", "run.py"];
    let expected =
        |files: &[&'static str]| texts.iter().chain(files).map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let files = ["student.safetensors", "export-safetensors.json", "student.onnx", "export-onnx.json"];
    assert_eq!(names("format=bundle").await, expected(&files));
    assert_eq!(names("format=bundle&with=onnx").await, expected(&files[2..]));
}

#[tokio::test]
async fn a_student_that_is_no_network_is_refused() {
    let api = Api::start().await;
    let id = api.job().await;
    api.publish(&api.claim().await, &[("student.safetensors", b"no safetensors")]).await;
    get(&api, &id, "format=onnx").await.says(422, &["cannot be exported", "not a checkpoint"]);
}

#[tokio::test]
async fn a_student_whose_file_is_gone_cannot_be_exported() {
    let api = Api::start().await;
    let id = published(&api, &[]).await;
    std::fs::remove_dir_all(api.dir.path().join("storage/jobs")).unwrap();
    get(&api, &id, "format=onnx").await.says(410, &["gone from storage", "from a backup"]);
}

#[tokio::test]
async fn nothing_is_left_in_the_spool() {
    let api = Api::start().await;
    let id = published(&api, &[]).await;
    assert_eq!(get(&api, &id, "format=onnx").await.status, 200);
    get(&api, &id, "format=pt2").await.problem(422);
    let left: Vec<_> = std::fs::read_dir(api.dir.path().join("spool")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Samples of two images, with the logits of the best student and perhaps of the last.
fn samples(best: f32, last: Option<f32>) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (images, floats) = (vec![0; 2 * 3 * 32 * 32], [1.0; 3].map(f32::to_le_bytes).concat());
    let logits = |value: f32| [value; 20].map(f32::to_le_bytes).concat();
    let (best, last) = (logits(best), last.map(logits));
    let tensor = |name, dtype, shape, bytes| NewTensor { name, dtype, shape, bytes };
    let mut tensors = vec![
        tensor("images", Dtype::U8, &[2, 3, 32, 32], images.as_slice()),
        tensor("calibration", Dtype::U8, &[2, 3, 32, 32], images.as_slice()),
        tensor("scale", Dtype::F32, &[3], floats.as_slice()),
        tensor("offset", Dtype::F32, &[3], floats.as_slice()),
        tensor("logits", Dtype::F32, &[2, 10], best.as_slice()),
    ];
    tensors.extend(last.as_ref().map(|last| tensor("logits_last", Dtype::F32, &[2, 10], last.as_slice())));
    checkpoint::write(file.path(), &tensors, &BTreeMap::new()).unwrap();
    std::fs::read(file.path()).unwrap()
}

/// A server that has ONNX Runtime.
async fn checking() -> Api {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/onnxruntime/libonnxruntime.so");
    assert!(library.exists(), "{} is missing: run `scripts/setup onnxruntime`", library.display());
    Api::start_with(|settings| settings.onnxruntime = library).await
}

#[tokio::test]
async fn a_server_with_onnx_runtime_checks_what_it_exports() {
    let api = checking().await;
    // The student's weights are zeros, and so are its logits.
    let id = published(&api, &[("samples.safetensors", &samples(0.0, None))]).await;
    for format in ["onnx", "int8"] {
        let report = api.get(&format!("/v1/jobs/{id}/artifacts/export-{format}.json")).await.expect(200);
        assert_eq!(report["runtime"]["name"], "ONNX Runtime");
        assert!(report["runtime"]["version"].as_str().unwrap().starts_with("1."), "{report}");
        assert_eq!(report["not_checked"], Value::Null);
        let parity = &report["parity"];
        assert_eq!((&parity["images"], &parity["largest_difference"]), (&json!(2), &json!(0.0)), "{report}");
        assert_eq!((&parity["top1_agreement"], &parity["available"]), (&json!(100.0), &json!(2)));
    }
    assert_eq!(get(&api, &id, "format=int8").await.status, 200);
}

#[tokio::test]
async fn a_server_without_onnx_runtime_says_how_to_name_it() {
    let api = Api::start_with(|settings| settings.onnxruntime = "/nowhere/libonnxruntime.so".into()).await;
    let id = published(&api, &[("samples.safetensors", &samples(0.0, None))]).await;
    let words = ["ONNX Runtime is not here", "--onnxruntime", "DISTILLERY_ONNXRUNTIME"];
    get(&api, &id, "format=int8").await.says(422, &words);
    let report = api.get(&format!("/v1/jobs/{id}/artifacts/export-onnx.json")).await.expect(200);
    let reason = report["not_checked"].as_str().unwrap_or_default();
    assert!(words.iter().all(|words| reason.contains(words)), "{report}");
}

#[tokio::test]
async fn an_export_that_computes_something_else_is_refused() {
    let api = checking().await;
    let id = published(&api, &[("samples.safetensors", &samples(1.0, Some(0.0)))]).await;
    get(&api, &id, "format=onnx").await.says(422, &["does not compute what the student does", "0.0001"]);
    let report = async |format: &str| api.get(&format!("/v1/jobs/{id}/artifacts/export-{format}-last.json")).await;
    for format in ["onnx", "int8"] {
        assert_eq!(get(&api, &id, &format!("format={format}&which=last")).await.status, 200);
        let report = report(format).await.expect(200);
        assert_eq!((&report["parity"]["images"], &report["not_checked"]), (&json!(2), &Value::Null), "{report}");
    }

    let id = published(&api, &[("samples.safetensors", &samples(0.0, Some(1.0)))]).await;
    get(&api, &id, "format=onnx&which=last").await.says(422, &["does not compute what the student does"]);
    assert_eq!(get(&api, &id, "format=onnx").await.status, 200);
}

#[tokio::test]
async fn samples_of_earlier_versions_calibrate_the_last_student_and_do_not_check_it() {
    let api = checking().await;
    let id = published(&api, &[("samples.safetensors", &samples(1.0, None))]).await;
    for format in ["onnx", "int8"] {
        let report = api.get(&format!("/v1/jobs/{id}/artifacts/export-{format}-last.json")).await.expect(200);
        let reason = report["not_checked"].as_str().unwrap_or_default();
        assert!(reason.contains("no logits of the student after the last epoch"), "{report}");
        assert_eq!(report["parity"], Value::Null);
    }
}

#[tokio::test]
async fn images_of_the_data_set_are_no_artifact_that_anybody_can_download() {
    let api = Api::start().await;
    let file = samples(0.0, Some(0.0));
    let id = published(&api, &[("samples.safetensors", &file)]).await;
    let list = api.get(&format!("/v1/jobs/{id}/artifacts")).await.expect(200);
    let mut names: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["manifest.json", "student-last.safetensors", "student.safetensors"]);
    let answer = api.get(&format!("/v1/jobs/{id}/artifacts/samples.safetensors")).await;
    answer.says(404, &["no artifact", "student.safetensors"]);
    // They are there, and count like every other file.
    let kept = distillery::db::artifacts::list(&api.db.pool, &id).await.unwrap();
    let samples = kept.iter().find(|artifact| artifact.name == "samples.safetensors").expect("they are stored");
    assert_eq!(samples.size_bytes, file.len() as i64);
}

#[tokio::test]
async fn an_export_has_bounded_memory() {
    let api = Api::start_with(|settings| settings.export_memory_mib = 1).await;
    // The largest of its tensors has 9 MiB.
    let id = published_as(&api, &checkpoint("vgg8", 10), &[]).await;
    get(&api, &id, "format=onnx").await.says(422, &["more than the 1 MiB", "--export-memory-mib", "safetensors"]);
    assert_eq!(get(&api, &id, "format=safetensors").await.status, 200);
}

#[tokio::test]
async fn what_a_killed_server_left_of_an_export_is_removed_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (program, seen, spool) = (dir.path().join("program"), dir.path().join("seen"), dir.path().join("spool"));
    let look = r#"while [ "$1" != --output ]; do shift; done; cd "$(dirname "$2")/.." && pwd -P && ls"#;
    write_script(&program, &format!("#!/bin/sh\n({look}) > '{}'\nexit 1\n", seen.display()));
    let api = Api::start_with(|settings| (settings.program, settings.spool_dir) = (program, spool.clone())).await;
    let id = published(&api, &[]).await;
    assert_ne!(get(&api, &id, "format=onnx").await.status, 200);
    let seen = std::fs::read_to_string(seen).unwrap();
    let (place, content) = seen.split_once('\n').unwrap();
    assert_eq!(content, "files\nlock\n", "nothing but what is removed with its lock");
    assert!(!Path::new(place).exists());

    // A server that was killed holds no lock any more.
    let name = Path::new(place).file_name().unwrap().to_str().unwrap();
    let (prefix, _) = name.split_once('-').unwrap();
    let left = spool.join(format!("{prefix}-left"));
    std::fs::create_dir_all(left.join("files")).unwrap();
    std::fs::write(left.join("lock"), []).unwrap();
    let _next = Api::start_with(|settings| settings.spool_dir = spool.clone()).await;
    let gone = async {
        while left.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it is removed");
}

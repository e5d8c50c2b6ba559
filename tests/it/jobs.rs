//! Promise: a posted job becomes a student to download, and every obstacle is reported clearly.
//!
//! The real server, worker and trainer; in the first test also with the server's own PostgreSQL.

use crate::support::server::{self, Options, Server, quick_job, trainer_after};
use reqwest::StatusCode;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn distillation(teacher: Value, method: &str) -> Value {
    let mut job = quick_job();
    job["teacher"] = teacher;
    job["distillation"] = json!({"method": method});
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_job_trains_a_student_that_becomes_a_teacher_and_downloads() {
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/.deps/onnxruntime/libonnxruntime.so").to_owned();
    let environment = vec![("DISTILLERY_ONNXRUNTIME", library)];
    let server = Server::start(Options { embedded_database: true, environment, ..Options::default() }).await;
    let teacher = server.post(&quick_job()).await;
    // It is queued now and waits for its teacher.
    let student = server.post(&distillation(json!({"job": teacher}), "sdd_kd")).await;
    let job = server.succeeded(&student).await;
    assert_eq!(job["spec"]["teacher"]["architecture"], "resnet8");
    let teacher_job = server.succeeded(&teacher).await;
    assert_eq!(job["result"]["teacher_top1"], teacher_job["result"]["best_top1"]);

    let answer = server.http.get(format!("{}/v1/jobs/{student}/student", server.url)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(hex::encode(Sha256::digest(&bytes)), job["result"]["student"]["sha256"].as_str().unwrap());
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    assert_eq!(tensors.tensor("fc.weight").unwrap().shape(), [4, 64]);

    // ONNX Runtime gives the logits that the trainer has recorded.
    for (format, least) in [("onnx", 100.0), ("int8", 90.0)] {
        let report = server.get(&format!("/v1/jobs/{student}/artifacts/export-{format}.json")).await;
        assert_eq!(report["runtime"]["name"], "ONNX Runtime", "{report}");
        assert_eq!(report["parity"]["images"], 100);
        assert!(report["parity"]["top1_agreement"].as_f64() >= Some(least), "{report}");
        // All 100 evaluation images are samples, so both accuracies are beside the job's own.
        let top1 = ["student", "exported"].map(|of| report["parity"]["top1"][of].as_f64().unwrap());
        assert!((top1[0] - job["result"]["best_top1"].as_f64().unwrap()).abs() <= 1.0, "{report}");
        assert!((top1[0] - top1[1]).abs() <= 100.0 - least, "{report}");
    }

    // A downloaded student can be uploaded as a teacher.
    let upload = server.http.put(format!("{}/v1/checkpoints?architecture=resnet8", server.url)).body(bytes);
    let (status, checkpoint) = server.call(upload).await;
    assert_eq!(status, StatusCode::CREATED, "{checkpoint}");
    let uploaded = json!({"architecture": "resnet8", "checkpoint": checkpoint["id"]});
    let again = server.post(&distillation(uploaded, "kd")).await;
    let again_job = server.succeeded(&again).await;
    assert_eq!(again_job["result"]["teacher_top1"], job["result"]["best_top1"]);

    // Manifests have what the jobs named, and nothing of the machine that trained.
    let of_student = server.get(&format!("/v1/jobs/{student}/artifacts/manifest.json")).await;
    let of_teacher = format!("student.safetensors of {teacher}");
    assert_eq!(of_student["specification"]["teacher"]["checkpoint"], of_teacher, "{of_student:#}");
    let of_again = server.get(&format!("/v1/jobs/{again}/artifacts/manifest.json")).await;
    assert_eq!(of_again["specification"]["teacher"]["checkpoint"], checkpoint["id"], "{of_again:#}");
    for manifest in [of_student, of_again] {
        assert_eq!(manifest["specification"]["dataset"]["path"], "patterns");
        assert!(!manifest.to_string().contains(server.dir.path().to_str().unwrap()), "{manifest:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_network_learns_other_classes_with_a_new_classifier_and_teaches_them() {
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/.deps/onnxruntime/libonnxruntime.so").to_owned();
    let environment = vec![("DISTILLERY_ONNXRUNTIME", library)];
    let server = Server::start(Options { environment, ..Options::default() }).await;
    let file = std::fs::read("tests/fixtures/exported/test_efficientnet.pt2").unwrap();
    let upload = server.http.put(format!("{}/v1/checkpoints?name=ten.pt2", server.url)).body(file);
    let (status, network) = server.call(upload).await;
    assert_eq!(status, StatusCode::CREATED, "{network}");
    let mut job = quick_job();
    job["student"] = json!({"checkpoint": network["id"], "head": "new"});
    job["dataset"] = json!({"name": "patterns"});
    let id = server.post(&job).await;
    let mut pupil = distillation(json!({"job": id}), "sdd_kd");
    pupil["dataset"] = json!({"name": "patterns"});
    let pupil = server.post(&pupil).await;
    let done = server.succeeded(&id).await;
    let keys = "(classifier.weight, classifier.bias)";
    let message = format!("the student's classifier {keys} with 10 classes was replaced by one with 4 classes");
    server.until_message(&id, &message).await;

    let answer = server.http.get(format!("{}/v1/jobs/{id}/student?format=pt2", server.url)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let bytes = answer.bytes().await.unwrap().to_vec();
    let read = distillery::exported::ExportedNetwork::from_bytes(bytes).unwrap();
    assert_eq!(read.description().classes, 4);
    let report = server.get(&format!("/v1/jobs/{id}/artifacts/export-onnx.json")).await;
    assert_eq!(report["runtime"]["name"], "ONNX Runtime", "{report}");
    assert_eq!(report["parity"]["top1_agreement"], 100.0, "{report}");

    let taught = server.succeeded(&pupil).await;
    assert_eq!(taught["result"]["teacher_top1"], done["result"]["best_top1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promised_series_is_recorded() {
    let server = Server::start(Options::default()).await;
    let teacher = server.post(&quick_job()).await;
    let student = server.post(&distillation(json!({"job": teacher}), "sdd_kd")).await;
    server.succeeded(&student).await;
    let metrics = server.get(&format!("/v1/jobs/{student}/metrics")).await;
    let mut names: Vec<_> =
        metrics["series"].as_array().unwrap().iter().map(|series| series["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    let mut expected = vec![
        "train/loss",
        "train/loss_ce",
        "train/loss_distill",
        "train/loss_consistent",
        "train/loss_complementary",
        "train/top1",
        "eval/top1",
        "eval/top5",
        "eval/loss",
        "eval/balanced_accuracy",
        "eval/f1",
        "lr",
        "memory/resident_bytes",
        "images_per_second",
        "sdd/complementary_fraction",
        "sdd/scale_1/loss",
        "sdd/scale_2/loss",
        "sdd/scale_1/complementary_fraction",
        "sdd/scale_2/complementary_fraction",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    let artifacts = server.get(&format!("/v1/jobs/{student}/artifacts")).await;
    let names: Vec<_> = artifacts["data"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    let files = [
        "student.safetensors",
        "student-last.safetensors",
        "manifest.json",
        "metrics.ndjson",
        "regions.json",
        "classes.json",
        "predictions.json",
        "predictions.safetensors",
    ];
    for name in files {
        assert!(names.contains(&json!(name)), "{name} is missing from {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_worker_was_killed_goes_on_from_its_checkpoint_in_another_attempt() {
    let server = Server::start(Options { workers: Some(0), ..Options::default() }).await;
    let lease = [("DISTILLERY_LEASE_SECONDS", "2")];
    let worker = server.start_worker(&lease);
    let mut job = quick_job();
    job["training"]["epochs"] = json!(12);
    let id = server.post(&job).await;
    server.wait_until(&id, |job| job["progress"]["epoch"].as_u64() >= Some(3)).await;
    worker.kill().await;
    let _successor = server.start_worker(&lease);
    let job = server.succeeded(&id).await;
    assert_eq!(job["attempt"], 2);
    let events = server.get(&format!("/v1/jobs/{id}/events?limit=1000")).await;
    let events = events["data"].as_array().unwrap();
    let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "the history has no gap");
    assert!(
        events.iter().any(|event| event["attempt"] == 2 && event["message"].as_str().unwrap().contains("esum")),
        "the second attempt says where it resumed: {events:#?}"
    );
    // No epoch is recorded twice, and none is missing.
    let metrics = server.get(&format!("/v1/jobs/{id}/metrics?name=eval/top1")).await;
    let points = metrics["series"][0]["points"].as_array().unwrap();
    let epochs: Vec<_> = points.iter().map(|point| point["epoch"].as_f64().unwrap()).collect();
    assert_eq!(epochs, (1..=12).map(f64::from).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_stops_when_it_is_cancelled_and_the_next_one_runs() {
    let server = Server::start(Options::default()).await;
    let mut endless = quick_job();
    endless["training"]["epochs"] = json!(100_000);
    let endless = server.post(&endless).await;
    server.wait_until(&endless, |job| job["progress"]["step"].as_u64() > Some(0)).await;
    let (status, _) = server.call(server.http.post(format!("{}/v1/jobs/{endless}/cancel", server.url))).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(server.finished(&endless).await["status"], "cancelled");
    let next = server.post(&quick_job()).await;
    server.succeeded(&next).await;
    let (status, problem) = server.call(server.http.get(format!("{}/v1/jobs/{endless}/student", server.url))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(problem["detail"].as_str().unwrap().contains("cancelled"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_is_not_finite_ends_the_job_and_names_the_step() {
    let server = Server::start(Options::default()).await;
    let mut job = quick_job();
    job["training"]["optimizer"] = json!({"learning_rate": 1000, "momentum": 0.99, "weight_decay": 1000});
    job["training"]["clip_grad_norm"] = Value::Null;
    job["training"]["epochs"] = json!(50);
    let id = server.post(&job).await;
    let message = server.failed(&id, "numeric").await;
    assert!(message.contains("step"), "{message}");
    assert_eq!(server.get(&format!("/v1/jobs/{id}")).await["attempt"], 1, "it would fail again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_data_set_vanished_waits_and_says_so_by_name() {
    let server = Server::start(Options { workers: Some(0), ..Options::default() }).await;
    let id = server.post(&quick_job()).await;
    std::fs::remove_dir_all(server.dir.path().join("datasets/patterns")).unwrap();
    let _worker = server.start_worker(&[]);
    let message = server.until_message(&id, "the job waits").await;
    assert!(message.contains("no running worker has the data set patterns"), "{message}");
    assert_eq!(server.get(&format!("/v1/jobs/{id}")).await["status"], "queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_two_devices_that_is_paused_and_killed_makes_the_student_of_an_undisturbed_one() {
    let server = Server::start(Options { workers: Some(0), ..Options::default() }).await;
    let worker = server.start_worker_on("cpu,cpu", &[]);
    let mut job = quick_job();
    job["training"]["devices"] = json!(2);
    job["training"]["epochs"] = json!(80);
    let alone = server.succeeded(&server.post(&job).await).await;
    let id = server.post(&job).await;
    let path = format!("/v1/jobs/{id}");
    server.wait_until(&id, |job| job["progress"]["epoch"].as_u64() >= Some(2)).await;
    let ask = async |what: &str| server.call(server.http.post(format!("{}{path}/{what}", server.url))).await.0;
    assert_eq!(ask("pause").await, StatusCode::ACCEPTED);
    let paused = server.wait_until(&id, |job| job["status"] == "paused").await;
    assert!(worker.ranks().is_empty(), "a paused job has processes");
    assert_eq!(ask("resume").await, StatusCode::ACCEPTED);
    // Until it trains again, its progress is that of the first attempt.
    let epoch = paused["progress"]["epoch"].as_u64().map(|epoch| epoch + 1);
    server.wait_until(&id, |job| job["attempt"] == 2 && job["progress"]["epoch"].as_u64() > epoch).await;
    let [rank] = worker.ranks()[..] else { panic!("a job on two devices has two processes") };
    kill_process(rank, Signal::KILL).unwrap();
    let job = server.succeeded(&id).await;
    assert_eq!(job["result"]["student"]["sha256"], alone["result"]["student"]["sha256"]);
    let events = server.get(&format!("{path}/events?limit=100")).await;
    // It had got further, so this attempt does not count.
    let told = events.to_string();
    assert!(told.contains("rank 1: its process was killed by signal 9. This attempt does not count"), "{events:#}");
    assert!(told.contains("attempt 3 follows (tries used: 0 of 3)"), "{events:#}");
    assert_eq!(server.get("/v1/workers").await["data"][0]["devices"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_memory_fails_the_job_without_a_retry() {
    let dir = tempfile::tempdir().unwrap();
    // Address space for libtorch itself, but not for a batch of 20 000 images.
    let trainer = trainer_after(dir.path(), "ulimit -v 6000000");
    let server = Server::start(Options {
        environment: vec![("DISTILLERY_TRAINER", trainer.display().to_string())],
        ..Options::default()
    })
    .await;
    server::write_patterns(&server.dir.path().join("datasets/many"), 20_000, 10);
    let mut job = quick_job();
    job["dataset"] = json!({"name": "many", "image_size": 64});
    job["training"]["batch_size"] = json!(20_000);
    let id = server.post(&job).await;
    let message = server.failed(&id, "oom").await;
    assert!(message.contains("batch_size"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_not_the_jobs_fault_and_leaves_the_server_serving() {
    let dir = tempfile::tempdir().unwrap();
    // No file of this process may grow past 64 KiB: the first checkpoint does not fit.
    let trainer = trainer_after(dir.path(), "trap '' XFSZ; ulimit -f 64");
    let server = Server::start(Options {
        environment: vec![("DISTILLERY_TRAINER", trainer.display().to_string())],
        ..Options::default()
    })
    .await;
    let mut job = quick_job();
    job["max_attempts"] = json!(1);
    let id = server.post(&job).await;
    let given_back = |job: &Value| job["status"] == "queued" && job["attempt"] == 2;
    let job = server.wait_until(&id, given_back).await;
    assert_eq!(job["error"]["class"], "machine", "{job:#}");
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains("safetensors"), "{message}");
    server.get("/readyz").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_that_was_just_added_is_not_missing_on_the_workers() {
    let server = Server::start(Options::default()).await;
    // After it the worker is idle, and looks at the queue after seconds only.
    server.succeeded(&server.post(&quick_job()).await).await;
    server::write_patterns(&server.dir.path().join("datasets/added"), 240, 100);
    let mut job = quick_job();
    job["dataset"]["name"] = "added".into();
    let url = format!("{}/v1/jobs?dry_run=true", server.url);
    let (status, dry) = server.call(server.http.post(url).json(&job)).await;
    assert!(status.is_success() && !dry["warnings"].to_string().contains("no running worker"), "{dry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_whose_data_set_has_other_bytes_now_is_not_trained_on_them() {
    let server = Server::start(Options::default()).await;
    let mut job = quick_job();
    job["training"]["epochs"] = json!(100_000);
    let id = server.post(&job).await;
    let ask = async |what: &str| server.call(server.http.post(format!("{}/v1/jobs/{id}/{what}", server.url))).await.0;
    server.wait_until(&id, |job| job["progress"]["epoch"].as_u64() >= Some(1)).await;
    assert_eq!(ask("pause").await, StatusCode::ACCEPTED);
    server.wait_until(&id, |job| job["status"] == "paused").await;
    // Of the same size: only its bytes tell.
    let labels = server.dir.path().join("datasets/patterns/train-labels-idx1-ubyte");
    let mut bytes = std::fs::read(&labels).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&labels, bytes).unwrap();
    assert_eq!(ask("resume").await, StatusCode::ACCEPTED);
    let message = server.failed(&id, "user").await;
    for part in ["the data set has changed since the checkpoint", "SHA-256", "Put it back", "post the job again"] {
        assert!(message.contains(part), "{message}");
    }
    let (status, _) = server.call(server.http.get(format!("{}/v1/jobs/{id}/student", server.url))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

//! Promise: a job with networks that torch.export wrote keeps them, shows them by name, and is estimated and queued
//! like any other.

use std::collections::HashSet;

use super::networks::{assert_fault, efficientnet, needed, pair, posted, summary, uploaded, with_map};
use crate::support::api::{Api, plain_job, student_job};
use distillery::db::queue::{self, ReportBatch};
use distillery::db::workers::{self, NewWorker, Usage};
use distillery::protocol::{Progress, Started};
use serde_json::{Value, json};

#[tokio::test]
async fn a_job_shows_its_exported_networks_by_name_and_keeps_them() {
    let api = Api::start().await;
    let (teacher, student) = (uploaded(&api, "vit.pt2", with_map(false).bytes()).await, {
        let nameless = api.upload("", with_map(true).bytes()).await.expect(201);
        nameless["id"].as_str().unwrap().to_owned()
    });
    let id = posted(&api, &pair(&teacher, &student)).await;
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&job["teacher_network"], &job["student_network"]), (&json!("vit.pt2"), &json!(student)));
    assert_eq!(job["spec"]["student"], json!({"checkpoint": student}));
    for (role, checkpoint) in [("teacher_facts", &teacher), ("student_facts", &student)] {
        let network = &api.get(&format!("/v1/checkpoints/{checkpoint}")).await.expect(200)["network"];
        assert!(network["parameters"].as_u64().unwrap() > 0, "{network}");
        assert_eq!(job[role], json!({"parameters": network["parameters"], "macs": network["macs"]}));
    }
    assert_eq!(api.db.job(&id).await["spec_version"], 2, "workers that do not know such networks leave it");
    let shown = summary(&api, &id).await;
    assert_eq!((&shown["teacher"], &shown["student"]), (&json!("vit.pt2"), &json!(student)));
    assert_eq!(api.get("/v1/summaries?q=vit.pt2&sort=pair").await.expect(200)["total"], 1);
    let plain = api.job().await;
    assert_eq!(api.db.job(&plain).await["spec_version"], 1, "older workers can take it");

    for checkpoint in [&teacher, &student] {
        api.delete(&format!("/v1/checkpoints/{checkpoint}")).await.says(409, &[&id, "not finished"]);
    }
    let token = api.claim().await;
    assert_eq!(token.job, id);
    api.publish(&token, &[("student.safetensors", b"weights")]).await;
    api.delete(&format!("/v1/checkpoints/{student}")).await.says(409, &[&id, "cannot be used without it"]);
    api.delete(&format!("/v1/checkpoints/{teacher}")).await.expect(204);
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert!(job.get("teacher_facts").is_none() && job["student_facts"]["parameters"].is_u64(), "{job}");
    api.delete(&format!("/v1/jobs/{id}")).await.expect(204);
    api.delete(&format!("/v1/checkpoints/{student}")).await.expect(204);
}

#[tokio::test]
async fn the_student_of_a_job_teaches_as_the_exported_network_that_it_is() {
    let api = Api::start().await;
    let network = uploaded(&api, "mine.pt2", with_map(true).bytes()).await;
    let mut first = plain_job();
    first["student"] = json!({"checkpoint": network});
    let first = posted(&api, &first).await;
    let pupil = student_job(json!({"job": first}));
    let dry = api.post("/v1/jobs?dry_run=true", &pupil).await.expect(200);
    assert_eq!((&dry["teacher"]["name"], &dry["spec"]["dataset"]["image_size"]), (&json!("mine.pt2"), &json!(8)));
    assert_eq!(dry["spec"]["teacher"], json!({"job": first}));
    let mut named = pupil.clone();
    named["teacher"]["architecture"] = json!("resnet20");
    let says = ["is the exported network mine.pt2, not a resnet20: leave this out"];
    assert_fault(&api, &named, "/teacher/architecture", &says).await;

    let second = posted(&api, &pupil).await;
    let of_pupil = api.get(&format!("/v1/jobs/{second}")).await.expect(200);
    let of_first = api.get(&format!("/v1/jobs/{first}")).await.expect(200);
    assert!(of_pupil["teacher_facts"].is_object() && of_pupil.get("student_facts").is_none(), "{of_pupil}");
    assert_eq!(of_pupil["teacher_facts"], of_first["student_facts"]);
    assert_eq!(summary(&api, &second).await["teacher"], "mine.pt2");
    assert_eq!(needed(&api, &second).await, HashSet::from([network.clone()]), "the graph is in that file");
    // It is kept for the pupil, whatever becomes of the teacher's job.
    let token = api.claim().await;
    api.publish(&token, &[("student.safetensors", b"weights")]).await;
    api.ask(&format!("/v1/jobs/{second}/cancel")).await.expect(202);
    api.delete(&format!("/v1/jobs/{first}")).await.expect(204);
    api.delete(&format!("/v1/checkpoints/{network}")).await.expect(204);
    api.ask(&format!("/v1/jobs/{second}/retry")).await.says(409, &["has been deleted"]);
}

#[tokio::test]
async fn the_time_of_exported_networks_is_estimated_from_their_operations() {
    let api = Api::start().await;
    let network = uploaded(&api, "mine.pt2", with_map(true).bytes()).await;
    let mut job = plain_job();
    job["student"] = json!({"checkpoint": network});
    posted(&api, &job).await;
    let token = api.claim().await;
    let started = Started {
        device: "cpu".into(),
        precision: "float32".into(),
        threads: 1,
        train_images: 4,
        eval_images: 4,
        classes: 10,
        steps_per_epoch: 1,
        epochs: 240,
        resumed_epochs: 0,
        resumed_step: 0,
    };
    assert!(queue::started(&api.db.pool, &token.write(), &started).await.unwrap());
    let progress = Progress {
        epoch: 1,
        epochs: 240,
        step: 1,
        steps: 240,
        fraction: 0.1,
        images_per_second: 50.0,
        eta_seconds: 9.0,
    };
    let batch = ReportBatch { progress: Some(progress), ..ReportBatch::default() };
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
    let same = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
    assert_eq!(same["time"]["images_per_second"], 50.0);
    assert!(same["time"]["method"].as_str().unwrap().contains("with the same networks"), "{same}");
    let other = uploaded(&api, "other.pt2", efficientnet()).await;
    job["student"]["checkpoint"] = json!(other);
    let scaled = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
    assert!(scaled["time"]["method"].as_str().unwrap().contains("scaled by multiply-accumulates"), "{scaled}");
    let macs = |dry: &Value| dry["student"]["macs"].as_f64().unwrap();
    let expected = 50.0 * macs(&same) / macs(&scaled);
    let found = scaled["time"]["images_per_second"].as_f64().unwrap();
    assert!((found - expected).abs() < 1e-6 * expected, "{found} {expected}");
}

#[tokio::test]
async fn workers_that_do_not_know_exported_networks_are_what_a_job_waits_for() {
    let api = Api::start().await;
    let network = uploaded(&api, "mine.pt2", with_map(true).bytes()).await;
    let old = NewWorker {
        id: "wrk_TEST".into(),
        name: "host".into(),
        device: "cpu".into(),
        devices: 1,
        memory_bytes: None,
        usage: Usage::default(),
        abilities: None,
    };
    workers::register(&api.db.pool, &old).await.unwrap();
    sqlx::query("update workers set spec_version = 1").execute(&api.db.pool).await.unwrap();
    let mut job = plain_job();
    job["student"] = json!({"checkpoint": network});
    let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
    let says = "the job waits: no running worker knows version 2 of specifications: update the workers";
    assert!(dry["warnings"].as_array().unwrap().contains(&json!(says)), "{dry:#}");
    let id = posted(&api, &job).await;
    assert_eq!(summary(&api, &id).await["waiting"]["reason"], "version");
    let dry = api.post("/v1/jobs?dry_run=true", &plain_job()).await.expect(200);
    let waits = |warning: &Value| warning.as_str().unwrap().contains("the job waits");
    assert!(!dry["warnings"].as_array().unwrap().iter().any(waits), "it can take others: {dry:#}");
}

#[tokio::test]
async fn a_jobs_history_warns_of_nothing_that_is_as_it_should_be() {
    let api = Api::start().await;
    let teacher = uploaded(&api, "teacher.pt2", with_map(false).bytes()).await;
    let student = uploaded(&api, "student.pt2", with_map(true).bytes()).await;
    let mut job = pair(&teacher, &student);
    job["teacher"]["mean"] = json!([0.5, 0.5, 0.5]);
    job["teacher"]["std"] = json!([0.2, 0.2, 0.2]);
    let of_kind = async |job: &Value, kind: &str| {
        let id = posted(&api, job).await;
        let history = api.get(&format!("/v1/jobs/{id}/events")).await.expect(200);
        let events = history["data"].as_array().unwrap().iter().filter(|event| event["kind"] == kind);
        events.map(|event| event["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of_kind(&job, "warning").await, [""; 0]);
    let lines = of_kind(&job, "log").await;
    assert!(lines.iter().any(|line| line.contains("learning_rate is 0.01, a cautious default")), "{lines:?}");
    // A batch that the export does not allow is computed, and said with its number.
    let noted = api.get(&format!("/v1/checkpoints/{student}")).await.expect(200)["notes"].to_string();
    assert!(noted.contains("exported for batches of at most 64 images"), "{noted}");
    let mut large = job.clone();
    large["training"] = json!({"batch_size": 128});
    let dry = api.post("/v1/jobs?dry_run=true", &large).await.expect(200)["warnings"].to_string();
    assert!(dry.contains("at most 64 images, and training.batch_size is 128"), "{dry}");
    // What only a student's training makes of a network is no warning of its pupils.
    let mut frozen = with_map(true);
    frozen.weights["config"]["conv.weight"]["tensor_meta"]["requires_grad"] = json!(false);
    let frozen = uploaded(&api, "frozen.pt2", frozen.bytes()).await;
    job["teacher"]["checkpoint"] = json!(frozen);
    assert_eq!(of_kind(&job, "warning").await, [""; 0]);
    job["student"]["checkpoint"] = json!(frozen);
    let warnings = of_kind(&job, "warning").await;
    assert!(warnings.len() == 1 && warnings[0].contains("frozen by requires_grad_(False)"), "{warnings:?}");
    job["teacher"]["mean"] = Value::Null;
    job["teacher"]["std"] = Value::Null;
    let warnings = of_kind(&job, "warning").await;
    assert!(warnings.iter().any(|warning| warning.contains("set teacher.mean and teacher.std")), "{warnings:?}");
}

#[tokio::test]
async fn a_buffer_that_is_a_parameter_is_noted_and_one_that_shows_it_in_another_way_is_a_fault_of_a_student() {
    let api = Api::start().await;
    let mut network = with_map(true);
    network.buffer("prototypes", &[4, 3, 3, 3]);
    let path = network.weights["config"]["conv.weight"]["path_name"].clone();
    network.weights["config"]["prototypes"]["path_name"] = path;
    let same = uploaded(&api, "same.pt2", network.bytes()).await;
    let noted = api.get(&format!("/v1/checkpoints/{same}")).await.expect(200)["notes"].to_string();
    assert!(noted.contains("1 buffer shares the memory of a trained parameter"), "{noted}");
    api.post("/v1/jobs?dry_run=true", &pair(&same, &same)).await.expect(200);

    let strides = [27, 9, 1, 3].map(|stride| json!({"as_int": stride}));
    network.weights["config"]["prototypes"]["tensor_meta"]["strides"] = strides.into_iter().collect();
    let transposed = uploaded(&api, "transposed.pt2", network.bytes()).await;
    let noted = api.get(&format!("/v1/checkpoints/{transposed}")).await.expect(200)["notes"].to_string();
    assert!(noted.contains("conv.weight and prototypes") && noted.contains("would be trained apart"), "{noted}");
    let says = ["transposed.pt2 has tensors that share memory", "conv.weight and prototypes", "clone()"];
    assert_fault(&api, &pair(&same, &transposed), "/student/checkpoint", &says).await;
    api.post("/v1/jobs?dry_run=true", &pair(&transposed, &same)).await.expect(200);
}

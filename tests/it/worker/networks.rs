//! Jobs with exported networks.

use chrono::Utc;
use distillery::artifacts::keys;
use distillery::db::checkpoints::{self, UploadedCheckpoint};
use distillery::db::file_deletions;
use distillery::db::jobs::{self, Created, NetworkNames, NewJob};
use distillery::spec::{ExportedNetwork, Network, Networks, Request};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::types::Json;

use crate::support::worker::Surroundings;

const BYTES: &[u8] = b"the network";

fn description() -> Value {
    json!({
        "format": "torch_export", "schema": "8.17", "torch": "2.11.0", "input": [3, 64, 64], "batch": [2, null],
        "classes": 4, "parameters": 5, "macs": 7, "mode": "training", "operators": {}, "feature_map": null,
        "head": {"begins_after": null, "operators": [], "is_linear": null, "classifier": null}, "warnings": [],
    })
}

/// Stores an exported network as an upload does. Its bytes are for the trainer alone.
async fn upload(it: &Surroundings) -> String {
    let sha256 = hex::encode(Sha256::digest(BYTES));
    let key = keys::checkpoint(&sha256, &keys::unique());
    std::fs::write(it.file("upload"), BYTES).unwrap();
    file_deletions::announce(&it.db.pool, &key).await.unwrap();
    it.store().put_file(&key, &it.file("upload")).await.unwrap();
    let new = UploadedCheckpoint {
        id: checkpoints::id_of(&sha256),
        sha256,
        name: Some("mine.pt2".into()),
        size_bytes: 11,
        format: "torch_export".into(),
        tensors: 1,
        parameters: 5,
        architecture: None,
        num_classes: Some(4),
        fits: Json(Vec::new()),
        guess: None,
        network: Some(description()),
        notes: Vec::new(),
        created_at: Utc::now(),
    };
    checkpoints::insert(&it.db.pool, &new, &key, None).await.unwrap().expect("just announced");
    new.id
}

fn network() -> Option<Network> {
    let description = serde_json::from_value(description()).unwrap();
    Some(Network::Exported(Box::new(ExportedNetwork { name: "mine.pt2".into(), description })))
}

async fn add(it: &Surroundings, document: Value, networks: &Networks) -> String {
    let spec = Request::read_with(&document, networks).complete().unwrap();
    let submitted = document.to_string();
    let new = NewJob {
        spec: &spec,
        submitted: &submitted,
        idempotency: None,
        warnings: &[],
        dataset_fingerprint: None,
        dataset: None,
        networks: NetworkNames::default(),
        webhooks: &[],
    };
    match jobs::create(&it.db.pool, &new).await.unwrap() {
        Created::New(job) => job.id,
        other => panic!("{other:?}"),
    }
}

/// Keeps the specification and the files of the job with a teacher, and the student's of the other one.
const TRAINER: &str = r#"
    in=$(dirname "$spec")
    if grep -q '"teacher"' "$spec"; then
        cp "$spec" "$here/spec"; cp "$in/teacher" "$here/weights"; cp "$in/teacher-network" "$here/network"
    else
        cp "$spec" "$here/first-spec"; cp "$in/student" "$here/student"
    fi
    started 0 0; finish"#;

#[tokio::test]
async fn the_trainer_is_given_the_graph_of_a_teacher_that_a_job_has_trained_beside_its_weights() {
    let it = Surroundings::new(TRAINER).await;
    let checkpoint = upload(&it).await;
    let first = json!({
        "student": {"checkpoint": checkpoint}, "dataset": {"name": "patterns"}, "distillation": {"method": "none"},
    });
    let first = add(&it, first, &Networks { teacher: None, student: network() }).await;
    let pupil = json!({
        "teacher": {"job": first}, "student": {"architecture": "resnet20"}, "dataset": {"name": "patterns"},
        "distillation": {"method": "kd"},
    });
    let pupil = add(&it, pupil, &Networks { teacher: network(), student: None }).await;
    let worker = it.start();
    it.db.until_status(&pupil, "succeeded").await;
    worker.drain().await;

    assert_eq!(it.read("student").as_bytes(), BYTES);
    let first: Value = serde_json::from_str(&it.read("first-spec")).unwrap();
    assert_eq!((first["student"].get("architecture"), first["student"].get("network")), (None, None));
    assert_eq!(it.read("weights"), "student.safetensors\n");
    assert_eq!(it.read("network").as_bytes(), BYTES);
    let spec: Value = serde_json::from_str(&it.read("spec")).unwrap();
    assert_eq!(spec["teacher"].get("architecture"), None);
    for (field, file) in [("checkpoint", "/teacher"), ("network", "/teacher-network")] {
        assert!(spec["teacher"][field].as_str().unwrap().ends_with(file), "{spec:#}");
    }
    assert_eq!(spec["dataset"]["image_size"], 64);
}

//! Jobs with exported networks.

use chrono::Utc;
use distillery::artifacts::keys;
use distillery::db::checkpoints::{self, UploadedCheckpoint};
use distillery::db::file_deletions;
use distillery::db::jobs::{self, Created, NetworkNames, NewJob};
use distillery::spec::{DescribedNetwork, FoundNetwork, FoundNetworks, Request};
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

fn network() -> Option<FoundNetwork> {
    let description = serde_json::from_value(description()).unwrap();
    Some(FoundNetwork::Exported(Box::new(DescribedNetwork { name: "mine.pt2".into(), description })))
}

async fn add(it: &Surroundings, document: Value, networks: &FoundNetworks) -> String {
    let spec = Request::read_with(&document, networks).complete().unwrap();
    let submitted = document.to_string();
    let new = NewJob {
        spec: &spec,
        submitted: &submitted,
        idempotency: None,
        warnings: &[],
        notes: &[],
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
    let first = add(&it, first, &FoundNetworks { teacher: None, student: network() }).await;
    let pupil = json!({
        "teacher": {"job": first}, "student": {"architecture": "resnet20"}, "dataset": {"name": "patterns"},
        "distillation": {"method": "kd"},
    });
    let pupil = add(&it, pupil, &FoundNetworks { teacher: network(), student: None }).await;
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

/// Names its inputs by their paths, as the trainer does.
const PATHS: &str = r#"
    in=$(dirname "$spec") data=$(sed -n 's/.*"path": "\(.*patterns\)".*/\1/p' "$spec")
    started 0 0
    say '{"type":"log","level":"warning","message":"the network '"$in"'/student: look here"}'
    say '{"type":"log","level":"warning","message":"'"$out"'/student.safetensors: no space, nor in '"$in"'"}'
    say '{"type":"failed","class":"user","message":"'"$in"'/student does not fit '"$data"'/train/a.png"}'
    exit 1"#;

#[tokio::test]
async fn a_jobs_history_names_checkpoints_and_data_as_their_users_do_and_not_by_paths_of_the_worker() {
    let it = Surroundings::new(PATHS).await;
    let checkpoint = upload(&it).await;
    let document = json!({
        "student": {"checkpoint": checkpoint}, "dataset": {"name": "patterns"}, "distillation": {"method": "none"},
        "max_attempts": 1,
    });
    let id = add(&it, document, &FoundNetworks { teacher: None, student: network() }).await;
    let worker = it.start();
    let job = it.db.until_status(&id, "failed").await;
    worker.drain().await;
    let said = it.db.messages(&id).await;
    assert!(said.contains(&format!("the network mine.pt2 ({checkpoint}): look here")), "{said:?}");
    let written = "output/student.safetensors: no space, nor in the attempt's directory";
    assert!(said.contains(&written.to_owned()), "{said:?}");
    let failure = format!("mine.pt2 ({checkpoint}) does not fit patterns/train/a.png");
    assert_eq!(job["error"]["message"], failure);
}

//! Promise: what will waste a user's hours, and how many hours a job will take, is said before it is posted.

use std::collections::BTreeMap;

use distillery::checkpoint::{Dtype, NewTensor};
use distillery::db::queue::{self, ReportBatch};
use distillery::db::workers::{self, Abilities, NewWorker, Usage};
use distillery::protocol::{Progress, Started};
use serde_json::{Value, json};

use crate::support::api::{Api, checkpoint, plain_job, student_job};

/// A safetensors file of a network whose keys and values are changed.
fn altered(architecture: &str, rename: impl Fn(&str) -> String, value: impl Fn(&str) -> f32) -> Vec<u8> {
    let layout = distillery::architecture::find(architecture).unwrap().layout(10);
    let tensors: Vec<(String, Vec<u64>, Vec<u8>)> = layout
        .entries
        .into_iter()
        .map(|entry| {
            let count = usize::try_from(entry.shape.iter().product::<u64>()).unwrap();
            let bytes = value(&entry.key).to_le_bytes().repeat(count);
            (rename(&entry.key), entry.shape, bytes)
        })
        .collect();
    let new: Vec<_> =
        tensors.iter().map(|(name, shape, bytes)| NewTensor { name, dtype: Dtype::F32, shape, bytes }).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    distillery::checkpoint::write(file.path(), &new, &BTreeMap::new()).unwrap();
    std::fs::read(file.path()).unwrap()
}

/// A safetensors file with the networks `student` and `teacher` below a prefix.
fn student_and_teacher(prefix: &str) -> Vec<u8> {
    let layout = distillery::architecture::find("resnet8").unwrap().layout(10);
    let tensors: Vec<(String, Vec<u64>, Vec<u8>)> = [("student", 0.25_f32), ("teacher", 0.75)]
        .into_iter()
        .flat_map(|(role, value)| {
            layout.entries.iter().map(move |entry| {
                let count = usize::try_from(entry.shape.iter().product::<u64>()).unwrap();
                (format!("{prefix}.{role}.{}", entry.key), entry.shape.clone(), value.to_le_bytes().repeat(count))
            })
        })
        .collect();
    let new: Vec<_> =
        tensors.iter().map(|(name, shape, bytes)| NewTensor { name, dtype: Dtype::F32, shape, bytes }).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    distillery::checkpoint::write(file.path(), &new, &BTreeMap::new()).unwrap();
    std::fs::read(file.path()).unwrap()
}

#[tokio::test]
async fn one_of_several_networks_in_a_file_can_be_stored() {
    let api = Api::start().await;
    let bytes = student_and_teacher("module");
    let both = api.upload("", bytes.clone()).await.expect(201);
    assert!(both["notes"][0].as_str().unwrap().contains("choose it with state_dict=teacher"), "{both}");
    let teacher = api.upload("?state_dict=teacher&architecture=resnet8", bytes.clone()).await.expect(201);
    let student = api.upload("?state_dict=student", bytes.clone()).await.expect(201);
    assert_eq!((&teacher["format"], &teacher["architecture"]), (&json!("safetensors"), &json!("resnet8")));
    assert!(teacher["id"] != student["id"] && teacher["id"] != both["id"]);
    assert_eq!(api.upload("?state_dict=teacher", bytes.clone()).await.expect(200)["id"], teacher["id"]);
    api.upload("?state_dict=ema", bytes).await.says(422, &["nothing in it is under the key ema"]);
}

#[tokio::test]
async fn what_was_left_out_of_a_checkpoint_is_in_the_history_of_a_job_before_it_runs() {
    let api = Api::start().await;
    let bytes = student_and_teacher("_orig_mod");
    let uploaded = api.upload("?state_dict=teacher&architecture=resnet8", bytes).await.expect(201);
    let note = "every key begins with _orig_mod., which is left out";
    assert_eq!(uploaded["notes"], json!([note]), "the file that is stored does not show it");
    let id = uploaded["id"].as_str().unwrap();
    let job = student_job(json!({"architecture": "resnet8", "checkpoint": id}));
    let posted = api.post("/v1/jobs", &job).await.expect(201);
    let history = api.get(&format!("/v1/jobs/{}/events", posted["id"].as_str().unwrap())).await.expect(200);
    let warning = &history["data"][1];
    let expected = format!("checkpoint {id} of the teacher: {note}");
    assert_eq!((&warning["kind"], &warning["message"]), (&json!("warning"), &json!(expected)));
}

async fn dry_run(api: &Api, job: &Value) -> Value {
    api.post("/v1/jobs?dry_run=true", job).await.expect(200)
}

fn warnings(dry: &Value) -> Vec<String> {
    dry["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_dry_run_warns_of_a_disk_without_space() {
    // The one file system on every machine that surely has no space left.
    let api = Api::start_with(|settings| settings.spool_dir = "/proc/spool".into()).await;
    let found = warnings(&dry_run(&api, &plain_job()).await);
    let is_of_disk =
        |warning: &&String| warning.contains("the server's disk has 0 MiB of free space, and the job needs");
    assert_eq!(found.iter().filter(is_of_disk).count(), 1, "{found:?}");
}

#[tokio::test]
async fn an_upload_says_what_was_left_out_and_so_does_a_dry_run() {
    let api = Api::start().await;
    let bytes = altered("resnet20", |key| format!("_orig_mod.{key}"), |_| 0.5);
    let uploaded = api.upload("?architecture=resnet20", bytes).await.expect(201);
    let note = "every key begins with _orig_mod., which is left out";
    assert_eq!(uploaded["notes"], json!([note]));
    assert_eq!(uploaded["fits"], json!([{"architecture": "resnet20", "num_classes": 10}]));
    let id = uploaded["id"].as_str().unwrap();
    assert_eq!(api.get(&format!("/v1/checkpoints/{id}")).await.expect(200)["notes"], json!([note]));
    let network = json!({"architecture": "resnet20", "checkpoint": id});
    let mut job = student_job(network.clone());
    let of = |dry: &Value| warnings(dry).into_iter().filter(|warning| warning.contains(note)).collect::<Vec<_>>();
    assert_eq!(of(&dry_run(&api, &job).await), [format!("checkpoint {id} of the teacher: {note}")]);
    job["student"] = network;
    assert_eq!(of(&dry_run(&api, &job).await), [format!("checkpoint {id} of teacher and student: {note}")]);
    assert_eq!(api.upload("", checkpoint("resnet20", 10)).await.expect(201)["notes"], json!([]));
}

#[tokio::test]
async fn an_upload_with_broken_weights_is_refused_by_the_tensors_name() {
    let api = Api::start().await;
    let broken = |key: &'static str, value: f32| {
        altered("resnet8", str::to_owned, move |other| if other == key { value } else { 0.5 })
    };
    let says = ["cannot be used", "layer2.0.conv1.weight", "not finite"];
    api.upload("", broken("layer2.0.conv1.weight", f32::NAN)).await.says(422, &says);
    let says = ["bn1.running_var is a variance", "below zero"];
    api.upload("?architecture=resnet8", broken("bn1.running_var", -1.0)).await.says(422, &says);
    // Some network may have such weights, but hardly one that was trained.
    let huge = api.upload("?architecture=resnet8", broken("layer2.0.conv1.weight", 3e38)).await.expect(201);
    let said = huge["notes"].to_string();
    assert!(said.contains("layer2.0.conv1.weight has") && said.contains("the file is probably broken"), "{huge}");
    // Where no network would use them, they are nobody's business.
    let foreign = altered("resnet8", |key| format!("encoder.{key}.x"), |_| f32::NAN);
    let stored = api.upload("", foreign).await.expect(201);
    let note = stored["notes"].as_array().unwrap().last().unwrap().as_str().unwrap();
    assert!(note.contains("no job can use it, and its values are not checked; none has even half of its"), "{note}");
}

#[tokio::test]
async fn a_job_whose_checkpoint_fits_nothing_is_told_the_difference() {
    let api = Api::start().await;
    // As weight_norm stores a classifier.
    let rename = |key: &str| key.replace("fc.weight", "fc.parametrizations.weight.original1");
    let id = api.upload("", altered("resnet8", rename, |_| 0.5)).await.expect(201)["id"].clone();
    let refused = async |architecture: &str| {
        let job = student_job(json!({"architecture": architecture, "checkpoint": id}));
        let problem = api.post("/v1/jobs", &job).await.problem(422);
        assert_eq!(problem["errors"][0]["pointer"], "/teacher/checkpoint");
        problem["errors"][0]["detail"].as_str().unwrap().to_owned()
    };
    let detail = refused("resnet8").await;
    assert!(detail.contains("does not fit resnet8: fc.weight is missing; it fits no known"), "{detail}");
    let detail = refused("resnet20").await;
    assert!(detail.contains("resnet8 is the nearest, but fc.weight is missing"), "{detail}");
}

#[tokio::test]
async fn a_dry_run_warns_of_what_can_be_known_before() {
    let api = Api::start().await;
    let id = api.upload("", checkpoint("resnet20", 10)).await.expect(201)["id"].clone();
    let mut job = student_job(json!({"architecture": "resnet20", "checkpoint": id}));
    job["dataset"]["eval_split"] = json!("Train");
    job["distillation"] = json!({"warmup_epochs": 20});
    job["training"] = json!({"epochs": 2});
    let found = warnings(&dry_run(&api, &job).await);
    for part in
        ["the split that is trained on", "warmup_epochs is 20, but the job trains for 2 epochs", "no worker is running"]
    {
        assert!(found.iter().any(|warning| warning.contains(part)), "{part} in {found:?}");
    }
    register(&api, "wrk_1", "cpu", None).await;
    let mut job = plain_job();
    let found = warnings(&dry_run(&api, &job).await);
    assert!(
        found.len() == 1 && found[0].starts_with("training.batch_size is 64, but the data set has 4 training images"),
        "{found:?}"
    );
    job["training"] = json!({"batch_size": 4});
    assert_eq!(warnings(&dry_run(&api, &job).await), [""; 0]);
}

async fn register(api: &Api, id: &str, device: &str, abilities: Option<Abilities>) {
    let worker = NewWorker {
        id: id.into(),
        name: "host".into(),
        device: device.into(),
        devices: 1,
        memory_bytes: None,
        usage: Usage::default(),
        abilities,
    };
    workers::register(&api.db.pool, &worker).await.unwrap();
}

#[tokio::test]
async fn a_dry_run_says_what_the_running_workers_lack() {
    let api = Api::start().await;
    let mut job = plain_job();
    job["training"] = json!({"batch_size": 4});
    let lacks = async |abilities: Option<Abilities>| {
        register(&api, "wrk_1", "cpu", abilities).await;
        warnings(&dry_run(&api, &job).await)
    };
    let stopped = Abilities { stopped_because: Some("its disk is full".into()), ..Abilities::default() };
    let found = lacks(Some(stopped.clone())).await;
    assert_eq!(found, ["the job waits: no running worker takes jobs: its disk is full"]);
    let other = |fingerprint: &str| {
        let datasets = BTreeMap::from([("ten".to_owned(), fingerprint.to_owned())]);
        Abilities { datasets, ..Abilities::default() }
    };
    for (abilities, part) in [
        (Abilities::default(), "ten: copy it"),
        (other("another fingerprint"), "ten with the files that the server had"),
    ] {
        let found = lacks(Some(abilities)).await;
        let expected = format!("the job waits: no running worker has the data set {part}");
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
    }
    // What the server would note when the job is posted.
    let id = api.job().await;
    let fingerprint = api.db.job(&id).await["dataset_fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(lacks(Some(other(&fingerprint))).await, [""; 0]);
    // A worker that takes no jobs does not count either if the job asks for several devices.
    register(&api, "wrk_1", "cpu", Some(stopped)).await;
    let mut large = plain_job();
    large["training"] = json!({"devices": 2});
    let found = warnings(&dry_run(&api, &large).await);
    assert!(
        found.iter().any(|warning| warning.contains("no running worker takes jobs: its disk is full")),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_dry_run_estimates_the_time_from_jobs_that_were_measured() {
    let api = Api::start().await;
    assert_eq!(dry_run(&api, &plain_job()).await["time"], Value::Null, "nothing has been measured");
    measure(&api, "cpu", 50.0).await;
    let time = dry_run(&api, &plain_job()).await["time"].clone();
    assert_eq!((&time["images_per_second"], &time["measured_jobs"]), (&json!(50.0), &json!(1)));
    assert!(time["method"].as_str().unwrap().contains("the same networks and images on cpu"), "{time}");
    // 4 images in 240 epochs, and as many evaluations of 4 images at a third of the cost.
    let seconds = time["seconds"].as_f64().unwrap();
    assert!((seconds - (960.0 + 320.0) / 50.0).abs() < 1e-6, "{seconds}");
    // Another network: scaled by what it costs.
    let mut other = plain_job();
    other["student"]["architecture"] = json!("resnet56");
    let scaled = dry_run(&api, &other).await;
    let ratio = scaled["time"]["seconds"].as_f64().unwrap() / seconds;
    let macs = |dry: &Value| dry["student"]["macs"].as_f64().unwrap();
    let expected = macs(&scaled) / macs(&dry_run(&api, &plain_job()).await);
    assert!((ratio - expected).abs() < 1e-6 * expected, "{ratio} {expected}");
    assert!(scaled["time"]["method"].as_str().unwrap().contains("scaled by multiply-accumulates"));
}

/// A job runs on a device and trains so many images per second.
async fn measure(api: &Api, device: &str, images_per_second: f64) {
    api.job().await;
    let token = api.claim().await;
    let started = Started {
        device: device.into(),
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
    let progress =
        Progress { epoch: 1, epochs: 240, step: 1, steps: 240, fraction: 0.1, images_per_second, eta_seconds: 9.0 };
    let batch = ReportBatch { progress: Some(progress), ..ReportBatch::default() };
    assert!(queue::record(&api.db.pool, &token.write(), &batch).await.unwrap());
}

#[tokio::test]
async fn the_time_is_estimated_for_the_kind_of_device_that_would_run_the_job() {
    let api = Api::start().await;
    measure(&api, "cuda:1", 5000.0).await;
    measure(&api, "cpu", 50.0).await;
    let estimated = async || {
        let time = dry_run(&api, &plain_job()).await["time"].clone();
        (time["device"].clone(), time["images_per_second"].clone(), time["measured_jobs"].clone())
    };
    let (on_gpu, on_cpu) = ((json!("cuda"), json!(5000.0), json!(1)), (json!("cpu"), json!(50.0), json!(1)));
    assert_eq!(estimated().await, on_gpu, "no worker is running");
    register(&api, "wrk_cpu", "cpu", None).await;
    assert_eq!(estimated().await, on_cpu);
    let stopped = Abilities { stopped_because: Some("its disk is full".into()), ..Abilities::default() };
    register(&api, "wrk_gpu", "cuda:0", Some(stopped)).await;
    assert_eq!(estimated().await, on_cpu);
    register(&api, "wrk_gpu", "cuda:0", None).await;
    assert_eq!(estimated().await, on_gpu);
    sqlx::query("update attempts set device = 'cpu'").execute(&api.db.pool).await.unwrap();
    sqlx::query("delete from workers where id = 'wrk_cpu'").execute(&api.db.pool).await.unwrap();
    assert_eq!(estimated().await.0, Value::Null, "nothing was measured on the devices that would run it");
}

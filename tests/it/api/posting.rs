//! Promise: a posted job is accepted with its defaults filled in, or refused with every fault at once.

use crate::support::api::{Api, checkpoint, plain_job, student_job};
use distillery::db::workers::{self, NewWorker, Usage};
use reqwest::Method;
use serde_json::{Value, json};

/// Pointer and detail of each fault.
fn faults(problem: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (text(&error["pointer"]), text(&error["detail"])))
        .collect()
}

async fn uploaded(api: &Api, architecture: &str, classes: u32) -> Value {
    api.upload("", checkpoint(architecture, classes)).await.expect(201)["id"].clone()
}

#[tokio::test]
async fn a_posted_job_is_queued_with_every_default_filled_in() {
    let api = Api::start().await;
    let mut job = student_job(json!({"architecture": "resnet20", "checkpoint": uploaded(&api, "resnet20", 10).await}));
    job["labels"] = json!({"team": "vision"});
    job["priority"] = json!(5);
    let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
    let warnings = dry["warnings"].to_string();
    let says = "scales is [1, 2], which is published for a teacher and a student of one family (here cifar_resnet)";
    assert!(warnings.contains(says), "{warnings}");
    let answer = api.post("/v1/jobs", &job).await;
    let location = answer.header("location").to_owned();
    let job = answer.expect(201);
    let id = job["id"].as_str().unwrap();
    assert_eq!(location, format!("/v1/jobs/{id}"));
    assert!(id.starts_with("job_") && id.len() == 30);
    assert_eq!(job["status"], "queued");
    assert_eq!(job["name"], "resnet20 to resnet8 by sdd_kd");
    assert_eq!(job["spec"]["distillation"]["scales"], json!([1, 2]), "both are CIFAR ResNets");
    assert_eq!(job["spec"]["training"]["schedule"]["milestones"], json!([150, 180, 210]));
    assert_eq!((&job["priority"], &job["labels"]), (&json!(5), &json!({"team": "vision"})));
    assert_eq!((&job["attempt"], &job["max_attempts"]), (&json!(0), &json!(3)));
    for field in ["progress", "teacher", "result", "error", "worker", "started_at", "finished_at"] {
        assert_eq!(job.get(field), Some(&Value::Null), "{field}");
    }
    assert!(job["created_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(api.get(&location).await.expect(200), job);
    let events = api.get(&format!("{location}/events")).await.expect(200);
    assert_eq!(events["data"][0]["data"], json!({"status": "queued"}));
    assert_eq!((&events["data"][0]["seq"], &events["has_more"]), (&json!(1), &json!(false)));
    assert_eq!(events["data"].as_array().unwrap().len(), 1, "what is published is no warning in a job's history");
}

#[tokio::test]
async fn every_fault_is_reported_at_once_with_its_place() {
    let api = Api::start().await;
    let wrong = uploaded(&api, "resnet56", 100).await;
    let job = json!({
        "teacher": {"architecture": "resnet20", "checkpoint": wrong},
        "student": {"architecture": "resnet8", "checkpoint": format!("ckpt_{}", "0".repeat(32))},
        "dataset": {"name": "ten", "train_split": "training"},
    });
    let found = faults(&api.post("/v1/jobs", &job).await.problem(422));
    let pointers: Vec<_> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(pointers, ["/dataset/train_split", "/teacher/checkpoint", "/student/checkpoint"]);
    assert!(found[0].1.contains("its splits are: test, train"), "{}", found[0].1);
    assert!(!found[0].1.contains(api.dir.path().to_str().unwrap()), "{}", found[0].1);
    assert!(found[2].1.contains("there is no checkpoint"), "{}", found[2].1);

    let unknown = json!({"student": {"architecture": "resnet8"}, "dataset": {"name": "eleven"}, "distillation": {"method": "none"}});
    let found = faults(&api.post("/v1/jobs", &unknown).await.problem(422));
    assert_eq!(found, [("/dataset/name".into(), "there is no data set \"eleven\"; there are hundred, ten".into())]);
    let misspelt = json!({"student": {"architecture": "resnet8"}, "dataset": {"name": "Hundred"}, "distillation": {"method": "none"}});
    let detail = "there is no data set \"Hundred\", did you mean hundred?; there are hundred, ten";
    assert_eq!(faults(&api.post("/v1/jobs", &misspelt).await.problem(422)), [("/dataset/name".into(), detail.into())]);

    // A specification with syntax faults is not compared with data sets and checkpoints.
    let wrong = json!({"student": {"architecture": "resnet9"}, "dataset": {"name": "../ten"}, "sclaes": [1]});
    let found = faults(&api.post("/v1/jobs", &wrong).await.problem(422));
    let pointers: Vec<_> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(pointers, ["/teacher", "/student/architecture", "/dataset/name", "/sclaes"]);
    assert_eq!(api.get("/v1/jobs").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn a_teacher_that_does_not_fit_is_refused_with_what_it_fits() {
    let api = Api::start().await;
    let id = uploaded(&api, "resnet56", 10).await;
    let post = async |architecture: &str, dataset: &str| {
        let mut job = student_job(json!({"architecture": architecture, "checkpoint": id}));
        job["dataset"]["name"] = json!(dataset);
        faults(&api.post("/v1/jobs", &job).await.problem(422)).remove(0)
    };
    let id = id.as_str().unwrap();
    let (pointer, detail) = post("resnet32x4", "hundred").await;
    assert_eq!(pointer, "/teacher/checkpoint");
    let expected =
        "does not fit resnet32x4: fc.weight is [10, 64], expected [100, 256]; it fits resnet56 with 10 classes";
    assert_eq!(detail, format!("checkpoint {id} {expected}"));
    let (_, detail) = post("resnet56", "hundred").await;
    assert!(detail.contains("[10, 64], expected [100, 64]") && detail.contains("10 classes"), "{detail}");
    let (_, detail) = post("resnet20", "ten").await;
    assert!(detail.contains("it fits resnet56 with 10 classes"), "{detail}");
}

#[tokio::test]
async fn a_job_learns_from_another_jobs_student() {
    let api = Api::start().await;
    let teacher = api.job().await;
    let student = api.post("/v1/jobs", &student_job(json!({"job": teacher}))).await.expect(201);
    assert_eq!(student["spec"]["teacher"], json!({"architecture": "resnet8", "job": teacher}));
    let post = async |teacher: Value, dataset: &str| {
        let mut job = student_job(teacher);
        job["dataset"]["name"] = json!(dataset);
        faults(&api.post("/v1/jobs", &job).await.problem(422)).remove(0)
    };
    let conflict = post(json!({"job": teacher, "architecture": "resnet20"}), "ten").await;
    assert_eq!(conflict.0, "/teacher/architecture");
    assert!(conflict.1.contains("is a resnet8, not a resnet20"), "{}", conflict.1);
    let classes = post(json!({"job": teacher}), "hundred").await;
    assert_eq!(classes.0, "/teacher/job");
    assert!(classes.1.contains("10 classes") && classes.1.contains("100"), "{}", classes.1);
    let unknown = post(json!({"job": "job_00000000000000000000000000"}), "ten").await;
    assert!(unknown.1.contains("there is no job"), "{}", unknown.1);

    // A cancelled teacher fails the job that waits for it, and accepts no others.
    api.ask(&format!("/v1/jobs/{teacher}/cancel")).await.expect(202);
    let student = api.get(&format!("/v1/jobs/{}", student["id"].as_str().unwrap())).await.expect(200);
    assert_eq!(student["status"], "failed");
    assert_eq!(student["error"]["class"], "user");
    let cancelled = post(json!({"job": teacher}), "ten").await;
    assert!(cancelled.1.contains("is cancelled"), "{}", cancelled.1);
    let id = student["id"].as_str().unwrap();
    api.ask(&format!("/v1/jobs/{id}/retry")).await.says(409, &["retry that one first"]);
    api.ask(&format!("/v1/jobs/{teacher}/retry")).await.expect(202);
    api.ask(&format!("/v1/jobs/{id}/retry")).await.expect(202);
}

#[tokio::test]
async fn a_job_for_more_devices_than_a_worker_has_is_taken_with_a_warning() {
    let api = Api::start().await;
    api.decoded("ten").await;
    let mut job = plain_job();
    job["training"] = json!({"devices": 4, "batch_size": 4});
    let warnings = async || {
        let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
        let created = api.post("/v1/jobs", &job).await.expect(201);
        let events = api.get(&format!("/v1/jobs/{}/events", created["id"].as_str().unwrap())).await.expect(200);
        let of_kind = |event: &&Value| event["kind"] == "warning";
        let logged = events["data"].as_array().unwrap().iter().find(of_kind).map(|event| event["message"].clone());
        let warnings = dry["warnings"].as_array().unwrap().clone();
        assert_eq!(warnings, logged.into_iter().collect::<Vec<_>>(), "the job's history says what the dry run said");
        warnings.into_iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(warnings().await[0].contains("the job waits: no worker is running"));
    let register = async |devices: i32| {
        let device = vec!["cpu"; devices.unsigned_abs() as usize].join(",");
        let (id, usage) = (format!("wrk_{devices}"), Usage::default());
        let worker = NewWorker { id, name: "host".into(), device, devices, memory_bytes: None, usage, abilities: None };
        workers::register(&api.db.pool, &worker).await.unwrap();
    };
    register(2).await;
    register(3).await;
    assert!(warnings().await[0].contains("it asks for 4 devices, and the largest running worker has 3"));
    register(4).await;
    assert_eq!(warnings().await, [""; 0]);
}

#[tokio::test]
async fn a_dry_run_resolves_and_estimates_and_stores_nothing() {
    let api = Api::start().await;
    api.decoded("ten").await;
    let mut job = student_job(json!({"architecture": "resnet20", "checkpoint": uploaded(&api, "resnet20", 10).await}));
    job["distillation"] = json!({"scales": [1, 8, 16]});
    job["training"] = json!({"batch_size": 4});
    let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
    assert_eq!(dry["spec"]["training"]["epochs"], 240);
    assert_eq!(dry["classes"], 10);
    assert_eq!(dry["student"]["architecture"], "resnet8");
    assert_eq!(dry["teacher"]["feature_map"], json!([64, 8, 8]));
    assert!(dry["teacher"]["parameters"].as_u64() > dry["student"]["parameters"].as_u64());
    assert!(dry["student"]["macs"].as_u64() > Some(1_000_000));
    let warnings: Vec<_> = dry["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[..2].iter().all(|text| text.contains("scale 16 is finer than the 8×8")), "{warnings:?}");
    assert!(warnings[2].contains("no worker is running"), "{warnings:?}");
    let memory = &dry["memory"];
    let sum = memory["weights_bytes"].as_u64().unwrap() + memory["activations_bytes"].as_u64().unwrap();
    assert_eq!(memory["total_bytes"], sum);
    assert!(memory["method"].as_str().unwrap().contains("float32"));
    assert_eq!(api.get("/v1/jobs").await.expect(200)["data"], json!([]));
    job["training"]["devices"] = json!(2);
    let halved = &api.post("/v1/jobs?dry_run=true", &job).await.expect(200)["memory"];
    assert_eq!(halved["activations_bytes"].as_u64().unwrap() * 2, memory["activations_bytes"].as_u64().unwrap());
    job["dataset"]["name"] = json!("none");
    api.post("/v1/jobs?dry_run=true", &job).await.problem(422);
    api.post("/v1/jobs?dry_run=maybe", &job).await.says(400, &["dry_run"]);
}

#[tokio::test]
async fn a_byte_order_mark_before_the_document_is_not_part_of_it() {
    let api = Api::start().await;
    let document = plain_job().to_string();
    let post = async |body: String| {
        let request = api.request(Method::POST, "/v1/jobs").header("content-type", "application/json");
        api.send(request.header("idempotency-key", "the-same").body(body)).await
    };
    let job = post(format!("\u{feff}{document}")).await.expect(201);
    let submitted = api.get(&format!("/v1/jobs/{}/submitted", job["id"].as_str().unwrap())).await;
    assert_eq!(submitted.text(), document);
    assert_eq!(post(document.clone()).await.expect(200)["id"], job["id"], "it is the same document");
    post(format!("\u{feff}\u{feff}{document}")).await.says(400, &["not JSON"]);
    post("\u{feff}".to_owned()).await.says(400, &["the body is empty"]);
}

#[tokio::test]
async fn the_submitted_document_is_stored_byte_for_byte() {
    let api = Api::start().await;
    let sent = "{ \"student\": {\"architecture\": \"resnet8\"},\n  \"dataset\": {\"name\": \"ten\"},\n  \
                \"distillation\": {\"method\": \"none\"}, \"labels\": {\"why\": \"\\u00fc\"} }\n";
    let request = api.request(Method::POST, "/v1/jobs").header("content-type", "application/json").body(sent);
    let job = api.send(request).await.expect(201);
    let path = format!("/v1/jobs/{}/submitted", job["id"].as_str().unwrap());
    let answer = api.get(&path).await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.text(), sent);
    sqlx::query("update jobs set submitted = null").execute(&api.db.pool).await.unwrap();
    api.get(&path).await.says(404, &["not stored", "spec"]);
    api.get(&format!("/v1/jobs/job_{}/submitted", "0".repeat(26))).await.says(404, &["there is no job"]);
}

#[tokio::test]
async fn a_key_that_is_there_twice_is_refused_with_its_place() {
    let api = Api::start().await;
    let post = async |body: String| {
        let request = api.request(Method::POST, "/v1/jobs").header("content-type", "application/json");
        api.send(request.body(body)).await
    };
    let once = plain_job().to_string();
    let whole = format!(r#"{{"name": "one", {}"#, once.strip_prefix('{').unwrap());
    post(whole.clone()).await.expect(201);
    let twice = whole.replacen(r#""name": "one","#, r#""name": "one", "name": "two","#, 1);
    let says = ["cannot be used", r#"the key "name" appears twice"#, "line 1 column"];
    post(twice).await.says(400, &says);
    let nested = whole.replacen(r#""architecture":"#, r#""architecture": "resnet20", "architecture":"#, 1);
    assert_ne!(nested, whole);
    post(nested).await.says(400, &[r#"the key "architecture" appears twice"#]);
}

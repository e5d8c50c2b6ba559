//! Promise: a job is taken as it is meant or refused with every reason at once, is found again, and changes only as its
//! status allows.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::api::{self, Api, checkpoint, plain_job, student_job};
use crate::support::db::TestDb;
use distillery::db::jobs::Status;
use distillery::db::queue;
use distillery::db::workers::{self, NewWorker, Usage};
use distillery::protocol::{ErrorClass, Failure, Started};
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

async fn status(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/jobs/{id}")).await.expect(200)["status"].clone()
}

#[tokio::test]
async fn a_posted_job_is_queued_with_every_default_filled_in() {
    let api = Api::start().await;
    let mut job = student_job(json!({"architecture": "resnet20", "checkpoint": uploaded(&api, "resnet20", 10).await}));
    job["labels"] = json!({"team": "vision"});
    job["priority"] = json!(5);
    let answer = api.post("/v1/jobs", &job).await;
    let location = answer.header("location").to_owned();
    let job = answer.expect(201);
    let id = job["id"].as_str().unwrap();
    assert_eq!(location, format!("/v1/jobs/{id}"));
    assert!(id.starts_with("job_") && id.len() == 30);
    assert_eq!(job["status"], "queued");
    assert_eq!(job["name"], "resnet20 to resnet8 by sdd_kd");
    assert_eq!(job["spec"]["distillation"]["scales"], json!([1, 2, 4]));
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

    // What cannot be read is not held against the world.
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

    // A teacher that will not come takes its student with it, and takes no new ones.
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
    let mut job = plain_job();
    job["training"] = json!({"devices": 4});
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
    assert!(warnings().await[0].contains("training.devices is 4, and there is no worker now: the job waits"));
    let register = async |devices: i32| {
        let device = vec!["cpu"; devices.unsigned_abs() as usize].join(",");
        let (id, usage) = (format!("wrk_{devices}"), Usage::default());
        let worker = NewWorker { id, name: "host".into(), device, devices, memory_bytes: None, usage };
        workers::register(&api.db.pool, &worker).await.unwrap();
    };
    register(2).await;
    register(3).await;
    assert!(warnings().await[0].contains("the largest worker has 3 now"));
    register(4).await;
    assert_eq!(warnings().await, [""; 0]);
}

#[tokio::test]
async fn a_dry_run_resolves_and_estimates_and_stores_nothing() {
    let api = Api::start().await;
    let mut job = student_job(json!({"architecture": "resnet20", "checkpoint": uploaded(&api, "resnet20", 10).await}));
    job["distillation"] = json!({"scales": [1, 8, 16]});
    let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
    assert_eq!(dry["spec"]["training"]["epochs"], 240);
    assert_eq!(dry["classes"], 10);
    assert_eq!(dry["student"]["architecture"], "resnet8");
    assert_eq!(dry["teacher"]["feature_map"], json!([64, 8, 8]));
    assert!(dry["teacher"]["parameters"].as_u64() > dry["student"]["parameters"].as_u64());
    assert!(dry["student"]["macs"].as_u64() > Some(1_000_000));
    let warnings: Vec<_> = dry["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().all(|text| text.contains("scale 16 is finer than the 8×8")), "{warnings:?}");
    let memory = &dry["memory"];
    let sum = memory["weights_bytes"].as_u64().unwrap() + memory["activations_bytes"].as_u64().unwrap();
    assert_eq!(memory["total_bytes"], sum);
    assert!(memory["method"].as_str().unwrap().contains("float32"));
    assert_eq!(api.get("/v1/jobs").await.expect(200)["data"], json!([]));
    job["training"] = json!({"devices": 2});
    let halved = &api.post("/v1/jobs?dry_run=true", &job).await.expect(200)["memory"];
    assert_eq!(halved["activations_bytes"].as_u64().unwrap() * 2, memory["activations_bytes"].as_u64().unwrap());
    job["dataset"]["name"] = json!("none");
    api.post("/v1/jobs?dry_run=true", &job).await.problem(422);
    api.post("/v1/jobs?dry_run=maybe", &job).await.says(400, &["dry_run"]);
}

#[tokio::test]
async fn a_key_makes_one_job_however_often_it_is_sent() {
    let api = Api::start().await;
    let post = |key: &'static str, body: Value| {
        api.send(api.request(Method::POST, "/v1/jobs").header("idempotency-key", key).json(&body))
    };
    let first = post("key-1", plain_job()).await.expect(201);
    let again = post("key-1", plain_job()).await;
    assert_eq!(again.header("location"), format!("/v1/jobs/{}", first["id"].as_str().unwrap()));
    assert_eq!(again.expect(200), first);
    let mut other = plain_job();
    other["priority"] = json!(1);
    post("key-1", other.clone()).await.says(422, &["Idempotency-Key", first["id"].as_str().unwrap()]);
    assert_ne!(post("key-2", other.clone()).await.expect(201)["id"], first["id"]);
    // A replay is the job as it is now, even when it could not be posted any more.
    let id = first["id"].as_str().unwrap();
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    std::fs::remove_dir_all(api.dir.path().join("datasets")).unwrap();
    assert_eq!(post("key-1", plain_job()).await.expect(200)["status"], "cancelled");
    // After its deletion the key is free.
    api.delete(&format!("/v1/jobs/{id}")).await.expect(204);
    post("key-1", other).await.problem(422);
    let twice = api.request(Method::POST, "/v1/jobs").header("idempotency-key", "a").header("idempotency-key", "b");
    api.send(twice.json(&plain_job())).await.says(400, &["one value"]);
    for key in ["", "with space", "ü", &"k".repeat(256)] {
        let request = api.request(Method::POST, "/v1/jobs").header("idempotency-key", key.as_bytes());
        api.send(request.json(&plain_job())).await.says(400, &["Idempotency-Key"]);
    }
}

#[tokio::test]
async fn a_key_that_is_sent_a_hundred_times_at_once_makes_one_job() {
    let api = Api::start().await;
    let post =
        || api.send(api.request(Method::POST, "/v1/jobs").header("idempotency-key", "at-once").json(&plain_job()));
    let answers = futures::future::join_all((0..100).map(|_| post())).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    let ids: BTreeSet<_> = answers.iter().map(|answer| answer.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    assert!(answers.iter().all(|answer| [200, 201].contains(&answer.status.as_u16())));
    assert_eq!(api.get("/v1/jobs").await.expect(200)["data"].as_array().unwrap().len(), 1);
}

/// A server of its own process, without workers, that is killed when dropped; and its address.
fn server_process(db: &TestDb, dir: &Path) -> (KilledOnDrop, String) {
    let mut server = Command::new(env!("CARGO_BIN_EXE_distillery"))
        .args(["serve", "--listen", "127.0.0.1:0", "--workers", "0", "--data-dir"])
        .arg(dir.join("data"))
        .arg("--datasets-dir")
        .arg(dir.join("datasets"))
        .env("DATABASE_URL", &db.url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap().to_owned();
    (KilledOnDrop(server), url)
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_key_makes_one_job_although_the_server_is_killed_while_it_is_sent_a_hundred_times() {
    let db = TestDb::new().await;
    let dir = tempfile::tempdir().unwrap();
    api::write_datasets(&dir.path().join("datasets"));
    let (_other, other) = server_process(&db, dir.path());
    distillery::artifacts::install_tls_provider();
    let client = reqwest::Client::new();
    for round in 0..4 {
        let (doomed, url) = server_process(&db, dir.path());
        let key = format!("round-{round}");
        let post = async |url: &str| {
            let request = client.post(format!("{url}/v1/jobs")).header("idempotency-key", &key).json(&plain_job());
            let answer = request.send().await?.error_for_status()?;
            answer.json::<Value>().await.map(|job| job["id"].as_str().expect("an id").to_owned())
        };
        // It dies when a few have been answered: most are on their way, in the database, or on their way back.
        let (answered, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let posts = futures::future::join_all((0..100).map(async |_| {
            let outcome = post(&url).await;
            let _ = answered.send(());
            outcome
        }));
        let kill = async {
            for _ in 0..=round * 5 {
                seen.recv().await;
            }
            drop(doomed);
        };
        let (outcomes, ()) = tokio::join!(posts, kill);
        // A client that got no answer asks again, elsewhere.
        let mut ids = BTreeSet::new();
        for outcome in outcomes {
            ids.insert(match outcome {
                Ok(id) => id,
                Err(_) => post(&other).await.unwrap(),
            });
        }
        assert_eq!(ids.len(), 1, "round {round}: {ids:?}");
        let jobs: i64 = sqlx::query_scalar("select count(*) from jobs").fetch_one(&db.pool).await.unwrap();
        assert_eq!(jobs, round + 1);
    }
}

#[tokio::test]
async fn a_history_is_read_page_by_page() {
    let api = Api::start().await;
    let id = api.job().await;
    for what in ["pause", "resume", "pause", "cancel"] {
        api.ask(&format!("/v1/jobs/{id}/{what}")).await.expect(202);
    }
    let page = async |query: &str| {
        let page = api.get(&format!("/v1/jobs/{id}/events{query}")).await.expect(200);
        let seqs: Vec<_> =
            page["data"].as_array().unwrap().iter().map(|event| event["seq"].as_i64().unwrap()).collect();
        (seqs, page["has_more"].as_bool().unwrap())
    };
    assert_eq!(page("").await, (vec![1, 2, 3, 4, 5], false));
    assert_eq!(page("?limit=2").await, (vec![1, 2], true));
    assert_eq!(page("?limit=2&after=3").await, (vec![4, 5], false));
    assert_eq!(page("?after=5").await, (vec![], false));
    for query in ["limit=0", "limit=1001", "after=-1", "before=3"] {
        api.get(&format!("/v1/jobs/{id}/events?{query}")).await.problem(400);
    }
}

#[tokio::test]
async fn the_list_is_newest_first_and_its_pages_are_stable() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.insert(0, api.job().await);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/jobs?limit=2".to_owned();
    loop {
        let page = api.get(&path).await.expect(200);
        seen.extend(page["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        api.job().await;
        let Some(next) = page["next"].as_str() else {
            assert_eq!(page["has_more"], false);
            break;
        };
        assert_eq!(page["has_more"], true);
        path = format!("/v1/jobs?limit=2&after={next}");
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn the_list_is_filtered_by_status_and_label() {
    let api = Api::start().await;
    let post = async |labels: Value| {
        let mut job = plain_job();
        job["labels"] = labels;
        api.post("/v1/jobs", &job).await.expect(201)["id"].as_str().unwrap().to_owned()
    };
    let one = post(json!({"team": "vision", "run": "a:b"})).await;
    let two = post(json!({"team": "vision"})).await;
    let three = post(json!({"team": "audio"})).await;
    api.ask(&format!("/v1/jobs/{two}/cancel")).await.expect(202);
    api.ask(&format!("/v1/jobs/{three}/pause")).await.expect(202);
    let list = async |query: &str| {
        let page = api.get(&format!("/v1/jobs?{query}")).await.expect(200);
        page["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("status=queued").await, [one.as_str()]);
    assert_eq!(list("status=cancelled&status=paused").await, [three.as_str(), &two]);
    assert_eq!(list("label=team:vision").await, [two.as_str(), &one]);
    assert_eq!(list("label=team:vision&label=run:a:b").await, [one.as_str()]);
    assert_eq!(list("label=team:vision&status=cancelled").await, [two.as_str()]);
    assert!(list("label=team:vision&label=team:audio").await.is_empty());
    for (query, word) in [
        ("status=done", "queued"),
        ("label=team", "key:value"),
        ("limit=101", "1 to 100"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("after=1", "after"),
        ("offset=3", "offset"),
    ] {
        api.get(&format!("/v1/jobs?{query}")).await.says(400, &[word]);
    }
}

#[tokio::test]
async fn what_a_user_asks_of_a_job_is_done_or_refused_by_its_status() {
    let api = Api::start().await;
    let ask = async |id: &str, what: &str| api.ask(&format!("/v1/jobs/{id}/{what}")).await;
    let id = api.job().await;
    assert_eq!(ask(&id, "pause").await.expect(202)["status"], "paused");
    assert_eq!(ask(&id, "pause").await.expect(202)["status"], "paused", "it is what was asked for");
    ask(&id, "retry").await.says(409, &[&id, "is paused", "retried"]);
    assert_eq!(ask(&id, "resume").await.expect(202)["status"], "queued");
    ask(&id, "resume").await.says(409, &["is queued"]);
    let hold = api.claim().await;
    assert_eq!(ask(&id, "pause").await.expect(202)["status"], "pausing");
    queue::stopped(&api.db.pool, &hold.write()).await.unwrap();
    assert_eq!(status(&api, &id).await, "paused");
    ask(&id, "resume").await.expect(202);
    let hold = api.claim().await;
    let running = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&running["status"], &running["attempt"]), (&json!("running"), &json!(2)));
    assert!(running["started_at"].is_string());
    assert_eq!(ask(&id, "cancel").await.expect(202)["status"], "cancelling");
    queue::stopped(&api.db.pool, &hold.write()).await.unwrap();
    let cancelled = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!(cancelled["status"], "cancelled");
    assert!(cancelled["finished_at"].is_string());
    assert_eq!(ask(&id, "cancel").await.expect(202)["status"], "cancelled");
    ask(&id, "pause").await.says(409, &["is cancelled"]);
    let retried = ask(&id, "retry").await.expect(202);
    assert_eq!((&retried["status"], &retried["finished_at"]), (&json!("queued"), &Value::Null));
    let hold = api.claim().await;
    let failure = Failure { class: ErrorClass::Numeric, message: "the loss is not finite at step 7".into() };
    assert_eq!(queue::fail(&api.db.pool, &hold.write(), &failure).await.unwrap(), Some(Status::Failed));
    let failed = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!(failed["error"], json!({"class": "numeric", "message": "the loss is not finite at step 7"}));
    let retried = ask(&id, "retry").await.expect(202);
    assert_eq!(retried["error"], Value::Null);
    assert_eq!(retried["max_attempts"], retried["attempt"].as_i64().unwrap() + 3, "as often as a new job");
    api.publish(&api.claim().await, &[("student.safetensors", b"abcd")]).await;
    let done = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&done["status"], &done["result"]["best_top1"]), (&json!("succeeded"), &json!(76.3)));
    for what in ["cancel", "pause", "resume", "retry"] {
        ask(&id, what).await.says(409, &["is succeeded"]);
        ask("job_00000000000000000000000000", what).await.problem(404);
        ask("nonsense", what).await.says(404, &["job_ followed by 26"]);
    }
    let events = api.get(&format!("/v1/jobs/{id}/events?limit=1000")).await.expect(200);
    let seqs: Vec<_> = events["data"].as_array().unwrap().iter().map(|event| event["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, (1..=i64::try_from(seqs.len()).unwrap()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_finished_job_is_deleted_with_its_files() {
    let api = Api::start().await;
    let id = api.job().await;
    let path = format!("/v1/jobs/{id}");
    api.delete(&path).await.says(409, &["is queued", "deleted"]);
    let hold = api.claim().await;
    api.delete(&path).await.says(409, &["is running"]);
    api.publish(&hold, &[("student.safetensors", b"abcd")]).await;
    let files = api.dir.path().join("storage/jobs").join(&id);
    assert!(files.exists());
    // Its student is somebody's teacher.
    let student = api.post("/v1/jobs", &student_job(json!({"job": id}))).await.expect(201);
    let student = student["id"].as_str().unwrap();
    api.delete(&path).await.says(409, &[student]);
    api.ask(&format!("/v1/jobs/{student}/cancel")).await.expect(202);
    assert!(api.delete(&path).await.expect(204).is_null());
    api.get(&path).await.problem(404);
    api.delete(&path).await.problem(404);
    let left = api.store.size(&format!("jobs/{id}/attempts/1/student.safetensors")).await.unwrap();
    assert_eq!(left, None);
    for below in ["events", "metrics", "artifacts", "student", "stream", "artifacts/manifest.json"] {
        api.get(&format!("{path}/{below}")).await.says(404, &["there is no job"]);
    }
    api.ask(&format!("/v1/jobs/{student}/retry")).await.says(409, &["has been deleted"]);
}

#[tokio::test]
async fn requests_for_the_same_job_at_once_are_done_one_after_the_other() {
    let api = Api::start().await;
    let id = api.job().await;
    let ask = |what: &'static str| api.ask(Box::leak(format!("/v1/jobs/{id}/{what}").into_boxed_str()));
    let asked = (0..30).map(|at| ask(["pause", "resume", "cancel"][at % 3]));
    for answer in futures::future::join_all(asked).await {
        assert!([202, 409].contains(&answer.status.as_u16()), "{answer:?}");
    }
    assert_eq!(status(&api, &id).await, "cancelled");
    tokio::time::timeout(Duration::from_secs(5), api.delete(&format!("/v1/jobs/{id}"))).await.unwrap().expect(204);
}

#[tokio::test]
async fn what_a_job_was_posted_with_is_kept_to_the_byte() {
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
async fn the_attempts_tell_who_ran_them_where_they_went_on_from_and_how_they_ended() {
    let api = Api::start().await;
    let id = api.job().await;
    let path = format!("/v1/jobs/{id}/attempts");
    assert_eq!(api.get(&path).await.expect(200), json!({"data": []}));

    let hold = api.claim().await;
    let running = &api.get(&path).await.expect(200)["data"][0];
    assert_eq!((&running["attempt"], &running["worker"]), (&json!(1), &json!("wrk_TEST")));
    assert_eq!((&running["outcome"], &running["resumed_step"]), (&Value::Null, &Value::Null));

    let started = Started {
        device: "cpu".into(),
        precision: "float32".into(),
        threads: 2,
        train_images: 640,
        eval_images: 64,
        classes: 10,
        steps_per_epoch: 10,
        epochs: 4,
        resumed_epochs: 3,
        resumed_step: 30,
    };
    assert!(queue::started(&api.db.pool, &hold.write(), &started).await.unwrap());
    api.publish(&hold, &[("student.safetensors", b"x")]).await;
    let ended = &api.get(&path).await.expect(200)["data"][0];
    assert_eq!((&ended["outcome"], &ended["device"]), (&json!("succeeded"), &json!("cpu")));
    assert_eq!((&ended["resumed_epochs"], &ended["resumed_step"]), (&json!(3), &json!(30)));
    let time = |field: &str| chrono::DateTime::parse_from_rfc3339(ended[field].as_str().unwrap()).unwrap();
    assert!(time("runnable_at") <= time("started_at") && time("started_at") <= time("ended_at"));
    api.get(&format!("/v1/jobs/job_{}/attempts", "0".repeat(26))).await.says(404, &["there is no job"]);
}

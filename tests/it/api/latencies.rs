//! Promise: finished students are measured on the server's CPU, and who exceeds a bound is said, before training where
//! the network alone decides it.

use distillery::db::latencies::{self, BatchLatency, Latency};
use serde_json::{Value, json};

use super::networks::{efficientnet, uploaded};
use crate::support::api::{Api, checkpoint, outcome, plain_job};
use crate::support::eventually;
use crate::support::process::write_script;

/// A server that measures, with the ONNX Runtime that the tests have.
async fn measuring() -> Api {
    let library = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/onnxruntime/libonnxruntime.so");
    assert!(library.exists(), "{} is missing: run `scripts/setup onnxruntime`", library.display());
    Api::start_with(|settings| {
        settings.onnxruntime = library;
        settings.measure_latency = true;
    })
    .await
}

/// A job that has published these bytes as its student.
async fn published(api: &Api, student: &[u8]) -> String {
    let id = api.job().await;
    let files: [(&str, &[u8]); 2] = [("student.safetensors", student), ("student-last.safetensors", student)];
    api.publish(&api.claim().await, &files).await;
    id
}

/// Waits until something is known of a job's student.
async fn measured(api: &Api, id: &str) -> Value {
    eventually("the student is measured", async || {
        let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
        job["student_latency"].is_object().then(|| job["student_latency"].clone())
    })
    .await
}

fn latency(cpu: &str, one: f64, sixty_four: f64) -> Latency {
    let batch = |batch, median_ms| BatchLatency { batch, median_ms, fastest_ms: median_ms, runs: 3 };
    Latency {
        cpu: cpu.to_owned(),
        runtime: "ONNX Runtime 1.0".to_owned(),
        load: 0.5,
        processors: 2,
        batches: vec![batch(1, one), batch(64, sixty_four)],
        notes: Vec::new(),
    }
}

#[tokio::test]
async fn a_finished_student_is_measured_with_1_and_64_images() {
    let api = measuring().await;
    let id = published(&api, &checkpoint("resnet8", 10)).await;
    let found = measured(&api, &id).await;
    let latency: Latency = serde_json::from_value(found["latency"].clone()).unwrap_or_else(|_| panic!("{found:#}"));
    assert_eq!(latency.batches.iter().map(|batch| batch.batch).collect::<Vec<_>>(), [1, 64]);
    assert!(latency.batches.iter().all(|batch| batch.runs >= 3 && batch.fastest_ms <= batch.median_ms), "{latency:?}");
    assert!(latency.runtime.starts_with("ONNX Runtime 1."), "{latency:?}");
    let pareto = api.get("/v1/pareto").await.expect(200);
    assert_eq!((&pareto["data"][0]["id"], &pareto["not_measured"]), (&json!(id), &Value::Null));
    assert_eq!(pareto["data"][0]["latency"], found["latency"]);
}

#[tokio::test]
async fn a_student_that_cannot_be_measured_says_why_and_does_not_keep_others_from_it() {
    let api = measuring().await;
    let faulty = published(&api, b"no weights").await;
    let sound = published(&api, &checkpoint("resnet8", 10)).await;
    assert!(measured(&api, &sound).await["latency"].is_object());
    let found = measured(&api, &faulty).await;
    assert!(found["latency"].is_null() && found["failure"].as_str().is_some_and(|text| !text.is_empty()), "{found}");
}

#[tokio::test]
async fn what_a_measurement_writes_is_where_the_next_server_removes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (program, seen, spool) = (dir.path().join("program"), dir.path().join("seen"), dir.path().join("spool"));
    // It has the server's end of its life to expect at any time, and cannot remove what it wrote.
    let look = r#"cd "$TMPDIR/.." && pwd -P && ls && env | cut -d = -f 1 | grep -i -e token -e secret -e database"#;
    let note = format!("mv '{0}.part' '{0}'", seen.display());
    write_script(&program, &format!("#!/bin/sh\n({look}) > '{}.part'\n{note}\nexit 1\n", seen.display()));
    let api = Api::start_with(|settings| {
        (settings.program, settings.spool_dir, settings.measure_latency) = (program, spool.clone(), true);
    })
    .await;
    published(&api, b"weights").await;
    eventually("the student is measured", async || seen.exists().then_some(())).await;
    let seen = std::fs::read_to_string(seen).unwrap();
    let (place, content) = seen.split_once('\n').unwrap();
    assert_eq!(content, "files\nlock\n", "what is removed with its lock, and no secret");
    assert_eq!(std::path::Path::new(place).parent(), Some(spool.canonicalize().unwrap().as_path()));
}

#[tokio::test]
async fn without_onnx_runtime_the_answer_says_that_nothing_is_measured() {
    let api = Api::start_with(|settings| {
        settings.onnxruntime = "/nowhere/libonnxruntime.so".into();
        settings.measure_latency = true;
    })
    .await;
    let dry_run = api.post("/v1/jobs?dry_run=true&latency_ms=5", &plain_job()).await.expect(200);
    let qualification = &dry_run["qualification"];
    assert_eq!((&qualification["qualifies"], &qualification["unknown"]), (&Value::Null, &json!(["latency_ms"])));
    let says = |reason: &Value| {
        let words = ["ONNX Runtime is not here", "pip install onnxruntime", "--onnxruntime", "DISTILLERY_ONNXRUNTIME"];
        assert!(words.iter().all(|words| reason.as_str().unwrap().contains(words)), "{reason}");
    };
    says(&qualification["latency_unknown"]);
    let pareto = api.get("/v1/pareto").await.expect(200);
    says(&pareto["not_measured"]);
    let succeeded = published(&api, b"student").await;
    says(&api.get(&format!("/v1/jobs/{succeeded}")).await.expect(200)["latency_not_measured"]);
    let queued = api.job().await;
    assert_eq!(api.get(&format!("/v1/jobs/{queued}")).await.expect(200).get("latency_not_measured"), None);
}

#[tokio::test]
async fn an_untrained_network_that_is_too_slow_is_said_before_training() {
    let api = measuring().await;
    let job = plain_job();
    let fast = api.post("/v1/jobs?dry_run=true&latency_ms=1e9", &job).await.expect(200);
    assert_eq!(fast["qualification"]["qualifies"], true, "{fast}");
    let slow = api.post("/v1/jobs?dry_run=true&latency_ms=0.000001", &job).await.expect(200);
    assert_eq!(slow["qualification"]["missed"][0]["constraint"], "latency_ms", "{slow}");
    let says = |warnings: &Value| warnings.to_string().contains("the student cannot qualify");
    assert!(says(&slow["warnings"]) && !says(&fast["warnings"]));
    // An exported network is measured with the weights that it brings.
    let mut own = plain_job();
    own["student"] = json!({"checkpoint": uploaded(&api, "own.pt2", efficientnet()).await});
    let own = api.post("/v1/jobs?dry_run=true&latency_64_ms=0.000001", &own).await.expect(200);
    assert_eq!(own["qualification"]["missed"][0]["constraint"], "latency_64_ms", "{own}");
}

#[tokio::test]
async fn a_sweep_is_answered_in_time_however_long_its_networks_take_to_measure() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    write_script(&program, "#!/bin/sh\nexec sleep 600\n");
    let api = Api::start_with(|settings| {
        (settings.program, settings.measure_latency) = (program, true);
        settings.timeout = std::time::Duration::from_secs(15);
    })
    .await;
    let document = json!({
        "name": "students",
        "base": plain_job(),
        "axes": {"/student/architecture": ["resnet8", "resnet14"]},
    });
    let dry_run = api.post("/v1/sweeps?dry_run=true&latency_ms=5", &document).await.expect(200);
    for combination in dry_run["combinations"].as_array().unwrap() {
        let qualification = &combination["qualification"];
        assert_eq!(qualification["unknown"], json!(["latency_ms"]), "{qualification}");
        assert!(qualification["latency_unknown"].as_str().unwrap().contains("12 s: ask again"), "{qualification}");
    }
}

#[tokio::test]
async fn a_student_that_is_too_large_is_said_before_training_without_measuring() {
    let api = Api::start().await;
    let dry_run = api.post("/v1/jobs?dry_run=true&size_mb=0.1&parameters=1000000", &plain_job()).await.expect(200);
    let missed = dry_run["qualification"]["missed"].as_array().unwrap();
    assert_eq!(missed.len(), 1, "{dry_run}");
    assert_eq!((&missed[0]["constraint"], &missed[0]["most"]), (&json!("size_mb"), &json!(0.1)));
    let posted = api.post("/v1/jobs?size_mb=0.1", &plain_job()).await.expect(201);
    let path = format!("/v1/jobs/{}/events", posted["id"].as_str().unwrap());
    let history = api.get(&path).await.expect(200);
    assert!(history["data"].to_string().contains("the student cannot qualify"), "{history}");
    let none = api.post("/v1/jobs?dry_run=true", &plain_job()).await.expect(200);
    assert_eq!(none["qualification"], Value::Null);
}

#[tokio::test]
async fn the_front_has_students_that_no_other_beats_on_the_same_cpu() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for latency in [latency("one", 2.0, 90.0), latency("one", 3.0, 80.0), latency("other", 9.0, 900.0)] {
        let id = published(&api, b"weights").await;
        latencies::insert(&api.db.pool, &id, Ok(&latency)).await.unwrap();
        ids.push(id);
    }
    let unmeasured = published(&api, b"weights").await;
    let pareto = api.get("/v1/pareto?latency_ms=2.5&size_mb=4").await.expect(200);
    assert_eq!(pareto["total"], 4);
    let find = |id: &String| pareto["data"].as_array().unwrap().iter().find(|one| one["id"] == **id).unwrap();
    let size = outcome().student.size_bytes as f64 / 1e6;
    assert_eq!(find(&ids[0])["size_mb"], size);
    let verdicts = ids.iter().chain([&unmeasured]).map(|id| find(id)["qualifies"].clone()).collect::<Vec<_>>();
    assert_eq!(verdicts, [json!(true), json!(false), json!(false), Value::Null]);
    // All are as accurate, as large and have as many parameters.
    let front = |id: &String| find(id)["front"].clone();
    assert_eq!(front(&ids[0]), json!(["latency_ms", "size_mb", "parameters"]));
    assert_eq!(front(&ids[1]), json!(["latency_64_ms", "size_mb", "parameters"]));
    assert_eq!(front(&ids[2]), json!(["latency_ms", "latency_64_ms", "size_mb", "parameters"]), "alone on its CPU");
    assert_eq!(front(&unmeasured), json!(["size_mb", "parameters"]));
    let none = api.get("/v1/pareto?dataset=hundred").await.expect(200);
    assert_eq!((&none["total"], none["data"].as_array().unwrap().len()), (&json!(0), 0));
}

#[tokio::test]
async fn what_is_measured_is_stored_whatever_it_says_and_read_whatever_stored_it() {
    let api = Api::start().await;
    let [strange, refused, foreign] =
        [published(&api, b"1").await, published(&api, b"2").await, published(&api, b"3").await];
    let noted = Latency { notes: vec!["a node a\0b".to_owned()], ..latency("one", 2.0, 90.0) };
    latencies::insert(&api.db.pool, &strange, Ok(&noted)).await.unwrap();
    latencies::insert(&api.db.pool, &refused, Err("no operator for a\0b")).await.unwrap();
    let newer =
        sqlx::query("insert into student_latencies (job_id, latency) values ($1, '{\"p50\": 3}')").bind(&foreign);
    newer.execute(&api.db.pool).await.unwrap();
    // Of one that a newer program trained, even less can be read.
    let newer = published(&api, b"4").await;
    api.db.set(&newer, r#"result = '{"student": {"size_bytes": "4 MB"}}'"#).await;
    let pareto = api.get("/v1/pareto").await.expect(200);
    assert_eq!((&pareto["total"], pareto["data"].as_array().unwrap().len()), (&json!(3), 3));
    let find = |id: &String| pareto["data"].as_array().unwrap().iter().find(|one| one["id"] == **id).unwrap();
    assert_eq!(find(&strange)["latency"]["notes"], json!(["a node a\u{fffd}b"]));
    assert_eq!(find(&refused)["latency_failure"], "no operator for a\u{fffd}b");
    for failure in [
        &find(&foreign)["latency_failure"],
        &api.get(&format!("/v1/jobs/{foreign}")).await.expect(200)["student_latency"]["failure"],
    ] {
        assert!(failure.as_str().unwrap().contains("another version of the program"), "{failure}");
    }
}

#[tokio::test]
async fn a_bound_that_is_no_positive_number_is_refused() {
    let api = Api::start().await;
    for query in ["latency_ms=0", "size_mb=-1", "parameters=nan", "latency_64_ms=inf", "latency_ms=fast", "size=4"] {
        api.get(&format!("/v1/pareto?{query}")).await.problem(400);
    }
    api.post("/v1/jobs?dry_run=true&latency_ms=0", &plain_job()).await.says(400, &["latency_ms", "positive"]);
    let expected = ["size_mb", "expected a number, found \"abc\""];
    api.post("/v1/jobs?dry_run=true&size_mb=abc", &plain_job()).await.says(400, &expected);
    api.get("/v1/pareto?size_mb=abc").await.says(400, &expected);
}

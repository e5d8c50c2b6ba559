//! Sweeps are posted, listed and read.

use reqwest::Method;
use serde_json::{Value, json};

use super::{claim, get, halving, id, post, settings_of, sweep, train_all};
use crate::support::api::{Api, checkpoint, plain_job, student_job};

async fn jobs(api: &Api) -> usize {
    let count: i64 = sqlx::query_scalar("select count(*) from jobs").fetch_one(&api.db.pool).await.unwrap();
    usize::try_from(count).unwrap()
}

#[tokio::test]
async fn one_request_makes_a_job_for_each_combination_and_seed() {
    let api = Api::start().await;
    let document = sweep(&[0.1, 0.01], json!({"seeds": 2, "max_parallel": 3}));
    let answer = api.post("/v1/sweeps", &document).await;
    let location = answer.header("location").to_owned();
    let made = answer.expect(201);
    assert_eq!(location, format!("/v1/sweeps/{}", id(&made)));
    assert_eq!(
        (&made["status"], &made["combinations"], &made["jobs"]),
        (&json!("running"), &json!(2), &json!({"queued": 4}))
    );
    assert_eq!(made["strategy"], json!({"type": "grid"}));
    let axes = json!([{"pointer": "/training/optimizer/learning_rate", "values": [0.1, 0.01]}]);
    assert_eq!(made["axes"], axes);
    let listed = api.get(&format!("/v1/jobs?sweep={}", id(&made))).await.expect(200);
    let mut found = Vec::new();
    for job in listed["data"].as_array().unwrap() {
        assert_eq!(job["sweep"], made["id"]);
        found.push(settings_of(&api, id(job)).await);
    }
    // Newest first; the first seed of all combinations runs before the second of any.
    assert_eq!(found, [(0.01, 1), (0.1, 1), (0.01, 0), (0.1, 0)]);
    assert_eq!(listed["data"][3]["name"], "rates: learning_rate 0.1, run 1");
    let summaries = api.get(&format!("/v1/summaries?sweep={}", id(&made))).await.expect(200);
    assert_eq!(summaries["total"], 4);
    // A job's own document can be posted again.
    let submitted = api.get(&format!("/v1/jobs/{}/submitted", id(&listed["data"][0]))).await.expect(200);
    let again = api.post("/v1/jobs", &submitted).await.expect(201);
    assert_eq!(again["spec"], listed["data"][0]["spec"]);
    assert_eq!(again["sweep"], Value::Null);
    assert_eq!(api.get(&format!("/v1/sweeps/{}/submitted", id(&made))).await.expect(200), document);
    let list = api.get("/v1/sweeps").await.expect(200);
    assert_eq!((&list["data"][0]["id"], &list["has_more"]), (&made["id"], &json!(false)));
    api.get("/v1/sweeps?after=swp_x").await.problem(400);
    api.get("/v1/sweeps/swp_01KB3Z6V0Q2M5K8N1R4T7W9XYZ").await.problem(404);
}

#[tokio::test]
async fn the_example_is_accepted_without_doubts_about_what_is_left_out() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let api = Api::start_with(|settings| settings.datasets_dir = root.join("examples/data")).await;
    let read = |name: &str| std::fs::read_to_string(root.join("examples/digits").join(name)).unwrap();
    let teacher: Value = serde_json::from_str(&read("teacher.json")).unwrap();
    let teacher = api.post("/v1/jobs", &teacher).await.expect(201);
    let example = read("sweep.json").replace("$TEACHER", id(&teacher));
    let made = post(&api, &serde_json::from_str(&example).unwrap()).await;
    assert_eq!(
        (&made["combinations"], &made["jobs"], &made["next_rung"]),
        (&json!(12), &json!({"queued": 36}), &json!(2))
    );
    let warnings: Vec<_> = made["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let is_expected = |warning: &&str| !warning.contains("left out") && !warning.contains("teacher_cache");
    assert!(warnings.iter().all(is_expected), "{warnings:#?}");
}

#[tokio::test]
async fn a_key_makes_one_sweep_however_often_it_is_sent() {
    let api = Api::start().await;
    let send = |document: Value| {
        api.send(api.request(Method::POST, "/v1/sweeps").header("idempotency-key", "once").json(&document))
    };
    let answers = futures::future::join_all((0..20).map(|_| send(sweep(&[0.1, 0.2], json!({}))))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert!(answers.iter().all(|answer| answer.status == 201 || answer.status == 200));
    let ids: std::collections::BTreeSet<_> = answers.iter().map(|answer| answer.json()["id"].to_string()).collect();
    assert_eq!((ids.len(), jobs(&api).await), (1, 2));
    send(sweep(&[0.1], json!({}))).await.says(422, &["Idempotency-Key", "swp_"]);
}

#[tokio::test]
async fn a_fault_of_any_job_keeps_the_whole_sweep_from_being_made() {
    let api = Api::start().await;
    let mut document = sweep(&[0.1], json!({}));
    document["axes"]["/training/batch_size"] = json!([32, 0, 64]);
    document["axes"]["/training/schedule"] = json!([{"type": "cosine"}, {"type": "cosinus"}]);
    let problem = api.post("/v1/sweeps", &document).await.problem(422);
    let faults = problem["errors"].as_array().unwrap().iter();
    let mut pointers: Vec<_> = faults.map(|fault| fault["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/axes/~1training~1batch_size/1", "/axes/~1training~1schedule/1/type"], "{problem}");
    // What is wrong in every combination is said once, and what is wrong in some says in which.
    let mut document = sweep(&[0.1, 0.2], json!({}));
    document["base"]["dataset"]["name"] = json!("missing");
    document["base"]["distillation"] = json!({"alpha": 1.0});
    document["base"]["teacher"] = json!({"architecture": "resnet20", "checkpoint": "ckpt_missing"});
    document["axes"]["/distillation/method"] = json!(["kd", "dkd"]);
    let problem = api.post("/v1/sweeps", &document).await.problem(422);
    let faults = problem["errors"].as_array().unwrap();
    let of = |pointer: &str| faults.iter().filter(|fault| fault["pointer"] == pointer).collect::<Vec<_>>();
    assert_eq!(of("/base/dataset/name").len(), 1, "{problem}");
    let alpha = of("/base/distillation/alpha");
    assert!(!alpha.is_empty() && alpha[0]["detail"].as_str().unwrap().contains("(with method kd"), "{problem}");
    api.post("/v1/sweeps", &json!({"base": plain_job()})).await.says(422, &["/axes"]);
    assert_eq!(jobs(&api).await, 0);
    assert_eq!(api.get("/v1/sweeps").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn seeds_among_the_axes_are_warned_of_because_they_are_not_pooled() {
    let api = Api::start().await;
    let warned = async |axes: Value, seeds: u32| {
        let document = json!({"base": plain_job(), "axes": axes, "seeds": seeds});
        let checked = api.post("/v1/sweeps?dry_run=true", &document).await.expect(200);
        checked["warnings"].to_string().contains(r#"write \"seeds\": 3"#)
    };
    assert!(warned(json!({"/training/seed": [0, 1, 2]}), 1).await);
    assert!(warned(json!({"/training": [{"seed": 0}, {"seed": 1}, {"seed": 2}]}), 1).await);
    assert!(!warned(json!({"/training/optimizer/learning_rate": [0.1, 0.2]}), 3).await);
}

#[tokio::test]
async fn a_sweep_says_if_its_teacher_is_evaluated_for_every_seed() {
    let api = Api::start().await;
    let teacher = api.upload("?architecture=resnet20", checkpoint("resnet20", 10)).await.expect(201);
    let warned = async |training: Value, seeds: u32| {
        let mut document = sweep(&[0.1, 0.2], json!({"seeds": seeds}));
        document["base"] = student_job(json!({"architecture": "resnet20", "checkpoint": id(&teacher)}));
        document["base"]["training"] = training;
        let checked = api.post("/v1/sweeps?dry_run=true", &document).await.expect(200);
        checked["warnings"].to_string().contains(&format!("each of the {seeds} seeds has views of its own"))
    };
    let views = json!({"augmentation": "crop_flip", "teacher_cache": "views:4"});
    assert!(warned(views.clone(), 3).await);
    assert!(!warned(views, 1).await);
    assert!(!warned(json!({"augmentation": "none"}), 3).await);
}

#[tokio::test]
async fn rungs_fit_the_training_of_the_jobs() {
    let api = Api::start().await;
    let mut document = sweep(&[0.1, 0.2], json!({"strategy": halving(&[3, 8], 0.5)}));
    document["base"]["training"] = json!({"epochs": 10});
    api.post("/v1/sweeps", &document).await.says(422, &["/strategy/rungs", "10 epochs"]);
    document["base"]["training"] = json!({"eval_every_epochs": 2});
    let problem = api.post("/v1/sweeps", &document).await.problem(422);
    assert_eq!(problem["errors"][0]["pointer"], "/strategy/rungs/0", "{problem}");
    document["strategy"] = halving(&[2, 8], 0.5);
    let made = post(&api, &document).await;
    assert_eq!(made["next_rung"], 2);
}

#[tokio::test]
async fn combinations_that_are_the_same_job_are_made_once_and_said() {
    let api = Api::start().await;
    let mut document = sweep(&[0.1], json!({}));
    document["axes"]["/training/epochs"] = json!([240, null, 10]);
    let made = post(&api, &document).await;
    assert_eq!((&made["combinations"], &made["jobs"]), (&json!(2), &json!({"queued": 2})));
    let warning = made["warnings"][0].as_str().unwrap();
    assert!(warning.contains("combination 2 is left out"), "{warning}");
}

#[tokio::test]
async fn a_sweep_keeps_doubts_and_its_dry_run_has_what_was_decided_as_well() {
    let api = Api::start().await;
    let teacher = api.upload("?architecture=resnet20", checkpoint("resnet20", 10)).await.expect(201);
    let mut document = sweep(&[0.1, 0.0], json!({}));
    document["base"] = student_job(json!({"architecture": "resnet20", "checkpoint": id(&teacher)}));
    document["base"]["distillation"] = json!({"method": "kd", "logit_standardisation": true});
    let about = |answer: &Value, word: &str| -> Vec<String> {
        let warnings = answer["warnings"].as_array().unwrap().iter().filter_map(Value::as_str);
        warnings.filter(|warning| warning.contains(word)).map(str::to_owned).collect()
    };
    let dry_run = api.post("/v1/sweeps?dry_run=true", &document).await.expect(200);
    let made = post(&api, &document).await;
    for answer in [&dry_run, &made] {
        let doubts = about(answer, "no weight will change");
        assert_eq!(doubts.len(), 1, "{answer:#}");
        assert!(doubts[0].starts_with("combination 2: "), "{doubts:?}");
    }
    assert_eq!(about(&dry_run, "distillation.temperature is").len(), 1, "{dry_run:#}");
    assert!(about(&made, "distillation.temperature is").is_empty(), "{made:#}");
}

#[tokio::test]
async fn a_dry_run_counts_jobs_and_estimates_device_hours_and_memory_and_makes_nothing() {
    let api = Api::start().await;
    let mut document = sweep(&[0.1, 0.2, 0.3], json!({"seeds": 2, "strategy": halving(&[1, 2, 4], 0.3)}));
    document["axes"]["/training/batch_size"] = json!([64, 128]);
    let dry_run = async || api.post("/v1/sweeps?dry_run=true", &document).await.expect(200);
    let unmeasured = dry_run().await;
    assert_eq!((&unmeasured["jobs"], &unmeasured["device_hours"]), (&json!(12), &Value::Null));
    let warnings = unmeasured["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning.as_str().unwrap().contains("no worker is running")), "{warnings:?}");
    // 6 combinations for 1 epoch, 2 for 1 and 1 for 2, of 6 for 4.
    let part = unmeasured["trained_part"].as_f64().unwrap();
    assert!((part - 10.0 / 24.0).abs() < 1e-9, "{part}");
    let combinations = unmeasured["combinations"].as_array().unwrap();
    let memory: Vec<_> = combinations.iter().map(|one| one["memory_bytes"].as_u64().unwrap()).collect();
    assert_eq!(unmeasured["memory"]["total_bytes"].as_u64(), memory.iter().max().copied());
    assert_eq!(jobs(&api).await, 0);
    // A job that has been measured.
    let measured = api.job().await;
    api.claim().await;
    sqlx::query("update attempts set device = 'cpu' where job_id = $1")
        .bind(&measured)
        .execute(&api.db.pool)
        .await
        .unwrap();
    api.db.set(&measured, "progress = '{\"images_per_second\": 100}'").await;
    let dry_run = dry_run().await;
    let seconds: f64 = dry_run["combinations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| 2.0 * one["time"]["seconds"].as_f64().expect("an estimate"))
        .sum();
    let hours = dry_run["device_hours"].as_f64().unwrap();
    assert!((hours * 3600.0 / part / seconds - 1.0).abs() < 1e-9, "{dry_run:#}");
    assert_eq!(dry_run["device"], "cpu");
}

#[tokio::test]
async fn students_that_cannot_keep_the_constraints_are_said_before_training() {
    let api = Api::start().await;
    let document = json!({
        "name": "students",
        "base": plain_job(),
        "axes": {"/student/architecture": ["resnet8", "resnet20"], "/training/epochs": [1, 2]},
    });
    let dry_run = api.post("/v1/sweeps?dry_run=true&size_mb=0.5", &document).await.expect(200);
    let combinations = dry_run["combinations"].as_array().unwrap();
    let qualify: Vec<_> = combinations.iter().map(|one| &one["qualification"]["qualifies"]).collect();
    assert_eq!(qualify, [true, true, false, false], "{dry_run:#}");
    let made = api.post("/v1/sweeps?size_mb=0.5", &document).await.expect(201);
    for answer in [&dry_run, &made] {
        let warning = answer["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with("2 combinations, such as 3: the student cannot qualify"), "{warning}");
    }
    let jobs = api.get(&format!("/v1/jobs?sweep={}", id(&made))).await.expect(200);
    let mut warned = Vec::new();
    for job in jobs["data"].as_array().unwrap() {
        let history = api.get(&format!("/v1/jobs/{}/events", id(job))).await.expect(200);
        let is_warned = history["data"].to_string().contains("the student cannot qualify");
        warned.push((job["spec"]["student"]["architecture"].clone(), is_warned));
    }
    assert!(warned.iter().all(|(student, is_warned)| (student == "resnet20") == *is_warned), "{warned:?}");
    let free = api.post("/v1/sweeps?dry_run=true", &document).await.expect(200);
    assert_eq!(free["combinations"][0]["qualification"], Value::Null);
    api.post("/v1/sweeps?dry_run=true&latency_ms=0", &document).await.says(400, &["latency_ms", "positive"]);
}

#[tokio::test]
async fn every_combination_has_mean_deviation_count_best_cost_and_rank() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.01], json!({"seeds": 3}))).await;
    train_all(&api, 2, |rate, seed| if rate > 0.05 { 70.0 } else { 80.0 + seed as f64 }).await;
    // As by the trainer.
    sqlx::query(
        "update jobs set best_top1 = (select max(value) from metrics where job_id = jobs.id),
            result = jsonb_set(result, '{student,sha256}', to_jsonb(id))",
    )
    .execute(&api.db.pool)
    .await
    .unwrap();
    let read = get(&api, &made).await;
    assert_eq!((&read["status"], &read["jobs"]), (&json!("finished"), &json!({"succeeded": 6})));
    let [best, worse] = read["results"].as_array().unwrap().as_slice() else { panic!("{read}") };
    assert_eq!(best["settings"], json!({"/training/optimizer/learning_rate": 0.01}));
    assert_eq!((&best["rank"], &best["number"], &worse["rank"]), (&json!(1), &json!(2), &json!(2)));
    assert_eq!(
        (&best["top1"], &best["deviation"], &best["n"], &best["best"]),
        (&json!(81.0), &json!(1.0), &json!(3), &json!(82.0))
    );
    assert_eq!((&worse["top1"], &worse["deviation"]), (&json!(70.0), &json!(0.0)));
    assert!(best["cost_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(best["curve"], json!([[1.0, 81.0], [2.0, 81.0]]));
    let pareto = api.get(&format!("/v1/pareto?sweep={}", id(&made))).await.expect(200);
    assert_eq!((&pareto["total"], pareto["data"].as_array().unwrap().len()), (&json!(6), 6));
    assert_eq!(api.get("/v1/pareto?sweep=swp_1").await.expect(200)["total"], 0);
    let seeds: Vec<_> = best["jobs"].as_array().unwrap().iter().map(|job| &job["seed"]).collect();
    assert_eq!(seeds, [0, 1, 2]);
    let answer = api.get(&format!("/v1/sweeps/{}?format=csv", id(&made))).await;
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    let text = answer.text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("rank,combination,/training/optimizer/learning_rate,top1,deviation,n,"), "{text}");
    assert!(lines[1].starts_with("1,2,0.01,81,1,3,0,82,"), "{text}");
    assert_eq!(lines.len(), 3);
}

#[tokio::test]
async fn jobs_of_a_sweep_over_scales_keep_the_teachers_logits_for_each_other() {
    let api = Api::start().await;
    let teacher = api.upload("?architecture=resnet20", checkpoint("resnet20", 10)).await.expect(201);
    let document = json!({
        "name": "scales",
        "base": student_job(json!({"architecture": "resnet20", "checkpoint": id(&teacher)})),
        "axes": {"/distillation/scales": [[1], [1, 2], [4]]},
    });
    post(&api, &document).await;
    api.job().await;
    let mut found = Vec::new();
    while let Some(claim) = claim(&api).await {
        // Also once the first have ended.
        api.publish(&claim.token, &[]).await;
        found.push(claim.sweep_scales);
    }
    assert_eq!(found, [vec![1, 2, 4], vec![1, 2, 4], vec![1, 2, 4], vec![]]);
}

#[tokio::test]
async fn the_same_job_twice_counts_once() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1], json!({"seeds": 2}))).await;
    train_all(&api, 2, |_, _| 70.0).await;
    // Another job of the combination with the same seed and the same bytes, as a retry elsewhere would leave it.
    sqlx::query("update jobs set spec = jsonb_set(spec, '{training,seed}', '0')").execute(&api.db.pool).await.unwrap();
    let read = get(&api, &made).await;
    assert_eq!((&read["results"][0]["n"], &read["results"][0]["copies"]), (&json!(1), &json!(1)));
}

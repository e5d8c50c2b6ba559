//! Promise: jobs can be grouped by anything that they have, and each group says how good it was over its seeds.

use distillery::db::queue;
use distillery::protocol::Outcome;
use serde_json::{Value, json};

use crate::support::api::{Api, checkpoint, outcome, plain_job, student_job};

/// A job that succeeded with this accuracy, and a student of its own.
async fn trained(api: &Api, mut job: Value, seed: u64, best_top1: f64) -> String {
    job["training"]["seed"] = json!(seed);
    let id = api.post("/v1/jobs", &job).await.expect(201)["id"].as_str().unwrap().to_owned();
    let token = api.claim().await;
    assert_eq!(token.job, id);
    let mut outcome = Outcome { best_top1, ..outcome() };
    outcome.student.sha256.clone_from(&id);
    assert!(queue::publish(&api.db.pool, &token.write(), &outcome, &[]).await.unwrap());
    id
}

/// `sdd_kd` at two temperatures and `kd`, two seeds each, and a job without a teacher.
async fn api_with_jobs() -> Api {
    let api = Api::start().await;
    let teacher = api.upload("?architecture=resnet20", checkpoint("resnet20", 10)).await.expect(201);
    let teacher = json!({"architecture": "resnet20", "checkpoint": teacher["id"]});
    let job = |method: &str, temperature: f64| {
        let mut job = student_job(teacher.clone());
        job["distillation"] = json!({"method": method, "temperature": temperature});
        let team = if method == "kd" { "edge" } else { "vision" };
        job["labels"] = json!({ "team": team });
        job
    };
    for (seed, offset) in [(0, 0.0), (1, 2.0)] {
        trained(&api, job("kd", 4.0), seed, 70.0 + offset).await;
        trained(&api, job("sdd_kd", 4.0), seed, 71.0 + offset).await;
        trained(&api, job("sdd_kd", 8.0), seed, 75.0 + offset).await;
    }
    trained(&api, plain_job(), 0, 60.0).await;
    api
}

async fn groups(api: &Api, query: &str) -> Value {
    api.get(&format!("/v1/groups{query}")).await.expect(200)
}

/// The values of each group, in order.
fn values(groups: &Value) -> Vec<&Value> {
    groups["data"].as_array().unwrap().iter().map(|group| &group["values"]).collect()
}

#[tokio::test]
async fn groups_by_method_and_setting_are_pooled_over_seeds_and_sorted() {
    let api = api_with_jobs().await;
    let by_method = groups(&api, "").await;
    assert_eq!(by_method["by"], json!(["method"]));
    assert_eq!(values(&by_method), [&json!(["sdd_kd"]), &json!(["kd"]), &json!(["none"])]);
    let both = groups(&api, "?by=method&by=/distillation/temperature").await;
    assert_eq!(both["total"], 4);
    let best = &both["data"][0];
    assert_eq!(best["values"], json!(["sdd_kd", 8.0]));
    assert_eq!((&best["top1"], &best["n"], &best["best"]), (&json!(76.0), &json!(2), &json!(77.0)));
    assert_eq!(best["deviation"].as_f64().unwrap(), 2.0_f64.sqrt());
    assert_eq!(best["jobs"].as_array().unwrap().len(), 2);
    // kd with the same teacher has 71 ± 1.41 on average, and plain training 60.
    assert_eq!((&best["gain"], &both["data"][1]["gain"]), (&json!(5.0), &json!(1.0)));
    assert_eq!(best["baseline_deviation"].as_f64().unwrap(), 2.0_f64.sqrt());
    let plain = &both["data"][3];
    assert_eq!((&plain["values"], &plain["gain"]), (&json!(["none", null]), &Value::Null));
    let ascending = groups(&api, "?by=/distillation/temperature&by=method&sort=gain&order=asc&limit=2&offset=1").await;
    assert_eq!(ascending["total"], 4);
    assert_eq!(values(&ascending), [&json!([8.0, "sdd_kd"]), &json!([4.0, "kd"])]);
}

#[tokio::test]
async fn groups_by_label_network_and_sweep_are_those_of_the_jobs_that_match() {
    let api = api_with_jobs().await;
    let by = groups(&api, "?by=label:team&by=teacher&by=student&by=dataset&by=sweep").await;
    assert_eq!(values(&by)[0], &json!(["vision", "resnet20", "resnet8", "ten", null]));
    assert_eq!(values(&by)[2], &json!([null, null, "resnet8", "ten", null]));
    assert_eq!(values(&groups(&api, "?label=team:edge").await), [&json!(["kd"])]);
    assert_eq!(values(&groups(&api, "?q=sdd").await), [&json!(["sdd_kd"])]);
    assert_eq!(values(&groups(&api, "?sweep=swp_none").await), Vec::<&Value>::new());
    assert_eq!(values(&groups(&api, "?label=team:a&label=team:b").await), Vec::<&Value>::new());
    for wrong in ["by=epochs", "by=label:", "by=/a//b", "sort=name", "by=a&by=a&by=a&by=a&by=a&by=a&by=a&by=a&by=a"] {
        api.get(&format!("/v1/groups?{wrong}")).await.problem(400);
    }
}

#[tokio::test]
async fn a_setting_that_no_job_can_have_is_refused_unless_one_of_another_version_has_it() {
    let api = Api::start().await;
    let job = trained(&api, plain_job(), 0, 60.0).await;
    for parameter in ["groups?by", "summaries?column"] {
        let with = |pointer: &str| format!("/v1/{parameter}={pointer}");
        let refused = api.get(&with("/distillation/temprature")).await;
        refused.says(400, &["no job has the setting", "did you mean /distillation/temperature?"]);
        // Also where no job matches anyway.
        api.get(&with("/training/warp&label=a:b&label=a:c")).await.says(400, &["GET /v1/settings"]);
        for known in ["/distillation/temperature", "/labels/nobody-has-it", "/training/optimizer"] {
            api.get(&with(known)).await.expect(200);
        }
    }
    // The one that is wrong is named among others.
    let several = "/v1/summaries?column=/training/epochs&column=/training/epoch";
    api.get(several).await.says(400, &["column: no job has the setting /training/epoch,", "/training/epochs?"]);
    let newer = "update jobs set spec = jsonb_set(spec, '{training,warp}', '9') where id = $1";
    sqlx::query(newer).bind(&job).execute(&api.db.pool).await.unwrap();
    assert_eq!(values(&groups(&api, "?by=/training/warp").await), [&json!([9])]);
    let listed = api.get("/v1/summaries?column=/training/warp").await.expect(200);
    assert_eq!(listed["data"][0]["settings"]["/training/warp"], 9);
}

#[tokio::test]
async fn a_group_says_of_how_many_data_sets_its_jobs_are() {
    let api = Api::start().await;
    let same = trained(&api, plain_job(), 0, 60.0).await;
    assert_eq!(groups(&api, "").await["data"][0]["datasets"], 1);
    let mut other = plain_job();
    other["dataset"]["name"] = json!("hundred");
    let other = trained(&api, other, 1, 10.0).await;
    let mixed = &groups(&api, "").await["data"][0];
    assert_eq!((&mixed["n"], &mixed["datasets"], &mixed["jobs"]), (&json!(2), &json!(2), &json!([same, other])));
    for query in ["?by=method&by=dataset", "?by=method&by=/training/seed"] {
        let apart = groups(&api, query).await;
        let data = apart["data"].as_array().unwrap();
        assert!(data.len() == 2 && data.iter().all(|group| group["datasets"] == 1), "{apart:#}");
    }
}

#[tokio::test]
async fn copies_of_a_job_count_once_in_their_group() {
    let api = Api::start().await;
    let first = trained(&api, plain_job(), 0, 60.0).await;
    let second = trained(&api, plain_job(), 0, 60.0).await;
    let same = "update jobs set result = jsonb_set(result, '{student,sha256}', '\"same\"') where id = any($1)";
    sqlx::query(same).bind([first, second].as_slice()).execute(&api.db.pool).await.unwrap();
    let group = &groups(&api, "").await["data"][0];
    assert_eq!((&group["n"], &group["copies"], &group["deviation"]), (&json!(1), &json!(1), &Value::Null));
}

#[tokio::test]
async fn settings_are_offered_by_variety_and_become_columns_of_the_list() {
    let api = api_with_jobs().await;
    let settings = api.get("/v1/settings").await.expect(200);
    let settings = settings["data"].as_array().unwrap();
    let of = |pointer: &str| settings.iter().find(|setting| setting["pointer"] == pointer).unwrap();
    assert_eq!(
        (&of("/distillation/temperature")["values"], &of("/distillation/temperature")["jobs"]),
        (&json!(2), &json!(6))
    );
    assert_eq!(
        (&of("/training/optimizer/type")["values"], &of("/training/optimizer/type")["jobs"]),
        (&json!(1), &json!(7))
    );
    assert!(settings.iter().all(|setting| !setting["pointer"].as_str().unwrap().starts_with("/labels")));
    let list = api.get("/v1/summaries?column=/distillation/temperature&column=/distillation/scales").await.expect(200);
    assert_eq!(list["data"][1]["settings"]["/distillation/temperature"], 8.0);
    assert!(list["data"][1]["settings"]["/distillation/scales"].is_array());
    assert_eq!(list["data"][0]["settings"]["/distillation/temperature"], Value::Null);
    assert!(api.get("/v1/summaries").await.expect(200)["data"][0].get("settings").is_none());
    api.get("/v1/summaries?column=temperature").await.problem(400);
}

//! What a newer version of the program stored of a sweep keeps nothing else from going on.

use distillery::db::queue;
use serde_json::{Value, json};

use super::{claim, get, halving, id, post, stop, sweep, train};
use crate::support::api::{Api, checkpoint, student_job};

#[tokio::test]
async fn a_sweep_of_an_unknown_status_is_listed_as_such_and_left_alone() {
    let api = Api::start().await;
    let (foreign, known) = (post(&api, &sweep(&[0.1], json!({}))).await, post(&api, &sweep(&[0.2], json!({}))).await);
    sqlx::raw_sql("alter table sweeps drop constraint sweeps_status_check").execute(&api.db.pool).await.unwrap();
    let change = sqlx::query("update sweeps set status = 'sharded' where id = $1").bind(id(&foreign));
    change.execute(&api.db.pool).await.unwrap();
    let list = api.get("/v1/sweeps").await.expect(200);
    let listed: Vec<_> = list["data"].as_array().unwrap().iter().map(|sweep| (id(sweep), &sweep["status"])).collect();
    assert_eq!(listed, [(id(&known), &json!("running")), (id(&foreign), &json!("unknown"))]);
    assert_eq!(get(&api, &foreign).await["status"], "unknown");
    let path = format!("/v1/sweeps/{}", id(&foreign));
    for action in ["pause", "resume", "cancel"] {
        api.ask(&format!("{path}/{action}")).await.says(409, &["does not know", "updated"]);
    }
    api.delete(&path).await.says(409, &["does not know"]);
    api.ask(&format!("/v1/sweeps/{}/cancel", id(&known))).await.expect(202);
}

async fn set(api: &Api, sweep: &Value, assignment: &'static str) {
    let update = sqlx::AssertSqlSafe(format!("update sweeps set {assignment} where id = $1"));
    sqlx::query(update).bind(id(sweep)).execute(&api.db.pool).await.unwrap();
}

/// The status of an answer about a sweep.
async fn asked(api: &Api, sweep: &Value, path: &str) -> u16 {
    api.get(&format!("/v1/sweeps/{}{path}", id(sweep))).await.status.as_u16()
}

#[tokio::test]
async fn what_cannot_be_read_of_a_sweep_is_said_and_keeps_no_list_from_being_read() {
    let api = Api::start().await;
    let (foreign, known) = (post(&api, &sweep(&[0.1], json!({}))).await, post(&api, &sweep(&[0.2], json!({}))).await);
    let (axes, strategy) = (foreign["axes"].clone(), json!({"type": "grid"}));
    let (unknown, warnings) = (json!({"type": "unknown"}), get(&api, &foreign).await["warnings"].clone());
    for (assignment, shown_axes, shown_strategy, said) in [
        (r#"axes = '[{"pointer": "/a", "values": [1e400]}]'"#, json!([]), &strategy, "its axes were"),
        (r#"axes = '["\u0000", "\ud800"]'"#, json!([]), &strategy, "its axes were"),
        (r#"axes = '[{"pointer": 1}]'"#, json!([]), &strategy, "its axes were"),
        ("axes = 'null'", json!([]), &strategy, "its axes were"),
        ("axes = '{}'", json!([]), &strategy, "its axes were"),
        ("axes = (repeat('[', 200) || repeat(']', 200))::json", json!([]), &strategy, "its axes were"),
        (r#"strategy = '{"type": "halving", "keep": 1e400}'"#, axes.clone(), &unknown, "its strategy was"),
        (r#"strategy = '{"type": "halving"}'"#, axes.clone(), &unknown, "its strategy was"),
        (r#"strategy = '{"type": 7}'"#, axes.clone(), &unknown, "its strategy was"),
        ("strategy = '[]'", axes.clone(), &unknown, "its strategy was"),
        ("strategy = 'null'", axes.clone(), &unknown, "its strategy was"),
        ("strategy = (repeat('[', 200) || repeat(']', 200))::jsonb", axes.clone(), &unknown, "its strategy was"),
        (r#"strategy = '{"type": "bandit", "arms": 3}'"#, axes.clone(), &json!({"type": "bandit", "arms": 3}), ""),
    ] {
        let original = "select axes::text, strategy from sweeps where id = $1";
        let original: (String, Value) =
            sqlx::query_as(original).bind(id(&foreign)).fetch_one(&api.db.pool).await.unwrap();
        set(&api, &foreign, assignment).await;
        let list = api.get("/v1/sweeps").await.expect(200);
        let listed: Vec<_> = list["data"].as_array().unwrap().iter().map(id).collect();
        assert_eq!(listed, [id(&known), id(&foreign)], "{assignment}");
        let read = get(&api, &foreign).await;
        assert_eq!((&read["axes"], &read["strategy"]), (&shown_axes, shown_strategy), "{assignment}");
        assert_eq!(read["warnings"].to_string().contains("cannot read"), !said.is_empty(), "{assignment}: {read:#}");
        assert!(read["warnings"].to_string().contains(said), "{assignment}: {read:#}");
        for path in ["?format=csv", "/submitted", "/webhooks"] {
            assert_eq!(asked(&api, &foreign, path).await, 200, "{path} with {assignment}");
        }
        for action in ["pause", "resume"] {
            api.ask(&format!("/v1/sweeps/{}/{action}", id(&foreign))).await.expect(202);
        }
        let back = sqlx::query("update sweeps set axes = $2::text::json, strategy = $3 where id = $1");
        back.bind(id(&foreign)).bind(original.0).bind(original.1).execute(&api.db.pool).await.unwrap();
    }
    assert_eq!(get(&api, &foreign).await["warnings"], warnings);
}

#[tokio::test]
async fn settings_of_another_form_keep_no_sweep_from_being_shown() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2], json!({}))).await;
    for settings in [r#"{"/a": 1e400}"#, r#"["\ud800"]"#, "null", "7"] {
        let update = "update sweep_combinations set settings = $2::text::json where sweep_id = $1 and number = 1";
        sqlx::query(update).bind(id(&made)).bind(settings).execute(&api.db.pool).await.unwrap();
        let results = get(&api, &made).await["results"].clone();
        let shown: Vec<_> = results.as_array().unwrap().iter().map(|result| &result["settings"]).collect();
        assert_eq!(shown, [&json!({}), &json!({"/training/optimizer/learning_rate": 0.2})], "{settings}");
        assert_eq!(asked(&api, &made, "?format=csv").await, 200, "{settings}");
    }
}

#[tokio::test]
async fn lists_with_nulls_keep_no_sweep_and_no_job_from_being_read_or_ended() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1], json!({}))).await;
    set(&api, &made, "rungs = array[1, null, 2], warnings = array['a', null], webhooks = '{{a,b},{c,null}}'").await;
    let lone = api.job().await;
    api.db.set(&lone, "webhooks = array[null, 'hook']").await;
    let read = get(&api, &made).await;
    assert_eq!((&read["warnings"], &read["webhooks"]), (&json!(["a"]), &json!(["a", "b", "c"])));
    assert_eq!(api.get("/v1/sweeps").await.expect(200)["data"][0]["id"], made["id"]);
    let jobs = api.get("/v1/jobs").await.expect(200);
    assert_eq!((&jobs["data"][0]["id"], &jobs["data"][0]["webhooks"]), (&json!(lone), &json!(["hook"])));
    // Messages are written in the transactions that end them.
    api.ask(&format!("/v1/jobs/{lone}/cancel")).await.expect(202);
    let messages = api.get(&format!("/v1/jobs/{lone}/webhooks")).await.expect(200);
    assert_eq!((messages["data"].as_array().unwrap().len(), &messages["data"][0]["webhook"]), (1, &json!("hook")));
    set(&api, &made, "rungs = '{}'").await;
    assert_eq!(api.ask(&format!("/v1/sweeps/{}/cancel", id(&made))).await.expect(202)["status"], "cancelled");
    assert_eq!(api.get(&format!("/v1/sweeps/{}/webhooks", id(&made))).await.expect(200)["data"][2]["webhook"], "c");
}

#[tokio::test]
async fn a_job_without_a_combination_keeps_its_sweep_from_nothing() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2], json!({"strategy": halving(&[1, 2], 0.5)}))).await;
    let attached = claim(&api).await.unwrap().token;
    train(&api, &attached, 1, 30.0).await;
    api.publish(&attached, &[]).await;
    // As a person attaches a job to a sweep.
    api.db.set(&attached.job, "combination = null").await;
    let last = claim(&api).await.unwrap().token;
    train(&api, &last, 1, 40.0).await;
    stop(&api, &last).await;
    let read = get(&api, &made).await;
    assert_eq!((&read["status"], &read["next_rung"]), (&json!("running"), &Value::Null));
}

#[tokio::test]
async fn a_sweep_that_cannot_be_read_keeps_no_job_from_being_rescued() {
    let api = Api::start().await;
    let lost = api.job().await;
    assert_eq!(claim(&api).await.unwrap().token.job, lost);
    let made = post(&api, &sweep(&[0.1, 0.2], json!({"strategy": halving(&[1, 2], 0.5)}))).await;
    let waiting = claim(&api).await.unwrap().token;
    train(&api, &waiting, 1, 30.0).await;
    stop(&api, &waiting).await;
    api.db.set(&waiting.job, r#"checkpoint = '{"epoch": "the first"}'"#).await;
    api.db.set(&waiting.job, r#"spec = jsonb_set(spec, '{training,seed}', '"random"')"#).await;
    api.db.set(&waiting.job, r#"progress = '{"fraction": "half"}'"#).await;
    api.db.expire_lease(&lost).await;
    assert_eq!(queue::rescue_expired(&api.db.pool).await.unwrap(), 1);
    assert_eq!(api.db.job(&lost).await["status"], "queued");
    // And the sweep is still shown.
    let read = get(&api, &made).await;
    let jobs: Vec<_> = read["results"].as_array().unwrap().iter().map(|result| &result["jobs"][0]).collect();
    let foreign = jobs.iter().find(|job| job["id"] == json!(waiting.job)).unwrap();
    assert_eq!((jobs.len(), &foreign["seed"], &foreign["fraction"]), (2, &json!(0), &Value::Null));
}

#[tokio::test]
async fn a_part_of_training_that_is_no_part_keeps_no_sweep_from_being_shown() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1], json!({}))).await;
    let job = claim(&api).await.unwrap().token.job;
    for (progress, shown) in [
        (r#"progress = '{"fraction": 1e400}'"#, Value::Null),
        (r#"progress = '{"fraction": -1e400}'"#, Value::Null),
        (r#"progress = '{"fraction": 1e300}'"#, json!(1.0)),
        (r#"progress = '{"fraction": -7}'"#, json!(0.0)),
        (r#"progress = '{"fraction": 0.25}'"#, json!(0.25)),
        (r#"progress = '{"fraction": []}'"#, Value::Null),
    ] {
        api.db.set(&job, progress).await;
        assert_eq!(get(&api, &made).await["results"][0]["jobs"][0]["fraction"], shown, "{progress}");
    }
}

#[tokio::test]
async fn a_job_whose_checkpoint_has_another_form_has_reached_no_rung_and_is_changed_as_any_other() {
    let api = Api::start().await;
    for (checkpoint, has_reached) in [
        (r#"checkpoint = '{"epoch": 1, "step": 10, "shards": ["a", "b"]}'"#, true),
        (r#"checkpoint = '{"epoch": 1e30}'"#, true),
        (r#"checkpoint = '{"epoch": 0.5}'"#, false),
        (r#"checkpoint = '{"epoch": "the first"}'"#, false),
        (r#"checkpoint = '{"epoch": {"of": 2}}'"#, false),
        (r#"checkpoint = '{"epoch": null}'"#, false),
        (r#"checkpoint = '["epoch", 1]'"#, false),
        (r#"checkpoint = '"elsewhere"'"#, false),
    ] {
        let made = post(&api, &sweep(&[0.1, 0.2], json!({"strategy": halving(&[1, 2], 0.5)}))).await;
        let waiting = claim(&api).await.unwrap().token;
        train(&api, &waiting, 1, 30.0).await;
        stop(&api, &waiting).await;
        api.db.set(&waiting.job, checkpoint).await;
        let resumed = api.ask(&format!("/v1/jobs/{}/resume", waiting.job)).await;
        if has_reached {
            resumed.says(409, &["waits to be compared"]);
        } else {
            assert_eq!(resumed.expect(202)["status"], "queued", "{checkpoint}");
        }
        let path = format!("/v1/sweeps/{}", id(&made));
        for (action, status) in [("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")] {
            let changed = api.ask(&format!("{path}/{action}")).await.expect(202);
            assert_eq!(changed["status"], status, "{checkpoint}");
        }
        assert_eq!(get(&api, &made).await["jobs"], json!({"cancelled": 2}), "{checkpoint}");
    }
}

#[tokio::test]
async fn scales_of_a_job_that_cannot_be_read_keep_no_other_job_of_its_sweep_from_being_claimed() {
    let api = Api::start().await;
    let teacher = api.upload("?architecture=resnet20", checkpoint("resnet20", 10)).await.expect(201);
    let document = json!({
        "name": "scales",
        "base": student_job(json!({"architecture": "resnet20", "checkpoint": id(&teacher)})),
        "axes": {"/distillation/scales": [[1], [1, 2], [4]]},
    });
    let made = post(&api, &document).await;
    let jobs = api.get(&format!("/v1/jobs?sweep={}", id(&made))).await.expect(200);
    let mut jobs: Vec<&str> = jobs["data"].as_array().unwrap().iter().map(id).collect();
    jobs.sort_unstable();
    api.db.set(jobs[0], r#"spec = jsonb_set(spec, '{distillation,scales}', '"all"')"#).await;
    api.db.set(jobs[1], r#"spec = jsonb_set(spec, '{distillation,scales}', '[1, "2x2"]')"#).await;
    let claimed = claim(&api).await.unwrap();
    assert_eq!((claimed.token.job.as_str(), claimed.sweep_scales), (jobs[2], vec![1, 4]));
}

#[tokio::test]
async fn a_sweep_that_cannot_be_read_keeps_no_other_from_ending() {
    let api = Api::start().await;
    let foreign = post(&api, &sweep(&[0.1, 0.2], json!({"strategy": halving(&[1, 2], 0.5)}))).await;
    let waiting = claim(&api).await.unwrap().token;
    train(&api, &waiting, 1, 30.0).await;
    stop(&api, &waiting).await;
    let change = sqlx::query("update sweeps set rungs = array[1, null] where id = $1").bind(id(&foreign));
    change.execute(&api.db.pool).await.unwrap();
    // As by a program that knows no sweeps.
    let end = async |sweep: &Value| {
        let update =
            "update jobs set status = 'cancelled', finished_at = now() where sweep_id = $1 and status = 'queued'";
        sqlx::query(update).bind(id(sweep)).execute(&api.db.pool).await.unwrap();
    };
    end(&foreign).await;
    let left = post(&api, &sweep(&[0.3], json!({}))).await;
    end(&left).await;
    queue::rescue_expired(&api.db.pool).await.unwrap();
    assert_eq!(get(&api, &left).await["status"], "finished");
    // Nor from ending at once with its teacher.
    let teacher = api.job().await;
    let students = sweep(&[0.4], json!({"base": student_job(json!({"architecture": "resnet8", "job": teacher}))}));
    let students = post(&api, &students).await;
    api.ask(&format!("/v1/jobs/{teacher}/cancel")).await.expect(202);
    assert_eq!(get(&api, &students).await["status"], "finished");
}

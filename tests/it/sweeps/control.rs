//! Sweeps are paused, resumed, cancelled and deleted with all their jobs.

use distillery::db::queue;
use serde_json::json;

use super::{claim, get, halving, id, post, statuses, stop, sweep, train, train_all};
use crate::support::api::{Api, student_job};

#[tokio::test]
async fn a_paused_sweep_runs_nothing_and_decides_nothing_until_it_is_resumed() {
    let api = Api::start().await;
    let document = sweep(&[0.1, 0.2, 0.3], json!({"strategy": halving(&[1, 2], 0.3)}));
    let made = post(&api, &document).await;
    let path = |action: &str| format!("/v1/sweeps/{}/{action}", id(&made));
    let waiting = claim(&api).await.unwrap().token;
    train(&api, &waiting, 1, 30.0).await;
    stop(&api, &waiting).await;
    let running = claim(&api).await.unwrap().token;
    let paused = api.ask(&path("pause")).await.expect(202);
    assert_eq!(
        (&paused["status"], statuses(&paused)),
        (&json!("paused"), [("paused".to_owned(), 2), ("pausing".to_owned(), 1)].into())
    );
    assert!(claim(&api).await.is_none());
    api.ask(&path("resume")).await.says(409, &[running.job.as_str(), "pausing"]);
    // It reaches the rung, just when it was asked to pause.
    train(&api, &running, 1, 20.0).await;
    stop(&api, &running).await;
    let resumed = api.ask(&path("resume")).await.expect(202);
    assert_eq!(statuses(&resumed), [("paused".to_owned(), 2), ("queued".to_owned(), 1)].into());
    assert_eq!(train_all(&api, 1, |_, _| 10.0).await, 2, "the last job of the rung, and the best to its end");
    let read = get(&api, &made).await;
    assert_eq!((&read["status"], &read["results"][0]["jobs"][0]["id"]), (&json!("finished"), &json!(waiting.job)));
    for action in ["pause", "resume", "cancel"] {
        api.ask(&path(action)).await.says(409, &["is finished"]);
    }
}

#[tokio::test]
async fn a_cancelled_sweep_ends_all_its_jobs_and_is_deleted_with_them() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2, 0.3], json!({}))).await;
    let other = api.job().await;
    let path = format!("/v1/sweeps/{}", id(&made));
    let done = claim(&api).await.unwrap().token;
    api.publish(&done, &[("student.safetensors", b"student")]).await;
    let running = claim(&api).await.unwrap().token;
    let cancelled = api.ask(&format!("{path}/cancel")).await.expect(202);
    assert_eq!(cancelled["status"], "cancelled");
    let expected = [("succeeded".to_owned(), 1), ("cancelling".to_owned(), 1), ("cancelled".to_owned(), 1)];
    assert_eq!(statuses(&cancelled), expected.into());
    let expected = format!("1 of its jobs is not finished: {} is cancelling; wait", running.job);
    api.delete(&path).await.says(409, &[expected.as_str()]);
    stop(&api, &running).await;
    api.delete(&path).await.expect(204);
    api.get(&path).await.problem(404);
    assert_eq!(api.get("/v1/sweeps").await.expect(200)["data"], json!([]));
    let jobs = api.get("/v1/jobs").await.expect(200);
    assert_eq!(jobs["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [other]);
    let key = format!("jobs/{}", done.job);
    let gone = api.db.until(async || api.store.list_below(&key).await.unwrap().is_empty().then_some(())).await;
    assert!(gone.is_some());
}

#[tokio::test]
async fn a_sweep_ends_although_its_last_job_is_cancelled_or_deleted_by_hand() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2], json!({}))).await;
    let jobs = api.get(&format!("/v1/jobs?sweep={}", id(&made))).await.expect(200);
    for job in jobs["data"].as_array().unwrap() {
        api.ask(&format!("/v1/jobs/{}/cancel", id(job))).await.expect(202);
        api.delete(&format!("/v1/jobs/{}", id(job))).await.expect(204);
    }
    queue::rescue_expired(&api.db.pool).await.unwrap();
    let read = get(&api, &made).await;
    assert_eq!((&read["status"], &read["jobs"]), (&json!("finished"), &json!({})));
}

#[tokio::test]
async fn results_say_how_many_jobs_of_the_sweep_were_deleted() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2], json!({"seeds": 2}))).await;
    train_all(&api, 2, |rate, seed| 100.0 * rate + seed as f64).await;
    let before = get(&api, &made).await;
    let warnings = before["warnings"].as_array().unwrap();
    assert!(!warnings.iter().any(|warning| warning.as_str().unwrap().contains("deleted")), "{warnings:?}");
    api.delete(&format!("/v1/jobs/{}", id(&before["results"][0]["jobs"][1]))).await.expect(204);
    let after = get(&api, &made).await;
    assert_eq!(after["results"][0]["n"], 1);
    let said = "1 job was deleted, of 4 that the sweep made: its results are of the others alone";
    assert_eq!(after["warnings"][0], said);
    let table = api.get(&format!("/v1/sweeps/{}?format=csv", id(&made))).await.text();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].ends_with(",deleted_jobs"), "{table}");
    assert!(lines[1].ends_with(",1") && lines[2].ends_with(",0"), "{table}");
}

#[tokio::test]
async fn a_sweep_ends_with_its_teacher_although_no_worker_runs() {
    let api = Api::start().await;
    let teacher = api.job().await;
    let mut document = sweep(&[0.1, 0.2], json!({}));
    document["base"] = student_job(json!({"architecture": "resnet8", "job": teacher}));
    let made = post(&api, &document).await;
    api.ask(&format!("/v1/jobs/{teacher}/cancel")).await.expect(202);
    let read = get(&api, &made).await;
    assert_eq!((&read["status"], &read["jobs"]), (&json!("finished"), &json!({"failed": 2})));
}

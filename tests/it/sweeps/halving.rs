//! Successive halving: jobs wait at a rung, and the best go on.

use distillery::db::jobs::Change;
use distillery::db::queue;
use distillery::protocol::{ErrorClass, Failure};
use serde_json::{Value, json};

use super::{claim, get, halving, id, post, settings_of, statuses, stop, sweep, train, train_all};
use crate::support::api::{Api, student_job};

/// Learning rates of the combinations that have not been dropped.
fn left(read: &Value) -> Vec<f64> {
    let results = read["results"].as_array().unwrap().iter().filter(|one| one["dropped_after"].is_null());
    results.map(|one| one["settings"]["/training/optimizer/learning_rate"].as_f64().unwrap()).collect()
}

#[tokio::test]
async fn the_best_of_each_rung_go_on_from_their_checkpoints_and_the_others_are_dropped() {
    let api = Api::start().await;
    let rates = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
    let made = post(&api, &sweep(&rates, json!({"seeds": 2, "strategy": halving(&[1, 3, 9], 0.5)}))).await;
    let accuracy = |rate: f64, seed: u64| 50.0 + 10.0 * rate + seed as f64;
    for _ in 0..12 {
        assert!(get(&api, &made).await["results"][0]["rungs"].as_array().unwrap().is_empty());
        let claim = claim(&api).await.expect("a job");
        assert_eq!(claim.pause_after, Some(1));
        let (rate, seed) = settings_of(&api, &claim.token.job).await;
        train(&api, &claim.token, 1, accuracy(rate, seed)).await;
        stop(&api, &claim.token).await;
    }
    let read = get(&api, &made).await;
    assert_eq!(statuses(&read), [("queued".to_owned(), 6), ("cancelled".to_owned(), 6)].into());
    assert_eq!((left(&read), &read["next_rung"]), (vec![0.6, 0.5, 0.4], &json!(3)));
    let dropped = &read["results"][5];
    assert_eq!((&dropped["dropped_after"], &dropped["rank"]), (&json!(1), &json!(6)));
    assert_eq!(
        dropped["rungs"],
        json!([{"epochs": 1, "top1": 51.5, "deviation": 0.5_f64.sqrt(), "jobs": 2, "kept": false}])
    );
    let job = dropped["jobs"][0]["id"].as_str().unwrap();
    let messages = api.db.messages(job).await;
    let decision =
        "dropped after 1 epoch: combination 1 is number 6 of 6 with a mean top-1 of 51.50 %, and the best 3 go on";
    assert!(messages.iter().any(|message| message == decision), "{messages:#?}");
    // The others go on from where they were.
    let next = claim(&api).await.unwrap();
    assert_eq!((next.pause_after, next.checkpoint.as_ref().map(|saved| saved.epoch)), (Some(3), Some(1)));
    let (rate, seed) = settings_of(&api, &next.token.job).await;
    train(&api, &next.token, 3, accuracy(rate, seed)).await;
    stop(&api, &next.token).await;
    assert_eq!(train_all(&api, 3, accuracy).await, 5 + 4, "the rest of the rung, and two combinations to their end");
    let read = get(&api, &made).await;
    assert_eq!(read["status"], "finished");
    // The same accuracy was published for all, and of equals the first combination is better.
    assert_eq!(left(&read), [0.5, 0.6]);
    assert_eq!(statuses(&read), [("succeeded".to_owned(), 4), ("cancelled".to_owned(), 8)].into());
    assert!(read["finished_at"].is_string());
    for result in read["results"].as_array().unwrap() {
        for job in result["jobs"].as_array().unwrap() {
            let row = api.db.job(job["id"].as_str().unwrap()).await;
            assert_eq!(
                row["event_seq"].as_u64(),
                Some(api.db.messages(job["id"].as_str().unwrap()).await.len() as u64)
            );
        }
    }
}

#[tokio::test]
async fn jobs_that_reach_a_rung_at_the_same_time_are_decided_on_once() {
    let api = Api::start().await;
    for round in 0..5 {
        let document = sweep(&[0.1, 0.2, 0.3, 0.4], json!({"strategy": halving(&[1, 2], 0.5)}));
        let made = post(&api, &document).await;
        let mut tokens = Vec::new();
        while let Some(claim) = claim(&api).await {
            let (rate, _) = settings_of(&api, &claim.token.job).await;
            train(&api, &claim.token, 1, 10.0 * rate).await;
            tokens.push(claim.token);
        }
        assert_eq!(tokens.len(), 4);
        futures::future::join_all(tokens.iter().map(|token| stop(&api, token))).await;
        let read = get(&api, &made).await;
        assert_eq!(left(&read), [0.4, 0.3], "round {round}");
        assert_eq!(train_all(&api, 2, |rate, _| 10.0 * rate).await, 2);
        assert_eq!(get(&api, &made).await["status"], "finished");
    }
}

#[tokio::test]
async fn a_job_that_loses_its_worker_at_a_rung_is_waited_for() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2], json!({"strategy": halving(&[1, 2], 0.5)}))).await;
    let lost = claim(&api).await.unwrap().token;
    train(&api, &lost, 1, 90.0).await;
    let other = claim(&api).await.unwrap().token;
    train(&api, &other, 1, 20.0).await;
    stop(&api, &other).await;
    assert_eq!(left(&get(&api, &made).await).len(), 2);
    api.db.expire_lease(&lost.job).await;
    queue::rescue_expired(&api.db.pool).await.unwrap();
    assert!(queue::stopped(&api.db.pool, &lost.write()).await.unwrap().is_none(), "its token is stale");
    assert_eq!(left(&get(&api, &made).await).len(), 2);
    // Its trainer starts from the checkpoint, and stops at once.
    let again = claim(&api).await.unwrap();
    assert_eq!((again.token.job.as_str(), again.checkpoint.map(|saved| saved.epoch)), (lost.job.as_str(), Some(1)));
    stop(&api, &again.token).await;
    assert_eq!(left(&get(&api, &made).await), [0.1]);
}

#[tokio::test]
async fn failed_and_cancelled_jobs_hold_nothing_up_and_do_not_count() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2, 0.3], json!({"seeds": 2, "strategy": halving(&[1, 2], 0.5)}))).await;
    let mut first = true;
    for _ in 0..6 {
        let token = claim(&api).await.unwrap().token;
        let (rate, seed) = settings_of(&api, &token.job).await;
        if (rate, seed) == (0.3, 0) {
            let failure = Failure { class: ErrorClass::Numeric, message: "not finite".into() };
            queue::fail(&api.db.pool, &token.write(), &failure).await.unwrap();
        } else if first {
            first = false;
            stop(&api, &token).await;
            api.db.change(&token.job, Change::Cancel).await;
        } else {
            train(&api, &token, 1, 10.0 * rate).await;
            stop(&api, &token).await;
        }
    }
    let read = get(&api, &made).await;
    assert_eq!(left(&read), [0.3, 0.2]);
    let rung = |rate: f64| {
        let of_rate = |one: &&Value| one["settings"]["/training/optimizer/learning_rate"] == rate;
        read["results"].as_array().unwrap().iter().find(of_rate).unwrap()["rungs"][0]["jobs"].clone()
    };
    assert_eq!([rung(0.1), rung(0.2), rung(0.3)], [1, 2, 1]);
}

#[tokio::test]
async fn a_sweep_whose_jobs_all_failed_compares_nothing_next() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2], json!({"strategy": halving(&[1, 2], 0.5)}))).await;
    assert_eq!(made["next_rung"], 1);
    let mut first = None;
    while let Some(claim) = claim(&api).await {
        let failure = Failure { class: ErrorClass::Numeric, message: "not finite".into() };
        queue::fail(&api.db.pool, &claim.token.write(), &failure).await.unwrap();
        first.get_or_insert(claim.token.job);
    }
    let read = get(&api, &made).await;
    assert_eq!((&read["status"], &read["next_rung"]), (&json!("finished"), &Value::Null), "{read:#}");
    let expected = json!({"id": first.unwrap(), "error": {"class": "numeric", "message": "not finite"}});
    assert_eq!((&made["first_failure"], &read["first_failure"]), (&Value::Null, &expected), "{read:#}");
}

#[tokio::test]
async fn a_job_at_a_rung_is_resumed_by_its_sweep_alone_and_a_dropped_one_can_be_retried_to_its_end() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2], json!({"strategy": halving(&[1, 2], 0.5)}))).await;
    let first = claim(&api).await.unwrap().token;
    train(&api, &first, 1, 10.0).await;
    stop(&api, &first).await;
    assert_eq!(api.db.job(&first.job).await["status"], "paused");
    let refused = api.ask(&format!("/v1/jobs/{}/resume", first.job)).await;
    refused.says(409, &["waits to be compared", id(&made)]);
    let second = claim(&api).await.unwrap().token;
    train(&api, &second, 1, 20.0).await;
    stop(&api, &second).await;
    assert_eq!(api.db.job(&first.job).await["status"], "cancelled");
    api.ask(&format!("/v1/jobs/{}/retry", first.job)).await.expect(202);
    let mut claims = Vec::new();
    while let Some(claim) = claim(&api).await {
        claims.push((claim.token.job.clone(), claim.pause_after));
        api.publish(&claim.token, &[]).await;
    }
    claims.sort();
    let mut expected = vec![(first.job.clone(), None), (second.job.clone(), None)];
    expected.sort();
    assert_eq!(claims, expected);
    assert_eq!(get(&api, &made).await["status"], "finished");
}

#[tokio::test]
async fn a_decision_that_found_a_row_locked_is_made_by_the_rescuer() {
    let api = Api::start().await;
    let made = post(&api, &sweep(&[0.1, 0.2], json!({"strategy": halving(&[1, 2], 0.5)}))).await;
    let first = claim(&api).await.unwrap().token;
    train(&api, &first, 1, 10.0).await;
    stop(&api, &first).await;
    let second = claim(&api).await.unwrap().token;
    train(&api, &second, 1, 20.0).await;
    let mut holder = api.db.pool.begin().await.unwrap();
    sqlx::query("select id from jobs where id = $1 for update").bind(&first.job).execute(&mut *holder).await.unwrap();
    stop(&api, &second).await;
    assert_eq!(left(&get(&api, &made).await).len(), 2);
    holder.rollback().await.unwrap();
    queue::rescue_expired(&api.db.pool).await.unwrap();
    assert_eq!(left(&get(&api, &made).await), [0.2]);
}

#[tokio::test]
async fn sweeps_whose_teachers_are_dropped_end_at_once_and_so_do_those_that_wait_for_these() {
    let api = Api::start().await;
    let teachers = post(&api, &sweep(&[0.1, 0.2, 0.3], json!({"strategy": halving(&[1, 2], 0.3)}))).await;
    let mut tokens = Vec::new();
    for top1 in [10.0, 20.0, 30.0] {
        let token = claim(&api).await.unwrap().token;
        train(&api, &token, 1, top1).await;
        tokens.push(token);
    }
    let of = |job: &str| json!({"base": student_job(json!({"architecture": "resnet8", "job": job}))});
    let students = post(&api, &sweep(&[0.1, 0.2], of(&tokens[0].job))).await;
    let student = students["results"][0]["jobs"][0]["id"].as_str().unwrap();
    let grandchildren = post(&api, &sweep(&[0.1], of(student))).await;
    // One of its teachers is the best: it waits on.
    let mut mixed = sweep(&[0.1], of(&tokens[0].job));
    mixed["axes"] = json!({"/teacher/job": [tokens[1].job, tokens[2].job]});
    let mixed = post(&api, &mixed).await;
    for token in &tokens {
        assert_eq!(get(&api, &students).await["status"], "running");
        stop(&api, token).await;
    }
    assert_eq!(left(&get(&api, &teachers).await), [0.3]);
    for (made, jobs) in [(&students, 2), (&grandchildren, 1)] {
        let read = get(&api, made).await;
        assert_eq!((&read["status"], &read["jobs"]), (&json!("finished"), &json!({"failed": jobs})), "{}", id(made));
    }
    let read = get(&api, &mixed).await;
    assert_eq!((&read["status"], &read["jobs"]), (&json!("running"), &json!({"failed": 1, "queued": 1})));
}

#[tokio::test]
async fn a_comparison_that_a_dropped_teacher_makes_due_is_made_at_once() {
    let api = Api::start().await;
    let trained = api.job().await;
    api.publish(&api.claim().await, &[("student.safetensors", b"student")]).await;
    let teachers = post(&api, &sweep(&[0.1, 0.2], json!({"strategy": halving(&[1, 2], 0.5)}))).await;
    let (worse, better) = (claim(&api).await.unwrap().token, claim(&api).await.unwrap().token);
    train(&api, &worse, 1, 10.0).await;
    train(&api, &better, 1, 20.0).await;
    let mut document = sweep(&[], json!({"strategy": halving(&[1, 2], 0.3)}));
    document["base"] = student_job(json!({"architecture": "resnet8", "job": trained}));
    document["axes"] = json!({"/teacher/job": [trained, worse.job]});
    let due = post(&api, &document).await;
    let student = claim(&api).await.unwrap().token;
    train(&api, &student, 1, 40.0).await;
    stop(&api, &student).await;
    assert!(claim(&api).await.is_none(), "the other waits for its teacher");
    assert_eq!(get(&api, &due).await["next_rung"], 1);
    stop(&api, &worse).await;
    stop(&api, &better).await;
    assert_eq!(left(&get(&api, &teachers).await), [0.2]);
    let read = get(&api, &due).await;
    assert_eq!((&read["next_rung"], &read["jobs"]), (&Value::Null, &json!({"failed": 1, "queued": 1})));
}

#[tokio::test]
async fn a_sweep_that_is_locked_when_its_teacher_is_dropped_is_left_to_the_rescuer() {
    let api = Api::start().await;
    let teachers = post(&api, &sweep(&[0.1, 0.2], json!({"strategy": halving(&[1, 2], 0.5)}))).await;
    let (worse, better) = (claim(&api).await.unwrap().token, claim(&api).await.unwrap().token);
    train(&api, &worse, 1, 10.0).await;
    train(&api, &better, 1, 20.0).await;
    let base = student_job(json!({"architecture": "resnet8", "job": worse.job}));
    let students = post(&api, &sweep(&[0.1], json!({"base": base}))).await;
    let mut holder = api.db.pool.begin().await.unwrap();
    let lock = sqlx::query("select id from sweeps where id = $1 for no key update").bind(id(&students));
    lock.execute(&mut *holder).await.unwrap();
    stop(&api, &worse).await;
    stop(&api, &better).await;
    assert_eq!(left(&get(&api, &teachers).await), [0.2]);
    let read = get(&api, &students).await;
    assert_eq!((&read["status"], &read["jobs"]), (&json!("running"), &json!({"failed": 1})));
    holder.rollback().await.unwrap();
    queue::rescue_expired(&api.db.pool).await.unwrap();
    assert_eq!(get(&api, &students).await["status"], "finished");
}

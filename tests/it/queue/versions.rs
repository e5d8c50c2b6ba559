//! Workers and servers of several versions side by side.

use distillery::db::jobs::{Change, Status};
use distillery::db::queue;
use distillery::db::workers;
use serde_json::json;
use sqlx::AssertSqlSafe;

use super::{WORKER, claim, claimed_token, failure, history, status, worker};
use crate::support::api::Api;
use crate::support::db::TestDb;
use distillery::protocol::ErrorClass;

/// What a newer program might store, and what of it an error names.
const FOREIGN: [(&str, &str); 5] = [
    (r#"{training,precision}', '"float8""#, "float8"),
    (r#"{distillation,method}', '"sdd_next""#, "sdd_next"),
    ("{training,warp}', '9", "/training/warp"),
    (r#"{dataset,crop}', '{"size": 224}"#, "/dataset/crop"),
    ("{training,learning_rate}', '1e400", "a number in it is too large"),
];

/// Changes a stored specification as a newer program could have written it.
async fn make_foreign(db: &TestDb, job: &str, change: &str) {
    let update = format!("update jobs set spec = jsonb_set(spec, '{change}') where id = $1");
    sqlx::query(AssertSqlSafe(update)).bind(job).execute(&db.pool).await.unwrap();
}

#[tokio::test]
async fn a_job_that_cannot_be_read_is_set_aside_and_the_others_go_on() {
    for (change, named) in FOREIGN {
        let db = TestDb::new().await;
        let foreign = db.add_job(json!({"priority": 9})).await;
        let other = db.add_job(json!({})).await;
        make_foreign(&db, foreign, change).await;
        assert_eq!(claimed_token(&db.pool).await.job, other);
        assert_eq!(status(&db, foreign).await, Status::Queued);
        let history = history(&db, foreign).await;
        let (kind, _, message) = history.last().unwrap();
        assert_eq!(kind, "warning");
        assert!(message.contains("set aside") && message.contains(named), "{message}");
    }
}

#[tokio::test]
async fn a_job_that_is_set_aside_says_so_once_and_goes_to_a_worker_that_can_read_it() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let spec = db.job(id).await["spec"].clone();
    make_foreign(&db, id, FOREIGN[0].0).await;
    for worker in [WORKER, WORKER, "wrk_2"] {
        let nothing = queue::claim(&db.pool, worker, queue::DeviceCapacity::ONE, super::LEASE).await.unwrap();
        assert_eq!(nothing, None);
    }
    assert_eq!(history(&db, id).await.len(), 2, "queued, set aside");
    // As a worker that reads it would see it.
    sqlx::query("update jobs set spec = $1").bind(spec).execute(&db.pool).await.unwrap();
    assert_eq!(claim(&db.pool).await, None, "this one has said that it cannot");
    let taken = queue::claim(&db.pool, "wrk_3", queue::DeviceCapacity::ONE, super::LEASE).await.unwrap();
    assert_eq!(taken.expect("it is still queued").token.job, id);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_sets_its_job_aside() {
    for checkpoint in [r#"checkpoint = '{"shards": ["a", "b"]}'"#, r#"checkpoint = '{"epoch": 1e400}'"#] {
        let db = TestDb::new().await;
        let id = db.add_job(json!({})).await;
        db.set(id, checkpoint).await;
        assert_eq!(claim(&db.pool).await, None);
        assert!(history(&db, id).await.last().unwrap().2.contains("the checkpoint to resume from"));
    }
}

#[tokio::test]
async fn a_job_whose_tries_cannot_be_read_fails_as_any_other() {
    for tries in [r#"{max_attempts}', '"many""#, "{max_attempts}', '1e400", "{max_attempts}', '2.5"] {
        let db = TestDb::new().await;
        let id = db.add_job(json!({})).await;
        let token = claimed_token(&db.pool).await;
        make_foreign(&db, id, tries).await;
        queue::fail(&db.pool, &token.write(), &failure(ErrorClass::Oom)).await.unwrap();
        assert_eq!(status(&db, id).await, Status::Failed, "{tries}");
    }
}

#[tokio::test]
async fn a_specification_of_any_form_can_be_stored_and_keeps_no_other_job_from_being_claimed() {
    let db = TestDb::new().await;
    for (spec, devices) in [
        (r#"spec = jsonb_set(spec, '{training,devices}', '"all"')"#, 1),
        (r#"spec = jsonb_set(spec, '{training,devices}', '{"at_least": 2}')"#, 1),
        ("spec = jsonb_set(spec, '{training,devices}', '1e400')", 1),
        ("spec = jsonb_set(spec, '{training,devices}', '99999999999')", i32::MAX),
        ("spec = jsonb_set(spec, '{training}', '7')", 1),
        (r#"spec = jsonb_set(spec, '{teacher}', '"elsewhere"')"#, 1),
        ("spec = jsonb_set(spec, '{teacher}', 'null')", 1),
        ("spec = '[1]'", 1),
        ("spec = jsonb_set(spec, '{deep}', (repeat('[', 200) || repeat(']', 200))::jsonb)", 1),
    ] {
        let (foreign, plain) = (db.add_job(json!({"priority": 9})).await, db.add_job(json!({})).await);
        db.set(foreign, spec).await;
        assert_eq!(db.job(foreign).await["devices"], devices, "{spec}");
        // A teacher that is null is none.
        let taken = claimed_token(&db.pool).await.job;
        assert!(taken == plain || (taken == foreign && spec.contains("'null'")), "{spec}");
        db.set(foreign, "status = 'cancelled', finished_at = now(), lease_expires_at = null").await;
        db.set(plain, "status = 'cancelled', finished_at = now(), lease_expires_at = null").await;
    }
}

#[tokio::test]
async fn a_job_that_cannot_be_rescued_keeps_no_other_from_being_rescued() {
    let db = TestDb::new().await;
    let (strange, lost) = (db.add_job(json!({})).await, db.add_job(json!({})).await);
    claimed_token(&db.pool).await;
    claimed_token(&db.pool).await;
    // As a person adds to a history, without the number that the next event gets.
    sqlx::query(
        "insert into events (job_id, seq, kind, message, attempt)
         select id, event_seq + 1, 'log', 'looked at', attempt from jobs where id = $1",
    )
    .bind(strange)
    .execute(&db.pool)
    .await
    .unwrap();
    db.expire_lease(strange).await;
    db.expire_lease(lost).await;
    queue::rescue_expired(&db.pool).await.unwrap_err();
    assert_eq!(status(&db, lost).await, Status::Queued);
    assert_eq!(status(&db, strange).await, Status::Running);
}

#[tokio::test]
async fn a_job_with_the_most_tries_that_there_are_ends_its_attempts_as_any_other() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    db.set(id, "max_attempts = 2147483647").await;
    let token = claimed_token(&db.pool).await;
    assert_eq!(queue::stopped(&db.pool, &token.write()).await.unwrap(), Some(Status::Queued));
    let token = claimed_token(&db.pool).await;
    let failed = queue::fail(&db.pool, &token.write(), &failure(ErrorClass::Machine)).await.unwrap();
    assert_eq!(failed, Some(Status::Queued));
    assert_eq!(db.job(id).await["max_attempts"], i32::MAX);
}

#[tokio::test]
async fn a_specification_of_a_newer_version_waits_for_a_worker_that_knows_it() {
    let db = TestDb::new().await;
    let newer = db.add_job(json!({})).await;
    let known = db.add_job(json!({})).await;
    db.set(newer, "spec_version = 1000").await;
    assert_eq!(claimed_token(&db.pool).await.job, known);
    assert_eq!(claim(&db.pool).await, None);
    assert_eq!(history(&db, newer).await.len(), 1, "nothing happened to it");
}

#[tokio::test]
async fn a_job_of_an_unknown_status_does_not_keep_others_from_being_rescued() {
    let db = TestDb::new().await;
    let (foreign, lost) = (db.add_job(json!({})).await, db.add_job(json!({})).await);
    claimed_token(&db.pool).await;
    claimed_token(&db.pool).await;
    sqlx::raw_sql("alter table jobs drop constraint jobs_status_check, drop constraint jobs_check")
        .execute(&db.pool)
        .await
        .unwrap();
    db.set(foreign, "status = 'migrating'").await;
    db.expire_lease(foreign).await;
    db.expire_lease(lost).await;
    assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);
    assert_eq!(status(&db, lost).await, Status::Queued);
}

#[tokio::test]
async fn what_a_newer_version_wrote_does_not_keep_lists_from_being_read() {
    let api = Api::start().await;
    let (foreign, plain) = (api.job().await, api.job().await);
    make_foreign(&api.db, &foreign, FOREIGN[1].0).await;
    make_foreign(&api.db, &foreign, "{training,seed}', '\"random\"").await;
    let token = api.claim().await;
    assert_eq!(token.job, plain);
    queue::fail(&api.db.pool, &token.write(), &failure(ErrorClass::Oom)).await.unwrap();
    workers::register(&api.db.pool, &worker("wrk_new", 1)).await.unwrap();
    sqlx::raw_sql(
        "alter table attempts drop constraint attempts_outcome_check;
         update attempts set outcome = 'evicted';
         update jobs set error = '{\"class\": \"evicted\", \"message\": \"\"}' where finished_at is not null;
         update events set kind = 'notice' where kind = 'warning';
         update workers set usage = '{\"cpu_share\": \"a lot\"}'",
    )
    .execute(&api.db.pool)
    .await
    .unwrap();
    for sort in ["created", "gain", "method"] {
        let list = api.get(&format!("/v1/summaries?sort={sort}")).await.expect(200);
        assert_eq!(list["total"], 2, "{list:#}");
    }
    let list = api.get(&format!("/v1/summaries?id={foreign}&id={plain}&order=asc")).await.expect(200);
    assert_eq!((&list["data"][0]["method"], &list["data"][1]["error"]), (&json!("sdd_next"), &json!("evicted")));
    let attempts = api.get(&format!("/v1/jobs/{plain}/attempts")).await.expect(200);
    assert_eq!(attempts["data"][0]["outcome"], "evicted");
    let events = api.get(&format!("/v1/jobs/{foreign}/events")).await.expect(200);
    assert_eq!(events["data"][1]["kind"], "log");
    for path in ["/v1/workers", "/v1/system", "/v1/jobs"] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    let metrics = api.get("/metrics").await.text();
    assert!(metrics.contains("distillery_attempts_total{outcome=\"oom\"} 0"), "{metrics}");
    // And what is asked of such a job is refused with the reason.
    api.db.change(&foreign, Change::Cancel).await;
    api.ask(&format!("/v1/jobs/{foreign}/retry")).await.says(409, &["cannot read its specification", "sdd_next"]);
    let pupil =
        json!({"teacher": {"job": foreign}, "student": {"architecture": "resnet8"}, "dataset": {"name": "ten"}});
    let refused = api.post("/v1/jobs?dry_run=true", &pupil).await.problem(422);
    assert!(refused.to_string().contains("sdd_next"), "{refused:#}");
}

#[tokio::test]
async fn a_job_of_an_unknown_status_is_listed_as_such_and_keeps_no_other_from_being_listed() {
    let api = Api::start().await;
    let (foreign, plain) = (api.job().await, api.job().await);
    sqlx::raw_sql("alter table jobs drop constraint jobs_status_check").execute(&api.db.pool).await.unwrap();
    api.db.set(&foreign, "status = 'migrating'").await;
    let list = api.get("/v1/jobs").await.expect(200);
    let listed: Vec<_> = list["data"].as_array().unwrap().iter().map(|job| (&job["id"], &job["status"])).collect();
    assert_eq!(listed, [(&json!(plain), &json!("queued")), (&json!(foreign), &json!("unknown"))]);
    for sort in ["created", "status", "gain"] {
        let list = api.get(&format!("/v1/summaries?sort={sort}")).await.expect(200);
        assert_eq!((&list["total"], list["data"].as_array().unwrap().len()), (&json!(2), 2), "{sort}");
        assert_eq!((&list["statuses"]["queued"], &list["statuses"]["unknown"]), (&json!(1), &json!(1)));
    }
    for path in ["/v1/jobs", "/v1/summaries"] {
        let asked = api.get(&format!("{path}?status=unknown")).await.expect(200);
        assert_eq!((asked["data"].as_array().unwrap().len(), &asked["data"][0]["id"]), (1, &json!(foreign)), "{path}");
        let asked = api.get(&format!("{path}?status=queued")).await.expect(200);
        assert_eq!((asked["data"].as_array().unwrap().len(), &asked["data"][0]["id"]), (1, &json!(plain)), "{path}");
    }
    assert_eq!(api.get(&format!("/v1/jobs/{foreign}")).await.expect(200)["status"], "unknown");
    for path in ["/v1/stream".to_owned(), format!("/v1/jobs/{foreign}/stream")] {
        let told = api.stream(&path, None).await.until(|message| message.data["id"] == json!(foreign)).await;
        assert_eq!(told.last().unwrap().data["status"], "unknown", "{path}");
    }
    assert!(api.get("/metrics").await.text().contains("distillery_jobs{status=\"unknown\"} "));
    api.ask(&format!("/v1/jobs/{foreign}/cancel")).await.says(409, &["does not know", "updated"]);
    api.delete(&format!("/v1/jobs/{foreign}")).await.says(409, &["does not know"]);
    let pupil =
        json!({"teacher": {"job": foreign}, "student": {"architecture": "resnet8"}, "dataset": {"name": "ten"}});
    let pupil = api.post("/v1/jobs", &pupil).await.expect(201)["id"].as_str().unwrap().to_owned();
    let waits = api.get(&format!("/v1/summaries?id={pupil}")).await.expect(200)["data"][0]["waiting"].clone();
    assert_eq!(waits["reason"], "teacher");
    api.ask(&format!("/v1/jobs/{plain}/cancel")).await.expect(202);
}

#[tokio::test]
async fn an_attempt_writes_nothing_about_a_job_whose_status_became_unknown() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let token = claimed_token(&db.pool).await;
    sqlx::raw_sql("alter table jobs drop constraint jobs_status_check, drop constraint jobs_check")
        .execute(&db.pool)
        .await
        .unwrap();
    db.set(id, "status = 'migrating'").await;
    assert_eq!(queue::fail(&db.pool, &token.write(), &failure(ErrorClass::Oom)).await.unwrap(), None);
    assert_eq!(queue::stopped(&db.pool, &token.write()).await.unwrap(), None);
    assert_eq!(db.job(id).await["status"], "migrating");
    assert_eq!(history(&db, id).await.len(), 2, "queued, running");
}

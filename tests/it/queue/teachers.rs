//! Jobs that wait for the student of another.

use distillery::db::jobs::{Change, Status};
use distillery::db::queue;
use distillery::protocol::ErrorClass;
use serde_json::json;
use sqlx::postgres::PgListener;

use super::{artifact, claim, claimed_token, failure, history, outcome, status};
use crate::support::PATIENCE;
use crate::support::db::{TestDb, connection};

#[tokio::test]
async fn a_job_waits_for_its_teacher() {
    let db = TestDb::new().await;
    let teacher = db.add_job(json!({})).await;
    let pupil = json!({"teacher": {"architecture": "resnet20", "job": teacher}, "distillation": {"method": "kd"}, "priority": 10});
    let pupil = db.add_job(pupil).await;
    let mut listener = PgListener::connect_with(&db.pool).await.unwrap();
    let token = claimed_token(&db.pool).await;
    assert_eq!(token.job, teacher);
    assert!(claim(&db.pool).await.is_none());
    listener.listen("distillery_queue").await.unwrap();
    queue::publish(&db.pool, &token.write(), &outcome(), &[artifact(&token)]).await.unwrap();
    tokio::time::timeout(PATIENCE, listener.recv()).await.expect("idle workers are woken").unwrap();
    assert_eq!(claimed_token(&db.pool).await.job, pupil);
}

#[tokio::test]
async fn a_job_whose_teacher_fails_or_is_cancelled_fails_with_the_reason() {
    let db = TestDb::new().await;
    for end in ["fails", "is cancelled", "loses its worker"] {
        let teacher = db.add_job(json!({"max_attempts": 1})).await;
        let pupil = db.add_pupil(teacher).await;
        let grandpupil = db.add_pupil(pupil).await;
        let paused = db.add_pupil(teacher).await;
        db.change(paused, Change::Pause).await;
        let token = claimed_token(&db.pool).await;
        assert_eq!(token.job, teacher);
        match end {
            "fails" => drop(queue::fail(&db.pool, &token.write(), &failure(ErrorClass::User)).await.unwrap()),
            "is cancelled" => {
                db.change(teacher, Change::Cancel).await;
                queue::stopped(&db.pool, &token.write()).await.unwrap();
            }
            _ => {
                db.expire_lease(teacher).await;
                queue::rescue_expired(&db.pool).await.unwrap();
            }
        }
        for (job, of) in [(pupil, teacher), (grandpupil, pupil), (paused, teacher)] {
            let job = db.job(job).await;
            assert_eq!((&job["status"], &job["error"]["class"]), (&json!("failed"), &json!("user")), "{end}");
            assert!(job["error"]["message"].as_str().unwrap().contains(of), "{job:#}");
        }
        history(&db, pupil).await;
    }
}

#[tokio::test]
async fn a_teacher_cancelled_while_it_waited_is_noticed_by_the_rescuer() {
    let db = TestDb::new().await;
    let teacher = db.add_job(json!({})).await;
    let pupil = db.add_pupil(teacher).await;
    // As by a program that does not know of pupils.
    db.set(teacher, "status = 'cancelled'").await;
    assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);
    assert_eq!(status(&db, pupil).await, Status::Failed);
}

#[tokio::test]
async fn a_job_is_claimed_rescued_and_cancelled_while_one_is_posted_that_needs_it() {
    let db = TestDb::new().await;
    let teacher = db.add_job(json!({})).await;
    // As the insertion of a job that refers to it locks it.
    let mut insertion = connection(&db.url).await;
    sqlx::raw_sql("begin; select from jobs for key share").execute(&mut insertion).await.unwrap();
    assert_eq!(claimed_token(&db.pool).await.job, teacher);
    db.expire_lease(teacher).await;
    assert_eq!(queue::rescue_expired(&db.pool).await.unwrap(), 1);
    db.change(teacher, Change::Cancel).await;
    sqlx::raw_sql("commit").execute(&mut insertion).await.unwrap();
}

//! What an attempt records.

use distillery::db::LONGEST_MESSAGE;
use distillery::db::jobs::Status;
use distillery::db::queue::{self, ReportBatch};
use distillery::protocol::{ErrorClass, Evaluation, Failure, Level, Progress};
use serde_json::json;

use super::{artifact, claimed_token, failure, history, outcome, points, saved, started};
use crate::support::db::TestDb;

#[tokio::test]
async fn a_write_that_is_repeated_after_a_lost_answer_counts_once() {
    let db = TestDb::new().await;
    let pool = &db.pool;
    let job_a = db.add_job(json!({"max_attempts": 1})).await;
    let token = claimed_token(pool).await;
    let set_down = token.write();
    for _ in 0..2 {
        assert_eq!(queue::stopped(pool, &set_down).await.unwrap(), Some(Status::Queued));
    }
    assert_eq!(db.job(job_a).await["max_attempts"], 2);
    let token = claimed_token(pool).await;
    assert_eq!(queue::stopped(pool, &set_down).await.unwrap(), None, "somebody else's by now");
    let [start, teacher, moment, checkpoint, end] = [(); 5].map(|()| token.write());
    let evaluation = Evaluation { top1: 50.0, top5: 90.0, loss: 1.0, images: 10 };
    let batch = ReportBatch { logs: vec![(Level::Info, "once".into())], ..points([1, 2]) };
    for _ in 0..2 {
        assert!(queue::started(pool, &start, &started(0, 0)).await.unwrap());
    }
    for _ in 0..2 {
        assert!(queue::teacher_evaluated(pool, &teacher, &evaluation).await.unwrap());
    }
    for _ in 0..2 {
        assert!(queue::record(pool, &moment, &batch).await.unwrap());
    }
    for _ in 0..2 {
        assert!(queue::checkpoint_saved(pool, &checkpoint, &saved(&token)).await.unwrap());
    }
    for _ in 0..2 {
        assert!(queue::publish(pool, &end, &outcome(), &[artifact(&token)]).await.unwrap());
    }
    let of_attempt = history(&db, job_a).await.into_iter().filter(|(_, attempt, _)| *attempt == 2);
    let kinds: Vec<_> = of_attempt.map(|(kind, _, _)| kind).collect();
    assert_eq!(kinds, ["status", "log", "teacher", "log", "checkpoint", "status"]);
    let job_b = db.add_job(json!({})).await;
    let end = claimed_token(pool).await.write();
    for _ in 0..2 {
        assert_eq!(queue::fail(pool, &end, &failure(ErrorClass::WorkerLost)).await.unwrap(), Some(Status::Queued));
    }
    // Queued, claimed, failed.
    assert_eq!(history(&db, job_b).await.len(), 3);
}

#[tokio::test]
async fn points_after_the_state_that_was_resumed_are_dropped() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let token = claimed_token(&db.pool).await;
    queue::started(&db.pool, &token.write(), &started(0, 0)).await.unwrap();
    queue::record(&db.pool, &token.write(), &points(1..=35)).await.unwrap();
    queue::stopped(&db.pool, &token.write()).await.unwrap();
    let token = claimed_token(&db.pool).await;
    queue::started(&db.pool, &token.write(), &started(3, 30)).await.unwrap();
    assert_eq!(db.steps(id).await, (1..=30).collect::<Vec<_>>());
    queue::record(&db.pool, &token.write(), &points(31..=50)).await.unwrap();
    assert_eq!(db.steps(id).await, (1..=50).collect::<Vec<_>>());
    let history = history(&db, id).await;
    assert!(history.iter().any(|event| event.1 == 2 && event.2.contains("resumed after epoch 3")), "{history:#?}");
}

#[tokio::test]
async fn a_batch_that_is_written_twice_counts_once() {
    // The connection can break after the database committed and before it said so; then the worker writes again.
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let token = claimed_token(&db.pool).await;
    for _ in 0..2 {
        queue::record(&db.pool, &token.write(), &points(1..=5)).await.unwrap();
    }
    assert_eq!(db.steps(id).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn everything_a_trainer_reports_is_recorded() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let token = claimed_token(&db.pool).await;
    let progress = Progress {
        epoch: 1,
        epochs: 5,
        step: 2,
        steps: 50,
        fraction: 0.04,
        images_per_second: f64::NAN,
        eta_seconds: f64::INFINITY,
    };
    let logs = vec![(Level::Info, "one\0".to_owned()), (Level::Warning, "two".to_owned())];
    let mut batch = ReportBatch { progress: Some(progress), logs, ..points([7]) };
    batch.points[0].value = f64::NAN;
    assert!(queue::record(&db.pool, &token.write(), &batch).await.unwrap());
    let evaluation = Evaluation { top1: 71.5, top5: 90.0, loss: 1.0, images: 10 };
    assert!(queue::teacher_evaluated(&db.pool, &token.write(), &evaluation).await.unwrap());
    assert!(queue::checkpoint_saved(&db.pool, &token.write(), &saved(&token)).await.unwrap());
    let job = db.job(id).await;
    assert_eq!((&job["progress"]["step"], &job["teacher"]["top1"]), (&json!(2), &json!(71.5)));
    let kinds: Vec<_> = history(&db, id).await.into_iter().map(|event| event.0).collect();
    assert_eq!(kinds, ["status", "status", "log", "warning", "teacher", "checkpoint"]);
}

#[tokio::test]
async fn a_long_line_and_a_long_failure_are_cut_and_say_how_much_is_missing() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let token = claimed_token(&db.pool).await;
    let long = "é".repeat(1 << 19);
    let missing = |cut: &str| {
        let (kept, rest) = cut.split_once("… (").unwrap();
        (kept.len(), rest.split_once(" more bytes)").unwrap().0.parse::<usize>().unwrap())
    };
    let logs = vec![(Level::Warning, long.clone()), (Level::Info, "short".to_owned())];
    assert!(queue::record(&db.pool, &token.write(), &ReportBatch { logs, ..ReportBatch::default() }).await.unwrap());
    let messages = db.messages(id).await;
    let [.., cut, short] = messages.as_slice() else { panic!("{messages:?}") };
    let (kept, left_out) = missing(cut);
    assert_eq!((kept + left_out, short.as_str()), (long.len(), "short"));
    assert!(cut.len() <= LONGEST_MESSAGE && kept > LONGEST_MESSAGE - 100, "{}", cut.len());

    let failure = Failure { class: ErrorClass::Storage, message: long.clone() };
    assert_eq!(queue::fail(&db.pool, &token.write(), &failure).await.unwrap(), Some(Status::Queued));
    let job = db.job(id).await;
    let error = job["error"]["message"].as_str().unwrap();
    let (kept, left_out) = missing(error);
    assert_eq!(kept + left_out, long.len());
    let said = db.messages(id).await.pop().unwrap();
    assert!(said.contains(error) && said.contains("attempt 2 follows") && said.len() <= LONGEST_MESSAGE, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_history_has_no_gap_however_many_write() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let token = claimed_token(&db.pool).await;
    let writers = (0..8).map(|writer| {
        let (pool, token) = (db.pool.clone(), token.clone());
        tokio::spawn(async move {
            for line in 0..10 {
                let logs = (0..3).map(|index| (Level::Info, format!("{writer}/{line}/{index}"))).collect();
                queue::record(&pool, &token.write(), &ReportBatch { logs, ..ReportBatch::default() }).await.unwrap();
            }
        })
    });
    futures::future::try_join_all(writers).await.unwrap();
    let history = history(&db, id).await;
    // Queued, claimed, and the lines.
    assert_eq!(history.len(), 2 + 8 * 10 * 3);
    // Lines of one batch stay together and in order.
    for batch in history[2..].chunks(3) {
        let of_batch: Vec<_> = batch.iter().map(|event| event.2.rsplit_once('/').unwrap()).collect();
        assert!(of_batch.iter().all(|line| line.0 == of_batch[0].0), "{batch:?}");
        assert_eq!(of_batch.iter().map(|line| line.1).collect::<Vec<_>>(), ["0", "1", "2"]);
    }
}

#[tokio::test]
async fn an_attempt_whose_last_write_the_database_lost_writes_nothing_more() {
    let db = TestDb::new().await;
    let id = db.add_job(json!({})).await;
    let token = claimed_token(&db.pool).await;
    let first = token.write();
    assert!(queue::record(&db.pool, &first, &points([1])).await.unwrap());
    let kept = db.job(id).await["last_write"].as_str().unwrap().to_owned();
    let second = token.write_after(Some(first.id().to_owned()));
    assert!(queue::record(&db.pool, &second, &points([2])).await.unwrap());
    // As a failover leaves it: the second write is gone, and the claim is not.
    sqlx::query("delete from metrics where step = 2").execute(&db.pool).await.unwrap();
    sqlx::query("update jobs set last_write = $1").bind(&kept).execute(&db.pool).await.unwrap();
    let third = token.write_after(Some(second.id().to_owned()));
    assert!(!queue::record(&db.pool, &third, &points([3])).await.unwrap(), "the charts would have a gap");
    assert_eq!(db.steps(id).await, [1]);
}

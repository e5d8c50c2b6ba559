//! Attempts that fail.

use distillery::artifacts::keys;
use distillery::db::checkpoints::{self, UploadedCheckpoint};
use distillery::db::file_deletions;
use serde_json::json;

use crate::support::process::{read_pid, until_ended};
use crate::support::worker::{Surroundings, files_below};

#[tokio::test]
async fn every_way_to_fail_has_its_class_and_its_reason() {
    let cases = [
        (r#"say '{"type":"failed","class":"numeric","message":"step 7: loss is NaN"}'; exit 1"#, "numeric", "step 7"),
        (r#"say '{"type":"failed","class":"user","message":"no such split"}'; exit 1"#, "user", "no such split"),
        ("started 0 0; echo 'no such kernel' >&2; exit 1", "internal", "no such kernel"),
        ("started 0 0; exit 0", "internal", "exited with status 0"),
        ("kill -SEGV $$", "worker_lost", "signal 11"),
        ("kill -KILL $$", "worker_lost", "signal 9"),
        // Says that it finished, but wrote nothing.
        (r#"finish; rm "$out"/*"#, "storage", "student.safetensors"),
    ];
    let it = Surroundings::new("").await;
    let worker = it.start();
    for (trainer, class, reason) in cases {
        it.set_trainer(trainer);
        let id = it.db.add_job(json!({"max_attempts": 1})).await;
        let job = it.db.until_status(id, "failed").await;
        assert_eq!(job["error"]["class"], class, "{trainer}: {job:#}");
        assert!(job["error"]["message"].as_str().unwrap().contains(reason), "{trainer}: {job:#}");
    }
    worker.drain().await;
    assert_eq!(files_below(&it.settings.work_dir), [""; 0]);
}

#[tokio::test]
async fn a_failed_attempt_is_followed_by_another_when_its_back_off_is_over() {
    let it =
        Surroundings::new(r#"[ -e "$here/again" ] && finish && exit; touch "$here/again"; started 0 0; exit 1"#).await;
    let worker = it.start();
    let id = it.db.add_job(json!({})).await;
    let job = it.db.until_status(id, "succeeded").await;
    assert_eq!(job["attempt"], 2);
    worker.drain().await;
}

#[tokio::test]
async fn what_a_trainer_leaves_running_does_not_hold_up_its_worker() {
    // The child has the trainer's pipes.
    let it = Surroundings::new(r#"started 0 0; sleep 600 & echo $! > "$here/child"; echo gone >&2; exit 1"#).await;
    let worker = it.start();
    let id = it.db.add_job(json!({"max_attempts": 1})).await;
    let job = it.db.until_status(id, "failed").await;
    assert!(job["error"]["message"].as_str().unwrap().contains("gone"), "{job:#}");
    until_ended(read_pid(&it.file("child"))).await;
    worker.drain().await;
}

/// An uploaded checkpoint of which only the row exists.
async fn add_checkpoint(it: &Surroundings, sha256: &str) -> String {
    let new = UploadedCheckpoint {
        id: checkpoints::id_of(sha256),
        sha256: sha256.to_owned(),
        name: None,
        size_bytes: 1,
        format: "safetensors".into(),
        tensors: 1,
        parameters: 1,
        architecture: None,
        num_classes: None,
        fits: sqlx::types::Json(Vec::new()),
        guess: None,
        network: None,
        notes: Vec::new(),
        created_at: chrono::Utc::now(),
    };
    let key = keys::checkpoint(sha256, "upload");
    file_deletions::announce(&it.db.pool, &key).await.unwrap();
    checkpoints::insert(&it.db.pool, &new, &key, None).await.unwrap().expect("just announced").checkpoint.id
}

#[tokio::test]
async fn a_missing_input_fails_the_job_as_a_user_error() {
    let it = Surroundings::new("finish").await;
    let (teacher, student) = (add_checkpoint(&it, &"aa".repeat(32)).await, add_checkpoint(&it, &"bb".repeat(32)).await);
    let learns = json!({"architecture": "resnet56", "checkpoint": teacher});
    let jobs = [
        (it.db.add_job(json!({"teacher": learns, "distillation": {"method": "kd"}})).await, teacher.as_str()),
        (it.db.add_job(json!({"student": {"architecture": "resnet20", "checkpoint": student}})).await, &student),
    ];
    sqlx::raw_sql("delete from job_checkpoints; delete from checkpoints").execute(&it.db.pool).await.unwrap();
    let worker = it.start();
    for (id, named) in jobs {
        let job = it.db.until_status(id, "failed").await;
        assert_eq!(job["error"]["class"], "user");
        assert!(job["error"]["message"].as_str().unwrap().contains(named), "{job:#}");
    }
    worker.drain().await;
}
